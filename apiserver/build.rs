//! Packs `src/schema/facts.txt` into fixed-width records that the program embeds as read-only data: no parsing at
//! start, no heap, no relocations, and pages that nobody reads are never loaded. `schema/table.rs` reads the records.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write as _;
use std::path::Path;

// The reader's constants; a test in table.rs reads every record, so a difference does not stay hidden.
const POINTER: u16 = 1;
const OMIT: u16 = 2;
const OMIT_ZERO: u16 = 4;
const REQUIRED: u16 = 8;
const ALWAYS: u16 = 16;
const ATOMIC_MAP: u16 = 32;
const INLINE: u16 = 64;
const GRANULAR: u16 = 128;

const SHAPES: &[&str] = &[
    "string",
    "bytes",
    "bool",
    "int32",
    "int64",
    "double",
    "quantity",
    "intstr",
    "time",
    "microtime",
    "duration",
    "raw",
    "json",
    "any",
    "fields",
    "schema-or-array",
    "schema-or-bool",
    "schema-or-strings",
    "items",
    "@",
    "[]",
    "{}",
];

#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    seen: HashMap<String, u32>,
}

impl Strings {
    fn put(&mut self, text: &str) -> u32 {
        if let Some(at) = self.seen.get(text) {
            return *at;
        }
        let at = self.bytes.len() as u32;
        let length = u16::try_from(text.len()).expect("a string of the table is shorter than 64 KiB");
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend(text.as_bytes());
        self.seen.insert(text.to_owned(), at);
        at
    }
}

struct Line<'a> {
    name: &'a str,
    number: u16,
    ty: &'a str,
    words: Vec<&'a str>,
}

impl<'a> Line<'a> {
    fn has(&self, word: &str) -> bool {
        self.words.contains(&word)
    }
    fn value(&self, key: &str) -> Option<&'a str> {
        self.words.iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
    }
}

#[derive(Default)]
struct Type<'a> {
    id: &'a str,
    gvk: Option<&'a str>,
    atomic: bool,
    fields: Vec<Line<'a>>,
}

struct Packer<'a> {
    strings: Strings,
    index: HashMap<&'a str, u16>,
    enums: HashMap<&'a str, &'a str>,
    shapes: HashMap<String, u16>,
    packed_shapes: Vec<u8>,
}

impl<'a> Packer<'a> {
    fn shape(&mut self, text: &str) -> u16 {
        let text = text.trim_start_matches('*');
        if let Some(found) = self.shapes.get(text) {
            return *found;
        }
        let (word, argument, name) = if let Some(inner) = text.strip_prefix("[]") {
            ("[]", self.shape(inner), 0)
        } else if let Some(inner) = text.strip_prefix("{}") {
            ("{}", self.shape(inner), 0)
        } else if let Some(id) = text.strip_prefix('@') {
            ("@", *self.index.get(id).unwrap_or_else(|| panic!("no type {id}")), 0)
        } else if let Some((word, name)) = text.split_once(':') {
            (word, 0, self.strings.put(name))
        } else {
            (text, 0, 0)
        };
        let tag = SHAPES
            .iter()
            .position(|s| *s == word)
            .unwrap_or_else(|| panic!("no shape {word}")) as u8;
        let values = text.split_once(':').and_then(|(_, name)| self.enums.get(name).copied());
        let values = values.map_or(0, |v| self.strings.put(v));
        let id = self.shapes.len() as u16;
        self.shapes.insert(text.to_owned(), id);
        self.packed_shapes.extend([tag, 0]);
        self.packed_shapes.extend(argument.to_le_bytes());
        self.packed_shapes.extend(name.to_le_bytes());
        self.packed_shapes.extend(values.to_le_bytes());
        id
    }

