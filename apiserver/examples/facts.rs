//! Writes `src/schema/facts.txt`, the table of facts about every built-in type, from the published Go types.
//!
//! ```text
//! cargo run -p apiserver --example facts -- <folder that holds k8s.io/>
//! ```
//!
//! The folder is what Debian's packages `golang-k8s-api-dev`, `golang-k8s-apimachinery-dev` and
//! `golang-k8s-apiextensions-apiserver-dev` (0.36) unpack: `usr/share/gocode/src`. Struct tags and markers say what no
//! other published form does: which fields are pointers and which empty ones vanish. Sentences are not taken.
//! The tests of `schema` compare the result with the published definitions, protobuf numbers and examples.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Types that none of those packages carries, in the table's own form (see `schema/table.rs`).
const SUPPLEMENT: &str = "\
= apiregistration/v1.APIService gvk=apiregistration.k8s.io/v1/APIService
~ - @meta/v1.TypeMeta
metadata 1 @meta/v1.ObjectMeta omit
spec 2 @apiregistration/v1.APIServiceSpec omit
status 3 @apiregistration/v1.APIServiceStatus omit
= apiregistration/v1.APIServiceCondition
type 1 string:apiregistration/v1.APIServiceConditionType req
status 2 string:apiregistration/v1.ConditionStatus req
lastTransitionTime 3 time omit
reason 4 string omit
message 5 string omit
= apiregistration/v1.APIServiceList gvk=apiregistration.k8s.io/v1/APIServiceList
~ - @meta/v1.TypeMeta
metadata 1 @meta/v1.ListMeta omit
items 2 []@apiregistration/v1.APIService req
= apiregistration/v1.APIServiceSpec
service 1 *@apiregistration/v1.ServiceReference omit
group 2 string omit
version 3 string omit
insecureSkipTLSVerify 4 bool omit
caBundle 5 bytes omit list=atomic
groupPriorityMinimum 7 int32 req
versionPriority 8 int32 req
= apiregistration/v1.APIServiceStatus
conditions 1 []@apiregistration/v1.APIServiceCondition omit list=map keys=type patch=merge mkey=type
= apiregistration/v1.ServiceReference
namespace 1 string omit
name 2 string omit
port 3 *int32 omit
= version.Info
major - string req
minor - string req
emulationMajor - string omit
emulationMinor - string omit
minCompatibilityMajor - string omit
minCompatibilityMinor - string omit
gitVersion - string req
gitCommit - string req
gitTreeState - string req
buildDate - string req
goVersion - string req
compiler - string req
platform - string req
";

/// Go packages beside `k8s.io/api/*/*`: import path, name in the table, API group.
const PACKAGES: &[(&str, &str, &str)] = &[
    ("k8s.io/apimachinery/pkg/apis/meta/v1", "meta/v1", "meta"),
    (
        "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1",
        "apiextensions/v1",
        "apiextensions.k8s.io",
    ),
];

/// Types whose JSON form is not that of their Go struct.
const LEAVES: &[(&str, &str)] = &[
    ("meta/v1.Time", "time"),
    ("meta/v1.MicroTime", "microtime"),
    ("meta/v1.Duration", "duration"),
    ("meta/v1.FieldsV1", "fields"),
    ("meta/v1.Timestamp", "string"),
    ("runtime.RawExtension", "raw"),
    ("runtime.Object", "raw"),
    ("resource.Quantity", "quantity"),
    ("intstr.IntOrString", "intstr"),
    ("apiextensions/v1.JSON", "json"),
    ("apiextensions/v1.JSONSchemaPropsOrArray", "schema-or-array"),
    ("apiextensions/v1.JSONSchemaPropsOrBool", "schema-or-bool"),
    ("apiextensions/v1.JSONSchemaPropsOrStringArray", "schema-or-strings"),
    // Defined where no package of ours looks, all of them strings.
    ("types.UID", "string:types.UID"),
    ("types.NodeName", "string:types.NodeName"),
    ("types.PatchType", "string:types.PatchType"),
];

#[derive(Debug, Default)]
struct Package {
    id: String,
    group: String,
    version: String,
    structs: BTreeMap<String, Struct>,
    /// `type A B` and `type A = B`: A to B's expression.
    named: BTreeMap<String, String>,
    /// Those without the `=`: types of their own.
    defined: BTreeSet<String>,
    enums: BTreeSet<String>,
    /// Constants of a named string type, in order of declaration.
    constants: BTreeMap<String, Vec<String>>,
    values: HashMap<String, String>,
}

