//! A policy rule: what it allows, how it is written. Pure.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Target;
pub use super::cover::missing;

/// `rbac.authorization.k8s.io` PolicyRule.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<Arc<str>>,
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Arc<str>>,
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<Arc<str>>,
    #[serde(
        rename = "nonResourceURLs",
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub urls: Vec<Arc<str>>,
    #[serde(deserialize_with = "list")]
    pub verbs: Vec<Arc<str>>,
}

/// A stored list may be null.
fn list<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Arc<str>>, D::Error> {
    Ok(Option::<Vec<Arc<str>>>::deserialize(from)?.unwrap_or_default())
}

impl Rule {
    /// Everything on every resource.
    pub fn all_resources() -> Rule {
        let all = || vec![Arc::from("*")];
        Rule {
            api_groups: all(),
            resources: all(),
            verbs: all(),
            ..Rule::default()
        }
    }
    /// Everything on every path.
    pub fn all_urls() -> Rule {
        let all = || vec![Arc::from("*")];
        Rule {
            urls: all(),
            verbs: all(),
            ..Rule::default()
        }
    }

    pub fn allows(&self, verb: &str, target: &Target<'_>) -> bool {
        any(&self.verbs, verb)
            && match *target {
                Target::Resource {
                    group,
                    resource,
                    subresource,
                    name,
                    ..
                } => {
                    any(&self.api_groups, group)
                        && self
                            .resources
                            .iter()
                            .any(|r| resource_matches(r, resource, subresource))
                        && (self.resource_names.is_empty() || self.resource_names.iter().any(|n| &**n == name))
                }
                Target::Path(path) => self.urls.iter().any(|url| url_matches(url, path)),
            }
    }
}

fn any(list: &[Arc<str>], want: &str) -> bool {
    list.iter().any(|have| &**have == "*" || &**have == want)
}

/// `*`, `pods`, `pods/log`, `*/scale`.
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((left, right)) => !subresource.is_empty() && right == subresource && (left == "*" || left == resource),
    }
}

/// `*`, a path, or a path that ends in `*`.
pub(super) fn url_matches(rule: &str, path: &str) -> bool {
    rule == path || rule.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

/// As rbac/v1 helpers.CompactString (1.36) prints a rule.
impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        f.write_str("{")?;
        let mut first = true;
        for (name, values) in parts {
            if values.is_empty() {
                continue;
            }
            if !first {
                f.write_str(", ")?;
            }
            first = false;
            write!(f, "{name}:[")?;
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    f.write_str(" ")?;
                }
                write!(f, "{value:?}")?;
            }
            f.write_str("]")?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(groups: &str, resources: &str, names: &str, urls: &str, verbs: &str) -> Rule {
        let list = |text: &str| -> Vec<Arc<str>> {
            text.split(',')
                .filter(|s| !s.is_empty())
                .map(|s| Arc::from(if s == "core" { "" } else { s }))
                .collect()
        };
        Rule {
            api_groups: list(groups),
            resources: list(resources),
            resource_names: list(names),
            urls: list(urls),
            verbs: list(verbs),
        }
    }
    fn resource<'a>(group: &'a str, resource: &'a str, subresource: &'a str, name: &'a str) -> Target<'a> {
        Target::Resource {
            group,
            version: "v1",
            resource,
            subresource,
            namespace: "n",
            name,
            fields: None,
        }
    }

    #[test]
    fn a_rule_allows_what_it_names_and_no_more() {
        let cases = [
            (
                rule("core", "pods", "", "", "get"),
                "get",
                resource("", "pods", "", "p"),
                true,
            ),
            (
                rule("core", "pods", "", "", "get"),
                "list",
                resource("", "pods", "", ""),
                false,
            ),
            (
                rule("core", "pods", "", "", "get"),
                "get",
                resource("apps", "pods", "", ""),
                false,
            ),
            (
                rule("core", "pods", "", "", "get"),
                "get",
                resource("", "pods", "log", "p"),
                false,
            ),
            (
                rule("core", "pods/log", "", "", "get"),
                "get",
                resource("", "pods", "log", "p"),
                true,
            ),
            (
                rule("core", "pods/log", "", "", "get"),
                "get",
                resource("", "pods", "", "p"),
                false,
            ),
            (rule("*", "*", "", "", "*"), "x", resource("g", "r", "s", "n"), true),
            (
                rule("*", "*/scale", "", "", "*"),
                "update",
                resource("apps", "deployments", "scale", "d"),
                true,
            ),
            (
                rule("*", "*/scale", "", "", "*"),
                "update",
                resource("apps", "deployments", "status", "d"),
                false,
            ),
            (
                rule("core", "secrets", "a,b", "", "get"),
                "get",
                resource("", "secrets", "", "b"),
                true,
            ),
            (
                rule("core", "secrets", "a,b", "", "get"),
                "get",
                resource("", "secrets", "", "c"),
                false,
            ),
            (
                rule("core", "secrets", "a,b", "", "list"),
                "list",
                resource("", "secrets", "", ""),
                false,
            ),
            (
                rule("", "", "", "/healthz", "get"),
                "get",
                Target::Path("/healthz"),
                true,
            ),
            (
                rule("", "", "", "/healthz", "get"),
                "get",
                Target::Path("/healthz/etcd"),
                false,
            ),
            (
                rule("", "", "", "/healthz/*", "get"),
                "get",
                Target::Path("/healthz/etcd"),
                true,
            ),
            (rule("", "", "", "*", "*"), "post", Target::Path("/anything"), true),
            (rule("*", "*", "", "", "*"), "get", Target::Path("/healthz"), false),
        ];
        for (rule, verb, target, want) in cases {
            assert_eq!(rule.allows(verb, &target), want, "{rule} {verb} {target:?}");
        }
    }

    #[test]
    fn a_rule_prints_as_upstreams() {
        assert_eq!(
            rule("core,apps", "pods", "", "", "get,list").to_string(),
            r#"{APIGroups:["" "apps"], Resources:["pods"], Verbs:["get" "list"]}"#
        );
    }
}
