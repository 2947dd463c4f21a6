//! How many replicas what the pods use asks for. Pure. Follows pkg/controller/podautoscaler/replica_calculator.go (1.36).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

/// A pod that is this young may use much to start.
const WARM_UP: Duration = Duration::from_secs(300);
/// A pod that was not ready since so soon after its start was never ready.
const FIRST_READINESS: Duration = Duration::from_secs(30);

/// What one pod was measured to use, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) value: i64,
    pub(super) at: Timestamp,
    pub(super) window: Duration,
}

/// By pod.
pub(super) type Samples = BTreeMap<String, Sample>;

/// How far from the goal nothing is changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tolerances {
    pub(super) down: f64,
    pub(super) up: f64,
}

impl Tolerances {
    fn hold(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// What the pods should use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// This share of what they request, in percent.
    Share(i32),
    /// This much each, in thousandths.
    Each(i64),
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) replicas: i32,
    /// In percent of the requests, where that is the goal.
    pub(super) share: Option<i32>,
    /// Of a pod on average, in thousandths.
    pub(super) each: i64,
}

/// What a measurement is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) resource: &'a str,
    /// One container of each pod, or all.
    pub(super) container: Option<&'a str>,
}

/// The pods by what their samples are worth.
#[derive(Debug, Default, PartialEq)]
struct Groups {
    ready: usize,
    /// Their samples say nothing yet.
    unready: HashSet<String>,
    /// They have none.
    missing: HashSet<String>,
    /// They are ending.
    ignored: HashSet<String>,
}

fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

fn groups(pods: &[Arc<Pod>], samples: &Samples, subject: Subject<'_>, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let key = name(pod);
        let phase = api::pod::phase(pod);
        if api::pod::is_deleting(pod) || phase == "Failed" {
            groups.ignored.insert(key);
        } else if phase == "Pending" {
            groups.unready.insert(key);
        } else if let Some(sample) = samples.get(&key) {
            if subject.resource == "cpu" && is_warming(pod, sample, now) {
                groups.unready.insert(key);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.insert(key);
        }
    }
    groups
}

/// Whether what the pod uses is what starting takes.
fn is_warming(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let status = pod.status.as_ref();
    let ready = api::condition::find(status.and_then(|status| status.conditions.as_deref()), "Ready");
    let started = status.and_then(|status| status.start_time.as_ref());
    let (Some(ready), Some(started)) = (ready, started) else {
        return true;
    };
    let changed = ready.last_transition_time.as_ref().map_or(started.0, |time| time.0);
    if started.0 + WARM_UP > now {
        ready.status == "False" || sample.at < changed + sample.window
    } else {
        ready.status == "False" && started.0 + FIRST_READINESS > changed
    }
}

/// What each pod requests of a resource, in thousandths.
fn requests(pods: &[Arc<Pod>], subject: Subject<'_>) -> Result<BTreeMap<String, i64>, String> {
    let mut requests = BTreeMap::new();
    for pod in pods {
        let Some(spec) = pod.spec.as_ref() else { continue };
        let sidecars = spec
            .init_containers
            .iter()
            .flatten()
            .filter(|it| api::pod::is_sidecar(it));
        let containers: Vec<&Container> = spec.containers.iter().chain(sidecars).collect();
        let mut sum = 0;
        for container in containers {
            if subject.container.is_some_and(|wanted| wanted != container.name) {
                continue;
            }
            let asked = container.resources.as_ref().and_then(|it| it.requests.as_ref());
            let asked = asked.and_then(|asked| asked.get(subject.resource));
            let asked = asked.and_then(|amount| api::Quantity::try_from(amount).ok());
            let Some(asked) = asked else {
                return Err(format!(
                    "missing request for {} in container {} of Pod {}",
                    subject.resource,
                    container.name,
                    name(pod)
                ));
            };
            sum += asked.as_milli();
        }
        requests.insert(name(pod), sum);
    }
    Ok(requests)
}

/// How far what is used is from the goal.
struct Ratio {
    ratio: f64,
    share: Option<i32>,
    each: i64,
}

fn ratio(values: &BTreeMap<String, i64>, requests: &BTreeMap<String, i64>, goal: Goal) -> Result<Ratio, String> {
    let count = i64::try_from(values.len()).unwrap_or(i64::MAX).max(1);
    let total: i64 = values.values().sum();
    let each = total / count;
    match goal {
        Goal::Each(goal) => Ok(Ratio {
            ratio: part(each, goal),
            share: None,
            each,
        }),
        Goal::Share(goal) => {
            let known = values.keys().filter_map(|pod| requests.get(pod));
            let asked: i64 = known.sum();
            if asked == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let total: i64 = values
                .iter()
                .filter(|(pod, _)| requests.contains_key(*pod))
                .map(|(_, value)| value)
                .sum();
            let share = i32::try_from(total * 100 / asked).unwrap_or(i32::MAX);
            Ok(Ratio {
                ratio: f64::from(share) / f64::from(goal.max(1)),
                share: Some(share),
                each,
            })
        }
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "amounts are far below what an f64 holds exactly"
)]
fn part(value: i64, of: i64) -> f64 {
    value as f64 / of.max(1) as f64
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a count of pods, and a cast that saturates"
)]
fn up(ratio: f64, pods: usize) -> i32 {
    (ratio * pods as f64).ceil() as i32
}