#[derive(Debug, Default)]
struct Struct {
    markers: Vec<String>,
    fields: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    /// Go expression with package aliases replaced by package ids.
    expression: String,
    markers: Vec<String>,
    tags: HashMap<String, String>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let root = PathBuf::from(arguments.next().ok_or("the folder that holds k8s.io/ is missing")?);
    let mut packages = BTreeMap::new();
    let mut add = |import: &str, id: &str, group: Option<&str>| -> Result<(), Box<dyn std::error::Error>> {
        let folder = root.join(import);
        let mut package = Package {
            id: id.into(),
            version: id.rsplit('/').next().unwrap_or_default().into(),
            ..Package::default()
        };
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.ends_with(".go") && !name.ends_with("_test.go") && !name.contains("generated") {
                parse(&std::fs::read_to_string(&path)?, &mut package);
            }
        }
        package.group = match group {
            Some(group) => group.into(),
            None => package.values.get("GroupName").cloned().unwrap_or_default(),
        };
        packages.insert(id.to_owned(), package);
        Ok(())
    };
    for group in sorted(&root.join("k8s.io/api"))? {
        for version in sorted(&group)? {
            let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let id = format!("{}/{}", name(&group), name(&version));
            if version.join("register.go").exists() {
                add(&format!("k8s.io/api/{id}"), &id, None)?;
            }
        }
    }
    for (import, id, group) in PACKAGES {
        add(import, id, Some(group))?;
    }
    let text = render(&packages);
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/schema/facts.txt");
    std::fs::write(&target, text)?;
    Ok(())
}

fn sorted(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)?
        .map(|e| e.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    found.retain(|p| p.is_dir());
    found.sort();
    Ok(found)
}

/// Reads the structs, named types and constants of one Go file.
fn parse(source: &str, package: &mut Package) {
    let mut imports: HashMap<String, String> = HashMap::new();
    let mut markers: Vec<String> = Vec::new();
    let mut current: Option<String> = None;
    let mut in_import = false;
    let mut in_comment = false;
    for raw in source.lines() {
        let line = raw.trim();
        if in_comment {
            in_comment = !line.contains("*/");
            continue;
        }
        if line.starts_with("/*") {
            in_comment = !line.contains("*/");
            continue;
        }
        if line == "import (" {
            in_import = true;
            continue;
        }
        if in_import {
            in_import = line != ")";
            if let Some((alias, path)) = line.rsplit_once('"').and_then(|(l, _)| l.rsplit_once('"')) {
                let id = package_id(path);
                let alias = alias.trim();
                let alias = if alias.is_empty() {
                    path.rsplit('/').next().unwrap_or(path)
                } else {
                    alias
                };
                imports.insert(alias.to_owned(), id);
            }
            continue;
        }
        if let Some(comment) = line.strip_prefix("//") {
            let comment = comment.trim();
            if let Some(marker) = comment.strip_prefix('+') {
                markers.push(marker.to_owned());
            }
            continue;
        }
        if let Some(name) = &current {
            if raw.starts_with('}') {
                current = None;
                markers.clear();
                continue;
            }
            if line.is_empty() {
                continue;
            }
            let (code, tags) = match line.split_once('`') {
                Some((code, rest)) => (code.trim(), parse_tags(rest.split('`').next().unwrap_or_default())),
                None => (line.split("//").next().unwrap_or_default().trim(), HashMap::new()),
            };
            let expression = match code.split_once(char::is_whitespace) {
                Some((_, expression)) => expression.trim().to_owned(),
                None => code.to_owned(),
            };
            let member = Member {
                expression: resolve(&expression, &imports, &package.id),
                markers: std::mem::take(&mut markers),
                tags,
            };
            if let Some(current) = package.structs.get_mut(name) {
                current.fields.push(member);
            }
            continue;
        }
        if let Some(rest) = line.strip_prefix("type ") {
            if let Some((name, body)) = rest.split_once(char::is_whitespace) {
                let body = body.trim();
                if !body.starts_with('=') {
                    package.defined.insert(name.to_owned());
                }
                let body = body.trim_start_matches('=').trim();
                if body.starts_with("struct") {
                    let made = Struct {
                        markers: std::mem::take(&mut markers),
                        fields: Vec::new(),
                    };
                    package.structs.insert(name.to_owned(), made);
                    if !body.contains('}') {
                        current = Some(name.to_owned());
                    }
                } else {
                    if markers.iter().any(|m| m == "enum" || m == "k8s:enum") {
                        package.enums.insert(name.to_owned());
                    }
                    package
                        .named
                        .insert(name.to_owned(), resolve(body, &imports, &package.id));
                }
            }
            markers.clear();
            continue;
        }
        constant(line, package);
        if !line.is_empty() {
            markers.clear();
        }
    }
}

