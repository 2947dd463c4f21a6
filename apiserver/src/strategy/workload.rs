//! What keeps pods running: Deployments, ReplicaSets, StatefulSets, DaemonSets, ReplicationControllers and the
//! revisions of two of them (kubernetes/pkg/apis/apps/validation/validation.go, 1.36).

use serde_json::{Value, json};

use super::field::{Field, IMMUTABLE, same};
use super::{
    Context, Propagation, Reset, Shape, Strategy, bump_generation, format, int_or_percent, meta, pod, template, volume,
};
use crate::object::Object;
use crate::status::Errors;

/// The selector of a workload: there, not empty, and well formed.
fn selector(field: &Field, kind: &str, errors: &mut Errors) -> bool {
    if !field.present() {
        field.required(errors, "");
        return true;
    }
    let mut own = Errors::default();
    meta::label_selector(field, &mut own);
    let good = own.is_empty();
    errors.extend(own);
    if meta::selector_is_empty(field) {
        field.invalid(errors, &format!("empty selector is invalid for {kind}"));
    }
    if !good {
        field.invalid(errors, "invalid label selector");
    }
    good
}

/// The template of a workload whose selector is good.
fn selected_template(field: &Field, selector: &Field, kind: &str, errors: &mut Errors) {
    if !(selector.present() && meta::selector_is_empty(selector)) {
        template::selected(field, selector, errors);
    }
    template::validate(field, errors);
    template::always_restarts(field, kind, errors);
}

fn non_negative(spec: &Field, names: &[&str], errors: &mut Errors) {
    for name in names {
        spec.get(name).non_negative(errors);
    }
}

fn immutable(new: &Object, old: &Object, path: &str, errors: &mut Errors) {
    let field = Field::root(new, path);
    if !same(field.value(), Field::root(old, path).value()) {
        errors.invalid(field, field.shown(), IMMUTABLE);
    }
}

fn template_warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    // What was there before was warned of before.
    let template = Field::root(new, "spec.template");
    if old.is_some_and(|old| same(Field::root(old, "spec.template").value(), template.value())) {
        return Vec::new();
    }
    pod::spec_warnings(&template.get("metadata.annotations"), &template.get("spec"))
}

#[derive(Debug)]
pub struct Deployments;

