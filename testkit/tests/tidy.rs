//! Rules about the trees of all crates that a compiler does not check. A failure says what to do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::path::{Path, PathBuf};

/// Every crate of the workspace, and the crates that it may use outside tests.
const CRATES: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("daemon", &["api"]),
    ("apiserver", &["api", "daemon"]),
    ("scheduler", &["api", "daemon"]),
    ("controllers", &["api", "daemon"]),
    ("kubelet", &["api", "daemon"]),
    ("proxy", &["api", "daemon"]),
    ("dns", &["api", "daemon"]),
    ("provisioner", &["api", "daemon"]),
    (
        "coracle",
        &[
            "api",
            "daemon",
            "apiserver",
            "scheduler",
            "controllers",
            "kubelet",
            "proxy",
            "dns",
            "provisioner",
        ],
    ),
    ("testkit", &["api", "daemon", "apiserver"]),
    ("e2e", &["api", "daemon"]),
    ("bench", &["api", "daemon", "e2e"]),
];
/// The API server, from the wire inwards: a room may use only the rooms that stand to its right.
const ROOMS: &[&str] = &[
    "main",
    "assemble",
    "config",
    "server",
    "bootstrap",
    "http",
    "authn",
    "admission",
    "authz",
    "registry",
    "strategy",
    "schema",
    "cache",
    "store",
    "object",
    "identity",
    "status",
];
/// Files over this need a reason in their first lines: `Long because …`.
const LONG: usize = 800;

fn source(name: &str) -> PathBuf {
    workspace().join(name).join("src")
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// All files of all crates.
fn all_files() -> impl Iterator<Item = PathBuf> {
    CRATES.iter().flat_map(|(name, _)| rust_files(&source(name)))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn room_of(file: &Path) -> Option<usize> {
    let first = file.strip_prefix(source("apiserver")).unwrap().components().next()?;
    let name = Path::new(first.as_os_str()).file_stem()?.to_str()?.to_owned();
    ROOMS.iter().position(|room| *room == name)
}

#[test]
fn rooms_look_one_way() {
    let mut backward = Vec::new();
    for file in rust_files(&source("apiserver")) {
        let Some(here) = room_of(&file) else { continue };
        let text = fs::read_to_string(&file).unwrap();
        // Tests at the end of a file may look anywhere.
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for (number, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap();
            let grouped: Vec<&str> = match line.split_once("crate::{") {
                Some((_, list)) => list.split([',', ':', '}', ' ']).collect(),
                None => Vec::new(),
            };
            for room in &ROOMS[..here] {
                let named = line.contains(&format!("crate::{room}::")) || line.contains(&format!("crate::{room};"));
                if named || grouped.contains(room) {
                    backward.push(format!(
                        "{}:{}: {} may not use {room}",
                        file.display(),
                        number + 1,
                        ROOMS[here]
                    ));
                }
            }
        }
    }
    assert!(backward.is_empty(), "{}", backward.join("\n"));
}

#[test]
fn every_file_is_compiled() {
    let mut orphans = Vec::new();
    for file in all_files() {
        let stem = file.file_stem().unwrap().to_str().unwrap();
        let folder = file.parent().unwrap();
        if matches!(stem, "lib" | "main") && folder.ends_with("src") {
            continue;
        }
        // `mod x;` stands in the parent: the folder's mod.rs, or the file that is named like the folder.
        let (name, owner_folder) = if stem == "mod" {
            (folder.file_name().unwrap().to_str().unwrap(), folder.parent().unwrap())
        } else {
            (stem, folder)
        };
        let owners = [
            owner_folder.join("mod.rs"),
            owner_folder.join("lib.rs"),
            owner_folder.join("main.rs"),
            owner_folder.with_extension("rs"),
        ];
        let named = owners
            .iter()
            .filter_map(|owner| fs::read_to_string(owner).ok())
            .any(|text| {
                text.lines()
                    .any(|line| line.trim_end().ends_with(&format!("mod {name};")))
            });
        // Or the file that it tests names it by its path.
        let path = format!("#[path = \"{stem}.rs\"]");
        let named = named
            || rust_files(folder)
                .iter()
                .any(|sibling| fs::read_to_string(sibling).unwrap().contains(&path));
        if !named {
            orphans.push(file.display().to_string());
        }
    }
    assert!(orphans.is_empty(), "no `mod` line names: {orphans:?}");
}

#[test]
fn long_files_say_why() {
    let silent: Vec<String> = all_files()
        // Tests are lists of cases: nobody reads them from end to end.
        .filter(|file| !file.to_str().unwrap().ends_with("tests.rs"))
        .filter_map(|file| {
            let text = fs::read_to_string(&file).unwrap();
            let lines = text.lines().count();
            let says = text.lines().take(12).any(|line| line.contains("Long because"));
            (lines > LONG && !says).then(|| format!("{} ({lines} lines)", file.display()))
        })
        .collect();
    assert!(
        silent.is_empty(),
        "say `Long because …` in the first lines, or cut: {silent:?}"
    );
}

#[test]
fn every_room_says_what_it_holds() {
    for file in all_files().filter(|file| file.ends_with("mod.rs")) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(
            text.starts_with("//!"),
            "{} does not open with what comes in and out",
            file.display()
        );
    }
}

#[test]
fn parts_meet_through_the_api_only() {
    let mut folders: Vec<String> = Vec::new();
    for (name, allowed) in CRATES {
        folders.push((*name).to_owned());
        let manifest = fs::read_to_string(workspace().join(name).join("Cargo.toml")).unwrap();
        let dependencies = manifest
            .lines()
            .skip_while(|line| *line != "[dependencies]")
            .skip(1)
            .take_while(|line| !line.starts_with('['));
        for line in dependencies {
            let word = line.split(['.', ' ', '=']).next().unwrap();
            let known = CRATES.iter().any(|(other, _)| *other == word);
            assert!(!known || allowed.contains(&word), "{name} may not depend on {word}");
        }
    }
    let mut present: Vec<String> = fs::read_dir(workspace())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("Cargo.toml").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    folders.sort();
    present.sort();
    assert_eq!(folders, present, "CRATES lists every crate");
}
