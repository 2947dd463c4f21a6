//! Every row of the table, by the one path.

use apiserver::registry::row::{Resource, Scope};
use apiserver::registry::rows;
use serde_json::{Value, json};

use crate::kit::Kit;

/// A smallest object of each kind that is stored. A row without a line here fails the test below.
fn sample(kind: &str) -> Value {
    let pod = json!({"containers": [{"name": "c", "image": "i"}]});
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": pod});
    let workload = json!({"selector": {"matchLabels": {"app": "x"}}, "template": template});
    match kind {
        "ConfigMap" | "Secret" | "ServiceAccount" | "Namespace" | "Node" | "Endpoints" | "LimitRange"
        | "ResourceQuota" | "ClusterRole" | "Role" | "Lease" => json!({}),
        "PodTemplate" => json!({"template": template}),
        "Pod" => json!({"spec": pod}),
        "Service" => json!({"spec": {"ports": [{"port": 80}], "clusterIP": "None", "clusterIPs": ["None"]}}),
        "ReplicationController" => json!({"spec": {"selector": {"app": "x"}, "template": template}}),
        "Deployment" | "ReplicaSet" | "DaemonSet" => json!({"spec": workload}),
        "StatefulSet" => {
            let mut spec = workload;
            spec["serviceName"] = json!("s");
            json!({"spec": spec})
        }
        "ControllerRevision" => json!({"revision": 1, "data": {}}),
        "Job" => {
            let mut pod = pod;
            pod["restartPolicy"] = json!("Never");
            json!({"spec": {"template": {"spec": pod}}})
        }
        "CronJob" => {
            let mut pod = pod;
            pod["restartPolicy"] = json!("Never");
            json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec": pod}}}}})
        }
        "EndpointSlice" => json!({"addressType": "IPv4", "endpoints": []}),
        "RoleBinding" | "ClusterRoleBinding" => json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "x"},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "u"}],
        }),
        "PersistentVolume" => json!({"spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}}),
        "PersistentVolumeClaim" => json!({"spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
        "HorizontalPodAutoscaler" => json!({"spec": {"maxReplicas": 3,
            "scaleTargetRef": {"kind": "Deployment", "apiVersion": "apps/v1", "name": "d"}}}),
        "CertificateSigningRequest" => json!({"spec": {"request": signing_request(),
            "signerName": "example.com/s", "usages": ["client auth"]}}),
        "IngressClass" => json!({"spec": {"controller": "example.com/c"}}),
        "Ingress" => json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}),
        "IPAddress" => json!({"spec": {"parentRef": {"resource": "services", "namespace": "a", "name": "s"}}}),
        "NetworkPolicy" => json!({"spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}),
        "ServiceCIDR" => json!({"spec": {"cidrs": ["10.1.0.0/16"]}}),
        "PodDisruptionBudget" => json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}}),
        "CSIDriver" => json!({"spec": {}}),
        "CSINode" => json!({"spec": {"drivers": []}}),
        "CSIStorageCapacity" => json!({"storageClassName": "s"}),
        "StorageClass" => json!({"provisioner": "example.com/p"}),
        "VolumeAttachment" => json!({"spec": {
            "attacher": "example.com", "nodeName": "n", "source": {"persistentVolumeName": "v"}}}),
        "VolumeAttributesClass" => json!({"driverName": "example.com", "parameters": {"a": "b"}}),
        "PriorityClass" => json!({"value": 10}),
        "RuntimeClass" => json!({"handler": "h"}),
        "FlowSchema" => json!({"spec": {"priorityLevelConfiguration": {"name": "x"}, "matchingPrecedence": 9000}}),
        "PriorityLevelConfiguration" => json!({"spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}}}}),
        _ => Value::Null,
    }
}

fn signing_request() -> String {
    use base64::Engine as _;
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    base64::engine::general_purpose::STANDARD.encode(request.pem().unwrap())
}

/// Some kinds want a name of their own form.
fn name_of(kind: &str) -> &'static str {
    if kind == "IPAddress" { "10.96.0.9" } else { "x" }
}

fn event(group: &str) -> Value {
    let about = json!({"kind": "Pod", "namespace": "a", "name": "p"});
    if group.is_empty() {
        return json!({"involvedObject": about, "reason": "R", "message": "m", "type": "Normal"});
    }
    json!({"regarding": about, "reason": "R", "note": "m", "type": "Normal", "action": "A",
           "reportingController": "example.com/c", "reportingInstance": "i", "eventTime": "2026-01-01T00:00:00.000000Z"})
}

