//! Roles and who has them (kubernetes/pkg/apis/rbac/validation/validation.go, 1.36). Whether a user may give what a
//! role holds is asked in admission, not here.

use super::field::{Field, same};
use super::{Context, Strategy, format, meta};
use crate::object::Object;
use crate::status::Errors;

const GROUP: &str = "rbac.authorization.k8s.io";

fn rules(new: &Object, namespaced: bool, errors: &mut Errors) {
    for rule in Field::root(new, "rules").items() {
        let (verbs, urls, groups, resources) = (
            rule.get("verbs"),
            rule.get("nonResourceURLs"),
            rule.get("apiGroups"),
            rule.get("resources"),
        );
        if verbs.is_empty() {
            verbs.required(errors, "verbs must contain at least one value");
        }
        if !urls.is_empty() {
            if namespaced {
                urls.invalid(errors, "namespaced rules cannot apply to non-resource URLs");
            }
            if !groups.is_empty() || !resources.is_empty() || !rule.get("resourceNames").is_empty() {
                urls.invalid(
                    errors,
                    "rules cannot apply to both regular resources and non-resource URLs",
                );
            }
            continue;
        }
        if groups.is_empty() {
            groups.required(errors, "resource rules must supply at least one api group");
        }
        if resources.is_empty() {
            resources.required(errors, "resource rules must supply at least one resource");
        }
    }
}

#[derive(Debug)]
pub struct Roles;

impl Strategy for Roles {
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        rules(new, true, errors);
    }
}

#[derive(Debug)]
pub struct ClusterRoles;

impl Strategy for ClusterRoles {
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        rules(new, false, errors);
        let aggregation = Field::root(new, "aggregationRule");
        if !aggregation.present() {
            return;
        }
        let selectors = aggregation.get("clusterRoleSelectors");
        if selectors.is_empty() {
            selectors.required(
                errors,
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            );
        }
        for selector in selectors.items() {
            let mut own = Errors::default();
            meta::label_selector(&selector, &mut own);
            if !own.is_empty() {
                selector.invalid(errors, "invalid label selector.");
            }
            errors.extend(own);
        }
    }
}

fn binding(new: &Object, namespaced: bool, errors: &mut Errors) {
    let role = Field::root(new, "roleRef");
    role.get("apiGroup").one_of(errors, &[GROUP]);
    role.get("kind").one_of(
        errors,
        if namespaced {
            &["ClusterRole", "Role"]
        } else {
            &["ClusterRole"]
        },
    );
    let name = role.get("name");
    if name.str().is_empty() {
        name.required(errors, "");
    } else {
        name.each_invalid(errors, format::path_segment(name.str()));
    }
    for subject in Field::root(new, "subjects").items() {
        let (name, kind, group, namespace) = (
            subject.get("name"),
            subject.get("kind"),
            subject.get("apiGroup"),
            subject.get("namespace"),
        );
        if name.str().is_empty() {
            name.required(errors, "");
        }
        match kind.str() {
            "ServiceAccount" => {
                if !name.str().is_empty() {
                    name.each_invalid(errors, format::dns_subdomain(name.str()));
                }
                if !group.str().is_empty() {
                    group.unsupported(errors, &[""]);
                }
                if !namespaced && namespace.str().is_empty() {
                    namespace.required(errors, "");
                }
            }
            "User" | "Group" => {
                group.one_of(errors, &[GROUP]);
            }
            _ => kind.unsupported(errors, &["ServiceAccount", "User", "Group"]),
        }
    }
}

fn same_role(new: &Object, old: &Object, errors: &mut Errors) {
    let role = Field::root(new, "roleRef");
    if !same(role.value(), old.0.get("roleRef")) {
        role.invalid(errors, "cannot change roleRef");
    }
}

#[derive(Debug)]
pub struct RoleBindings;

impl Strategy for RoleBindings {
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        binding(new, true, errors);
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(context, new, errors);
        same_role(new, old, errors);
    }
}

#[derive(Debug)]
pub struct ClusterRoleBindings;

impl Strategy for ClusterRoleBindings {
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        binding(new, false, errors);
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(context, new, errors);
        same_role(new, old, errors);
    }
}
