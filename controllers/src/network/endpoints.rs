//! Endpoints objects, which slices replaced, for clients that still read them. Upstream: endpoint/endpoints_controller.go
//! (1.36).

use std::collections::BTreeMap;
use std::sync::Arc;

use api::names::well_known::{ENDPOINTS_OVER_CAPACITY, HEADLESS};
use api::pod;
use daemon::informer::Lister;
use daemon::{Next, Queue};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use tokio_util::sync::CancellationToken;

use super::{enqueue_services, has_address, host_name, is_headless, reference, selected, target_port};
use crate::context::{Context, Key, enqueue_each};
use crate::pods::this_one;
use crate::{Error, is_conflict, is_gone, is_terminating};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// Addresses per object; those who need more read slices.
const FULL: usize = 1000;

/// The object as it should be.
fn plan(service: &Service, pods: &[Arc<Pod>]) -> Endpoints {
    let spec = service.spec.clone().unwrap_or_default();
    let name = service.metadata.name.clone().unwrap_or_default();
    let published = spec.publish_not_ready_addresses == Some(true);
    let mut subsets: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    let mut shown: Vec<&Arc<Pod>> = pods.iter().filter(|pod| has_address(pod)).collect();
    shown.retain(|pod| published || !pod::is_deleting(pod));
    let over = shown.len() > FULL;
    shown.truncate(FULL);
    for pod in shown {
        let ports: Vec<EndpointPort> = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                Some(EndpointPort {
                    name: port.name.clone().filter(|name| !name.is_empty()),
                    port: target_port(pod, port)?,
                    protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect();
        if ports.is_empty() && !is_headless(&spec) {
            continue;
        }
        let address = EndpointAddress {
            ip: pod
                .status
                .as_ref()
                .and_then(|status| status.pod_ip.clone())
                .unwrap_or_default(),
            hostname: host_name(pod, &name),
            node_name: pod::node_name(pod).map(str::to_owned),
            target_ref: Some(reference(pod)),
        };
        let subset = subsets.entry(format!("{ports:?}")).or_default();
        subset.ports = Some(ports).filter(|ports| !ports.is_empty());
        let list = if published || pod::is_ready(pod) {
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        list.get_or_insert_default().push(address);
    }
    for subset in subsets.values_mut() {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses]
            .into_iter()
            .flatten()
        {
            list.sort_by(|a, b| a.ip.cmp(&b.ip));
        }
    }
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if is_headless(&spec) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let over = over.then(|| BTreeMap::from([(ENDPOINTS_OVER_CAPACITY.to_owned(), "truncated".to_owned())]));
    Endpoints {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: over,
            ..Default::default()
        },
        subsets: Some(subsets.into_values().collect()),
    }
}

struct Controller {
    context: Context,
    services: Lister<Service>,
    pods: Lister<Pod>,
    endpoints: Lister<Endpoints>,
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let (services, pods) = (context.all::<Service>(), context.all::<Pod>());
    let endpoints = context.all::<Endpoints>();
    enqueue_services(&services, &pods, &queue);
    enqueue_each(&endpoints, &queue);
    services.synced().await;
    pods.synced().await;
    endpoints.synced().await;
    let controller = Arc::new(Controller {
        context: context.clone(),
        services,
        pods,
        endpoints,
    });
    context
        .work(queue, stop, move |key| reconcile(controller.clone(), key))
        .await
}

async fn reconcile(controller: Arc<Controller>, key: Key) -> Result<Next, Error> {
    let Controller {
        context,
        services,
        pods,
        endpoints,
    } = &*controller;
    let api: Api<Endpoints> = Api::namespaced(context.client.clone(), &key.namespace);
    let current = endpoints.get(&key.namespace, &key.name);
    let Some(entry) = services.get(&key.namespace, &key.name) else {
        // Others keep Endpoints without a Service, election records for one: only our own go.
        if let Some(current) = current.filter(|current| current.labels.get(MANAGED_BY) == Some(MANAGER)) {
            match api.delete(&key.name, &this_one(&current.typed()?.metadata)).await {
                Err(error) if is_gone(&error) || is_conflict(&error) => {}
                answer => drop(answer?),
            }
        }
        return Ok(Next::Done);
    };
    let service = entry.typed()?;
    let spec = service.spec.clone().unwrap_or_default();
    let external = spec.type_.as_deref() == Some("ExternalName");
    if spec.selector.as_ref().is_none_or(BTreeMap::is_empty) || external {
        return Ok(Next::Done);
    }
    let wanted = plan(&service, &selected(pods, &key.namespace, &spec)?);
    let params = PostParams::default();
    let answer = match current {
        None => api.create(&params, &wanted).await,
        Some(current) => {
            let current = current.typed()?;
            let subsets = |endpoints: &Endpoints| endpoints.subsets.clone().unwrap_or_default();
            let capacity = |endpoints: &Endpoints| {
                let annotations = endpoints.metadata.annotations.as_ref();
                annotations.and_then(|all| all.get(ENDPOINTS_OVER_CAPACITY)).cloned()
            };
            if subsets(&current) == subsets(&wanted)
                && current.metadata.labels == wanted.metadata.labels
                && capacity(&current) == capacity(&wanted)
            {
                return Ok(Next::Done);
            }
            let mut changed = (*current).clone();
            changed.subsets = wanted.subsets.clone();
            changed.metadata.labels = wanted.metadata.labels.clone();
            let annotations = changed.metadata.annotations.get_or_insert_default();
            annotations.remove(ENDPOINTS_OVER_CAPACITY);
            annotations.extend(wanted.metadata.annotations.clone().unwrap_or_default());
            api.replace(&key.name, &params, &changed).await
        }
    };
    match answer {
        // The change that was in the way brings the Service back.
        Err(error) if is_conflict(&error) || is_gone(&error) || is_terminating(&error) => Ok(Next::Done),
        answer => answer.map(|_| Next::Done).map_err(Error::from),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ready_and_unready_addresses_are_told_apart_and_leaving_pods_are_not_shown() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "n"},
            "spec": {"selector": {"app": "a"}, "ports": [{"port": 80, "protocol": "TCP"}]},
        }))
        .unwrap();
        let pod = |number: usize, ready: bool, leaving: bool| -> Arc<Pod> {
            let mut pod = json!({
                "metadata": {"name": format!("p{number}"), "namespace": "n"}, "spec": {"containers": []},
                "status": {"podIP": format!("10.0.0.{number}"),
                    "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
            });
            if leaving {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let pods = [
            pod(3, true, false),
            pod(1, true, false),
            pod(2, false, false),
            pod(4, true, true),
        ];
        let subsets = plan(&service, &pods).subsets.unwrap();
        assert_eq!(subsets.len(), 1);
        let ips = |list: &Option<Vec<EndpointAddress>>| -> Vec<_> {
            list.iter().flatten().map(|address| address.ip.clone()).collect()
        };
        assert_eq!(ips(&subsets[0].addresses), ["10.0.0.1", "10.0.0.3"]);
        assert_eq!(ips(&subsets[0].not_ready_addresses), ["10.0.0.2"]);
        assert_eq!(subsets[0].ports.as_ref().unwrap()[0].port, 80);
    }
}
