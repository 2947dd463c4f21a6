//! Jobs and CronJobs: pods that end (kubernetes/pkg/apis/batch/validation/validation.go, 1.36).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::field::{Field, IMMUTABLE, same};
use super::{Context, Shape, Strategy, format, meta, pod, template};
use crate::object::Object;
use crate::status::Errors;

/// Labels that tie pods to their job: name, legacy name, and whether they carry the uid (or the name).
const UID: &str = "batch.kubernetes.io/controller-uid";
const LEGACY_UID: &str = "controller-uid";
const NAME: &str = "batch.kubernetes.io/job-name";
const LEGACY_NAME: &str = "job-name";

const MAX_INDEXED: i64 = 100_000;

#[derive(Debug)]
pub struct Jobs;

impl Strategy for Jobs {
    fn shape(&self) -> Shape {
        Shape::FULL
    }
    fn default(&self, new: &mut Object) {
        template::default(new);
    }
    fn prepare_create(&self, _context: &Context<'_>, new: &mut Object) {
        self.shape().prepare_create(new);
        if Field::root(new, "spec.manualSelector").is_true() {
            return;
        }
        let own = [
            (UID, new.uid().to_owned()),
            (LEGACY_UID, new.uid().to_owned()),
            (NAME, new.name().to_owned()),
            (LEGACY_NAME, new.name().to_owned()),
        ];
        let labels = Field::root(new, "spec.template.metadata.labels").value().cloned();
        // A job without labels took its template's: it takes these with them.
        let shared = labels.is_some() && new.at(&["metadata", "labels"]) == labels.as_ref();
        let uid = new.uid().to_owned();
        let Some(spec) = new.0.get_mut("spec").and_then(Value::as_object_mut) else {
            return;
        };
        let pods = entry(spec, "template");
        let labels = entry(entry(pods, "metadata"), "labels");
        for (name, value) in &own {
            labels.entry(*name).or_insert_with(|| value.clone().into());
        }
        entry(entry(spec, "selector"), "matchLabels")
            .entry(UID)
            .or_insert_with(|| uid.into());
        if shared {
            let labels = entry(new.metadata_mut(), "labels");
            for (name, value) in own {
                labels.entry(name).or_insert_with(|| value.into());
            }
        }
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let spec = Field::root(new, "spec");
        generated_selector(new, &spec, errors);
        let selector = spec.get("selector");
        let mut own = Errors::default();
        if !selector.present() {
            selector.required(errors, "");
        } else {
            meta::label_selector(&selector, &mut own);
            if own.is_empty() {
                template::selected(&spec.get("template"), &selector, errors);
            }
        }
        errors.extend(own);
        job_spec(&spec, errors);
        if spec.get("completionMode").str() == "Indexed"
            && let Some(completions @ 1..) = spec.get("completions").int()
        {
            // The last pod's host name is the longest.
            let host = format!("{}-{}", new.name(), completions - 1);
            if !format::dns_label(&host).is_empty() {
                Field::root(new, "metadata.name").invalid(
                    errors,
                    &format!("will not able to create pod with invalid DNS label: {host}"),
                );
            }
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        let (spec, was) = (Field::root(new, "spec"), Field::root(old, "spec"));
        if context.subresource == "status" {
            return status(new, old, errors);
        }
        job_spec(&spec, errors);
        for name in [
            "selector",
            "completionMode",
            "podFailurePolicy",
            "backoffLimitPerIndex",
            "managedBy",
            "successPolicy",
        ] {
            let field = spec.get(name);
            if !same(field.value(), was.get(name).value()) {
                errors.invalid(field, field.shown(), IMMUTABLE);
            }
        }
        // An indexed job grows and shrinks when both numbers do.
        let (completions, parallelism) = (spec.get("completions"), spec.get("parallelism"));
        if !same(completions.value(), was.get("completions").value()) {
            let elastic = spec.get("completionMode").str() == "Indexed"
                && completions.int().is_some()
                && completions.int() == parallelism.int();
            if !elastic {
                errors.invalid(completions, completions.shown(), IMMUTABLE);
            }
        }
        let suspended = was.get("suspend").is_true() && !Field::root(old, "status.startTime").present();
        let field = spec.get("template");
        let mut now = field.value().cloned().unwrap_or_default();
        let before = was.get("template").value().cloned().unwrap_or_default();
        if suspended {
            put_back_directives(&mut now, &before);
        }
        if !same(Some(&now), Some(&before)) {
            errors.invalid(field, field.shown(), IMMUTABLE);
        }
    }
    fn warnings(&self, _context: &Context<'_>, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut out = Vec::new();
        if old.is_none() && !format::dns_label(new.name()).is_empty() {
            out.push(format!(
                "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
                format::dns_label(new.name()).join(" ")
            ));
        }
        out.extend(pod::spec_warnings(
            &Field::root(new, "spec.template.metadata.annotations"),
            &Field::root(new, "spec.template.spec"),
        ));
        out
    }
}

/// Where the pods of a job that has not started may run can still change.
fn put_back_directives(now: &mut Value, before: &Value) {
    for path in [
        "/metadata/labels",
        "/metadata/annotations",
        "/spec/nodeSelector",
        "/spec/tolerations",
        "/spec/affinity",
        "/spec/schedulingGates",
    ] {
        let (parent, name) = path.rsplit_once('/').expect("each path has a parent");
        let value = before.pointer(path).cloned();
        if let Some(map) = now.pointer_mut(parent).and_then(Value::as_object_mut) {
            match value {
                Some(value) => map.insert(name.into(), value),
                None => map.remove(name),
            };
        }
    }
}

fn entry<'a>(map: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let slot = map.entry(name).or_insert_with(|| json!({}));
    if !slot.is_object() {
        *slot = json!({});
    }
    slot.as_object_mut().expect("made an object above")
}

