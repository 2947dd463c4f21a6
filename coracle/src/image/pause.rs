//! The image of the process that holds a pod's namespaces, made here so that no registry is asked for it.

use std::path::Path;

use super::Loaded;

/// The name under which the runtime knows it; `.invalid` can never be pulled from anywhere.
pub(crate) const NAME: &str = "coracle.invalid/pause:1";

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// Makes sure that the runtime has the image.
pub(crate) async fn load(socket: &Path) -> anyhow::Result<Vec<Loaded>> {
    let file = tempfile::NamedTempFile::new()?;
    write(file.reopen()?)?;
    super::load(socket, file.path()).await
}

/// The image as a `docker save` archive: one layer with one file.
fn write(file: std::fs::File) -> anyhow::Result<()> {
    let mut layer = tar::Builder::new(Vec::new());
    append(&mut layer, "pause", PROGRAM, 0o755)?;
    let layer = layer.into_inner()?;
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let config = serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Entrypoint": ["/pause"], "User": "65535:65535" },
        "rootfs": { "type": "layers", "diff_ids": [super::archive::describe_bytes(&layer, "").digest] },
    });
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"] }]);
    let mut archive = tar::Builder::new(file);
    append(&mut archive, "config.json", &serde_json::to_vec(&config)?, 0o644)?;
    append(&mut archive, "layer.tar", &layer, 0o644)?;
    append(&mut archive, "manifest.json", &serde_json::to_vec(&manifest)?, 0o644)?;
    archive.finish()?;
    Ok(())
}

fn append<W: std::io::Write>(tar: &mut tar::Builder<W>, path: &str, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    tar.append_data(&mut header, path, bytes)?;
    Ok(())
}
