//! The API's own error: what a client is told when a request is refused.
//! Every room but `store` refuses with a [`Status`]; `http` only writes it down, so its code and reason are decided
//! where the cause is known and nowhere else.

use serde::Serialize;
use serde_json::Value;

/// Machine-readable cause of a refusal, as `meta/v1` StatusReason spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Reason {
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
}

/// One field that was refused: `field.ErrorList`'s entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, …
    pub reason: &'static str,
    pub message: String,
    pub field: String,
}

/// A refusal. Serialized by `http` as a `v1.Status` object.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    pub code: u16,
    pub reason: Reason,
    pub message: String,
    pub details: Option<Box<Details>>,
    /// `metadata.continue`: where a list that expired may go on.
    pub continue_token: Option<Box<str>>,
}

/// `status.details`.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// What a message is about: a resource of a group, as `schema.GroupResource` prints itself.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    pub group: &'a str,
    pub resource: &'a str,
}

impl std::fmt::Display for About<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.group.is_empty() {
            write!(f, "{}", self.resource)
        } else {
            write!(f, "{}.{}", self.resource, self.group)
        }
    }
}

// Messages follow apimachinery/pkg/api/errors/errors.go (1.36), which clients and scripts match on.
impl Status {
    fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Status {
            code,
            reason,
            message: message.into(),
            details: None,
            continue_token: None,
        }
    }
    fn about(mut self, about: About<'_>, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            name: name.into(),
            group: about.group.into(),
            kind: about.resource.into(),
            ..Details::default()
        }));
        self
    }
    pub fn not_found(about: About<'_>, name: &str) -> Self {
        Self::new(404, Reason::NotFound, format!("{about} \"{name}\" not found")).about(about, name)
    }
    /// No such path: the generic 404 of an unknown resource or group.
    pub fn no_such_resource() -> Self {
        Self::new(
            404,
            Reason::NotFound,
            "the server could not find the requested resource",
        )
    }
    pub fn already_exists(about: About<'_>, name: &str) -> Self {
        Self::new(409, Reason::AlreadyExists, format!("{about} \"{name}\" already exists")).about(about, name)
    }
    pub fn conflict(about: About<'_>, name: &str, why: &str) -> Self {
        Self::new(
            409,
            Reason::Conflict,
            format!("Operation cannot be fulfilled on {about} \"{name}\": {why}"),
        )
        .about(about, name)
    }
    pub fn forbidden(about: About<'_>, name: &str, why: &str) -> Self {
        let message = if name.is_empty() {
            format!("{about} is forbidden: {why}")
        } else {
            format!("{about} \"{name}\" is forbidden: {why}")
        };
        Self::new(403, Reason::Forbidden, message).about(about, name)
    }
    /// A forbidden path that is no resource.
    pub fn forbidden_path(why: impl Into<String>) -> Self {
        Self::new(403, Reason::Forbidden, why)
    }
    pub fn unauthorized() -> Self {
        Self::new(401, Reason::Unauthorized, "Unauthorized")
    }
    pub fn bad_request(why: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, why)
    }
    pub fn method_not_allowed(about: About<'_>, action: &str) -> Self {
        Self::new(
            405,
            Reason::MethodNotAllowed,
            format!("{action} is not supported on resources of kind \"{about}\""),
        )
        .about(about, "")
    }
    /// History before the asked revision is gone: list again.
    pub fn expired(why: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, why)
    }
    pub fn not_acceptable(accepted: &str) -> Self {
        Self::new(
            406,
            Reason::NotAcceptable,
            format!("only the following media types are accepted: {accepted}"),
        )
    }
    pub fn unsupported_media_type(accepted: &str) -> Self {
        Self::new(
            415,
            Reason::UnsupportedMediaType,
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}"),
        )
    }
    pub fn too_large(why: impl Into<String>) -> Self {
        Self::new(413, Reason::RequestEntityTooLarge, why)
    }
    pub fn too_many_requests(why: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(429, Reason::TooManyRequests, why);
        status.details = Some(Box::new(Details {
            retry_after_seconds: Some(retry_after_seconds),
            ..Details::default()
        }));
        status
    }
    pub fn timeout(why: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(504, Reason::Timeout, why);
        status.details = Some(Box::new(Details {
            retry_after_seconds: Some(retry_after_seconds),
            ..Details::default()
        }));
        status
    }
    pub fn unavailable(why: impl Into<String>) -> Self {
        Self::new(503, Reason::ServiceUnavailable, why)
    }
    /// Our own fault. The cause goes to the log by the caller, never to the client.
    pub fn internal(what: &str) -> Self {
        Self::new(500, Reason::InternalError, format!("Internal error occurred: {what}"))
    }
    /// `Invalid` with one cause per field. `kind` is the object's kind, as upstream's message names it.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: Errors) -> Self {
        let about = About { group, resource: kind };
        let causes = errors.into_causes();
        let list = match causes.len() {
            1 => format!("{}: {}", causes[0].field, causes[0].message),
            _ => format!(
                "[{}]",
                causes
                    .iter()
                    .map(|c| format!("{}: {}", c.field, c.message))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        };
        let mut status =
            Self::new(422, Reason::Invalid, format!("{about} \"{name}\" is invalid: {list}")).about(about, name);
        if let Some(details) = &mut status.details {
            details.causes = causes;
        }
        status
    }
}

