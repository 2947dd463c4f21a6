//! Writes of every sort with the real kubectl, and who owns what after them.

use anyhow::{Context, ensure};
use e2e::lab::Node;

use crate::Scenario;

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("server_side_apply_conflicts_and_is_forced", server_side),
    ("client_side_apply_moves_to_the_server", moves),
    ("edit_replace_and_patches_of_each_type", edits),
    ("labels_annotations_and_set_change_their_part", parts),
    ("deletes_cascade_as_asked", cascades),
    ("applied_sets_are_pruned", prune),
    ("types_are_explained_and_listed", explained),
];

/// A namespace for one scenario, with a folder whose files the node sees.
struct Desk<'n> {
    node: &'n Node,
    namespace: &'static str,
    folder: String,
}

impl<'n> Desk<'n> {
    fn new(node: &'n Node, namespace: &'static str) -> anyhow::Result<Self> {
        node.kubectl(&format!("create namespace {namespace}"))?;
        let folder = node.file(namespace);
        std::fs::create_dir_all(&folder)?;
        Ok(Desk {
            node,
            namespace,
            folder: folder.display().to_string(),
        })
    }
    fn file(&self, name: &str, text: &str) -> anyhow::Result<String> {
        let path = format!("{}/{name}", self.folder);
        std::fs::write(&path, text).with_context(|| path.clone())?;
        Ok(path)
    }
    /// A shell line on the node where `k` is kubectl in the namespace.
    fn sh(&self, line: &str) -> anyhow::Result<String> {
        self.node.sh(&format!(
            "k() {{ kubectl -n {} \"$@\"; }}; cd {}; {line}",
            self.namespace, self.folder
        ))
    }
    /// What a line that must fail says.
    fn refused(&self, line: &str) -> anyhow::Result<String> {
        self.sh(&format!("if ({line}) 2>&1; then echo accepted >&2; exit 1; fi"))
    }
    /// `manager/operation/subresource` of each entry, sorted.
    fn managers(&self, object: &str) -> anyhow::Result<String> {
        let path = r#"'{range .metadata.managedFields[*]}{.manager}/{.operation}/{.subresource}{"\n"}{end}'"#;
        self.sh(&format!(
            "k get {object} --show-managed-fields -o jsonpath={path} | sort"
        ))
    }
    fn data(&self) -> anyhow::Result<String> {
        self.sh("k get configmap settings -o jsonpath='{.data}'")
    }
}

impl Drop for Desk<'_> {
    fn drop(&mut self) {
        // The cluster goes with the lab; this only frees its pods early.
        let _ = self
            .node
            .kubectl(&format!("delete namespace {} --wait=false", self.namespace));
    }
}

