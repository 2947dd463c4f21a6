use super::{MAX_SCORE, Rating, Score};
use crate::cluster::Cluster;
use crate::pod::Pod;

/// Images below this size are pulled in no time; above the other one, more size makes no difference (bytes, upstream's).
const MIN: i64 = 23 << 20;
const MAX: i64 = 1000 << 20;

/// A node that has the pod's images starts it sooner.
#[derive(Debug)]
pub(super) struct ImageLocality;

impl Score for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }
    fn prepare<'a>(&self, pod: &'a Pod, cluster: &'a Cluster) -> Option<Rating<'a>> {
        let nodes = i64::try_from(cluster.known()).ok()?;
        // An image that many nodes have counts for more, so that pods do not crowd onto the one that has it.
        let spread: Vec<(&String, i64)> = pod
            .images
            .iter()
            .map(|image| {
                (
                    image,
                    cluster.nodes().filter(|node| node.images.contains_key(image)).count(),
                )
            })
            .filter_map(|(image, having)| Some((image, i64::try_from(having).ok().filter(|having| *having > 0)?)))
            .collect();
        if spread.is_empty() || nodes == 0 {
            return None;
        }
        let most = MAX * i64::try_from(pod.images.len()).ok()?;
        Some(Box::new(move |node| {
            let sizes = spread
                .iter()
                .filter_map(|(image, having)| Some(node.images.get(*image)? * having / nodes));
            let sum = sizes.sum::<i64>().clamp(MIN, most);
            MAX_SCORE * (sum - MIN) / (most - MIN)
        }))
    }
}
