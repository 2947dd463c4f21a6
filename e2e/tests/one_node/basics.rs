//! Commands of every day, beside the samples.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use anyhow::{Context, ensure};
use e2e::lab::Node;
use e2e::{eventually, run};

use crate::Scenario;

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("up_again_changes_nothing", up_again),
    ("the_node_is_ready_and_described", the_node),
    ("logs_are_followed_to_their_end", follow),
    ("exec_carries_input_output_and_exit_codes", exec),
    ("a_watch_shows_each_change", watch),
    ("rights_are_what_roles_say", rights),
];

fn up_again(node: &Node) -> anyhow::Result<()> {
    let before = node.kubectl("get nodes -o jsonpath={.items[0].metadata.uid}")?;
    let said = node.coracle(&["up"])?;
    ensure!(said.contains("The cluster is ready"), "{said}");
    ensure!(before == node.kubectl("get nodes -o jsonpath={.items[0].metadata.uid}")?);
    let status = node.coracle(&["status"])?;
    ensure!(status.contains("ready"), "{status}");
    Ok(())
}

fn the_node(node: &Node) -> anyhow::Result<()> {
    let wide = node.kubectl("get nodes -o wide --no-headers")?;
    ensure!(
        wide.contains(" Ready ") && wide.contains("172.30.0.11") && wide.contains("containerd://"),
        "{wide}"
    );
    let described = node.kubectl("describe nodes")?;
    ensure!(
        described.contains("KubeletReady") && described.contains("Allocated resources"),
        "{described}"
    );
    let services = node.kubectl("get services -A --no-headers")?;
    ensure!(
        services.contains("kubernetes") && services.contains("10.96.0.1 ") && services.contains("kube-dns"),
        "{services}"
    );
    Ok(())
}

const SH: &str = "--image=busybox:1.36 --restart=Never --command -- sh -c";

fn follow(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace follow")?;
    let mut words: Vec<&str> = "-n follow run teller".split(' ').chain(SH.split(' ')).collect();
    words.push("for n in $(seq 50); do echo line $n; done; sleep 2; echo last; exit 3");
    run(node.command("kubectl").args(&words))?;
    eventually("the pod starts", || node.kubectl("-n follow logs teller").map(drop))?;
    let followed = node.kubectl("-n follow logs -f teller")?;
    ensure!(
        followed.lines().count() == 51 && followed.ends_with("line 50\nlast\n"),
        "{followed}"
    );
    let tail = node.kubectl("-n follow logs --tail=2 teller")?;
    ensure!(tail == "line 50\nlast\n", "{tail:?}");
    eventually("the failure is told", || {
        let code = node
            .kubectl("-n follow get pod teller -o jsonpath={.status.containerStatuses[0].state.terminated.exitCode}")?;
        ensure!(code == "3", "{code:?}");
        Ok(())
    })?;
    node.kubectl("delete namespace follow --timeout=60s")?;
    Ok(())
}

fn exec(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace exec")?;
    let mut words: Vec<&str> = "-n exec run box".split(' ').chain(SH.split(' ')).collect();
    words.push("trap 'exit 0' TERM; sleep 86400 & wait");
    run(node.command("kubectl").args(&words))?;
    node.kubectl("-n exec wait --for=condition=Ready pod/box --timeout=60s")?;

    let output = node
        .command("kubectl")
        .args("-n exec exec box -- sh -c".split(' '))
        .arg("echo out; echo err >&2; exit 7")
        .output()?;
    ensure!(output.status.code() == Some(7), "{output:?}");
    ensure!(
        output.stdout == b"out\n" && String::from_utf8_lossy(&output.stderr).starts_with("err\n"),
        "{output:?}"
    );

    // The end of the input reaches the program; nothing of it is lost.
    let mut input = Vec::new();
    for line in 0..20_000 {
        writeln!(input, "line {line}")?;
    }
    let mut child = node
        .command("kubectl")
        .args("-n exec exec -i box -- wc -c".split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("stdin is piped")?.write_all(&input)?;
    let output = child.wait_with_output()?;
    let counted = String::from_utf8_lossy(&output.stdout);
    ensure!(
        counted.trim() == input.len().to_string(),
        "{counted} of {} bytes: {output:?}",
        input.len()
    );
    node.kubectl("delete namespace exec --timeout=60s")?;
    Ok(())
}

fn watch(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace watch")?;
    let mut child = node
        .command("kubectl")
        .args("-n watch get configmaps -w --output-watch-events --field-selector metadata.name=one".split(' '))
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
    node.kubectl("-n watch create configmap one --from-literal=a=1")?;
    node.kubectl("-n watch create configmap two --from-literal=a=1")?;
    node.kubectl("-n watch label configmap one x=y")?;
    node.kubectl("-n watch delete configmap one")?;
    let mut seen = Vec::new();
    for line in lines {
        let line = line?;
        seen.extend(
            line.split_whitespace()
                .next()
                .filter(|word| *word != "EVENT")
                .map(str::to_owned),
        );
        if line.starts_with("DELETED") {
            break;
        }
    }
    child.kill()?;
    child.wait()?;
    ensure!(seen == ["ADDED", "MODIFIED", "DELETED"], "{seen:?}");
    node.kubectl("delete namespace watch --timeout=60s")?;
    Ok(())
}

fn rights(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace rights")?;
    node.kubectl("-n rights create serviceaccount reader")?;
    node.kubectl("-n rights create role reader --verb=get,list --resource=configmaps")?;
    node.kubectl("-n rights create rolebinding reader --role=reader --serviceaccount=rights:reader")?;
    let can = |question: &str| {
        let who = "--as=system:serviceaccount:rights:reader";
        let output = node
            .command("kubectl")
            .args(format!("-n rights auth can-i {question} {who}").split(' '))
            .output()?;
        anyhow::Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    eventually("the binding takes effect", || {
        ensure!(can("list configmaps")? == "yes");
        Ok(())
    })?;
    for question in ["list secrets", "delete configmaps", "list configmaps -A"] {
        let answer = can(question)?;
        ensure!(answer == "no", "{question}: {answer}");
    }
    ensure!(node.kubectl("auth can-i * *")?.trim() == "yes");
    let denied = node
        .kubectl("-n rights get secrets --as=system:serviceaccount:rights:reader")
        .map(drop);
    let text = format!("{:#}", denied.err().context("a stranger read secrets")?);
    ensure!(
        text.contains("cannot list resource \"secrets\" in API group \"\" in the namespace \"rights\""),
        "{text}"
    );
    node.kubectl("delete namespace rights --timeout=60s")?;
    Ok(())
}