fn paths(row: &Resource) -> (String, String) {
    let version = &row.versions[0];
    let root = if row.group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{}/{version}", row.group)
    };
    let collection = match row.scope {
        Scope::Namespaced => format!("{root}/namespaces/a/{}", row.plural),
        Scope::Cluster => format!("{root}/{}", row.plural),
    };
    (format!("{collection}/{}", name_of(&row.kind)), collection)
}

#[tokio::test(start_paused = true)]
async fn every_row_goes_round() {
    let kit = Kit::new().await;
    let mut unknown = Vec::new();
    for row in rows::rows().iter().filter(|row| row.is_stored()) {
        // What cannot be written is an empty list.
        if !row.verbs.contains(&"create") {
            let path = format!("/apis/{}/{}/{}", row.group, row.versions[0], row.plural);
            assert_eq!(kit.get(&path).await.expect(200)["items"], json!([]));
            kit.post(&path, &json!({})).await.refused(405);
            continue;
        }
        let (path, collection) = paths(row);
        let mut object = if &*row.kind == "Event" {
            event(&row.group)
        } else {
            sample(&row.kind)
        };
        if object.is_null() {
            unknown.push(row.kind.to_string());
            continue;
        }
        object["metadata"] = json!({"name": name_of(&row.kind)});
        let made = kit.post(&collection, &object).await;
        assert_eq!(made.code, 201, "{}: {}", row.kind, made.text);
        let made = made.json();
        assert_eq!(made["kind"], *row.kind);
        assert_eq!(made["apiVersion"], row.api_version(&row.versions[0]));
        let got = kit.get(&path).await.expect(200);
        assert_eq!(got, made, "{}", row.kind);
        let list = kit.get(&collection).await.expect(200);
        assert_eq!(list["items"], json!([made]), "{}", row.kind);
        let from = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let mut events = kit.watch(&format!("{collection}?watch=1&resourceVersion={from}")).await;
        for version in &row.versions[1..] {
            let other = path.replacen(&*row.versions[0], version, 1);
            let seen = kit.get(&other).await.expect(200);
            assert_eq!(seen["apiVersion"], row.api_version(version));
            let same = kit.put(&other, &seen).await.expect(200);
            assert_eq!(same, seen, "{} in {version}", row.kind);
        }
        // Writing what was read changes nothing.
        let same = kit.put(&path, &got).await.expect(200);
        assert_eq!(
            same["metadata"]["resourceVersion"], got["metadata"]["resourceVersion"],
            "{}: {got}\n{same}",
            row.kind
        );
        let patched = kit
            .patch(&path, "strategic-merge", &json!({"metadata": {"labels": {"a": "b"}}}))
            .await
            .expect(200);
        assert_eq!(patched["metadata"]["labels"]["a"], "b");
        let modified = events.next().await.unwrap();
        assert_eq!(
            (&modified["type"], &modified["object"]),
            (&json!("MODIFIED"), &patched),
            "{}",
            row.kind
        );
        let table = kit
            .get_as(&collection, "application/json;as=Table;g=meta.k8s.io;v=v1")
            .await
            .expect(200);
        let cells = table["rows"][0]["cells"].as_array().unwrap().len();
        assert_eq!(
            cells,
            table["columnDefinitions"].as_array().unwrap().len(),
            "{}",
            row.kind
        );
        assert_eq!(
            kit.get(&format!("{collection}?labelSelector=a%3Db")).await.expect(200)["items"],
            json!([patched])
        );
        let deleted = kit
            .delete(&format!("{path}?gracePeriodSeconds=0&propagationPolicy=Background"))
            .await;
        assert_eq!(deleted.code, 200, "{}: {}", row.kind, deleted.text);
        // A namespace waits for what is in it.
        if &*row.kind != "Namespace" {
            let event = events.next().await.unwrap();
            assert_eq!(
                (&event["type"], &event["object"]["metadata"]["name"]),
                (&json!("DELETED"), &json!(name_of(&row.kind))),
                "{}",
                row.kind
            );
            kit.get(&path).await.refused(404);
        }
        for field in &row.fields {
            let answer = kit
                .get(&format!("{collection}?fieldSelector={}%3Dnothing", field.name))
                .await;
            assert_eq!(answer.code, 200, "{}: {}", row.kind, answer.text);
        }
    }
    assert!(unknown.is_empty(), "rows without a sample: {unknown:?}");
}

