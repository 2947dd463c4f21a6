//! The last mutator: gives Services their cluster IPs and node ports.
//! Comes in: a Service about to be written. Goes out: the Service with addresses, each reserved in the store before:
//! an IP by an IPAddress object of its name, node ports in one bitmap. What a failed write reserved is given back by
//! `finish`; what a crash left behind is put right by [`Addresses::repair`]. A dry run reserves nothing.
//! After pkg/registry/core/service/storage/alloc.go (1.36).

pub mod cidr;
mod ports;
mod service;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use futures::future::BoxFuture;
use rand::Rng as _;
use serde_json::{Value, json};

use super::{Admit, Attributes, Operation};
use crate::object::Object;
use crate::registry::from_store;
use crate::status::{Errors, Status};
use crate::store::{self, Expect, Key, Options, Store};
use cidr::Cidr;
use ports::{Ports, Refused};
use service::{Held, Port};

const NODE_PORTS: &str = "/registry/ranges/servicenodeports";
const IP_ADDRESSES: &str = "/registry/ipaddresses/";
const SERVICES: &str = "/registry/services/specs/";
const FAMILY_LABEL: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGED_BY_LABEL: &str = "ipaddress.kubernetes.io/managed-by";
const MANAGED_BY: &str = "ipallocator.k8s.io";
/// Random addresses that are tried before the range is searched.
const ATTEMPTS: usize = 32;

/// The rule, and the ranges it gives from.
#[derive(Debug)]
pub struct Addresses {
    store: Arc<dyn Store>,
    /// One for each family, the primary first.
    ranges: Vec<Cidr>,
    node_ports: RangeInclusive<u16>,
}

/// What one request reserved so far.
#[derive(Debug, Default)]
struct Taken {
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl Addresses {
    pub fn new(store: Arc<dyn Store>, ranges: Vec<Cidr>, node_ports: RangeInclusive<u16>) -> Addresses {
        Addresses {
            store,
            ranges,
            node_ports,
        }
    }

    async fn reserve(
        &self,
        attributes: &Attributes<'_>,
        new: &mut Object,
        old: Option<&Object>,
        taken: &mut Taken,
    ) -> Result<(), Status> {
        let has = old.map(Held::of).unwrap_or_default();
        let owner = (attributes.namespace.to_owned(), new.name().to_owned());
        if service::needs_cluster_ip(new) {
            self.reserve_addresses(attributes, &owner, new, &has, taken).await?;
        }
        if service::needs_node_ports(new) || service::needs_health_check_port(new) {
            self.reserve_ports(attributes, new, &has, taken).await?;
        }
        Ok(())
    }

    async fn reserve_addresses(
        &self,
        attributes: &Attributes<'_>,
        owner: &(String, String),
        service: &mut Object,
        has: &Held,
        taken: &mut Taken,
    ) -> Result<(), Status> {
        let families = service::families(service);
        let mut addresses = service::cluster_ips(service);
        for (at, family) in families.iter().enumerate() {
            let Some(range) = self.ranges.iter().find(|range| family.is(range.network)) else {
                // Validation of the families refused it before, but for a range that was taken away.
                continue;
            };
            let asked = addresses.get(at).filter(|text| !text.is_empty()).cloned();
            let address = match asked {
                Some(text) if has.addresses.iter().any(|have| have.to_string() == text) => continue,
                Some(text) => {
                    let Ok(address) = text.parse::<IpAddr>() else {
                        continue; // Validation says it better.
                    };
                    self.reserve_address(attributes, owner, address, range, taken)
                        .await
                        .map_err(|why| {
                            let mut errors = Errors::default();
                            let why = match why {
                                Failed::Refused(why) => why,
                                Failed::Status(status) => return status,
                            };
                            errors.invalid(
                                "spec.clusterIPs",
                                &Value::from(service::cluster_ips(service)),
                                &format!("failed to allocate IP {text}: {why}"),
                            );
                            Status::invalid("", "Service", service.name(), errors)
                        })?;
                    address
                }
                None => self.reserve_any_address(attributes, owner, range, taken).await?,
            };
            let text = address.to_string();
            match addresses.get_mut(at) {
                Some(slot) => *slot = text,
                None => addresses.push(text),
            }
        }
        service::set_cluster_ips(service, &addresses);
        Ok(())
    }

    async fn reserve_address(
        &self,
        attributes: &Attributes<'_>,
        owner: &(String, String),
        address: IpAddr,
        range: &Cidr,
        taken: &mut Taken,
    ) -> Result<(), Failed> {
        if !range.usable(address) {
            return Err(Failed::Refused(format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
            )));
        }
        let allocated = || Failed::Refused("provided IP is already allocated".into());
        let key = address_key(address);
        if attributes.dry_run {
            return match self.store.get(&key).await.map_err(from_store)? {
                Some(_) => Err(allocated()),
                None => Ok(()),
            };
        }
        match self
            .store
            .put(
                &key,
                ip_address(address, owner).to_stored(),
                Expect::Absent,
                Options::DURABLE,
            )
            .await
        {
            Ok(_) => {
                taken.addresses.push(address);
                Ok(())
            }
            Err(store::Error::Conflict { .. }) => Err(allocated()),
            Err(error) => Err(from_store(error).into()),
        }
    }