    fn field(&mut self, line: &Line<'_>, types: &[Type<'_>], out: &mut Vec<u8>) {
        let pointer = line.ty.starts_with('*');
        let mut flags = 0;
        let mut set = |flag: u16, on: bool| flags |= if on { flag } else { 0 };
        set(POINTER, pointer);
        set(OMIT, line.has("omit"));
        set(OMIT_ZERO, line.has("omitzero"));
        set(REQUIRED, line.has("req"));
        set(INLINE, line.name == "~");
        // Go drops an empty field for `omitempty`, but no struct is ever empty to it.
        let bare = line.ty.split(':').next().unwrap_or_default();
        let structure = bare.starts_with('@')
            || matches!(
                bare,
                "quantity" | "intstr" | "time" | "microtime" | "duration" | "raw" | "json"
            );
        set(
            ALWAYS,
            !line.has("omitzero") && (!line.has("omit") || (structure && !pointer)),
        );
        let target = bare.strip_prefix('@').and_then(|id| types.iter().find(|t| t.id == id));
        // What the field says of itself stands above what its type says.
        let map = line.value("map");
        set(
            ATOMIC_MAP,
            map == Some("atomic") || map.is_none() && target.is_some_and(|t| t.atomic),
        );
        set(GRANULAR, map == Some("granular"));
        let list: u8 = match line.value("list") {
            None => 0,
            Some("atomic") => 1,
            Some("set") => 2,
            Some("map") => 3,
            Some(other) => panic!("list type {other}"),
        };
        let patch: u8 = match line.value("patch") {
            None => 0,
            Some("merge") => 1,
            Some("retainKeys") => 2,
            Some("merge,retainKeys") => 3,
            Some("replace") => 4,
            Some(other) => panic!("patch strategy {other}"),
        };
        let shape = self.shape(line.ty);
        let mut text = |value: Option<&str>| value.map_or(0, |v| self.strings.put(v));
        let (name, keys, merge_key, default) = (
            text(Some(line.name)),
            text(line.value("keys")),
            text(line.value("mkey")),
            text(line.value("default")),
        );
        out.extend(name.to_le_bytes());
        out.extend(shape.to_le_bytes());
        out.extend(line.number.to_le_bytes());
        out.extend(flags.to_le_bytes());
        out.extend([list, patch]);
        out.extend(keys.to_le_bytes());
        out.extend(merge_key.to_le_bytes());
        out.extend(default.to_le_bytes());
    }
}

/// The JSON fields of a type: its own and those of the structs it inlines, outer ones first.
fn flatten<'t>(ty: &'t Type<'t>, types: &'t [Type<'t>], found: &mut BTreeMap<&'t str, &'t Line<'t>>) {
    for line in &ty.fields {
        if line.name != "~" {
            found.entry(line.name).or_insert(line);
        }
    }
    for line in &ty.fields {
        if line.name == "~" {
            let id = line.ty.trim_start_matches(['*', '@']);
            let inner = types
                .iter()
                .find(|t| t.id == id)
                .unwrap_or_else(|| panic!("no type {id}"));
            flatten(inner, types, found);
        }
    }
}

/// Sentences about types and fields, in the order of the table. They are not part of this project: they are read from
/// the documentation comments of the k8s-openapi crate, which the workspace depends on anyway.
mod descriptions {
    use std::collections::HashMap;
    use std::path::{Path, PathBuf};

    /// By type (`core/v1.Pod`) and by type and field (`core/v1.Pod metadata`).
    pub(super) type Texts = HashMap<String, String>;

    pub(super) fn read() -> Texts {
        let mut texts = Texts::new();
        let root = source().join("src/v1_36");
        for (folder, prefix) in [
            ("api", ""),
            ("apimachinery/pkg/apis", ""),
            ("apiextensions_apiserver/pkg/apis", ""),
            ("kube_aggregator/pkg/apis", ""),
        ] {
            walk(&root.join(folder), prefix, &mut texts);
        }
        assert!(
            texts.len() > 2500,
            "only {} descriptions found in {}",
            texts.len(),
            root.display()
        );
        texts
    }

