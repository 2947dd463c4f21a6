//! Tells the API every ten seconds that this node lives, by its Lease. On the list of things with a period.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Node,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::api::{Api, PostParams};
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-node-lease";

/// Renews until `stop`. A failure is tried again sooner; the API notices by itself when it lasts.
pub async fn keep(client: kube::Client, node: String, duration: Duration, stop: CancellationToken) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let nodes: Api<Node> = Api::all(client);
    let mut held: Option<Lease> = None;
    let mut failures = 0u32;
    loop {
        let wait = match renew(&leases, &nodes, &node, duration, held.take()).await {
            Ok(lease) => {
                held = Some(lease);
                failures = 0;
                duration / 4
            }
            Err(error) => {
                tracing::debug!(error = daemon::chain(&error), "the node's lease was not renewed");
                failures += 1;
                Duration::from_millis(200)
                    .saturating_mul(1 << failures.min(6))
                    .min(Duration::from_secs(7))
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn renew(
    leases: &Api<Lease>,
    nodes: &Api<Node>,
    name: &str,
    duration: Duration,
    held: Option<Lease>,
) -> Result<Lease, kube::Error> {
    let now = Some(MicroTime(Timestamp::now()));
    let known = match held {
        Some(lease) => Some(lease),
        None => leases.get_opt(name).await?,
    };
    if let Some(mut lease) = known {
        let spec = lease.spec.get_or_insert_default();
        spec.renew_time = now;
        spec.holder_identity = Some(name.to_owned());
        spec.lease_duration_seconds = i32::try_from(duration.as_secs()).ok();
        return leases.replace(name, &PostParams::default(), &lease).await;
    }
    // The node owns its lease, so that both go together.
    let owner = nodes
        .get_opt(name)
        .await?
        .and_then(|n| n.metadata.uid)
        .map(|uid| OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: name.to_owned(),
            uid,
            ..OwnerReference::default()
        });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            owner_references: owner.map(|o| vec![o]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: i32::try_from(duration.as_secs()).ok(),
            renew_time: now,
            ..LeaseSpec::default()
        }),
    };
    leases.create(&PostParams::default(), &lease).await
}
