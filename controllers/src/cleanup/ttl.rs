//! Removes Jobs some time after they finished (ttlSecondsAfterFinished).

use std::time::Duration;

use daemon::informer::Lister;
use daemon::{Next, Queue};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, PropagationPolicy};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Key, enqueue_each};
use crate::pods::this_one;
use crate::{Error, is_conflict, is_gone};

/// How long the Job may stay yet; zero when its time is over, nothing where it has none.
fn plan(job: &Job, now: Timestamp) -> Option<Duration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ended = |kind: &str| kind == "Complete" || kind == "Failed";
    let end = conditions
        .iter()
        .find(|condition| ended(&condition.type_) && condition.status == "True")?;
    let over = end.last_transition_time.as_ref()?.0 + Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
    Some(over.duration_since(now).try_into().unwrap_or(Duration::ZERO))
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let jobs = context.all::<Job>();
    enqueue_each(&jobs, &queue);
    jobs.synced().await;
    let client = context.client.clone();
    context
        .work(queue, stop, move |key| reconcile(client.clone(), jobs.clone(), key))
        .await
}

async fn reconcile(client: kube::Client, jobs: Lister<Job>, key: Key) -> Result<Next, Error> {
    let Some(entry) = jobs.get(&key.namespace, &key.name) else {
        return Ok(Next::Done);
    };
    let Some(left) = plan(&*entry.typed()?, crate::context::instant()) else {
        return Ok(Next::Done);
    };
    if !left.is_zero() {
        return Ok(Next::After(left));
    }
    // The time may have been prolonged since.
    let api: Api<Job> = Api::namespaced(client, &key.namespace);
    let live = match api.get(&key.name).await {
        Err(error) if is_gone(&error) => return Ok(Next::Done),
        answer => answer?,
    };
    match plan(&live, crate::context::instant()) {
        Some(left) if left.is_zero() => {}
        Some(left) => return Ok(Next::After(left)),
        None => return Ok(Next::Done),
    }
    let metadata: &ObjectMeta = &live.metadata;
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..this_one(metadata)
    };
    match api.delete(&key.name, &params).await {
        Err(error) if is_gone(&error) || is_conflict(&error) => Ok(Next::Done),
        answer => answer.map(|_| Next::Done).map_err(Error::from),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_finished_job_has_its_time() {
        let left = |ttl: Option<i32>, condition: &str, now: &str| {
            let job: Job = serde_json::from_value(json!({
                "spec": {"ttlSecondsAfterFinished": ttl, "template": {"spec": {"containers": []}}},
                "status": {"conditions": [
                    {"type": condition, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
            }))
            .unwrap();
            plan(&job, now.parse().unwrap())
        };
        let (early, late) = ("2026-01-01T00:00:10Z", "2026-01-01T00:02:00Z");
        assert_eq!(left(Some(60), "Complete", early), Some(Duration::from_secs(50)));
        assert_eq!(left(Some(60), "Failed", late), Some(Duration::ZERO));
        assert_eq!(left(None, "Complete", late), None);
        assert_eq!(left(Some(60), "Suspended", late), None);
    }
}
