//! What a CronJob does next, from what is there. Upstream: cronjob/{cronjob_controllerv2,utils}.go (1.36).

use std::sync::Arc;
use std::time::Duration;

use api::condition;
use api::cron::{self, Schedule};
use api::names::well_known::CRON_JOB_SCHEDULED;
use api::owner::controller_reference;
use daemon::events::EventType;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

/// A timer that ends a little late finds the time come; one that ends early would find nothing.
const SLACK: Duration = Duration::from_millis(100);
/// More starts missed than this are worth a warning.
const MANY: i64 = 100;

/// What one reconciliation looks at.
#[derive(Debug)]
pub(super) struct Observed<'a> {
    pub(super) cron: &'a CronJob,
    /// All Jobs of it that the lister shows.
    pub(super) jobs: &'a [Arc<Job>],
    /// UIDs of active Jobs that the lister does not show but the server has.
    pub(super) unseen: &'a [String],
    /// The zone of schedules that name none.
    pub(super) zone: &'a TimeZone,
    pub(super) now: Timestamp,
}

/// An event to publish: how loud, the reason, the text.
type Said = (EventType, &'static str, String);

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: CronJobStatus,
    /// Jobs that ended long ago.
    pub(super) clean: Vec<Arc<Job>>,
    /// Active Jobs that give way to the next.
    pub(super) replace: Vec<ObjectReference>,
    /// The Job to make, and the time that it is for.
    pub(super) create: Option<(Job, Timestamp)>,
    pub(super) events: Vec<Said>,
    pub(super) look_again: Option<Duration>,
}

fn uid(metadata: &ObjectMeta) -> &str {
    metadata.uid.as_deref().unwrap_or_default()
}

fn name(metadata: &ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

/// How the Job ended, if it did.
fn end(job: &Job) -> Option<&'static str> {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref());
    let is = |kind: &str| condition::is(conditions, kind, "True");
    if is("Complete") {
        Some("Complete")
    } else if is("Failed") {
        Some("Failed")
    } else {
        None
    }
}

pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let Observed { cron, jobs, .. } = observed;
    let spec = &cron.spec;
    let mut plan = Plan {
        status: cron.status.clone().unwrap_or_default(),
        ..Plan::default()
    };
    plan.clean_up(spec, jobs);
    plan.look_at(jobs, observed.unseen);
    if cron.metadata.deletion_timestamp.is_none() && spec.suspend != Some(true) {
        plan.run(observed, spec);
    }
    plan.status.active = plan.status.active.filter(|active| !active.is_empty());
    plan
}

impl Plan {
    fn say(&mut self, kind: EventType, reason: &'static str, text: String) {
        self.events.push((kind, reason, text));
    }

    fn is_active(&self, uid: &str) -> bool {
        let mut active = self.status.active.iter().flatten();
        active.any(|job| job.uid.as_deref() == Some(uid))
    }

    fn forget(&mut self, uid: &str) {
        if let Some(active) = &mut self.status.active {
            active.retain(|job| job.uid.as_deref() != Some(uid));
        }
    }

    /// Ended Jobs beyond the history that is to be kept, the oldest first.
    fn clean_up(&mut self, spec: &CronJobSpec, jobs: &[Arc<Job>]) {
        for (kind, limit) in [
            ("Complete", spec.successful_jobs_history_limit),
            ("Failed", spec.failed_jobs_history_limit),
        ] {
            let Some(limit) = limit else { continue };
            let mut ended: Vec<_> = jobs.iter().filter(|job| end(job) == Some(kind)).cloned().collect();
            ended.sort_by_key(|job| {
                let started = job.status.as_ref().and_then(|status| status.start_time.as_ref());
                let started = started.map(|time| time.0);
                (started.is_none(), started, job.metadata.name.clone())
            });
            let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            for job in ended.drain(..surplus) {
                self.forget(uid(&job.metadata));
                if job.metadata.deletion_timestamp.is_none() {
                    self.clean.push(job);
                }
            }
        }
    }

