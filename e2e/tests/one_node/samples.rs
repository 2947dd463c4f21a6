//! The samples of `manifests/samples`, applied as a user would.

use anyhow::ensure;
use e2e::eventually;
use e2e::lab::Node;

use crate::{Scenario, sample};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("a_web_server_answers_by_every_address", web),
    ("a_job_completes_with_an_image_that_is_never_pulled", job),
    ("settings_reach_files_and_environment", settings),
    ("a_web_server_counts_its_visits_in_a_database", counter),
];

fn web(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace web")?;
    node.kubectl(&format!("-n web apply -f {}", sample("web.yaml")))?;
    node.kubectl("-n web rollout status deployment/web --timeout=60s")?;
    node.kubectl("-n web wait --for=condition=Available deployment/web --timeout=30s")?;

    let wide = node.kubectl("-n web get pods -o wide")?;
    ensure!(
        wide.lines()
            .filter(|line| line.contains("1/1") && line.contains("Running"))
            .count()
            == 3,
        "{wide}"
    );
    let pods: Vec<String> = names(node, "-n web get pods -l app=web -o name")?;
    let described = node.kubectl(&format!("-n web describe {}", pods[0]))?;
    for line in ["Successfully assigned", "Container created", "Container started"] {
        ensure!(described.contains(line), "{line:?} is missing in\n{described}");
    }

    let address = node.kubectl("-n web get service web -o jsonpath={.spec.clusterIP}")?;
    reaches_all(node, &pods, |node| node.get(&format!("http://{address}/")))?;
    reaches_all(node, &pods, |node| node.get("http://172.30.0.11:30080/"))?;
    let inside = format!("-n web exec {} -- wget -q -O - ", pods[0]);
    for name in ["web", "web.web", "web.web.svc.cluster.local"] {
        let body = node.kubectl(&format!("{inside}http://{name}/"))?;
        ensure!(
            pods.iter().any(|pod| pod.ends_with(body.trim())),
            "{name} answers {body:?}"
        );
    }
    let by_address = node.kubectl(&format!("{inside}http://{address}/"))?;
    ensure!(
        pods.iter().any(|pod| pod.ends_with(by_address.trim())),
        "{by_address:?}"
    );

    let by_port = node.kubectl(&format!("{inside}http://172.30.0.11:30080/"))?;
    ensure!(
        pods.iter().any(|pod| pod.ends_with(by_port.trim())),
        "by NodePort from a pod: {by_port:?}"
    );
    // The node asks the cluster's resolver as a pod does.
    let busybox = node.tools().packaged("bin/busybox").display().to_string();
    let named = node.sh(&format!("{busybox} nslookup web.web.svc.cluster.local 10.96.0.10"))?;
    ensure!(named.contains(&address), "from the node: {named}");

    let logs = node.kubectl(&format!("-n web logs {}", pods[0]))?;
    ensure!(logs.contains("serving as web-"), "{logs}");

    node.kubectl("-n web scale deployment/web --replicas=5")?;
    node.kubectl("-n web rollout status deployment/web --timeout=60s")?;
    node.kubectl("-n web set image deployment/web web=docker.io/library/busybox:1.36")?;
    node.kubectl("-n web rollout status deployment/web --timeout=90s")?;
    let images = node.kubectl("-n web get pods -l app=web -o jsonpath={.items[*].spec.containers[0].image}")?;
    eventually("old pods go", || {
        let running = names(node, "-n web get pods -l app=web -o name")?;
        ensure!(running.len() == 5, "{running:?} with {images}");
        Ok(())
    })?;

    // A pod that is deleted is replaced, a container that is killed is restarted.
    let pods = names(node, "-n web get pods -l app=web -o name")?;
    node.kubectl(&format!("-n web delete {}", pods[0]))?;
    eventually("the deleted pod is replaced", || {
        let now = names(
            node,
            "-n web get pods -l app=web --field-selector=status.phase=Running -o name",
        )?;
        ensure!(now.len() == 5 && !now.contains(&pods[0]), "{now:?}");
        Ok(())
    })?;
    node.kubectl(&format!("-n web exec {} -- kill -9 -1", pods[1])).ok();
    let count = format!(
        "-n web get {} -o jsonpath={{.status.containerStatuses[0].restartCount}}",
        pods[1]
    );
    // kill -9 -1 spares PID 1, whose child it waits for: it ends, and the container with it.
    eventually("the container is restarted", || {
        let restarts = node.kubectl(&count)?;
        ensure!(restarts == "1", "{restarts} restarts");
        Ok(())
    })?;
    node.kubectl(&format!("-n web wait --for=condition=Ready {} --timeout=60s", pods[1]))?;
    node.kubectl("delete namespace web --timeout=60s")?;
    Ok(())
}

