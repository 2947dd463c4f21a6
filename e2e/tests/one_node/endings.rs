//! What must survive, and what must not stay: crashes, `down` and `reset`.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, ensure};
use e2e::eventually;
use e2e::lab::Node;
use e2e::snapshot;

use crate::Scenario;

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("a_crash_during_a_rollout_loses_nothing", crash),
    ("down_and_up_bring_everything_back", down_and_up),
    ("after_reset_the_host_is_as_before", reset),
];

/// Takes the host's picture before the first `up`.
pub(crate) fn remember(node: &Node) -> anyhow::Result<()> {
    let lines: Vec<String> = snapshot::take(node)?.into_iter().collect();
    Ok(std::fs::write(node.file("before"), lines.join("\n"))?)
}

fn sample(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/samples");
    folder
        .canonicalize()
        .expect("the samples are there")
        .join(name)
        .display()
        .to_string()
}

fn crash(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace crash")?;
    node.kubectl(&format!("-n crash apply -f {}", sample("web.yaml")))?;
    node.kubectl("-n crash rollout status deployment/web --timeout=60s")?;
    let address = node.kubectl("-n crash get service web -o jsonpath={.spec.clusterIP}")?;
    node.kubectl("-n crash set image deployment/web web=docker.io/library/busybox:1.36")?;
    for count in 0..20 {
        node.kubectl(&format!("-n crash create configmap acknowledged-{count}"))?;
    }
    let revision = revision(node)?;
    let pid = node.sh("cat /run/coracle/coracle.pid")?;
    node.sh(&format!("kill -9 {pid}"))?;

    // Containers run on and answer through the Service while nothing of Coracle runs.
    for _ in 0..10 {
        let body = node.get(&format!("http://{address}/"))?;
        ensure!(body.starts_with("web-"), "{body:?}");
    }
    node.coracle(&["up"])?;
    let kept = node.kubectl("-n crash get configmaps -o name")?;
    let acknowledged = kept.lines().filter(|name| name.contains("acknowledged-")).count();
    ensure!(
        acknowledged == 20,
        "{acknowledged} of 20 acknowledged objects are there"
    );
    let now = self::revision(node)?;
    ensure!(now >= revision, "the revision went back from {revision} to {now}");
    node.kubectl("-n crash rollout status deployment/web --timeout=90s")?;
    node.kubectl("delete namespace crash --timeout=60s")?;
    Ok(())
}

fn revision(node: &Node) -> anyhow::Result<u64> {
    let list = node.kubectl("get --raw /api/v1/namespaces?limit=1")?;
    let list: serde_json::Value = serde_json::from_str(&list)?;
    list["metadata"]["resourceVersion"]
        .as_str()
        .context("a list has a revision")?
        .parse()
        .context("a number")
}

fn down_and_up(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace back")?;
    node.kubectl(&format!("-n back apply -f {}", sample("web.yaml")))?;
    node.kubectl("-n back rollout status deployment/web --timeout=60s")?;
    node.coracle(&["down"])?;
    let processes = node.sh("ps -e -o comm= || true")?;
    for name in ["coracle", "containerd", "httpd", "pause"] {
        ensure!(
            !processes.lines().any(|line| line.trim() == name),
            "{name} still runs:\n{processes}"
        );
    }
    node.coracle(&["up"])?;
    node.kubectl("-n back rollout status deployment/web --timeout=90s")?;
    let address = node.kubectl("-n back get service web -o jsonpath={.spec.clusterIP}")?;
    eventually("the service answers again", || {
        node.get(&format!("http://{address}/")).map(drop)
    })?;
    Ok(())
}

fn reset(node: &Node) -> anyhow::Result<()> {
    // With a workload running, nothing asked for before.
    node.coracle(&["reset"])?;
    let before: BTreeSet<String> = std::fs::read_to_string(node.file("before"))?
        .lines()
        .map(str::to_owned)
        .collect();
    let after = snapshot::take(node)?;
    let left: Vec<_> = after.difference(&before).collect();
    let lost: Vec<_> = before.difference(&after).collect();
    ensure!(
        left.is_empty() && lost.is_empty(),
        "left behind: {left:#?}\nlost: {lost:#?}"
    );
    Ok(())
}
