//! metrics.k8s.io: what nodes and pods use now. Asked of the kubelets by `http::usage`, never stored.

use api::quantity::{Format, Quantity};
use jiff::Timestamp;
use serde_json::Value;

use super::super::row::Resource;
use super::{cells, cluster, namespaced};
use crate::object::Object;

const GROUP: &str = "metrics.k8s.io";
const V1BETA1: &str = "v1beta1";
/// After the columns of sigs.k8s.io/metrics-server.
const COLUMNS: &str = "Name, cpu:string/quantity, memory:string/quantity, Window:string/duration";

/// For servers that have a way to the kubelets.
pub fn usage() -> Vec<Resource> {
    [
        cluster(GROUP, V1BETA1, "NodeMetrics", "nodes").columns(COLUMNS, node),
        namespaced(GROUP, V1BETA1, "PodMetrics", "pods").columns(COLUMNS, pod),
    ]
    .into_iter()
    .map(|row| {
        let mut row = row.verbs(&["get", "list"]);
        row.singular = "".into();
        row.computed = true;
        row
    })
    .collect()
}

fn node(object: &Object, _now: Timestamp) -> Vec<Value> {
    let text = |path: &[&str]| Value::from(object.str_at(path));
    vec![
        cells::name(object),
        text(&["usage", "cpu"]),
        text(&["usage", "memory"]),
        text(&["window"]),
    ]
}

fn pod(object: &Object, _now: Timestamp) -> Vec<Value> {
    let containers = object.at(&["containers"]).and_then(Value::as_array);
    let of = |name: &'static str| {
        let each = containers.into_iter().flatten();
        each.filter_map(move |c| Quantity::parse(c["usage"][name].as_str()?).ok())
    };
    let cpu: i64 = of("cpu").map(|q| q.as_nano()).sum();
    let memory: i64 = of("memory").map(|q| q.as_i64()).sum();
    vec![
        cells::name(object),
        nano(cpu).into(),
        Quantity::new(memory, Format::BinarySi).to_string().into(),
        object.str_at(&["window"]).into(),
    ]
}

/// Nanocores as a quantity in its shortest form.
pub fn nano(mut value: i64) -> String {
    for suffix in ["n", "u", "m"] {
        if value == 0 || value % 1000 != 0 {
            return if value == 0 {
                "0".to_owned()
            } else {
                format!("{value}{suffix}")
            };
        }
        value /= 1000;
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nanocores_have_the_shortest_form() {
        for (value, want) in [
            (0, "0"),
            (1, "1n"),
            (1_500, "1500n"),
            (2_000, "2u"),
            (250_000_000, "250m"),
            (3_000_000_000, "3"),
        ] {
            assert_eq!(nano(value), want);
        }
    }

    #[test]
    fn a_pods_row_is_the_sum_of_its_containers() {
        let pod_metrics = json!({
            "metadata": {"name": "p"}, "window": "15s",
            "containers": [
                {"name": "a", "usage": {"cpu": "1m", "memory": "1Mi"}},
                {"name": "b", "usage": {"cpu": "500u", "memory": "1Mi"}},
            ],
        });
        let Value::Object(map) = pod_metrics else {
            unreachable!()
        };
        let cells = pod(&Object(map), Timestamp::UNIX_EPOCH);
        assert_eq!(json!(cells), json!(["p", "1500u", "2Mi", "15s"]));
    }
}
