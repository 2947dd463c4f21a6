//! How fast a scale may follow what is asked for: windows of stabilisation and policies of pace, over what was asked for
//! and done lately. Pure. Follows pkg/controller/podautoscaler/horizontal.go (1.36).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// Where the autoscaler says nothing.
const CALM: Duration = Duration::from_secs(300);

/// What was asked for and done lately. Kept in memory: after a restart windows begin anew, as upstream's do.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    recommendations: Vec<(Timestamp, i32)>,
    ups: Vec<(Timestamp, i32)>,
    downs: Vec<(Timestamp, i32)>,
}

/// The longest period that any policy may look back.
const LONGEST: Duration = Duration::from_secs(3600);

impl History {
    /// The first thing that is known of a scale is what it is.
    pub(super) fn begin(&mut self, now: Timestamp, replicas: i32) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, replicas));
        }
    }

    pub(super) fn scaled(&mut self, now: Timestamp, from: i32, to: i32) {
        let (list, by) = if to > from {
            (&mut self.ups, to - from)
        } else {
            (&mut self.downs, from - to)
        };
        list.push((now, by));
    }

    fn recommend(&mut self, now: Timestamp, replicas: i32) {
        let young = |list: &mut Vec<(Timestamp, i32)>| list.retain(|(at, _)| *at + LONGEST > now);
        young(&mut self.recommendations);
        young(&mut self.ups);
        young(&mut self.downs);
        self.recommendations.push((now, replicas));
    }

    fn since(&self, start: Timestamp) -> impl Iterator<Item = i32> {
        let recent = self.recommendations.iter().filter(move |(at, _)| *at > start);
        recent.map(|(_, replicas)| *replicas)
    }
}

/// A condition's status, reason and message.
pub(super) type Said = (&'static str, &'static str, &'static str);

/// What comes of a recommendation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limited {
    pub(super) replicas: i32,
    /// The condition AbleToScale.
    pub(super) able: Said,
    /// The condition ScalingLimited.
    pub(super) limited: Said,
}

/// Between which numbers the scale stays.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) min: i32,
    pub(super) max: i32,
}

const READY: Said = ("True", "ReadyForNewScale", "recommended size matches current size");
const WAS_HIGHER: Said = (
    "True",
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const WAS_LOWER: Said = (
    "True",
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);

pub(super) fn limit(
    behavior: Option<&HorizontalPodAutoscalerBehavior>,
    history: &mut History,
    current: i32,
    wanted: i32,
    range: Range,
    now: Timestamp,
) -> Limited {
    let (stable, able) = match behavior {
        None => {
            let highest = history.since(now - CALM).max().unwrap_or(wanted).max(wanted);
            (highest, WAS_HIGHER)
        }
        Some(behavior) => stabilized(behavior, history, current, wanted, now),
    };
    history.recommend(now, wanted);
    let able = if stable == wanted { READY } else { able };
    let (replicas, reason, message) = match behavior {
        None => plain(current, stable, range),
        Some(behavior) => paced(behavior, history, current, stable, range, now),
    };
    let limited = if replicas == stable { "False" } else { "True" };
    Limited {
        replicas,
        able,
        limited: (limited, reason, message),
    }
}

fn window(rules: Option<&HPAScalingRules>, default: Duration) -> Duration {
    let seconds = rules.and_then(|rules| rules.stabilization_window_seconds);
    seconds.map_or(default, |seconds| {
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    })
}

/// The lowest that was asked for in the window of going up, the highest in that of going down, and nothing between.
fn stabilized(
    behavior: &HorizontalPodAutoscalerBehavior,
    history: &History,
    current: i32,
    wanted: i32,
    now: Timestamp,
) -> (i32, Said) {
    let up = now - window(behavior.scale_up.as_ref(), Duration::ZERO);
    let down = now - window(behavior.scale_down.as_ref(), CALM);
    let lowest = history.since(up).min().unwrap_or(wanted).min(wanted);
    let highest = history.since(down).max().unwrap_or(wanted).max(wanted);
    let mut stable = current;
    stable = stable.max(lowest);
    stable = stable.min(highest);
    (stable, if wanted >= current { WAS_LOWER } else { WAS_HIGHER })
}

type Bounded = (i32, &'static str, &'static str);

const TOO_MANY: (&str, &str) = (
    "TooManyReplicas",
    "the desired replica count is more than the maximum replica count",
);
const TOO_FEW: (&str, &str) = (
    "TooFewReplicas",
    "the desired replica count is less than the minimum replica count",
);
const TOO_FAST_UP: (&str, &str) = (
    "ScaleUpLimit",
    "the desired replica count is increasing faster than the maximum scale rate",
);
const TOO_FAST_DOWN: (&str, &str) = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);
const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");

fn said(replicas: i32, (reason, message): (&'static str, &'static str)) -> Bounded {
    (replicas, reason, message)
}

/// Without a behaviour: at most twice as many at a time, and four at least.
fn plain(current: i32, wanted: i32, range: Range) -> Bounded {
    let pace = current.saturating_mul(2).max(4);
    let (most, why) = if pace < range.max {
        (pace, TOO_FAST_UP)
    } else {
        (range.max, TOO_MANY)
    };
    if wanted < range.min {
        said(range.min, TOO_FEW)
    } else if wanted > most {
        said(most, why)
    } else {
        said(wanted, WITHIN)
    }
}