/// Whoever lets the server choose the selector may not have chosen another.
fn generated_selector(job: &Object, spec: &Field, errors: &mut Errors) {
    if spec.get("manualSelector").is_true() || !spec.get("selector").present() {
        return;
    }
    let labels = spec.get("template.metadata.labels");
    for (key, want) in [
        (UID, job.uid()),
        (LEGACY_UID, job.uid()),
        (NAME, job.name()),
        (LEGACY_NAME, job.name()),
    ] {
        let label = labels.key(key);
        if !label.present() {
            label.required(errors, &format!("must be '{want}'"));
        } else if label.str() != want {
            label.invalid_as(errors, labels.shown().clone(), &format!("must be '{want}'"));
        }
    }
    let selector = spec.get("selector");
    let by = |key: &str| selector.get("matchLabels").key(key).str() == job.uid();
    if !by(UID) && !by(LEGACY_UID) {
        selector.invalid(errors, "`selector` not auto-generated");
    }
}

/// JobSpec but for its selector: also of CronJobs.
fn job_spec(spec: &Field, errors: &mut Errors) {
    for name in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        spec.get(name).non_negative(errors);
    }
    let (mode, completions, parallelism) = (
        spec.get("completionMode"),
        spec.get("completions"),
        spec.get("parallelism"),
    );
    let per_index = spec.get("backoffLimitPerIndex");
    if mode.present() {
        mode.one_of(errors, &["Indexed", "NonIndexed"]);
    }
    if mode.str() == "Indexed" {
        if !completions.present() {
            completions.required(errors, "when completion mode is Indexed");
        }
        if parallelism.number() > MAX_INDEXED {
            parallelism.invalid(
                errors,
                &format!("must be less than or equal to {MAX_INDEXED} when completion mode is Indexed"),
            );
        }
        let failed = spec.get("maxFailedIndexes");
        if failed.present() && failed.number() > completions.number() {
            failed.invalid(errors, "must be less than or equal to completions");
        }
    } else {
        if per_index.present() {
            per_index.invalid(errors, "requires indexed completion mode");
        }
        if spec.get("maxFailedIndexes").present() {
            spec.get("maxFailedIndexes")
                .invalid(errors, "requires indexed completion mode");
        }
    }
    if spec.get("maxFailedIndexes").present() && !per_index.present() {
        per_index.required(errors, "when maxFailedIndexes is specified");
    }
    let manager = spec.get("managedBy");
    if manager.present() {
        if !manager.str().contains('/') || !format::qualified_name(manager.str()).is_empty() {
            manager.invalid(errors, "must be a domain-prefixed path (such as \"acme.io/foo\")");
        }
        if manager.str().len() > 63 {
            errors.too_long(manager, 63);
        }
    }
    let policy = spec.get("podFailurePolicy");
    if policy.present() {
        failure_policy(&policy, per_index.present(), &spec.get("template.spec"), errors);
    }
    let replacement = spec.get("podReplacementPolicy");
    if replacement.present() {
        let supported: &[&str] = if policy.present() {
            &["Failed"]
        } else {
            &["Failed", "TerminatingOrFailed"]
        };
        replacement.one_of(errors, supported);
    }
    success_policy(spec, errors);

    let pods = spec.get("template");
    template::validate(&pods, errors);
    let restart = pods.get("spec.restartPolicy");
    match restart.str() {
        "" | "Always" => restart.required(errors, "valid values: [\"OnFailure\" \"Never\"]"),
        "OnFailure" | "Never" => {}
        _ => restart.unsupported(errors, &["OnFailure", "Never"]),
    }
    if policy.present() && restart.str() == "OnFailure" {
        restart.invalid(errors, "only \"Never\" is supported when podFailurePolicy is specified");
    }
}

