//! Removes requests that nobody needs any more (pkg/controller/certificates/cleaner, 1.36): an hour after a decision, a
//! day after nobody decided, and when the certificate has run out.

use std::time::Duration;

use daemon::informer::Lister;
use daemon::{Next, Queue};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{Api, DeleteParams};
use tokio_util::sync::CancellationToken;

use super::{certificate, condition};
use crate::context::{Context, Key, enqueue_each, instant};
use crate::{Error, is_gone};

const DECIDED: Duration = Duration::from_secs(3600);
const PENDING: Duration = Duration::from_secs(24 * 3600);

/// When the request may go; nothing where that is not known.
fn end(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let since = |kind: &str| {
        let condition = condition(request, kind)?;
        Some(condition.last_update_time.as_ref()?.0 + DECIDED)
    };
    let issued = certificate(request);
    let mut ends = vec![since("Denied"), since("Failed")];
    match issued {
        Some(pem) => {
            ends.push(since("Approved"));
            ends.push(expiry(pem));
        }
        None => {
            let conditions = request.status.as_ref().and_then(|s| s.conditions.as_ref());
            if conditions.is_none_or(Vec::is_empty) {
                let created = request.metadata.creation_timestamp.as_ref();
                ends.push(created.map(|c| c.0 + PENDING));
            }
        }
    }
    ends.into_iter().flatten().min()
}

fn expiry(pem: &[u8]) -> Option<Timestamp> {
    daemon::requests::expiry(std::str::from_utf8(pem).ok()?)
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let requests = context.all::<CertificateSigningRequest>();
    enqueue_each(&requests, &queue);
    requests.synced().await;
    let client = context.client.clone();
    context
        .work(queue, stop, move |key| reconcile(client.clone(), requests.clone(), key))
        .await
}

async fn reconcile(client: kube::Client, requests: Lister<CertificateSigningRequest>, key: Key) -> Result<Next, Error> {
    let Some(entry) = requests.get("", &key.name) else {
        return Ok(Next::Done);
    };
    let Some(end) = end(&*entry.typed()?) else {
        return Ok(Next::Done);
    };
    if let Ok(left) = Duration::try_from(end.duration_since(instant()))
        && !left.is_zero()
    {
        return Ok(Next::After(left));
    }
    let api: Api<CertificateSigningRequest> = Api::all(client);
    match api.delete(&key.name, &DeleteParams::default()).await {
        Err(error) if is_gone(&error) => Ok(Next::Done),
        answer => answer.map(|_| Next::Done).map_err(Error::from),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::of;
    use super::*;

    #[test]
    fn requests_have_their_time() {
        let end_of = |status: Value| end(&of("s", "u", "", &[], &status)).map(|e| e.to_string());
        let decided = |kind: &str| {
            json!({"conditions": [
            {"type": kind, "status": "True", "lastUpdateTime": "2026-11-21T01:00:00Z"}]})
        };
        assert_eq!(end_of(json!({})).unwrap(), "2026-11-22T00:00:00Z");
        assert_eq!(end_of(decided("Denied")).unwrap(), "2026-11-21T02:00:00Z");
        assert_eq!(end_of(decided("Failed")).unwrap(), "2026-11-21T02:00:00Z");
        // Approved and waiting for a signer, who may be somebody else.
        assert_eq!(end_of(decided("Approved")), None);
        let mut issued = decided("Approved");
        issued["certificate"] = json!("eA==");
        assert_eq!(end_of(issued).unwrap(), "2026-11-21T02:00:00Z");
    }
}
