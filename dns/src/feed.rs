//! Services and EndpointSlices of the API, as entries of the zone.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use api::names::well_known;
use daemon::{Change, Entry as Object, Informers, Lister, Options};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::server::Server;
use crate::zone::{Endpoint, Entry, Port};

const BY_SERVICE: &str = "service";

/// Namespace and name of a Service.
type Key = (Arc<str>, Arc<str>);

/// What has changed: a set, so it is bounded by the number of Services.
#[derive(Default)]
struct Pending {
    keys: Mutex<BTreeSet<Key>>,
    wake: Notify,
}

impl Pending {
    fn add(&self, key: Key) {
        self.keys.lock().expect("no holder of this lock panics").insert(key);
        self.wake.notify_one();
    }

    fn take(&self) -> BTreeSet<Key> {
        std::mem::take(&mut *self.keys.lock().expect("no holder of this lock panics"))
    }
}

pub(crate) struct Feed {
    services: Lister<Service>,
    slices: Lister<EndpointSlice>,
    pending: Arc<Pending>,
}

fn service_of(slice: &Object<EndpointSlice>) -> Option<Key> {
    Some((
        slice.namespace.clone(),
        slice.labels.get(well_known::SERVICE_NAME)?.into(),
    ))
}

impl Feed {
    pub(crate) fn new(informers: &Informers) -> Self {
        let pending = Arc::new(Pending::default());
        let services = informers.of::<Service>(Options::default());
        let told = pending.clone();
        services.on_change(move |change| {
            let (Change::Applied { new: entry, .. } | Change::Deleted { old: entry }) = change;
            told.add((entry.namespace.clone(), entry.name.clone()));
        });
        // All of them: slices that users write for a Service without an address carry no label that says so.
        let slices = informers.of::<EndpointSlice>(Options::default());
        slices.index(BY_SERVICE, |slice| {
            service_of(slice)
                .map(|(namespace, name)| format!("{namespace}/{name}"))
                .into_iter()
                .collect()
        });
        let told = pending.clone();
        slices.on_change(move |change| {
            let (old, new) = match change {
                Change::Applied { old, new } => (old, Some(new)),
                Change::Deleted { old } => (Some(old), None),
            };
            for slice in old.into_iter().chain(new) {
                if let Some(key) = service_of(slice) {
                    told.add(key);
                }
            }
        });
        Self {
            services,
            slices,
            pending,
        }
    }

    /// Keeps the zone as the API says until `stop`.
    pub(crate) async fn run(
        self,
        server: Arc<Server>,
        stop: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = async { tokio::join!(self.services.synced(), self.slices.synced()); } => {}
        }
        loop {
            for key in self.pending.take() {
                self.look(&server, &key);
            }
            if !server.known.swap(true, Ordering::AcqRel) {
                info!(
                    services = server.zone.read().expect("no holder of this lock panics").len(),
                    "names are known"
                );
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = self.pending.wake.notified() => {}
            }
        }
    }

    fn look(&self, server: &Server, key: &Key) {
        let (namespace, name) = key;
        let entry = match self.services.get(namespace, name) {
            None => None,
            Some(object) => match object.typed() {
                Ok(service) => entry(&service, || self.slices_of(namespace, name)),
                // What was known goes on being said.
                Err(error) => return warn!(error = %daemon::chain(&error), "unreadable service"),
            },
        };
        server
            .zone
            .write()
            .expect("no holder of this lock panics")
            .set(namespace, name, entry);
    }

    fn slices_of(&self, namespace: &str, name: &str) -> Vec<Arc<EndpointSlice>> {
        let all = self.slices.by(BY_SERVICE, &format!("{namespace}/{name}"));
        let read = |slice: &Arc<Object<EndpointSlice>>| {
            slice
                .typed()
                .inspect_err(|error| warn!(error = %daemon::chain(error), "unreadable slice"))
                .ok()
        };
        all.iter().filter_map(read).collect()
    }
}

fn protocol(name: Option<&str>) -> &'static str {
    match name.unwrap_or("TCP") {
        "UDP" => "udp",
        "SCTP" => "sctp",
        _ => "tcp",
    }
}

fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok()
}