    async fn reserve_any_address(
        &self,
        attributes: &Attributes<'_>,
        owner: &(String, String),
        range: &Cidr,
        taken: &mut Taken,
    ) -> Result<IpAddr, Status> {
        let offsets = range.dynamic();
        for _ in 0..ATTEMPTS {
            let offset = rand::rng().random_range(offsets.clone());
            let Some(address) = range.nth(offset) else { continue };
            match self.reserve_address(attributes, owner, address, range, taken).await {
                Ok(()) => return Ok(address),
                Err(Failed::Refused(_)) => {}
                Err(Failed::Status(status)) => return Err(status),
            }
        }
        // Nearly full: look at what is there, the dynamic part first.
        let used = self.addresses_in_use().await?;
        let everything = offsets.chain(1..range.len());
        for address in everything.filter_map(|offset| range.nth(offset)) {
            if used.contains(&address) {
                continue;
            }
            match self.reserve_address(attributes, owner, address, range, taken).await {
                Ok(()) => return Ok(address),
                Err(Failed::Refused(_)) => {}
                Err(Failed::Status(status)) => return Err(status),
            }
        }
        Err(Status::internal("failed to allocate a serviceIP: range is full"))
    }

    async fn addresses_in_use(&self) -> Result<HashSet<IpAddr>, Status> {
        let listing = self
            .store
            .list(IP_ADDRESSES, store::Page::default())
            .await
            .map_err(from_store)?;
        let names = listing
            .entries
            .iter()
            .filter_map(|entry| entry.key.strip_prefix(IP_ADDRESSES));
        Ok(names.filter_map(|name| name.parse().ok()).collect())
    }

    async fn reserve_ports(
        &self,
        attributes: &Attributes<'_>,
        service: &mut Object,
        has: &Held,
        taken: &mut Taken,
    ) -> Result<(), Status> {
        let original = service.clone();
        self.change_ports(attributes.dry_run, |ports| {
            // Runs again when somebody else changed the bitmap meanwhile.
            service.clone_from(&original);
            taken.ports.clear();
            assign_ports(service, has, ports, &mut taken.ports)
        })
        .await
    }

    /// Changes the bitmap in the store, however many others do.
    async fn change_ports(
        &self,
        dry_run: bool,
        mut change: impl FnMut(&mut Ports) -> Result<(), Status> + Send,
    ) -> Result<(), Status> {
        let key: Key = NODE_PORTS.into();
        loop {
            let entry = self.store.get(&key).await.map_err(from_store)?;
            let stored = entry
                .as_ref()
                .and_then(|entry| serde_json::from_slice(&entry.value).ok().map(Object))
                .and_then(|object| Ports::read(self.node_ports.clone(), &object));
            let before = stored.unwrap_or_else(|| Ports::new(self.node_ports.clone()));
            let mut after = before.clone();
            change(&mut after)?;
            if dry_run || (after == before && entry.is_some()) {
                return Ok(());
            }
            let expect = entry.map_or(Expect::Absent, |entry| Expect::At(entry.revision));
            match self
                .store
                .put(&key, after.write().to_stored(), expect, Options::DURABLE)
                .await
            {
                Ok(_) => return Ok(()),
                Err(store::Error::Conflict { .. }) => {}
                Err(error) => return Err(from_store(error)),
            }
        }
    }

