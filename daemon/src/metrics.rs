//! Counters, gauges and histograms, written in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The metrics of one process. Cheap to clone. Asking for a metric again gives the same one.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    families: Arc<Mutex<BTreeMap<String, Family>>>,
}

/// Only grows.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

/// Goes up and down.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicI64>);

/// How durations are spread.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    limits: &'static [f64],
    counts: Vec<AtomicU64>,
    nanoseconds: AtomicU64,
}

#[derive(Debug)]
struct Family {
    help: &'static str,
    members: BTreeMap<String, Metric>,
}

#[derive(Debug, Clone)]
enum Metric {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

/// Seconds, for what takes between a millisecond and ten seconds.
pub const LATENCIES: &[f64] = &[0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0];

impl Registry {
    pub fn counter(&self, name: &str, help: &'static str, labels: &[(&str, &str)]) -> Counter {
        match self.metric(name, help, labels, || Metric::Counter(Counter::default())) {
            Metric::Counter(counter) => counter,
            other => panic!("{name} is {other:?}, not a counter"),
        }
    }

    pub fn gauge(&self, name: &str, help: &'static str, labels: &[(&str, &str)]) -> Gauge {
        match self.metric(name, help, labels, || Metric::Gauge(Gauge::default())) {
            Metric::Gauge(gauge) => gauge,
            other => panic!("{name} is {other:?}, not a gauge"),
        }
    }

    /// `limits` are the upper ends of the buckets in seconds, ascending.
    pub fn histogram(
        &self,
        name: &str,
        help: &'static str,
        labels: &[(&str, &str)],
        limits: &'static [f64],
    ) -> Histogram {
        let make = || {
            Metric::Histogram(Histogram(Arc::new(Buckets {
                limits,
                counts: (0..=limits.len()).map(|_| AtomicU64::new(0)).collect(),
                nanoseconds: AtomicU64::new(0),
            })))
        };
        match self.metric(name, help, labels, make) {
            Metric::Histogram(histogram) => histogram,
            other => panic!("{name} is {other:?}, not a histogram"),
        }
    }

    fn metric(&self, name: &str, help: &'static str, labels: &[(&str, &str)], make: impl FnOnce() -> Metric) -> Metric {
        let mut key = String::new();
        for (label, value) in labels {
            let comma = if key.is_empty() { "" } else { "," };
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            write!(key, "{comma}{label}=\"{value}\"").expect("a string takes all that is written");
        }
        let mut families = self.families.lock().expect("no holder of this lock panics");
        let family = families.entry(name.to_owned()).or_insert_with(|| Family {
            help,
            members: BTreeMap::new(),
        });
        family.members.entry(key).or_insert_with(make).clone()
    }

    /// Everything as Prometheus reads it.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let families = self.families.lock().expect("no holder of this lock panics");
        for (name, family) in families.iter() {
            family
                .render(name, &mut text)
                .expect("a string takes all that is written");
        }
        text
    }
}

impl Family {
    fn render(&self, name: &str, text: &mut String) -> std::fmt::Result {
        let kind = match self.members.values().next() {
            Some(Metric::Counter(_)) => "counter",
            Some(Metric::Gauge(_)) => "gauge",
            Some(Metric::Histogram(_)) => "histogram",
            None => return Ok(()),
        };
        writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", self.help)?;
        for (labels, metric) in &self.members {
            let braced = if labels.is_empty() {
                String::new()
            } else {
                format!("{{{labels}}}")
            };
            match metric {
                Metric::Counter(counter) => writeln!(text, "{name}{braced} {}", counter.0.load(Ordering::Relaxed))?,
                Metric::Gauge(gauge) => writeln!(text, "{name}{braced} {}", gauge.0.load(Ordering::Relaxed))?,
                Metric::Histogram(Histogram(buckets)) => {
                    let comma = if labels.is_empty() { "" } else { "," };
                    let mut sum = 0;
                    for (at, count) in buckets.counts.iter().enumerate() {
                        sum += count.load(Ordering::Relaxed);
                        let limit = buckets.limits.get(at).map_or("+Inf".to_owned(), f64::to_string);
                        writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{limit}\"}} {sum}")?;
                    }
                    let seconds = Duration::from_nanos(buckets.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
                    writeln!(text, "{name}_sum{braced} {seconds}\n{name}_count{braced} {sum}")?;
                }
            }
        }
        Ok(())
    }
}

impl Counter {
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
}

impl Gauge {
    pub fn set(&self, to: i64) {
        self.0.store(to, Ordering::Relaxed);
    }

    pub fn add(&self, by: i64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
}

impl Histogram {
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = self.0.limits.partition_point(|limit| *limit < seconds);
        self.0.counts[at].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.0.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let registry = Registry::default();
        registry.counter("a_total", "Things.", &[("kind", "x\"y")]).add(2);
        registry.counter("a_total", "Things.", &[("kind", "x\"y")]).add(1);
        registry.gauge("b", "Depth.", &[]).set(-4);
        let histogram = registry.histogram("c_seconds", "Time.", &[("q", "w")], &[0.1, 1.0]);
        histogram.observe(Duration::from_millis(100));
        histogram.observe(Duration::from_millis(1500));
        let want = "# HELP a_total Things.\n# TYPE a_total counter\na_total{kind=\"x\\\"y\"} 3\n\
            # HELP b Depth.\n# TYPE b gauge\nb -4\n\
            # HELP c_seconds Time.\n# TYPE c_seconds histogram\n\
            c_seconds_bucket{q=\"w\",le=\"0.1\"} 1\nc_seconds_bucket{q=\"w\",le=\"1\"} 1\n\
            c_seconds_bucket{q=\"w\",le=\"+Inf\"} 2\nc_seconds_sum{q=\"w\"} 1.6\nc_seconds_count{q=\"w\"} 2\n";
        assert_eq!(registry.render(), want);
    }
}
