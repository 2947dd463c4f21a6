//! What this distribution adds to a new cluster beside the API server's own bootstrap objects: `manifests/cluster`.

use anyhow::{Context, bail};
use http::{Method, Request, StatusCode};
use kube::client::Body;
use serde_json::Value;

const MANIFESTS: [&str; 3] = [
    include_str!("../../../manifests/cluster/roles.yaml"),
    include_str!("../../../manifests/cluster/dns.yaml"),
    include_str!("../../../manifests/cluster/storage.yaml"),
];

/// Makes what is missing and puts right what differs. On a cluster that has it all nothing is written.
pub(crate) async fn ensure(client: &kube::Client) -> anyhow::Result<()> {
    for object in objects()? {
        let (collection, name) = place(&object)?;
        // The patch comes first: a Service that is there holds its address, so that creating it again is Invalid.
        let path = format!("{collection}/{name}");
        // Which class is the default is the user's to change.
        let sent = if object["kind"] == "StorageClass" {
            send(client, Method::GET, &path, "application/json", &Value::Null).await?
        } else {
            send(client, Method::PATCH, &path, "application/merge-patch+json", &object).await?
        };
        let done = match sent.status() {
            StatusCode::NOT_FOUND => send(client, Method::POST, &collection, "application/json", &object).await?,
            _ => sent,
        };
        if !done.status().is_success() {
            use http_body_util::BodyExt;
            let text = done
                .into_body()
                .collect()
                .await
                .map_err(|error| anyhow::anyhow!("{error}"))?
                .to_bytes();
            bail!("{collection}/{name}: {}", String::from_utf8_lossy(&text));
        }
    }
    Ok(())
}

async fn send(
    client: &kube::Client,
    method: Method,
    path: &str,
    kind: &str,
    object: &Value,
) -> anyhow::Result<http::Response<Body>> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .body(Body::from(serde_json::to_vec(object)?))?;
    Ok(client.send(request).await?)
}

fn objects() -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for manifest in MANIFESTS {
        objects.extend(serde_saphyr::from_multiple::<Value>(manifest)?);
    }
    Ok(objects)
}

/// The path of an object's collection, and the object's name.
fn place(object: &Value) -> anyhow::Result<(String, String)> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let version = text("/apiVersion").context("an object has an apiVersion")?;
    let kind = text("/kind").context("an object has a kind")?;
    let name = text("/metadata/name").context("an object has a name")?;
    let root = if version.contains('/') {
        format!("/apis/{version}")
    } else {
        format!("/api/{version}")
    };
    let plural = match kind.to_lowercase() {
        kind if kind.ends_with('s') => format!("{kind}es"),
        kind => format!("{kind}s"),
    };
    let namespace = text("/metadata/namespace")
        .map(|it| format!("/namespaces/{it}"))
        .unwrap_or_default();
    Ok((format!("{root}{namespace}/{plural}"), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manifest_has_its_place() {
        let places: Vec<String> = objects().unwrap().iter().map(|o| place(o).unwrap().0).collect();
        assert!(places.contains(&"/api/v1/namespaces/kube-system/services".to_owned()));
        assert!(places.contains(&"/apis/rbac.authorization.k8s.io/v1/clusterroles".to_owned()));
        assert!(places.contains(&"/apis/storage.k8s.io/v1/storageclasses".to_owned()));
    }
}