#[tokio::test(start_paused = true)]
async fn the_two_kinds_of_events_are_one() {
    let kit = Kit::new().await;
    let (core, new) = (
        "/api/v1/namespaces/a/events",
        "/apis/events.k8s.io/v1/namespaces/a/events",
    );
    let mut old = event("");
    old["metadata"] = json!({"name": "e"});
    kit.post(core, &old).await.expect(201);
    let seen = kit.get(&format!("{new}/e")).await.expect(200);
    assert_eq!(
        (&seen["apiVersion"], &seen["note"]),
        (&json!("events.k8s.io/v1"), &json!("m"))
    );
    let selected = kit
        .get(&format!("{new}?fieldSelector=regarding.name%3Dp"))
        .await
        .expect(200);
    assert_eq!(selected["items"].as_array().unwrap().len(), 1);
    let core_selected = kit
        .get(&format!("{core}?fieldSelector=involvedObject.name%3Dother"))
        .await
        .expect(200);
    assert_eq!(core_selected["items"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn a_workload_is_scaled_by_its_scale() {
    let kit = Kit::new().await;
    let path = "/apis/apps/v1/namespaces/a/deployments";
    let mut object = sample("Deployment");
    object["metadata"] = json!({"name": "d"});
    kit.post(path, &object).await.expect(201);
    let scale_path = format!("{path}/d/scale");
    let mut scale = kit.get(&scale_path).await.expect(200);
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"]),
        (&json!("Scale"), &json!(1))
    );
    assert_eq!(scale["status"]["selector"], "app=x");
    scale["spec"]["replicas"] = json!(3);
    assert_eq!(kit.put(&scale_path, &scale).await.expect(200)["spec"]["replicas"], 3);
    kit.put(&scale_path, &scale).await.refused(409);
    let patched = kit
        .patch(&scale_path, "merge", &json!({"spec": {"replicas": 5}}))
        .await
        .expect(200);
    assert_eq!(patched["spec"]["replicas"], 5);
    let now = kit.get(&format!("{path}/d")).await.expect(200);
    assert_eq!(
        (&now["spec"]["replicas"], &now["metadata"]["generation"]),
        (&json!(5), &json!(3))
    );
    kit.patch(&scale_path, "merge", &json!({"spec": {"replicas": -1}}))
        .await
        .refused(422);
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_bound_once_and_deleted_with_grace() {
    let kit = Kit::new().await;
    let pods = "/api/v1/namespaces/a/pods";
    let mut pod = sample("Pod");
    pod["metadata"] = json!({"name": "p"});
    kit.post(pods, &pod).await.expect(201);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let bound = kit.post(&format!("{pods}/p/binding"), &binding).await.expect(201);
    assert_eq!(bound["status"], "Success");
    assert_eq!(
        kit.post(&format!("{pods}/p/binding"), &binding).await.refused(409),
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
    );
    let now = kit.get(&format!("{pods}/p")).await.expect(200);
    assert_eq!(now["spec"]["nodeName"], "n1");
    pod["metadata"]["name"] = json!("q");
    kit.post(pods, &pod).await.expect(201);
    let other = json!({"metadata": {"name": "q"}, "target": {"kind": "Node", "name": "n2"}});
    kit.post("/api/v1/namespaces/a/bindings", &other).await.expect(201);
    assert_eq!(
        kit.get(&format!("{pods}/q")).await.expect(200)["spec"]["nodeName"],
        "n2"
    );
    assert_eq!(now["status"]["conditions"][0]["type"], "PodScheduled");
    // The kubelet's word about it.
    let mut said = now.clone();
    said["status"]["phase"] = json!("Running");
    said["spec"]["nodeName"] = json!("elsewhere");
    let status = kit.put(&format!("{pods}/p/status"), &said).await.expect(200);
    assert_eq!(
        (&status["status"]["phase"], &status["spec"]["nodeName"]),
        (&json!("Running"), &json!("n1"))
    );
    // A bound pod waits for its kubelet.
    let marked = kit.delete(&format!("{pods}/p")).await.expect(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = kit.delete(&format!("{pods}/p?gracePeriodSeconds=5")).await.expect(200);
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let longer = kit.delete(&format!("{pods}/p?gracePeriodSeconds=50")).await.expect(200);
    assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 5);
    kit.delete(&format!("{pods}/p?gracePeriodSeconds=0")).await.expect(200);
    kit.get(&format!("{pods}/p")).await.refused(404);
}

#[tokio::test(start_paused = true)]
async fn an_eviction_deletes_the_pod() {
    let kit = Kit::new().await;
    let pods = "/api/v1/namespaces/a/pods";
    let mut pod = sample("Pod");
    pod["metadata"] = json!({"name": "p"});
    kit.post(pods, &pod).await.expect(201);
    let eviction = json!({"metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": 0}});
    kit.post(&format!("{pods}/p/eviction"), &eviction).await.expect(201);
    kit.get(&format!("{pods}/p")).await.refused(404);
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_created_by_an_update() {
    let kit = Kit::new().await;
    let path = "/apis/coordination.k8s.io/v1/namespaces/a/leases/l";
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15}});
    assert_eq!(kit.put(path, &lease).await.code, 201);
    assert_eq!(kit.get(path).await.expect(200)["spec"]["holderIdentity"], "me");
}

