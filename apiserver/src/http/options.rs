//! Query strings to typed options, with upstream's leniency about booleans and its refusals about the rest.

use std::borrow::Cow;

use api::selector::{Fields, Labels};
use serde_json::Value;

use crate::object::Object;
use crate::registry::read::Match;
use crate::registry::remove::Delete;
use crate::schema::Validation;
use crate::status::{Errors, Status};
use crate::strategy::Propagation;

/// The decoded pairs of a query string.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query.split('&').filter(|p| !p.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (plain(key), plain(value))
    })
}

fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    match percent_decode(text.as_bytes(), true) {
        Some(decoded) => Cow::Owned(decoded),
        None => Cow::Borrowed(text),
    }
}

/// `None` where the bytes are no UTF-8. A `%` without two digits stands for itself.
pub(super) fn percent_decode(text: &[u8], plus_is_space: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut i = 0;
    while i < text.len() {
        let digit = |at: usize| text.get(at).and_then(|b| (*b as char).to_digit(16));
        match (text[i], digit(i + 1), digit(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                i += 2;
            }
            (b'+', _, _) if plus_is_space => out.push(b' '),
            (byte, _, _) => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8(out).ok()
}

/// Anything but `false` and `0` is true, a key without a value too.
pub(super) fn truth(value: &str) -> bool {
    !(value.eq_ignore_ascii_case("false") || value == "0")
}

fn number(key: &str, value: &str) -> Result<i64, Status> {
    value.parse().map_err(|_| {
        Status::bad_request(format!(
            "strconv.ParseInt: parsing {value:?}: invalid syntax in query parameter {key}"
        ))
    })
}

/// Options of get, list, watch and deletecollection.
#[derive(Debug, Default, Clone)]
pub(super) struct List {
    pub(super) labels: Labels,
    pub(super) fields: Fields,
    /// As sent; empty where it was not.
    pub(super) resource_version: String,
    pub(super) resource_version_match: Option<Match>,
    pub(super) limit: usize,
    pub(super) continue_token: String,
    pub(super) timeout_seconds: Option<u64>,
    pub(super) bookmarks: bool,
    pub(super) send_initial_events: Option<bool>,
}

impl List {
    /// Follows apimachinery's ListOptions conversion and ValidateListOptions (1.36).
    pub(super) fn parse(query: &str, watch: bool) -> Result<Self, Status> {
        let mut options = List::default();
        let mut matching = Cow::Borrowed("");
        for (key, value) in pairs(query) {
            match &*key {
                "labelSelector" => {
                    options.labels = value
                        .parse()
                        .map_err(|e| Status::bad_request(format!("unable to parse requirement: {e}")))?
                }
                "fieldSelector" => options.fields = value.parse().map_err(|e| Status::bad_request(format!("{e}")))?,
                "resourceVersion" => options.resource_version = value.into_owned(),
                "resourceVersionMatch" => matching = value,
                "limit" if !value.is_empty() => options.limit = number("limit", &value)?.max(0) as usize,
                "continue" => options.continue_token = value.into_owned(),
                "timeoutSeconds" if !value.is_empty() => {
                    options.timeout_seconds = Some(number("timeoutSeconds", &value)?.max(0) as u64)
                }
                "allowWatchBookmarks" => options.bookmarks = truth(&value),
                "sendInitialEvents" => options.send_initial_events = Some(truth(&value)),
                _ => {}
            }
        }
        let mut errors = Errors::default();
        options.resource_version_match = match &*matching {
            "" => None,
            "Exact" => Some(Match::Exact),
            "NotOlderThan" => Some(Match::NotOlderThan),
            _ => {
                let supported: &[&str] = if watch {
                    &["NotOlderThan"]
                } else {
                    &["Exact", "NotOlderThan", ""]
                };
                errors.unsupported("resourceVersionMatch", &Value::from(&*matching), supported);
                None
            }
        };
        let field = "resourceVersionMatch";
        if watch {
            if options.send_initial_events.is_some() && options.resource_version_match != Some(Match::NotOlderThan) {
                errors.forbidden(
                    field,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                );
            }
            if !matching.is_empty() {
                if options.send_initial_events.is_none() {
                    let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                    errors.forbidden(field, why);
                }
                if options.resource_version_match == Some(Match::Exact) {
                    errors.unsupported(field, &Value::from("Exact"), &["NotOlderThan"]);
                }
            }
        } else {
            if !matching.is_empty() {
                if options.resource_version.is_empty() {
                    errors.forbidden(
                        field,
                        "resourceVersionMatch is forbidden unless resourceVersion is provided",
                    );
                }
                if options.resource_version_match == Some(Match::Exact) && options.resource_version == "0" {
                    let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                    errors.forbidden(field, why);
                }
            }
            if options.send_initial_events.is_some() {
                errors.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
            }
        }
        if !matching.is_empty() && !options.continue_token.is_empty() {
            errors.forbidden(field, "resourceVersionMatch is forbidden when continue is provided");
        }
        if errors.is_empty() {
            Ok(options)
        } else {
            Err(Status::invalid("meta.k8s.io", "ListOptions", "", errors))
        }
    }
}

/// Refuses what a log cannot be asked for. Follows ValidatePodLogOptions (1.36); the kubelet reads the options themselves.
pub(super) fn log(query: &str, pod: &str) -> Result<(), Status> {
    let mut errors = Errors::default();
    let (mut seconds, mut time) = (false, false);
    for (key, value) in pairs(query).filter(|(_, value)| !value.is_empty()) {
        let (least, why) = match &*key {
            "tailLines" => (0, "must be greater than or equal to 0"),
            "limitBytes" | "sinceSeconds" => (1, "must be greater than 0"),
            "sinceTime" => {
                time = true;
                continue;
            }
            _ => continue,
        };
        let number = number(&key, &value)?;
        seconds |= key == "sinceSeconds";
        if number < least {
            errors.invalid(&*key, &Value::from(number), why);
        }
    }
    if seconds && time {
        errors.forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified");
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid("", "PodLogOptions", pod, errors))
    }
}

/// What create, update and patch are told beside the object.
#[derive(Debug, Clone, Default)]
pub(super) struct Write {
    pub(super) dry_run: bool,
    pub(super) validation: Validation,
    /// Empty where the request names none.
    pub(super) manager: String,
    /// Take what others own; only an apply may say so, either way.
    pub(super) force: Option<bool>,
}

/// Bytes of a manager's name.
const MANAGER_MAX: usize = 128;

/// What the user agent calls itself, as the name of a manager: what stands before the first slash
/// (endpoints/handlers/create.go, 1.36).
pub(super) fn agent(headers: &http::HeaderMap) -> Cow<'_, str> {
    let Some(agent) = headers.get(http::header::USER_AGENT) else {
        return Cow::Borrowed("");
    };
    let bytes = agent.as_bytes();
    let end = bytes.iter().position(|byte| *byte == b'/').unwrap_or(bytes.len());
    let name = &bytes[..end];
    if name.len() <= MANAGER_MAX && name.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return String::from_utf8_lossy(name);
    }
    let mut out = String::new();
    for letter in String::from_utf8_lossy(name)
        .chars()
        .filter(|letter| !letter.is_control())
    {
        if out.len() + letter.len_utf8() > MANAGER_MAX {
            break;
        }
        out.push(letter);
    }
    Cow::Owned(out)
}

