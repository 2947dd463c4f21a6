//! Media types: what a client sends and what it wants back. Bodies may be protobuf, as client-go sends them; answers are
//! JSON or YAML, which every client that asks for protobuf also takes.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

use crate::status::Status;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Yaml,
}

/// Another form of the same objects that a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Object,
    /// With the apiVersion to write, `meta.k8s.io/v1` or `/v1beta1`.
    Table(&'static str),
    Metadata(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accept {
    pub(super) format: Format,
    pub(super) form: Form,
}

const JSON: Accept = Accept {
    format: Format::Json,
    form: Form::Object,
};

/// Which forms an endpoint can answer in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// Objects only: discovery, Status, subresources that are no object.
    Plain,
    /// Tables and partial metadata of one object, a list or a watch.
    Forms { list: bool },
}

/// The best of what the client accepts; 406 where nothing fits.
pub(super) fn accept(headers: &HeaderMap, offer: Offer) -> Result<Accept, Status> {
    let Some(value) = headers.get(ACCEPT) else {
        return Ok(JSON);
    };
    // Nearly every request of a controller: no list, no parameters.
    if value == "application/json" || value == "*/*" {
        return Ok(JSON);
    }
    let Ok(text) = value.to_str() else {
        return Ok(JSON);
    };
    let mut best: Option<(f32, Accept)> = None;
    for clause in text.split(',') {
        let Some((quality, accept)) = clause_of(clause, offer) else {
            continue;
        };
        if quality > 0.0 && best.is_none_or(|(q, _)| quality > q) {
            best = Some((quality, accept));
        }
    }
    match best {
        Some((_, accept)) => Ok(accept),
        None if text.trim().is_empty() => Ok(JSON),
        None => Err(Status::not_acceptable(match offer {
            Offer::Plain => "application/json, application/yaml",
            Offer::Forms { .. } => {
                "application/json, application/yaml, application/json;as=Table;g=meta.k8s.io;v=v1, application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
            }
        })),
    }
}

fn clause_of(clause: &str, offer: Offer) -> Option<(f32, Accept)> {
    let mut parts = clause.split(';').map(str::trim);
    let format = match parts.next()? {
        "application/json" | "*/*" | "application/*" => Format::Json,
        "application/yaml" => Format::Yaml,
        _ => return None,
    };
    let (mut quality, mut form, mut group, mut version) = (1.0, "", "", "");
    for parameter in parts {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match key {
            "q" => quality = value.parse().unwrap_or(1.0),
            "as" => form = value,
            "g" => group = value,
            "v" => version = value,
            _ => {}
        }
    }
    let api_version = match version {
        "v1" => "meta.k8s.io/v1",
        "v1beta1" => "meta.k8s.io/v1beta1",
        _ => "",
    };
    let known = group == "meta.k8s.io" && !api_version.is_empty();
    let form = match (form, offer) {
        ("", _) => Form::Object,
        ("Table", Offer::Forms { .. }) if known => Form::Table(api_version),
        ("PartialObjectMetadata", Offer::Forms { list: false }) if known => Form::Metadata(api_version),
        ("PartialObjectMetadataList", Offer::Forms { list: true }) if known => Form::Metadata(api_version),
        _ => return None,
    };
    Some((quality, Accept { format, form }))
}

/// The version of aggregated discovery that the client understands best, if any.
pub(super) fn aggregated_discovery(headers: &HeaderMap) -> bool {
    headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|text| {
            text.split(',').any(|clause| {
                let has = |parameter: &str| clause.split(';').any(|p| p.trim() == parameter);
                has("application/json")
                    && has("as=APIGroupDiscoveryList")
                    && has("g=apidiscovery.k8s.io")
                    && has("v=v2")
            })
        })
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Json,
    Yaml,
    Protobuf,
}

/// The format of a body that holds an object. No Content-Type is JSON, as upstream has it.
pub(super) fn body(headers: &HeaderMap) -> Result<Sent, Status> {
    match media_type(headers) {
        "" | "application/json" | "text/json" => Ok(Sent::Json),
        "application/yaml" => Ok(Sent::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Sent::Protobuf),
        _ => Err(Status::unsupported_media_type(
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// The Content-Type without its parameters.
pub(super) fn media_type(headers: &HeaderMap) -> &str {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|text| text.split(';').next().unwrap_or(text).trim())
        .unwrap_or("")
}

/// Whether a compressed answer is welcome.
pub(super) fn gzip(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|text| {
            text.split(',').any(|clause| {
                let mut parts = clause.split(';').map(str::trim);
                parts.next() == Some("gzip") && !parts.any(|p| p == "q=0" || p == "q=0.0")
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, offer: Offer, want: Option<Accept>) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, header.parse().unwrap());
        assert_eq!(accept(&headers, offer).ok(), want, "{header}");
    }

    #[test]
    fn the_first_acceptable_form_wins() {
        let objects = Offer::Forms { list: false };
        let lists = Offer::Forms { list: true };
        let table = |api_version| {
            Some(Accept {
                format: Format::Json,
                form: Form::Table(api_version),
            })
        };
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        check(kubectl, lists, table("meta.k8s.io/v1"));
        check(kubectl, Offer::Plain, Some(JSON));
        check(
            "application/vnd.kubernetes.protobuf,application/json",
            lists,
            Some(JSON),
        );
        check("application/vnd.kubernetes.protobuf", lists, None);
        check("*/*", lists, Some(JSON));
        check(
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            lists,
            None,
        );
        check(
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            objects,
            Some(Accept {
                format: Format::Json,
                form: Form::Metadata("meta.k8s.io/v1"),
            }),
        );
        check(
            "application/json;q=0.5, application/yaml",
            lists,
            Some(Accept {
                format: Format::Yaml,
                form: Form::Object,
            }),
        );
        check("text/html", lists, None);
    }
}
