//! Roles and bindings as an index by subject, and the questions asked of it.
//! Comes in: the four kinds as the caches show them, one change at a time. Goes out: decisions, rules of a user, what a
//! user would grant without holding it. No I/O; a check walks only the bindings of the caller's own name and groups.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLock};

use futures::future::BoxFuture;
use serde::Deserialize;

use super::rules::Rule;
use super::{Authorizer, Decision, Request, Rules, Target, cover};
use crate::identity::{SERVICE_ACCOUNT_PREFIX, User};

pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The four kinds, by their resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Role,
    ClusterRole,
    RoleBinding,
    ClusterRoleBinding,
}

impl Kind {
    pub const ALL: [Kind; 4] = [
        Kind::Role,
        Kind::ClusterRole,
        Kind::RoleBinding,
        Kind::ClusterRoleBinding,
    ];
    pub fn plural(self) -> &'static str {
        match self {
            Kind::Role => "roles",
            Kind::ClusterRole => "clusterroles",
            Kind::RoleBinding => "rolebindings",
            Kind::ClusterRoleBinding => "clusterrolebindings",
        }
    }
}

/// A Role or ClusterRole as JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RoleObject {
    #[serde(deserialize_with = "or_default")]
    pub rules: Vec<Rule>,
}

/// A RoleBinding or ClusterRoleBinding as JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BindingObject {
    pub role_ref: RoleRef,
    #[serde(deserialize_with = "or_default")]
    pub subjects: Vec<Subject>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RoleRef {
    pub kind: Arc<str>,
    pub name: Arc<str>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Subject {
    pub kind: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
}

/// A stored list may be null.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// Where a role or binding lives; the namespace is empty for the cluster's.
type Place = (Arc<str>, Arc<str>);

/// Whom a binding names, as a request carries him.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    User(Arc<str>),
    Group(Arc<str>),
}

#[derive(Debug)]
struct Binding {
    namespace: Arc<str>,
    name: Arc<str>,
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// The bindings of one place by whom they name.
#[derive(Debug, Default)]
struct Granted {
    users: ByName,
    groups: ByName,
}

type ByName = HashMap<Arc<str>, Vec<Arc<Binding>>>;

impl Granted {
    fn of(&mut self, who: Who) -> (&mut ByName, Arc<str>) {
        match who {
            Who::User(name) => (&mut self.users, name),
            Who::Group(name) => (&mut self.groups, name),
        }
    }
    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

/// The index.
#[derive(Debug, Default)]
pub struct Graph {
    roles: HashMap<Place, Arc<[Rule]>>,
    bindings: HashMap<Place, Arc<Binding>>,
    /// By namespace; empty: in the whole cluster.
    granted: HashMap<Arc<str>, Granted>,
    /// Words are few and repeated in hundreds of rules.
    words: HashSet<Arc<str>>,
}

impl Graph {
    pub fn set_role(&mut self, namespace: &str, name: &str, role: Option<RoleObject>) {
        let place = (Arc::from(namespace), Arc::from(name));
        match role {
            Some(role) => {
                let rules = role.rules.into_iter().map(|rule| self.intern(rule)).collect();
                self.roles.insert(place, rules);
            }
            None => {
                self.roles.remove(&place);
            }
        }
    }

    pub fn set_binding(&mut self, namespace: &str, name: &str, binding: Option<BindingObject>) {
        let place: Place = (Arc::from(namespace), Arc::from(name));
        if let Some(old) = self.bindings.remove(&place)
            && let Some(granted) = self.granted.get_mut(&old.namespace)
        {
            for subject in &old.subjects {
                let Some(who) = who(subject, &old.namespace) else {
                    continue;
                };
                let (lists, name) = granted.of(who);
                if let Some(list) = lists.get_mut(&name) {
                    list.retain(|b| !Arc::ptr_eq(b, &old));
                    if list.is_empty() {
                        lists.remove(&name);
                    }
                }
            }
            if granted.is_empty() {
                self.granted.remove(&old.namespace);
            }
        }
        let Some(object) = binding else { return };
        let binding = Arc::new(Binding {
            namespace: place.0.clone(),
            name: place.1.clone(),
            role: object.role_ref,
            subjects: object.subjects,
        });
        let granted = self.granted.entry(place.0.clone()).or_default();
        for subject in &binding.subjects {
            let Some(who) = who(subject, &binding.namespace) else {
                continue;
            };
            let (lists, name) = granted.of(who);
            let list = lists.entry(name).or_default();
            if !list.iter().any(|b| Arc::ptr_eq(b, &binding)) {
                list.push(binding.clone());
            }
        }
        self.bindings.insert(place, binding);
    }