impl Strategy for Deployments {
    fn reset(&self, subresource: &str) -> Reset {
        match subresource {
            "" => Reset::Paths(&[&["status"]]),
            "status" => Reset::Paths(&[&["spec"], &["metadata", "labels"]]),
            _ => Reset::NOTHING,
        }
    }
    fn shape(&self) -> Shape {
        Shape::FULL
    }
    fn default(&self, new: &mut Object) {
        template::default(new);
    }
    fn prepare_update(&self, context: &Context<'_>, new: &mut Object, old: &Object) {
        self.shape().prepare_update(context, new, old);
        if context.subresource == "status" {
            // Labels tell the controller what is whose: a status write does not change them.
            let labels = old.at(&["metadata", "labels"]).cloned();
            match labels {
                Some(labels) => new.metadata_mut().insert("labels".into(), labels),
                None => new.metadata_mut().remove("labels"),
            };
        } else if !same(
            new.at(&["metadata", "annotations"]),
            old.at(&["metadata", "annotations"]),
        ) {
            // Annotations go to the ReplicaSets, so they count as spec.
            bump_generation(new, old);
        }
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let spec = Field::root(new, "spec");
        non_negative(
            &spec,
            &[
                "replicas",
                "minReadySeconds",
                "revisionHistoryLimit",
                "progressDeadlineSeconds",
            ],
            errors,
        );
        let field = spec.get("selector");
        if selector(&field, "deployment", errors) {
            selected_template(&spec.get("template"), &field, "ReplicaSet", errors);
        }
        deployment_strategy(&spec.get("strategy"), errors);
        let deadline = spec.get("progressDeadlineSeconds");
        if deadline
            .int()
            .is_some_and(|seconds| seconds <= spec.get("minReadySeconds").number())
        {
            deadline.invalid(errors, "must be greater than minReadySeconds");
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        if context.subresource == "status" {
            return status_counts(
                new,
                old,
                &[
                    "observedGeneration",
                    "replicas",
                    "updatedReplicas",
                    "readyReplicas",
                    "availableReplicas",
                    "unavailableReplicas",
                ],
                errors,
            );
        }
        self.validate(context, new, errors);
        immutable(new, old, "spec.selector", errors);
    }
    fn warnings(&self, _context: &Context<'_>, new: &Object, old: Option<&Object>) -> Vec<String> {
        template_warnings(new, old)
    }
}

/// Counts of a status: none negative, no part larger than the whole.
fn status_counts(new: &Object, old: &Object, names: &[&str], errors: &mut Errors) {
    let status = Field::root(new, "status");
    non_negative(&status, names, errors);
    let all = status.get("replicas").number();
    for part in [
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "fullyLabeledReplicas",
    ] {
        if names.contains(&part) && status.get(part).number() > all {
            status
                .get(part)
                .invalid(errors, "cannot be greater than status.replicas");
        }
    }
    let (ready, available) = (status.get("readyReplicas").number(), status.get("availableReplicas"));
    if names.contains(&"availableReplicas") && available.number() > ready {
        available.invalid(errors, "cannot be greater than readyReplicas");
    }
    let collisions = status.get("collisionCount");
    if let (Some(now), Some(then)) = (collisions.int(), Field::root(old, "status.collisionCount").int())
        && now < then
    {
        collisions.invalid(errors, "cannot be decremented");
    }
    collisions.non_negative(errors);
}

fn deployment_strategy(field: &Field, errors: &mut Errors) {
    let update = field.get("rollingUpdate");
    match field.get("type").str() {
        "Recreate" => {
            if update.present() {
                update.forbidden(errors, "may not be specified when strategy `type` is 'Recreate'");
            }
        }
        "RollingUpdate" => {
            let (unavailable, surge) = (update.get("maxUnavailable"), update.get("maxSurge"));
            if !update.present() {
                return update.required(errors, "this should be defaulted and never be nil");
            }
            int_or_percent::validate(&unavailable, errors);
            int_or_percent::validate(&surge, errors);
            if int_or_percent::is_none(&unavailable) && int_or_percent::is_none(&surge) {
                unavailable.invalid(errors, "may not be 0 when `maxSurge` is 0");
            }
            int_or_percent::at_most_all(&unavailable, errors);
        }
        _ => errors.unsupported(field, field.shown(), &["Recreate", "RollingUpdate"]),
    }
}

#[derive(Debug)]
pub struct ReplicaSets;

impl Strategy for ReplicaSets {
    fn shape(&self) -> Shape {
        Shape::FULL
    }
    fn default(&self, new: &mut Object) {
        template::default(new);
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let spec = Field::root(new, "spec");
        non_negative(&spec, &["replicas", "minReadySeconds"], errors);
        let field = spec.get("selector");
        if selector(&field, "deployment", errors) {
            selected_template(&spec.get("template"), &field, "ReplicaSet", errors);
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        if context.subresource == "status" {
            return status_counts(
                new,
                old,
                &[
                    "replicas",
                    "fullyLabeledReplicas",
                    "readyReplicas",
                    "availableReplicas",
                    "observedGeneration",
                ],
                errors,
            );
        }
        self.validate(context, new, errors);
        immutable(new, old, "spec.selector", errors);
    }
    fn warnings(&self, _context: &Context<'_>, new: &Object, old: Option<&Object>) -> Vec<String> {
        template_warnings(new, old)
    }
}

#[derive(Debug)]
pub struct StatefulSets;

impl Strategy for StatefulSets {
    fn shape(&self) -> Shape {
        Shape::FULL
    }
    fn default(&self, new: &mut Object) {
        template::default(new);
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let spec = Field::root(new, "spec");
        let (policy, update) = (spec.get("podManagementPolicy"), spec.get("updateStrategy"));
        match policy.str() {
            "" => policy.required(errors, ""),
            "OrderedReady" | "Parallel" => {}
            _ => policy.invalid(errors, "must be 'OrderedReady' or 'Parallel'"),
        }
        let rolling = update.get("rollingUpdate");
        match update.get("type").str() {
            "" => update.required(errors, ""),
            "OnDelete" => {
                if rolling.present() {
                    rolling.invalid(errors, "only allowed for updateStrategy 'RollingUpdate'");
                }
            }
            "RollingUpdate" => {
                rolling.get("partition").non_negative(errors);
                let unavailable = rolling.get("maxUnavailable");
                if unavailable.present() {
                    int_or_percent::validate(&unavailable, errors);
                    if int_or_percent::is_none(&unavailable) {
                        unavailable.invalid(errors, "cannot be 0");
                    }
                    int_or_percent::at_most_all(&unavailable, errors);
                }
            }
            _ => update.invalid(errors, "must be 'RollingUpdate' or 'OnDelete'"),
        }
        let retention = spec.get("persistentVolumeClaimRetentionPolicy");
        for when in ["whenDeleted", "whenScaled"] {
            let field = retention.get(when);
            if retention.present() && !matches!(field.str(), "Retain" | "Delete") {
                field.unsupported(errors, &["Delete", "Retain"]);
            }
        }
        non_negative(&spec, &["replicas", "minReadySeconds", "revisionHistoryLimit"], errors);
        spec.get("ordinals.start").non_negative(errors);
        let service = spec.get("serviceName");
        if !service.str().is_empty() {
            service.each_invalid(errors, format::dns_label(service.str()));
        }
        let claims = spec.get("volumeClaimTemplates");
        for claim in claims.items() {
            volume::claim_spec(&claim.get("spec"), errors);
        }
        let field = spec.get("selector");
        if selector(&field, "statefulset", errors) {
            // Each claim is a volume of the pods, in front of their own, which give way to one of the same name.
            let template = with_claims(spec.get("template").value(), &claims);
            selected_template(
                &spec.get("template").with(Some(&template)),
                &field,
                "StatefulSet",
                errors,
            );
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        if context.subresource == "status" {
            return status_counts(
                new,
                old,
                &[
                    "replicas",
                    "readyReplicas",
                    "currentReplicas",
                    "updatedReplicas",
                    "availableReplicas",
                    "observedGeneration",
                ],
                errors,
            );
        }
        self.validate(context, new, errors);
        const MUTABLE: &[&str] = &[
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        ];
        let fixed = |object: &Object| {
            let mut spec = object.0.get("spec").cloned().unwrap_or_default();
            if let Some(spec) = spec.as_object_mut() {
                MUTABLE.iter().for_each(|name| drop(spec.remove(*name)));
            }
            spec
        };
        if !same(Some(&fixed(new)), Some(&fixed(old))) {
            Field::root(new, "spec").forbidden(
                errors,
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            );
        }
    }
    fn warnings(&self, _context: &Context<'_>, new: &Object, old: Option<&Object>) -> Vec<String> {
        template_warnings(new, old)
    }
}

fn with_claims(template: Option<&Value>, claims: &Field) -> Value {
    let mut template = template.cloned().unwrap_or_else(|| json!({}));
    let names: Vec<&str> = claims.items().map(|claim| claim.get("metadata.name").str()).collect();
    let mut volumes: Vec<Value> = names
        .iter()
        .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
        .collect();
    if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
        let own = spec.remove("volumes");
        let own = own.as_ref().and_then(Value::as_array).into_iter().flatten();
        volumes.extend(
            own.filter(|v| !names.contains(&v["name"].as_str().unwrap_or("")))
                .cloned(),
        );
        spec.insert("volumes".into(), volumes.into());
    }
    template
}

#[derive(Debug)]
pub struct DaemonSets;

impl Strategy for DaemonSets {
    fn shape(&self) -> Shape {
        Shape::FULL
    }
    fn default(&self, new: &mut Object) {
        template::default(new);
    }
    fn prepare_create(&self, _context: &Context<'_>, new: &mut Object) {
        self.shape().prepare_create(new);
        // Revisions made before 1.9 count templates here; the annotation is where that number lives on.
        let annotations = new.metadata_mut().entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(TEMPLATE_GENERATION.into(), "1".into());
        }
    }
    fn prepare_update(&self, context: &Context<'_>, new: &mut Object, old: &Object) {
        self.shape().prepare_update(context, new, old);
        if context.subresource == "status" {
            return;
        }
        let before = old
            .str_at(&["metadata", "annotations", TEMPLATE_GENERATION])
            .parse::<i64>()
            .unwrap_or(0);
        let changed = !same(new.at(&["spec", "template"]), old.at(&["spec", "template"]));
        let now = before + i64::from(changed);
        let annotations = new.metadata_mut().entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(TEMPLATE_GENERATION.into(), now.to_string().into());
        }
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let spec = Field::root(new, "spec");
        let (field, pods) = (spec.get("selector"), spec.get("template"));
        let mut own = Errors::default();
        meta::label_selector(&field, &mut own);
        if own.is_empty() {
            template::selected(&pods, &field, errors);
        }
        errors.extend(own);
        if field.present() && meta::selector_is_empty(&field) {
            field.invalid(errors, "empty selector is invalid for daemonset");
        }
        template::validate(&pods, errors);
        template::always_restarts(&pods, "DaemonSet", errors);
        non_negative(&spec, &["minReadySeconds", "revisionHistoryLimit"], errors);
        daemon_strategy(&spec.get("updateStrategy"), errors);
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        if context.subresource == "status" {
            return status_counts(
                new,
                old,
                &[
                    "currentNumberScheduled",
                    "numberMisscheduled",
                    "desiredNumberScheduled",
                    "numberReady",
                    "observedGeneration",
                    "updatedNumberScheduled",
                    "numberAvailable",
                    "numberUnavailable",
                ],
                errors,
            );
        }
        self.validate(context, new, errors);
        immutable(new, old, "spec.selector", errors);
    }
    fn warnings(&self, _context: &Context<'_>, new: &Object, old: Option<&Object>) -> Vec<String> {
        template_warnings(new, old)
    }
}

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn daemon_strategy(field: &Field, errors: &mut Errors) {
    let update = field.get("rollingUpdate");
    match field.get("type").str() {
        "OnDelete" => {}
        "RollingUpdate" if !update.present() => update.required(errors, ""),
        "RollingUpdate" => {
            let (unavailable, surge) = (update.get("maxUnavailable"), update.get("maxSurge"));
            int_or_percent::validate(&unavailable, errors);
            int_or_percent::validate(&surge, errors);
            match (int_or_percent::is_none(&unavailable), int_or_percent::is_none(&surge)) {
                (false, false) => surge.invalid(errors, "may not be set when maxUnavailable is non-zero"),
                (true, true) => unavailable.required(errors, "cannot be 0 when maxSurge is 0"),
                _ => {}
            }
            int_or_percent::at_most_all(&unavailable, errors);
            int_or_percent::at_most_all(&surge, errors);
        }
        _ => errors.unsupported(field, field.shown(), &["OnDelete", "RollingUpdate"]),
    }
}

