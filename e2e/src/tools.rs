//! The real programs that labs run: fetched into a cache once by `tools.sh`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

/// Folders of programs.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The cache: `bin` holds kubectl and Helm, `root` unpacked packages.
    pub folder: PathBuf,
    /// The program under test.
    pub coracle: PathBuf,
}

impl Tools {
    /// Fetches what is missing. The program under test is named by `CORACLE_BINARY` (the Makefile builds it).
    #[allow(clippy::disallowed_methods, reason = "the one reader of this crate's environment")]
    pub fn get() -> anyhow::Result<Self> {
        let coracle = std::env::var_os("CORACLE_BINARY").context("CORACLE_BINARY does not name the program to test")?;
        let coracle = PathBuf::from(coracle)
            .canonicalize()
            .context("CORACLE_BINARY names no file")?;
        Ok(Tools {
            folder: Self::fetch()?,
            coracle,
        })
    }

    /// The cache, filled.
    pub fn fetch() -> anyhow::Result<PathBuf> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools.sh");
        let folder = crate::run(Command::new(script).stderr(std::process::Stdio::inherit()))?;
        Ok(folder.trim().into())
    }

    /// A file of an unpacked package.
    pub fn packaged(&self, path: &str) -> PathBuf {
        self.folder.join("root").join(path)
    }

    /// `PATH` in a lab.
    pub fn path(&self) -> String {
        let folders = [
            self.folder.join("bin"),
            self.packaged("usr/bin"),
            self.packaged("usr/sbin"),
        ];
        let ours: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", ours.join(":"))
    }
}
