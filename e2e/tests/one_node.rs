//! One node, from `up` to `reset`, with the real kubectl. The scenarios share a cluster, each in a namespace of its own;
//! those that end or restart the cluster run alone, after them.

use std::path::Path;
use std::sync::Arc;

use e2e::lab::{self, Node};
use e2e::tools::Tools;
use libtest_mimic::{Arguments, Conclusion, Trial};

#[path = "one_node/basics.rs"]
mod basics;
#[path = "one_node/certificates.rs"]
mod certificates;
#[path = "one_node/endings.rs"]
mod endings;
#[path = "one_node/helm.rs"]
mod helm;
#[path = "one_node/ownership.rs"]
mod ownership;
#[path = "one_node/pods.rs"]
mod pods;
#[path = "one_node/policy.rs"]
mod policy;
#[path = "one_node/refusals.rs"]
mod refusals;
#[path = "one_node/samples.rs"]
mod samples;
#[path = "one_node/streaming.rs"]
mod streaming;
#[path = "one_node/usage.rs"]
mod usage;
#[path = "one_node/workloads.rs"]
mod workloads;

type Scenario = fn(&Node) -> anyhow::Result<()>;

fn main() -> std::process::ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(lab::INIT) {
        lab::init(&words.next().expect("the lab names its ready file"));
    }
    let mut arguments = Arguments::from_args();
    // Two cores carry the cluster and the tests.
    arguments.test_threads = arguments.test_threads.or(Some(3));
    if !nix::unistd::Uid::effective().is_root() {
        e2e::say("one_node: skipped, labs need root");
        return std::process::ExitCode::SUCCESS;
    }
    let node = match start() {
        Ok(node) => Arc::new(node),
        Err(error) => {
            e2e::say(&format!("the lab does not start: {error:#}"));
            return std::process::ExitCode::FAILURE;
        }
    };
    let together = [
        basics::SCENARIOS,
        samples::SCENARIOS,
        refusals::SCENARIOS,
        usage::SCENARIOS,
        ownership::SCENARIOS,
        helm::SCENARIOS,
        pods::SCENARIOS,
        certificates::SCENARIOS,
        workloads::SCENARIOS,
        streaming::SCENARIOS,
        policy::SCENARIOS,
    ]
    .concat();
    let first = libtest_mimic::run(&arguments, trials(&node, &together));
    arguments.test_threads = Some(1);
    let second = libtest_mimic::run(&arguments, trials(&node, endings::SCENARIOS));
    let failed = |conclusion: &Conclusion| conclusion.num_failed > 0;
    drop(node);
    if failed(&first) || failed(&second) {
        std::process::ExitCode::FAILURE
    } else {
        std::process::ExitCode::SUCCESS
    }
}

fn start() -> anyhow::Result<Node> {
    let tools = Tools::get()?;
    let node = Node::start("lab", &tools)?;
    endings::remember(&node)?;
    endings::small_disk(&node)?;
    let said = node.coracle(&["up"]).map_err(|error| error.context(node.logs()))?;
    e2e::say(&said);
    for (name, make) in [
        ("busybox", e2e::images::busybox as fn(&Tools, &Path) -> _),
        ("redis", e2e::images::redis),
    ] {
        let archive = node.file(&format!("{name}.tar"));
        make(&tools, &archive)?;
        node.coracle(&["image", "load", &archive.display().to_string()])?;
    }
    Ok(node)
}

/// The path of one of `manifests/samples`.
fn sample(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/samples");
    folder
        .canonicalize()
        .expect("the samples are there")
        .join(name)
        .display()
        .to_string()
}

fn trials(node: &Arc<Node>, scenarios: &[(&'static str, Scenario)]) -> Vec<Trial> {
    let trial = |(name, scenario): &(&'static str, Scenario)| {
        let (node, scenario) = (node.clone(), *scenario);
        Trial::test(*name, move || {
            scenario(&node).map_err(|error| format!("{error:#}\n{}", node.logs()).into())
        })
    };
    scenarios.iter().map(trial).collect()
}
