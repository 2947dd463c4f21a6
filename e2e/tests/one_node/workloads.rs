//! What keeps pods running, changed and undone with kubectl as its users do.

use anyhow::ensure;
use e2e::lab::Node;
use e2e::{eventually, run};

use crate::{Scenario, sample};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("workloads_roll_out_and_are_undone_paused_and_restarted", rollout),
    ("workloads_with_state_keep_names_that_resolve", stateful),
    ("workloads_with_volumes_find_their_data_again", claims),
    ("workloads_of_nodes_go_back_to_their_first_revision", daemon),
    ("workloads_of_the_clock_fire_within_a_minute", cron),
    ("workloads_in_parts_give_up_single_parts", indexes),
];

/// What a JSON path of an object says.
fn field(node: &Node, object: &str, path: &str) -> anyhow::Result<String> {
    node.kubectl(&format!("{object} -o jsonpath={{{path}}}"))
}

fn rollout(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace rollout")?;
    let mut words: Vec<&str> = "-n rollout create deployment web --image=busybox:1.36 --replicas=3 -- sh -c"
        .split(' ')
        .collect();
    words.push("trap 'exit 0' TERM; sleep 86400 & wait");
    run(node.command("kubectl").args(&words))?;
    let kubectl = |words: &str| node.kubectl(&format!("-n rollout {words}"));
    kubectl("rollout status deployment/web --timeout=90s")?;
    kubectl("annotate deployment/web kubernetes.io/change-cause=first")?;
    kubectl("set env deployment/web VERSION=2")?;
    kubectl("annotate deployment/web kubernetes.io/change-cause=second --overwrite")?;
    kubectl("rollout status deployment/web --timeout=90s")?;
    eventually("the history tells both", || {
        let history = kubectl("rollout history deployment/web")?;
        let rows: Vec<Vec<&str>> = history.lines().map(|line| line.split_whitespace().collect()).collect();
        ensure!(
            rows.contains(&vec!["1", "first"]) && rows.contains(&vec!["2", "second"]),
            "{history}"
        );
        Ok(())
    })?;
    let second = kubectl("rollout history deployment/web --revision=2")?;
    ensure!(
        second.contains("VERSION:") && second.contains("change-cause: second"),
        "{second}"
    );

    let said = kubectl("rollout undo deployment/web")?;
    ensure!(said.contains("rolled back"), "{said}");
    kubectl("rollout status deployment/web --timeout=90s")?;
    let env = field(
        node,
        "-n rollout get deployment web",
        ".spec.template.spec.containers[0].env",
    )?;
    ensure!(env.is_empty(), "{env}");
    let history = kubectl("rollout history deployment/web")?;
    let numbers: Vec<_> = history
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse::<i32>().ok())
        .collect();
    ensure!(numbers == [2, 3], "the first revision is the third now: {history}");
    kubectl("rollout undo deployment/web --to-revision=2")?;
    kubectl("rollout status deployment/web --timeout=90s")?;

    kubectl("rollout pause deployment/web")?;
    kubectl("set env deployment/web VERSION=3")?;
    kubectl("scale deployment/web --replicas=4")?;
    eventually("a paused rollout still scales", || {
        let have = field(node, "-n rollout get deployment web", ".status.readyReplicas")?;
        ensure!(have == "4", "{have:?}");
        Ok(())
    })?;
    let updated = field(node, "-n rollout get deployment web", ".status.updatedReplicas")?;
    ensure!(
        updated.is_empty(),
        "nothing is rolled out while it is paused: {updated}"
    );
    let reasons = field(node, "-n rollout get deployment web", ".status.conditions[*].reason")?;
    ensure!(reasons.contains("DeploymentPaused"), "{reasons}");
    kubectl("rollout resume deployment/web")?;
    kubectl("rollout status deployment/web --timeout=90s")?;
    let before = names(node, "-n rollout get pods -l app=web -o name")?;
    kubectl("rollout restart deployment/web")?;
    kubectl("rollout status deployment/web --timeout=90s")?;
    eventually("every pod is another", || {
        let after = names(node, "-n rollout get pods -l app=web -o name")?;
        ensure!(
            after.len() == 4 && after.iter().all(|pod| !before.contains(pod)),
            "{after:?}"
        );
        Ok(())
    })?;
    let events = kubectl("describe deployment web")?;
    ensure!(events.contains("Scaled up replica set"), "{events}");
    node.kubectl("delete namespace rollout --timeout=60s")?;
    Ok(())
}

fn names(node: &Node, command: &str) -> anyhow::Result<Vec<String>> {
    Ok(node.kubectl(command)?.lines().map(str::to_owned).collect())
}

