//! The serving certificate of a node, from the first request to one for another address, against a whole API server.

use std::time::Duration;

use daemon::{pki::Authority, requests::Usages};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::certificates::v1::CertificateSigningRequest};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kubelet::{
    node::certificate::{Serving, keep},
    pods::shared::NodeFacts,
};
use serde_json::json;
use testkit::Cluster;
use tokio::sync::watch;

/// Grants what the node asked for, as an approver and a signer would.
async fn grant(cluster: &mut Cluster, authority: &Authority, address: &str) -> String {
    let name = cluster
        .until("a request", |requests: &daemon::Lister<CertificateSigningRequest>| {
            let open = |r: &CertificateSigningRequest| {
                let text = String::from_utf8_lossy(&r.spec.request.0).into_owned();
                let asked = daemon::requests::Request::parse(&text).expect("a request");
                asked.addresses.iter().any(|a| a.to_string() == address)
                    && r.status.as_ref().is_none_or(|s| s.conditions.is_none())
            };
            let mut all = requests.list().into_iter();
            all.find(|r| r.typed().is_ok_and(|r| open(&r)))
                .map(|r| r.name.to_string())
        })
        .await;
    let api: Api<CertificateSigningRequest> = Api::all(cluster.client());
    let approved =
        json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "r", "message": "m"}]}});
    api.patch_subresource("approval", &name, &PatchParams::default(), &Patch::Merge(&approved))
        .await
        .expect("it is approved");
    let mut request = api.get(&name).await.expect("it is there");
    assert_eq!(request.spec.signer_name, "kubernetes.io/kubelet-serving");
    assert_eq!(request.spec.username.as_deref(), Some("system:node:n1"));
    let text = String::from_utf8_lossy(&request.spec.request.0).into_owned();
    let usages = Usages {
        server: true,
        ..Usages::default()
    };
    let signed = authority.sign(&text, usages, Duration::from_secs(3600), Timestamp::now());
    let signed = signed.expect("a certificate");
    request.status.get_or_insert_default().certificate = Some(ByteString(signed.clone().into_bytes()));
    api.replace_status(&name, &PostParams::default(), &request)
        .await
        .expect("it is signed");
    signed
}

#[tokio::test(start_paused = true)]
async fn a_node_asks_for_its_certificate_and_again_when_it_moves() {
    let mut cluster = Cluster::start().await;
    let (authority, _) = Authority::generate("ca", Timestamp::now()).expect("an authority");
    let directory = tempfile::tempdir().expect("a directory");
    let serving = Serving {
        node: "n1".into(),
        certificate: directory.path().join("kubelet.crt"),
        key: directory.path().join("kubelet.key"),
    };
    let facts = |address: &str| NodeFacts {
        host_ips: vec![address.to_owned()],
        known: true,
        ..NodeFacts::default()
    };
    let (moved, node) = watch::channel(NodeFacts::default());
    let client = cluster.client_as("system:node:n1", &["system:nodes", "system:authenticated"]);
    let kept = serving.clone();
    cluster.spawn(|stop| async move {
        keep(kept, client, node, stop).await;
        Ok::<(), std::convert::Infallible>(())
    });
    for address in ["192.0.2.7", "192.0.2.8"] {
        moved.send_replace(facts(address));
        let signed = grant(&mut cluster, &authority, address).await;
        while std::fs::read_to_string(&serving.certificate).ok().as_ref() != Some(&signed) {
            cluster.pass(Duration::from_millis(100)).await;
        }
        daemon::tls::server(&serving.certificate, &serving.key, None).expect("key and certificate fit");
    }
}
