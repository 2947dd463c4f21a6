//! Bad input gets Kubernetes' own error or condition, and nothing is lost.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use e2e::lab::Node;
use e2e::{eventually, run};

use crate::Scenario;

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("bad_manifests_are_refused_with_the_field_named", manifests),
    ("a_stale_revision_conflicts", stale),
    ("a_missing_image_is_told_and_heals", missing_image),
    ("a_pod_that_fits_nowhere_is_told_why", unschedulable),
];

/// What kubectl says of a manifest that it or the server refuses.
fn refused(node: &Node, verb: &str, manifest: &str) -> anyhow::Result<String> {
    let mut child = node
        .command("kubectl")
        .args(verb.split(' '))
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("stdin is piped")?
        .write_all(manifest.as_bytes())?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        bail!("accepted: {manifest}");
    }
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn manifests(node: &Node) -> anyhow::Result<()> {
    for (manifest, want) in [
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: [}", "error parsing"),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Bad_Name}",
            "a lowercase RFC 1123 subdomain must consist of",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndate: {a: b}",
            "unknown field \"date\"",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c}]}",
            "spec.containers[0].image: Required value",
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: many, selector: {}, template: {}}",
            "spec.replicas",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 70000}]}",
            "must be between 1 and 65535, inclusive",
        ),
    ] {
        let said = refused(node, "create", manifest)?;
        ensure!(said.contains(want), "{manifest}\n→ {said}");
    }
    // kubectl's own validation of a kind that nobody serves asks for CustomResourceDefinitions.
    let unknown = "apiVersion: v1\nkind: Nothing\nmetadata: {name: a}";
    let said = refused(node, "create --validate=false", unknown)?;
    ensure!(
        said.contains("no matches for kind \"Nothing\" in version \"v1\""),
        "{said}"
    );
    Ok(())
}

fn stale(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace stale")?;
    node.kubectl("-n stale create configmap c --from-literal=a=1")?;
    let old = node.kubectl("-n stale get configmap c -o json")?;
    node.kubectl("-n stale label configmap c x=y")?;
    let said = refused(node, "replace", &old.replace("\"a\": \"1\"", "\"a\": \"2\""))?;
    ensure!(
        said.contains("the object has been modified; please apply your changes to the latest version"),
        "{said}"
    );
    node.kubectl("delete namespace stale --timeout=60s")?;
    Ok(())
}

fn missing_image(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace missing")?;
    node.kubectl("-n missing run never --image=coracle.invalid/none:1 --image-pull-policy=Never")?;
    eventually("the absence is told", || {
        let reason =
            node.kubectl("-n missing get pod never -o jsonpath={.status.containerStatuses[0].state.waiting.reason}")?;
        ensure!(reason == "ErrImageNeverPull", "{reason:?}");
        Ok(())
    })?;
    // Nothing listens there: the pull fails at once and is tried again, less and less often.
    node.kubectl("-n missing run pulled --image=127.0.0.1:9/none:1")?;
    eventually("the failed pull is told", || {
        let reason =
            node.kubectl("-n missing get pod pulled -o jsonpath={.status.containerStatuses[0].state.waiting.reason}")?;
        ensure!(
            ["ErrImagePull", "ImagePullBackOff"].contains(&reason.as_str()),
            "{reason:?}"
        );
        Ok(())
    })?;
    let described = node.kubectl("-n missing describe pod pulled")?;
    ensure!(
        described.contains("Failed to pull image \"127.0.0.1:9/none:1\""),
        "{described}"
    );
    node.kubectl("-n missing set image pod/pulled pulled=busybox:1.36")?;
    node.kubectl("delete namespace missing --timeout=60s")?;
    Ok(())
}

fn unschedulable(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace nowhere")?;
    let overrides = r#"{"spec":{"nodeSelector":{"disk":"fast"}}}"#;
    run(node
        .command("kubectl")
        .args("-n nowhere run picky --image=busybox:1.36 --command".split(' '))
        .args([
            &format!("--overrides={overrides}"),
            "--",
            "sh",
            "-c",
            "trap 'exit 0' TERM; sleep 86400 & wait",
        ]))?;
    eventually("the reason is told", || {
        let said = node.kubectl("-n nowhere describe pod picky")?;
        ensure!(
            said.contains("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."),
            "{said}"
        );
        Ok(())
    })?;
    node.kubectl("label nodes --all disk=fast")?;
    node.kubectl("-n nowhere wait --for=condition=Ready pod/picky --timeout=60s")?;
    node.kubectl("label nodes --all disk-")?;
    node.kubectl("delete namespace nowhere --timeout=60s")?;
    Ok(())
}
