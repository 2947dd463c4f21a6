//! Approves what a node asks for itself: a client certificate, where the API server says that it may ask for one
//! (pkg/controller/certificates/approver, 1.36); and a serving certificate for the names and addresses that its Node
//! object has. Upstream leaves the second to whoever knows the machines; here the Node object is that knowledge.

use std::net::IpAddr;
use std::sync::Arc;

use daemon::informer::{Change, Lister};
use daemon::requests::Request;
use daemon::{Next, Queue};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, PostParams};
use tokio_util::sync::CancellationToken;

use super::{NODE, certificate, check_kubelet_client, check_kubelet_serving, condition, signer, text};
use crate::context::{Context, Key, enqueue_each};
use crate::{Error, is_conflict, is_gone};

/// What is to be done about a request.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Somebody else's to decide.
    Leave,
    /// Approve, if the API server lets the asker create one of these parts.
    Ask(Vec<(&'static str, &'static str)>),
    Approve(&'static str),
}

const SELF: (&str, &str) = (
    "selfnodeclient",
    "Auto approving self kubelet client certificate after SubjectAccessReview.",
);
const CLIENT: (&str, &str) = (
    "nodeclient",
    "Auto approving kubelet client certificate after SubjectAccessReview.",
);
const SERVING: &str = "Auto approving kubelet serving certificate for the names and addresses of its node.";

fn plan(request: &CertificateSigningRequest, node: impl Fn(&str) -> Option<Arc<Node>>) -> Verdict {
    let decided = condition(request, "Approved").is_some() || condition(request, "Denied").is_some();
    if decided || certificate(request).is_some() {
        return Verdict::Leave;
    }
    let Ok(asked) = Request::parse(text(request)) else {
        return Verdict::Leave;
    };
    let user = request.spec.username.as_deref().unwrap_or_default();
    match request.spec.signer_name.as_str() {
        signer::KUBELET_CLIENT if check_kubelet_client(request, &asked).is_ok() => {
            if user == asked.common_name {
                Verdict::Ask(vec![SELF, CLIENT])
            } else {
                Verdict::Ask(vec![CLIENT])
            }
        }
        signer::KUBELET_SERVING if user == asked.common_name && check_kubelet_serving(request, &asked).is_ok() => {
            let name = asked.common_name.strip_prefix(NODE).unwrap_or_default();
            match node(name) {
                Some(node) if is_of(&node, &asked) => Verdict::Approve(SERVING),
                _ => Verdict::Leave,
            }
        }
        _ => Verdict::Leave,
    }
}

/// Whether the node has each name and address.
fn is_of(node: &Node, asked: &Request) -> bool {
    let own = node.metadata.name.as_deref().unwrap_or_default();
    let addresses = node
        .status
        .as_ref()
        .and_then(|s| s.addresses.as_deref())
        .unwrap_or_default();
    let has_name = |name: &String| name == own || addresses.iter().any(|a| a.address == *name);
    let has = |ip: &IpAddr| addresses.iter().any(|a| a.address.parse() == Ok(*ip));
    asked.dns.iter().all(has_name) && asked.addresses.iter().all(has)
}

type Listers = (Lister<CertificateSigningRequest>, Lister<Node>);

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let requests = context.all::<CertificateSigningRequest>();
    let nodes = context.all::<Node>();
    enqueue_each(&requests, &queue);
    // A node may ask before its addresses are known here; requests are few, and mostly decided.
    let (into, waiting) = (queue.clone(), requests.clone());
    nodes.on_change(move |change| {
        if let Change::Applied { old, new } = change
            && old.is_none_or(|old| old.revision != new.revision)
        {
            for request in waiting.list() {
                if request.typed().is_ok_and(|r| is_waiting(&r, &new.name)) {
                    into.add(Key::of(&*request));
                }
            }
        }
    });
    requests.synced().await;
    nodes.synced().await;
    let client = context.client.clone();
    let listers = Arc::new((requests, nodes));
    context
        .work(queue, stop, move |key| reconcile(client.clone(), listers.clone(), key))
        .await
}

fn is_waiting(request: &CertificateSigningRequest, node: &str) -> bool {
    let user = request.spec.username.as_deref().unwrap_or_default();
    let conditions = request.status.as_ref().and_then(|s| s.conditions.as_ref());
    request.spec.signer_name == signer::KUBELET_SERVING
        && user.strip_prefix(NODE) == Some(node)
        && conditions.is_none_or(Vec::is_empty)
}

