use super::{MAX_SCORE, Plugin, Rating, Reach};
use crate::cluster::Cluster;
use crate::pod::Pod;

/// Images below this size are pulled in no time; above the other one, more size makes no difference (bytes, upstream's).
const MIN: i64 = 23 << 20;
const MAX: i64 = 1000 << 20;

/// A node that has the pod's images starts it sooner.
#[derive(Debug)]
pub struct ImageLocality;

/// As nodes spell it: an image without a tag is `latest`.
fn full_name(image: &str) -> String {
    let path = image.rfind('/').map_or(0, |at| at + 1);
    if image[path..].contains([':', '@']) {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }
    // It also depends on which nodes have the image; what is kept is dropped when that changes (`Cluster::structure`).
    fn reach(&self) -> Reach {
        Reach::Node
    }
    fn score<'a>(&'a self, pod: &'a Pod, cluster: &'a Cluster, _: &[usize]) -> Option<Rating<'a>> {
        let nodes = cluster.known();
        // An image that many nodes have counts for more, so that pods do not crowd onto the one that has it.
        let spread: Vec<(String, f64)> = pod
            .shape
            .images
            .iter()
            .map(|image| full_name(image))
            .filter_map(|image| {
                let having = cluster.having(&image);
                (having > 0).then(|| (image, having as f64 / nodes as f64))
            })
            .collect();
        let most = MAX * i64::try_from(pod.shape.images.len()).ok()?;
        if spread.is_empty() || most == 0 {
            return None;
        }
        Some(Box::new(move |_, node| {
            let sizes = spread
                .iter()
                .filter_map(|(image, share)| Some((*node.facts.images.get(image)? as f64 * share) as i64));
            let sum = sizes.sum::<i64>().clamp(MIN, most);
            Some(MAX_SCORE * (sum - MIN) / (most - MIN))
        }))
    }
}
