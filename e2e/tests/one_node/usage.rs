//! What nodes and pods use, as kubectl shows it and as the node tells it.

use anyhow::{Context, ensure};
use e2e::lab::Node;
use e2e::{eventually, run};
use serde_json::Value;

use crate::Scenario;

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("top_shows_what_pods_and_nodes_use", top),
    ("the_node_tells_its_statistics_and_metrics", statistics),
];

const BUSY: &str = "while true; do :; done";
const SH: &str = "--image=busybox:1.36 --restart=Never --labels=app=busy --command -- sh -c";

fn busy(node: &Node, namespace: &str) -> anyhow::Result<()> {
    node.kubectl(&format!("create namespace {namespace}"))?;
    let start = format!("-n {namespace} run busy");
    let mut words: Vec<&str> = start.split(' ').chain(SH.split(' ')).collect();
    words.push(BUSY);
    run(node.command("kubectl").args(&words))?;
    node.kubectl(&format!(
        "-n {namespace} wait --for=condition=Ready pod/busy --timeout=60s"
    ))?;
    Ok(())
}

fn top(node: &Node) -> anyhow::Result<()> {
    busy(node, "top")?;
    eventually("the busy pod is told", || {
        let shown = node.kubectl("-n top top pod --no-headers")?;
        let cpu = shown.split_whitespace().nth(1).context("no column")?;
        let cpu: u64 = cpu.strip_suffix('m').context(cpu.to_owned())?.parse()?;
        ensure!(cpu > 50, "{shown}");
        Ok(())
    })?;
    let containers = node.kubectl("-n top top pod busy --containers --no-headers")?;
    let words: Vec<&str> = containers.split_whitespace().collect();
    ensure!(
        words[..2] == ["busy", "busy"] && words[3].ends_with("Mi"),
        "{containers}"
    );
    ensure!(
        node.kubectl("-n top top pod -l app=busy --no-headers")?
            .starts_with("busy")
    );
    let other = run(node
        .command("kubectl")
        .args(["-n", "top", "top", "pod", "-l", "app=idle"]))?;
    ensure!(!other.contains("busy"), "{other}");
    let nodes = node.kubectl("top nodes --no-headers")?;
    let words: Vec<&str> = nodes.split_whitespace().collect();
    ensure!(
        words[1].ends_with('m') && words[2].ends_with('%') && words[3].ends_with("Mi"),
        "{nodes}"
    );
    let table = node.kubectl("-n top get pods.metrics.k8s.io")?;
    ensure!(
        table.contains("CPU") && table.contains("WINDOW") && table.contains("busy"),
        "{table}"
    );
    let resources = node.kubectl("api-resources --api-group=metrics.k8s.io --no-headers")?;
    ensure!(
        resources.contains("NodeMetrics") && resources.contains("PodMetrics"),
        "{resources}"
    );
    node.kubectl("delete namespace top --timeout=60s")?;
    Ok(())
}

fn statistics(node: &Node) -> anyhow::Result<()> {
    busy(node, "stats")?;
    let name = node.kubectl("get nodes -o jsonpath={.items[0].metadata.name}")?;
    let proxy = |path: &str| node.kubectl(&format!("get --raw /api/v1/nodes/{name}/proxy/{path}"));
    let summary: Value = serde_json::from_str(&proxy("stats/summary")?)?;
    let positive = |value: &Value| value.as_u64().is_some_and(|v| v > 0);
    let host = &summary["node"];
    ensure!(
        positive(&host["cpu"]["usageNanoCores"])
            && positive(&host["memory"]["workingSetBytes"])
            && positive(&host["fs"]["capacityBytes"])
            && positive(&host["runtime"]["imageFs"]["capacityBytes"])
            && positive(&host["rlimit"]["maxpid"]),
        "{host}"
    );
    let pods = summary["pods"].as_array().context("pods")?;
    let pod = pods
        .iter()
        .find(|p| p["podRef"]["namespace"] == "stats")
        .context("the pod")?;
    ensure!(
        positive(&pod["cpu"]["usageNanoCores"])
            && positive(&pod["containers"][0]["memory"]["workingSetBytes"])
            && positive(&pod["ephemeral-storage"]["usedBytes"])
            && pod["network"]["name"] == "eth0",
        "{pod}"
    );
    let resource = proxy("metrics/resource")?;
    let line = "container_cpu_usage_seconds_total{container=\"busy\",namespace=\"stats\",pod=\"busy\"} ";
    ensure!(
        resource.contains(line) && resource.contains("resource_scrape_error 0"),
        "{resource}"
    );
    let cadvisor = proxy("metrics/cadvisor")?;
    ensure!(
        cadvisor.contains("container_memory_working_set_bytes{container=\"busy\""),
        "{cadvisor}"
    );
    let own = proxy("metrics")?;
    ensure!(
        own.contains("kubelet_running_pods ") && own.contains("kubelet_node_name{"),
        "{own}"
    );
    let running: Value = serde_json::from_str(&proxy("runningpods/")?)?;
    ensure!(
        running["kind"] == "PodList" && running["items"].to_string().contains("\"stats\""),
        "{running}"
    );
    node.kubectl("delete namespace stats --timeout=60s")?;
    Ok(())
}