/// What a Service is to DNS; `None` where it has nothing to say yet.
fn entry(service: &Service, slices: impl FnOnce() -> Vec<Arc<EndpointSlice>>) -> Option<Entry> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return Some(Entry::External {
            target: spec.external_name.clone()?,
        });
    }
    let cluster_ip = spec.cluster_ip.as_deref().unwrap_or("");
    if cluster_ip == "None" {
        return Some(Entry::Headless {
            endpoints: endpoints(&slices()),
        });
    }
    let several = spec.cluster_ips.as_deref().unwrap_or_default();
    let mut addresses: Vec<IpAddr> = several.iter().filter_map(|ip| ip.parse().ok()).collect();
    if addresses.is_empty() {
        addresses.extend(cluster_ip.parse::<IpAddr>());
    }
    let ports = spec.ports.iter().flatten().filter_map(|p| {
        let name = p.name.as_deref().unwrap_or("").into();
        Some(Port {
            name,
            protocol: protocol(p.protocol.as_deref()),
            number: port(p.port)?,
        })
    });
    (!addresses.is_empty()).then(|| Entry::Cluster {
        addresses,
        ports: ports.collect(),
    })
}

/// Those that are ready: for a Service that publishes all of them, the slices call all ready.
fn endpoints(slices: &[Arc<EndpointSlice>]) -> Vec<Endpoint> {
    let mut all: HashMap<IpAddr, Endpoint> = HashMap::new();
    for slice in slices {
        let ports: Arc<[Port]> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|p| {
                let name = p.name.as_deref().unwrap_or("").into();
                Some(Port {
                    name,
                    protocol: protocol(p.protocol.as_deref()),
                    number: port(p.port?)?,
                })
            })
            .collect();
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            let Some(address) = endpoint.addresses.first().and_then(|a| a.parse::<IpAddr>().ok()) else {
                continue;
            };
            if !ready {
                continue;
            }
            let host = match endpoint.hostname.as_deref().filter(|h| !h.is_empty()) {
                Some(host) => host.into(),
                None => address.to_string().replace(['.', ':'], "-").into(),
            };
            all.insert(
                address,
                Endpoint {
                    host,
                    address,
                    ports: ports.clone(),
                },
            );
        }
    }
    let mut all: Vec<_> = all.into_values().collect();
    all.sort_by_key(|e| e.address);
    all
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: Value, slices: Vec<Value>) -> Option<Entry> {
        let service: Service = serde_json::from_value(json!({"spec": spec})).unwrap();
        let slices = slices
            .into_iter()
            .map(|s| Arc::new(serde_json::from_value(s).unwrap()))
            .collect();
        entry(&service, || slices)
    }

    #[test]
    fn services_become_entries() {
        let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 80}]);
        let Some(Entry::Cluster { addresses, ports }) = read(
            json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"], "ports": ports}),
            vec![],
        ) else {
            panic!("an entry with addresses")
        };
        assert_eq!(addresses.len(), 2);
        assert_eq!(
            ports[0],
            Port {
                name: "dns".into(),
                protocol: "udp",
                number: 53
            }
        );
        assert_eq!(
            ports[1],
            Port {
                name: "".into(),
                protocol: "tcp",
                number: 80
            }
        );
        let external = read(json!({"type": "ExternalName", "externalName": "example.com"}), vec![]);
        assert_eq!(
            external,
            Some(Entry::External {
                target: "example.com".into()
            })
        );
        assert_eq!(read(json!({"clusterIP": ""}), vec![]), None);
    }

    #[test]
    fn ready_endpoints_have_names() {
        let slice = |endpoints: Value| json!({"addressType": "IPv4", "metadata": {}, "endpoints": endpoints, "ports": [{"name": "peer", "port": 2380, "protocol": "TCP"}]});
        let slices = vec![
            slice(json!([
                {"addresses": ["10.244.0.6"]},
                {"addresses": ["10.244.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.244.0.7"], "conditions": {"ready": false}},
            ])),
            slice(json!([{"addresses": ["10.244.0.6"]}])),
        ];
        let Some(Entry::Headless { endpoints }) = read(json!({"clusterIP": "None"}), slices) else {
            panic!("headless")
        };
        let names: Vec<_> = endpoints.iter().map(|e| (&*e.host, e.ports[0].number)).collect();
        assert_eq!(names, [("db-0", 2380), ("10-244-0-6", 2380)]);
    }
}