#[tokio::test(start_paused = true)]
async fn bad_fields_are_refused_warned_of_or_dropped() {
    let kit = Kit::new().await;
    let pods = "/api/v1/namespaces/a/pods";
    let mut pod = sample("Pod");
    pod["metadata"] = json!({"name": "p"});
    pod["spec"]["nonsense"] = json!(1);
    let text = kit
        .post(&format!("{pods}?fieldValidation=Strict"), &pod)
        .await
        .refused(400);
    assert_eq!(
        text,
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.nonsense\""
    );
    let warned = kit.post(&format!("{pods}?dryRun=All"), &pod).await;
    assert_eq!(
        warned.headers["warning"],
        "299 - \"unknown field \\\"spec.nonsense\\\"\""
    );
    assert_eq!(warned.expect(201)["spec"]["nonsense"], Value::Null);
    let silent = kit
        .post(&format!("{pods}?fieldValidation=Ignore&dryRun=All"), &pod)
        .await;
    assert!(!silent.headers.contains_key("warning"));
    let strategic = json!({"spec": {"containers": [{"name": "c", "image": "j"}]}});
    pod["spec"].as_object_mut().unwrap().remove("nonsense");
    kit.post(pods, &pod).await.expect(201);
    let patched = kit
        .patch(&format!("{pods}/p"), "strategic-merge", &strategic)
        .await
        .expect(200);
    assert_eq!(patched["spec"]["containers"][0]["image"], "j");
    assert_eq!(patched["spec"]["containers"].as_array().unwrap().len(), 1);
    kit.patch(
        &format!("{pods}/p?fieldValidation=Strict"),
        "merge",
        &json!({"spec": {"x": 1}}),
    )
    .await
    .refused(422);
}

#[tokio::test(start_paused = true)]
async fn openapi_describes_the_rows() {
    let kit = Kit::new().await;
    let index = kit.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = kit.get(url).await.expect(200);
    assert!(document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"].is_object());
    let old = kit.get("/openapi/v3/apis/apps/v1?hash=OLD").await;
    assert_eq!(
        (old.code.as_u16(), old.headers["location"].to_str().unwrap()),
        (301, url)
    );
    let swagger = kit.get("/openapi/v2").await.expect(200);
    assert!(swagger["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
}

#[tokio::test(start_paused = true)]
async fn a_namespace_ends_when_it_is_finalized() {
    let kit = Kit::new().await;
    kit.post("/api/v1/namespaces", &json!({"metadata": {"name": "n"}}))
        .await
        .expect(201);
    let ending = kit.delete("/api/v1/namespaces/n").await.expect(200);
    assert_eq!(ending["status"]["phase"], "Terminating");
    assert_eq!(ending["spec"]["finalizers"], json!(["kubernetes"]));
    let mut empty = ending.clone();
    empty["spec"]["finalizers"] = json!([]);
    kit.put("/api/v1/namespaces/n/finalize", &empty).await.expect(200);
    kit.get("/api/v1/namespaces/n").await.refused(404);
}
