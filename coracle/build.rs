//! Builds the pause program for the target with the compiler that builds the workspace, so that a cluster needs no
//! pause image from a registry. The result is embedded by `src/image/pause.rs`.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    fold_identical_code();
    pause();
}

/// Every part decodes the kinds that it uses, and makes the same code for them: one copy is enough. The toolchain's own
/// linker for this target can tell; others may not know the option.
fn fold_identical_code() {
    let target = std::env::var_os("TARGET").expect("cargo sets TARGET");
    if target == "x86_64-unknown-linux-gnu" {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}

fn pause() {
    println!("cargo:rerun-if-changed=pause/pause.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("pause");
    let rustc = std::env::var_os("RUSTC").expect("cargo sets RUSTC");
    let target = std::env::var_os("TARGET").expect("cargo sets TARGET");
    let status = Command::new(rustc)
        .args([
            "--edition=2024",
            "--crate-type=bin",
            "-Cpanic=abort",
            "-Copt-level=s",
            "-Cstrip=symbols",
        ])
        .args([
            "-Crelocation-model=static",
            "-Clink-arg=-nostartfiles",
            "-Clink-arg=-nostdlib",
            "-Clink-arg=-static",
        ])
        .args(["-Clink-arg=-Wl,--build-id=none", "-Clink-arg=-Wl,-n"])
        .arg("--target")
        .arg(target)
        .arg("-o")
        .arg(&out)
        .arg("pause/pause.rs")
        .status()
        .expect("rustc runs");
    assert!(status.success(), "pause/pause.rs did not build");
}
