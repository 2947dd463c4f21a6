//! EndpointSlices from Services and pods. Upstream: k8s.io/endpointslice/reconciler.go (1.36).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::names::well_known::{ENDPOINT_SLICE_MANAGED_BY, HEADLESS, SERVICE_NAME, ZONE};
use api::pod;
use daemon::informer::{Change, Lister};
use daemon::{Next, Queue};
use k8s_openapi::api::core::v1::{Node, Pod, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use tokio_util::sync::CancellationToken;

use super::{enqueue_services, has_address, host_name, is_headless, reference, selected, target_port};
use crate::context::{Context, Key};
use crate::guard::Guard;
use crate::pods::this_one;
use crate::{Error, is_conflict, is_gone, is_terminating};

const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Endpoints per slice.
const FULL: usize = 100;

/// What one reconciliation looks at.
struct Observed<'a> {
    service: &'a Service,
    pods: &'a [Arc<Pod>],
    /// The slices of the Service that are ours.
    slices: &'a [Arc<EndpointSlice>],
    /// The zone of a node.
    zone: &'a dyn Fn(&str) -> Option<String>,
}

#[derive(Debug, Default)]
struct Plan {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
}

/// Endpoints with the same ports share slices.
type Group = (String, Vec<EndpointPort>, Vec<Endpoint>);

fn plan(observed: &Observed<'_>) -> Plan {
    let Observed { service, slices, .. } = observed;
    let spec = service.spec.clone().unwrap_or_default();
    let mut plan = Plan::default();
    let mut left: Vec<Arc<EndpointSlice>> = slices.to_vec();
    left.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    for family in families(&spec) {
        let groups = groups(observed, &spec, &family);
        for (_, ports, endpoints) in groups {
            let (same, other): (Vec<_>, Vec<_>) = left
                .into_iter()
                .partition(|slice| slice.address_type == family && slice.ports.as_deref().unwrap_or_default() == ports);
            left = other;
            pack(&mut plan, service, &family, &ports, endpoints, same);
        }
    }
    plan.delete.extend(left);
    plan
}

/// Puts endpoints into slices, with as few changes as possible: those that are there stay where they are, new ones go
/// first to slices that change anyway.
fn pack(
    plan: &mut Plan,
    service: &Service,
    family: &str,
    ports: &[EndpointPort],
    mut wanted: Vec<Endpoint>,
    slices: Vec<Arc<EndpointSlice>>,
) {
    let mut kept: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
    for slice in slices {
        let mut stay = Vec::new();
        for endpoint in slice.endpoints.iter().flatten() {
            let same =
                |other: &Endpoint| other.target_ref == endpoint.target_ref && other.addresses == endpoint.addresses;
            if let Some(at) = wanted.iter().position(same) {
                stay.push(wanted.remove(at));
            }
        }
        kept.push((slice, stay));
    }
    let changes = |slice: &EndpointSlice, stay: &[Endpoint]| slice.endpoints.as_deref().unwrap_or_default() != stay;
    let mut rest = wanted.into_iter().peekable();
    for changing in [true, false] {
        for (slice, stay) in &mut kept {
            if rest.peek().is_none() {
                break;
            }
            if changes(slice, stay) == changing && stay.len() < FULL {
                let room = FULL - stay.len();
                stay.extend(rest.by_ref().take(room));
            }
        }
    }
    let made = |endpoints: Vec<Endpoint>| new_slice(service, family, ports, endpoints);
    let nothing = kept.iter().all(|(_, stay)| stay.is_empty()) && rest.peek().is_none();
    for (at, (slice, stay)) in kept.iter().enumerate() {
        // The last one stays, empty: without a slice nobody could tell "no endpoints" from "not looked at yet".
        if stay.is_empty() && !(nothing && at == 0) {
            plan.delete.push(slice.clone());
            continue;
        }
        let mut changed = (**slice).clone();
        let fresh = made(stay.clone());
        changed.metadata.labels = fresh.metadata.labels;
        changed.metadata.owner_references = fresh.metadata.owner_references;
        changed.endpoints = Some(stay.clone());
        let before = (slice.endpoints.as_deref().unwrap_or_default(), &slice.metadata);
        if before != (stay.as_slice(), &changed.metadata) {
            plan.update.push(changed);
        }
    }
    while rest.peek().is_some() {
        plan.create.push(made(rest.by_ref().take(FULL).collect()));
    }
    if kept.is_empty() && nothing {
        plan.create.push(made(Vec::new()));
    }
}

