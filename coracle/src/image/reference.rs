//! Image names as containerd keeps them: `busybox` is `docker.io/library/busybox:latest`.

/// The full form of an image name. Follows the rules of the distribution project's references: a first component
/// without a dot, a colon or the word `localhost` is no registry.
pub(crate) fn normalize(name: &str) -> String {
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
        Some(_) => ("docker.io", name.to_owned()),
        None => ("docker.io", format!("library/{name}")),
    };
    let last = path.rsplit('/').next().unwrap_or(&path);
    let tag = if last.contains([':', '@']) { "" } else { ":latest" };
    format!("{registry}/{path}{tag}")
}

#[cfg(test)]
mod tests {
    use super::normalize;

    #[test]
    fn short_names_grow_their_registry_and_tag() {
        for (name, want) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("team/app:2", "docker.io/team/app:2"),
            ("localhost/app", "localhost/app:latest"),
            ("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest"),
            ("registry.example/a/b@sha256:00", "registry.example/a/b@sha256:00"),
        ] {
            assert_eq!(normalize(name), want);
        }
    }
}
