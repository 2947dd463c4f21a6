use super::{Check, Filter, MAX_SCORE, Rating, Score};
use crate::cluster::{Cluster, Node};
use crate::pod::Pod;

/// What is left of the node must do for the pod.
#[derive(Debug)]
pub(super) struct Fit;

impl Filter for Fit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }
    fn prepare<'a>(&self, pod: &'a Pod, _: &'a Cluster) -> Option<Check<'a>> {
        Some(Box::new(|node| {
            if node.pods + 1 > node.max_pods {
                return Some("Too many pods".into());
            }
            let (want, have, taken) = (&pod.requests, &node.allocatable, &node.taken);
            let short = |want: i64, have: i64, taken: i64| want > 0 && want > have - taken;
            if short(want.cpu, have.cpu, taken.cpu) {
                return Some("Insufficient cpu".into());
            }
            if short(want.memory, have.memory, taken.memory) {
                return Some("Insufficient memory".into());
            }
            if short(want.ephemeral, have.ephemeral, taken.ephemeral) {
                return Some("Insufficient ephemeral-storage".into());
            }
            want.other.iter().find_map(|(name, want)| {
                let amount = |of: &crate::pod::Amounts| of.other.get(name).copied().unwrap_or(0);
                short(*want, amount(have), amount(taken)).then(|| format!("Insufficient {name}").into())
            })
        }))
    }
}

/// The emptier the node, the better.
#[derive(Debug)]
pub(super) struct LeastAllocated;

impl Score for LeastAllocated {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }
    fn prepare<'a>(&self, pod: &'a Pod, _: &'a Cluster) -> Option<Rating<'a>> {
        Some(Box::new(|node| {
            let free = |taken: i64, have: i64| {
                if have == 0 || taken > have {
                    0
                } else {
                    (have - taken) * MAX_SCORE / have
                }
            };
            let cpu = free(node.assumed.cpu + pod.assumed.cpu, node.allocatable.cpu);
            let memory = free(node.assumed.memory + pod.assumed.memory, node.allocatable.memory);
            (cpu + memory) / 2
        }))
    }
}

/// The more alike the shares of CPU and memory that are taken, the better.
#[derive(Debug)]
pub(super) struct BalancedAllocation;

impl Score for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }
    fn prepare<'a>(&self, pod: &'a Pod, _: &'a Cluster) -> Option<Rating<'a>> {
        // A pod that takes nothing changes no balance.
        if pod.is_best_effort() {
            return None;
        }
        Some(Box::new(|node: &Node| {
            let share = |taken: i64, have: i64| {
                if have == 0 {
                    1.0
                } else {
                    (taken as f64 / have as f64).min(1.0)
                }
            };
            let cpu = share(node.taken.cpu + pod.requests.cpu, node.allocatable.cpu);
            let memory = share(node.taken.memory + pod.requests.memory, node.allocatable.memory);
            // With two shares the standard deviation is half their difference.
            ((1.0 - (cpu - memory).abs() / 2.0) * MAX_SCORE as f64) as i64
        }))
    }
}
