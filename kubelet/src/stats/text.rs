//! The same readings in Prometheus' text format: `/metrics/resource` and the part of `/metrics/cadvisor` that tools read.

use super::sample::{ContainerSample, PodSample, Sample};
use crate::resources::usage::Usage;

/// Of one line: labels, value, and when it was read.
type Line<'a> = (Vec<(&'a str, &'a str)>, f64, Option<i64>);

/// One metric with its lines.
fn family<'a>(out: &mut String, name: &str, kind: &str, help: &str, lines: impl IntoIterator<Item = Line<'a>>) {
    out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    for (labels, value, at) in lines {
        out.push_str(name);
        for (position, (key, text)) in labels.iter().enumerate() {
            out.push(if position == 0 { '{' } else { ',' });
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            out.push_str(&format!("{key}=\"{text}\""));
        }
        out.push_str(if labels.is_empty() { " " } else { "} " });
        out.push_str(&format!("{value}"));
        if let Some(at) = at {
            out.push_str(&format!(" {at}"));
        }
        out.push('\n');
    }
}

type Read = fn(&Usage) -> Option<f64>;

fn cpu(usage: &Usage) -> Option<f64> {
    usage.cpu.map(|nanoseconds| nanoseconds as f64 / 1e9)
}

fn working_set(usage: &Usage) -> Option<f64> {
    usage.memory.map(|m| m.working_set as f64)
}

fn swap(usage: &Usage) -> Option<f64> {
    usage.memory.and_then(|m| m.swap).map(|bytes| bytes as f64)
}

fn line<'a>(labels: Vec<(&'a str, &'a str)>, usage: &Usage, read: Read) -> Option<Line<'a>> {
    Some((labels, read(usage)?, Some(usage.at.as_millisecond())))
}

fn containers(sample: &Sample) -> impl Iterator<Item = (&PodSample, &ContainerSample)> {
    sample
        .pods
        .iter()
        .flat_map(|pod| pod.containers.iter().map(move |c| (pod, c)))
}

fn namespace_of(pod: &PodSample) -> &str {
    &pod.namespace
}

fn name_of(pod: &PodSample) -> &str {
    &pod.name
}

fn of_container<'a>(pod: &'a PodSample, container: &'a ContainerSample) -> Vec<(&'a str, &'a str)> {
    vec![
        ("container", &container.name),
        ("namespace", &pod.namespace),
        ("pod", &pod.name),
    ]
}

/// `None` where the runtime could not be read, which is told in the metrics themselves.
pub fn resource(sample: Option<&Sample>) -> String {
    let mut out = String::new();
    if let Some(sample) = sample {
        let (counter, gauge) = ("counter", "gauge");
        let mut of_containers = |name, kind, help, read: Read| {
            let lines = containers(sample).filter_map(|(p, c)| line(of_container(p, c), &c.usage, read));
            family(&mut out, name, kind, help, lines);
        };
        of_containers(
            "container_cpu_usage_seconds_total",
            counter,
            "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
            cpu,
        );
        of_containers(
            "container_memory_working_set_bytes",
            gauge,
            "[STABLE] Current working set of the container in bytes",
            working_set,
        );
        let started = |c: &ContainerSample| c.started.as_nanosecond() as f64 / 1e9;
        family(
            &mut out,
            "container_start_time_seconds",
            gauge,
            "[STABLE] Start time of the container since unix epoch in seconds",
            containers(sample).map(|(p, c)| (of_container(p, c), started(c), None)),
        );
        let mut of_containers = |name, kind, help, read: Read| {
            let lines = containers(sample).filter_map(|(p, c)| line(of_container(p, c), &c.usage, read));
            family(&mut out, name, kind, help, lines);
        };
        of_containers(
            "container_swap_usage_bytes",
            gauge,
            "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
            swap,
        );
        let mut of_node = |name, kind, help, read: Read| {
            family(&mut out, name, kind, help, line(Vec::new(), &sample.node, read));
        };
        of_node(
            "node_cpu_usage_seconds_total",
            counter,
            "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
            cpu,
        );
        of_node(
            "node_memory_working_set_bytes",
            gauge,
            "[STABLE] Current working set of the node in bytes",
            working_set,
        );
        of_node(
            "node_swap_usage_bytes",
            gauge,
            "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
            swap,
        );
        let mut of_pods = |name, kind, help, read: Read| {
            let labels = |p| vec![("namespace", namespace_of(p)), ("pod", name_of(p))];
            let lines = sample.pods.iter().filter_map(|p| line(labels(p), &p.usage, read));
            family(&mut out, name, kind, help, lines);
        };
        of_pods(
            "pod_cpu_usage_seconds_total",
            counter,
            "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
            cpu,
        );
        of_pods(
            "pod_memory_working_set_bytes",
            gauge,
            "[STABLE] Current working set of the pod in bytes",
            working_set,
        );
        of_pods(
            "pod_swap_usage_bytes",
            gauge,
            "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
            swap,
        );
    }
    family(
        &mut out,
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        [(Vec::new(), f64::from(u8::from(sample.is_none())), None)],
    );
    out
}