/// The kinds of addresses that the Service has.
fn families(spec: &ServiceSpec) -> Vec<String> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    match spec.ip_families.as_deref() {
        Some(families) if !families.is_empty() => families.to_vec(),
        _ => vec!["IPv4".to_owned()],
    }
}

/// The endpoints of one family by their ports; one empty group where there are none.
fn groups(observed: &Observed<'_>, spec: &ServiceSpec, family: &str) -> Vec<Group> {
    let name = observed.service.metadata.name.as_deref().unwrap_or_default();
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for pod in observed.pods.iter().filter(|pod| has_address(pod)) {
        let Some(address) = address(pod, family) else { continue };
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target_port(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        });
        let ports: Vec<EndpointPort> = ports.collect();
        let key = format!("{ports:?}");
        let group = groups.entry(key.clone()).or_insert_with(|| (key, ports, Vec::new()));
        let node = pod::node_name(pod);
        let terminating = pod::is_deleting(pod);
        let serving = pod::is_ready(pod);
        let published = spec.publish_not_ready_addresses == Some(true);
        group.2.push(Endpoint {
            addresses: vec![address],
            conditions: Some(EndpointConditions {
                ready: Some(published || (serving && !terminating)),
                serving: Some(serving),
                terminating: Some(terminating),
            }),
            hostname: host_name(pod, name),
            node_name: node.map(str::to_owned),
            target_ref: Some(reference(pod)),
            zone: node.and_then(|node| (observed.zone)(node)),
            ..Default::default()
        });
    }
    if groups.is_empty() {
        return vec![(String::new(), Vec::new(), Vec::new())];
    }
    groups.into_values().collect()
}

fn address(pod: &Pod, family: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut all = all.chain(status.pod_ip.as_deref());
    let fits = |text: &str| match text.parse() {
        Ok(IpAddr::V4(_)) => family == "IPv4",
        Ok(IpAddr::V6(_)) => family == "IPv6",
        Err(_) => false,
    };
    all.find(|text| fits(text)).map(str::to_owned)
}

fn new_slice(service: &Service, family: &str, ports: &[EndpointPort], endpoints: Vec<Endpoint>) -> EndpointSlice {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if service.spec.as_ref().is_some_and(is_headless) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(ENDPOINT_SLICE_MANAGED_BY.to_owned(), MANAGER.to_owned());
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![api::owner::controller_reference(service)]),
            ..Default::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports.to_vec()).filter(|ports| !ports.is_empty()),
    }
}

