//! HorizontalPodAutoscalers, in the stored (v2) form, and the way from and to v1
//! (kubernetes/pkg/apis/autoscaling/{validation/validation,v1/conversion}.go, 1.36).

use api::quantity::Quantity;
use serde_json::{Map, Value, json};

use super::field::Field;
use super::resources::quantity;
use super::{Context, Shape, Strategy, format, meta};
use crate::object::Object;
use crate::status::Errors;

#[derive(Debug)]
pub struct Autoscalers;

impl Strategy for Autoscalers {
    fn shape(&self) -> Shape {
        Shape::STATUS
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let spec = Field::root(new, "spec");
        let (min, max) = (spec.get("minReplicas"), spec.get("maxReplicas"));
        if min.int().is_some_and(|n| n < 1) {
            min.invalid(errors, "must be greater than or equal to 1");
        }
        if max.number() == 0 {
            max.required(errors, "");
        }
        if max.number() < 1 {
            max.invalid_as(errors, max.number(), "must be greater than 0");
        }
        if min.present() && max.number() < min.number() {
            max.invalid_as(errors, max.number(), "must be greater than or equal to `minReplicas`");
        }
        reference(&spec.get("scaleTargetRef"), true, errors);
        for metric in spec.get("metrics").items() {
            metric_spec(&metric, errors);
        }
        for direction in ["scaleUp", "scaleDown"] {
            scaling_rules(&spec.get("behavior").get(direction), errors);
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, _old: &Object, errors: &mut Errors) {
        if context.subresource == "status" {
            let status = Field::root(new, "status");
            for name in ["currentReplicas", "desiredReplicas"] {
                status.get(name).non_negative(errors);
            }
            return;
        }
        self.validate(context, new, errors);
    }
}

fn reference(field: &Field, whole: bool, errors: &mut Errors) {
    for name in ["kind", "name"] {
        let part = field.get(name);
        if part.str().is_empty() {
            part.required(errors, "");
        } else {
            part.each_invalid(errors, format::path_segment(part.str()));
        }
    }
    let version = field.get("apiVersion");
    if !whole && version.str().is_empty() {
        return;
    }
    let parts: Vec<&str> = version.str().split('/').collect();
    match parts[..] {
        [version_part] if !version_part.is_empty() => {
            // Of the core group only the version stands there.
            version.each_invalid(errors, format::dns_1035_label(version_part));
            if version_part != "v1" && whole {
                version.invalid(errors, "apiVersion must specify API group");
            }
        }
        [group, version_part] => {
            version.each_invalid(errors, format::dns_subdomain(group));
            version.each_invalid(errors, format::dns_1035_label(version_part));
        }
        _ => version.invalid(errors, "apiVersion must specify API group"),
    }
}

const TYPES: &[(&str, &str)] = &[
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
    ("External", "external"),
];

fn metric_spec(metric: &Field, errors: &mut Errors) {
    let kind = metric.get("type");
    if kind.str().is_empty() {
        kind.required(errors, "must specify a metric source type");
    }
    let place = TYPES
        .iter()
        .find(|(name, _)| *name == kind.str())
        .map(|(_, place)| *place);
    if place.is_none() {
        kind.unsupported(errors, &["ContainerResource", "External", "Object", "Pods", "Resource"]);
    }
    for (_, other) in TYPES {
        let source = metric.get(other);
        if !source.present() {
            continue;
        }
        if place.is_some_and(|place| place != *other) {
            source.forbidden(errors, "must populate the given metric source only");
        }
        match *other {
            "object" => {
                reference(&source.get("describedObject"), false, errors);
                identifier(&source.get("metric"), errors);
                target(&source.get("target"), &["value", "averageValue"], errors);
            }
            "external" => {
                identifier(&source.get("metric"), errors);
                target(&source.get("target"), &["value", "averageValue"], errors);
                if source.get("target.value").present() && source.get("target.averageValue").present() {
                    source.get("target.value").forbidden(
                        errors,
                        "may not set both a target value for metric and a per-pod target",
                    );
                }
            }
            "pods" => {
                identifier(&source.get("metric"), errors);
                target(&source.get("target"), &["averageValue"], errors);
            }
            _ => {
                for name in ["name", "container"] {
                    let needed = name == "name" || *other == "containerResource";
                    if needed && source.get(name).str().is_empty() {
                        source.get(name).required(errors, "must specify a resource name");
                    }
                }
                let aim = source.get("target");
                target(&aim, &["averageUtilization", "averageValue"], errors);
                if aim.get("averageUtilization").present() && aim.get("averageValue").present() {
                    aim.get("averageValue")
                        .forbidden(errors, "may not set both a target raw value and a target utilization");
                }
            }
        }
    }
    if let Some(place) = place
        && !metric.get(place).present()
    {
        metric
            .get(place)
            .required(errors, "must populate information for the given metric source");
    }
}

fn identifier(field: &Field, errors: &mut Errors) {
    let name = field.get("name");
    if name.str().is_empty() {
        name.required(errors, "must specify a metric name");
    } else {
        name.each_invalid(errors, format::path_segment(name.str()));
    }
    meta::label_selector(&field.get("selector"), errors);
}

/// A target says its type, has positive amounts, and at least one of `one_of`.
fn target(field: &Field, one_of: &[&str], errors: &mut Errors) {
    let kind = field.get("type");
    if kind.str().is_empty() {
        kind.required(errors, "must specify a metric target type");
    }
    if !matches!(kind.str(), "Utilization" | "Value" | "AverageValue") {
        kind.invalid(errors, "must be either Utilization, Value, or AverageValue");
    }
    for name in ["value", "averageValue"] {
        let amount = field.get(name);
        if quantity(&amount).is_some_and(|q| q <= Quantity::ZERO) {
            amount.invalid(errors, "must be positive");
        }
    }
    let share = field.get("averageUtilization");
    if share.int().is_some_and(|n| n < 1) {
        share.invalid(errors, "must be greater than 0");
    }
    if !one_of.iter().any(|name| field.get(name).present()) {
        let why = match one_of {
            ["averageUtilization", ..] => "must set either a target raw value or a target utilization",
            ["averageValue"] => "must specify a positive target averageValue",
            _ => "must set either a target value for metric or a per-pod target",
        };
        field.get(one_of[0]).required(errors, why);
    }
}

fn scaling_rules(rules: &Field, errors: &mut Errors) {
    const LONGEST_WINDOW: i64 = 3600;
    const LONGEST_PERIOD: i64 = 1800;
    if !rules.present() {
        return;
    }
    let window = rules.get("stabilizationWindowSeconds");
    if window.int().is_some_and(|n| n < 0) {
        window.invalid(errors, "must be greater than or equal to zero");
    } else if window.number() > LONGEST_WINDOW {
        window.invalid(errors, &format!("must be less than or equal to {LONGEST_WINDOW}"));
    }
    let select = rules.get("selectPolicy");
    if select.present() {
        select.one_of(errors, &["Disabled", "Max", "Min"]);
    }
    let policies = rules.get("policies");
    if policies.is_empty() {
        policies.required(errors, "must specify at least one Policy");
    }
    for policy in policies.items() {
        let (value, period) = (policy.get("value"), policy.get("periodSeconds"));
        policy.get("type").one_of(errors, &["Percent", "Pods"]);
        if value.number() <= 0 {
            value.invalid_as(errors, value.number(), "must be greater than zero");
        }
        if period.number() <= 0 {
            period.invalid_as(errors, period.number(), "must be greater than zero");
        } else if period.number() > LONGEST_PERIOD {
            period.invalid(errors, &format!("must be less than or equal to {LONGEST_PERIOD}"));
        }
    }
    let tolerance = rules.get("tolerance");
    if quantity(&tolerance).is_some_and(|q| q < Quantity::ZERO) {
        tolerance.invalid(errors, super::field::NEGATIVE);
    }
}

// What v1 has no field for stands in annotations.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

type Tree = Map<String, Value>;

/// v1 to the stored v2.
pub fn to_v2(object: &mut Object) {
    if object.api_version() != "autoscaling/v1" {
        return;
    }
    object.0.insert("apiVersion".into(), "autoscaling/v2".into());
    let annotations = object
        .metadata_mut()
        .get_mut("annotations")
        .and_then(Value::as_object_mut);
    let mut taken = Vec::new();
    if let Some(annotations) = annotations {
        for key in [METRICS, CURRENT, CONDITIONS, BEHAVIOR] {
            let text = annotations.remove(key);
            taken.push(text.and_then(|text| serde_json::from_str::<Value>(text.as_str()?).ok()));
        }
        if annotations.is_empty() {
            object.metadata_mut().remove("annotations");
        }
    }
    taken.resize(4, None);
    let [metrics, current, conditions, behavior]: [Option<Value>; 4] = taken.try_into().expect("resized to four above");
    let list = |value: Option<Value>| match value {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let spec = object.entry("spec");
    let mut all = Vec::new();
    if let Some(share) = spec.remove("targetCPUUtilizationPercentage").filter(|v| !v.is_null()) {
        all.push(json!({"type": "Resource", "resource":
            {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": share}}}));
    }
    all.extend(list(metrics).into_iter().map(|metric| metric_to_v2(metric, false)));
    if !all.is_empty() {
        spec.insert("metrics".into(), all.into());
    }
    if let Some(behavior) = behavior {
        spec.insert("behavior".into(), behavior);
    }
    let Some(status) = object.0.get_mut("status").and_then(Value::as_object_mut) else {
        return;
    };
    let mut all: Vec<Value> = list(current)
        .into_iter()
        .map(|metric| metric_to_v2(metric, true))
        .collect();
    if let Some(share) = status
        .remove("currentCPUUtilizationPercentage")
        .filter(|v| !v.is_null())
    {
        let known = all
            .iter()
            .any(|m| m.pointer("/resource/name").is_some_and(|name| name == "cpu"));
        if !known {
            all.push(json!({"type": "Resource", "resource":
                {"name": "cpu", "current": {"averageUtilization": share}}}));
        }
    }
    if !all.is_empty() {
        status.insert("currentMetrics".into(), all.into());
    }
    if let Some(conditions) = conditions {
        status.insert("conditions".into(), conditions);
    }
}

/// The stored v2 to v1; v2 stays as it is.
pub fn from_v2(object: &mut Object, version: &str) {
    if version != "v1" {
        return;
    }
    object.0.insert("apiVersion".into(), "autoscaling/v1".into());
    let mut notes: Vec<(&str, Value)> = Vec::new();
    let spec = object.entry("spec");
    let is_cpu = |metric: &Value| {
        metric.pointer("/resource/name").is_some_and(|name| name == "cpu")
            && metric
                .pointer("/resource/target/averageUtilization")
                .is_some_and(|n| !n.is_null())
    };
    let mut others = Vec::new();
    if let Some(Value::Array(metrics)) = spec.remove("metrics") {
        for metric in metrics {
            if is_cpu(&metric) && !spec.contains_key("targetCPUUtilizationPercentage") {
                let share = metric
                    .pointer("/resource/target/averageUtilization")
                    .cloned()
                    .unwrap_or_default();
                spec.insert("targetCPUUtilizationPercentage".into(), share);
            } else {
                others.push(metric_to_v1(metric, false));
            }
        }
    }
    if !others.is_empty() {
        notes.push((METRICS, others.into()));
    }
    if let Some(behavior) = spec.remove("behavior").filter(|v| !v.is_null()) {
        notes.push((BEHAVIOR, behavior));
    }
    if let Some(status) = object.0.get_mut("status").and_then(Value::as_object_mut) {
        if let Some(Value::Array(metrics)) = status.remove("currentMetrics") {
            for metric in &metrics {
                let share = metric
                    .pointer("/resource/current/averageUtilization")
                    .filter(|n| !n.is_null());
                if let Some(share) = share.filter(|_| metric.pointer("/resource/name").is_some_and(|n| n == "cpu")) {
                    status.insert("currentCPUUtilizationPercentage".into(), share.clone());
                }
            }
            if !metrics.is_empty() {
                let metrics: Vec<Value> = metrics.into_iter().map(|metric| metric_to_v1(metric, true)).collect();
                notes.push((CURRENT, metrics.into()));
            }
        }
        if let Some(conditions) = status
            .remove("conditions")
            .filter(|v| v.as_array().is_some_and(|a| !a.is_empty()))
        {
            notes.push((CONDITIONS, conditions));
        }
    }
    if notes.is_empty() {
        return;
    }
    let annotations = object.metadata_mut().entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        for (key, value) in notes {
            annotations.insert(key.into(), value.to_string().into());
        }
    }
}

/// Names of the amounts of each metric type in v1: the field, then where v2 keeps it. `{}` is `target` or `current`.
fn amounts(place: &str, of_status: bool) -> &'static [(&'static str, &'static str)] {
    match (place, of_status) {
        ("object", false) => &[("targetValue", "value"), ("averageValue", "averageValue")],
        ("object", true) => &[("currentValue", "value"), ("averageValue", "averageValue")],
        ("pods", false) => &[("targetAverageValue", "averageValue")],
        ("pods", true) => &[("currentAverageValue", "averageValue")],
        ("external", false) => &[("targetValue", "value"), ("targetAverageValue", "averageValue")],
        ("external", true) => &[("currentValue", "value"), ("currentAverageValue", "averageValue")],
        (_, false) => &[
            ("targetAverageUtilization", "averageUtilization"),
            ("targetAverageValue", "averageValue"),
        ],
        (_, true) => &[
            ("currentAverageUtilization", "averageUtilization"),
            ("currentAverageValue", "averageValue"),
        ],
    }
}

fn each_source(mut metric: Value, change: impl Fn(&str, &mut Tree)) -> Value {
    for (_, place) in TYPES {
        if let Some(source) = metric.get_mut(*place).and_then(Value::as_object_mut) {
            change(place, source);
        }
    }
    metric
}

fn metric_to_v2(metric: Value, of_status: bool) -> Value {
    each_source(metric, |place, source| {
        // In v1 this word names the object that is measured, not the aim.
        if let Some(object) = source.remove("target") {
            source.insert("describedObject".into(), object);
        }
        let mut values = Tree::new();
        for (old, new) in amounts(place, of_status) {
            if let Some(value) = source.remove(*old).filter(|v| !v.is_null()) {
                // v1 writes 0 where it means nothing.
                if !(value == "0"
                    && *new == "value"
                    && amounts(place, of_status).len() == 2
                    && source.contains_key("averageValue"))
                {
                    values.insert((*new).into(), value);
                }
            }
        }
        if !of_status {
            let kind = if values.contains_key("averageUtilization") {
                "Utilization"
            } else if values.contains_key("averageValue") {
                "AverageValue"
            } else {
                "Value"
            };
            values.insert("type".into(), kind.into());
        }
        source.insert(if of_status { "current" } else { "target" }.into(), values.into());
        let mut name = Tree::new();
        for (old, new) in [
            ("metricName", "name"),
            ("metricSelector", "selector"),
            ("selector", "selector"),
        ] {
            if let Some(value) = source.remove(old).filter(|v| !v.is_null()) {
                name.insert(new.into(), value);
            }
        }
        if !name.is_empty() {
            source.insert("metric".into(), name.into());
        }
    })
}

fn metric_to_v1(metric: Value, of_status: bool) -> Value {
    each_source(metric, |place, source| {
        let values = source.remove(if of_status { "current" } else { "target" });
        for (old, new) in amounts(place, of_status) {
            if let Some(value) = values.as_ref().and_then(|v| v.get(*new)).filter(|v| !v.is_null()) {
                source.insert((*old).into(), value.clone());
            }
        }
        if let Some(Value::Object(name)) = source.remove("metric") {
            let selector = if place == "external" {
                "metricSelector"
            } else {
                "selector"
            };
            for (key, value) in name {
                source.insert(
                    if key == "name" {
                        "metricName".into()
                    } else {
                        selector.into()
                    },
                    value,
                );
            }
        }
        if let Some(object) = source.remove("describedObject") {
            source.insert("target".into(), object);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object(value.as_object().expect("map").clone())
    }

    #[test]
    fn v1_has_a_field_for_cpu_and_annotations_for_the_rest() {
        let stored = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}}},
            ], "behavior": {"scaleUp": {"selectPolicy": "Max"}}},
            "status": {"currentMetrics": [
                {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 7, "averageValue": "1m"}}},
            ], "conditions": [{"type": "AbleToScale", "status": "True"}]},
        });
        let mut it = object(stored.clone());
        from_v2(&mut it, "v1");
        assert_eq!(it.api_version(), "autoscaling/v1");
        assert_eq!(it.at(&["spec", "targetCPUUtilizationPercentage"]), Some(&json!(50)));
        assert_eq!(it.at(&["status", "currentCPUUtilizationPercentage"]), Some(&json!(7)));
        assert_eq!(
            it.str_at(&["metadata", "annotations", METRICS]),
            r#"[{"pods":{"metricName":"m","targetAverageValue":"1"},"type":"Pods"}]"#
        );
        to_v2(&mut it);
        assert_eq!(Value::Object(it.0), stored);
    }
    #[test]
    fn v2_is_stored_as_it_is() {
        let stored = object(json!({"apiVersion": "autoscaling/v2", "spec": {"metrics": []}}));
        let mut it = stored.clone();
        to_v2(&mut it);
        from_v2(&mut it, "v2");
        assert_eq!(it, stored);
    }
}
