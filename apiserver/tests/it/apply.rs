//! Server-side apply and managedFields as a client sees them.

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};

use crate::kit::{Answer, Kit};

const MAPS: &str = "/api/v1/namespaces/a/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/a/deployments";

async fn apply(kit: &Kit, path: &str, query: &str, body: &str) -> Answer {
    let request = Request::patch(format!("{path}?{query}"))
        .header("content-type", "application/apply-patch+yaml")
        .header("user-agent", "kubectl/v1.36.0 (linux/amd64)")
        .body(Body::from(body.to_owned()));
    kit.whole(request.unwrap()).await
}

async fn put_by(kit: &Kit, path: &str, agent: &str, object: &Value) -> Answer {
    let request = Request::put(path)
        .header("user-agent", agent)
        .body(Body::from(object.to_string()));
    kit.whole(request.unwrap()).await
}

fn managers(object: &Value) -> Vec<(String, String, String)> {
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or("").to_owned();
    let entries = object["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    entries
        .iter()
        .map(|e| (text(e, "manager"), text(e, "operation"), text(e, "subresource")))
        .collect()
}

fn three(a: &str, b: &str, c: &str) -> (String, String, String) {
    (a.into(), b.into(), c.into())
}

const YAML: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\n  labels:\n    app: x\ndata:\n  k: \"1\"\n";

#[tokio::test]
async fn an_apply_creates_changes_and_again_changes_nothing() {
    let kit = Kit::new().await;
    let path = format!("{MAPS}/m");
    let made = apply(&kit, &path, "fieldManager=me", YAML).await.expect(201);
    assert_eq!(made["metadata"]["namespace"], "a");
    assert_eq!(managers(&made), [three("me", "Apply", "")]);
    assert_eq!(
        made["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:data": {"f:k": {}}, "f:metadata": {"f:labels": {"f:app": {}}}})
    );
    let again = apply(&kit, &path, "fieldManager=me", YAML).await.expect(200);
    assert_eq!(again, made);
    let changed = apply(&kit, &path, "fieldManager=me", &YAML.replace("\"1\"", "\"2\""))
        .await
        .expect(200);
    assert_eq!(changed["data"]["k"], "2");
    assert_eq!(kit.get(&path).await.expect(200), changed);
    // A dry run says what would be.
    let dry = apply(
        &kit,
        &path,
        "fieldManager=me&dryRun=All",
        &YAML.replace("\"1\"", "\"3\""),
    )
    .await
    .expect(200);
    assert_eq!(dry["data"]["k"], "3");
    assert_eq!(kit.get(&path).await.expect(200), changed);
}

#[tokio::test]
async fn who_owns_what_is_known_of_every_sort_of_write() {
    let kit = Kit::new().await;
    let request = Request::post(DEPLOYMENTS).header("user-agent", "kubectl-create/v1 (x)").body(Body::from(
        json!({"metadata": {"name": "web"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
        .to_string(),
    ));
    let made = kit.whole(request.unwrap()).await.expect(201);
    assert_eq!(managers(&made), [three("kubectl-create", "Update", "")]);
    let path = format!("{DEPLOYMENTS}/web");
    for (kind, patch) in [
        ("json", json!([{"op": "add", "path": "/spec/paused", "value": true}])),
        ("merge", json!({"spec": {"minReadySeconds": 3}})),
        (
            "strategic-merge",
            json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "j"}]}}}}),
        ),
    ] {
        kit.patch(&format!("{path}?fieldManager=by-{kind}"), kind, &patch)
            .await
            .expect(200);
    }
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web", "namespace": "a"}, "spec": {"replicas": 4}});
    let answer = put_by(&kit, &format!("{path}/scale"), "scaler", &scale)
        .await
        .expect(200);
    assert_eq!(answer["metadata"]["managedFields"], Value::Null);
    let mut object = kit.get(&path).await.expect(200);
    object["status"] = json!({"replicas": 2});
    object["spec"]["replicas"] = json!(9);
    let done = put_by(&kit, &format!("{path}/status"), "controller", &object)
        .await
        .expect(200);
    assert_eq!(done["spec"]["replicas"], 4);
    let mut got = managers(&done);
    got.sort();
    assert_eq!(
        got,
        [
            three("by-json", "Update", ""),
            three("by-merge", "Update", ""),
            three("by-strategic-merge", "Update", ""),
            three("controller", "Update", "status"),
            three("kubectl-create", "Update", ""),
            three("scaler", "Update", "scale"),
        ]
    );
    let entries = done["metadata"]["managedFields"].as_array().unwrap();
    let of = |manager: &str| entries.iter().find(|e| e["manager"] == manager).unwrap()["fieldsV1"].clone();
    assert_eq!(of("scaler"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(of("controller"), json!({"f:status": {"f:replicas": {}}}));
    assert_eq!(of("kubectl-create")["f:spec"].get("f:replicas"), None);
    // An apply to the scale meets its owner.
    let text = apply(
        &kit,
        &format!("{path}/scale"),
        "fieldManager=me",
        "{apiVersion: autoscaling/v1, kind: Scale, metadata: {name: web, namespace: a}, spec: {replicas: 7}}",
    )
    .await
    .refused(409);
    assert_eq!(
        text,
        "Apply failed with 1 conflict: conflict with \"scaler\" with subresource \"scale\" using autoscaling/v1: .spec.replicas"
    );
}

#[tokio::test]
async fn a_conflict_is_refused_with_its_causes_until_it_is_forced() {
    let kit = Kit::new().await;
    let path = format!("{MAPS}/m");
    apply(&kit, &path, "fieldManager=one", YAML).await.expect(201);
    let other = YAML.replace("\"1\"", "\"2\"");
    let status = apply(&kit, &path, "fieldManager=two", &other).await.expect(409);
    assert_eq!(status["reason"], "Conflict");
    assert_eq!(
        status["message"],
        "Apply failed with 1 conflict: conflict with \"one\": .data.k"
    );
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.k"}])
    );
    let forced = apply(&kit, &path, "fieldManager=two&force=true", &other)
        .await
        .expect(200);
    assert_eq!(forced["data"]["k"], "2");
    assert_eq!(
        forced["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:metadata": {"f:labels": {"f:app": {}}}})
    );
}

