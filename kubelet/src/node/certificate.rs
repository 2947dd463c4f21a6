//! The certificate that the node's endpoint serves with: asked of the cluster (kubernetes.io/kubelet-serving), and asked again
//! when the node's addresses change or most of its time is over. The endpoint finds the new files by itself.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use daemon::requests;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::certificates::v1::CertificateSigningRequest};
use kube::api::{Api, DeleteParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::pods::shared::NodeFacts;

/// As long as upstream waits for somebody to approve.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Between two requests of which none was granted: the first pause and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30 * 60));
/// Timers reach no further; then the files are looked at again.
const FAR: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the API refused")]
    Api(#[from] kube::Error),
    #[error("the request cannot be made")]
    Make(#[from] requests::Error),
    #[error("the request {name} is {kind}: {message}")]
    Refused {
        name: String,
        kind: String,
        message: String,
    },
    #[error("nobody approved the request {0}")]
    Waited(String),
    #[error("the request {0} is gone")]
    Gone(String),
    #[error("the certificate cannot be written")]
    Write(#[from] daemon::pki::Error),
}

/// Where the pair is kept, and for whom.
#[derive(Debug, Clone)]
pub struct Serving {
    pub node: String,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What a certificate says, as far as its renewal asks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    names: BTreeSet<String>,
    from: Timestamp,
    until: Timestamp,
    /// Made by ourselves because there was none.
    self_signed: bool,
}

/// When another one is wanted; `part` of its life between 0 and 1 chooses a time in upstream's range.
fn due(held: Option<&Held>, names: &BTreeSet<String>, part: f64) -> Option<Timestamp> {
    let held = held?;
    if held.self_signed || held.names != *names {
        return None;
    }
    let life = held.until.duration_since(held.from).as_secs_f64();
    let share = life * (0.7 + 0.2 * part);
    Some(held.from + Duration::from_secs_f64(share.max(0.0)))
}

fn read(path: &Path) -> Option<Held> {
    let pem = pem::parse(fs::read(path).ok()?).ok()?;
    let (_, certificate) = X509Certificate::from_der(pem.contents()).ok()?;
    let at = |second: i64| Timestamp::from_second(second).ok();
    let alternatives = certificate.subject_alternative_name().ok()?;
    let names = alternatives.iter().flat_map(|a| &a.value.general_names);
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let ip = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            let ip = ip.or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from));
            ip.ok().map(|ip| ip.to_string())
        }
        _ => None,
    };
    Some(Held {
        names: names.filter_map(name).collect(),
        from: at(certificate.validity().not_before.timestamp())?,
        until: at(certificate.validity().not_after.timestamp())?,
        self_signed: certificate.issuer() == certificate.subject(),
    })
}