#[derive(Debug)]
pub struct ReplicationControllers;

impl Strategy for ReplicationControllers {
    fn shape(&self) -> Shape {
        Shape::FULL
    }
    fn default(&self, new: &mut Object) {
        template::default(new);
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let spec = Field::root(new, "spec");
        non_negative(&spec, &["replicas", "minReadySeconds"], errors);
        let (field, pods) = (spec.get("selector"), spec.get("template"));
        if field.is_empty() {
            field.required(errors, "");
        }
        if !pods.present() {
            return pods.required(errors, "");
        }
        let labels = pods.get("metadata.labels");
        if !field.is_empty()
            && !field
                .entries()
                .all(|(key, value)| labels.key(key).value() == value.value())
        {
            labels.invalid_as(
                errors,
                labels.shown().clone(),
                "`selector` does not match template `labels`",
            );
        }
        template::validate(&pods, errors);
        template::always_restarts(&pods, "ReplicationController", errors);
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        if context.subresource == "status" {
            return status_counts(
                new,
                old,
                &[
                    "replicas",
                    "fullyLabeledReplicas",
                    "readyReplicas",
                    "availableReplicas",
                    "observedGeneration",
                ],
                errors,
            );
        }
        self.validate(context, new, errors);
    }
    fn warnings(&self, _context: &Context<'_>, new: &Object, old: Option<&Object>) -> Vec<String> {
        template_warnings(new, old)
    }
    fn propagation(&self) -> Propagation {
        // Older than the garbage collector, and never changed: its pods stay unless the request says otherwise.
        Propagation::Orphan
    }
}

#[derive(Debug)]
pub struct ControllerRevisions;

impl Strategy for ControllerRevisions {
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let data = Field::root(new, "data");
        if !data.present() {
            data.required(errors, "data is mandatory");
        } else if data.map().is_none() {
            data.invalid(errors, "data must be a valid JSON object");
        }
        Field::root(new, "revision").non_negative(errors);
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(context, new, errors);
        immutable(new, old, "data", errors);
    }
}

/// Scale: how many there should be. The registry writes it to the workload it stands for.
pub fn validate_scale(scale: &Object, errors: &mut Errors) {
    Field::root(scale, "spec.replicas").non_negative(errors);
}
