//! Probes, lifecycle hooks and the ports they speak to.

use super::super::field::Field;
use super::super::format;
use crate::status::Errors;

/// Ports by number or name.
pub(in super::super) fn port_or_name(port: &Field, errors: &mut Errors) {
    match port.value() {
        Some(serde_json::Value::String(name)) => port.each_invalid(errors, format::port_name(name)),
        _ => {
            for message in format::port_number(port.number()) {
                port.invalid_as(errors, port.number(), &message);
            }
        }
    }
}

/// What is done to a container: exactly one of the handlers.
fn handler(field: &Field, grace: i64, errors: &mut Errors) {
    let mut kinds = 0;
    let mut one = |name: &str, errors: &mut Errors| {
        let handler = field.get(name);
        if !handler.present() {
            return false;
        }
        kinds += 1;
        if kinds > 1 {
            handler.forbidden(errors, "may not specify more than 1 handler type");
        }
        kinds == 1
    };
    if one("exec", errors) && field.get("exec.command").is_empty() {
        field.get("exec.command").required(errors, "");
    }
    if one("httpGet", errors) {
        let get = field.get("httpGet");
        if get.get("path").str().is_empty() {
            get.get("path").required(errors, "");
        }
        port_or_name(&get.get("port"), errors);
        get.get("scheme").one_of(errors, &["HTTP", "HTTPS"]);
        for header in get.get("httpHeaders").items() {
            let name = header.get("name").str();
            let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            if !good {
                get.get("httpHeaders").invalid_as(
                    errors,
                    name,
                    "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
                );
            }
        }
    }
    if one("tcpSocket", errors) {
        port_or_name(&field.get("tcpSocket.port"), errors);
    }
    if one("grpc", errors) {
        port_or_name(&field.get("grpc.port"), errors);
    }
    if one("sleep", errors) {
        let sleep = field.get("sleep");
        let seconds = sleep.get("seconds").number();
        if seconds < 0 || seconds > grace {
            sleep.invalid_as(
                errors,
                seconds,
                &format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})"),
            );
        }
    }
    if kinds == 0 {
        field.required(errors, "must specify a handler type");
    }
}

fn probe(field: &Field, grace: i64, errors: &mut Errors) {
    handler(field, grace, errors);
    for name in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        field.get(name).non_negative(errors);
    }
    let own = field.get("terminationGracePeriodSeconds");
    if own.int().is_some_and(|seconds| seconds <= 0) {
        own.invalid(errors, "must be greater than 0");
    }
}

/// A liveness or startup probe: one success is enough.
fn vital_probe(field: &Field, grace: i64, errors: &mut Errors) {
    if !field.present() {
        return;
    }
    probe(field, grace, errors);
    let threshold = field.get("successThreshold");
    if threshold.int().is_some_and(|n| n != 1) {
        threshold.invalid(errors, "must be 1");
    }
}

/// Hooks and probes of a container that runs beside others.
pub(super) fn all(container: &Field, grace: i64, errors: &mut Errors) {
    let lifecycle = container.get("lifecycle");
    for hook in ["postStart", "preStop"] {
        if lifecycle.get(hook).present() {
            handler(&lifecycle.get(hook), grace, errors);
        }
    }
    vital_probe(&container.get("livenessProbe"), grace, errors);
    vital_probe(&container.get("startupProbe"), grace, errors);
    let readiness = container.get("readinessProbe");
    if readiness.present() {
        probe(&readiness, grace, errors);
        let own = readiness.get("terminationGracePeriodSeconds");
        if own.present() {
            own.invalid(errors, "must not be set for readinessProbes");
        }
    }
}
