//! ServiceAccount: every pod runs as an account that exists, with its token at the usual place.
//! After plugin/pkg/admission/serviceaccount (1.36).

use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::sources::Source;
use super::{Admit, Attributes, Operation, items};
use crate::authz::node;
use crate::cache::Filter;
use crate::object::Object;
use crate::status::Status;

const DEFAULT: &str = "default";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Not a round hour: it tells apart the tokens that were asked for here, whose life is extended for old clients.
const TOKEN_SECONDS: i64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The account `default` appears shortly after its namespace.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct ServiceAccount {
    pub(super) accounts: Source,
}

impl ServiceAccount {
    async fn find(&self, attributes: &Attributes<'_>, pod: &Object, name: &str) -> Result<Object, Status> {
        let namespace = attributes.namespace;
        if let Some(account) = self.accounts.get(namespace, name).await? {
            return Ok(account);
        }
        if name == DEFAULT
            && let Some(account) = self.wait_for(namespace, name).await
        {
            return Ok(account);
        }
        let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        Err(attributes.forbidden(Some(pod), &why))
    }

    async fn wait_for(&self, namespace: &str, name: &str) -> Option<Object> {
        let cache = self.accounts.cache()?;
        let filter = Filter {
            namespace: Some(namespace.into()),
            name: Some(name.into()),
            ..Filter::default()
        };
        let (found, _, mut watcher) = cache.list_and_watch(filter);
        if let Some(item) = found.first() {
            return Some(item.object());
        }
        // Whatever the watch says, the cache says what is there; a watch that fails is no account.
        let changed = tokio::time::timeout(PATIENCE, watcher.next()).await;
        matches!(changed, Ok(Ok(_)))
            .then(|| cache.get(namespace, name))
            .flatten()
            .map(|item| item.object())
    }
}

impl Admit for ServiceAccount {
    fn mutate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: &'a mut Object,
        _old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if !attributes.is("", "pods") || attributes.operation != Operation::Create || is_mirror(new) {
                return Ok(());
            }
            let spec = new.entry("spec");
            let name = match spec.get("serviceAccountName").and_then(Value::as_str) {
                Some(name) if !name.is_empty() => name.to_owned(),
                _ => DEFAULT.to_owned(),
            };
            spec.insert("serviceAccountName".into(), name.as_str().into());
            // The old name of the field says the same, for clients that know no other.
            spec.insert("serviceAccount".into(), name.as_str().into());
            let account = self.find(attributes, new, &name).await?;
            if automounts(new, &account) {
                mount(new, || format!("{VOLUME_PREFIX}{}", super::suffix()));
            }
            let spec = new.entry("spec");
            if items(spec.get("imagePullSecrets")).next().is_none()
                && let Some(secrets) = account.at(&["imagePullSecrets"])
            {
                spec.insert("imagePullSecrets".into(), secrets.clone());
            }
            Ok(())
        })
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: Option<&'a Object>,
        _old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let Some(pod) = new else { return Ok(()) };
            if !attributes.is("", "pods") || attributes.operation != Operation::Create {
                return Ok(());
            }
            let refuse = |why: &str| Err(attributes.forbidden(Some(pod), why));
            let name = pod.str_at(&["spec", "serviceAccountName"]);
            if is_mirror(pod) {
                if !name.is_empty() {
                    return refuse("a mirror pod may not reference service accounts");
                }
                if node::references(pod)
                    .iter()
                    .any(|(kind, _)| *kind == node::Kind::Secret)
                {
                    return refuse("a mirror pod may not reference secrets");
                }
                let projects_token = items(pod.at(&["spec", "volumes"]))
                    .flat_map(|volume| items(volume["projected"].get("sources")))
                    .any(|source| !source["serviceAccountToken"].is_null());
                if projects_token {
                    return refuse("a mirror pod may not use ServiceAccountToken volume projections");
                }
                return Ok(());
            }
            if name.is_empty() {
                let why = format!(
                    "no service account specified for pod {}/{}",
                    attributes.namespace,
                    pod.name()
                );
                return refuse(&why);
            }
            self.find(attributes, pod, name).await.map(drop)
        })
    }
}

fn is_mirror(pod: &Object) -> bool {
    pod.at(&["metadata", "annotations", MIRROR]).is_some()
}

fn automounts(pod: &Object, account: &Object) -> bool {
    let said = |value: Option<&Value>| value.and_then(Value::as_bool);
    said(pod.at(&["spec", "automountServiceAccountToken"]))
        .or_else(|| said(account.at(&["automountServiceAccountToken"])))
        .unwrap_or(true)
}

/// Adds the token's volume, and its mount to every container that has nothing else at that place.
fn mount(pod: &mut Object, name: impl FnOnce() -> String) {
    let spec = pod.entry("spec");
    let have = items(spec.get("volumes"))
        .filter_map(|volume| volume["name"].as_str())
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let is_new = have.is_none();
    let name = have.unwrap_or_else(name);
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if items(container.get("volumeMounts")).any(|mount| mount["mountPath"] == MOUNT_PATH) {
                continue;
            }
            needed = true;
            let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
            match container["volumeMounts"].as_array_mut() {
                Some(mounts) => mounts.push(mount),
                None => container["volumeMounts"] = json!([mount]),
            }
        }
    }
    if needed && is_new {
        let volume = json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
            ]}},
        ]}});
        match spec.get_mut("volumes").and_then(Value::as_array_mut) {
            Some(volumes) => volumes.push(volume),
            None => {
                spec.insert("volumes".into(), json!([volume]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        let Value::Object(map) = value else { panic!("an object") };
        Object(map)
    }

    #[test]
    fn every_container_gets_the_token_unless_something_is_mounted_there() {
        let mut pod = object(json!({"spec": {
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "a", "volumeMounts": [{"name": "x", "mountPath": "/x"}]},
                           {"name": "b", "volumeMounts": [{"name": "y", "mountPath": MOUNT_PATH}]}]}}));
        mount(&mut pod, || "kube-api-access-abcde".into());
        let mounts = |list: &str, at: usize| {
            items(pod.at(&["spec", list]).unwrap()[at].get("volumeMounts"))
                .map(|m| m["name"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(mounts("initContainers", 0), ["kube-api-access-abcde"]);
        assert_eq!(mounts("containers", 0), ["x", "kube-api-access-abcde"]);
        assert_eq!(mounts("containers", 1), ["y"]);
        assert_eq!(pod.at(&["spec", "volumes"]).unwrap().as_array().unwrap().len(), 1);
        let before = pod.clone();
        mount(&mut pod, || unreachable!("it has a volume"));
        assert_eq!(pod, before, "a second run changes nothing");
    }

    #[test]
    fn a_pod_whose_containers_all_mount_something_there_gets_no_volume() {
        let mut pod =
            object(json!({"spec": {"containers": [{"volumeMounts": [{"name": "y", "mountPath": MOUNT_PATH}]}]}}));
        mount(&mut pod, || "kube-api-access-abcde".into());
        assert_eq!(pod.at(&["spec", "volumes"]), None);
    }

    #[test]
    fn the_pod_decides_before_the_account_whether_it_mounts() {
        for (pod, account, want) in [
            (json!(null), json!(null), true),
            (json!(false), json!(null), false),
            (json!(null), json!(false), false),
            (json!(true), json!(false), true),
        ] {
            let pod = object(json!({"spec": {"automountServiceAccountToken": pod}}));
            let account = object(json!({"automountServiceAccountToken": account}));
            assert_eq!(automounts(&pod, &account), want);
        }
    }
}
