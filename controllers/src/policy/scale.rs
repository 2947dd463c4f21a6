//! The `scale` of any workload, by what an owner reference or an autoscaler calls it.

use std::borrow::Cow;

use daemon::informer::Resource;
use http::{Request, header};
use k8s_openapi::api::autoscaling::v1::Scale;

use crate::cleanup::discovery::discover;
use crate::{Error, is_gone};

/// Kinds that every server has need not be asked for.
const KNOWN: [(&str, &str, &str); 4] = [
    ("apps", "Deployment", "deployments"),
    ("apps", "ReplicaSet", "replicasets"),
    ("apps", "StatefulSet", "statefulsets"),
    ("", "ReplicationController", "replicationcontrollers"),
];

/// The resource that an apiVersion and a kind mean; nothing where the server has none such.
pub(crate) async fn resolve(client: &kube::Client, api_version: &str, kind: &str) -> Result<Option<Resource>, Error> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if let Some((group, kind, plural)) = KNOWN.iter().find(|known| known.0 == group && known.1 == kind) {
        return Ok(Some(Resource {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed("v1"),
            plural: Cow::Borrowed(plural),
            kind: Cow::Borrowed(kind),
        }));
    }
    let catalog = discover(client).await?;
    let same = |resource: &Resource| resource.group == group && resource.kind == kind;
    let served = catalog.served.into_iter().map(|served| served.resource);
    Ok(served.into_iter().find(same).map(|mut resource| {
        // Any served version does for the scale; the one that was named is the one people look at.
        if !version.is_empty() {
            resource.version = version.to_owned().into();
        }
        resource
    }))
}

fn path(resource: &Resource, namespace: &str, name: &str) -> String {
    format!("{}/{name}/scale", resource.path(Some(namespace)))
}

/// The scale of one workload; nothing where it, or the scale of its kind, is not there.
pub(crate) async fn get(
    client: &kube::Client,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Result<Option<Scale>, Error> {
    let request = Request::get(path(resource, namespace, name))
        .body(Vec::new())
        .map_err(|error| Error::Plan(error.to_string()))?;
    match client.request(request).await {
        Err(error) if is_gone(&error) => Ok(None),
        answer => Ok(Some(answer?)),
    }
}
/// Writes a scale as it was read and changed.
pub(crate) async fn put(
    client: &kube::Client,
    resource: &Resource,
    namespace: &str,
    name: &str,
    scale: &Scale,
) -> Result<Scale, Error> {
    let body = serde_json::to_vec(scale).expect("a scale serializes");
    let request = Request::put(path(resource, namespace, name))
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|error| Error::Plan(error.to_string()))?;
    Ok(client.request(request).await?)
}
