//! What pods use, as metrics.k8s.io tells it.

use std::time::Duration;

use api::Quantity;
use kube::api::{ListParams, Request};
use serde::Deserialize;

use super::count::{Sample, Samples, Subject};

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Named,
    timestamp: jiff::Timestamp,
    window: String,
    #[serde(default)]
    containers: Vec<Used>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Used {
    name: String,
    #[serde(default)]
    usage: std::collections::BTreeMap<String, Quantity>,
}

/// What the pods that a selector finds use of a resource.
pub(super) async fn ask(
    client: &kube::Client,
    namespace: &str,
    selector: &str,
    subject: Subject<'_>,
) -> Result<Samples, String> {
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods");
    let request = Request::new(path).list(&ListParams::default().labels(selector));
    let request = request.map_err(|error| error.to_string())?;
    let list: List = client.request(request).await.map_err(|error| {
        format!(
            "unable to fetch metrics from resource metrics API: {}",
            crate::pods::message(&error)
        )
    })?;
    read(list, namespace, subject)
}

fn read(list: List, namespace: &str, subject: Subject<'_>) -> Result<Samples, String> {
    let mut samples = Samples::new();
    for item in list.items {
        let pod = item.metadata.name;
        let chosen: Vec<&Used> = item
            .containers
            .iter()
            .filter(|used| subject.container.is_none_or(|wanted| wanted == used.name))
            .collect();
        if let Some(wanted) = subject.container.filter(|_| chosen.is_empty()) {
            return Err(format!(
                "container {wanted} not present in metrics for pod {namespace}/{pod}"
            ));
        }
        // A pod of which a part is unknown says nothing.
        let values: Option<Vec<i64>> = chosen
            .iter()
            .map(|used| used.usage.get(subject.resource).map(Quantity::as_milli))
            .collect();
        if let Some(values) = values.filter(|values| !values.is_empty()) {
            let sample = Sample {
                value: values.iter().sum(),
                at: item.timestamp,
                window: seconds(&item.window),
            };
            samples.insert(pod, sample);
        }
    }
    Ok(samples)
}

/// `30s`, `1m2.5s`: a duration as Go writes it.
fn seconds(text: &str) -> Duration {
    let span: Option<jiff::SignedDuration> = text.parse().ok();
    span.and_then(|span| Duration::try_from(span).ok())
        .unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_are_added_up_and_what_is_half_known_is_left_out() {
        let list = || -> List {
            let item = |name: &str, containers| json!({"metadata": {"name": name}, "timestamp": "2026-01-01T00:00:00Z", "window": "10.5s", "containers": containers});
            let used = |name: &str, cpu: &str| json!({"name": name, "usage": {"cpu": cpu}});
            serde_json::from_value(json!({"items": [
                item("a", json!([used("x", "250m"), used("y", "50m")])),
                item("b", json!([used("x", "1"), {"name": "y", "usage": {}}])),
            ]}))
            .unwrap()
        };
        let all = Subject {
            resource: "cpu",
            container: None,
        };
        let samples = read(list(), "n", all).unwrap();
        assert_eq!(samples.len(), 1);
        assert_eq!(
            (samples["a"].value, samples["a"].window),
            (300, Duration::from_millis(10_500))
        );
        let one = Subject {
            resource: "cpu",
            container: Some("x"),
        };
        assert_eq!(read(list(), "n", one).unwrap()["b"].value, 1000);
        let none = Subject {
            resource: "cpu",
            container: Some("z"),
        };
        assert_eq!(
            read(list(), "n", none).unwrap_err(),
            "container z not present in metrics for pod n/a"
        );
    }
}