fn failure_policy(policy: &Field, per_index: bool, pods: &Field, errors: &mut Errors) {
    let rules = policy.get("rules");
    if rules.len() > 20 {
        errors.too_many(rules, rules.len(), 20);
    }
    for rule in rules.items() {
        let (action, codes, conditions) = (rule.get("action"), rule.get("onExitCodes"), rule.get("onPodConditions"));
        match action.str() {
            "" => action.required(errors, "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"),
            "FailIndex" if !per_index => action.invalid(errors, "requires the backoffLimitPerIndex to be set"),
            "FailIndex" | "FailJob" | "Ignore" | "Count" => {}
            _ => action.unsupported(errors, &["Count", "FailIndex", "FailJob", "Ignore"]),
        }
        if codes.present() {
            exit_codes(&codes, pods, errors);
        }
        if conditions.len() > 20 {
            errors.too_many(conditions, conditions.len(), 20);
        }
        for condition in conditions.items() {
            let (kind, value) = (condition.get("type"), condition.get("status"));
            kind.each_invalid(errors, format::qualified_name(kind.str()));
            match value.str() {
                "" => value.required(errors, "valid values: [\"False\" \"True\" \"Unknown\"]"),
                "True" | "False" | "Unknown" => {}
                _ => value.unsupported(errors, &["False", "True", "Unknown"]),
            }
        }
        match (codes.present(), conditions.is_empty()) {
            (true, false) => {
                rule.invalid(
                    errors,
                    "specifying both OnExitCodes and OnPodConditions is not supported",
                );
            }
            (false, true) => rule.invalid(errors, "specifying one of OnExitCodes and OnPodConditions is required"),
            _ => {}
        }
    }
}

fn exit_codes(field: &Field, pods: &Field, errors: &mut Errors) {
    let (operator, values, container) = (field.get("operator"), field.get("values"), field.get("containerName"));
    match operator.str() {
        "" => operator.required(errors, "valid values: [\"In\" \"NotIn\"]"),
        "In" | "NotIn" => {}
        _ => operator.unsupported(errors, &["In", "NotIn"]),
    }
    if container.present() {
        let known = ["containers", "initContainers"]
            .iter()
            .any(|kind| pods.get(kind).items().any(|c| c.get("name").str() == container.str()));
        if !known {
            container.invalid(
                errors,
                "must be one of the container or initContainer names in the pod template",
            );
        }
    }
    if values.is_empty() {
        values.invalid(errors, "at least one value is required");
    } else if values.len() > 255 {
        errors.too_many(values, values.len(), 255);
    }
    let mut seen = BTreeSet::new();
    let mut last = i64::MIN;
    let mut ordered = true;
    for value in values.items() {
        let number = value.number();
        if operator.str() == "In" && number == 0 {
            value.invalid(errors, "must not be 0 for the In operator");
        }
        if !seen.insert(number) {
            value.duplicate(errors);
        }
        ordered &= last <= number;
        last = number;
    }
    if !ordered {
        values.invalid(errors, "must be ordered");
    }
}

fn success_policy(spec: &Field, errors: &mut Errors) {
    let policy = spec.get("successPolicy");
    if !policy.present() {
        return;
    }
    if spec.get("completionMode").str() != "Indexed" {
        policy.invalid(errors, "requires indexed completion mode");
    }
    let rules = policy.get("rules");
    if rules.is_empty() {
        rules.required(
            errors,
            "at least one rules must be specified when the successPolicy is specified",
        );
    }
    if rules.len() > 20 {
        errors.too_many(rules, rules.len(), 20);
    }
    for rule in rules.items() {
        let (count, indexes) = (rule.get("succeededCount"), rule.get("succeededIndexes"));
        if !count.present() && !indexes.present() {
            rule.required(
                errors,
                "at least one of succeededCount or succeededIndexes must be specified",
            );
        }
        count.non_negative(errors);
        if count.present() && count.number() > spec.get("completions").number() {
            count.invalid(
                errors,
                &format!(
                    "must be less than or equal to {} (the number of specified completions)",
                    spec.get("completions").number()
                ),
            );
        }
        if indexes.present() {
            let good = indexes.str().split(',').all(|part| {
                let mut ends = part.splitn(2, '-').map(str::parse::<i64>);
                ends.all(|end| end.is_ok_and(|n| n >= 0 && n < spec.get("completions").number().max(1)))
            });
            if !good {
                indexes.invalid(errors, "error parsing succeededIndexes");
            }
        }
    }
}

