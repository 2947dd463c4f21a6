//! Flow schemas and priority levels (kubernetes/pkg/apis/flowcontrol/validation/validation.go, 1.36).

use super::field::Field;
use super::{Context, Shape, Strategy, format};
use crate::object::Object;
use crate::status::Errors;

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];
const HTTP_VERBS: &[&str] = &[
    "connect", "delete", "get", "head", "options", "patch", "post", "put", "trace",
];

#[derive(Debug)]
pub struct Schemas;

impl Strategy for Schemas {
    fn shape(&self) -> Shape {
        Shape::FULL
    }
    fn prepare_update(&self, context: &Context<'_>, new: &mut Object, old: &Object) {
        self.shape().prepare_update(context, new, old);
        keep_metadata(context, new, old);
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        const LAST: i64 = 10_000;
        let spec = Field::root(new, "spec");
        let precedence = spec.get("matchingPrecedence");
        match precedence.number() {
            ..=0 => precedence.invalid(errors, "must be a positive value"),
            1 if new.name() != "exempt" => {
                precedence.invalid(errors, "only the schema named 'exempt' may have matchingPrecedence 1");
            }
            number if number > LAST => precedence.invalid(errors, &format!("must not be greater than {LAST}")),
            _ => {}
        }
        let level = spec.get("priorityLevelConfiguration.name");
        if level.str().is_empty() {
            level.required(errors, "must reference a priority level");
        } else {
            level.each_invalid(errors, format::dns_subdomain(level.str()));
        }
        let method = spec.get("distinguisherMethod");
        if method.present() {
            method.get("type").one_of(errors, &["ByNamespace", "ByUser"]);
        }
        for rule in spec.get("rules").items() {
            let (subjects, resources, urls) = (
                rule.get("subjects"),
                rule.get("resourceRules"),
                rule.get("nonResourceRules"),
            );
            if subjects.is_empty() {
                subjects.required(errors, "subjects must contain at least one value");
            }
            for item in subjects.items() {
                subject(&item, errors);
            }
            if resources.is_empty() && urls.is_empty() {
                rule.required(
                    errors,
                    "at least one of resourceRules and nonResourceRules has to be non-empty",
                );
            }
            for item in resources.items() {
                resource_rule(&item, errors);
            }
            for item in urls.items() {
                url_rule(&item, errors);
            }
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, _old: &Object, errors: &mut Errors) {
        if context.subresource == "status" {
            return conditions(new, errors);
        }
        self.validate(context, new, errors);
    }
}

/// The status subresource of these two writes no metadata at all; the revision it was read at still counts.
fn keep_metadata(context: &Context<'_>, new: &mut Object, old: &Object) {
    if context.subresource != "status" {
        return;
    }
    let revision = new.at(&["metadata", "resourceVersion"]).cloned();
    if let Some(meta) = old.0.get("metadata") {
        new.0.insert("metadata".into(), meta.clone());
    }
    if let Some(revision) = revision {
        new.metadata_mut().insert("resourceVersion".into(), revision);
    }
}

fn conditions(new: &Object, errors: &mut Errors) {
    let mut seen = std::collections::BTreeSet::new();
    for condition in Field::root(new, "status.conditions").items() {
        let kind = condition.get("type");
        if !seen.insert(kind.str()) {
            kind.duplicate(errors);
        }
        if kind.str().is_empty() {
            kind.required(errors, "must not be empty");
        }
    }
}

fn subject(subject: &Field, errors: &mut Errors) {
    let kind = subject.get("kind");
    const KINDS: &[(&str, &str)] = &[
        ("Group", "group"),
        ("ServiceAccount", "serviceAccount"),
        ("User", "user"),
    ];
    if !KINDS.iter().any(|(name, _)| *name == kind.str()) {
        return kind.unsupported(errors, &["Group", "ServiceAccount", "User"]);
    }
    for (name, place) in KINDS {
        let field = subject.get(place);
        match (kind.str() == *name, field.present()) {
            (true, false) => field.required(errors, &format!("{place} is required when subject kind is '{name}'")),
            (false, true) => field.forbidden(
                errors,
                &format!("{place} is forbidden when subject kind is not '{name}'"),
            ),
            (false, false) => {}
            (true, true) => {
                let who = field.get("name");
                if who.str().is_empty() {
                    who.required(errors, "");
                } else if *name == "ServiceAccount" && who.str() != "*" {
                    who.each_invalid(errors, format::dns_subdomain(who.str()));
                }
                let namespace = field.get("namespace");
                if *name == "ServiceAccount" {
                    if namespace.str().is_empty() {
                        namespace.required(errors, "must specify namespace for service account");
                    } else {
                        namespace.each_invalid(errors, format::dns_label(namespace.str()));
                    }
                }
            }
        }
    }
}

/// A list that is not empty, and in which `*` stands alone.
fn starred(list: &Field, what: [&str; 2], errors: &mut Errors) {
    if list.is_empty() {
        list.required(errors, what[0]);
    } else if list.len() > 1 && list.strings().any(|item| item == "*") {
        list.invalid(
            errors,
            &format!("if '*' is present, must not specify other {}", what[1]),
        );
    }
}

fn verbs(list: &Field, known: &[&str], errors: &mut Errors) {
    starred(list, ["verbs must contain at least one value", "verbs"], errors);
    if list.strings().any(|verb| verb != "*" && !known.contains(&verb)) {
        list.unsupported(errors, known);
    }
}

fn resource_rule(rule: &Field, errors: &mut Errors) {
    verbs(&rule.get("verbs"), VERBS, errors);
    starred(
        &rule.get("apiGroups"),
        ["resource rules must supply at least one api group", "api groups"],
        errors,
    );
    starred(
        &rule.get("resources"),
        ["resource rules must supply at least one resource", "resources"],
        errors,
    );
    let namespaces = rule.get("namespaces");
    if namespaces.is_empty() {
        if !rule.get("clusterScope").is_true() {
            namespaces.required(
                errors,
                "resource rules that are not cluster scoped must supply at least one namespace",
            );
        }
        return;
    }
    if namespaces.len() > 1 && namespaces.strings().any(|n| n == "*") {
        namespaces.invalid(errors, "if '*' is present, must not specify other namespaces");
    }
    for namespace in namespaces.items().filter(|n| n.str() != "*") {
        let problems = format::dns_label(namespace.str());
        if !problems.is_empty() {
            namespace.invalid(
                errors,
                &format!("nonexistent or invalid namespace: {}", problems.join("; ")),
            );
        }
    }
}

fn url_rule(rule: &Field, errors: &mut Errors) {
    verbs(&rule.get("verbs"), HTTP_VERBS, errors);
    let urls = rule.get("nonResourceURLs");
    starred(
        &urls,
        ["nonResourceURLs must contain at least one value", "non-resource URLs"],
        errors,
    );
    for url in urls.items().filter(|u| u.str() != "*") {
        let path = url.str();
        if path.is_empty() {
            url.invalid(errors, "must not be empty");
        } else if path == "/" {
        } else if !path.starts_with('/') {
            url.invalid(errors, "must start with slash");
        } else if path.contains(' ') {
            url.invalid(errors, "must not contain white-space");
        } else if path.contains("//") {
            url.invalid(errors, "must not contain double slash");
        } else if path.strip_suffix("/*").unwrap_or(path).contains('*') {
            url.invalid(errors, "wildcard can only do suffix matching");
        }
    }
}

#[derive(Debug)]
pub struct Levels;

impl Strategy for Levels {
    fn shape(&self) -> Shape {
        Shape::FULL
    }
    fn prepare_update(&self, context: &Context<'_>, new: &mut Object, old: &Object) {
        self.shape().prepare_update(context, new, old);
        keep_metadata(context, new, old);
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let spec = Field::root(new, "spec");
        let (kind, limited, exempt) = (spec.get("type"), spec.get("limited"), spec.get("exempt"));
        let should_be_exempt = new.name() == "exempt";
        match kind.str() {
            "Exempt" => {
                if !should_be_exempt {
                    kind.invalid(errors, "must be 'Limited' if name is not 'exempt'");
                }
                if limited.present() {
                    limited.forbidden(errors, "must be nil if the type is not Limited");
                }
                share(&exempt, errors);
            }
            "Limited" => {
                if should_be_exempt {
                    kind.invalid(errors, "must be 'Exempt' if name is 'exempt'");
                }
                if exempt.present() {
                    exempt.forbidden(errors, "must be nil if the type is Limited");
                }
                if limited.present() {
                    share(&limited, errors);
                    let most = limited.get("borrowingLimitPercent");
                    if most.int().is_some_and(|n| n < 0) {
                        most.invalid(errors, "if specified, must be a non-negative integer");
                    }
                    response(&limited.get("limitResponse"), errors);
                } else {
                    limited.required(errors, "must not be empty when type is Limited");
                }
            }
            _ => kind.unsupported(errors, &["Exempt", "Limited"]),
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, _old: &Object, errors: &mut Errors) {
        if context.subresource == "status" {
            return conditions(new, errors);
        }
        self.validate(context, new, errors);
    }
}

fn share(field: &Field, errors: &mut Errors) {
    let (shares, lendable) = (field.get("nominalConcurrencyShares"), field.get("lendablePercent"));
    if shares.int().is_some_and(|n| n < 0) {
        shares.invalid(errors, "must be a non-negative integer");
    }
    if lendable.int().is_some_and(|n| !(0..=100).contains(&n)) {
        lendable.invalid(errors, "must be between 0 and 100, inclusive");
    }
}

fn response(field: &Field, errors: &mut Errors) {
    const MOST_QUEUES: i64 = 10_000_000;
    /// Hands are dealt from a hash of so many bits.
    const HASH_BITS: f64 = 60.0;
    let (kind, queuing) = (field.get("type"), field.get("queuing"));
    match kind.str() {
        "Reject" => {
            if queuing.present() {
                queuing.forbidden(errors, "must be nil if limited.limitResponse.type is not Limited");
            }
        }
        "Queue" if !queuing.present() => {
            queuing.required(errors, "must not be empty if limited.limitResponse.type is Limited");
        }
        "Queue" => {
            let (queues, length, hand) = (
                queuing.get("queues"),
                queuing.get("queueLengthLimit"),
                queuing.get("handSize"),
            );
            if length.number() <= 0 {
                length.invalid(errors, "must be positive");
            }
            if queues.number() <= 0 {
                queues.invalid(errors, "must be positive");
            } else if queues.number() > MOST_QUEUES {
                queues.invalid(errors, &format!("must not be greater than {MOST_QUEUES}"));
            }
            if hand.number() <= 0 {
                hand.invalid(errors, "must be positive");
            } else if hand.number() > queues.number() {
                hand.invalid(
                    errors,
                    &format!("should not be greater than queues ({})", queues.number()),
                );
            } else if (queues.number() as f64).log2().ceil() * hand.number() as f64 > HASH_BITS {
                hand.invalid(
                    errors,
                    "required entropy bits of deckSize and handSize should not be greater than 60",
                );
            }
        }
        _ => kind.unsupported(errors, &["Queue", "Reject"]),
    }
}
