//! Storage that outlives pods, and the rules of people about how many there are.

use std::io::Write;

use anyhow::{Context, ensure};
use e2e::eventually;
use e2e::lab::Node;

use crate::{Scenario, sample};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("a_claim_keeps_what_one_pod_wrote_for_the_next", diary),
    ("a_busy_deployment_grows_and_an_idle_one_shrinks", autoscale),
    ("a_budget_refuses_an_eviction_and_then_allows_it", budget),
    ("a_quota_refuses_what_is_too_much_and_frees_what_is_gone", quota),
];

/// Applies a manifest that is written here.
fn apply(node: &Node, namespace: &str, manifest: &str) -> anyhow::Result<()> {
    let file = node.file(&format!("{namespace}.yaml"));
    std::fs::File::create(&file)?.write_all(manifest.as_bytes())?;
    node.kubectl(&format!("-n {namespace} apply -f {}", file.display()))?;
    Ok(())
}

/// What kubectl says when it fails.
fn refused(node: &Node, arguments: &str) -> anyhow::Result<String> {
    let output = node.command("kubectl").args(arguments.split(' ')).output()?;
    ensure!(!output.status.success(), "{arguments} was not refused");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn diary(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace diary")?;
    let classes = node.kubectl("get storageclass --no-headers")?;
    ensure!(
        classes.starts_with("standard (default)") && classes.contains("coracle/path"),
        "{classes}"
    );
    node.kubectl(&format!("-n diary apply -f {}", sample("diary.yaml")))?;
    node.kubectl("-n diary rollout status deployment/diary --timeout=60s")?;
    let pages = |want: usize| {
        eventually("the diary has its pages", || {
            let pages = node.kubectl("-n diary logs -l app=diary --tail=-1")?;
            ensure!(pages.lines().count() == want, "{pages}");
            Ok(pages)
        })
    };
    let first = pages(1)?;
    let bound = node.kubectl("-n diary get pvc diary --no-headers")?;
    ensure!(
        bound.contains("Bound") && bound.contains("10Mi") && bound.contains("standard"),
        "{bound}"
    );

    node.kubectl("-n diary delete pod -l app=diary --wait --timeout=60s")?;
    node.kubectl("-n diary rollout status deployment/diary --timeout=60s")?;
    let second = pages(2)?;
    ensure!(second.starts_with(&first), "{second}");

    // It grows on paper.
    node.kubectl(r#"-n diary patch pvc diary -p {"spec":{"resources":{"requests":{"storage":"20Mi"}}}}"#)?;
    node.kubectl("-n diary wait --for=jsonpath={.status.capacity.storage}=20Mi pvc/diary --timeout=30s")?;

    let volume = node.kubectl("-n diary get pvc diary -o jsonpath={.spec.volumeName}")?;
    let directory = node.kubectl(&format!("get pv {volume} -o jsonpath={{.spec.local.path}}"))?;
    ensure!(node.sh(&format!("cat {directory}/pages"))? == second);
    // A claim that is used stays.
    node.kubectl("-n diary delete pvc diary --wait=false")?;
    let going = node.kubectl("-n diary describe pvc diary")?;
    ensure!(going.contains("Terminating"), "{going}");
    ensure!(node.sh(&format!("cat {directory}/pages"))? == second);
    node.kubectl("-n diary delete deployment diary")?;
    node.kubectl("-n diary wait --for=delete pvc/diary --timeout=60s")?;
    node.kubectl(&format!("wait --for=delete pv/{volume} --timeout=60s"))?;
    ensure!(node.sh(&format!("ls -d {directory}")).is_err(), "{directory} is left");
    node.kubectl("delete namespace diary --timeout=60s")?;
    Ok(())
}

const BUSY: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: busy
spec:
  selector:
    matchLabels: {app: busy}
  template:
    metadata:
      labels: {app: busy}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: busy
          image: busybox:1.36
          command: ["sh", "-c", "while true; do [ -e /load/on ] || sleep 1; done"]
          resources:
            requests: {cpu: 50m}
            limits: {cpu: 100m}
          volumeMounts: [{name: load, mountPath: /load}]
      volumes:
        - name: load
          hostPath: {path: /run/load, type: DirectoryOrCreate}
"#;

fn autoscale(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace busy")?;
    node.sh("mkdir -p /run/load && touch /run/load/on")?;
    apply(node, "busy", BUSY)?;
    node.kubectl("-n busy rollout status deployment/busy --timeout=60s")?;
    node.kubectl("-n busy autoscale deployment busy --cpu=50% --min=1 --max=2")?;
    let quick = r#"-n busy patch hpa busy --type=merge -p {"spec":{"behavior":{"scaleDown":{"stabilizationWindowSeconds":0}}}}"#;
    node.kubectl(quick)?;
    node.kubectl("-n busy wait --for=jsonpath={.status.desiredReplicas}=2 hpa/busy --timeout=180s")?;
    node.kubectl("-n busy rollout status deployment/busy --timeout=60s")?;
    let described = node.kubectl("-n busy describe hpa busy")?;
    for word in [
        "ValidMetricFound",
        "SuccessfulRescale",
        "cpu resource utilization (percentage of request) above target",
    ] {
        ensure!(described.contains(word), "{word:?} is missing in\n{described}");
    }
    let shown = node.kubectl("-n busy get hpa busy --no-headers")?;
    ensure!(shown.contains("Deployment/busy") && shown.contains("/50%"), "{shown}");
    node.sh("rm /run/load/on")?;
    node.kubectl("-n busy wait --for=jsonpath={.status.desiredReplicas}=1 hpa/busy --timeout=180s")?;
    let described = node.kubectl("-n busy describe hpa busy")?;
    ensure!(described.contains("All metrics below target"), "{described}");
    node.kubectl("delete namespace busy --timeout=60s")?;
    node.sh("rmdir /run/load")?;
    Ok(())
}

fn budget(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace budget")?;
    let make = "-n budget create deployment web --image=busybox:1.36 --replicas=2 -- sh -c";
    let mut words: Vec<&str> = make.split(' ').collect();
    words.push("trap exit TERM; sleep 86400 & wait");
    e2e::run(node.command("kubectl").args(words))?;
    node.kubectl("-n budget rollout status deployment/web --timeout=60s")?;
    node.kubectl("-n budget create poddisruptionbudget web --selector=app=web --min-available=2")?;
    node.kubectl("-n budget wait --for=jsonpath={.status.currentHealthy}=2 pdb/web --timeout=30s")?;
    let pod = node.kubectl("-n budget get pods -o jsonpath={.items[0].metadata.name}")?;
    let eviction =
        format!(r#"{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{pod}","namespace":"budget"}}}}"#);
    let file = node.file("eviction.json");
    std::fs::write(&file, eviction)?;
    let evict = format!(
        "create --raw /api/v1/namespaces/budget/pods/{pod}/eviction -f {}",
        file.display()
    );
    let said = refused(node, &evict)?;
    ensure!(
        said.contains("Cannot evict pod as it would violate the pod's disruption budget."),
        "{said}"
    );
    node.kubectl(r#"-n budget patch pdb web --type=merge -p {"spec":{"minAvailable":1}}"#)?;
    node.kubectl("-n budget wait --for=jsonpath={.status.disruptionsAllowed}=1 pdb/web --timeout=30s")?;
    node.kubectl(&evict)?;
    node.kubectl(&format!("-n budget wait --for=delete pod/{pod} --timeout=60s"))?;
    // The one that takes its place makes the budget whole again.
    node.kubectl("-n budget wait --for=jsonpath={.status.disruptionsAllowed}=1 pdb/web --timeout=60s")?;
    node.kubectl("delete namespace budget --timeout=60s")?;
    Ok(())
}

fn quota(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace quota")?;
    node.kubectl("-n quota create quota small --hard=count/configmaps=2,requests.storage=15Mi")?;
    // Every namespace has one already.
    node.kubectl("-n quota create configmap one")?;
    let said = refused(node, "-n quota create configmap two")?;
    ensure!(
        said.contains("exceeded quota: small, requested: count/configmaps=1, used: count/configmaps=2"),
        "{said}"
    );
    node.kubectl("-n quota delete configmap one")?;
    eventually("what is gone counts no more", || {
        node.kubectl("-n quota create configmap two").map(drop)
    })?;
    let claims = std::fs::read_to_string(sample("diary.yaml"))?;
    let claim = claims.split("---").next().context("the sample begins with a claim")?;
    apply(node, "quota", claim)?;
    let used = node.kubectl("-n quota get quota small -o jsonpath={.status.used.requests\\.storage}")?;
    ensure!(used == "10Mi", "{used}");
    let file = node.file("quota.yaml");
    std::fs::write(&file, claim.replace("name: diary", "name: another"))?;
    let said = refused(node, &format!("-n quota apply -f {}", file.display()))?;
    ensure!(said.contains("exceeded quota: small"), "{said}");
    node.kubectl("delete namespace quota --timeout=60s")?;
    Ok(())
}