fn paced(
    behavior: &HorizontalPodAutoscalerBehavior,
    history: &History,
    current: i32,
    wanted: i32,
    range: Range,
    now: Timestamp,
) -> Bounded {
    if wanted > current {
        let pace = furthest(behavior.scale_up.as_ref(), history, current, now, true).max(current);
        let (most, why) = if range.max > pace {
            (pace, TOO_FAST_UP)
        } else {
            (range.max, TOO_MANY)
        };
        if wanted > most {
            return said(most, why);
        }
    } else if wanted < current {
        let pace = furthest(behavior.scale_down.as_ref(), history, current, now, false).min(current);
        let (least, why) = if range.min < pace {
            (pace, TOO_FAST_DOWN)
        } else {
            (range.min, TOO_FEW)
        };
        if wanted < least {
            return said(least, why);
        }
    }
    said(wanted, WITHIN)
}

/// How far the policies let the scale go now in one direction.
#[allow(
    clippy::cast_possible_truncation,
    reason = "counts of pods, and a cast that saturates"
)]
fn furthest(rules: Option<&HPAScalingRules>, history: &History, current: i32, now: Timestamp, up: bool) -> i32 {
    let Some(rules) = rules else {
        return if up { i32::MAX } else { 0 };
    };
    let select = rules.select_policy.as_deref().unwrap_or("Max");
    if select == "Disabled" {
        return current;
    }
    let lately = |list: &[(Timestamp, i32)], seconds: i32| -> i32 {
        let start = now - Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        list.iter().filter(|(at, _)| *at > start).map(|(_, by)| by).sum()
    };
    let proposals = rules.policies.iter().flatten().map(|policy| {
        let added = lately(&history.ups, policy.period_seconds);
        let removed = lately(&history.downs, policy.period_seconds);
        let start = current - added + removed;
        let share = f64::from(policy.value) / 100.0;
        match (policy.type_.as_str(), up) {
            ("Pods", true) => start.saturating_add(policy.value),
            ("Pods", false) => start.saturating_sub(policy.value),
            (_, true) => (f64::from(start) * (1.0 + share)).ceil() as i32,
            (_, false) => (f64::from(start) * (1.0 - share)) as i32,
        }
    });
    // The policy that changes most, or the one that changes least.
    let found = if (select == "Min") == up {
        proposals.min()
    } else {
        proposals.max()
    };
    found.unwrap_or(current)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const RANGE: Range = Range { min: 1, max: 20 };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn behavior(value: Value) -> HorizontalPodAutoscalerBehavior {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn without_a_behaviour_going_down_waits_for_five_minutes_and_going_up_doubles() {
        let mut history = History::default();
        history.begin(at(0), 3);
        let mut to = |current, wanted, time| limit(None, &mut history, current, wanted, RANGE, at(time));
        let up = to(3, 15, 1);
        assert_eq!((up.replicas, up.limited.1), (6, "ScaleUpLimit"));
        let down = to(6, 2, 20);
        assert_eq!((down.replicas, down.able.1), (12, "ScaleDownStabilized"));
        assert_eq!(to(6, 2, 302).replicas, 2);
        assert_eq!(to(2, 0, 700).limited.1, "TooFewReplicas");
        assert_eq!(to(18, 30, 1400).limited.1, "TooManyReplicas");
    }

    #[test]
    fn windows_hold_back_each_direction() {
        let rules = behavior(json!({
            "scaleUp": {"stabilizationWindowSeconds": 60, "policies": [{"type": "Pods", "value": 100, "periodSeconds": 15}]},
            "scaleDown": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]},
        }));
        let mut history = History::default();
        history.begin(at(0), 2);
        let mut to = |current, wanted, time| limit(Some(&rules), &mut history, current, wanted, RANGE, at(time));
        let up = to(2, 10, 10);
        assert_eq!((up.replicas, up.able.1), (2, "ScaleUpStabilized"));
        assert_eq!(to(2, 10, 61).replicas, 10);
        assert_eq!(to(10, 3, 62).replicas, 3);
    }

    #[test]
    fn policies_set_the_pace() {
        let up = |select: &str| {
            behavior(
                json!({"scaleUp": {"selectPolicy": select, "stabilizationWindowSeconds": 0, "policies": [
                {"type": "Pods", "value": 4, "periodSeconds": 60}, {"type": "Percent", "value": 10, "periodSeconds": 60}]}}),
            )
        };
        let mut history = History::default();
        let to = |rules: &HorizontalPodAutoscalerBehavior, history: &mut History, time| {
            limit(Some(rules), history, 10, 20, RANGE, at(time)).replicas
        };
        assert_eq!(to(&up("Max"), &mut history, 0), 14);
        assert_eq!(to(&up("Min"), &mut history, 0), 11);
        assert_eq!(to(&up("Disabled"), &mut history, 0), 10);
        // Three of the four were used within the minute, and count no more after it.
        history.scaled(at(10), 7, 10);
        assert_eq!(to(&up("Max"), &mut history, 20), 11);
        assert_eq!(to(&up("Max"), &mut history, 71), 14);
        let down = behavior(json!({"scaleDown": {"stabilizationWindowSeconds": 0, "policies": [
            {"type": "Percent", "value": 25, "periodSeconds": 60}]}}));
        let slow = limit(Some(&down), &mut History::default(), 10, 1, RANGE, at(200));
        assert_eq!((slow.replicas, slow.limited.1), (7, "ScaleDownLimit"));
    }
}
