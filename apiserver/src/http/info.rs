//! Method, path and query to what is asked: pure, and the only place that knows how paths are spelled.

use std::borrow::Cow;

use http::Method;

/// What a request does, in the words of authorization rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
    /// A method that asks for none of these: it needs a rule for all verbs, and only proxies know it.
    Other,
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Other => "",
        }
    }
}

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Info<'a> {
    Resource(Target<'a>),
    /// No resource: discovery, health, metrics …
    Path(&'a str),
}

/// A resource, an object of it, or a subresource of that object. Empty strings where the path says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    pub verb: Verb,
    /// Empty for the core group.
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    /// For a Namespace object this is its own name, as upstream's authorizers expect.
    pub namespace: &'a str,
    /// Also set for a list or watch whose field selector is `metadata.name=x`, so that a rule with resourceNames holds.
    pub name: Cow<'a, str>,
    /// Whether the name stood in the path, and not in a selector.
    pub named: bool,
    pub subresource: &'a str,
    /// What follows a subresource: the path behind `…/proxy`, without a leading slash.
    pub rest: &'a str,
}

/// Follows apiserver/pkg/endpoints/request/requestinfo.go (1.36). `path` is already percent-decoded.
pub fn info<'a>(method: &Method, path: &'a str, query: &str) -> Info<'a> {
    let trimmed = path.trim_start_matches('/').trim_end_matches('/');
    let (group, version, mut rest) = match split(trimmed) {
        ("api", rest) => {
            let (version, rest) = split(rest);
            ("", version, rest)
        }
        ("apis", rest) => {
            let (group, rest) = split(rest);
            let (version, rest) = split(rest);
            (group, version, rest)
        }
        _ => return Info::Path(path),
    };
    if rest.is_empty() {
        return Info::Path(path);
    }
    let mut verb = match *method {
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE => Verb::Delete,
        Method::GET | Method::HEAD => Verb::Get,
        _ => Verb::Other,
    };
    let mut legacy_watch = false;
    if let ("watch", behind) = split(rest) {
        if behind.is_empty() {
            return Info::Path(path);
        }
        legacy_watch = true;
        rest = behind;
    }
    let mut namespace = "";
    if let ("namespaces", behind) = split(rest) {
        let (name, behind) = split(behind);
        namespace = name;
        // `status` and `finalize` are subresources of the namespace itself and not resources in it.
        let (next, _) = split(behind);
        if !next.is_empty() && next != "status" && next != "finalize" {
            rest = behind;
        }
    }
    let (resource, behind) = split(rest);
    let (name, behind) = split(behind);
    let (subresource, rest) = split(behind);
    let mut name = Cow::Borrowed(name);
    let named = !name.is_empty();
    if legacy_watch {
        verb = Verb::Watch;
    } else if !named {
        verb = match verb {
            Verb::Get if asks_to_watch(query) => Verb::Watch,
            Verb::Get => Verb::List,
            Verb::Delete => Verb::DeleteCollection,
            other => other,
        };
    }
    if !named
        && matches!(verb, Verb::List | Verb::Watch | Verb::DeleteCollection)
        && let Some(selected) = selected_name(query)
    {
        name = Cow::Owned(selected);
    }
    Info::Resource(Target {
        verb,
        group,
        version,
        resource,
        namespace,
        name,
        named,
        subresource,
        rest,
    })
}

/// The first segment and what follows its slash.
fn split(path: &str) -> (&str, &str) {
    path.split_once('/').unwrap_or((path, ""))
}

fn asks_to_watch(query: &str) -> bool {
    super::options::pairs(query).any(|(key, value)| key == "watch" && super::options::truth(&value))
}

/// The name in a field selector that holds `metadata.name=x`.
fn selected_name(query: &str) -> Option<String> {
    if !query.contains("metadata.name") {
        return None;
    }
    let (_, selector) = super::options::pairs(query).find(|(key, _)| key == "fieldSelector")?;
    let fields: api::selector::Fields = selector.parse().ok()?;
    fields
        .terms
        .into_iter()
        .find(|t| t.equal && t.field == "metadata.name" && !t.value.is_empty())
        .map(|t| t.value)
}