struct Controller {
    context: Context,
    services: Lister<Service>,
    pods: Lister<Pod>,
    slices: Lister<EndpointSlice>,
    nodes: Lister<Node>,
    guard: Guard,
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let (services, pods) = (context.all::<Service>(), context.all::<Pod>());
    let (slices, nodes) = (context.all::<EndpointSlice>(), context.all::<Node>());
    slices.index("service", |slice| {
        let ours = slice.labels.get(ENDPOINT_SLICE_MANAGED_BY) == Some(MANAGER);
        let service = slice.labels.get(SERVICE_NAME).filter(|_| ours);
        service
            .map(|service| format!("{}/{service}", slice.namespace))
            .into_iter()
            .collect()
    });
    enqueue_services(&services, &pods, &queue);
    let into = queue.clone();
    slices.on_change(move |change| match change {
        Change::Applied { new: slice, .. } | Change::Deleted { old: slice } => {
            if let Some(service) = slice.labels.get(SERVICE_NAME) {
                into.add(Key::new(&slice.namespace, service));
            }
        }
    });
    services.synced().await;
    pods.synced().await;
    slices.synced().await;
    nodes.synced().await;
    let controller = Arc::new(Controller {
        context: context.clone(),
        services,
        pods,
        slices,
        nodes,
        guard: Guard::default(),
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
        slices,
        nodes,
        guard,
    } = &*controller;
    // Slices of a Service that is gone are garbage, and collected as such.
    let Some(entry) = services.get(&key.namespace, &key.name) else {
        return Ok(Next::Done);
    };
    if !guard.is_open(&key, slices.revision()) {
        return Ok(Next::After(Duration::from_secs(1)));
    }
    let service = entry.typed()?;
    let spec = service.spec.clone().unwrap_or_default();
    if spec.selector.as_ref().is_none_or(BTreeMap::is_empty) || entry.deleting {
        return Ok(Next::Done);
    }
    let pods = selected(pods, &key.namespace, &spec)?;
    let ours = slices.by("service", &format!("{}/{}", key.namespace, key.name));
    let ours: Vec<Arc<EndpointSlice>> = ours.iter().map(|slice| slice.typed()).collect::<Result<_, _>>()?;
    let zone = |node: &str| nodes.get("", node)?.labels.get(ZONE).map(str::to_owned);
    let plan = plan(&Observed {
        service: &service,
        pods: &pods,
        slices: &ours,
        zone: &zone,
    });
    let api: Api<EndpointSlice> = Api::namespaced(context.client.clone(), &key.namespace);
    let params = PostParams::default();
    for slice in plan.create {
        match api.create(&params, &slice).await {
            Ok(slice) => guard.wrote(&key, &slice.metadata),
            Err(error) if is_terminating(&error) => return Ok(Next::Done),
            Err(error) => return Err(error.into()),
        }
    }
    for slice in plan.update {
        let name = slice.metadata.name.clone().unwrap_or_default();
        match api.replace(&name, &params, &slice).await {
            Ok(slice) => guard.wrote(&key, &slice.metadata),
            // The change that was in the way brings the Service back.
            Err(error) if is_gone(&error) || is_conflict(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for slice in plan.delete {
        let name = slice.metadata.name.clone().unwrap_or_default();
        match api.delete(&name, &this_one(&slice.metadata)).await {
            Err(error) if is_gone(&error) || is_conflict(&error) => {}
            answer => drop(answer?),
        }
    }
    Ok(Next::Done)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Service {
        let mut service = json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "s", "labels": {"team": "x"}},
            "spec": {"selector": {"app": "a"}, "clusterIP": "10.96.0.5", "ipFamilies": ["IPv4"],
                "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]},
        });
        for (key, value) in spec.as_object().unwrap() {
            service["spec"][key] = value.clone();
        }
        serde_json::from_value(service).unwrap()
    }

    fn pod(number: usize, ready: bool) -> Value {
        json!({
            "metadata": {"name": format!("p{number}"), "namespace": "n", "uid": format!("u{number}"), "labels": {"app": "a"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8000 + number}]}]},
            "status": {"phase": "Running", "podIP": format!("10.0.{}.{}", number / 250, number % 250), "podIPs": [
                {"ip": format!("10.0.{}.{}", number / 250, number % 250)}, {"ip": format!("fd00::{number:x}")}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        })
    }

    fn planned(service: &Service, pods: Vec<Value>, slices: &[Arc<EndpointSlice>]) -> Plan {
        let pods: Vec<Arc<Pod>> = pods
            .into_iter()
            .map(|pod| Arc::new(serde_json::from_value(pod).unwrap()))
            .collect();
        plan(&Observed {
            service,
            pods: &pods,
            slices,
            zone: &|_| Some("z1".to_owned()),
        })
    }

    /// What was created, as the server would have it.
    fn stored(plan: Plan) -> Vec<Arc<EndpointSlice>> {
        let named = plan.create.into_iter().enumerate().map(|(at, mut slice)| {
            slice.metadata.name = Some(format!("web-{at}"));
            slice.metadata.generate_name = None;
            Arc::new(slice)
        });
        named.collect()
    }

    #[test]
    fn a_slice_says_where_pods_are_and_whether_they_serve() {
        let mut leaving = pod(3, true);
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let mut ended = pod(4, false);
        ended["status"]["phase"] = json!("Succeeded");
        let plan = planned(
            &service(json!({})),
            vec![pod(1, true), pod(2, false), leaving, ended],
            &[],
        );
        assert_eq!(plan.create.len(), 1);
        let slice = &plan.create[0];
        let labels = slice.metadata.labels.as_ref().unwrap();
        assert_eq!((labels[SERVICE_NAME].as_str(), labels["team"].as_str()), ("web", "x"));
        assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
        let read = slice.endpoints.iter().flatten().map(|endpoint| {
            let conditions = endpoint.conditions.clone().unwrap();
            (
                endpoint.addresses[0].as_str(),
                conditions.ready,
                conditions.serving,
                conditions.terminating,
            )
        });
        let want = [
            ("10.0.0.1", Some(true), Some(true), Some(false)),
            ("10.0.0.2", Some(false), Some(false), Some(false)),
            ("10.0.0.3", Some(false), Some(true), Some(true)),
        ];
        assert!(read.eq(want));
        let first = &slice.endpoints.as_ref().unwrap()[0];
        assert_eq!(
            (first.node_name.as_deref(), first.zone.as_deref()),
            (Some("n1"), Some("z1"))
        );
    }

    #[test]
    fn unready_pods_are_published_where_the_service_wants_it() {
        let plan = planned(
            &service(json!({"publishNotReadyAddresses": true})),
            vec![pod(1, false)],
            &[],
        );
        let conditions = plan.create[0].endpoints.as_ref().unwrap()[0]
            .conditions
            .clone()
            .unwrap();
        assert_eq!((conditions.ready, conditions.serving), (Some(true), Some(false)));
    }

    #[test]
    fn a_service_without_pods_has_one_empty_slice() {
        let service = service(json!({}));
        let slices = stored(planned(&service, vec![], &[]));
        assert_eq!(slices.len(), 1);
        let again = planned(&service, vec![], &slices);
        assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
        // The pod's ports differ from none at all: the empty slice goes.
        let grown = planned(&service, vec![pod(1, true)], &slices);
        assert_eq!((grown.create.len(), grown.delete.len()), (1, 1));
    }

    #[test]
    fn slices_are_filled_to_a_hundred_and_changed_as_little_as_possible() {
        let service = service(json!({}));
        let pods: Vec<_> = (0..250).map(|number| pod(number, true)).collect();
        let slices = stored(planned(&service, pods.clone(), &[]));
        let sizes = |slices: &[Arc<EndpointSlice>]| -> Vec<_> {
            slices
                .iter()
                .map(|slice| slice.endpoints.as_ref().unwrap().len())
                .collect()
        };
        assert_eq!(sizes(&slices), [100, 100, 50]);
        let unchanged = planned(&service, pods.clone(), &slices);
        assert!(unchanged.create.is_empty() && unchanged.update.is_empty() && unchanged.delete.is_empty());
        // One goes and two come: only the slice that loses one and the one with room change.
        let mut next = pods;
        next.remove(0);
        next.extend([pod(900, true), pod(901, true)]);
        let plan = planned(&service, next, &slices);
        let changed: Vec<_> = plan
            .update
            .iter()
            .map(|slice| slice.endpoints.as_ref().unwrap().len())
            .collect();
        assert_eq!((plan.create.len(), changed, plan.delete.len()), (0, vec![100, 51], 0));
    }

    #[test]
    fn a_named_port_has_each_pods_own_number() {
        let ports = json!([{"name": "http", "port": 80, "targetPort": "web"}]);
        let plan = planned(&service(json!({"ports": ports})), vec![pod(1, true), pod(2, true)], &[]);
        let numbers: Vec<_> = plan
            .create
            .iter()
            .map(|slice| slice.ports.as_ref().unwrap()[0].port)
            .collect();
        assert_eq!(numbers, [Some(8001), Some(8002)]);
    }

    #[test]
    fn each_family_has_slices_of_its_own_and_headless_ones_say_so() {
        let service = service(json!({"ipFamilies": ["IPv4", "IPv6"], "clusterIP": "None"}));
        let plan = planned(&service, vec![pod(1, true)], &[]);
        let read = plan.create.iter().map(|slice| {
            let labels = slice.metadata.labels.as_ref().unwrap();
            let address = slice.endpoints.as_ref().unwrap()[0].addresses[0].clone();
            (slice.address_type.clone(), address, labels.contains_key(HEADLESS))
        });
        let want = [
            ("IPv4".to_owned(), "10.0.0.1".to_owned(), true),
            ("IPv6".to_owned(), "fd00::1".to_owned(), true),
        ];
        assert!(read.eq(want));
    }
}