/// How many replicas the goal asks for.
pub(super) fn replicas(
    current: i32,
    pods: &[Arc<Pod>],
    samples: &Samples,
    subject: Subject<'_>,
    goal: Goal,
    tolerances: Tolerances,
    now: Timestamp,
) -> Result<Count, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    if samples.is_empty() {
        return Err("no metrics returned from resource metrics API".to_owned());
    }
    let groups = groups(pods, samples, subject, now);
    let mut values: BTreeMap<String, i64> = samples
        .iter()
        .filter(|(pod, _)| !groups.ignored.contains(*pod) && !groups.unready.contains(*pod))
        .map(|(pod, sample)| (pod.clone(), sample.value))
        .collect();
    if values.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let requests = match goal {
        Goal::Share(_) => requests(pods, subject)?,
        Goal::Each(_) => BTreeMap::new(),
    };
    let Ratio {
        ratio: first,
        share,
        each,
    } = ratio(&values, &requests, goal)?;
    let count = |replicas| Count { replicas, share, each };
    let unready_count = !groups.unready.is_empty() && first > 1.0;
    if !unready_count && groups.missing.is_empty() {
        if tolerances.hold(first) {
            return Ok(count(current));
        }
        return Ok(count(up(first, groups.ready)));
    }
    for pod in &groups.missing {
        if first < 1.0 {
            // Whoever says nothing may use all that it is meant to.
            let all = match goal {
                Goal::Share(goal) => requests.get(pod).copied().unwrap_or(0) * i64::from(goal.max(100)) / 100,
                Goal::Each(goal) => goal,
            };
            values.insert(pod.clone(), all);
        } else if first > 1.0 {
            values.insert(pod.clone(), 0);
        }
    }
    if unready_count {
        values.extend(groups.unready.iter().map(|pod| (pod.clone(), 0)));
    }
    let second = ratio(&values, &requests, goal)?.ratio;
    if tolerances.hold(second) || (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0) {
        return Ok(count(current));
    }
    let wanted = up(second, values.len());
    if (second < 1.0 && wanted > current) || (second > 1.0 && wanted < current) {
        return Ok(count(current));
    }
    Ok(count(wanted))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CPU: Subject<'static> = Subject {
        resource: "cpu",
        container: None,
    };
    const TENTH: Tolerances = Tolerances { down: 0.1, up: 0.1 };

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    fn pod(name: &str, phase: &str, ready: &str) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"phase": phase, "startTime": "2026-01-01T00:00:00Z", "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:10Z"}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn samples(values: &[(&str, i64)]) -> Samples {
        let sample = |value| Sample {
            value,
            at: now(),
            window: Duration::from_secs(30),
        };
        values
            .iter()
            .map(|(pod, value)| ((*pod).to_owned(), sample(*value)))
            .collect()
    }

    #[track_caller]
    fn check(pods: &[Arc<Pod>], values: &[(&str, i64)], goal: Goal, want: i32) {
        let current = i32::try_from(pods.len()).unwrap();
        let found = replicas(current, pods, &samples(values), CPU, goal, TENTH, now()).unwrap();
        assert_eq!(found.replicas, want, "{found:?}");
    }

    #[test]
    fn the_goal_is_met_by_the_right_number_of_equal_pods() {
        let pods = ["a", "b"].map(|name| pod(name, "Running", "True"));
        check(&pods, &[("a", 900), ("b", 1100)], Goal::Share(50), 4);
        check(&pods, &[("a", 100), ("b", 100)], Goal::Share(50), 1);
        check(&pods, &[("a", 520), ("b", 540)], Goal::Share(50), 2);
        check(&pods, &[("a", 700), ("b", 700)], Goal::Each(200), 7);
    }

    #[test]
    fn a_tolerance_of_ones_own_counts_for_its_direction() {
        let pods = ["a", "b"].map(|name| pod(name, "Running", "True"));
        let exact = Tolerances { down: 0.1, up: 0.0 };
        let values = samples(&[("a", 520), ("b", 520)]);
        assert_eq!(
            replicas(2, &pods, &values, CPU, Goal::Share(50), exact, now())
                .unwrap()
                .replicas,
            3
        );
    }

    #[test]
    fn silent_pods_are_taken_at_their_best_for_going_on_as_before() {
        let pods = ["a", "b", "c"].map(|name| pod(name, "Running", "True"));
        // Up: the silent one uses nothing; down: all that it may.
        check(&pods, &[("a", 1000), ("b", 1000)], Goal::Share(50), 4);
        check(&pods, &[("a", 100), ("b", 100)], Goal::Share(50), 3);
    }

    #[test]
    fn pods_that_start_do_not_drive_the_scale() {
        let pods = [pod("a", "Running", "True"), pod("b", "Pending", "False")];
        check(&pods, &[("a", 1000), ("b", 9000)], Goal::Share(50), 2);
        let unready = [pod("a", "Running", "True"), pod("b", "Running", "False")];
        check(&unready, &[("a", 1500), ("b", 9000)], Goal::Share(50), 3);
    }

    #[test]
    fn what_cannot_be_counted_is_said() {
        let pods = [pod("a", "Running", "True")];
        let fails = |pods: &[Arc<Pod>], values: &[(&str, i64)]| {
            replicas(1, pods, &samples(values), CPU, Goal::Share(50), TENTH, now()).unwrap_err()
        };
        assert_eq!(fails(&pods, &[]), "no metrics returned from resource metrics API");
        let mut silent = (*pods[0]).clone();
        silent.spec.as_mut().unwrap().containers[0].resources = None;
        let missing = fails(&[Arc::new(silent)], &[("a", 1)]);
        assert_eq!(missing, "missing request for cpu in container c of Pod a");
    }
}
