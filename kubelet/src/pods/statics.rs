//! Static pods: defined by files of this node, run whether or not there is an API, and shown to it by mirrors.
//!
//! A file's pod gets its UID from what the file says, so a changed file is another pod. Its mirror in the API carries that UID
//! in an annotation; it is made again when somebody deletes it, and goes when the file goes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use daemon::informer::Entry;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::shared::Shared;

const MIRROR: &str = "kubernetes.io/config.mirror";
const HASH: &str = "kubernetes.io/config.hash";
const SOURCE: &str = "kubernetes.io/config.source";
const SEEN: &str = "kubernetes.io/config.seen";

/// Namespace and name.
pub type Key = (String, String);

/// The pods that the files define now.
#[derive(Debug, Default)]
pub struct Statics {
    /// None: this node has no such folder.
    root: Option<PathBuf>,
    node: String,
    wanted: Mutex<BTreeMap<Key, Arc<Entry<Pod>>>>,
    /// The workers are to be compared with the files.
    pub changed: Notify,
    /// The mirrors are.
    pub mirrored: Notify,
}

pub fn is_static(pod: &Pod) -> bool {
    let source = pod.metadata.annotations.as_ref().and_then(|a| a.get(SOURCE));
    source.is_some_and(|s| s != "api")
}

/// The UID of the static pod that an entry of the API mirrors.
pub fn mirrored(entry: &Entry<Pod>) -> Option<String> {
    #[derive(Deserialize)]
    struct Annotated {
        metadata: Meta,
    }
    #[derive(Deserialize)]
    struct Meta {
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    // Every mirror belongs to its node, and hardly another pod does: most need not be looked into.
    if !entry.owners.iter().any(|o| &*o.kind == "Node") {
        return None;
    }
    let mut seen: Annotated = entry.view().ok()?;
    seen.metadata.annotations.remove(MIRROR)
}

impl Statics {
    pub fn new(root: Option<PathBuf>, node: &str) -> Self {
        let statics = Statics {
            root,
            node: node.to_owned(),
            ..Statics::default()
        };
        statics.load();
        statics
    }

    pub fn wanted(&self) -> BTreeMap<Key, Arc<Entry<Pod>>> {
        self.wanted.lock().expect("no holder of this lock panics").clone()
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry<Pod>>> {
        let wanted = self.wanted.lock().expect("no holder of this lock panics");
        wanted.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Reads the files. One that is no pod is told of and changes nothing that runs from other files.
    fn load(&self) {
        let Some(root) = &self.root else { return };
        let mut next = BTreeMap::new();
        for file in files(root) {
            match std::fs::read_to_string(&file)
                .map_err(|e| e.to_string())
                .and_then(|text| read(&text, &file, &self.node))
            {
                Ok(entry) => {
                    next.insert((entry.namespace.to_string(), entry.name.to_string()), entry);
                }
                Err(why) => tracing::error!(file = %file.display(), why, "not a static pod"),
            }
        }
        let mut wanted = self.wanted.lock().expect("no holder of this lock panics");
        for (key, entry) in &mut next {
            // The same pod stays the same entry, with the time at which it was first seen.
            if let Some(had) = wanted.get(key).filter(|had| had.uid == entry.uid) {
                *entry = had.clone();
            }
        }
        *wanted = next;
        drop(wanted);
        self.changed.notify_one();
        self.mirrored.notify_one();
    }

    /// Follows the files until `stop`.
    pub async fn follow(&self, stop: CancellationToken) -> std::io::Result<()> {
        use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
        let Some(root) = &self.root else {
            stop.cancelled().await;
            return Ok(());
        };
        let folder = if root.is_file() {
            root.parent().unwrap_or(root)
        } else {
            root
        };
        std::fs::create_dir_all(folder)?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        inotify.add_watch(folder, flags)?;
        // SAFETY: the descriptor is owned by what is registered, so it is open, and the same one, until it is taken out.
        #[allow(unsafe_code, reason = "registering asks for the promise above")]
        let ready = unsafe { tokio::io::unix::AsyncFd::register(std::os::fd::OwnedFd::from(inotify)) }?;
        let mut events = [0; 4096];
        // What changed before the watch began.
        self.load();
        loop {
            let mut guard = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                guard = ready.readable() => guard?,
            };
            // What happened does not matter: the folder is small, and is read as a whole.
            match nix::unistd::read(guard.get_inner(), &mut events) {
                Ok(_) => self.load(),
                Err(nix::Error::EAGAIN) => guard.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn files(root: &Path) -> Vec<PathBuf> {
    if root.is_file() {
        return vec![root.to_owned()];
    }
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let visible = entries.filter(|e| !e.file_name().to_string_lossy().starts_with('.'));
    let mut files: Vec<PathBuf> = visible.map(|e| e.path()).filter(|p| p.is_file()).collect();
    files.sort();
    files
}

/// A file's pod as this node runs it.
fn read(text: &str, file: &Path, node: &str) -> Result<Arc<Entry<Pod>>, String> {
    let mut pod: Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    if pod["kind"] != "Pod" || pod["apiVersion"] != "v1" {
        return Err("it is not a Pod of v1".to_owned());
    }
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let containers = pod["spec"]["containers"].as_array().map_or(0, Vec::len);
    if name.is_empty() || containers == 0 {
        return Err("it has no name or no containers".to_owned());
    }
    if let Some(what) = reference(&pod["spec"]) {
        return Err(format!("static pods may not reference {what}"));
    }
    let mut hash = Sha256::new();
    // The members of a JSON value are sorted: how the file is laid out does not matter.
    for part in [
        pod.to_string().as_bytes(),
        node.as_bytes(),
        file.as_os_str().as_encoded_bytes(),
    ] {
        hash.update(part);
        hash.update([0]);
    }
    let hash: String = hash.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect();
    let meta = &mut pod["metadata"];
    if meta["uid"].as_str().is_none_or(str::is_empty) {
        meta["uid"] = json!(hash);
    }
    let uid = meta["uid"].clone();
    meta["name"] = json!(format!("{name}-{}", node.to_lowercase()));
    if meta["namespace"].as_str().is_none_or(str::is_empty) {
        meta["namespace"] = json!("default");
    }
    if !meta["annotations"].is_object() {
        meta["annotations"] = json!({});
    }
    meta["annotations"][HASH] = uid;
    meta["annotations"][SOURCE] = json!("file");
    meta["annotations"][SEEN] = json!(jiff::Timestamp::now().to_string());
    default(&mut pod["spec"], node);
    pod["status"] = json!({"phase": "Pending"});
    serde_json::from_value::<Pod>(pod.clone()).map_err(|e| e.to_string())?;
    let entry = Entry::local(pod.to_string().into()).map_err(|e| daemon::chain(&e))?;
    Ok(Arc::new(entry))
}

/// What of the API a definition needs; a static pod has to run without.
fn reference(spec: &Value) -> Option<&'static str> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    if spec["serviceAccountName"].as_str().is_some_and(|s| !s.is_empty()) {
        return Some("serviceaccounts");
    }
    if !list(&spec["imagePullSecrets"]).is_empty() {
        return Some("secrets");
    }
    let of = |source: &Value| {
        [
            ("configMap", "configmaps"),
            ("secret", "secrets"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
            ("ephemeral", "persistentvolumeclaims"),
            ("serviceAccountToken", "serviceaccounts"),
            ("configMapRef", "configmaps"),
            ("configMapKeyRef", "configmaps"),
            ("secretRef", "secrets"),
            ("secretKeyRef", "secrets"),
        ]
        .into_iter()
        .find(|(field, _)| source[*field].is_object())
        .map(|(_, what)| what)
    };
    for volume in list(&spec["volumes"]) {
        let sources = list(&volume["projected"]["sources"]);
        if let Some(what) = of(&volume).or_else(|| sources.iter().find_map(of)) {
            return Some(what);
        }
    }
    let containers = list(&spec["containers"])
        .into_iter()
        .chain(list(&spec["initContainers"]));
    containers.into_iter().find_map(|container| {
        let from = list(&container["envFrom"]);
        let vars = list(&container["env"]);
        from.iter()
            .find_map(of)
            .or_else(|| vars.iter().find_map(|v| of(&v["valueFrom"])))
    })
}

/// What the API server would have filled in.
fn default(spec: &mut Value, node: &str) {
    let fill = |object: &mut Value, field: &str, value: Value| {
        if object[field].is_null() {
            object[field] = value;
        }
    };
    spec["nodeName"] = json!(node);
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("schedulerName", json!("default-scheduler")),
        ("securityContext", json!({})),
        ("enableServiceLinks", json!(true)),
    ] {
        fill(spec, field, value);
    }
    match spec["priorityClassName"].as_str() {
        Some("system-node-critical") => fill(spec, "priority", json!(2_000_001_000)),
        Some("system-cluster-critical") => fill(spec, "priority", json!(2_000_000_000)),
        _ => {}
    }
    // No taint drives it away: its place is this node.
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    tolerations.push(json!({"operator": "Exists", "effect": "NoExecute"}));
    spec["tolerations"] = Value::Array(tolerations);
    let host = spec["hostNetwork"] == true;
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            let image = container["image"].as_str().unwrap_or_default();
            let latest = super::images::with_tag(image).ends_with(":latest");
            fill(
                container,
                "imagePullPolicy",
                json!(if latest { "Always" } else { "IfNotPresent" }),
            );
            fill(container, "terminationMessagePath", json!("/dev/termination-log"));
            fill(container, "terminationMessagePolicy", json!("File"));
            for port in container["ports"].as_array_mut().into_iter().flatten() {
                fill(port, "protocol", json!("TCP"));
                if host {
                    let number = port["containerPort"].clone();
                    fill(port, "hostPort", number);
                }
            }
            let limits = container["resources"]["limits"]
                .as_object()
                .cloned()
                .unwrap_or_default();
            for (name, amount) in limits {
                fill(container, "resources", json!({}));
                fill(&mut container["resources"], "requests", json!({}));
                fill(&mut container["resources"]["requests"], &name, amount);
            }
        }
    }
}

/// What is to be done about the mirrors.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    Create(Key),
    /// With the mirror's own UID.
    Delete(Key, String),
}

/// A mirror that the API has.
#[derive(Debug)]
struct Mirror {
    uid: String,
    of: String,
    deleting: bool,
}

fn plan(wanted: &BTreeMap<Key, String>, mirrors: &BTreeMap<Key, Mirror>) -> Vec<Task> {
    let mut tasks = Vec::new();
    for (key, mirror) in mirrors {
        if mirror.deleting || wanted.get(key) != Some(&mirror.of) {
            tasks.push(Task::Delete(key.clone(), mirror.uid.clone()));
        }
    }
    let missing = wanted.keys().filter(|key| !mirrors.contains_key(*key));
    tasks.extend(missing.cloned().map(Task::Create));
    tasks
}

/// Keeps the mirrors as the files are, until `stop`.
pub async fn mirror(shared: Arc<Shared>, stop: CancellationToken) {
    let mut failures = 0u32;
    tokio::select! {
        biased;
        () = stop.cancelled() => return,
        () = shared.pods.synced() => {}
    }
    loop {
        let retry = match reconcile(&shared).await {
            Ok(()) => {
                failures = 0;
                None
            }
            Err(error) => {
                tracing::debug!(
                    error = daemon::chain(&error),
                    "mirrors of static pods are not right yet"
                );
                failures += 1;
                Some(Duration::from_millis(250).saturating_mul(1 << failures.min(7)))
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = shared.statics.mirrored.notified() => {}
            () = async { match retry { Some(wait) => tokio::time::sleep(wait).await, None => std::future::pending().await } } => {}
        }
    }
}

async fn reconcile(shared: &Shared) -> Result<(), kube::Error> {
    let wanted = shared.statics.wanted();
    let uids = wanted
        .iter()
        .map(|(key, entry)| (key.clone(), entry.uid.to_string()))
        .collect();
    let mirrors = shared.pods.list().into_iter().filter_map(|entry| {
        let of = mirrored(&entry)?;
        let key = (entry.namespace.to_string(), entry.name.to_string());
        let mirror = Mirror {
            uid: entry.uid.to_string(),
            of,
            deleting: entry.deleting,
        };
        Some((key, mirror))
    });
    let mut owner = None;
    for task in plan(&uids, &mirrors.collect()) {
        match task {
            Task::Delete((namespace, name), uid) => {
                let params = DeleteParams {
                    grace_period_seconds: Some(0),
                    preconditions: Some(Preconditions {
                        uid: Some(uid),
                        resource_version: None,
                    }),
                    ..DeleteParams::default()
                };
                let api: Api<Pod> = Api::namespaced(shared.client.clone(), &namespace);
                match api.delete(&name, &params).await {
                    Ok(_) => {}
                    Err(kube::Error::Api(error)) if error.code == 404 || error.code == 409 => {}
                    Err(error) => return Err(error),
                }
            }
            Task::Create(key) => {
                if owner.is_none() {
                    let nodes: Api<Node> = Api::all(shared.client.clone());
                    owner = nodes.get(&shared.config.node_name).await?.metadata.uid;
                }
                let Some(pod) = wanted.get(&key).and_then(|e| e.typed().ok()) else {
                    continue;
                };
                let api: Api<Pod> = Api::namespaced(shared.client.clone(), &key.0);
                let body = mirror_of(&pod, &shared.config.node_name, owner.as_deref().unwrap_or_default());
                match api.create(&PostParams::default(), &body).await {
                    Ok(_) => {}
                    // The watch will bring it.
                    Err(kube::Error::Api(error)) if error.code == 409 => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(())
}

fn mirror_of(pod: &Pod, node: &str, owner: &str) -> Pod {
    let mut mirror = pod.clone();
    let uid = mirror.metadata.uid.take().unwrap_or_default();
    mirror
        .metadata
        .annotations
        .get_or_insert_default()
        .insert(MIRROR.to_owned(), uid);
    mirror.metadata.owner_references = Some(vec![k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid: owner.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    mirror.status = None;
    mirror
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: kube-system}\n\
        spec:\n  hostNetwork: true\n  containers:\n  - {name: c, image: web, ports: [{containerPort: 80}]}\n";

    fn of(text: &str) -> Result<Arc<Entry<Pod>>, String> {
        read(text, Path::new("/m/web.yaml"), "N1")
    }

    #[test]
    fn a_file_is_a_pod_of_this_node_with_what_the_api_would_fill_in() {
        let entry = of(WEB).unwrap();
        assert_eq!(
            (&*entry.namespace, &*entry.name, entry.uid.len()),
            ("kube-system", "web-n1", 32)
        );
        let pod = entry.typed().unwrap();
        assert!(is_static(&pod));
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(spec.node_name.as_deref(), Some("N1"));
        assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("Always"));
        assert_eq!(spec.containers[0].ports.as_ref().unwrap()[0].host_port, Some(80));
        assert_eq!(
            spec.tolerations.as_ref().unwrap()[0].effect.as_deref(),
            Some("NoExecute")
        );
    }

    #[test]
    fn what_the_file_says_makes_the_uid() {
        let same = WEB.replace(
            "metadata: {name: web, namespace: kube-system}",
            "metadata:\n  namespace: kube-system\n  name: web",
        );
        assert_eq!(of(WEB).unwrap().uid, of(&same).unwrap().uid);
        assert_ne!(of(WEB).unwrap().uid, of(&WEB.replace("80", "81")).unwrap().uid);
    }

    #[test]
    fn what_needs_the_api_or_is_no_pod_is_refused() {
        let with = |more: &str| of(&format!("{WEB}{more}")).unwrap_err();
        assert_eq!(
            with("  serviceAccountName: x\n"),
            "static pods may not reference serviceaccounts"
        );
        assert_eq!(
            with("  volumes: [{name: v, configMap: {name: m}}]\n"),
            "static pods may not reference configmaps"
        );
        assert_eq!(
            of("kind: ConfigMap\napiVersion: v1\n").unwrap_err(),
            "it is not a Pod of v1"
        );
        assert!(of("{").is_err());
    }

    #[test]
    fn mirrors_are_made_and_go_as_the_files_do() {
        let key = |name: &str| ("n".to_owned(), name.to_owned());
        let mirror = |of: &str, deleting| Mirror {
            uid: "m".into(),
            of: of.into(),
            deleting,
        };
        let wanted = BTreeMap::from([
            (key("new"), "1".to_owned()),
            (key("same"), "2".to_owned()),
            (key("other"), "3".to_owned()),
            (key("leaving"), "4".to_owned()),
        ]);
        let mirrors = BTreeMap::from([
            (key("same"), mirror("2", false)),
            (key("other"), mirror("old", false)),
            (key("leaving"), mirror("4", true)),
            (key("gone"), mirror("5", false)),
        ]);
        let delete = |name: &str| Task::Delete(key(name), "m".into());
        assert_eq!(
            plan(&wanted, &mirrors),
            [
                delete("gone"),
                delete("leaving"),
                delete("other"),
                Task::Create(key("new"))
            ]
        );
    }

    #[test]
    fn hidden_files_are_let_be() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yaml", ".swap", "a.json"] {
            std::fs::write(dir.path().join(name), WEB).unwrap();
        }
        assert_eq!(
            files(dir.path()),
            [dir.path().join("a.json"), dir.path().join("b.yaml")]
        );
    }
}
