//! Where a Service's pods are: EndpointSlices, and Endpoints for those who still read them.
//! Services and pods come in; nothing here knows how packets are routed.
//! A pod is listed under exactly the addresses of the families that its Service has.

pub mod endpoints;
pub mod slices;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use api::pod;
use daemon::Queue;
use daemon::informer::{Change, Labels, Lister};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;

use crate::Error;
use crate::context::Key;

/// The selectors of all Services, so that a pod's change finds those it concerns without decoding any.
#[derive(Debug, Default)]
struct Selectors(Mutex<HashMap<Arc<str>, ByName>>);

type ByName = HashMap<Arc<str>, BTreeMap<String, String>>;

impl Selectors {
    fn set(&self, namespace: &Arc<str>, name: &Arc<str>, selector: Option<BTreeMap<String, String>>) {
        let mut all = self.0.lock().expect("no holder of this lock panics");
        let inside = all.entry(namespace.clone()).or_default();
        match selector.filter(|selector| !selector.is_empty()) {
            Some(selector) => drop(inside.insert(name.clone(), selector)),
            None => drop(inside.remove(name)),
        }
        if inside.is_empty() {
            all.remove(namespace);
        }
    }

    fn each(&self, namespace: &str, labels: &Labels, mut f: impl FnMut(&Arc<str>)) {
        let all = self.0.lock().expect("no holder of this lock panics");
        for (name, selector) in all.get(namespace).into_iter().flatten() {
            if selector.iter().all(|(key, value)| labels.get(key) == Some(value)) {
                f(name);
            }
        }
    }
}

/// Puts Services on a queue when they change, and when a pod that they select changes.
fn enqueue_services(services: &Lister<Service>, pods: &Lister<Pod>, queue: &Queue<Key>) {
    #[derive(Deserialize)]
    struct View {
        spec: Option<Spec>,
    }
    #[derive(Deserialize)]
    struct Spec {
        selector: Option<BTreeMap<String, String>>,
    }
    let selectors = Arc::new(Selectors::default());
    let (known, into) = (selectors.clone(), queue.clone());
    services.on_change(move |change| {
        let (service, selector) = match change {
            Change::Applied { new, .. } => {
                let view: Option<View> = new.view().ok();
                (new, view.and_then(|view| view.spec).and_then(|spec| spec.selector))
            }
            Change::Deleted { old } => (old, None),
        };
        known.set(&service.namespace, &service.name, selector);
        into.add(Key::of(service));
    });
    let into = queue.clone();
    pods.on_change(move |change| {
        let add = |pod: &daemon::Entry<Pod>| {
            selectors.each(&pod.namespace, &pod.labels, |name| {
                into.add(Key {
                    namespace: pod.namespace.clone(),
                    name: name.clone(),
                });
            });
        };
        match change {
            Change::Applied { old, new } => {
                add(new);
                if let Some(old) = old.filter(|old| old.labels != new.labels) {
                    add(old);
                }
            }
            Change::Deleted { old } => add(old),
        }
    });
}

/// The pods that a Service selects, typed.
fn selected(pods: &Lister<Pod>, namespace: &str, spec: &ServiceSpec) -> Result<Vec<Arc<Pod>>, Error> {
    let selector = spec.selector.clone().unwrap_or_default();
    let matching = pods
        .in_namespace(namespace)
        .into_iter()
        .filter(|pod| selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value)));
    matching.map(|pod| Ok(pod.typed()?)).collect()
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// The number of a Service's port in a pod; nothing where the pod has no port of that name.
fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        Some(IntOrString::Int(0)) | None => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => {
            pod::named_port(pod.spec.as_ref()?, name, port.protocol.as_deref().unwrap_or("TCP"))
        }
    }
}

/// Whether a pod has an address that will not be given to another before the pod is gone.
fn has_address(pod: &Pod) -> bool {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    !pod::is_terminal(pod) && ip.is_some_and(|ip| !ip.is_empty())
}

/// The name under which a pod has a DNS record of its own, where it has one.
fn host_name(pod: &Pod, service: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.clone().filter(|name| !name.is_empty())?;
    (spec.subdomain.as_deref() == Some(service)).then_some(hostname)
}

fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..Default::default()
    }
}