pub async fn keep(
    serving: Serving,
    client: kube::Client,
    mut node: watch::Receiver<NodeFacts>,
    stop: CancellationToken,
) {
    let mut pause = PAUSE.0;
    let part: f64 = rand::random();
    loop {
        let names: BTreeSet<String> = {
            let facts = node.borrow_and_update();
            let ips = facts.host_ips.iter().cloned();
            ips.chain([serving.node.clone()]).filter(|_| facts.known).collect()
        };
        let held = read(&serving.certificate);
        let left = due(held.as_ref(), &names, part).map(|at| at.duration_since(Timestamp::now()));
        let wait = match left.and_then(|left| Duration::try_from(left).ok()) {
            // Not before the node knows its addresses.
            _ if names.is_empty() => FAR,
            Some(left) if !left.is_zero() => left.min(FAR),
            _ => {
                let asked = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    asked = renew(&serving, &client, &names) => asked,
                };
                match asked {
                    Ok(()) => {
                        tracing::info!(?names, "the node's endpoint has a new certificate");
                        pause = PAUSE.0;
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(
                            error = daemon::chain(&error),
                            "no new certificate for the node's endpoint"
                        );
                        let wait = pause;
                        pause = (pause * 2).min(PAUSE.1);
                        wait
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            changed = other_addresses(&mut node, &names, &serving.node) => if changed.is_err() { return },
        }
    }
}

/// Until the node is known by other addresses than these.
async fn other_addresses(
    node: &mut watch::Receiver<NodeFacts>,
    names: &BTreeSet<String>,
    own: &str,
) -> Result<(), watch::error::RecvError> {
    let other = |facts: &NodeFacts| {
        let now = facts.host_ips.iter().map(String::as_str).chain([own]);
        facts.known && now.collect::<BTreeSet<_>>() != names.iter().map(String::as_str).collect()
    };
    node.wait_for(other).await.map(drop)
}

async fn renew(serving: &Serving, client: &kube::Client, names: &BTreeSet<String>) -> Result<(), Error> {
    let names: Vec<String> = names.iter().cloned().collect();
    let (key, request) = requests::make(&format!("system:node:{}", serving.node), Some("system:nodes"), &names)?;
    let usages = ["digital signature", "server auth"];
    let certificate = ask(client, "kubernetes.io/kubelet-serving", &usages, request).await?;
    daemon::pki::write_file(&serving.key, key.as_bytes(), 0o600)?;
    daemon::pki::write_file(&serving.certificate, certificate.as_bytes(), 0o644)?;
    Ok(())
}

/// Posts a request and waits for its certificate.
async fn ask(client: &kube::Client, signer: &str, usages: &[&str], request: String) -> Result<String, Error> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let mut object: CertificateSigningRequest = serde_json::from_value(json!({
        "metadata": {"generateName": "csr-"},
        "spec": {"request": "", "signerName": signer, "usages": usages},
    }))
    .map_err(kube::Error::SerdeError)?;
    object.spec.request = ByteString(request.into_bytes());
    let made = api.create(&PostParams::default(), &object).await?;
    let name = made.metadata.name.clone().unwrap_or_default();
    let waited = tokio::time::timeout(PATIENCE, granted(&api, &name, made)).await;
    let answer = waited.unwrap_or_else(|_| Err(Error::Waited(name.clone())));
    if let Err(Error::Waited(_)) = answer {
        // Nobody is to decide about a key that is thrown away. It may not be ours to delete, and then it ends by itself.
        drop(api.delete(&name, &DeleteParams::default()).await);
    }
    answer
}

async fn granted(
    api: &Api<CertificateSigningRequest>,
    name: &str,
    made: CertificateSigningRequest,
) -> Result<String, Error> {
    let mut revision = made.metadata.resource_version.unwrap_or_default();
    let start = Instant::now();
    loop {
        let params = WatchParams::default().fields(&format!("metadata.name={name}"));
        let mut events = api.watch(&params, &revision).await?.boxed();
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(request) | WatchEvent::Modified(request) => {
                    if let Some(pem) = judged(&request)? {
                        return Ok(pem);
                    }
                    revision = request.metadata.resource_version.unwrap_or(revision);
                }
                WatchEvent::Deleted(_) => return Err(Error::Gone(name.to_owned())),
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(status) => {
                    tracing::debug!(status.message, "a watch of a certificate request ended");
                    break;
                }
            }
        }
        // Watches end now and then; one that ends at once is not asked for again at once.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = api.get(name).await?;
        if let Some(pem) = judged(&now)? {
            return Ok(pem);
        }
        tracing::debug!(name, waited = ?start.elapsed(), "a certificate request is still undecided");
        revision = now.metadata.resource_version.unwrap_or_default();
    }
}

fn judged(request: &CertificateSigningRequest) -> Result<Option<String>, Error> {
    let status = request.status.as_ref();
    for condition in status.and_then(|s| s.conditions.as_ref()).into_iter().flatten() {
        if matches!(condition.type_.as_str(), "Denied" | "Failed") {
            return Err(Error::Refused {
                name: request.metadata.name.clone().unwrap_or_default(),
                kind: condition.type_.to_lowercase(),
                message: condition.message.clone().unwrap_or_default(),
            });
        }
    }
    let pem = status.and_then(|s| s.certificate.as_ref()).map(|c| c.0.clone());
    Ok(pem
        .filter(|p| !p.is_empty())
        .map(|p| String::from_utf8_lossy(&p).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_certificate_is_renewed_late_in_its_life() {
        let names: BTreeSet<String> = ["n".to_owned(), "192.0.2.7".to_owned()].into();
        let held = Held {
            names: names.clone(),
            from: at("2026-01-01T00:00:00Z"),
            until: at("2026-01-11T00:00:00Z"),
            self_signed: false,
        };
        assert_eq!(due(Some(&held), &names, 0.0), Some(at("2026-01-08T00:00:00Z")));
        assert_eq!(due(Some(&held), &names, 1.0), Some(at("2026-01-10T00:00:00Z")));
        let other: BTreeSet<String> = ["n".to_owned(), "192.0.2.8".to_owned()].into();
        assert_eq!(due(Some(&held), &other, 0.0), None);
        let own = Held {
            self_signed: true,
            ..held
        };
        assert_eq!(due(Some(&own), &names, 0.0), None);
        assert_eq!(due(None, &names, 0.0), None);
    }

    #[test]
    fn a_denied_request_is_no_certificate() {
        let judge = |status| {
            let request: CertificateSigningRequest = serde_json::from_value(json!({
                "metadata": {"name": "r"},
                "spec": {"request": "", "signerName": "s"}, "status": status,
            }))
            .unwrap();
            judged(&request).map_err(|e| e.to_string())
        };
        let denied = json!({"conditions": [{"type": "Denied", "status": "True", "message": "no"}]});
        assert_eq!(judge(denied), Err("the request r is denied: no".to_owned()));
        assert_eq!(
            judge(json!({"conditions": [{"type": "Approved", "status": "True"}]})),
            Ok(None)
        );
        assert_eq!(judge(json!({"certificate": "eA=="})), Ok(Some("x".to_owned())));
    }
}