impl Write {
    pub(super) fn parse(query: &str, kind: &str) -> Result<Self, Status> {
        Write::read(query, kind, false)
    }
    /// Of a server-side apply, which must name its manager.
    pub(super) fn of_apply(query: &str) -> Result<Self, Status> {
        Write::read(query, "PatchOptions", true)
    }
    fn read(query: &str, kind: &str, applies: bool) -> Result<Self, Status> {
        let mut options = Write::default();
        let mut errors = Errors::default();
        for (key, value) in pairs(query) {
            match &*key {
                "dryRun" => options.dry_run = dry_run(&value, &mut errors),
                "fieldValidation" => {
                    options.validation = match &*value {
                        "" | "Warn" => Validation::Warn,
                        "Ignore" => Validation::Ignore,
                        "Strict" => Validation::Strict,
                        _ => {
                            errors.unsupported(
                                "fieldValidation",
                                &Value::from(&*value),
                                &["", "Ignore", "Strict", "Warn"],
                            );
                            Validation::Warn
                        }
                    }
                }
                "fieldManager" => {
                    if value.len() > MANAGER_MAX {
                        errors.too_long("fieldManager", MANAGER_MAX);
                    }
                    for (at, letter) in value.char_indices().filter(|(_, letter)| letter.is_control()) {
                        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(letter));
                        errors.invalid("fieldManager", &Value::from(&*value), &why);
                    }
                    options.manager = value.into_owned();
                }
                "force" if !value.is_empty() => options.force = Some(truth(&value)),
                _ => {}
            }
        }
        if kind == "PatchOptions" && options.force.is_some() && !applies {
            errors.forbidden("force", "may not be specified for non-apply patch");
        }
        if applies && options.manager.is_empty() {
            errors.required("fieldManager", "is required for apply patch");
        }
        if errors.is_empty() {
            Ok(options)
        } else {
            Err(Status::invalid("meta.k8s.io", kind, "", errors))
        }
    }
}