const SETTINGS: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, labels: {part: x}}\ndata: {a: \"1\", b: \"2\"}\n";

fn workload(replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  replicas: {replicas}\n  selector: {{matchLabels: {{app: web}}}}\n  \
        template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      containers:\n      \
        - {{name: c, image: \"busybox:1.36\", command: [sleep, \"1000000\"], ports: [{{containerPort: 80}}]}}\n"
    )
}

fn server_side(node: &Node) -> anyhow::Result<()> {
    let desk = Desk::new(node, "server-side")?;
    desk.file("one.yaml", &workload(1))?;
    desk.file("two.yaml", &workload(2))?;
    let said = desk.sh("k apply --server-side -f one.yaml")?;
    ensure!(said == "deployment.apps/web serverside-applied\n", "{said}");
    desk.sh("k wait --for=condition=Available deployment/web --timeout=60s")?;
    // Again, and nothing was written.
    let revision = |desk: &Desk<'_>| desk.sh("k get deployment web -o jsonpath='{.metadata.resourceVersion}'");
    let before = revision(&desk)?;
    desk.sh("k apply --server-side -f one.yaml")?;
    ensure!(before == revision(&desk)?);
    // What is shown has no managedFields unless they are asked for.
    ensure!(!desk.sh("k get deployment web -o yaml")?.contains("managedFields"));
    let shown = desk.sh("k get deployment web -o yaml --show-managed-fields")?;
    ensure!(
        shown.contains("k:{\"containerPort\":80,\"protocol\":\"TCP\"}:"),
        "{shown}"
    );
    desk.sh("k scale deployment web --replicas=3")?;
    let managers = desk.managers("deployment web")?;
    ensure!(
        managers == "kube-controller-manager/Update/status\nkubectl/Apply/\nkubectl/Update/scale\n",
        "{managers}"
    );
    let conflict = desk.refused("k apply --server-side -f two.yaml")?;
    ensure!(
        conflict.contains("Apply failed with 1 conflict: conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas")
            && conflict.contains("--force-conflicts"),
        "{conflict}"
    );
    let shown = desk.refused("k diff --server-side --force-conflicts -f two.yaml")?;
    ensure!(shown.contains("-  replicas: 3\n+  replicas: 2"), "{shown}");
    desk.sh("k apply --server-side --force-conflicts -f two.yaml")?;
    let replicas = desk.sh("k get deployment web -o jsonpath='{.spec.replicas}'")?;
    ensure!(replicas == "2", "{replicas}");
    let managers = desk.managers("deployment web")?;
    ensure!(!managers.contains("scale"), "{managers}");
    // A dry run says what would be and leaves what is.
    let dry = desk.sh("sed 's/busybox:1.36/busybox:9/' two.yaml | k apply --server-side --dry-run=server -o jsonpath='{..image}' -f -")?;
    ensure!(dry == "busybox:9", "{dry}");
    let typo = desk.refused("sed 's/replicas/replica/' two.yaml | k apply --server-side --validate=false -f -")?;
    ensure!(
        typo.contains("failed to create typed patch object (server-side/web; apps/v1, Kind=Deployment): .spec.replica: field not declared in schema"),
        "{typo}"
    );
    Ok(())
}

fn moves(node: &Node) -> anyhow::Result<()> {
    let desk = Desk::new(node, "moves")?;
    desk.file("settings.yaml", SETTINGS)?;
    desk.sh("k apply -f settings.yaml")?;
    ensure!(desk.managers("configmap settings")? == "kubectl-client-side-apply/Update/\n");
    let last = desk.sh("k apply view-last-applied configmap settings -o json")?;
    ensure!(
        last.contains("\"a\": \"1\"") && last.contains("\"name\": \"settings\""),
        "{last}"
    );
    // kubectl moves what its client-side apply owned by a patch of managedFields.
    desk.sh("k apply --server-side -f settings.yaml")?;
    let managers = desk.managers("configmap settings")?;
    ensure!(
        managers == "kubectl-last-applied/Apply/\nkubectl/Apply/\n",
        "{managers}"
    );
    // No longer said, so gone, and the annotation follows.
    desk.sh("sed 's/, b: \"2\"//' settings.yaml | k apply --server-side -f -")?;
    ensure!(desk.data()? == "{\"a\":\"1\"}", "{}", desk.data()?);
    let last = desk.sh("k apply view-last-applied configmap settings -o json")?;
    ensure!(!last.contains("\"b\""), "{last}");
    // And back.
    let diff = desk.refused("k diff -f settings.yaml")?;
    ensure!(diff.contains("+  b: \"2\""), "{diff}");
    desk.sh("k apply -f settings.yaml")?;
    ensure!(desk.data()? == "{\"a\":\"1\",\"b\":\"2\"}", "{}", desk.data()?);
    desk.sh("k diff -f settings.yaml")?;
    // Nobody's, by hand.
    desk.sh("k patch configmap settings --type=merge -p '{\"metadata\":{\"managedFields\":[{}]}}'")?;
    ensure!(desk.managers("configmap settings")?.is_empty());
    Ok(())
}

fn edits(node: &Node) -> anyhow::Result<()> {
    let desk = Desk::new(node, "edits")?;
    desk.file("settings.yaml", SETTINGS)?;
    desk.file("editor.sh", "#!/bin/sh\nsed -i 's/a: \"1\"/a: edited/' \"$1\"\n")?;
    desk.sh("chmod +x editor.sh; k create -f settings.yaml")?;
    let said = desk.sh("EDITOR=$PWD/editor.sh k edit configmap settings")?;
    ensure!(said == "configmap/settings edited\n", "{said}");
    ensure!(desk.data()? == "{\"a\":\"edited\",\"b\":\"2\"}", "{}", desk.data()?);
    let same = desk.sh("EDITOR=true k edit configmap settings 2>&1")?;
    ensure!(same.contains("no changes made"), "{same}");
    desk.sh("k get configmap settings -o yaml | sed 's/edited/replaced/' | k replace -f -")?;
    desk.sh("k patch configmap settings -p '{\"data\":{\"s\":\"strategic\"}}'")?;
    desk.sh("k patch configmap settings --type=merge -p '{\"data\":{\"b\":null,\"m\":\"merge\"}}'")?;
    desk.sh("k patch configmap settings --type=json -p '[{\"op\":\"add\",\"path\":\"/data/j\",\"value\":\"json\"}]'")?;
    let data = desk.data()?;
    ensure!(
        data == "{\"a\":\"replaced\",\"j\":\"json\",\"m\":\"merge\",\"s\":\"strategic\"}",
        "{data}"
    );
    let managers = desk.managers("configmap settings")?;
    ensure!(
        managers == "kubectl-create/Update/\nkubectl-patch/Update/\nkubectl-replace/Update/\n",
        "{managers}"
    );
    let uid = |desk: &Desk<'_>| desk.sh("k get configmap settings -o jsonpath='{.metadata.uid}'");
    let before = uid(&desk)?;
    desk.sh("k replace --force -f settings.yaml")?;
    ensure!(before != uid(&desk)?);
    // A stale copy is refused.
    desk.sh("k get configmap settings -o yaml > stale.yaml; k annotate configmap settings x=y")?;
    let stale = desk.refused("k replace -f stale.yaml")?;
    ensure!(stale.contains("the object has been modified"), "{stale}");
    desk.sh("k apply --server-side -f settings.yaml --force-conflicts")?;
    let kept = desk.sh("k get configmap settings -o jsonpath='{.metadata.annotations.x}'")?;
    ensure!(kept == "y", "{kept}");
    Ok(())
}

fn parts(node: &Node) -> anyhow::Result<()> {
    let desk = Desk::new(node, "parts")?;
    desk.file("web.yaml", &workload(1))?;
    desk.sh("k create -f web.yaml")?;
    desk.sh("k label deployment web tier=front; k annotate deployment web note=hi")?;
    let twice = desk.refused("k label deployment web tier=back")?;
    ensure!(
        twice.contains("already has a value (front), and --overwrite is false"),
        "{twice}"
    );
    desk.sh("k label --overwrite deployment web tier=back; k label deployment web tier-")?;
    desk.sh("k set env deployment/web A=b C=d; k set env deployment/web C-; k set resources deployment/web -c=c --limits=cpu=100m")?;
    let list = desk.sh("k set env deployment/web --list")?;
    ensure!(list.ends_with("A=b\n"), "{list}");
    let managers = desk.managers("deployment web")?;
    ensure!(
        managers.contains("kubectl-annotate/Update/")
            && managers.contains("kubectl-set/Update/")
            && !managers.contains("kubectl-label/"),
        "{managers}"
    );
    desk.sh("k patch deployment web --subresource=scale --type=merge -p '{\"spec\":{\"replicas\":2}}'")?;
    desk.sh("k wait --for=jsonpath='{.status.readyReplicas}'=2 deployment/web --timeout=60s")?;
    let token = desk.sh("k create token default --duration=20m")?;
    ensure!(token.trim().split('.').count() == 3, "{token}");
    Ok(())
}

fn cascades(node: &Node) -> anyhow::Result<()> {
    let desk = Desk::new(node, "cascades")?;
    let sets = |name: &str| desk.sh(&format!("k get replicasets -l app={name} -o name"));
    for name in ["foreground", "orphan", "background"] {
        desk.file(&format!("{name}.yaml"), &workload(1).replace("web", name))?;
        desk.sh(&format!("k create -f {name}.yaml"))?;
    }
    for name in ["foreground", "orphan", "background"] {
        desk.sh(&format!(
            "k wait --for=condition=Available deployment/{name} --timeout=60s"
        ))?;
        desk.sh(&format!("k delete deployment {name} --cascade={name} --timeout=60s"))?;
    }
    // In the foreground the dependents were gone before it; the background may take a moment.
    ensure!(sets("foreground")?.is_empty());
    desk.sh("k wait --for=delete replicaset -l app=background --timeout=60s")?;
    ensure!(sets("orphan")?.lines().count() == 1);
    let owners = desk.sh("k get replicasets -l app=orphan -o jsonpath='{.items[0].metadata.ownerReferences}'")?;
    ensure!(owners.is_empty(), "{owners}");
    // A new Deployment takes the orphan back.
    desk.sh("k create -f orphan.yaml; k wait --for=condition=Available deployment/orphan --timeout=60s")?;
    ensure!(sets("orphan")?.lines().count() == 1);
    Ok(())
}

fn prune(node: &Node) -> anyhow::Result<()> {
    let desk = Desk::new(node, "prune")?;
    desk.sh("mkdir set")?;
    desk.file("set/one.yaml", &SETTINGS.replace("settings", "one"))?;
    let left = |desk: &Desk<'_>| desk.sh("k get configmaps -l part=x -o name");
    let with_two = |desk: &Desk<'_>| {
        desk.file("set/two.yaml", &SETTINGS.replace("settings", "two"))
            .map(drop)
    };
    with_two(&desk)?;
    desk.sh("k apply --prune -l part=x --prune-allowlist=core/v1/ConfigMap -f set")?;
    ensure!(left(&desk)? == "configmap/one\nconfigmap/two\n");
    let pruned = desk.sh("rm set/two.yaml; k apply --prune -l part=x --prune-allowlist=core/v1/ConfigMap -f set")?;
    ensure!(pruned.contains("configmap/two pruned"), "{pruned}");
    ensure!(left(&desk)? == "configmap/one\n");
    desk.sh("k delete configmap one")?;
    with_two(&desk)?;
    let applyset = "export KUBECTL_APPLYSET=true; k apply --server-side --prune --applyset=mine -f set";
    desk.sh(applyset)?;
    let pruned = desk.sh(&format!("rm set/two.yaml; {applyset}"))?;
    ensure!(pruned.contains("configmap/two pruned"), "{pruned}");
    ensure!(left(&desk)? == "configmap/one\n");
    Ok(())
}

fn explained(node: &Node) -> anyhow::Result<()> {
    let strategy = node.kubectl("explain deployments.spec.strategy --recursive")?;
    ensure!(
        strategy.contains("rollingUpdate\t<RollingUpdateDeployment>\n    maxSurge\t<IntOrString>"),
        "{strategy}"
    );
    ensure!(node.kubectl("explain pods --recursive")?.lines().count() > 1000);
    let resources = node.kubectl("api-resources --verbs=list,patch --namespaced -o name")?;
    ensure!(
        resources.contains("deployments.apps\n") && resources.contains("configmaps\n"),
        "{resources}"
    );
    ensure!(node.kubectl("api-versions")?.contains("apps/v1\n"));
    Ok(())
}
