//! Objects of any resource, by their metadata.

use http::{Method, Request, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::{Value, json};

use super::discovery::Served;
use crate::is_gone;

/// Asks for metadata alone; a server that cannot do that sends all.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: ObjectMeta,
}

#[derive(Deserialize)]
struct Objects {
    #[serde(default)]
    items: Vec<Object>,
}

/// How the dependents of a deleted object fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

fn path(served: &Served, namespace: &str, name: &str) -> String {
    let namespace = Some(namespace).filter(|namespace| served.namespaced && !namespace.is_empty());
    let collection = served.resource.path(namespace);
    if name.is_empty() {
        collection
    } else {
        format!("{collection}/{name}")
    }
}

fn request(method: Method, path: String, accept: &str, body: Option<&Value>, content: &str) -> Request<Vec<u8>> {
    let body = body.map(|body| serde_json::to_vec(body).expect("a JSON value can be written"));
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::ACCEPT, accept)
        .header(header::CONTENT_TYPE, content)
        .body(body.unwrap_or_default())
        .expect("names that the server gave make a URI")
}

pub async fn get(
    client: &kube::Client,
    served: &Served,
    namespace: &str,
    name: &str,
) -> Result<Option<ObjectMeta>, kube::Error> {
    let request = request(
        Method::GET,
        path(served, namespace, name),
        METADATA,
        None,
        "application/json",
    );
    match client.request::<Object>(request).await {
        Ok(object) => Ok(Some(object.metadata)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

pub async fn list(client: &kube::Client, served: &Served, namespace: &str) -> Result<Vec<ObjectMeta>, kube::Error> {
    let request = request(Method::GET, path(served, namespace, ""), LIST, None, "application/json");
    let objects: Objects = client.request(request).await?;
    Ok(objects.items.into_iter().map(|object| object.metadata).collect())
}

/// Deletes the object as it was seen. One that is gone is as good.
pub async fn delete(
    client: &kube::Client,
    served: &Served,
    namespace: &str,
    seen: &ObjectMeta,
    propagation: Propagation,
) -> Result<(), kube::Error> {
    let options = json!({
        "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": format!("{propagation:?}"),
        "preconditions": {"uid": seen.uid, "resourceVersion": seen.resource_version},
    });
    let name = seen.name.as_deref().unwrap_or_default();
    let path = path(served, namespace, name);
    let request = request(Method::DELETE, path, METADATA, Some(&options), "application/json");
    match client.request::<Value>(request).await {
        Ok(_) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

pub async fn delete_collection(client: &kube::Client, served: &Served, namespace: &str) -> Result<(), kube::Error> {
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
    let path = path(served, namespace, "");
    let request = request(Method::DELETE, path, LIST, Some(&options), "application/json");
    client.request::<Value>(request).await.map(drop)
}

/// Changes the metadata of the object as it was seen. One that is gone is as good.
pub async fn patch(
    client: &kube::Client,
    served: &Served,
    namespace: &str,
    seen: &ObjectMeta,
    mut metadata: Value,
) -> Result<(), kube::Error> {
    metadata["uid"] = json!(seen.uid);
    metadata["resourceVersion"] = json!(seen.resource_version);
    let change = json!({"metadata": metadata});
    let name = seen.name.as_deref().unwrap_or_default();
    let path = path(served, namespace, name);
    let request = request(
        Method::PATCH,
        path,
        METADATA,
        Some(&change),
        "application/merge-patch+json",
    );
    match client.request::<Value>(request).await {
        Ok(_) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) => Err(error),
    }
}