    /// Brings the list of active Jobs in line with what they say.
    fn look_at(&mut self, jobs: &[Arc<Job>], unseen: &[String]) {
        for job in jobs {
            let active = self.is_active(uid(&job.metadata));
            match end(job) {
                None if !active => {
                    let name = name(&job.metadata);
                    let text = format!("Saw a job that the controller did not create or forgot: {name}");
                    self.say(EventType::Warning, "UnexpectedJob", text);
                }
                None => {}
                Some(how) => {
                    if active {
                        self.forget(uid(&job.metadata));
                        let name = name(&job.metadata);
                        let text = format!("Saw completed job: {name}, condition: {how}");
                        self.say(EventType::Normal, "SawCompletedJob", text);
                    }
                    let at = job.status.as_ref().and_then(|status| status.completion_time.clone());
                    let last = &mut self.status.last_successful_time;
                    if how == "Complete" && at.as_ref().map(|at| at.0) > last.as_ref().map(|last| last.0) {
                        *last = at;
                    }
                }
            }
        }
        let there = |job: &ObjectReference| {
            let uid = job.uid.as_deref().unwrap_or_default();
            jobs.iter().any(|job| job.metadata.uid.as_deref() == Some(uid)) || unseen.iter().any(|other| other == uid)
        };
        let (active, missing): (Vec<_>, Vec<_>) = self
            .status
            .active
            .take()
            .unwrap_or_default()
            .into_iter()
            .partition(there);
        self.status.active = Some(active);
        for job in missing {
            let text = format!("Active job went missing: {}", job.name.unwrap_or_default());
            self.say(EventType::Normal, "MissingJob", text);
        }
    }

    /// Starts what is due, and says when to look again.
    fn run(&mut self, observed: &Observed<'_>, spec: &CronJobSpec) {
        let (cron, now) = (observed.cron, observed.now);
        let (zone, schedule) = match read(spec, observed.zone) {
            Ok(read) => read,
            Err((reason, text)) => return self.say(EventType::Warning, reason, text),
        };
        if spec.schedule.contains("TZ") {
            let text = format!(
                "CRON_TZ or TZ used in schedule {:?} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
                spec.schedule
            );
            self.say(EventType::Warning, "UnsupportedSchedule", text);
        }
        let last = self.status.last_schedule_time.as_ref().map(|time| time.0);
        let since = last
            .or(cron.metadata.creation_timestamp.as_ref().map(|time| time.0))
            .unwrap_or(now);
        // What lies before the deadline is not looked at: there may be very much of it.
        let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
        let oldest = deadline
            .and_then(|deadline| now.checked_sub(deadline).ok())
            .unwrap_or(since);
        let due = match due(&schedule, &zone, since.max(oldest), now) {
            Ok(due) => due,
            Err(why) => {
                let text = format!("invalid schedule schedule: {} : {why}", spec.schedule);
                return self.say(EventType::Warning, "InvalidSchedule", text);
            }
        };
        self.look_again = next(&schedule, &zone, since, now);
        if due.missed > MANY {
            let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.say(EventType::Warning, "TooManyMissedTimes", text.to_owned());
        }
        let Some(time) = due.last else { return };
        if deadline.is_some_and(|deadline| time + deadline < now) {
            let text = format!(
                "Missed scheduled time to start a job: {}",
                time.strftime("%a, %d %b %Y %H:%M:%S +0000")
            );
            return self.say(EventType::Warning, "MissSchedule", text);
        }
        let job = new_job(cron, spec, time, &zone);
        let mut active = self.status.active.iter().flatten();
        if last == Some(time) || active.any(|other| other.name == job.metadata.name) {
            return;
        }
        let running = self.status.active.clone().unwrap_or_default();
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if !running.is_empty() => {
                let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
                return self.say(EventType::Normal, "JobAlreadyActive", text.to_owned());
            }
            Some("Replace") => {
                self.replace = running;
                self.status.active = None;
            }
            _ => {}
        }
        self.create = Some((job, time));
    }

    /// The Job was made, or was there already.
    pub(super) fn started(&mut self, job: ObjectReference, time: Timestamp) {
        self.status.active.get_or_insert_default().push(job);
        self.status.last_schedule_time = Some(Time(time));
    }
}

