use daemon::pki::Authority;
use daemon::requests;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use testkit::{Cluster, FakeNode};

const NODE: (&str, &[&str]) = ("system:node:n1", &["system:nodes", "system:authenticated"]);

/// A cluster that signs, with the rights that `manifests/cluster` adds.
async fn cluster() -> Cluster {
    let mut cluster = Cluster::start().await;
    let clients = cluster.clients("system:kube-controller-manager", &["system:authenticated"]);
    let (_, pair) = Authority::generate("ca", Timestamp::now()).expect("an authority");
    let config = controllers::Config {
        signing: Some(pair),
        ..controllers::Config::default()
    };
    cluster.spawn(|stop| controllers::run(config, clients, stop));
    for (name, role, subject) in [
        (
            "renewal",
            "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
            json!({"kind": "Group", "name": "system:nodes", "apiGroup": "rbac.authorization.k8s.io"}),
        ),
        (
            "serving",
            "system:certificates.k8s.io:kubelet-serving-approver",
            json!({"kind": "ServiceAccount", "name": "certificate-controller", "namespace": "kube-system"}),
        ),
    ] {
        let binding: ClusterRoleBinding = serde_json::from_value(json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [subject],
        }))
        .expect("a binding");
        cluster.create_global(binding).await;
    }
    cluster
}

async fn ask(
    cluster: &Cluster,
    (user, groups): (&str, &[&str]),
    request: (&str, &str, &str),
    names: &[&str],
    usages: &[&str],
) -> kube::Result<CertificateSigningRequest> {
    let (name, signer, subject) = request;
    let (common_name, group) = subject.split_once(' ').unwrap_or((subject, ""));
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let (_, text) = requests::make(common_name, Some(group), &names).expect("a request");
    let mut object: CertificateSigningRequest = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"request": "", "signerName": signer, "usages": usages},
    }))
    .expect("an object");
    object.spec.request = ByteString(text.into_bytes());
    let api: Api<CertificateSigningRequest> = Api::all(cluster.client_as(user, groups));
    api.create(&PostParams::default(), &object).await
}

async fn decide(
    cluster: &Cluster,
    user: (&str, &[&str]),
    name: &str,
    kind: &str,
) -> kube::Result<CertificateSigningRequest> {
    let api: Api<CertificateSigningRequest> = Api::all(cluster.client_as(user.0, user.1));
    let condition =
        json!({"status": {"conditions": [{"type": kind, "status": "True", "reason": "r", "message": "m"}]}});
    api.patch_subresource("approval", name, &PatchParams::default(), &Patch::Merge(&condition))
        .await
}

fn issued(request: &CertificateSigningRequest) -> bool {
    request.status.as_ref().is_some_and(|s| s.certificate.is_some())
}

fn kinds(request: &CertificateSigningRequest) -> Vec<String> {
    let conditions = request.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.map(|c| c.type_.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_node_gets_its_certificates_without_anybody() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    let serving = (
        "serving",
        "kubernetes.io/kubelet-serving",
        "system:node:n1 system:nodes",
    );
    let usages = ["digital signature", "server auth"];
    ask(&cluster, NODE, serving, &["n1"], &usages)
        .await
        .expect("a node may ask");
    cluster.until_one("it is issued", "", "serving", issued).await;
    let client = (
        "client",
        "kubernetes.io/kube-apiserver-client-kubelet",
        "system:node:n1 system:nodes",
    );
    let usages = ["digital signature", "client auth"];
    ask(&cluster, NODE, client, &[], &usages).await.expect("a node may ask");
    cluster.until_one("it is issued", "", "client", issued).await;
    // An address that is not the node's is for people to decide.
    let foreign = (
        "foreign",
        "kubernetes.io/kubelet-serving",
        "system:node:n1 system:nodes",
    );
    let usages = ["digital signature", "server auth"];
    ask(&cluster, NODE, foreign, &["192.0.2.99"], &usages)
        .await
        .expect("a node may ask");
    cluster.pass(std::time::Duration::from_secs(60)).await;
    let api: Api<CertificateSigningRequest> = Api::all(cluster.client());
    assert_eq!(kinds(&api.get("foreign").await.unwrap()), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn people_decide_about_people() {
    let mut cluster = cluster().await;
    let admin: (&str, &[&str]) = ("admin", &["system:masters"]);
    let signer = "kubernetes.io/kube-apiserver-client";
    for name in ["jane", "joe"] {
        let request = (name, signer, "jane dev");
        ask(&cluster, admin, request, &[], &["client auth"])
            .await
            .expect("it is asked");
    }
    decide(&cluster, admin, "jane", "Approved")
        .await
        .expect("it is approved");
    cluster.until_one("it is issued", "", "jane", issued).await;
    decide(&cluster, admin, "joe", "Denied").await.expect("it is denied");
    cluster.pass(std::time::Duration::from_secs(60)).await;
    let api: Api<CertificateSigningRequest> = Api::all(cluster.client());
    let joe = api.get("joe").await.unwrap();
    assert_eq!((kinds(&joe), issued(&joe)), (vec!["Denied".to_owned()], false));
    // An hour later nobody needs them any more.
    cluster.pass(std::time::Duration::from_secs(3700)).await;
    cluster.until_gone::<CertificateSigningRequest>("", "joe").await;
    cluster.until_gone::<CertificateSigningRequest>("", "jane").await;
}

#[tokio::test(start_paused = true)]
async fn nobody_decides_for_a_signer_that_is_not_his() {
    let cluster = cluster().await;
    let role: k8s_openapi::api::rbac::v1::ClusterRole = serde_json::from_value(json!({
        "metadata": {"name": "half"},
        "rules": [{"apiGroups": ["certificates.k8s.io"], "verbs": ["*"],
            "resources": ["certificatesigningrequests", "certificatesigningrequests/approval"]}],
    }))
    .expect("a role");
    cluster.create_global(role).await;
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "half"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "half"},
        "subjects": [{"kind": "User", "name": "half", "apiGroup": "rbac.authorization.k8s.io"}],
    }))
    .expect("a binding");
    cluster.create_global(binding).await;
    let half: (&str, &[&str]) = ("half", &["system:authenticated"]);
    let signer = "kubernetes.io/kube-apiserver-client";
    let asked = ask(&cluster, half, ("r", signer, "jane dev"), &[], &["client auth"]).await;
    asked.expect("whoever may create may ask");
    let message = |refused: kube::Error| match refused {
        kube::Error::Api(status) => status.message.clone(),
        other => panic!("{other}"),
    };
    let refused = decide(&cluster, half, "r", "Approved")
        .await
        .expect_err("not his signer");
    assert!(
        message(refused).ends_with(
            "user not permitted to approve requests with signerName \"kubernetes.io/kube-apiserver-client\""
        ),
    );
    let master = ("m", signer, "jane system:masters");
    let refused = ask(&cluster, half, master, &[], &["client auth"])
        .await
        .expect_err("no masters");
    assert!(message(refused).ends_with("signer with system:masters group is not allowed"));
}