#[tokio::test]
async fn what_is_wrong_with_an_apply_is_told_as_upstream_does() {
    let kit = Kit::new().await;
    let path = format!("{MAPS}/m");
    for (query, body, code, want) in [
        (
            "",
            YAML,
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ),
        ("fieldManager=me", "a: [", 400, "error decoding YAML: "),
        (
            "fieldManager=me",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: m}",
            400,
            "invalid object type: /v1, Kind=Secret",
        ),
        (
            "fieldManager=me",
            "apiVersion: v2\nkind: ConfigMap\nmetadata: {name: m}",
            400,
            "invalid object type: /v2, Kind=ConfigMap",
        ),
        (
            "fieldManager=me",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}",
            400,
            "the name of the object (other) does not match the name on the URL (m)",
        ),
        (
            "fieldManager=me",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, namespace: b}",
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "fieldManager=me",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, uid: x}",
            409,
            "Operation cannot be fulfilled on configmaps \"m\": uid mismatch: the provided object specified uid x, and no existing object was found",
        ),
        (
            "fieldManager=me&fieldValidation=Strict",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: x, a: z}",
            400,
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 4: key \"a\" already set in map",
        ),
        (
            "fieldManager=me",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\nnope: 1",
            500,
            "failed to create typed patch object (/m; /v1, Kind=ConfigMap): .nope: field not declared in schema",
        ),
    ] {
        let text = apply(&kit, &path, query, body).await.refused(code);
        assert!(text.starts_with(want), "{text}");
    }
    kit.get(&path).await.refused(404);
    let text = kit
        .patch(&format!("{path}?force=true"), "merge", &json!({}))
        .await
        .refused(422);
    assert_eq!(
        text,
        "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch"
    );
    // A status is applied to what is there, not made.
    let text = apply(
        &kit,
        &format!("{DEPLOYMENTS}/web/status"),
        "fieldManager=me",
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}}",
    )
    .await
    .refused(404);
    assert_eq!(text, "deployments.apps \"web\" not found");
}

