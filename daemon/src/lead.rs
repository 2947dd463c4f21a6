//! Leader election on a Lease, by compare-and-swap on its revision, as upstream's components do it.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

/// Who wants to lead, and what.
#[derive(Debug, Clone)]
pub struct Config {
    pub namespace: String,
    pub name: String,
    /// Unique among the candidates.
    pub identity: String,
    /// Others wait this long after the last renewal they saw.
    pub lease: Duration,
    /// The leader gives up after this long without a renewal; less than `lease`.
    pub renew: Duration,
    /// Pause between attempts to take or renew.
    pub retry: Duration,
}

/// How leading ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End<T> {
    /// The work ended by itself.
    Ended(T),
    /// The Lease is another's now, or could not be renewed in time. The work was stopped.
    Lost,
    /// `stop` fired; the Lease was given back.
    Stopped,
}

impl Config {
    /// Upstream's times: 15, 10 and 2 seconds.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>, identity: impl Into<String>) -> Self {
        Config {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            lease: Duration::from_secs(15),
            renew: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Waits for the Lease, then runs `work` for as long as it is held. `work` has to stop soon after its token fires: the
/// Lease may be another's by then.
pub async fn lead<F>(
    client: kube::Client,
    config: Config,
    stop: CancellationToken,
    work: impl FnOnce(CancellationToken) -> F,
) -> End<F::Output>
where
    F: Future,
{
    let mut candidate = Candidate {
        leases: Api::namespaced(client, &config.namespace),
        config,
        seen: None,
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => return End::Stopped,
        () = candidate.acquire() => {}
    }
    info!(
        lease = candidate.config.name,
        identity = candidate.config.identity,
        "leading"
    );
    let token = stop.child_token();
    let work = work(token.clone());
    let mut work = std::pin::pin!(work);
    let end = tokio::select! {
        biased;
        output = &mut work => End::Ended(output),
        () = candidate.keep() => End::Lost,
    };
    token.cancel();
    match end {
        End::Ended(_) if stop.is_cancelled() => {
            candidate.release().await;
            End::Stopped
        }
        End::Ended(output) => {
            candidate.release().await;
            End::Ended(output)
        }
        lost => {
            info!(lease = candidate.config.name, "no longer leading");
            work.await;
            lost
        }
    }
}

struct Candidate {
    leases: Api<Lease>,
    config: Config,
    /// The last record that was seen and when: other machines' clocks are not trusted.
    seen: Option<(Lease, Instant)>,
}

impl Candidate {
    async fn acquire(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => debug!(lease = self.config.name, error = %crate::chain(&error), "not acquired"),
            }
            // Candidates that began together do not stay in step.
            tokio::time::sleep(self.config.retry.mul_f64(1.0 + rand::random::<f64>() * 0.2)).await;
        }
    }