    /// Gives back; what cannot be given back now, the next repair does.
    async fn release(&self, addresses: &[IpAddr], ports: &[u16]) {
        for address in addresses {
            if let Err(error) = self.release_address(*address).await {
                tracing::warn!(%address, error = %error, "cannot give back a cluster IP");
            }
        }
        if ports.is_empty() {
            return;
        }
        let released = self.change_ports(false, |bitmap| {
            ports.iter().for_each(|port| bitmap.give_back(*port));
            Ok(())
        });
        if let Err(error) = released.await {
            tracing::warn!(?ports, error = %error, "cannot give back node ports");
        }
    }

    async fn release_address(&self, address: IpAddr) -> Result<(), store::Error> {
        let key = address_key(address);
        loop {
            let Some(entry) = self.store.get(&key).await? else {
                return Ok(());
            };
            match self.store.delete(&key, entry.revision).await {
                Err(store::Error::Conflict { .. }) => {}
                outcome => return outcome.map(drop),
            }
        }
    }

    /// Brings reservations to what the Services have: once at the start, before requests are served. Writes nothing where
    /// nothing is wrong.
    pub async fn repair(&self) -> Result<(), Status> {
        let services = self
            .store
            .list(SERVICES, store::Page::default())
            .await
            .map_err(from_store)?;
        let mut owners: HashMap<IpAddr, (String, String)> = HashMap::new();
        let mut used = BTreeSet::new();
        for entry in &services.entries {
            let Ok(service) = serde_json::from_slice(&entry.value).map(Object) else {
                continue;
            };
            let held = Held::of(&service);
            for address in held.addresses {
                owners.insert(address, (service.namespace().to_owned(), service.name().to_owned()));
            }
            used.extend(held.ports);
        }
        let listing = self
            .store
            .list(IP_ADDRESSES, store::Page::default())
            .await
            .map_err(from_store)?;
        for entry in &listing.entries {
            let name = entry.key.strip_prefix(IP_ADDRESSES).unwrap_or_default();
            let Ok(address) = name.parse::<IpAddr>() else { continue };
            let ours = serde_json::from_slice(&entry.value)
                .map(Object)
                .is_ok_and(|object| object.str_at(&["metadata", "labels", MANAGED_BY_LABEL]) == MANAGED_BY);
            if owners.remove(&address).is_none() && ours {
                tracing::info!(%address, "a cluster IP that no Service has is given back");
                self.release(&[address], &[]).await;
            }
        }
        for (address, owner) in owners {
            let object = ip_address(address, &owner).to_stored();
            let put = self
                .store
                .put(&address_key(address), object, Expect::Absent, Options::DURABLE);
            match put.await {
                Ok(_) | Err(store::Error::Conflict { .. }) => {}
                Err(error) => return Err(from_store(error)),
            }
        }
        self.change_ports(false, |ports| {
            *ports = Ports::new(self.node_ports.clone());
            for port in &used {
                // A port from an earlier range stays with its Service and needs no bit.
                let _ = ports.take(*port);
            }
            Ok(())
        })
        .await
    }

    /// What the Service in the store holds now.
    async fn held_now(&self, namespace: &str, name: &str) -> Held {
        let key = format!("{SERVICES}{namespace}/{name}");
        match self.store.get(&key).await {
            Ok(Some(entry)) => serde_json::from_slice(&entry.value)
                .map(|map| Held::of(&Object(map)))
                .unwrap_or_default(),
            Ok(None) => Held::default(),
            Err(error) => {
                // Nothing is given back then; the next repair does it.
                tracing::warn!(error = %error, "cannot see what a Service holds");
                Held::everything()
            }
        }
    }
}

/// A reservation that failed: refused with a reason, or the store did.
enum Failed {
    Refused(String),
    Status(Status),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Failed::Status(status)
    }
}