/// Names and labels of cAdvisor's metrics.
pub fn cadvisor(sample: &Sample, cores: f64, bytes: f64) -> String {
    let mut out = String::new();
    let families: [(&str, &str, &str, Read); 7] = [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed in seconds.",
            cpu,
        ),
        (
            "container_memory_usage_bytes",
            "gauge",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            |u| u.memory.map(|m| m.used as f64),
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "Current working set in bytes.",
            working_set,
        ),
        ("container_memory_rss", "gauge", "Size of RSS in bytes.", |u| {
            u.memory.map(|m| m.rss as f64)
        }),
        ("container_memory_swap", "gauge", "Container swap usage in bytes.", swap),
        (
            "container_spec_memory_limit_bytes",
            "gauge",
            "Memory limit for the container.",
            |u| u.memory.map(|m| m.limit.unwrap_or(0) as f64),
        ),
        (
            "container_processes",
            "gauge",
            "Number of processes running inside the container.",
            |u| u.processes.map(|p| p as f64),
        ),
    ];
    let ids = Ids::new(sample);
    for (name, kind, help, read) in families {
        let lines = ids.lines(sample, read);
        family(&mut out, name, kind, help, lines);
    }
    for (name, help, sent) in [
        (
            "container_network_receive_bytes_total",
            "Cumulative count of bytes received",
            false,
        ),
        (
            "container_network_transmit_bytes_total",
            "Cumulative count of bytes transmitted",
            true,
        ),
    ] {
        let interfaces = sample
            .pods
            .iter()
            .flat_map(|p| p.network.iter().flatten().map(move |i| (p, i)));
        let lines = interfaces.map(|(pod, interface)| {
            let labels = vec![
                ("interface", interface.name.as_str()),
                ("namespace", pod.namespace.as_str()),
                ("pod", pod.name.as_str()),
            ];
            let value = if sent { interface.sent } else { interface.received };
            (labels, value as f64, Some(sample.at.as_millisecond()))
        });
        family(&mut out, name, "counter", help, lines);
    }
    for (name, help, value) in [
        ("machine_cpu_cores", "Number of logical CPU cores.", cores),
        (
            "machine_memory_bytes",
            "Amount of memory installed on the machine.",
            bytes,
        ),
    ] {
        family(&mut out, name, "gauge", help, [(Vec::new(), value, None)]);
    }
    out
}

/// The `id` label of each pod and of its containers, in the sample's order.
struct Ids(Vec<(String, Vec<String>)>);

impl Ids {
    fn new(sample: &Sample) -> Self {
        let of = |pod: &PodSample| {
            let own = format!("/kubepods/pod{}", pod.uid);
            let containers = pod.containers.iter().map(|c| format!("{own}/{}", c.id)).collect();
            (own, containers)
        };
        Ids(sample.pods.iter().map(of).collect())
    }

    fn lines<'a>(&'a self, sample: &'a Sample, read: Read) -> Vec<Line<'a>> {
        let labels = |container, id, image, name, namespace, pod| {
            vec![
                ("container", container),
                ("id", id),
                ("image", image),
                ("name", name),
                ("namespace", namespace),
                ("pod", pod),
            ]
        };
        let mut lines: Vec<_> = line(labels("", "/", "", "", "", ""), &sample.node, read)
            .into_iter()
            .collect();
        for (pod, (own, below)) in sample.pods.iter().zip(&self.0) {
            lines.extend(line(
                labels("", own, "", "", &pod.namespace, &pod.name),
                &pod.usage,
                read,
            ));
            for (c, id) in pod.containers.iter().zip(below) {
                let labels = labels(&c.name, id, &c.image, &c.id, &pod.namespace, &pod.name);
                lines.extend(line(labels, &c.usage, read));
            }
        }
        lines
    }
}

/// What the node agent says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    pub node: &'a str,
    pub version: &'a str,
    pub pods: usize,
    /// By state: created, running, exited, unknown.
    pub containers: [usize; 4],
    /// By the signal that it was for.
    pub evictions: &'a [(String, u64)],
}