    /// Where cargo unpacked the crate: it is a dependency of this one, so it is there before this runs.
    fn source() -> PathBuf {
        let root = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
        let lock = Path::new(&root).join("../Cargo.lock");
        let lock = std::fs::read_to_string(lock).expect("the workspace's Cargo.lock");
        let version = lock
            .split("name = \"k8s-openapi\"\nversion = \"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .expect("k8s-openapi is in Cargo.lock");
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| {
            let home = std::env::var_os("HOME")?;
            Some(Path::new(&home).join(".cargo"))
        });
        let registries = home.expect("CARGO_HOME or HOME is set").join("registry/src");
        let folders = std::fs::read_dir(&registries).into_iter().flatten().flatten();
        let mut candidates: Vec<PathBuf> = folders
            .map(|folder| folder.path().join(format!("k8s-openapi-{version}")))
            .collect();
        // What `cargo vendor` makes.
        candidates.push(Path::new(&root).join("../vendor/k8s-openapi"));
        candidates
            .into_iter()
            .find(|path| path.join("src/v1_36").is_dir())
            .unwrap_or_else(|| {
                panic!(
                    "the source of k8s-openapi {version} is neither in {} nor in vendor/",
                    registries.display()
                )
            })
    }

    fn walk(folder: &Path, package: &str, texts: &mut Texts) {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries {
            let path = entry.expect("read a folder").path();
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                let package = if package.is_empty() {
                    name
                } else {
                    format!("{package}/{name}")
                };
                walk(&path, &package, texts);
            } else if path.extension().is_some_and(|e| e == "rs") {
                file(
                    &std::fs::read_to_string(&path).expect("read a source file"),
                    package,
                    texts,
                );
            }
        }
    }

    fn file(source: &str, package: &str, texts: &mut Texts) {
        let mut names: HashMap<&str, &str> = HashMap::new();
        for line in source.lines() {
            if let Some((json, rust)) = line.trim().split_once(" => Field::Key_") {
                names.insert(rust.trim_end_matches(','), json.trim_matches('"'));
            }
        }
        let mut comment: Vec<&str> = Vec::new();
        let mut current = None;
        for line in source.lines() {
            let line = line.trim();
            if let Some(text) = line.strip_prefix("///") {
                comment.push(text.strip_prefix(' ').unwrap_or(text));
                continue;
            }
            if line.starts_with("#[") {
                continue;
            }
            if let Some(rest) = line.strip_prefix("pub struct ") {
                let name = rest.split([' ', '(', ';', '<']).next().unwrap_or_default();
                texts.insert(format!("{package}.{name}"), plain(&comment));
                current = line.ends_with('{').then_some(name);
            } else if line == "}" {
                current = None;
            } else if let (Some(name), Some((field, _))) = (current, line.split_once(": "))
                && let Some(rust) = field.strip_prefix("pub ")
                && let Some(json) = names
                    .get(rust.trim_start_matches("r#").trim_end_matches('_'))
                    .or(names.get(rust))
            {
                texts.insert(format!("{package}.{name} {json}"), plain(&comment));
            }
            comment.clear();
        }
    }

    /// The sentence without the escapes that documentation comments need.
    fn plain(comment: &[&str]) -> String {
        let mut text = comment.join("\n");
        for mark in ['<', '>', '[', ']', '*', '_', '`', '#', '|'] {
            text = text.replace(&format!("\\{mark}"), &mark.to_string());
        }
        text.replace("\\\\", "\\")
    }
}

