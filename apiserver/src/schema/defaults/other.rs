//! Defaults of the remaining groups: storage, scheduling, flow control, admission registration, extensions, devices.

use serde_json::json;

use super::{Rules, Tree, empty, has, inner, is_empty, made, put, put_pointer, text};

pub(super) const RULES: Rules = &[
    ("authentication/v1.TokenRequestSpec", |s| {
        put(s, "expirationSeconds", 3600)
    }),
    ("storage/v1.StorageClass", storage_class),
    ("storage/v1.CSIDriver", csi_driver),
    ("scheduling/v1.PriorityClass", |s| {
        put_pointer(s, "preemptionPolicy", "PreemptLowerPriority")
    }),
    ("flowcontrol/v1.FlowSchemaSpec", flow_schema),
    ("flowcontrol/v1.PriorityLevelConfiguration", priority_level),
    ("admissionregistration/v1.ValidatingWebhook", webhook),
    ("admissionregistration/v1.MutatingWebhook", mutating_webhook),
    ("admissionregistration/v1.Rule", |s| put_pointer(s, "scope", "*")),
    ("admissionregistration/v1.RuleWithOperations", |s| {
        put_pointer(s, "scope", "*")
    }),
    ("admissionregistration/v1.NamedRuleWithOperations", |s| {
        put_pointer(s, "scope", "*")
    }),
    ("admissionregistration/v1.ServiceReference", |s| put(s, "port", 443)),
    ("admissionregistration/v1.ValidatingAdmissionPolicySpec", |s| {
        put_pointer(s, "failurePolicy", "Fail")
    }),
    ("admissionregistration/v1.MutatingAdmissionPolicySpec", |s| {
        put_pointer(s, "failurePolicy", "Fail")
    }),
    ("admissionregistration/v1.MatchResources", match_resources),
    ("admissionregistration/v1beta1.NamedRuleWithOperations", |s| {
        put_pointer(s, "scope", "*")
    }),
    ("admissionregistration/v1beta1.ValidatingAdmissionPolicySpec", |s| {
        put_pointer(s, "failurePolicy", "Fail")
    }),
    ("admissionregistration/v1beta1.MutatingAdmissionPolicySpec", |s| {
        put_pointer(s, "failurePolicy", "Fail")
    }),
    ("admissionregistration/v1beta1.MatchResources", match_resources),
    ("admissionregistration/v1alpha1.NamedRuleWithOperations", |s| {
        put_pointer(s, "scope", "*")
    }),
    ("admissionregistration/v1alpha1.ValidatingAdmissionPolicySpec", |s| {
        put_pointer(s, "failurePolicy", "Fail")
    }),
    ("admissionregistration/v1alpha1.MutatingAdmissionPolicySpec", |s| {
        put_pointer(s, "failurePolicy", "Fail")
    }),
    ("admissionregistration/v1alpha1.MatchResources", match_resources),
    ("apiregistration/v1.ServiceReference", |s| put(s, "port", 443)),
    ("apiextensions/v1.CustomResourceDefinition", custom_resource),
    ("apiextensions/v1.ServiceReference", |s| put(s, "port", 443)),
    ("resource/v1.ExactDeviceRequest", exact_request),
    ("resource/v1.DeviceSubRequest", exact_request),
    ("resource/v1beta2.ExactDeviceRequest", exact_request),
    ("resource/v1beta2.DeviceSubRequest", exact_request),
    ("resource/v1beta1.DeviceRequest", device_request),
    ("resource/v1beta1.DeviceSubRequest", exact_request),
];

fn storage_class(class: &mut Tree) {
    put_pointer(class, "reclaimPolicy", "Delete");
    put_pointer(class, "volumeBindingMode", "Immediate");
}

fn csi_driver(driver: &mut Tree) {
    let spec = made(driver, "spec");
    put(spec, "attachRequired", true);
    put(spec, "podInfoOnMount", false);
    put(spec, "storageCapacity", false);
    put_pointer(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if is_empty(spec, "volumeLifecycleModes") {
        spec.insert("volumeLifecycleModes".into(), json!(["Persistent"]));
    }
    put(spec, "requiresRepublish", false);
    put(spec, "seLinuxMount", false);
}

fn flow_schema(spec: &mut Tree) {
    const PRECEDENCE: i32 = 1000;
    if spec.get("matchingPrecedence").is_none_or(|v| v.as_i64() == Some(0)) {
        spec.insert("matchingPrecedence".into(), PRECEDENCE.into());
    }
}

fn priority_level(level: &mut Tree) {
    const QUEUES: i32 = 64;
    const HAND: i32 = 8;
    const QUEUE_LENGTH: i32 = 50;
    const SHARES: i32 = 30;
    let spec = made(level, "spec");
    if text(spec, "type") == "Exempt" {
        let exempt = made(spec, "exempt");
        put(exempt, "nominalConcurrencyShares", 0);
        put(exempt, "lendablePercent", 0);
    }
    if let Some(limited) = inner(spec, "limited") {
        put(limited, "nominalConcurrencyShares", SHARES);
        put(limited, "lendablePercent", 0);
        if let Some(queuing) = inner(limited, "limitResponse").and_then(|r| inner(r, "queuing")) {
            for (name, value) in [
                ("handSize", HAND),
                ("queues", QUEUES),
                ("queueLengthLimit", QUEUE_LENGTH),
            ] {
                // Zero is no number of queues.
                if queuing.get(name).is_none_or(|v| v.as_i64() == Some(0)) {
                    queuing.insert(name.into(), value.into());
                }
            }
        }
    }
}

fn webhook(webhook: &mut Tree) {
    put_pointer(webhook, "failurePolicy", "Fail");
    put_pointer(webhook, "matchPolicy", "Equivalent");
    put(webhook, "namespaceSelector", empty());
    put(webhook, "objectSelector", empty());
    put(webhook, "timeoutSeconds", 10);
}

fn mutating_webhook(hook: &mut Tree) {
    webhook(hook);
    put_pointer(hook, "reinvocationPolicy", "Never");
}

fn match_resources(resources: &mut Tree) {
    put_pointer(resources, "matchPolicy", "Equivalent");
    put(resources, "namespaceSelector", empty());
    put(resources, "objectSelector", empty());
}

fn custom_resource(definition: &mut Tree) {
    let spec = made(definition, "spec");
    let names = made(spec, "names");
    let kind = text(names, "kind").to_owned();
    if !kind.is_empty() {
        put(names, "singular", kind.to_lowercase());
        put(names, "listKind", format!("{kind}List"));
    }
    if !has(spec, "conversion") {
        put_pointer(spec, "conversion", json!({"strategy": "None"}));
    }
}

fn exact_request(request: &mut Tree) {
    put(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        put(request, "count", 1);
    }
}

/// The first beta has the exact request in the request itself; one with alternatives has none.
fn device_request(request: &mut Tree) {
    if is_empty(request, "firstAvailable") {
        exact_request(request);
    }
}