/// `Name Type = "value"` and `Name = "value"`, in and out of const blocks.
fn constant(line: &str, package: &mut Package) {
    let line = line.strip_prefix("const ").unwrap_or(line);
    let Some((left, right)) = line.split_once('=') else {
        return;
    };
    let mut words = left.split_whitespace();
    let (Some(name), kind, None) = (words.next(), words.next(), words.next()) else {
        return;
    };
    let Some(value) = right.trim().strip_prefix('"').and_then(|r| r.split('"').next()) else {
        return;
    };
    package.values.insert(name.to_owned(), value.to_owned());
    if let Some(kind) = kind {
        package
            .constants
            .entry(kind.to_owned())
            .or_default()
            .push(value.to_owned());
    }
}

fn package_id(path: &str) -> String {
    for (import, id, _) in PACKAGES {
        if path == *import {
            return (*id).to_owned();
        }
    }
    if let Some(rest) = path.strip_prefix("k8s.io/api/") {
        return rest.to_owned();
    }
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

fn parse_tags(text: &str) -> HashMap<String, String> {
    let mut tags = HashMap::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once(":\"") {
        let Some((value, next)) = after.split_once('"') else {
            break;
        };
        tags.insert(key.trim().to_owned(), value.to_owned());
        rest = next;
    }
    tags
}

/// Rewrites `alias.Name` to `package/id.Name` and `Name` to `this/package.Name`, leaving Go's own types alone.
fn resolve(expression: &str, imports: &HashMap<String, String>, own: &str) -> String {
    if let Some(rest) = expression.strip_prefix('*') {
        return format!("*{}", resolve(rest, imports, own));
    }
    if let Some(rest) = expression.strip_prefix("[]") {
        return format!("[]{}", resolve(rest, imports, own));
    }
    if let Some(rest) = expression.strip_prefix("map[") {
        let value = rest.split_once(']').map_or(rest, |(_, value)| value);
        return format!("{{}}{}", resolve(value, imports, own));
    }
    match expression {
        "string" | "bool" | "int32" | "int64" | "int" | "float64" | "byte" | "uint64" | "interface{}" | "any" => {
            expression.to_owned()
        }
        _ => match expression.split_once('.') {
            Some((alias, name)) => {
                let id = imports.get(alias).cloned().unwrap_or_else(|| alias.to_owned());
                format!("{id}.{name}")
            }
            None => format!("{own}.{expression}"),
        },
    }
}

/// The table's word for a Go type; `None` for what has no JSON form.
fn word(expression: &str, packages: &BTreeMap<String, Package>) -> Option<String> {
    if let Some(rest) = expression.strip_prefix('*') {
        return word(rest, packages).map(|w| format!("*{w}"));
    }
    if expression == "[]byte" {
        return Some("bytes".into());
    }
    if let Some(rest) = expression.strip_prefix("[]") {
        return word(rest, packages).map(|w| format!("[]{w}"));
    }
    if let Some(rest) = expression.strip_prefix("{}") {
        return word(rest, packages).map(|w| format!("{{}}{w}"));
    }
    match expression {
        "string" | "bool" | "int32" | "int64" => return Some(expression.into()),
        "int" => return Some("int64".into()),
        "float64" => return Some("double".into()),
        "interface{}" | "any" => return Some("any".into()),
        _ => {}
    }
    if let Some((_, leaf)) = LEAVES.iter().find(|(name, _)| *name == expression) {
        return Some((*leaf).into());
    }
    let (id, name) = expression.rsplit_once('.')?;
    let package = packages.get(id)?;
    if package.structs.contains_key(name) {
        return Some(format!("@{expression}"));
    }
    let target = package.named.get(name)?;
    match target.as_str() {
        "string" => Some(format!("string:{expression}")),
        // A list with a name is a message of its own in protobuf.
        "[]string" => Some(format!("items:{expression}")),
        _ => {
            let word = word(target, packages)?;
            let own = word.starts_with('@') && package.defined.contains(name);
            Some(if own { format!("@{expression}") } else { word })
        }
    }
}

/// The struct that `type A pkg.B` makes A a copy of.
fn copied<'p>(target: &str, packages: &'p BTreeMap<String, Package>) -> Option<&'p Struct> {
    let (id, name) = target.rsplit_once('.')?;
    packages.get(id)?.structs.get(name)
}