/// The time zone and the schedule, or the event that says what is wrong with them.
fn read(spec: &CronJobSpec, local: &TimeZone) -> Result<(TimeZone, Schedule), (&'static str, String)> {
    let named = |name: &str| {
        TimeZone::get(name).map_err(|error| ("UnknownTimeZone", format!("invalid timeZone: {name:?}: {error}")))
    };
    let text = spec.schedule.trim();
    // From before there was a field for it.
    let prefixed = text.strip_prefix("CRON_TZ=").or_else(|| text.strip_prefix("TZ="));
    let (zone, text) = match (&spec.time_zone, prefixed.and_then(|rest| rest.split_once(' '))) {
        (Some(name), _) => (named(name)?, text),
        (None, Some((name, rest))) => (named(name)?, rest),
        (None, None) => (local.clone(), text),
    };
    let unreadable = |why| {
        (
            "UnparseableSchedule",
            format!("unparseable schedule: {:?} : {why}", spec.schedule),
        )
    };
    Ok((zone, cron::parse(text).map_err(unreadable)?))
}

/// What has come since a time.
#[derive(Debug, Default, PartialEq)]
struct Due {
    /// The last scheduled time that is not in the future.
    last: Option<Timestamp>,
    /// About how many have come besides.
    missed: i64,
}

fn due(schedule: &Schedule, zone: &TimeZone, since: Timestamp, now: Timestamp) -> Result<Due, &'static str> {
    const NEVER: &str = "time difference between two schedules is less than 1 second";
    let first = schedule.next(since, zone).ok_or(NEVER)?;
    let second = schedule.next(first, zone).ok_or(NEVER)?;
    if now < first {
        return Ok(Due::default());
    }
    if now < second {
        return Ok(Due {
            last: Some(first),
            missed: 0,
        });
    }
    // Counted by the first interval, so that years of minutes are not gone through one by one; then exactly, from two
    // intervals before, because intervals differ.
    let between = second.as_second() - first.as_second();
    let missed = (now.as_second() - first.as_second()) / between + 1;
    let near = Timestamp::from_second(first.as_second() + (missed - 2) * between).unwrap_or(first);
    let mut due = Due { last: None, missed };
    let mut time = schedule.next(near, zone);
    while let Some(at) = time.filter(|at| *at <= now) {
        due.last = Some(at);
        time = schedule.next(at, zone);
    }
    Ok(due)
}

/// How long until the next scheduled time.
fn next(schedule: &Schedule, zone: &TimeZone, since: Timestamp, now: Timestamp) -> Option<Duration> {
    let last = due(schedule, zone, since, now).map_or(now, |due| due.last.unwrap_or(since));
    let next = schedule.next(last, zone)?;
    // A schedule with unequal intervals may have had its next time already.
    let next = if next > now { next } else { schedule.next(now, zone)? };
    Some(Duration::try_from(next.duration_since(now)).unwrap_or_default() + SLACK)
}

/// The Job for a scheduled time: its name says the minute, so that there is only one.
fn new_job(cron: &CronJob, spec: &CronJobSpec, time: Timestamp, zone: &TimeZone) -> Job {
    let template = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = template.annotations.unwrap_or_default();
    let stamp = time.to_zoned(zone.clone());
    let offset = if stamp.offset().is_zero() { "Z" } else { "%:z" };
    let stamp = stamp.strftime(&format!("%Y-%m-%dT%H:%M:%S{offset}")).to_string();
    annotations.insert(CRON_JOB_SCHEDULED.to_owned(), stamp);
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", name(&cron.metadata), time.as_second() / 60)),
            namespace: cron.metadata.namespace.clone(),
            labels: template.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron)]),
            ..Default::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
