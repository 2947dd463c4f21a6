//! Volumes that are claimed: from the claim's name to its volume to a directory of this node. Claim and volume are asked
//! of the API once for each pod: a node may read the ones of its pods, and watch none. What is bound stays as it is.

use std::path::PathBuf;
use std::sync::Mutex;

use api::volume::{BIND_COMPLETED, annotation, claim_of, is_kept_for, is_owned_by, volume_name};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::api::Api;

use super::ownership;
use crate::pods::translate::Mounted;

const ALONE: &str = "ReadWriteOncePod";

pub struct Claims {
    client: kube::Client,
    held: Mutex<Vec<Held>>,
}

/// A volume that a pod has or is about to have.
#[derive(Debug)]
struct Held {
    volume: String,
    pod: String,
    /// The volume's name in the pod.
    name: String,
    /// Nobody else may have it.
    alone: bool,
    /// Where it is, once it may be used.
    mounted: Option<Mounted>,
}

impl std::fmt::Debug for Claims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Claims")
    }
}

impl Claims {
    pub fn new(client: kube::Client) -> Self {
        Claims {
            client,
            held: Mutex::default(),
        }
    }

    /// The pod uses nothing any more.
    pub fn release(&self, pod: &str) {
        self.lock().retain(|held| held.pod != pod);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Held>> {
        self.held.lock().expect("no holder of this lock panics")
    }

    /// Where the claimed volume lies.
    pub async fn mount(&self, pod: &Pod, volume: &Volume, group: Option<u32>) -> Result<Mounted, String> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if let Some(mounted) = self.mounted(uid, &volume.name) {
            return Ok(mounted);
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
        let Some((name, own)) = claim_of(pod_name, volume) else {
            return Err("this volume names no claim".to_owned());
        };
        let problem = |what: String| format!("error processing PVC {namespace}/{name}: {what}");
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let claim = claims
            .get(&name)
            .await
            .map_err(|error| problem(format!("failed to fetch PVC from API server: {}", said(&error))))?;
        let bound = check_claim(pod, &claim, own).map_err(problem)?.to_owned();
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let found = volumes
            .get(&bound)
            .await
            .map_err(|error| problem(format!("failed to fetch PV {bound} from API server: {}", said(&error))))?;
        if !is_kept_for(&found, &claim) {
            return Err(problem(format!("PV {bound} is not bound to the claim")));
        }
        let path = place(&found)?;
        self.hold(&bound, uid, &volume.name, &claim)?;
        let read_only = volume
            .persistent_volume_claim
            .as_ref()
            .and_then(|source| source.read_only)
            .unwrap_or(false);
        // As upstream, which gives a pod's group directories of the node but not its plain paths.
        if let Some(group) = group.filter(|_| found.spec.as_ref().is_some_and(|spec| spec.local.is_some())) {
            let policy = pod
                .spec
                .as_ref()
                .and_then(|spec| spec.security_context.as_ref()?.fs_group_change_policy.clone());
            let only_root = policy.as_deref() == Some("OnRootMismatch");
            let target = path.clone();
            tokio::task::spawn_blocking(move || ownership::give(&target, group, read_only, only_root))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| format!("applyFSGroup failed for vol {bound}: {error}"))?;
        }
        let mounted = Mounted { path, read_only };
        let mut all = self.lock();
        let held = all.iter_mut().find(|held| held.pod == uid && held.name == volume.name);
        if let Some(held) = held {
            held.mounted = Some(mounted.clone());
        }
        Ok(mounted)
    }

    fn mounted(&self, pod: &str, name: &str) -> Option<Mounted> {
        let all = self.lock();
        let held = all.iter().find(|held| held.pod == pod && held.name == name)?;
        held.mounted.clone()
    }

