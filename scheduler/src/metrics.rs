//! The scheduler's metrics, under upstream's names.

use std::time::Duration;

use daemon::metrics::{Histogram, LATENCIES, Registry};

use crate::queue::Sizes;

/// Attempts, not seconds.
const ATTEMPTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0];
const DECISIONS: &[f64] = &[
    0.00001, 0.0001, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512,
];
const VICTIMS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
const WAITS: &[f64] = &[0.01, 0.05, 0.25, 1.0, 2.5, 10.0, 60.0, 300.0, 1800.0];

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    Scheduled,
    Unschedulable,
    Error,
}

impl Attempt {
    const fn as_str(self) -> &'static str {
        match self {
            Attempt::Scheduled => "scheduled",
            Attempt::Unschedulable => "unschedulable",
            Attempt::Error => "error",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    decisions: Histogram,
    binds: Histogram,
    attempts: Histogram,
    victims: Histogram,
}

impl Metrics {
    pub fn new(registry: &Registry) -> Self {
        Metrics {
            decisions: registry.histogram(
                "scheduler_scheduling_algorithm_duration_seconds",
                "Scheduling algorithm latency in seconds",
                &[],
                DECISIONS,
            ),
            binds: registry.histogram(
                "scheduler_framework_extension_point_duration_seconds",
                "Latency for running all plugins of a specific extension point.",
                &[("extension_point", "Bind")],
                LATENCIES,
            ),
            attempts: registry.histogram(
                "scheduler_pod_scheduling_attempts",
                "Number of attempts to successfully schedule a pod.",
                &[],
                ATTEMPTS,
            ),
            victims: registry.histogram(
                "scheduler_preemption_victims",
                "Number of selected preemption victims",
                &[],
                VICTIMS,
            ),
            registry: registry.clone(),
        }
    }

    pub fn decided(&self, took: Duration) {
        self.decisions.observe(took);
    }

    /// An attempt ended, this long after the pod was taken from the queue.
    pub fn attempt(&self, profile: &str, result: Attempt, took: Duration) {
        let labels = [("profile", profile), ("result", result.as_str())];
        self.registry
            .counter(
                "scheduler_schedule_attempts_total",
                "Number of attempts to schedule pods, by the result.",
                &labels,
            )
            .add(1);
        self.registry
            .histogram(
                "scheduler_scheduling_attempt_duration_seconds",
                "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
                &labels,
                LATENCIES,
            )
            .observe(took);
    }

    /// A pod was bound, after so many attempts and so long.
    pub fn bound(&self, attempts: u32, waited: Duration, binding: Duration) {
        self.binds.observe(binding);
        self.attempts.observe(Duration::from_secs(attempts.into()));
        let attempts = if attempts > 15 {
            "16+".to_owned()
        } else {
            attempts.to_string()
        };
        self.registry
            .histogram(
                "scheduler_pod_scheduling_sli_duration_seconds",
                "E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue.",
                &[("attempts", &attempts)],
                WAITS,
            )
            .observe(waited);
    }

    pub fn preempted(&self, victims: usize) {
        let help = "Total preemption attempts in the cluster till now";
        self.registry
            .counter("scheduler_preemption_attempts_total", help, &[])
            .add(1);
        self.victims
            .observe(Duration::from_secs(u64::try_from(victims).unwrap_or(u64::MAX)));
    }

    pub fn pending(&self, sizes: Sizes) {
        let Sizes {
            active,
            resting,
            parked,
            gated,
        } = sizes;
        let help = "Number of pending pods, by the queue type.";
        for (queue, size) in [
            ("active", active),
            ("backoff", resting),
            ("unschedulable", parked),
            ("gated", gated),
        ] {
            self.registry
                .gauge("scheduler_pending_pods", help, &[("queue", queue)])
                .set(i64::try_from(size).unwrap_or(i64::MAX));
        }
    }

    pub fn cache(&self, nodes: usize, pods: usize) {
        let help = "Number of nodes and pods in the scheduler cache.";
        for (kind, size) in [("nodes", nodes), ("pods", pods)] {
            self.registry
                .gauge("scheduler_scheduler_cache_size", help, &[("type", kind)])
                .set(i64::try_from(size).unwrap_or(i64::MAX));
        }
    }
}