    /// Returns when the Lease is lost.
    async fn keep(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.config.retry).await;
            let deadline = renewed + self.config.renew;
            match tokio::time::timeout_at(deadline, self.attempt()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(error)) => {
                    debug!(lease = self.config.name, error = %crate::chain(&error), "not renewed");
                    if Instant::now() >= deadline {
                        return;
                    }
                }
            }
        }
    }

    /// Takes or renews the Lease; `false` when another holds it.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let params = PostParams::default();
        let Some(lease) = self.leases.get_opt(&self.config.name).await? else {
            let lease = self.record(None);
            return match self.leases.create(&params, &lease).await {
                Ok(lease) => self.saw(lease, true),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
                Err(error) => Err(error),
            };
        };
        let changed = self.seen.as_ref().is_none_or(|(seen, _)| seen.spec != lease.spec);
        if changed {
            self.seen = Some((lease.clone(), Instant::now()));
        }
        let spec = lease.spec.as_ref();
        let holder = spec
            .and_then(|spec| spec.holder_identity.as_deref())
            .unwrap_or_default();
        if !holder.is_empty() && holder != self.config.identity {
            let duration = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
            let seen = self.seen.as_ref().map_or_else(Instant::now, |(_, at)| *at);
            if seen.elapsed() < Duration::from_secs(u64::try_from(duration).unwrap_or_default()) {
                return Ok(false);
            }
        }
        let next = self.record(Some(&lease));
        match self.leases.replace(&self.config.name, &params, &next).await {
            Ok(lease) => self.saw(lease, true),
            // Somebody else was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn saw(&mut self, lease: Lease, ours: bool) -> Result<bool, kube::Error> {
        self.seen = Some((lease, Instant::now()));
        Ok(ours)
    }

    /// The record that says that we hold the Lease now.
    fn record(&self, old: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let before = old.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let ours = before.holder_identity.as_deref() == Some(&self.config.identity);
        let transitions = before.lease_transitions.unwrap_or_default();
        let metadata = old.map(|lease| lease.metadata.clone()).unwrap_or_else(|| ObjectMeta {
            name: Some(self.config.name.clone()),
            namespace: Some(self.config.namespace.clone()),
            ..Default::default()
        });
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.config.identity.clone()),
                lease_duration_seconds: Some(i32::try_from(self.config.lease.as_secs()).unwrap_or(i32::MAX)),
                acquire_time: before.acquire_time.filter(|_| ours).or_else(|| Some(now.clone())),
                renew_time: Some(now),
                lease_transitions: Some(transitions + i32::from(old.is_some() && !ours)),
                ..before
            }),
        }
    }

    /// Gives the Lease back so that another need not wait for its end.
    async fn release(&self) {
        let Some((lease, _)) = &self.seen else { return };
        let mut lease = lease.clone();
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        // A failure costs the next leader the rest of the Lease, no more.
        let params = PostParams::default();
        let replaced = self.leases.replace(&self.config.name, &params, &lease);
        if !matches!(tokio::time::timeout(Duration::from_secs(2), replaced).await, Ok(Ok(_))) {
            debug!(lease = self.config.name, "not released");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use http::{Method, Request, Response};
    use http_body_util::BodyExt;
    use kube::client::Body;

    use super::*;

    /// One Lease, with a revision that must match; `away` makes the server refuse everything.
    #[derive(Default)]
    struct Server {
        lease: Option<Lease>,
        revision: u64,
        away: bool,
    }

    fn client(server: &Arc<Mutex<Server>>) -> kube::Client {
        let server = server.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let mut server = server.lock().unwrap();
                let refuse = |code: u16| {
                    let reason = if code == 404 { "NotFound" } else { "Other" };
                    let text = format!(r#"{{"kind":"Status","status":"Failure","reason":"{reason}","code":{code}}}"#);
                    (code, text)
                };
                let (code, text) = if server.away {
                    refuse(503)
                } else if method == Method::GET {
                    match &server.lease {
                        Some(lease) => (200, serde_json::to_string(lease).unwrap()),
                        None => refuse(404),
                    }
                } else {
                    let mut lease: Lease = serde_json::from_slice(&body).unwrap();
                    let have = server
                        .lease
                        .as_ref()
                        .and_then(|lease| lease.metadata.resource_version.clone());
                    if lease.metadata.resource_version != have {
                        refuse(409)
                    } else {
                        server.revision += 1;
                        lease.metadata.resource_version = Some(server.revision.to_string());
                        server.lease = Some(lease.clone());
                        (200, serde_json::to_string(&lease).unwrap())
                    }
                };
                Ok::<_, Infallible>(
                    Response::builder()
                        .status(code)
                        .body(Body::from(text.into_bytes()))
                        .unwrap(),
                )
            }
        });
        kube::Client::new(service, "default")
    }

    fn holder(server: &Arc<Mutex<Server>>) -> String {
        let server = server.lock().unwrap();
        server
            .lease
            .as_ref()
            .unwrap()
            .spec
            .as_ref()
            .unwrap()
            .holder_identity
            .clone()
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_candidate_leads_once_the_first_gives_the_lease_back() {
        let server = Arc::default();
        let stop = CancellationToken::new();
        let first = lead(
            client(&server),
            Config::new("n", "l", "a"),
            stop.clone(),
            |token| async move {
                token.cancelled().await;
            },
        );
        let second_stop = CancellationToken::new();
        let second = lead(client(&server), Config::new("n", "l", "b"), second_stop, |_| async {
            "led"
        });
        let later = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(holder(&server), "a");
            stop.cancel();
        };
        let (first, second, ()) = tokio::join!(first, second, later);
        assert_eq!((first, second), (End::Stopped, End::Ended("led")));
        assert_eq!(holder(&server), "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_renew_stops_before_its_lease_ends() {
        let server: Arc<Mutex<Server>> = Arc::default();
        let began = Instant::now();
        let leading = lead(
            client(&server),
            Config::new("n", "l", "a"),
            CancellationToken::new(),
            |token| async move {
                token.cancelled().await;
            },
        );
        let away = async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            server.lock().unwrap().away = true;
        };
        let (end, ()) = tokio::join!(leading, away);
        assert_eq!(end, End::Lost);
        assert!(began.elapsed() < Duration::from_secs(30 + 15));
    }
}
