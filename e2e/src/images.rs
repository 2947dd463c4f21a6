//! Images made from files: what the samples name, without a registry.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::tools::Tools;

/// One layer in the making.
struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Layer(tar::Builder::new(Vec::new()))
    }
    fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_mtime(0);
        header
    }
    fn folder(&mut self, path: &str, mode: u32) -> anyhow::Result<()> {
        let mut header = Self::header(tar::EntryType::Directory, mode, 0);
        Ok(self.0.append_data(&mut header, path, std::io::empty())?)
    }
    fn file(&mut self, path: &str, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
        let mut header = Self::header(tar::EntryType::Regular, mode, bytes.len());
        Ok(self.0.append_data(&mut header, path, bytes)?)
    }
    fn link(&mut self, path: &str, target: &str) -> anyhow::Result<()> {
        let mut header = Self::header(tar::EntryType::Symlink, 0o777, 0);
        Ok(self.0.append_link(&mut header, path, target)?)
    }
    fn program(&mut self, path: &str, from: &Path) -> anyhow::Result<()> {
        let bytes = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(path, &bytes, 0o755)
    }
}

/// Writes an OCI archive with one image of one layer.
fn write(archive: &Path, name: &str, layer: Layer, entrypoint: &[&str], cmd: &[&str]) -> anyhow::Result<()> {
    let layer = layer.0.into_inner()?;
    let config = serde_json::to_vec(&json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Entrypoint": entrypoint, "Cmd": cmd, "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    }))?;
    let describe = |kind: &str, bytes: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest(bytes), "size": bytes.len()});
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("config.v1+json", &config),
        "layers": [describe("layer.v1.tar", &layer)],
    }))?;
    let mut entry = describe("manifest.v1+json", &manifest);
    entry["annotations"] = json!({"io.containerd.image.name": name});
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]}))?;
    let mut out = Layer(tar::Builder::new(Vec::new()));
    out.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    out.file("index.json", &index, 0o644)?;
    for blob in [&config, &manifest, &layer] {
        out.file(
            &format!("blobs/sha256/{}", &digest(blob)["sha256:".len()..]),
            blob,
            0o644,
        )?;
    }
    std::fs::File::create(archive)?.write_all(&out.0.into_inner()?)?;
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hash}")
}

/// `busybox:1.36`: a static busybox and its applets.
pub fn busybox(tools: &Tools, archive: &Path) -> anyhow::Result<()> {
    busybox_as(tools, archive, "docker.io/library/busybox:1.36", "sh")
}

/// The same programs under another name; with another command it is another image.
pub fn busybox_as(tools: &Tools, archive: &Path, name: &str, command: &str) -> anyhow::Result<()> {
    let program = tools.packaged("bin/busybox");
    let mut layer = Layer::new();
    for (folder, mode) in [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700)] {
        layer.folder(folder, mode)?;
    }
    layer.program("bin/busybox", &program)?;
    for applet in crate::run(Command::new(&program).arg("--list"))?
        .lines()
        .filter(|name| *name != "busybox")
    {
        layer.link(&format!("bin/{applet}"), "busybox")?;
    }
    layer.file(
        "etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        0o644,
    )?;
    layer.file("etc/group", b"root:x:0:\nnobody:x:65534:\n", 0o644)?;
    write(archive, name, layer, &[], &[command])
}

/// `redis:7`: the distribution's server with the libraries that it is linked to, and a shell.
pub fn redis(tools: &Tools, archive: &Path) -> anyhow::Result<()> {
    let server = tools.packaged("usr/bin/redis-server");
    let mut layer = Layer::new();
    for (folder, mode) in [("bin", 0o755), ("data", 0o777), ("tmp", 0o1777), ("usr/bin", 0o755)] {
        layer.folder(folder, mode)?;
    }
    layer.program("bin/sh", &tools.packaged("bin/busybox"))?;
    for (program, from) in [
        ("usr/bin/redis-server", &server),
        ("usr/bin/redis-cli", &tools.packaged("usr/bin/redis-cli")),
    ] {
        layer.program(program, from)?;
    }
    for library in libraries(tools, &[server, tools.packaged("usr/bin/redis-cli")])? {
        let path = library.to_str().context("libraries have plain names")?;
        let inside = path
            .strip_prefix(tools.packaged("").to_str().unwrap_or_default())
            .unwrap_or(path);
        layer.program(inside.trim_start_matches('/'), &library)?;
    }
    write(archive, "docker.io/library/redis:7", layer, &[], &["redis-server"])
}

/// What the loader would load, by its own word.
fn libraries(tools: &Tools, programs: &[PathBuf]) -> anyhow::Result<BTreeSet<PathBuf>> {
    let folder = format!("{}-linux-gnu", std::env::consts::ARCH);
    let path = [
        tools.packaged("usr/lib").join(&folder),
        tools.packaged("lib").join(&folder),
    ];
    let path: Vec<String> = path.iter().map(|folder| folder.display().to_string()).collect();
    let mut found = BTreeSet::new();
    for program in programs {
        let mut ldd = Command::new("ldd");
        // The host's loader goes with the host's libc: the packages' libc is for machines that have another one.
        ldd.arg(program).env("LD_LIBRARY_PATH", path.join(":"));
        for line in crate::run(&mut ldd)?.lines() {
            let file = line.split_whitespace().find(|word| word.starts_with('/'));
            found.extend(file.map(PathBuf::from));
        }
    }
    Ok(found)
}
