//! PodSecurity: the pod security standards, by the labels of the namespace: what is enforced is refused, what is warned
//! of is told. After k8s.io/pod-security-admission (1.36); a namespace that pins a version gets today's checks.

mod baseline;
mod restricted;
#[cfg(test)]
mod tests;

use futures::future::BoxFuture;
use serde_json::Value;

use super::sources::Source;
use super::{Admit, Attributes, Operation, items};
use crate::object::Object;
use crate::status::{Errors, Status};

const PREFIX: &str = "pod-security.kubernetes.io/";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Level> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }
    fn word(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

/// A level and the version it is pinned to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Policy {
    level: Level,
    version: String,
}

impl Policy {
    /// What the labels of a namespace say for `mode`. Labels that do not read are taken for the strictest.
    fn of(namespace: &Object, mode: &str) -> Policy {
        let label = |key: &str| namespace.str_at(&["metadata", "labels", &format!("{PREFIX}{key}")]);
        let level = match label(mode) {
            "" => Level::Privileged,
            text => Level::parse(text).unwrap_or(Level::Restricted),
        };
        let version = match label(&format!("{mode}-version")) {
            "" => "latest",
            text if is_version(text) => text,
            _ => "latest",
        };
        Policy {
            level,
            version: version.to_owned(),
        }
    }

    /// What a pod violates: `reason (detail), …`. `None`: nothing.
    fn judge(&self, pod: &Pod<'_>) -> Option<String> {
        let mut violations = match self.level {
            Level::Privileged => return None,
            Level::Baseline => baseline::check(pod, false),
            Level::Restricted => {
                let mut all = baseline::check(pod, true);
                all.extend(restricted::check(pod));
                all
            }
        };
        violations.retain(|violation| !violation.reason.is_empty());
        if violations.is_empty() {
            return None;
        }
        let list: Vec<String> = violations
            .iter()
            .map(|violation| format!("{} ({})", violation.reason, violation.detail))
            .collect();
        Some(format!(
            "violate{{s}} PodSecurity {:?}: {}",
            format!("{}:{}", self.level.word(), self.version),
            list.join(", ")
        ))
    }
}

fn is_version(text: &str) -> bool {
    let number = text.strip_prefix("v1.");
    text == "latest" || number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// One kind of violation, as upstream names and describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Violation {
    reason: &'static str,
    detail: String,
}

/// A pod, or a template of pods, as the checks see it.
#[derive(Debug, Clone, Copy)]
struct Pod<'a> {
    metadata: &'a Value,
    spec: &'a Value,
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = Container<'a>> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(move |list| items(spec.get(list)))
            .map(|container| Container {
                name: container["name"].as_str().unwrap_or_default(),
                whole: container,
                security: &container["securityContext"],
            })
    }
    fn security(&self) -> &'a Value {
        &self.spec["securityContext"]
    }
    fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }
}

#[derive(Debug, Clone, Copy)]
struct Container<'a> {
    name: &'a str,
    whole: &'a Value,
    security: &'a Value,
}

/// `"a", "b"`.
fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("{name:?}")).collect();
    names.join(", ")
}
/// `container "a"`, `containers "a", "b"`.
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", names.len()), quoted(names.iter().copied()))
}
fn plural(word: &str, count: usize) -> String {
    if count == 1 {
        word.to_owned()
    } else {
        format!("{word}s")
    }
}

/// Where an object of `resource` has its pod; `None`: it has none.
fn pod_of<'a>(attributes: &Attributes<'_>, object: &'a Object) -> Option<Pod<'a>> {
    let whole = match (&*attributes.resource.group, &*attributes.resource.plural) {
        ("", "pods") => {
            return Some(Pod {
                metadata: object.0.get("metadata")?,
                spec: object.0.get("spec")?,
            });
        }
        ("", "podtemplates") => object.at(&["template"])?,
        ("", "replicationcontrollers") | ("apps", _) | ("batch", "jobs") => object.at(&["spec", "template"])?,
        ("batch", "cronjobs") => object.at(&["spec", "jobTemplate", "spec", "template"])?,
        _ => return None,
    };
    Some(Pod {
        metadata: &whole["metadata"],
        spec: &whole["spec"],
    })
}

#[derive(Debug)]
pub(super) struct PodSecurity {
    pub(super) namespaces: Source,
}

impl Admit for PodSecurity {
    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: Option<&'a Object>,
        old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let Some(object) = new else { return Ok(()) };
            if attributes.is("", "namespaces") {
                return labels(object, old);
            }
            if !matches!(attributes.subresource, "" | "ephemeralcontainers") {
                return Ok(());
            }
            let Some(pod) = pod_of(attributes, object) else {
                return Ok(());
            };
            let is_pod = attributes.is_any("", "pods");
            // Of a pod that is there, nothing that is judged can change, but for ephemeral containers.
            if is_pod && attributes.operation == Operation::Update && attributes.subresource.is_empty() {
                return Ok(());
            }
            let Some(namespace) = self.namespaces.get("", attributes.namespace).await? else {
                return Ok(());
            };
            if is_pod && let Some(why) = Policy::of(&namespace, "enforce").judge(&pod) {
                return Err(attributes.forbidden(new, &why.replacen("{s}", "s", 1)));
            }
            if let Some(why) = Policy::of(&namespace, "warn").judge(&pod) {
                attributes.warn(format!("would {}", why.replacen("{s}", "", 1)));
            }
            Ok(())
        })
    }
}

/// What a namespace says of its policy must read; what was wrong before may stay.
fn labels(namespace: &Object, old: Option<&Object>) -> Result<(), Status> {
    let mut errors = Errors::default();
    for mode in ["enforce", "audit", "warn"] {
        for (key, is_valid, why) in [
            (
                format!("{PREFIX}{mode}"),
                (|text: &str| Level::parse(text).is_some()) as fn(&str) -> bool,
                "must be one of privileged, baseline, restricted",
            ),
            (
                format!("{PREFIX}{mode}-version"),
                is_version,
                "must be \"latest\" or \"v1.x\"",
            ),
        ] {
            let path = ["metadata", "labels", key.as_str()];
            let Some(value) = namespace.at(&path) else { continue };
            let was_there = old.is_some_and(|old| old.at(&path) == Some(value));
            if !was_there && !value.as_str().is_some_and(is_valid) {
                errors.invalid(format!("metadata.labels[{key}]"), value, why);
            }
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid("", "Namespace", namespace.name(), errors))
}