    fn intern(&mut self, mut rule: Rule) -> Rule {
        let Rule {
            api_groups,
            resources,
            resource_names,
            urls,
            verbs,
        } = &mut rule;
        for word in [api_groups, resources, resource_names, urls, verbs]
            .into_iter()
            .flatten()
        {
            match self.words.get(&**word) {
                Some(have) => *word = have.clone(),
                None => {
                    self.words.insert(word.clone());
                }
            }
        }
        rule
    }

    /// The bindings that name `user`, with the subject that does: the cluster's first, then those of `namespace`.
    fn bindings_of<'a>(&'a self, user: &User, namespace: &str) -> Vec<&'a Arc<Binding>> {
        let mut found = Vec::new();
        let places = std::iter::once("").chain((!namespace.is_empty()).then_some(namespace));
        for place in places {
            let Some(granted) = self.granted.get(place) else {
                continue;
            };
            // Nothing is allocated here: every request comes by.
            found.extend(granted.users.get(user.name.as_str()).into_iter().flatten());
            for group in &user.groups {
                found.extend(granted.groups.get(group.as_str()).into_iter().flatten());
            }
        }
        found
    }

    fn rules_of(&self, binding: &Binding) -> Result<&Arc<[Rule]>, String> {
        self.role(&binding.namespace, &binding.role)
    }

    /// The rules that a reference from `namespace` (empty: the cluster) names.
    fn role(&self, namespace: &str, reference: &RoleRef) -> Result<&Arc<[Rule]>, String> {
        let (place, plural) = match &*reference.kind {
            "Role" => (namespace, "roles"),
            "ClusterRole" => ("", "clusterroles"),
            other => return Err(format!("unsupported role reference kind: {other:?}")),
        };
        self.roles
            .get(&(Arc::from(place), reference.name.clone()))
            .ok_or_else(|| format!("{plural}.{GROUP} {:?} not found", reference.name))
    }