fn main() {
    println!("cargo::rerun-if-changed=src/schema/facts.txt");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CARGO_HOME");
    let root = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let text = std::fs::read_to_string(Path::new(&root).join("src/schema/facts.txt")).expect("facts.txt");
    let mut types: Vec<Type<'_>> = Vec::new();
    let mut enums = HashMap::new();
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let mut words = line.split(' ');
        let first = words.next().unwrap_or_default();
        match first {
            "=" => {
                let id = words.next().expect("a type has a name");
                let mut made = Type { id, ..Type::default() };
                for word in words {
                    if let Some(gvk) = word.strip_prefix("gvk=") {
                        made.gvk = Some(gvk);
                    }
                    made.atomic |= word == "map=atomic";
                }
                types.push(made);
            }
            "!" => {
                let name = words.next().expect("an enum has a name");
                enums.insert(name, words.next().expect("an enum has values"));
            }
            name => {
                let number = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
                let ty = words.next().expect("a field has a type");
                let made = Line {
                    name,
                    number,
                    ty,
                    words: words.collect(),
                };
                types.last_mut().expect("a field follows a type").fields.push(made);
            }
        }
    }
    let index = types.iter().enumerate().map(|(i, t)| (t.id, i as u16)).collect();
    let mut packer = Packer {
        strings: Strings::default(),
        index,
        enums,
        shapes: HashMap::new(),
        packed_shapes: Vec::new(),
    };
    packer.strings.put("");
    let (mut packed_types, mut packed_fields) = (Vec::new(), Vec::new());
    let mut kinds: BTreeSet<(String, String, String, u16)> = BTreeSet::new();
    let mut fields: u16 = 0;
    for (i, ty) in types.iter().enumerate() {
        let mut flat = BTreeMap::new();
        flatten(ty, &types, &mut flat);
        let mut wire: Vec<&Line<'_>> = ty.fields.iter().filter(|f| f.number > 0).collect();
        wire.sort_by_key(|f| f.number);
        let id = packer.strings.put(ty.id);
        packed_types.extend(id.to_le_bytes());
        for count in [fields, flat.len() as u16, fields + flat.len() as u16, wire.len() as u16] {
            packed_types.extend(count.to_le_bytes());
        }
        let mut group_version = (0, 0);
        let mut meta = 0;
        if let Some(gvk) = ty.gvk {
            let parts: Vec<&str> = gvk.split('/').collect();
            let [group, version, kind] = parts[..] else {
                panic!("{gvk}")
            };
            let stored = if group == "*" { "" } else { group };
            meta = u32::from(group == "*");
            group_version = (packer.strings.put(stored), packer.strings.put(version));
            // Only the newest meta types stand for every group; others are found by their own group.
            kinds.insert((stored.to_owned(), version.to_owned(), kind.to_owned(), i as u16));
        }
        packed_types.extend(group_version.0.to_le_bytes());
        packed_types.extend(group_version.1.to_le_bytes());
        let flags: u32 = u32::from(ty.atomic) | u32::from(ty.gvk.is_some()) << 1 | meta << 2;
        packed_types.extend(flags.to_le_bytes());
        for line in flat.values().copied().chain(wire.iter().copied()) {
            packer.field(line, &types, &mut packed_fields);
        }
        fields = fields
            .checked_add((flat.len() + wire.len()) as u16)
            .expect("fewer than 65,536 fields");
    }
    let texts = descriptions::read();
    let mut sentences: Vec<&str> = Vec::new();
    for ty in &types {
        let text = |key: &str| texts.get(key).map_or("", String::as_str);
        sentences.push(text(ty.id));
        let mut flat = BTreeMap::new();
        flatten(ty, &types, &mut flat);
        sentences.extend(flat.keys().map(|name| match text(&format!("{} {name}", ty.id)) {
            // The crate has no fields for these but in types that are no resources.
            "" if matches!(*name, "apiVersion" | "kind") => text(&format!("meta/v1.DeleteOptions {name}")),
            text => text,
        }));
    }
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder
        .write_all(sentences.join("\0").as_bytes())
        .expect("writing to memory does not fail");
    let sentences = encoder.finish().expect("writing to memory does not fail");
    let mut packed_kinds = Vec::new();
    for (group, version, kind, ty) in &kinds {
        for word in [group, version, kind] {
            packed_kinds.extend(packer.strings.put(word).to_le_bytes());
        }
        packed_kinds.extend(u32::from(*ty).to_le_bytes());
    }
    let sections = [
        packed_types,
        packed_fields,
        packer.packed_shapes,
        packed_kinds,
        packer.strings.bytes,
    ];
    let mut out = Vec::new();
    let mut at = 4 * sections.len() as u32;
    for section in &sections {
        out.extend(at.to_le_bytes());
        at += section.len() as u32;
    }
    for section in &sections {
        out.extend(section);
    }
    let target = std::env::var_os("OUT_DIR").expect("cargo sets it");
    let target = Path::new(&target);
    std::fs::write(target.join("facts.bin"), out).expect("write facts.bin");
    std::fs::write(target.join("sentences.bin"), sentences).expect("write sentences.bin");
}
