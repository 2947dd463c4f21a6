//! What `kubectl get` shows of each kind: one function per kind, one cell per column, in the row's order.
//! Comes in: an object in its stored form, and the time for ages. Pure; a value that is not there shows as upstream
//! shows it (`<none>`, `<unset>`, `<unknown>`), never as an error.
//! Upstream: kubernetes/pkg/printers/internalversion/printers.go (1.36).

pub(super) mod cluster;
pub(super) mod network;
pub(super) mod node;
pub(super) mod pod;
pub(super) mod service;
pub(super) mod volume;
pub(super) mod workload;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::object::Object;
use crate::strategy::field::Field;

pub(super) const NONE: &str = "<none>";
pub(super) const UNSET: &str = "<unset>";
const UNKNOWN: &str = "<unknown>";

/// Name and creation time, for kinds without columns of their own.
pub(super) fn created_at(object: &Object, _now: Timestamp) -> Vec<Value> {
    vec![name(object), object.str_at(&["metadata", "creationTimestamp"]).into()]
}

/// Name and age.
pub(super) fn name_and_age(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

pub(super) fn name(object: &Object) -> Value {
    object.name().into()
}

/// How old the object is.
pub(super) fn age(object: &Object, now: Timestamp) -> Value {
    since(object.str_at(&["metadata", "creationTimestamp"]), now).into()
}

/// How long ago a time was; `<unknown>` where there is none.
pub(super) fn since(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => human_duration(now.duration_since(time).as_millis()),
        Err(_) => UNKNOWN.into(),
    }
}

/// The root field `name`, or one below it: `spec.replicas`.
pub(super) fn get<'a>(object: &'a Object, name: &'a str) -> Field<'a, 'a> {
    Field::root(object, name)
}

/// A duration at the precision that a human wants (apimachinery/pkg/util/duration, HumanDuration).
pub(super) fn human_duration(millis: i128) -> String {
    let seconds = millis / 1000;
    // Clocks of two machines may differ a little: that much of the future is now.
    if seconds < -1 {
        return "<invalid>".into();
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let two = |big: i128, unit: &str, small: i128, sub: &str| {
        if small == 0 {
            format!("{big}{unit}")
        } else {
            format!("{big}{unit}{small}{sub}")
        }
    };
    match seconds {
        ..0 => "0s".into(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => two(hours / 24, "d", hours % 24, "h"),
        _ if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        _ if hours < 24 * 365 * 8 => two(hours / 24 / 365, "y", (hours / 24) % 365, "d"),
        _ => format!("{}y", hours / 24 / 365),
    }
}

/// `text`, or `otherwise` where it is empty.
pub(super) fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// A map as `k=v,k=v`; `<none>` when empty.
pub(super) fn labels(map: Option<&Map<String, Value>>) -> String {
    let list = pairs(map);
    if list.is_empty() { NONE.into() } else { list.join(",") }
}

fn pairs(map: Option<&Map<String, Value>>) -> Vec<String> {
    let mut list: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or("")))
        .collect();
    list.sort();
    list
}

/// A label selector as `kubectl` takes it: `a=b,c in (d,e),!f`; empty when it selects all.
pub(super) fn selector(field: &Field) -> String {
    let mut terms: Vec<(String, String)> = field
        .get("matchLabels")
        .entries()
        .map(|(key, value)| (key.to_owned(), format!("{key}={}", value.str())))
        .collect();
    for requirement in field.get("matchExpressions").items() {
        let key = requirement.get("key").str();
        let mut values: Vec<&str> = requirement.get("values").strings().collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match requirement.get("operator").str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        terms.push((key.to_owned(), text));
    }
    terms.sort_by(|a, b| a.0.cmp(&b.0));
    terms.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

/// As [`selector`], `<none>` when it selects all.
pub(super) fn selector_or_none(field: &Field) -> String {
    let text = selector(field);
    if text.is_empty() { NONE.into() } else { text }
}

/// Names and images of containers, joined.
pub(super) fn containers(field: &Field) -> [Value; 2] {
    ["name", "image"].map(|what| {
        field
            .items()
            .map(|c| c.get(what).str().to_owned())
            .collect::<Vec<_>>()
            .join(",")
            .into()
    })
}

/// The first `max` of a list, and how many more.
pub(super) fn first_of(list: &[String], max: usize) -> String {
    let shown = list[..list.len().min(max)].join(",");
    if list.len() > max {
        format!("{shown} + {} more...", list.len() - max)
    } else {
        shown
    }
}

/// An int or string as it stands.
pub(super) fn int_or_string(field: &Field, otherwise: &str) -> Value {
    match field.value() {
        Some(Value::String(s)) => s.clone().into(),
        Some(other) => other.to_string().into(),
        None => otherwise.into(),
    }
}

/// A number that is 0 when it is not there.
pub(super) fn count(object: &Object, name: &str) -> Value {
    json!(get(object, name).number())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An object of `kind` fields at a fixed age of five minutes.
    pub(crate) fn object(value: Value) -> Object {
        let mut object = Object(value.as_object().expect("map").clone());
        let meta = object.metadata_mut();
        meta.entry("name").or_insert_with(|| "x".into());
        meta.entry("creationTimestamp")
            .or_insert_with(|| "2024-05-01T10:00:00Z".into());
        object
    }
    pub(crate) fn now() -> Timestamp {
        "2024-05-01T10:05:00Z".parse().expect("time")
    }
    #[track_caller]
    pub(crate) fn check(cells: super::super::Cells, value: Value, want: Value) {
        assert_eq!(Value::Array(cells(&object(value), now())), want);
    }

    #[test]
    fn durations_are_as_precise_as_a_human_wants() {
        const H: i128 = 3600;
        for (seconds, want) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (179 * 60, "179m"),
            (3 * H, "3h"),
            (3 * H + 60, "3h1m"),
            (8 * H + 60, "8h"),
            (47 * H, "47h"),
            (48 * H, "2d"),
            (49 * H, "2d1h"),
            (8 * 24 * H, "8d"),
            (400 * 24 * H, "400d"),
            (730 * 24 * H, "2y"),
            (731 * 24 * H, "2y1d"),
            (3000 * 24 * H, "8y"),
        ] {
            assert_eq!(human_duration(seconds * 1000), want, "{seconds}");
        }
    }
    #[test]
    fn selectors_print_as_kubectl_takes_them() {
        let value = json!({"matchLabels": {"b": "c"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "z", "operator": "DoesNotExist"}]});
        assert_eq!(selector(&Field::at(Some(&value), "s")), "a in (x,y),b=c,!z");
        assert_eq!(selector_or_none(&Field::at(None, "s")), "<none>");
    }
    #[test]
    fn every_row_has_a_cell_for_each_column() {
        let empty = object(json!({}));
        for row in super::super::rows() {
            let cells = row.columns.cells.expect("built-in rows print themselves");
            assert_eq!(cells(&empty, now()).len(), row.columns.columns.len(), "{}", row.plural);
        }
    }
}