fn stateful(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace stateful")?;
    node.kubectl(&format!("-n stateful apply -f {}", sample("stateful.yaml")))?;
    let kubectl = |words: &str| node.kubectl(&format!("-n stateful {words}"));
    kubectl("rollout status statefulset/peer --timeout=90s")?;
    let pods = kubectl("get pods -l app=peers -o jsonpath={.items[*].metadata.name}")?;
    ensure!(pods == "peer-0 peer-1 peer-2", "{pods}");
    let row = kubectl("get statefulset peer --no-headers")?;
    ensure!(row.contains("3/3"), "{row}");
    let greeted = |other: &str| kubectl(&format!("exec peer-0 -- wget -q -O - http://{other}:8080/"));
    for name in ["peer-1.peers", "peer-2.peers.stateful.svc.cluster.local"] {
        let body = eventually("the name answers", || greeted(name))?;
        ensure!(
            body.trim() == format!("hello from {}", &name[..6]),
            "{name} answers {body:?}"
        );
    }
    ensure!(kubectl("exec peer-2 -- hostname -f")?.starts_with("peer-2.peers.stateful.svc"));
    // A deleted pod comes back under its name, and the name leads to it.
    let before = field(node, "-n stateful get pod peer-1", ".metadata.uid")?;
    kubectl("delete pod peer-1 --timeout=60s")?;
    eventually("it is back", || {
        let uid = field(node, "-n stateful get pod peer-1", ".metadata.uid")?;
        ensure!(uid != before, "{uid}");
        kubectl("wait --for=condition=Ready pod/peer-1 --timeout=30s")
    })?;
    eventually("its name answers again", || greeted("peer-1.peers"))?;

    let status = ".status.currentRevision";
    let first = field(node, "-n stateful get statefulset peer", status)?;
    kubectl("set env statefulset/peer GREETING=bye")?;
    kubectl("rollout status statefulset/peer --timeout=120s")?;
    eventually("the new greeting is there", || {
        let body = greeted("peer-1.peers")?;
        ensure!(body.trim() == "bye from peer-1", "{body:?}");
        Ok(())
    })?;
    let history = kubectl("rollout history statefulset/peer")?;
    ensure!(
        history.lines().filter(|line| line.starts_with(['1', '2'])).count() == 2,
        "{history}"
    );
    kubectl("rollout undo statefulset/peer")?;
    kubectl("rollout status statefulset/peer --timeout=120s")?;
    ensure!(first == field(node, "-n stateful get statefulset peer", status)?);
    kubectl("scale statefulset/peer --replicas=1")?;
    eventually("the highest numbers go", || {
        let pods = kubectl("get pods -l app=peers -o jsonpath={.items[*].metadata.name}")?;
        ensure!(pods == "peer-0", "{pods}");
        Ok(())
    })?;
    node.kubectl("delete namespace stateful --timeout=60s")?;
    Ok(())
}

const KEEPER: &str = r#"{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"keeper","namespace":"claims"},"spec":{
  "replicas":2,"serviceName":"keeper","podManagementPolicy":"Parallel","selector":{"matchLabels":{"app":"keeper"}},
  "persistentVolumeClaimRetentionPolicy":{"whenDeleted":"Delete","whenScaled":"Delete"},
  "volumeClaimTemplates":[{"metadata":{"name":"data"},"spec":{"accessModes":["ReadWriteOnce"],
  "resources":{"requests":{"storage":"16Mi"}}}}],
  "template":{"metadata":{"labels":{"app":"keeper"}},"spec":{"terminationGracePeriodSeconds":1,"containers":[{
  "name":"c","image":"busybox:1.36","command":["sh","-c","hostname >> /data/log; trap 'exit 0' TERM; sleep 86400 & wait"],
  "volumeMounts":[{"name":"data","mountPath":"/data"}]}]}}}}"#;

fn claims(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace claims")?;
    let file = node.file("keeper.json");
    std::fs::write(&file, KEEPER)?;
    run(node.command("kubectl").args(["apply", "-f"]).arg(&file))?;
    let kubectl = |words: &str| node.kubectl(&format!("-n claims {words}"));
    kubectl("rollout status statefulset/keeper --timeout=90s")?;
    let claims = kubectl("get persistentvolumeclaims -o jsonpath={.items[*].metadata.name}")?;
    ensure!(claims == "data-keeper-0 data-keeper-1", "{claims}");
    kubectl("delete pod keeper-1 --timeout=60s")?;
    eventually("the next pod of that name finds the data", || {
        let log = kubectl("exec keeper-1 -- cat /data/log")?;
        ensure!(log == "keeper-1\nkeeper-1\n", "{log:?}");
        Ok(())
    })?;
    kubectl("scale statefulset/keeper --replicas=1")?;
    eventually("the claim goes with its pod", || {
        let claims = kubectl("get persistentvolumeclaims -o jsonpath={.items[*].metadata.name}")?;
        ensure!(claims == "data-keeper-0", "{claims}");
        Ok(())
    })?;
    kubectl("delete statefulset keeper --timeout=60s")?;
    eventually("the other goes with the set", || {
        let claims = kubectl("get persistentvolumeclaims -o name")?;
        ensure!(claims.is_empty(), "{claims}");
        Ok(())
    })?;
    node.kubectl("delete namespace claims --timeout=60s")?;
    Ok(())
}

