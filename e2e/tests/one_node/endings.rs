//! What must survive, and what must not stay: crashes, `down` and `reset`.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use e2e::eventually;
use e2e::lab::Node;
use e2e::snapshot;

use crate::{Scenario, sample};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("a_full_disk_refuses_writes_and_loses_nothing", full_disk),
    (
        "without_containerd_the_node_says_so_and_containers_run_on",
        no_containerd,
    ),
    ("a_crash_during_a_rollout_loses_nothing", crash),
    ("down_and_up_bring_everything_back", down_and_up),
    ("unused_images_are_pruned_and_logs_are_shown", prune),
    ("after_reset_the_host_is_as_before", reset),
];

/// Takes the host's picture before the first `up`.
pub(crate) fn remember(node: &Node) -> anyhow::Result<()> {
    let lines: Vec<String> = snapshot::take(node)?.into_iter().collect();
    Ok(std::fs::write(node.file("before"), lines.join("\n"))?)
}

/// A small disk for the store, so that it can be filled. `reset` takes the mount away with the rest.
pub(crate) fn small_disk(node: &Node) -> anyhow::Result<()> {
    node.sh("mkdir -p /var/lib/coracle/store && mount -t tmpfs -o size=64m,mode=700 store /var/lib/coracle/store")
        .map(drop)
}

fn full_disk(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace full")?;
    node.kubectl("-n full create configmap before --from-literal=a=1")?;
    // Until not a byte is left.
    node.sh("! dd if=/dev/zero of=/var/lib/coracle/store/ballast bs=64k 2>/dev/null")?;
    let large = "x".repeat(100_000);
    let mut refused = None;
    let mut accepted = Vec::new();
    for count in 0..200 {
        match node.kubectl(&format!(
            "-n full create configmap large-{count} --from-literal=a={large}"
        )) {
            Ok(_) => accepted.push(count),
            Err(error) => {
                refused = Some(format!("{error:#}"));
                break;
            }
        }
    }
    let refused = refused.context("a full disk takes everything")?;
    ensure!(
        refused.contains("space"),
        "{}",
        &refused[refused.len().saturating_sub(500)..]
    );
    // Reads go on; what was acknowledged is there, what was refused is not.
    let names = node.kubectl("-n full get configmaps -o name")?;
    ensure!(names.contains("configmap/before"), "{names}");
    ensure!(
        accepted
            .iter()
            .all(|count| names.contains(&format!("configmap/large-{count}\n"))),
        "{names}"
    );
    ensure!(
        !names.contains(&format!("configmap/large-{}\n", accepted.len())),
        "{names}"
    );
    node.sh("rm /var/lib/coracle/store/ballast")?;
    eventually("writes go on", || {
        node.kubectl("-n full create configmap after --from-literal=a=1")
            .map(drop)
    })?;
    node.kubectl("delete namespace full --timeout=60s")?;
    Ok(())
}

fn no_containerd(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace runtime")?;
    node.kubectl(&format!("-n runtime apply -f {}", sample("web.yaml")))?;
    node.kubectl("-n runtime rollout status deployment/web --timeout=60s")?;
    let service = node.kubectl("-n runtime get service web -o jsonpath={.spec.clusterIP}")?;
    let pod = node.kubectl("-n runtime get pods -o jsonpath={.items[0].status.podIP}")?;
    // Its program is gone, so that it cannot come back.
    let program = node.sh("command -v containerd")?;
    let program = program.trim();
    node.sh(&format!(
        "mount --bind /dev/null {program} && kill -9 $(cat /run/coracle/containerd.pid)"
    ))?;
    node.kubectl("wait --for=condition=Ready=false node --all --timeout=60s")?;
    let told = node.kubectl("get nodes -o jsonpath={.items[0].status.conditions[?(@.type==\"Ready\")].message}")?;
    ensure!(told.contains("container runtime"), "{told}");
    // The pods of a node that is not ready are taken out of their Services, as upstream does; they themselves run on.
    let body = node.get(&format!("http://{pod}:8080/"))?;
    ensure!(body.starts_with("web-"), "{body:?}");
    node.sh(&format!("umount {program}"))?;
    node.kubectl("wait --for=condition=Ready node --all --timeout=80s")?;
    node.kubectl("-n runtime scale deployment/web --replicas=4")?;
    node.kubectl("-n runtime rollout status deployment/web --timeout=60s")?;
    eventually("the service answers again", || {
        node.get(&format!("http://{service}/")).map(drop)
    })?;
    let restarts =
        node.kubectl("-n runtime get pods -o jsonpath={.items[*].status.containerStatuses[0].restartCount}")?;
    ensure!(restarts.split(' ').all(|count| count == "0"), "restarts: {restarts}");
    node.kubectl("delete namespace runtime --timeout=60s")?;
    Ok(())
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

fn prune(node: &Node) -> anyhow::Result<()> {
    let image = "docker.io/library/unused:1";
    let archive = node.file("unused.tar");
    e2e::images::busybox_as(node.tools(), &archive, image, "ash")?;
    node.coracle(&["image", "load", &archive.display().to_string()])?;
    let listed = node.coracle(&["image", "list"])?;
    ensure!(
        listed.contains(image) && listed.contains("coracle.invalid/pause:1"),
        "{listed}"
    );
    node.kubectl("run keeps --image=unused:1 --image-pull-policy=Never --restart=Never -- sleep 3600")?;
    node.kubectl("wait --for=condition=Ready pod/keeps --timeout=30s")?;
    let pruned = node.coracle(&["image", "prune"])?;
    ensure!(!pruned.contains(image), "{pruned}");
    node.kubectl("delete pod keeps --now")?;
    eventually("the image goes with its last container", || {
        let pruned = node.coracle(&["image", "prune"])?;
        ensure!(pruned.contains(image), "{pruned}");
        Ok(())
    })?;
    let left = node.coracle(&["image", "list"])?;
    ensure!(
        !left.contains(image) && left.contains("coracle.invalid/pause:1"),
        "{left}"
    );
    let log = node.coracle(&["logs", "--tail=5"])?;
    ensure!((1..=5).contains(&log.lines().count()), "{log}");
    Ok(())
}
