//! Gives each node a part of the cluster's pod network (spec.podCIDR).

use std::collections::HashSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Arc;

use daemon::events::EventType;
use daemon::informer::Lister;
use daemon::{Next, Queue};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::context::{Context, Key, enqueue_each};
use crate::{Error, is_gone};

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    base: u32,
    length: u8,
}

/// Not a network as `10.0.0.0/8` is one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an IPv4 network such as 10.244.0.0/16")]
pub struct NotANetwork(String);

impl FromStr for Cidr {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || NotANetwork(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let length: u8 = length.parse().ok().filter(|length| *length <= 32).ok_or_else(bad)?;
        let base = address.to_bits() & mask(length);
        Ok(Cidr { base, length })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.base), self.length)
    }
}

impl Cidr {
    fn overlaps(&self, other: &Cidr) -> bool {
        let shorter = mask(self.length.min(other.length));
        self.base & shorter == other.base & shorter
    }

    /// The parts of this network with prefixes of `length`.
    fn parts(self, length: u8) -> impl Iterator<Item = Cidr> {
        let count = if length < self.length {
            0
        } else {
            1u64 << (length - self.length)
        };
        (0..count).map(move |at| {
            let offset = u32::try_from(at << (32 - u32::from(length))).expect("a part lies within an IPv4 network");
            Cidr {
                base: self.base | offset,
                length,
            }
        })
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

/// The first part that no node has.
fn plan(cluster: Cidr, length: u8, taken: &HashSet<Cidr>) -> Option<Cidr> {
    cluster.parts(length).find(|part| {
        // Almost always parts are equal or apart; a node may have been given something odd by hand.
        !taken.contains(part) && !taken.iter().any(|other| other.length != length && other.overlaps(part))
    })
}

struct Controller {
    context: Context,
    nodes: Lister<Node>,
    cluster: Cidr,
    /// Given out by this process and perhaps not in the lister yet, by node. Held while one is given out.
    given: Mutex<Vec<(Arc<str>, Cidr)>>,
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let Some(cluster) = context.config.cluster_cidr else {
        stop.cancelled().await;
        return Ok(());
    };
    let queue = Queue::new();
    let nodes = context.all::<Node>();
    enqueue_each(&nodes, &queue);
    nodes.synced().await;
    let controller = Arc::new(Controller {
        context: context.clone(),
        nodes,
        cluster,
        given: Mutex::default(),
    });
    context
        .work(queue, stop, move |key| reconcile(controller.clone(), key))
        .await
}

async fn reconcile(controller: Arc<Controller>, key: Key) -> Result<Next, Error> {
    let Controller {
        context,
        nodes,
        cluster,
        given,
    } = &*controller;
    let mut given = given.lock().await;
    let Some(entry) = nodes.get("", &key.name) else {
        given.retain(|(name, _)| *name != key.name);
        return Ok(Next::Done);
    };
    let node = entry.typed()?;
    if !api::node::pod_cidrs(&node).is_empty() || given.iter().any(|(name, _)| *name == key.name) {
        return Ok(Next::Done);
    }
    let mut taken: HashSet<Cidr> = given.iter().map(|(_, part)| *part).collect();
    for other in nodes.list() {
        for part in api::node::pod_cidrs(&*other.typed()?) {
            match part.parse() {
                Ok(part) => drop(taken.insert(part)),
                // Another family is none of ours.
                Err(error) => warn!(node = %other.name, %error, "pod network not understood"),
            }
        }
    }
    let about = daemon::events::reference(&*node);
    let Some(part) = plan(*cluster, context.config.node_cidr_mask_size, &taken) else {
        let text = format!("Node {} status is now: CIDRNotAvailable", key.name);
        context
            .recorder
            .publish(&about, EventType::Normal, "CIDRNotAvailable", text);
        return Err(Error::Plan(format!("no part of {cluster} is left")));
    };
    let change = json!({
        "metadata": {"uid": &*entry.uid},
        "spec": {"podCIDR": part.to_string(), "podCIDRs": [part.to_string()]},
    });
    let api: Api<Node> = Api::all(context.client.clone());
    match api
        .patch(&key.name, &PatchParams::default(), &Patch::Merge(change))
        .await
    {
        Ok(_) => {
            given.push((key.name.clone(), part));
            Ok(Next::Done)
        }
        Err(error) if is_gone(&error) => Ok(Next::Done),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_part_is_given() {
        let cluster: Cidr = "10.244.0.0/16".parse().unwrap();
        let part = |taken: &[&str]| {
            let taken = taken.iter().map(|text| text.parse().unwrap()).collect();
            plan(cluster, 24, &taken).map(|part| part.to_string())
        };
        assert_eq!(part(&[]).as_deref(), Some("10.244.0.0/24"));
        assert_eq!(
            part(&["10.244.0.0/24", "10.244.2.0/24"]).as_deref(),
            Some("10.244.1.0/24")
        );
        assert_eq!(
            part(&["10.244.0.0/23", "192.168.0.0/24"]).as_deref(),
            Some("10.244.2.0/24")
        );
        assert_eq!(part(&["10.0.0.0/8"]), None);
        let all: Vec<String> = cluster.parts(24).map(|part| part.to_string()).collect();
        assert_eq!(all.len(), 256);
        assert_eq!(part(&all.iter().map(String::as_str).collect::<Vec<_>>()), None);
    }

    #[test]
    fn networks_are_read_and_written() {
        for (text, want) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("1.2.3.4/32", "1.2.3.4/32"),
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), want);
        }
        for text in ["", "10.0.0.0", "10.0.0.0/33", "fd00::/8"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