/// Percent-decodes a path; borrowed where nothing is encoded, `None` where it is not UTF-8 underneath.
pub fn decode(path: &str) -> Option<Cow<'_, str>> {
    if !path.contains('%') {
        return Some(Cow::Borrowed(path));
    }
    super::options::percent_decode(path.as_bytes(), false).map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &str, uri: &str, want: &str) {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let path = decode(path).unwrap();
        let said = match info(&method.parse().unwrap(), &path, query) {
            Info::Path(path) => format!("path {path}"),
            Info::Resource(t) => {
                let group = if t.group.is_empty() { "core" } else { t.group };
                let mut s = format!("{} {group}/{} {}", t.verb.as_str(), t.version, t.resource);
                if !t.name.is_empty() {
                    s += &format!("/{}", t.name);
                }
                if !t.subresource.is_empty() {
                    s += &format!("/{}", t.subresource);
                }
                if !t.rest.is_empty() {
                    s += &format!(" rest {}", t.rest);
                }
                if !t.namespace.is_empty() {
                    s += &format!(" in {}", t.namespace);
                }
                s
            }
        };
        assert_eq!(said, want);
    }

    #[test]
    fn paths_say_what_is_asked() {
        check("GET", "/api/v1/namespaces/a/pods?watch=1", "watch core/v1 pods in a");
        check("GET", "/api/v1/namespaces/a/pods?watch=false", "list core/v1 pods in a");
        check("GET", "/api/v1/namespaces/a/pods?watch", "watch core/v1 pods in a");
        check(
            "POST",
            "/api/v1/namespaces/a/pods/p/binding",
            "create core/v1 pods/p/binding in a",
        );
        check("GET", "/apis/apps/v1/deployments", "list apps/v1 deployments");
        check(
            "GET",
            "/apis/apps/v1/namespaces/a/deployments/d/scale",
            "get apps/v1 deployments/d/scale in a",
        );
        check("GET", "/api/v1/namespaces/a", "get core/v1 namespaces/a in a");
        check(
            "PUT",
            "/api/v1/namespaces/a/finalize",
            "update core/v1 namespaces/a/finalize in a",
        );
        check(
            "PUT",
            "/api/v1/namespaces/a/status",
            "update core/v1 namespaces/a/status in a",
        );
        check("GET", "/api/v1/namespaces", "list core/v1 namespaces");
        check("HEAD", "/api/v1/namespaces", "list core/v1 namespaces");
        check("OPTIONS", "/api/v1/namespaces", " core/v1 namespaces");
        check(
            "DELETE",
            "/api/v1/namespaces/a/pods",
            "deletecollection core/v1 pods in a",
        );
        check("DELETE", "/api/v1/namespaces/a/pods/p", "delete core/v1 pods/p in a");
        check("GET", "/api/v1/watch/namespaces/a/pods", "watch core/v1 pods in a");
        check("GET", "/api/v1/watch/namespaces/a/pods/p", "watch core/v1 pods/p in a");
        check("PATCH", "/api/v1/nodes/n1/status", "patch core/v1 nodes/n1/status");
        check(
            "GET",
            "/api/v1/nodes/n1/proxy/logs/x",
            "get core/v1 nodes/n1/proxy rest logs/x",
        );
        check(
            "GET",
            "/api/v1/pods?fieldSelector=metadata.name%3Dx",
            "list core/v1 pods/x",
        );
        check(
            "GET",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
            "get rbac.authorization.k8s.io/v1 clusterroles/system:node",
        );
        check("GET", "/api", "path /api");
        check("GET", "/api/v1", "path /api/v1");
        check("GET", "/apis/apps/v1", "path /apis/apps/v1");
        check("GET", "/healthz", "path /healthz");
        check("GET", "/", "path /");
    }
}