#[tokio::test]
async fn ownership_holds_across_versions_of_a_kind() {
    let kit = Kit::new().await;
    let (v1, v2) = (
        "/apis/autoscaling/v1/namespaces/a/horizontalpodautoscalers",
        "/apis/autoscaling/v2/namespaces/a/horizontalpodautoscalers",
    );
    let target = "scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}";
    let one = format!(
        "apiVersion: autoscaling/v1\nkind: HorizontalPodAutoscaler\nmetadata: {{name: h}}\nspec: {{maxReplicas: 5, targetCPUUtilizationPercentage: 50, {target}}}"
    );
    apply(&kit, &format!("{v1}/h"), "fieldManager=one", &one)
        .await
        .expect(201);
    let metric = |use_: u32| {
        format!(
            "[{{type: Resource, resource: {{name: cpu, target: {{type: Utilization, averageUtilization: {use_}}}}}}}]"
        )
    };
    let two = |use_: u32| {
        format!(
            "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {{name: h}}\nspec: {{maxReplicas: 5, metrics: {}, {target}}}",
            metric(use_)
        )
    };
    let text = apply(&kit, &format!("{v2}/h"), "fieldManager=two", &two(60))
        .await
        .refused(409);
    assert_eq!(
        text,
        "Apply failed with 1 conflict: conflict with \"one\": .spec.targetCPUUtilizationPercentage"
    );
    let both = apply(&kit, &format!("{v2}/h"), "fieldManager=two", &two(50))
        .await
        .expect(200);
    let versions: Vec<&str> = both["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["apiVersion"].as_str().unwrap())
        .collect();
    assert_eq!(versions, ["autoscaling/v1", "autoscaling/v2"]);
    // The same manager may go on in the other version, and what it said in the first goes.
    let moved = format!(
        "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {{name: h}}\nspec: {{maxReplicas: 5, {target}}}"
    );
    apply(&kit, &format!("{v2}/h"), "fieldManager=two", &moved)
        .await
        .expect(200);
    let last = apply(&kit, &format!("{v2}/h"), "fieldManager=one", &moved)
        .await
        .expect(200);
    // Nothing said is upstream's default again.
    assert_eq!(
        last["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80,
        "{last}"
    );
}

#[tokio::test]
async fn clients_reset_and_rewrite_managed_fields_by_every_sort_of_patch() {
    let kit = Kit::new().await;
    let path = format!("{MAPS}/m");
    for (kind, patch) in [
        ("merge", json!({"metadata": {"managedFields": [{}]}})),
        ("strategic-merge", json!({"metadata": {"managedFields": [{}]}})),
        (
            "json",
            json!([{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]),
        ),
    ] {
        let made = apply(&kit, &path, "fieldManager=me", YAML).await.expect(201);
        // An empty list is no reset: clients that do not know the field would send it.
        let mut empty = made.clone();
        empty["metadata"]["managedFields"] = json!([]);
        let kept = kit.put(&path, &empty).await.expect(200);
        assert_eq!(kept["metadata"]["managedFields"], made["metadata"]["managedFields"]);
        let reset = kit.patch(&path, kind, &patch).await.expect(200);
        assert_eq!(reset["metadata"].get("managedFields"), None, "{kind}");
        // Garbage does not fail a write.
        let garbage =
            json!({"metadata": {"managedFields": [{"manager": "x", "operation": "Nothing"}]}, "data": {"k": "2"}});
        kit.patch(&path, "merge", &garbage).await.expect(200);
        kit.delete(&path).await.expect(200);
    }
    // As kubectl does when it takes over from client-side apply.
    let made = kit
        .post(
            &format!("{MAPS}?fieldManager=kubectl-client-side-apply"),
            &json!({"metadata": {"name": "m"}, "data": {"k": "1"}}),
        )
        .await
        .expect(201);
    let mut entry = made["metadata"]["managedFields"][0].clone();
    entry["manager"] = json!("kubectl");
    entry["operation"] = json!("Apply");
    let moved = kit
        .patch(
            &format!("{path}?fieldManager=kubectl"),
            "json",
            &json!([
                {"op": "replace", "path": "/metadata/managedFields", "value": [entry]},
                {"op": "replace", "path": "/metadata/resourceVersion", "value": made["metadata"]["resourceVersion"]},
            ]),
        )
        .await
        .expect(200);
    assert_eq!(managers(&moved), [three("kubectl", "Apply", "")]);
    let mut long = moved.clone();
    long["metadata"]["managedFields"][0]["manager"] = json!("x".repeat(129));
    let text = kit.put(&path, &long).await.refused(422);
    assert_eq!(
        text,
        "ConfigMap \"m\" is invalid: metadata.managedFields[0].manager: Too long: may not be more than 128 bytes"
    );
}

#[tokio::test]
async fn an_owner_that_is_named_twice_is_kept_once_with_a_warning() {
    let kit = Kit::new().await;
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"});
    let answer = kit
        .post(
            MAPS,
            &json!({"metadata": {"name": "m", "ownerReferences": [owner, owner]}}),
        )
        .await;
    let warning = answer.headers["warning"].to_str().unwrap().to_owned();
    assert!(warning.contains("duplicate UID(s) observed: u"), "{warning}");
    let made = answer.expect(201);
    assert_eq!(made["metadata"]["ownerReferences"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_event_keeps_its_owners_in_both_groups() {
    let kit = Kit::new().await;
    let event = json!({"metadata": {"name": "e", "namespace": "a"}, "eventTime": "2026-01-02T03:04:05.000000Z", "reason": "R", "action": "A", "type": "Normal",
        "note": "text", "reportingController": "x.y/z", "reportingInstance": "i", "regarding": {"kind": "Pod", "name": "p", "namespace": "a"}});
    kit.post("/apis/events.k8s.io/v1/namespaces/a/events?fieldManager=one", &event)
        .await
        .expect(201);
    let got = kit
        .patch(
            "/api/v1/namespaces/a/events/e?fieldManager=two",
            "merge",
            &json!({"metadata": {"labels": {"x": "y"}}}),
        )
        .await
        .expect(200);
    let mut who = managers(&got);
    who.sort();
    assert_eq!(who, [three("one", "Update", ""), three("two", "Update", "")]);
}