fn daemon(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace daemon")?;
    node.kubectl(&format!("-n daemon apply -f {}", sample("daemon.yaml")))?;
    let kubectl = |words: &str| node.kubectl(&format!("-n daemon {words}"));
    kubectl("rollout status daemonset/watchman --timeout=60s")?;
    let row = kubectl("get daemonset watchman --no-headers")?;
    let cells: Vec<_> = row.split_whitespace().collect();
    ensure!(cells[1..6] == ["1", "1", "1", "1", "1"], "{row}");
    let logs = kubectl("logs daemonset/watchman")?;
    ensure!(logs.starts_with("watching "), "{logs}");
    kubectl("set env daemonset/watchman VERSION=2")?;
    kubectl("rollout status daemonset/watchman --timeout=60s")?;
    let history = kubectl("rollout history daemonset/watchman")?;
    ensure!(
        history.lines().filter(|line| line.starts_with(['1', '2'])).count() == 2,
        "{history}"
    );
    kubectl("rollout undo daemonset/watchman --to-revision=1")?;
    kubectl("rollout status daemonset/watchman --timeout=60s")?;
    let env = field(
        node,
        "-n daemon get daemonset watchman",
        ".spec.template.spec.containers[0].env[*].name",
    )?;
    ensure!(env == "NODE", "{env}");
    let revisions = kubectl("get controllerrevisions -o jsonpath={.items[*].revision}")?;
    ensure!(revisions == "2 3" || revisions == "3 2", "{revisions}");
    node.kubectl("delete namespace daemon --timeout=60s")?;
    Ok(())
}

fn cron(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace cron")?;
    node.kubectl(&format!("-n cron apply -f {}", sample("cron.yaml")))?;
    let kubectl = |words: &str| node.kubectl(&format!("-n cron {words}"));
    // One that nobody has to wait for.
    kubectl("create job now --from=cronjob/minutely")?;
    kubectl("wait --for=condition=Complete job/now --timeout=60s")?;
    kubectl("wait --for=jsonpath={.status.lastScheduleTime} cronjob/minutely --timeout=90s")?;
    let row = kubectl("get cronjob minutely --no-headers")?;
    ensure!(row.contains("Europe/Berlin") && row.contains("False"), "{row}");
    let jobs = kubectl("get jobs -o jsonpath={.items[*].metadata.name}")?;
    let name = jobs.split(' ').find(|name| name.starts_with("minutely-"));
    let name = name.ok_or_else(|| anyhow::anyhow!("there is none: {jobs}"))?;
    kubectl(&format!("wait --for=condition=Complete job/{name} --timeout=60s"))?;
    let logs = kubectl(&format!("logs job/{name}"))?;
    ensure!(logs.starts_with("tick at "), "{logs}");
    eventually("it tells what it does", || {
        let described = kubectl("describe cronjob minutely")?;
        for text in ["SuccessfulCreate", "SawCompletedJob", "Created job minutely-"] {
            ensure!(described.contains(text), "{text:?} is missing in\n{described}");
        }
        Ok(())
    })?;
    kubectl("patch cronjob minutely -p {\"spec\":{\"suspend\":true}}")?;
    ensure!(kubectl("get cronjob minutely --no-headers")?.contains("True"));
    node.kubectl("delete namespace cron --timeout=60s")?;
    Ok(())
}

const INDEXED: &str = r#"{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"parts","namespace":"indexes"},"spec":{
  "completions":4,"parallelism":4,"completionMode":"Indexed","backoffLimitPerIndex":0,
  "template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"busybox:1.36",
  "command":["sh","-c","echo index $JOB_COMPLETION_INDEX of $(hostname); exit $((JOB_COMPLETION_INDEX % 2))"]}]}}}}"#;

fn indexes(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace indexes")?;
    let file = node.file("indexes.json");
    std::fs::write(&file, INDEXED)?;
    run(node.command("kubectl").args(["apply", "-f"]).arg(&file))?;
    node.kubectl("-n indexes wait --for=condition=Failed job/parts --timeout=60s")?;
    let job = "-n indexes get job parts";
    ensure!(field(node, job, ".status.completedIndexes")? == "0,2");
    ensure!(field(node, job, ".status.failedIndexes")? == "1,3");
    let reason = field(node, job, ".status.conditions[?(@.type==\"Failed\")].reason")?;
    ensure!(reason == "FailedIndexes", "{reason}");
    let logs = node.kubectl("-n indexes logs -l batch.kubernetes.io/job-completion-index=2")?;
    ensure!(logs.contains("index 2 of parts-2"), "{logs}");
    node.kubectl("delete namespace indexes --timeout=60s")?;
    Ok(())
}
