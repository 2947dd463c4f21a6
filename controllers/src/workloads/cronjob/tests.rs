use serde_json::{Value, json};

use super::*;

struct Clock {
    cron: CronJob,
    jobs: Vec<Arc<Job>>,
}

impl Clock {
    fn new(spec: Value) -> Self {
        let mut cron = json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "c", "creationTimestamp": "2026-01-01T00:00:30Z"},
            "spec": {"schedule": "* * * * *", "concurrencyPolicy": "Allow", "suspend": false,
                "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
                "jobTemplate": {"metadata": {"labels": {"l": "v"}}, "spec": {"template": {}}}},
        });
        for (key, value) in spec.as_object().unwrap() {
            cron["spec"][key] = value.clone();
        }
        Clock {
            cron: serde_json::from_value(cron).unwrap(),
            jobs: Vec::new(),
        }
    }

    /// Plans at a time and performs: the name of the Job that was made.
    fn at(&mut self, now: &str) -> (Option<String>, Plan) {
        let mut plan = plan(&Observed {
            cron: &self.cron,
            jobs: &self.jobs,
            unseen: &[],
            zone: &TimeZone::UTC,
            now: now.parse().unwrap(),
        });
        let gone = |job: &Arc<Job>| {
            plan.clean.iter().any(|other| Arc::ptr_eq(other, job))
                || plan.replace.iter().any(|other| other.uid == job.metadata.uid)
        };
        let kept = self.jobs.iter().filter(|job| !gone(job)).cloned().collect();
        self.jobs = kept;
        let mut made = None;
        if let Some((mut job, time)) = plan.create.take() {
            job.metadata.uid = job.metadata.name.clone();
            made = job.metadata.name.clone();
            plan.started(daemon::events::reference(&job), time);
            self.jobs.push(Arc::new(job));
        }
        self.cron.status = Some(plan.status.clone());
        (made, plan)
    }

    fn end(&mut self, name: &str, kind: &str, at: &str) {
        let job = self
            .jobs
            .iter_mut()
            .find(|job| job.metadata.name.as_deref() == Some(name))
            .unwrap();
        Arc::make_mut(job).status = serde_json::from_value(json!({
            "startTime": at, "completionTime": at, "conditions": [{"type": kind, "status": "True"}]}))
        .unwrap();
    }

    fn active(&self) -> Vec<String> {
        let active = self
            .cron
            .status
            .iter()
            .flat_map(|status| status.active.iter().flatten());
        active.filter_map(|job| job.name.clone()).collect()
    }
}

fn reasons(plan: &Plan) -> Vec<&str> {
    plan.events.iter().map(|(_, reason, _)| *reason).collect()
}

/// Minutes since 1970 of 2026-01-01T00:00Z.
const ZERO: i64 = 29_453_760;

fn named(minute: i64) -> Option<String> {
    Some(format!("c-{}", ZERO + minute))
}

#[test]
fn a_job_starts_at_each_time_and_the_timer_is_set_to_the_next() {
    let mut clock = Clock::new(json!({}));
    let (made, plan) = clock.at("2026-01-01T00:00:30Z");
    assert_eq!((made, plan.look_again), (None, Some(Duration::from_millis(30_100))));
    let (made, plan) = clock.at("2026-01-01T00:01:00.1Z");
    assert_eq!((made, plan.look_again), (named(1), Some(Duration::from_secs(60))));
    let job = &clock.jobs[0].metadata;
    let annotations = job.annotations.clone().unwrap();
    assert_eq!(
        annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"],
        "2026-01-01T00:01:00Z"
    );
    assert_eq!(job.labels.clone().unwrap()["l"], "v");
    assert_eq!(clock.at("2026-01-01T00:01:20Z").0, None, "once is enough");
    assert_eq!(clock.at("2026-01-01T00:02:00.1Z").0, named(2));
    assert_eq!(clock.active().len(), 2);
}

#[test]
fn jobs_run_side_by_side_wait_or_give_way() {
    for (policy, active, reason) in [
        ("Allow", vec![named(1), named(2)], None),
        ("Forbid", vec![named(1)], Some("JobAlreadyActive")),
        ("Replace", vec![named(2)], None),
    ] {
        let mut clock = Clock::new(json!({"concurrencyPolicy": policy}));
        clock.at("2026-01-01T00:01:00.1Z");
        let (_, plan) = clock.at("2026-01-01T00:02:00.1Z");
        assert_eq!(
            clock.active().into_iter().map(Some).collect::<Vec<_>>(),
            active,
            "{policy}"
        );
        assert_eq!(reasons(&plan).first().copied(), reason, "{policy}");
    }
}