fn names(node: &Node, query: &str) -> anyhow::Result<Vec<String>> {
    Ok(node.kubectl(query)?.lines().map(str::to_owned).collect())
}

/// Every pod answers sooner or later: traffic is spread.
fn reaches_all(node: &Node, pods: &[String], ask: impl Fn(&Node) -> anyhow::Result<String>) -> anyhow::Result<()> {
    let mut heard = std::collections::BTreeSet::new();
    for _ in 0..60 {
        heard.insert(ask(node)?.trim().to_owned());
        if heard.len() == pods.len() {
            return Ok(());
        }
    }
    anyhow::bail!("only {heard:?} of {pods:?} answer")
}

fn job(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace job")?;
    node.kubectl(&format!("-n job apply -f {}", sample("job.yaml")))?;
    node.kubectl("-n job wait --for=condition=Complete job/count --timeout=60s")?;
    let logs = node.kubectl("-n job logs job/count")?;
    ensure!(logs == "1\n2\n3\n", "{logs:?}");
    let row = node.kubectl("-n job get job count --no-headers")?;
    ensure!(row.contains("Complete") && row.contains("2/2"), "{row}");
    node.kubectl("delete namespace job --timeout=60s")?;
    Ok(())
}

fn settings(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace settings")?;
    node.kubectl(&format!("-n settings apply -f {}", sample("settings.yaml")))?;
    node.kubectl("-n settings wait --for=condition=Ready pod/consumer --timeout=60s")?;
    let logs = eventually("the consumer speaks", || {
        let logs = node.kubectl("-n settings logs consumer")?;
        ensure!(logs.contains("</h1>"), "{logs:?}");
        Ok(logs)
    })?;
    ensure!(logs.contains("hello from consumer with 10 secret bytes"), "{logs}");
    // A change reaches the running pod's files.
    let patch = r#"{"data":{"page.html":"changed"}}"#;
    node.kubectl(&format!("-n settings patch configmap settings --type=merge -p {patch}"))?;
    eventually("the change reaches the pod", || {
        let page = node.kubectl("-n settings exec consumer -- cat /etc/settings/page.html")?;
        ensure!(page == "changed", "{page:?}");
        Ok(())
    })?;
    node.kubectl("delete namespace settings --timeout=60s")?;
    Ok(())
}

fn counter(node: &Node) -> anyhow::Result<()> {
    node.kubectl(&format!("apply -f {}", sample("counter.yaml")))?;
    node.kubectl("-n counter rollout status deployment/database --timeout=60s")?;
    node.kubectl("-n counter rollout status deployment/web --timeout=60s")?;
    let address = node.kubectl("-n counter get service web -o jsonpath={.spec.clusterIP}")?;
    for visit in 1..=3 {
        let body = node.get(&format!("http://{address}/cgi-bin/visits"))?;
        ensure!(body == format!("visits: {visit}\n"), "{body:?} at visit {visit}");
    }
    node.kubectl("delete namespace counter --timeout=60s")?;
    Ok(())
}