fn render(packages: &BTreeMap<String, Package>) -> String {
    let mut blocks: BTreeMap<String, String> = BTreeMap::new();
    for package in packages.values() {
        let copies = package.named.iter().filter(|(name, _)| package.defined.contains(*name));
        let copies = copies.filter_map(|(name, target)| Some((name, copied(target, packages)?)));
        for (name, found) in package.structs.iter().chain(copies) {
            let id = format!("{}.{name}", package.id);
            if LEAVES.iter().any(|(leaf, _)| *leaf == id) {
                continue;
            }
            let mut lines = Vec::new();
            let mut typed = false;
            for member in &found.fields {
                if let Some(line) = field(member, packages) {
                    typed |= line == "~ - @meta/v1.TypeMeta";
                    lines.push(line);
                }
            }
            if lines.is_empty() && !found.fields.is_empty() {
                continue;
            }
            let mut head = format!("= {id}");
            // An event of a watch names no kind of its own, but the definitions list it as one; core has the List.
            if (typed && id != "meta/v1.List") || id == "meta/v1.WatchEvent" {
                let group = if package.group == "meta" { "*" } else { &package.group };
                let _ = write!(head, " gvk={group}/{}/{name}", package.version);
            }
            for marker in &found.markers {
                if let Some(map) = marker.strip_prefix("structType=").or(marker.strip_prefix("mapType=")) {
                    let _ = write!(head, " map={map}");
                }
            }
            lines.insert(0, head);
            blocks.insert(id, lines.join("\n"));
        }
        for name in &package.enums {
            if let Some(values) = package.constants.get(name) {
                let mut values = values.clone();
                values.sort();
                values.dedup();
                let values: Vec<String> = values
                    .iter()
                    .map(|v| if v.is_empty() { "\"\"".into() } else { v.clone() })
                    .collect();
                let id = format!("{}.{name}", package.id);
                blocks.insert(id.clone(), format!("! {id} {}", values.join("|")));
            }
        }
    }
    for block in SUPPLEMENT.split("\n= ") {
        let block = block.trim_start_matches("= ").trim_end();
        let id = block.split_whitespace().next().unwrap_or_default();
        blocks.insert(id.to_owned(), format!("= {block}"));
    }
    let mut text = String::from(
        "# Facts about the built-in types of Kubernetes 1.36. Written by examples/facts.rs; see schema/table.rs for the form.\n",
    );
    for block in blocks.values() {
        text.push_str(block);
        text.push('\n');
    }
    text
}

fn field(member: &Member, packages: &BTreeMap<String, Package>) -> Option<String> {
    let json = member.tags.get("json")?;
    let mut parts = json.split(',');
    let name = parts.next().unwrap_or_default();
    let options: Vec<&str> = parts.collect();
    if name == "-" {
        return None;
    }
    let kind = word(&member.expression, packages)?;
    let number = member
        .tags
        .get("protobuf")
        .and_then(|p| p.split(',').nth(1))
        .and_then(|n| n.parse::<u32>().ok());
    let number = number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    if name.is_empty() {
        return Some(format!("~ {number} {kind}"));
    }
    let mut line = format!("{name} {number} {kind}");
    let has = |marker: &str| member.markers.iter().any(|m| m == marker);
    let omit = options.contains(&"omitempty");
    if omit {
        line.push_str(" omit");
    }
    if options.contains(&"omitzero") {
        line.push_str(" omitzero");
    }
    let optional = has("optional") || has("k8s:optional") || omit;
    if has("required") || has("k8s:required") && !has("optional") || !optional {
        line.push_str(" req");
    }
    let all = |key: &str| -> Vec<&str> {
        member
            .markers
            .iter()
            .filter_map(|m| m.strip_prefix(key).and_then(|m| m.strip_prefix('=')))
            .collect()
    };
    let list = all("listType")
        .first()
        .copied()
        .or(all("k8s:listType").first().copied());
    if let Some(list) = list {
        let _ = write!(line, " list={list}");
    }
    let mut keys = all("listMapKey");
    if keys.is_empty() {
        keys = all("k8s:listMapKey");
    }
    if !keys.is_empty() {
        let _ = write!(line, " keys={}", keys.join(","));
    }
    if let Some(map) = all("mapType").first().or(all("structType").first()) {
        let _ = write!(line, " map={map}");
    }
    let patch = member
        .tags
        .get("patchStrategy")
        .map(String::as_str)
        .or(all("patchStrategy").first().copied());
    if let Some(patch) = patch {
        let _ = write!(line, " patch={patch}");
    }
    let key = member
        .tags
        .get("patchMergeKey")
        .map(String::as_str)
        .or(all("patchMergeKey").first().copied());
    if let Some(key) = key {
        let _ = write!(line, " mkey={key}");
    }
    if let Some(default) = all("default").first().or(all("k8s:default").first()) {
        let value = match *default {
            "ref(AzureDataDiskCachingReadWrite)" => "\"ReadWrite\"",
            "ref(AzureSharedBlobDisk)" => "\"Shared\"",
            other => other,
        };
        let _ = write!(line, " default={value}");
    }
    Some(line)
}
