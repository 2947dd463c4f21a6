//! Conditions: set by type, with one rule for `lastTransitionTime`: it moves when, and only when, the status changes.

use k8s_openapi::api::apps::v1::{DaemonSetCondition, DeploymentCondition, ReplicaSetCondition, StatefulSetCondition};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition;
use k8s_openapi::api::batch::v1::JobCondition;
use k8s_openapi::api::core::v1::{NamespaceCondition, NodeCondition, PersistentVolumeClaimCondition, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// A condition of any kind of object.
pub trait Conditional {
    /// Its type, unique within the list.
    fn kind(&self) -> &str;
    /// `True`, `False` or `Unknown`.
    fn status(&self) -> &str;
    /// When the status last changed, if that is recorded.
    fn transition(&mut self) -> &mut Option<Time>;
    /// Whether everything but times is the same.
    fn same(&self, other: &Self) -> bool;
}

macro_rules! conditional {
    ($($ty:ty),*) => {$(
        impl Conditional for $ty {
            fn kind(&self) -> &str { &self.type_ }
            fn status(&self) -> &str { &self.status }
            fn transition(&mut self) -> &mut Option<Time> { &mut self.last_transition_time }
            fn same(&self, other: &Self) -> bool {
                self.type_ == other.type_ && self.status == other.status && self.reason == other.reason && self.message == other.message
            }
        }
    )*};
}
conditional!(
    PodCondition,
    NodeCondition,
    NamespaceCondition,
    PersistentVolumeClaimCondition,
    DeploymentCondition,
    ReplicaSetCondition,
    StatefulSetCondition,
    DaemonSetCondition,
    JobCondition,
    HorizontalPodAutoscalerCondition
);

/// Puts a condition into the list. An unset transition time becomes `now` where the status changed, and stays what it was where not.
/// Says whether anything but heart-beats changed.
pub fn set<C: Conditional>(conditions: &mut Vec<C>, mut condition: C, now: &Time) -> bool {
    match conditions.iter_mut().find(|c| c.kind() == condition.kind()) {
        Some(old) => {
            if old.status() == condition.status() {
                *condition.transition() = old.transition().clone();
            }
            condition.transition().get_or_insert_with(|| now.clone());
            let changed = !old.same(&condition);
            *old = condition;
            changed
        }
        None => {
            condition.transition().get_or_insert_with(|| now.clone());
            conditions.push(condition);
            true
        }
    }
}

/// The same for the generic condition, whose transition time is not optional.
pub fn set_generic(conditions: &mut Vec<Condition>, mut condition: Condition) -> bool {
    match conditions.iter_mut().find(|c| c.type_ == condition.type_) {
        Some(old) => {
            if old.status == condition.status {
                condition.last_transition_time = old.last_transition_time.clone();
            }
            let changed = *old != condition;
            *old = condition;
            changed
        }
        None => {
            conditions.push(condition);
            true
        }
    }
}

/// The condition of a type.
pub fn find<'a, C: Conditional>(conditions: Option<&'a [C]>, kind: &str) -> Option<&'a C> {
    conditions.unwrap_or_default().iter().find(|c| c.kind() == kind)
}

/// Whether the condition of a type has a status.
pub fn is<C: Conditional>(conditions: Option<&[C]>, kind: &str, status: &str) -> bool {
    find(conditions, kind).is_some_and(|c| c.status() == status)
}

/// Removes the condition of a type; says whether it was there.
pub fn remove<C: Conditional>(conditions: &mut Vec<C>, kind: &str) -> bool {
    let before = conditions.len();
    conditions.retain(|c| c.kind() != kind);
    conditions.len() != before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Time {
        serde_json::from_value(serde_json::json!(text)).unwrap()
    }

    fn ready(status: &str, reason: &str) -> PodCondition {
        PodCondition {
            type_: "Ready".into(),
            status: status.into(),
            reason: Some(reason.into()),
            ..Default::default()
        }
    }

    #[test]
    fn the_transition_time_moves_with_the_status_alone() {
        let (t0, t1) = (at("2024-01-01T00:00:00Z"), at("2024-01-01T00:00:01Z"));
        let mut all = Vec::new();
        assert!(set(&mut all, ready("False", "a"), &t0));
        assert!(!set(&mut all, ready("False", "a"), &t1));
        assert!(set(&mut all, ready("False", "b"), &t1));
        assert_eq!(all[0].last_transition_time, Some(t0));
        assert!(set(&mut all, ready("True", "b"), &t1));
        assert_eq!(all[0].last_transition_time, Some(t1));
        assert!(is(Some(&all), "Ready", "True") && !is(Some(&all), "Other", "True"));
        assert!(remove(&mut all, "Ready") && all.is_empty());
    }
}