/// Refused fields, in the order found. Paths are upstream's (`spec.containers[0].image`).
#[derive(Debug, Default, Clone)]
pub struct Errors(Vec<Cause>);

// Texts follow apimachinery/pkg/util/validation/field/errors.go (1.36).
impl Errors {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn into_causes(self) -> Vec<Cause> {
        self.0
    }
    pub fn extend(&mut self, other: Errors) {
        self.0.extend(other.0)
    }
    fn push(&mut self, reason: &'static str, field: impl Into<String>, message: String) {
        self.0.push(Cause {
            reason,
            message,
            field: field.into(),
        });
    }
    pub fn required(&mut self, field: impl Into<String>, why: &str) {
        self.push("FieldValueRequired", field, suffixed("Required value".into(), why));
    }
    pub fn invalid(&mut self, field: impl Into<String>, value: &Value, why: &str) {
        self.push(
            "FieldValueInvalid",
            field,
            suffixed(format!("Invalid value: {}", shown(value)), why),
        );
    }
    pub fn duplicate(&mut self, field: impl Into<String>, value: &Value) {
        self.push(
            "FieldValueDuplicate",
            field,
            format!("Duplicate value: {}", shown(value)),
        );
    }
    pub fn forbidden(&mut self, field: impl Into<String>, why: &str) {
        self.push("FieldValueForbidden", field, suffixed("Forbidden".into(), why));
    }
    pub fn not_found(&mut self, field: impl Into<String>, value: &Value) {
        self.push("FieldValueNotFound", field, format!("Not found: {}", shown(value)));
    }
    pub fn unsupported(&mut self, field: impl Into<String>, value: &Value, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let why = if list.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", list.join(", "))
        };
        self.push(
            "FieldValueNotSupported",
            field,
            suffixed(format!("Unsupported value: {}", shown(value)), &why),
        );
    }
    pub fn too_long(&mut self, field: impl Into<String>, max_bytes: usize) {
        self.push(
            "FieldValueTooLong",
            field,
            format!("Too long: may not be more than {max_bytes} bytes"),
        );
    }
    pub fn too_many(&mut self, field: impl Into<String>, actual: usize, max: usize) {
        self.push(
            "FieldValueTooMany",
            field,
            format!("Too many: {actual}: must have at most {max} items"),
        );
    }
    pub fn type_invalid(&mut self, field: impl Into<String>, value: &Value, why: &str) {
        self.push(
            "FieldValueTypeInvalid",
            field,
            suffixed(format!("Invalid value: {}", shown(value)), why),
        );
    }
}

fn suffixed(text: String, why: &str) -> String {
    if why.is_empty() { text } else { format!("{text}: {why}") }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        other => other.to_string(),
    }
}