fn dry_run(value: &str, errors: &mut Errors) -> bool {
    match value {
        "" => false,
        "All" => true,
        other => {
            errors.unsupported("dryRun", &Value::from(vec![other]), &["All"]);
            false
        }
    }
}

/// DeleteOptions from the query and, where there is one, the body, which wins.
pub(super) fn delete(query: &str, body: Option<&Object>) -> Result<Delete, Status> {
    let mut options = Delete::default();
    let mut errors = Errors::default();
    let mut orphan: Option<bool> = None;
    let mut policy: Option<String> = None;
    match body {
        None => {
            for (key, value) in pairs(query) {
                match &*key {
                    "gracePeriodSeconds" if !value.is_empty() => {
                        options.grace_seconds = Some(number("gracePeriodSeconds", &value)?)
                    }
                    "orphanDependents" => orphan = Some(truth(&value)),
                    "propagationPolicy" if !value.is_empty() => policy = Some(value.into_owned()),
                    "dryRun" => options.dry_run = dry_run(&value, &mut errors),
                    _ => {}
                }
            }
        }
        Some(body) => {
            // Upstream takes the options from the body alone where there is one; dryRun in the query of a request with a
            // body would be lost silently, so it is honoured from both.
            for (key, value) in pairs(query) {
                if key == "dryRun" {
                    options.dry_run |= dry_run(&value, &mut errors);
                }
            }
            let wrong = |field: &str| Status::bad_request(format!("DeleteOptions: {field} has the wrong type"));
            for (key, value) in &body.0 {
                if value.is_null() {
                    continue;
                }
                match key.as_str() {
                    "gracePeriodSeconds" => {
                        options.grace_seconds = Some(value.as_i64().ok_or_else(|| wrong("gracePeriodSeconds"))?)
                    }
                    "orphanDependents" => orphan = Some(value.as_bool().ok_or_else(|| wrong("orphanDependents"))?),
                    "propagationPolicy" => {
                        policy = Some(value.as_str().ok_or_else(|| wrong("propagationPolicy"))?.to_owned())
                    }
                    "dryRun" => {
                        for item in value.as_array().ok_or_else(|| wrong("dryRun"))? {
                            options.dry_run |= dry_run(item.as_str().ok_or_else(|| wrong("dryRun"))?, &mut errors);
                        }
                    }
                    "preconditions" => {
                        let text = |name: &str| match value.get(name) {
                            None | Some(Value::Null) => Ok(None),
                            Some(Value::String(s)) => Ok(Some(s.clone())),
                            Some(_) => Err(wrong("preconditions")),
                        };
                        options.uid = text("uid")?;
                        options.resource_version = text("resourceVersion")?;
                    }
                    _ => {}
                }
            }
        }
    }
    if let (Some(policy), Some(_)) = (&policy, orphan) {
        errors.invalid(
            "propagationPolicy",
            &Value::from(policy.as_str()),
            "orphanDependents and deletionPropagation cannot be both set",
        );
    }
    options.propagation = match (policy.as_deref(), orphan) {
        (Some("Foreground"), _) => Some(Propagation::Foreground),
        (Some("Background"), _) => Some(Propagation::Background),
        (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
        (None, Some(false)) => Some(Propagation::Background),
        (None, None) => None,
        (Some(other), _) => {
            errors.unsupported(
                "propagationPolicy",
                &Value::from(other),
                &["Background", "Foreground", "Orphan"],
            );
            None
        }
    };
    options.accepted = orphan == Some(false) || options.propagation == Some(Propagation::Foreground);
    if errors.is_empty() {
        Ok(options)
    } else {
        Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", errors))
    }
}

/// Whether the reader is a person: `?pretty`, or a browser or curl that did not say otherwise.
pub(super) fn pretty(query: &str, headers: &http::HeaderMap) -> bool {
    if !query.is_empty()
        && let Some((_, value)) = pairs(query).find(|(key, _)| key == "pretty")
    {
        return truth(&value);
    }
    headers
        .get(http::header::USER_AGENT)
        .and_then(|agent| agent.to_str().ok())
        .is_some_and(|agent| ["curl", "Wget", "Mozilla/5.0"].iter().any(|p| agent.starts_with(p)))
}