#[test]
fn a_forbidden_start_is_made_up_for_when_the_earlier_job_ends() {
    let mut clock = Clock::new(json!({"concurrencyPolicy": "Forbid"}));
    clock.at("2026-01-01T00:01:00.1Z");
    assert_eq!(clock.at("2026-01-01T00:02:00.1Z").0, None);
    clock.end("c-29453761", "Complete", "2026-01-01T00:02:30Z");
    let (made, plan) = clock.at("2026-01-01T00:02:30Z");
    assert_eq!(made, named(2));
    assert_eq!(reasons(&plan), ["SawCompletedJob"]);
    let last = plan.status.last_successful_time.unwrap();
    assert_eq!(last.0.to_string(), "2026-01-01T00:02:30Z");
}

#[test]
fn of_missed_starts_only_the_last_is_made_up_for() {
    let mut clock = Clock::new(json!({}));
    let (made, plan) = clock.at("2026-01-01T00:10:20Z");
    assert_eq!((made, reasons(&plan).len()), (named(10), 0));
    let (made, plan) = clock.at("2026-01-03T00:00:20Z");
    assert_eq!(made, named(2 * 24 * 60));
    assert_eq!(reasons(&plan), ["TooManyMissedTimes"]);
}

#[test]
fn a_start_that_is_too_late_is_left_out() {
    let mut clock = Clock::new(json!({"schedule": "0 * * * *", "startingDeadlineSeconds": 60}));
    assert_eq!(clock.at("2026-01-01T01:01:00Z").0, None);
    assert_eq!(clock.at("2026-01-01T02:00:59Z").0, named(120));
}

#[test]
fn a_suspended_one_starts_nothing_and_has_no_timer() {
    let mut clock = Clock::new(json!({"suspend": true}));
    let (made, plan) = clock.at("2026-01-01T00:05:00Z");
    assert_eq!((made, plan.look_again), (None, None));
}

#[test]
fn the_history_is_kept_within_its_limits() {
    let mut clock = Clock::new(json!({"successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 0}));
    for minute in 1..=4 {
        let now = format!("2026-01-01T00:0{minute}:00.1Z");
        let name = clock.at(&now).0.unwrap();
        clock.end(&name, if minute == 2 { "Failed" } else { "Complete" }, &now);
    }
    clock.at("2026-01-01T00:04:30Z");
    let names: Vec<_> = clock.jobs.iter().map(|job| job.metadata.name.clone()).collect();
    assert_eq!(names, [named(3), named(4)]);
    assert!(clock.active().is_empty());
}

#[test]
fn a_job_that_is_gone_is_not_active_and_a_stranger_is_told_of() {
    let mut clock = Clock::new(json!({}));
    clock.at("2026-01-01T00:01:00.1Z");
    let job = clock.jobs.pop().unwrap();
    let (_, plan) = clock.at("2026-01-01T00:01:10Z");
    assert_eq!(reasons(&plan), ["MissingJob"]);
    assert!(clock.active().is_empty());
    clock.jobs.push(job);
    assert_eq!(reasons(&clock.at("2026-01-01T00:01:20Z").1), ["UnexpectedJob"]);
}

#[test]
fn schedules_have_time_zones() {
    let mut clock = Clock::new(json!({"schedule": "0 9 * * *", "timeZone": "Asia/Tokyo"}));
    assert_eq!(clock.at("2026-01-01T00:00:40Z").0, None);
    let (_, plan) = clock.at("2026-01-01T23:59:00Z");
    assert_eq!(plan.look_again, Some(Duration::from_millis(60_100)));
    clock.at("2026-01-02T00:00:01Z");
    let annotations = clock.jobs[0].metadata.annotations.clone().unwrap();
    assert_eq!(
        annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"],
        "2026-01-02T09:00:00+09:00"
    );
    for (spec, reason) in [
        (json!({"timeZone": "Nowhere/Land"}), "UnknownTimeZone"),
        (json!({"schedule": "TZ=UTC * * * * *"}), "UnsupportedSchedule"),
        (json!({"schedule": "* * *"}), "UnparseableSchedule"),
        (json!({"schedule": "59 23 31 2 *"}), "InvalidSchedule"),
    ] {
        let (_, plan) = Clock::new(spec).at("2026-01-01T00:00:40Z");
        assert_eq!(reasons(&plan), [reason]);
    }
}

#[test]
fn a_clock_that_was_set_back_starts_nothing_twice() {
    let mut clock = Clock::new(json!({}));
    clock.at("2026-01-01T00:05:00.1Z");
    let (made, plan) = clock.at("2026-01-01T00:01:30Z");
    assert_eq!((made, plan.look_again), (None, Some(Duration::from_millis(270_100))));
}