pub fn own(own: &Own<'_>) -> String {
    let mut out = String::new();
    let one = |labels, value| [(labels, value, None)];
    family(
        &mut out,
        "kubelet_node_name",
        "gauge",
        "[ALPHA] The node's name. The count is always 1.",
        one(vec![("node", own.node)], 1.0),
    );
    family(
        &mut out,
        "kubelet_running_pods",
        "gauge",
        "[ALPHA] Number of pods that have a running pod sandbox",
        one(Vec::new(), own.pods as f64),
    );
    let states = ["created", "running", "exited", "unknown"]
        .into_iter()
        .zip(own.containers);
    family(
        &mut out,
        "kubelet_running_containers",
        "gauge",
        "[ALPHA] Number of containers currently running",
        states.map(|(state, count)| (vec![("container_state", state)], count as f64, None)),
    );
    let evictions = own.evictions.iter();
    family(
        &mut out,
        "kubelet_evictions",
        "counter",
        "[ALPHA] Cumulative number of pod evictions by eviction signal",
        evictions.map(|(signal, count)| (vec![("eviction_signal", signal.as_str())], *count as f64, None)),
    );
    family(
        &mut out,
        "kubernetes_build_info",
        "gauge",
        "[ALPHA] A metric with a constant '1' value labeled by major, minor, git version, and platform.",
        one(vec![("git_version", own.version), ("major", "1"), ("minor", "36")], 1.0),
    );
    process(&mut out);
    out
}

/// The usual ones of every process that is watched by Prometheus.
fn process(out: &mut String) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let stat = read("/proc/self/stat");
    // The name in brackets may hold anything, the numbers follow it.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let word = |at: usize| after.split_whitespace().nth(at).and_then(|w| w.parse::<f64>().ok());
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
    let per_second = per_second.ok().flatten().unwrap_or(100) as f64;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let page = page.ok().flatten().unwrap_or(4096) as f64;
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count());
    for (name, kind, help, value) in [
        (
            "process_cpu_seconds_total",
            "counter",
            "Total user and system CPU time spent in seconds.",
            word(11)
                .zip(word(12))
                .map(|(user, system)| (user + system) / per_second),
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory size in bytes.",
            word(21).map(|pages| pages * page),
        ),
        (
            "process_virtual_memory_bytes",
            "gauge",
            "Virtual memory size in bytes.",
            word(20),
        ),
        (
            "process_open_fds",
            "gauge",
            "Number of open file descriptors.",
            Some(files as f64),
        ),
    ] {
        family(out, name, kind, help, value.map(|v| (Vec::new(), v, None)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::usage::Memory;

    fn sample() -> Sample {
        let usage = Usage {
            at: jiff::Timestamp::from_millisecond(1500).unwrap(),
            cpu: Some(2_500_000_000),
            memory: Some(Memory {
                working_set: 700,
                ..Memory::default()
            }),
            processes: None,
        };
        Sample {
            node: usage,
            pods: vec![PodSample {
                namespace: "ns".into(),
                name: "p".into(),
                usage,
                containers: vec![ContainerSample {
                    name: "c".into(),
                    usage,
                    started: jiff::Timestamp::from_second(1).unwrap(),
                    ..ContainerSample::default()
                }],
                ..PodSample::default()
            }],
            ..Sample::default()
        }
    }

    #[test]
    fn resource_metrics_have_the_names_that_a_metrics_server_reads() {
        let text = resource(Some(&sample()));
        for line in [
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 2.5 1500",
            "container_memory_working_set_bytes{container=\"c\",namespace=\"ns\",pod=\"p\"} 700 1500",
            "container_start_time_seconds{container=\"c\",namespace=\"ns\",pod=\"p\"} 1",
            "node_cpu_usage_seconds_total 2.5 1500",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"p\"} 700 1500",
            "resource_scrape_error 0",
            "# TYPE node_memory_working_set_bytes gauge",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(resource(None).ends_with("resource_scrape_error 1\n"));
    }

    #[test]
    fn cadvisor_metrics_name_container_pod_and_machine() {
        let text = cadvisor(&sample(), 2.0, 1024.0);
        assert!(text.contains("container_memory_working_set_bytes{container=\"c\",id=\"/kubepods/pod/\",image=\"\",name=\"\",namespace=\"ns\",pod=\"p\"} 700 1500"));
        assert!(text.contains("machine_cpu_cores 2\n"));
    }
}