fn assign_ports(service: &mut Object, has: &Held, bitmap: &mut Ports, taken: &mut Vec<u16>) -> Result<(), Status> {
    let name = service.name().to_owned();
    let invalid = |field: String, port: i64, why: &Refused| {
        let mut errors = Errors::default();
        errors.invalid(field, &Value::from(port), &why.to_string());
        Status::invalid("", "Service", &name, errors)
    };
    if service::needs_node_ports(service) {
        let mut list = service::ports(service);
        let mut of_port: HashMap<i64, u16> = HashMap::new();
        for at in 0..list.len() {
            let Port { port, node_port, .. } = list[at];
            if node_port == 0 && !service::allocates_node_ports(service) {
                continue;
            }
            // The same port in two protocols shares a node port, whichever of them names it.
            let shared = of_port.get(&port).copied();
            let asked = match (node_port, shared) {
                (0, Some(shared)) => i64::from(shared),
                (0, None) => {
                    let named = list[at..]
                        .iter()
                        .find(|other| other.port == port && other.node_port != 0);
                    named.map_or(0, |other| other.node_port)
                }
                (asked, _) => asked,
            };
            let field = || format!("spec.ports[{at}].nodePort");
            let given = match u16::try_from(asked) {
                Ok(0) => {
                    let given = bitmap
                        .take_any(|n| rand::rng().random_range(0..n))
                        .map_err(|why| Status::internal(&format!("failed to allocate a nodePort: {why}")))?;
                    taken.push(given);
                    given
                }
                Ok(asked) => {
                    if !has.ports.contains(&asked) && !taken.contains(&asked) {
                        bitmap
                            .take(asked)
                            .map_err(|why| invalid(field(), i64::from(asked), &why))?;
                        taken.push(asked);
                    }
                    asked
                }
                Err(_) => {
                    let outside = Refused::Outside(bitmap.range());
                    return Err(invalid(field(), asked, &outside));
                }
            };
            of_port.entry(port).or_insert(given);
            list[at].node_port = i64::from(given);
        }
        service::set_node_ports(service, &list);
    }
    if service::needs_health_check_port(service) {
        let field = "spec.healthCheckNodePort";
        let asked = service
            .at(&["spec", "healthCheckNodePort"])
            .and_then(Value::as_i64)
            .unwrap_or(0);
        match u16::try_from(asked) {
            Ok(0) => {
                let given = bitmap
                    .take_any(|n| rand::rng().random_range(0..n))
                    .map_err(|why| Status::internal(&format!("failed to allocate a HealthCheck NodePort: {why}")))?;
                taken.push(given);
                service.entry("spec").insert("healthCheckNodePort".into(), given.into());
            }
            Ok(asked) if has.ports.contains(&asked) => {}
            Ok(asked) => {
                bitmap
                    .take(asked)
                    .map_err(|why| invalid(field.into(), i64::from(asked), &why))?;
                taken.push(asked);
            }
            Err(_) => return Err(invalid(field.into(), asked, &Refused::Outside(bitmap.range()))),
        }
    }
    Ok(())
}

fn address_key(address: IpAddr) -> Key {
    format!("{IP_ADDRESSES}{address}").into()
}

/// The object that holds an address for a Service.
pub fn ip_address(address: IpAddr, (namespace, name): &(String, String)) -> Object {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "uid": uuid::Uuid::new_v4().hyphenated().to_string(),
            "creationTimestamp": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "labels": {FAMILY_LABEL: family, MANAGED_BY_LABEL: MANAGED_BY},
        },
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": name}},
    });
    match object {
        Value::Object(map) => Object(map),
        _ => unreachable!("written as an object above"),
    }
}

impl Admit for Addresses {
    fn mutate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: &'a mut Object,
        old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if !attributes.is("", "services") || !matches!(attributes.operation, Operation::Create | Operation::Update)
            {
                return Ok(());
            }
            service::normalize(new, old, &self.ranges);
            let mut taken = Taken::default();
            let outcome = self.reserve(attributes, new, old, &mut taken).await;
            if outcome.is_err() && !attributes.dry_run {
                self.release(&taken.addresses, &taken.ports).await;
            }
            outcome
        })
    }

    fn finish<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        object: &'a Object,
        old: Option<&'a Object>,
        stored: bool,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if !attributes.is("", "services") || attributes.dry_run {
                return;
            }
            let lost = match (attributes.operation, stored) {
                (Operation::Create, true) | (Operation::Delete, false) | (Operation::Connect, _) => return,
                // All of it was reserved by this request.
                (Operation::Create, false) => Held::of(object),
                // Another write may have come between: what the Service has now is its own.
                (Operation::Update, false) => {
                    let now = self.held_now(attributes.namespace, object.name()).await;
                    Held::of(object)
                        .without(&old.map(Held::of).unwrap_or_default())
                        .without(&now)
                }
                (Operation::Update, true) => old.map(Held::of).unwrap_or_default().without(&Held::of(object)),
                (Operation::Delete, true) => Held::of(object),
            };
            self.release(&lost.addresses, &lost.ports).await;
        })
    }
}