    pub fn decide(&self, request: &Request<'_>) -> Decision {
        let namespace = match request.target {
            Target::Resource { namespace, .. } => namespace,
            Target::Path(_) => "",
        };
        let mut errors = Vec::new();
        for binding in self.bindings_of(request.user, namespace) {
            match self.rules_of(binding) {
                Ok(rules) => {
                    if rules.iter().any(|rule| rule.allows(request.verb, &request.target)) {
                        return Decision::Allow(binding.reason(request.user));
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        Decision::NoOpinion(match errors.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        })
    }

    /// All that `user` may do in `namespace`, and what could not be resolved.
    pub fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        for binding in self.bindings_of(user, namespace) {
            match self.rules_of(binding) {
                Ok(found) => rules.extend(found.iter().cloned()),
                Err(error) => errors.push(error),
            }
        }
        (rules, errors)
    }
}

/// A service account is a user of its name. An unknown kind names nobody.
fn who(subject: &Subject, binding_namespace: &str) -> Option<Who> {
    match &*subject.kind {
        "User" => Some(Who::User(subject.name.clone())),
        "Group" => Some(Who::Group(subject.name.clone())),
        "ServiceAccount" => {
            let namespace = service_account_namespace(subject, binding_namespace)?;
            Some(Who::User(
                format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{}", subject.name).into(),
            ))
        }
        _ => None,
    }
}

fn service_account_namespace<'a>(subject: &'a Subject, binding: &'a str) -> Option<&'a str> {
    let namespace = if subject.namespace.is_empty() {
        binding
    } else {
        &subject.namespace
    };
    (!namespace.is_empty()).then_some(namespace)
}

impl Binding {
    /// As plugin/pkg/auth/authorizer/rbac (1.36) words it: it names the first subject that fits.
    fn reason(&self, user: &User) -> String {
        let subject = self.subjects.iter().find(|s| match who(s, &self.namespace) {
            Some(Who::User(name)) => *name == *user.name,
            Some(Who::Group(group)) => user.in_group(&group),
            None => false,
        });
        let subject = match subject {
            Some(s) if &*s.kind == "ServiceAccount" => format!(
                "{} {:?}",
                s.kind,
                format!(
                    "{}/{}",
                    s.name,
                    service_account_namespace(s, &self.namespace).unwrap_or_default()
                )
            ),
            Some(s) => format!("{} {:?}", s.kind, s.name),
            None => String::new(),
        };
        let (kind, name) = if self.namespace.is_empty() {
            ("ClusterRoleBinding", self.name.to_string())
        } else {
            ("RoleBinding", format!("{}/{}", self.name, self.namespace))
        };
        format!(
            "RBAC: allowed by {kind} {name:?} of {} {:?} to {subject}",
            self.role.kind, self.role.name
        )
    }
}

/// The index, shared by those who ask and the one who feeds it.
#[derive(Debug, Clone, Default)]
pub struct Rbac {
    graph: Arc<RwLock<Graph>>,
}

/// Why a grant is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The role that a binding names is not there.
    NoRole { plural: &'static str, name: String },
    /// The text that upstream gives.
    Escalation(String),
}

impl Rbac {
    pub fn update<T>(&self, change: impl FnOnce(&mut Graph) -> T) -> T {
        change(&mut self.graph.write().expect("nothing panics while it holds this"))
    }
    pub fn read<T>(&self, ask: impl FnOnce(&Graph) -> T) -> T {
        ask(&self.graph.read().expect("nothing panics while it holds this"))
    }

    /// Whether `user` holds all of `rules` in `namespace`, as ConfirmNoEscalation (1.36).
    pub fn confirm_holds(&self, user: &User, namespace: &str, rules: &[Rule]) -> Result<(), Refused> {
        let (held, errors) = self.read(|graph| graph.rules_for(user, namespace));
        let missing = cover::missing(&held, rules);
        if missing.is_empty() {
            return Ok(());
        }
        let mut lines: Vec<String> = cover::compact(missing).iter().map(Rule::to_string).collect();
        lines.sort();
        lines.dedup();
        let groups = user
            .groups
            .iter()
            .map(|g| format!("{g:?}"))
            .collect::<Vec<_>>()
            .join(" ");
        let mut text = format!(
            "user {:?} (groups=[{groups}]) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            lines.join("\n")
        );
        if !errors.is_empty() {
            text.push_str(&format!("; resolution errors: [{}]", errors.join(", ")));
        }
        Err(Refused::Escalation(text))
    }

    /// The rules that a binding in `namespace` (empty: the cluster) would grant.
    pub fn role(&self, namespace: &str, reference: &RoleRef) -> Result<Arc<[Rule]>, Refused> {
        self.read(|graph| graph.role(namespace, reference).cloned())
            .map_err(|_| Refused::NoRole {
                plural: if &*reference.kind == "Role" {
                    "roles"
                } else {
                    "clusterroles"
                },
                name: reference.name.to_string(),
            })
    }
}

impl Authorizer for Rbac {
    fn authorize<'a>(&'a self, request: &'a Request<'a>) -> BoxFuture<'a, Decision> {
        Box::pin(std::future::ready(self.read(|graph| graph.decide(request))))
    }
    fn rules_for(&self, user: &User, namespace: &str) -> Rules {
        let (rules, errors) = self.read(|graph| graph.rules_for(user, namespace));
        Rules { rules, errors }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn role(value: Value) -> Option<RoleObject> {
        Some(serde_json::from_value(value).unwrap())
    }
    fn binding(value: Value) -> Option<BindingObject> {
        Some(serde_json::from_value(value).unwrap())
    }
    fn ask(graph: &Graph, user: &User, verb: &str, resource: &str, namespace: &str) -> Decision {
        graph.decide(&Request {
            user,
            verb,
            target: Target::Resource {
                group: "",
                version: "v1",
                resource,
                subresource: "",
                namespace,
                name: "",
                fields: None,
            },
        })
    }
    fn graph() -> Graph {
        let mut graph = Graph::default();
        let reader = json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]});
        graph.set_role("", "reader", role(reader.clone()));
        graph.set_role("a", "local", role(reader));
        graph.set_binding(
            "a",
            "devs",
            binding(json!({"roleRef": {"kind": "ClusterRole", "name": "reader"},
                           "subjects": [{"kind": "Group", "name": "dev"}, {"kind": "ServiceAccount", "name": "bot"}]})),
        );
        graph.set_binding(
            "",
            "ops",
            binding(json!({"roleRef": {"kind": "ClusterRole", "name": "reader"},
                           "subjects": [{"kind": "User", "name": "olga"}]})),
        );
        graph
    }
    const NO: Decision = Decision::NoOpinion(String::new());

    #[test]
    fn a_cluster_role_bound_in_a_namespace_reaches_no_further() {
        let graph = graph();
        let dev = User::new("dan", &["dev"]);
        assert_eq!(
            ask(&graph, &dev, "list", "pods", "a"),
            Decision::Allow(r#"RBAC: allowed by RoleBinding "devs/a" of ClusterRole "reader" to Group "dev""#.into())
        );
        assert_eq!(ask(&graph, &dev, "list", "pods", "b"), NO);
        assert_eq!(ask(&graph, &dev, "list", "pods", ""), NO);
        assert_eq!(ask(&graph, &dev, "delete", "pods", "a"), NO);
    }

    #[test]
    fn a_cluster_binding_reaches_everywhere() {
        let graph = graph();
        let olga = User::new("olga", &[]);
        for namespace in ["", "a", "b"] {
            assert_eq!(
                ask(&graph, &olga, "get", "pods", namespace),
                Decision::Allow(
                    r#"RBAC: allowed by ClusterRoleBinding "ops" of ClusterRole "reader" to User "olga""#.into()
                )
            );
        }
    }

    #[test]
    fn a_service_account_without_a_namespace_is_of_the_bindings() {
        let graph = graph();
        let allowed = r#"RBAC: allowed by RoleBinding "devs/a" of ClusterRole "reader" to ServiceAccount "bot/a""#;
        let bot = User::service_account("a", "bot");
        assert_eq!(ask(&graph, &bot, "get", "pods", "a"), Decision::Allow(allowed.into()));
        let other = User::service_account("b", "bot");
        assert_eq!(ask(&graph, &other, "get", "pods", "a"), NO);
    }

    #[test]
    fn what_is_removed_no_longer_grants_and_a_missing_role_is_the_reason() {
        let mut graph = graph();
        let olga = User::new("olga", &[]);
        graph.set_role("", "reader", None);
        assert_eq!(
            ask(&graph, &olga, "get", "pods", ""),
            Decision::NoOpinion(r#"RBAC: clusterroles.rbac.authorization.k8s.io "reader" not found"#.into())
        );
        graph.set_binding("", "ops", None);
        assert_eq!(ask(&graph, &olga, "get", "pods", ""), NO);
        graph.set_binding("a", "devs", None);
        assert!(graph.granted.is_empty() && graph.bindings.is_empty());
    }

    #[test]
    fn a_binding_that_changes_its_subjects_forgets_the_old_ones() {
        let mut graph = graph();
        graph.set_binding(
            "",
            "ops",
            binding(json!({"roleRef": {"kind": "ClusterRole", "name": "reader"},
                           "subjects": [{"kind": "User", "name": "otto"}]})),
        );
        assert_eq!(ask(&graph, &User::new("olga", &[]), "get", "pods", ""), NO);
        assert!(matches!(
            ask(&graph, &User::new("otto", &[]), "get", "pods", ""),
            Decision::Allow(_)
        ));
    }

    #[test]
    fn nobody_grants_what_he_does_not_hold() {
        let rbac = Rbac::default();
        rbac.update(|g| *g = graph());
        let dan = User::new("dan", &["dev"]);
        let rule = |verbs: &[&str]| {
            serde_json::from_value::<Rule>(json!({"apiGroups": [""], "resources": ["pods"], "verbs": verbs})).unwrap()
        };
        assert_eq!(rbac.confirm_holds(&dan, "a", &[rule(&["get"])]), Ok(()));
        let refused = rbac
            .confirm_holds(&dan, "a", &[rule(&["get", "delete", "create"])])
            .unwrap_err();
        assert_eq!(
            refused,
            Refused::Escalation(
                "user \"dan\" (groups=[\"dev\" \"system:authenticated\"]) is attempting to grant RBAC permissions not \
                 currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"create\"]}"
                    .into()
            )
        );
        assert!(rbac.confirm_holds(&dan, "b", &[rule(&["get"])]).is_err());
    }
}
