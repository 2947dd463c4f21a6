//! What the node says of itself and its pods: statistics, metrics, the pods that run whatever the API says.

use std::collections::BTreeMap;

use http::{Response, StatusCode, header};
use serde_json::{Value, json};

use super::{Answer, Body, Context, Failure, flag, full};
use crate::{
    node::facts,
    runtime::{self, ContainerState, label},
    stats::{summary, text},
};

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn answer(content_type: &'static str, body: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    let value = http::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

fn json(value: &Value) -> Response<Body> {
    answer("application/json", value.to_string())
}

fn prometheus(text: String) -> Response<Body> {
    answer("text/plain; version=0.0.4; charset=utf-8", text)
}

pub(super) async fn summary(context: &Context, query: &[(String, String)]) -> Answer {
    let shared = &context.shared;
    let pair = shared.meter.pair(shared).await.map_err(failed)?;
    let disks = if flag(query, "only_cpu_and_memory") {
        None
    } else {
        let images = match shared.runtime.image_fs().await {
            Err(runtime::Error::Unimplemented(_)) => runtime::ImageFsInfo::default(),
            told => told.map_err(failed)?,
        };
        let pods = shared.entries().into_iter().filter_map(|e| e.typed().ok());
        let dirs: Vec<_> = pods.filter_map(|p| summary::dirs(shared, &p)).collect();
        let root = shared.config.root_dir.clone();
        let read = tokio::task::spawn_blocking(move || summary::disks(&root, &images, &dirs));
        Some(read.await.map_err(failed)?)
    };
    let memory = u64::try_from(shared.node.borrow().memory).unwrap_or(0);
    let value = summary::summary(&shared.config.node_name, memory, facts::booted(), &pair, disks.as_ref());
    Ok(json(&value))
}

pub(super) async fn resource_metrics(context: &Context) -> Response<Body> {
    let sample = context.shared.meter.once(&context.shared).await;
    if let Err(error) = &sample {
        tracing::warn!(%error, "the use of resources cannot be read");
    }
    prometheus(text::resource(sample.ok().as_deref()))
}

pub(super) async fn cadvisor_metrics(context: &Context) -> Answer {
    let shared = &context.shared;
    let sample = shared.meter.once(shared).await.map_err(failed)?;
    let (cores, memory) = {
        let node = shared.node.borrow();
        (node.milli_cpu as f64 / 1000.0, node.memory as f64)
    };
    Ok(prometheus(text::cadvisor(&sample, cores, memory)))
}

pub(super) async fn own_metrics(context: &Context) -> Answer {
    let shared = &context.shared;
    let sandboxes = shared.runtime.sandboxes(None).await.map_err(failed)?;
    let all = shared.runtime.containers(None).await.map_err(failed)?;
    let of = |state: ContainerState| all.iter().filter(|c| c.state == state as i32).count();
    let own = text::Own {
        node: &shared.config.node_name,
        version: facts::VERSION,
        pods: sandboxes.iter().filter(|s| s.state == 0).count(),
        containers: [
            of(ContainerState::Created),
            of(ContainerState::Running),
            of(ContainerState::Exited),
            of(ContainerState::Unknown),
        ],
        evictions: &shared.evictions.shown(),
    };
    Ok(prometheus(text::own(&own)))
}

/// From the runtime alone.
pub(super) async fn running_pods(context: &Context) -> Answer {
    let mut pods: BTreeMap<(String, String, String), Vec<Value>> = BTreeMap::new();
    for container in context.shared.runtime.containers(None).await.map_err(failed)? {
        if container.state != ContainerState::Running as i32 {
            continue;
        }
        let of = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
        let key = (of(label::POD_NAMESPACE), of(label::POD_NAME), of(label::POD_UID));
        let image = container.image.as_ref().map_or("", |i| i.image.as_str());
        pods.entry(key)
            .or_default()
            .push(json!({"name": of(label::CONTAINER_NAME), "image": image, "resources": {}}));
    }
    let items: Vec<Value> = pods
        .into_iter()
        .map(|((namespace, name, uid), containers)| {
            json!({
                "metadata": {"name": name, "namespace": namespace, "uid": uid},
                "spec": {"containers": containers},
                "status": {},
            })
        })
        .collect();
    Ok(json(
        &json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}),
    ))
}
