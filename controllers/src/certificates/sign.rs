//! Signs approved requests of the cluster's own signers with the cluster's authority (pkg/controller/certificates/signer,
//! 1.36). What a signer does not allow is marked Failed, and never signed.

use std::sync::Arc;
use std::time::Duration;

use daemon::informer::Lister;
use daemon::pki::Authority;
use daemon::requests::{Request, Usages};
use daemon::{Next, Queue};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::api::{Api, PostParams};
use tokio_util::sync::CancellationToken;

use super::{certificate, check_kubelet_client, check_kubelet_serving, condition, signer, text, usages};
use crate::context::{Context, Key, enqueue_each, instant};
use crate::{Error, is_conflict, is_gone};

/// The shortest life that may be asked for.
const LEAST: Duration = Duration::from_secs(600);

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Leave,
    Fail(String),
    Sign { usages: Usages, validity: Duration },
}

fn plan(request: &CertificateSigningRequest, most: Duration) -> Verdict {
    let signed = certificate(request).is_some();
    if signed || condition(request, "Approved").is_none() || condition(request, "Failed").is_some() {
        return Verdict::Leave;
    }
    let name = request.spec.signer_name.as_str();
    if ![
        signer::CLIENT,
        signer::KUBELET_CLIENT,
        signer::KUBELET_SERVING,
        signer::LEGACY,
    ]
    .contains(&name)
    {
        return Verdict::Leave;
    }
    let asked = match Request::parse(text(request)) {
        Ok(asked) => asked,
        Err(error) => return Verdict::Fail(format!("unable to parse csr {:?}: {error}", request.metadata.name)),
    };
    let usages = usages(request);
    let allowed = match name {
        signer::KUBELET_CLIENT => check_kubelet_client(request, &asked),
        signer::KUBELET_SERVING => check_kubelet_serving(request, &asked),
        signer::CLIENT => {
            let known = ["client auth", "digital signature", "key encipherment"];
            if !usages.contains(&"client auth") {
                Err("usages must include client auth")
            } else if usages.iter().all(|usage| known.contains(usage)) {
                Ok(())
            } else {
                Err("usages did not match expected values")
            }
        }
        _ => Ok(()),
    };
    if let Err(why) = allowed {
        return Verdict::Fail(why.to_owned());
    }
    let wanted = request.spec.expiration_seconds.and_then(|s| u64::try_from(s).ok());
    Verdict::Sign {
        usages: Usages {
            client: usages.contains(&"client auth"),
            server: usages.contains(&"server auth"),
            key_encipherment: usages.contains(&"key encipherment"),
        },
        validity: wanted.map_or(most, |seconds| Duration::from_secs(seconds).max(LEAST).min(most)),
    }
}

struct Signing {
    requests: Lister<CertificateSigningRequest>,
    authority: Authority,
    most: Duration,
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let Some(pair) = context.config.signing.clone() else {
        stop.cancelled().await;
        return Ok(());
    };
    let authority = Authority::from_pem(&pair, "--cluster-signing-cert-file".as_ref());
    let authority = authority.map_err(|error| Error::Plan(daemon::chain(&error)))?;
    let queue = Queue::new();
    let requests = context.all::<CertificateSigningRequest>();
    enqueue_each(&requests, &queue);
    requests.synced().await;
    let client = context.client.clone();
    let signing = Arc::new(Signing {
        requests,
        authority,
        most: context.config.signing_duration,
    });
    context
        .work(queue, stop, move |key| reconcile(client.clone(), signing.clone(), key))
        .await
}

async fn reconcile(client: kube::Client, signing: Arc<Signing>, key: Key) -> Result<Next, Error> {
    let Some(entry) = signing.requests.get("", &key.name) else {
        return Ok(Next::Done);
    };
    let request = entry.typed()?;
    let signed = match plan(&request, signing.most) {
        Verdict::Leave => return Ok(Next::Done),
        Verdict::Fail(why) => Err(("SignerValidationFailure", why)),
        Verdict::Sign { usages, validity } => {
            let signed = signing.authority.sign(text(&request), usages, validity, instant());
            signed.map_err(|error| ("SigningFailure", error.to_string()))
        }
    };
    let mut changed = (*request).clone();
    let status = changed.status.get_or_insert_default();
    match signed {
        Ok(pem) => status.certificate = Some(ByteString(pem.into_bytes())),
        Err((reason, message)) => {
            status
                .conditions
                .get_or_insert_default()
                .push(CertificateSigningRequestCondition {
                    type_: "Failed".to_owned(),
                    status: "True".to_owned(),
                    reason: Some(reason.to_owned()),
                    message: Some(message),
                    ..CertificateSigningRequestCondition::default()
                });
        }
    }
    let api: Api<CertificateSigningRequest> = Api::all(client);
    match api.replace_status(&key.name, &PostParams::default(), &changed).await {
        Err(error) if is_conflict(&error) || is_gone(&error) => Ok(Next::Done),
        answer => answer.map(|_| Next::Done).map_err(Error::from),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::of;
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn verdict(signer: &str, group: &str, usages: &[&str], seconds: Option<i32>) -> Verdict {
        let (_, text) = daemon::requests::make("jane", Some(group), &[]).unwrap();
        let approved = json!({"conditions": [{"type": "Approved", "status": "True"}]});
        let mut request = of(signer, "admin", &text, usages, &approved);
        request.spec.expiration_seconds = seconds;
        plan(&request, DAY)
    }

    #[test]
    fn an_approved_client_is_signed_for_as_long_as_it_asked() {
        let usages = Usages {
            client: true,
            ..Usages::default()
        };
        let signed = |validity| Verdict::Sign { usages, validity };
        let of = |seconds| verdict(signer::CLIENT, "dev", &["client auth"], seconds);
        assert_eq!(of(None), signed(DAY));
        assert_eq!(of(Some(3600)), signed(Duration::from_secs(3600)));
        assert_eq!(of(Some(7 * 24 * 3600)), signed(DAY));
    }

    #[test]
    fn a_signer_signs_only_what_it_is_for() {
        let wrong = verdict(signer::CLIENT, "dev", &["server auth", "client auth"], None);
        assert_eq!(wrong, Verdict::Fail("usages did not match expected values".into()));
        let node = verdict(
            signer::KUBELET_SERVING,
            "dev",
            &["server auth", "digital signature"],
            None,
        );
        assert_eq!(node, Verdict::Fail("organization is not system:nodes".into()));
        assert_eq!(
            verdict("example.com/mine", "dev", &["client auth"], None),
            Verdict::Leave
        );
    }

    #[test]
    fn what_nobody_approved_is_left() {
        let (_, text) = daemon::requests::make("jane", None, &[]).unwrap();
        let request = of(signer::CLIENT, "jane", &text, &["client auth"], &json!({}));
        assert_eq!(plan(&request, DAY), Verdict::Leave);
    }
}