fn status(new: &Object, old: &Object, errors: &mut Errors) {
    let (status, was) = (Field::root(new, "status"), Field::root(old, "status"));
    for name in ["active", "succeeded", "failed", "ready", "terminating"] {
        status.get(name).non_negative(errors);
    }
    let is = |field: &Field, kind: &str| {
        field
            .get("conditions")
            .items()
            .any(|c| c.get("type").str() == kind && c.get("status").str() == "True")
    };
    // An end is an end.
    for kind in ["Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"] {
        if is(&was, kind) && !is(&status, kind) {
            errors.invalid(
                status.get("conditions"),
                status.get("conditions").shown(),
                &format!("cannot disable the {kind}=True condition"),
            );
        }
    }
    if is(&status, "Complete") && is(&status, "Failed") {
        errors.invalid(
            status.get("conditions"),
            status.get("conditions").shown(),
            "cannot set Complete=True and Failed=true conditions",
        );
    }
    let completion = status.get("completionTime");
    if completion.present() && !is(&status, "Complete") {
        completion.invalid(errors, "completionTime set for a non-complete job");
    }
    if is(&status, "Complete") && !completion.present() {
        completion.required(errors, "completionTime is required for Complete jobs");
    }
    if (is(&status, "Complete") || is(&status, "Failed")) && status.get("active").number() > 0 {
        status
            .get("active")
            .invalid(errors, "active>0 is invalid for finished job");
    }
}

#[derive(Debug)]
pub struct CronJobs;

impl Strategy for CronJobs {
    fn shape(&self) -> Shape {
        Shape::FULL
    }
    fn default(&self, new: &mut Object) {
        let pods = new
            .0
            .get_mut("spec")
            .and_then(|spec| spec.pointer_mut("/jobTemplate/spec/template/spec"));
        if let Some(spec) = pods.and_then(Value::as_object_mut) {
            template::default_spec(spec);
        }
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let name = Field::root(new, "metadata.name");
        // The controller appends eleven characters to make the name of a job.
        if name.str().len() > 52 {
            name.invalid(errors, "must be no more than 52 characters");
        }
        self.spec(new, true, errors);
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        if context.subresource == "status" {
            return;
        }
        let changed = Field::root(new, "spec.schedule").str() != Field::root(old, "spec.schedule").str();
        self.spec(new, changed, errors);
    }
    fn warnings(&self, _context: &Context<'_>, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut out = Vec::new();
        let schedule = Field::root(new, "spec.schedule").str();
        if schedule.contains("TZ") {
            out.push("CRON_TZ or TZ used in spec.schedule is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".into());
        }
        out.extend(pod::spec_warnings(
            &Field::root(new, "spec.jobTemplate.spec.template.metadata.annotations"),
            &Field::root(new, "spec.jobTemplate.spec.template.spec"),
        ));
        out
    }
}

impl CronJobs {
    fn spec(&self, new: &Object, fresh: bool, errors: &mut Errors) {
        let spec = Field::root(new, "spec");
        let (schedule, zone) = (spec.get("schedule"), spec.get("timeZone"));
        let zoned = schedule.str().contains("TZ");
        if schedule.str().is_empty() {
            schedule.required(errors, "");
        } else if zoned && zone.present() {
            schedule.invalid(errors, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
        } else if zoned && fresh {
            schedule.invalid(
                errors,
                "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            );
        } else if !zoned && let Err(why) = api::cron::parse(schedule.str()) {
            schedule.invalid(errors, &why);
        }
        if zone.present() {
            time_zone(&zone, errors);
        }
        for name in [
            "startingDeadlineSeconds",
            "successfulJobsHistoryLimit",
            "failedJobsHistoryLimit",
        ] {
            spec.get(name).non_negative(errors);
        }
        let policy = spec.get("concurrencyPolicy");
        if policy.str().is_empty() {
            policy.required(errors, "");
        } else {
            policy.one_of(errors, &["Allow", "Forbid", "Replace"]);
        }
        let job = spec.get("jobTemplate");
        meta::labels(&job.get("labels").with(job.get("metadata.labels").value()), errors);
        meta::annotations(
            &job.get("annotations").with(job.get("metadata.annotations").value()),
            errors,
        );
        job_spec(&job.get("spec"), errors);
    }
}

fn time_zone(zone: &Field, errors: &mut Errors) {
    let name = zone.str();
    if name.is_empty() {
        return zone.invalid(errors, "timeZone must be nil or non-empty string");
    }
    if name.eq_ignore_ascii_case("local") {
        return zone.invalid(
            errors,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        );
    }
    // A machine without a time zone database cannot tell: the controller will, with an event.
    let unknown = jiff::tz::TimeZone::get(name).is_err() && !jiff::tz::db().is_definitively_empty();
    if unknown && name != "UTC" {
        zone.invalid(errors, &format!("unknown time zone {name}"));
    }
}