async fn reconcile(client: kube::Client, listers: Arc<Listers>, key: Key) -> Result<Next, Error> {
    let (requests, nodes) = &*listers;
    let Some(entry) = requests.get("", &key.name) else {
        return Ok(Next::Done);
    };
    let request = entry.typed()?;
    let message = match plan(&request, |name| nodes.get("", name)?.typed().ok()) {
        Verdict::Leave => return Ok(Next::Done),
        Verdict::Approve(message) => message,
        Verdict::Ask(parts) => {
            let mut found = None;
            for (part, message) in parts {
                if may(&client, &request, part).await? {
                    found = Some(message);
                    break;
                }
            }
            match found {
                Some(message) => message,
                None => return Ok(Next::Done),
            }
        }
    };
    let mut approved = (*request).clone();
    let status = approved.status.get_or_insert_default();
    status
        .conditions
        .get_or_insert_default()
        .push(CertificateSigningRequestCondition {
            type_: "Approved".to_owned(),
            status: "True".to_owned(),
            reason: Some("AutoApproved".to_owned()),
            message: Some(message.to_owned()),
            ..CertificateSigningRequestCondition::default()
        });
    let api: Api<CertificateSigningRequest> = Api::all(client);
    match api
        .replace_subresource("approval", &key.name, &PostParams::default(), &approved)
        .await
    {
        // The change that was in the way comes back.
        Err(error) if is_conflict(&error) || is_gone(&error) => Ok(Next::Done),
        answer => answer.map(|_| Next::Done).map_err(Error::from),
    }
}

async fn may(client: &kube::Client, request: &CertificateSigningRequest, part: &str) -> Result<bool, Error> {
    let spec = &request.spec;
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username.clone(),
            uid: spec.uid.clone(),
            groups: spec.groups.clone(),
            extra: spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".to_owned()),
                resource: Some("certificatesigningrequests".to_owned()),
                verb: Some("create".to_owned()),
                subresource: Some(part.to_owned()),
                version: Some("*".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = api.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|s| s.allowed))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::of;
    use super::*;

    fn node() -> Option<Arc<Node>> {
        let node = json!({
            "metadata": {"name": "n"},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": "n.example"}]},
        });
        Some(Arc::new(serde_json::from_value(node).unwrap()))
    }

    #[test]
    fn a_node_is_certified_for_its_own_names_and_addresses() {
        let verdict = |user: &str, names: &[&str], known: bool| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            let (_, text) = daemon::requests::make("system:node:n", Some("system:nodes"), &names).unwrap();
            let usages = ["digital signature", "server auth"];
            let request = of(signer::KUBELET_SERVING, user, &text, &usages, &json!({}));
            plan(&request, |name| node().filter(|_| known && name == "n"))
        };
        let yes = Verdict::Approve(SERVING);
        assert_eq!(verdict("system:node:n", &["n", "n.example", "192.0.2.7"], true), yes);
        assert_eq!(verdict("system:node:n", &["n", "192.0.2.8"], true), Verdict::Leave);
        assert_eq!(verdict("system:node:n", &["other.example"], true), Verdict::Leave);
        assert_eq!(verdict("system:node:m", &["n"], true), Verdict::Leave);
        assert_eq!(verdict("jane", &["n"], true), Verdict::Leave);
        assert_eq!(verdict("system:node:n", &["n"], false), Verdict::Leave);
    }

    #[test]
    fn a_client_certificate_is_approved_by_what_the_asker_may() {
        let usages = ["digital signature", "client auth"];
        let (_, text) = daemon::requests::make("system:node:n", Some("system:nodes"), &[]).unwrap();
        let request = |user, status| of(signer::KUBELET_CLIENT, user, &text, &usages, &status);
        let none = |_: &str| None;
        assert_eq!(
            plan(&request("system:node:n", json!({})), none),
            Verdict::Ask(vec![SELF, CLIENT])
        );
        assert_eq!(
            plan(&request("system:bootstrap:x", json!({})), none),
            Verdict::Ask(vec![CLIENT])
        );
        let denied = json!({"conditions": [{"type": "Denied", "status": "True"}]});
        assert_eq!(plan(&request("system:node:n", denied), none), Verdict::Leave);
    }
}