    /// Takes the volume for the pod, unless another one has it for itself.
    fn hold(&self, volume: &str, pod: &str, name: &str, claim: &PersistentVolumeClaim) -> Result<(), String> {
        let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_ref());
        let alone = modes.is_some_and(|modes| modes.iter().any(|mode| mode == ALONE));
        let mut all = self.lock();
        let mut others = all.iter().filter(|held| held.volume == volume && held.pod != pod);
        if others.any(|held| alone || held.alone) {
            return Err("volume uses the ReadWriteOncePod access mode and is already in use by another pod".to_owned());
        }
        all.retain(|held| held.pod != pod || held.name != name);
        all.push(Held {
            volume: volume.to_owned(),
            pod: pod.to_owned(),
            name: name.to_owned(),
            alone,
            mounted: None,
        });
        Ok(())
    }
}

fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => daemon::chain(other),
    }
}

/// The name of the volume that the claim is bound to. The texts are upstream's.
fn check_claim<'a>(pod: &Pod, claim: &'a PersistentVolumeClaim, own: bool) -> Result<&'a str, String> {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    if own && !is_owned_by(claim, &pod.metadata) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        return Err(format!(
            "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
        ));
    }
    // One that goes is kept for those who have it, and for no others.
    if claim.metadata.deletion_timestamp.is_some() {
        return Err("PVC is being deleted".to_owned());
    }
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    if phase != Some("Bound") || annotation(&claim.metadata, BIND_COMPLETED).is_none() {
        return Err("PVC is not bound".to_owned());
    }
    volume_name(claim).ok_or_else(|| "PVC has pvc.Spec.VolumeName set to \"\"".to_owned())
}

/// The directory of this node that a volume stands for.
fn place(volume: &PersistentVolume) -> Result<PathBuf, String> {
    let spec = volume.spec.clone().unwrap_or_default();
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err("block devices are not supported by this node".to_owned());
    }
    if let Some(source) = &spec.host_path {
        return super::host_path(source);
    }
    let Some(source) = &spec.local else {
        return Err("this kind of volume is not supported by this node".to_owned());
    };
    let path = PathBuf::from(&source.path);
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(path),
        Ok(_) => Err(format!("path {:?} is not a directory", source.path)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(format!("path {:?} does not exist", source.path))
        }
        Err(error) => Err(format!("{}: {error}", source.path)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}})).unwrap()
    }

    fn claim(metadata: Value, phase: &str) -> PersistentVolumeClaim {
        let mut value = json!({"metadata": {"name": "p-v"}, "spec": {"volumeName": "pv"}, "status": {"phase": phase}});
        for (key, content) in metadata.as_object().unwrap() {
            value["metadata"][key] = content.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_claim_must_be_bound_and_if_it_is_the_pods_own_made_for_it() {
        let done = json!({"annotations": {BIND_COMPLETED: "yes"}});
        let check = |claim: &PersistentVolumeClaim, own| check_claim(&pod(), claim, own).map(str::to_owned);
        assert_eq!(check(&claim(done.clone(), "Bound"), false), Ok("pv".to_owned()));
        assert_eq!(
            check(&claim(json!({}), "Pending"), false),
            Err("PVC is not bound".to_owned())
        );
        let stranger = check(&claim(done.clone(), "Bound"), true).unwrap_err();
        assert_eq!(stranger, "PVC n/p-v was not created for pod n/p (pod is not owner)");
    }

    #[tokio::test]
    async fn a_volume_for_one_pod_alone_is_refused_to_the_second() {
        let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap();
        let claims = Claims::new(client);
        let alone: PersistentVolumeClaim =
            serde_json::from_value(json!({"metadata": {}, "spec": {"accessModes": [ALONE]}})).unwrap();
        assert_eq!(claims.hold("pv", "a", "v", &alone), Ok(()));
        assert_eq!(claims.hold("pv", "a", "v", &alone), Ok(()));
        assert!(claims.hold("pv", "b", "v", &alone).is_err());
        claims.release("a");
        assert_eq!(claims.hold("pv", "b", "v", &alone), Ok(()));
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error_and_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let volume = |path: &std::path::Path| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {}, "spec": {"local": {"path": path}}})).unwrap()
        };
        assert_eq!(place(&volume(dir.path())), Ok(dir.path().to_owned()));
        let missing = dir.path().join("missing");
        assert!(place(&volume(&missing)).unwrap_err().ends_with("does not exist"));
        assert!(!missing.exists());
    }
}
