//! Events: one store, two shapes. Stored as core/v1, where upstream stores them too.

use std::time::Duration;

use serde_json::{Map, Value};

use super::super::row::{Convert, Resource};
use super::{cells, namespaced};
use crate::object::Object;
use crate::strategy::event::Events;

/// The core group's events.
pub(super) fn core() -> Resource {
    shared("").fields(
        "involvedObject.kind involvedObject.namespace involvedObject.name involvedObject.uid \
         involvedObject.apiVersion involvedObject.resourceVersion involvedObject.fieldPath reason \
         reportingComponent source@source.component|reportingComponent type",
    )
}

pub(super) fn rows() -> Vec<Resource> {
    vec![
        shared("events.k8s.io")
            .stored_as("v1")
            .convert(Convert {
                to_storage,
                from_storage,
            })
            // In the order of the core row, so that one cache serves both.
            .fields(
                "regarding.kind@involvedObject.kind regarding.namespace@involvedObject.namespace \
                 regarding.name@involvedObject.name regarding.uid@involvedObject.uid \
                 regarding.apiVersion@involvedObject.apiVersion \
                 regarding.resourceVersion@involvedObject.resourceVersion \
                 regarding.fieldPath@involvedObject.fieldPath reason \
                 reportingController@reportingComponent \
                 deprecatedSource@source.component|reportingComponent type",
            ),
    ]
}

fn shared(group: &str) -> Resource {
    namespaced(group, "v1", "Event", "events")
        .short("ev")
        .lazy()
        .time_to_live(Duration::from_secs(3600))
        .create_on_update()
        .columns(
            "Last Seen, Type, Reason, Object, Subobject*, Source*, Message, First Seen*, Count*, Name*",
            cells::cluster::event,
        )
        .strategy(Events {
            strict: !group.is_empty(),
        })
}

const NEW: &str = "events.k8s.io/v1";

/// events.k8s.io name, core name.
const RENAMED: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn rename(object: &mut Object, names: impl Iterator<Item = (&'static str, &'static str)>) {
    // All are taken out before any is put back: a name may be old in one row and new in another.
    let moved: Vec<(&str, Value)> = names
        .filter_map(|(from, to)| object.0.remove(from).map(|value| (to, value)))
        .collect();
    object
        .0
        .extend(moved.into_iter().map(|(to, value)| (to.to_owned(), value)));
}

fn to_storage(object: &mut Object) {
    if object.api_version() == "v1" {
        return;
    }
    object.0.insert("apiVersion".into(), "v1".into());
    rename(object, RENAMED.iter().copied());
    if !object.0.get("involvedObject").is_some_and(Value::is_object) {
        object.0.insert("involvedObject".into(), Value::Object(Map::new()));
    }
}

fn from_storage(object: &mut Object, _version: &str) {
    object.0.insert("apiVersion".into(), NEW.into());
    rename(object, RENAMED.iter().map(|(new, core)| (*core, *new)));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_keeps_everything_on_the_way_there_and_back() {
        let new = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
            "regarding": {"kind": "Pod"}, "related": {"kind": "Node"}, "note": "n", "reason": "r", "type": "Normal",
            "action": "a", "eventTime": "2024-01-01T00:00:00.000000Z", "series": {"count": 2},
            "reportingController": "c", "reportingInstance": "i",
            "deprecatedSource": {"component": "s"}, "deprecatedCount": 3,
        });
        let rows = rows();
        let row = &rows[0];
        let mut object = Object(new.as_object().expect("map").clone());
        row.to_stored(&mut object);
        assert_eq!(object.api_version(), "v1");
        assert_eq!(object.str_at(&["message"]), "n");
        assert_eq!(object.str_at(&["source", "component"]), "s");
        assert_eq!(object.str_at(&["reportingComponent"]), "c");
        assert_eq!(object.str_at(&["reportingInstance"]), "i");
        row.from_stored(&mut object, "v1");
        assert_eq!(Value::Object(object.0), new);
    }
}
