//! Images that the runtime has: what `image list` shows and what `image prune` removes.

use std::collections::BTreeSet;
use std::path::Path;

use kubelet::runtime::cri::Cri;
use kubelet::runtime::{Container, Image, Runtime};

use super::pause;

fn runtime(socket: &Path) -> Cri {
    Cri::new(&format!("unix://{}", socket.display()), None)
}

/// One line for each name, sorted: name, identifier, size.
pub(crate) async fn list(socket: &Path) -> anyhow::Result<Vec<String>> {
    Ok(lines(&runtime(socket).images().await?))
}

/// Removes what no container uses, running or ended. Returns the names, and the bytes that they took.
pub(crate) async fn prune(socket: &Path) -> anyhow::Result<(Vec<String>, u64)> {
    let runtime = runtime(socket);
    // Images first: one that comes with a container between the two calls is not in the list.
    let images = runtime.images().await?;
    let containers = runtime.containers(None).await?;
    let mut names = Vec::new();
    let mut bytes = 0;
    for image in unused(&images, &containers) {
        runtime.remove_image(&image.id).await?;
        names.push(name(image).to_owned());
        bytes += image.size;
    }
    Ok((names, bytes))
}

fn unused<'a>(images: &'a [Image], containers: &[Container]) -> Vec<&'a Image> {
    let used: BTreeSet<&str> = containers
        .iter()
        .flat_map(|container| {
            let named = container.image.as_ref().map(|image| image.image.as_str());
            [container.image_ref.as_str(), container.image_id.as_str()]
                .into_iter()
                .chain(named)
        })
        .collect();
    images
        .iter()
        .filter(|image| !image.pinned && !image.repo_tags.iter().any(|tag| tag == pause::NAME))
        .filter(|image| {
            let mut names = image.repo_tags.iter().chain(&image.repo_digests).chain([&image.id]);
            !names.any(|name| used.contains(name.as_str()))
        })
        .collect()
}

fn lines(images: &[Image]) -> Vec<String> {
    let rows: BTreeSet<(&str, &str, u64)> = images
        .iter()
        .flat_map(|image| {
            let tags = image.repo_tags.iter().map(String::as_str);
            let untagged = image.repo_tags.is_empty().then(|| name(image));
            tags.chain(untagged).map(|tag| (tag, image.id.as_str(), image.size))
        })
        .collect();
    let width = rows.iter().map(|(tag, ..)| tag.len()).max().unwrap_or_default();
    rows.iter()
        .map(|(tag, id, size)| {
            let id = id.strip_prefix("sha256:").unwrap_or(id);
            let short = id.get(..12).unwrap_or(id);
            format!("{tag:<width$}  {short}  {:>8.1} MB", *size as f64 / 1e6)
        })
        .collect()
}

fn name(image: &Image) -> &str {
    let names = image.repo_tags.first().or(image.repo_digests.first());
    names.unwrap_or(&image.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, tags: &[&str]) -> Image {
        Image {
            id: id.to_owned(),
            repo_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            size: 4_100_000,
            ..Image::default()
        }
    }

    #[test]
    fn images_of_containers_the_pause_image_and_pinned_ones_stay() {
        let mut pinned = image("sha256:4", &["d:1"]);
        pinned.pinned = true;
        let images = [
            image("sha256:1", &["a:1", "a:2"]),
            image("sha256:2", &["b:1"]),
            image("sha256:3", &[pause::NAME]),
            pinned,
            image("sha256:5", &[]),
        ];
        let container = Container {
            image_ref: "sha256:1".into(),
            ..Container::default()
        };
        let ids: Vec<&str> = unused(&images, &[container]).iter().map(|i| i.id.as_str()).collect();
        assert_eq!(ids, ["sha256:2", "sha256:5"]);
    }

    #[test]
    fn every_name_has_a_line() {
        let images = [
            image("sha256:0123456789abcdef", &["bb:2", "a:1"]),
            image("sha256:5", &[]),
        ];
        assert_eq!(
            lines(&images),
            [
                "a:1       0123456789ab       4.1 MB",
                "bb:2      0123456789ab       4.1 MB",
                "sha256:5  5       4.1 MB",
            ]
        );
    }
}
