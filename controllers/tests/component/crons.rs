use std::time::Duration;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Event;
use serde_json::{Value, json};
use testkit::FakeNode;

use super::cluster;

pub(crate) fn cron_job(name: &str, image: &str, spec: Value) -> CronJob {
    let mut cron = json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"schedule": "*/1 * * * *", "jobTemplate": {"spec": {"template": {
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": image}]}}}}},
    });
    for (key, value) in spec.as_object().expect("a spec is an object") {
        cron["spec"][key] = value.clone();
    }
    serde_json::from_value(cron).expect("the CronJob is well formed")
}

fn active(cron: &CronJob) -> usize {
    let status = cron.status.as_ref();
    status.and_then(|status| status.active.as_ref()).map_or(0, Vec::len)
}

/// [sig-apps] CronJob should schedule multiple jobs concurrently.
#[tokio::test(start_paused = true)]
async fn jobs_of_a_cron_job_may_run_side_by_side() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster
        .create(cron_job("tick", "serve", json!({"concurrencyPolicy": "Allow"})))
        .await;
    cluster
        .until_one("two run", "default", "tick", |cron: &CronJob| active(cron) >= 2)
        .await;
}

/// [sig-apps] CronJob should not schedule new jobs when ForbidConcurrent; should replace jobs when ReplaceConcurrent.
#[tokio::test(start_paused = true)]
async fn jobs_of_a_cron_job_wait_or_give_way() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster
        .create(cron_job("wait", "serve", json!({"concurrencyPolicy": "Forbid"})))
        .await;
    cluster
        .create(cron_job("give", "serve", json!({"concurrencyPolicy": "Replace"})))
        .await;
    let first = cluster
        .until_one("one runs", "default", "give", |cron: &CronJob| active(cron) == 1)
        .await;
    let first = first.status.as_ref().unwrap().active.as_ref().unwrap()[0].uid.clone();
    let replaced = |cron: &CronJob| {
        let active = cron
            .status
            .as_ref()
            .and_then(|status| status.active.clone())
            .unwrap_or_default();
        active.len() == 1 && active[0].uid != first
    };
    cluster.until_one("another runs", "default", "give", replaced).await;
    cluster.pass(Duration::from_secs(180)).await;
    let jobs = cluster.listed::<Job>().await.list();
    let of = |name: &str| {
        jobs.iter()
            .filter(|job| job.owner().is_some_and(|owner| &*owner.name == name))
            .count()
    };
    assert_eq!((of("wait"), of("give")), (1, 1));
}

/// [sig-apps] CronJob should not schedule jobs when suspended.
#[tokio::test(start_paused = true)]
async fn a_suspended_cron_job_starts_nothing() {
    let mut cluster = cluster().await;
    cluster
        .create(cron_job("still", "succeed", json!({"suspend": true})))
        .await;
    cluster.pass(Duration::from_secs(600)).await;
    assert!(cluster.listed::<Job>().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cron_job_keeps_a_history_and_tells_what_it_does() {
    let mut cluster = cluster().await;
    FakeNode::start(&mut cluster, "n1").await;
    cluster
        .create(cron_job("tick", "succeed", json!({"successfulJobsHistoryLimit": 2})))
        .await;
    cluster.pass(Duration::from_secs(600)).await;
    let jobs = cluster.listed::<Job>().await.list();
    assert!((2..=3).contains(&jobs.len()), "{}", jobs.len());
    let tick = cluster
        .listed::<CronJob>()
        .await
        .get("default", "tick")
        .unwrap()
        .typed()
        .unwrap();
    let status = tick.status.clone().unwrap();
    assert!(status.last_schedule_time.is_some() && status.last_successful_time.is_some());
    let events = cluster.listed::<Event>().await.list();
    let reasons: Vec<_> = events
        .iter()
        .filter_map(|event| event.typed().unwrap().reason.clone())
        .collect();
    for reason in ["SuccessfulCreate", "SawCompletedJob", "SuccessfulDelete"] {
        assert!(reasons.iter().any(|other| other == reason), "{reason}");
    }
    for reason in ["UnexpectedJob", "MissingJob"] {
        assert!(!reasons.iter().any(|other| other == reason), "{reason}");
    }
}
