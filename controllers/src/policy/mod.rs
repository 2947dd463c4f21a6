//! What limits and sizes workloads by rules of people: disruption budgets, autoscalers, quotas.
//! It reads pods, their owners' scales and what they use; it starts and ends no pod itself, and knows no kind of owner
//! but by its scale.
//! What cannot be counted allows nothing: a budget without a count permits no disruption, an autoscaler without
//! metrics changes no scale.

pub mod autoscaler;
pub mod disruption;
pub mod quota;
pub mod scale;

use crate::Error;

/// An error as conditions and events tell it.
fn said(error: &Error) -> String {
    match error {
        Error::Api(kube::Error::Api(status)) => status.message.clone(),
        other => daemon::chain(other),
    }
}
