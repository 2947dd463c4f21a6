//! Every verb on one plain kind, and what is refused.

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};

use crate::kit::Kit;

const MAPS: &str = "/api/v1/namespaces/a/configmaps";

fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": value}})
}

#[tokio::test]
async fn an_object_is_created_read_changed_and_deleted() {
    let kit = Kit::new().await;
    let made = kit.post(MAPS, &map("m", "1")).await.expect(201);
    assert_eq!(made["metadata"]["namespace"], "a");
    assert!(made["metadata"]["uid"].as_str().unwrap().len() == 36);
    assert!(made["metadata"]["creationTimestamp"].is_string());
    let path = format!("{MAPS}/m");
    let got = kit.get(&path).await.expect(200);
    assert_eq!(got, made);
    let mut changed = got.clone();
    changed["data"]["k"] = json!("2");
    let put = kit.put(&path, &changed).await.expect(200);
    assert_ne!(put["metadata"]["resourceVersion"], got["metadata"]["resourceVersion"]);
    // Who holds the old revision is told so.
    let text = kit.put(&path, &changed).await.refused(409);
    assert_eq!(
        text,
        "Operation cannot be fulfilled on configmaps \"m\": the object has been modified; please apply your changes to the latest version and try again"
    );
    // Without one the last writer wins, and writing the same again writes nothing.
    let again = kit.put(&path, &map("m", "2")).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], put["metadata"]["resourceVersion"]);
    let list = kit.get(MAPS).await.expect(200);
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let gone = kit.delete(&path).await.expect(200);
    assert_eq!(gone["status"], "Success");
    assert_eq!(gone["details"]["uid"], made["metadata"]["uid"]);
    assert_eq!(kit.get(&path).await.refused(404), "configmaps \"m\" not found");
    assert_eq!(kit.delete(&path).await.refused(404), "configmaps \"m\" not found");
}

#[tokio::test]
async fn a_name_is_used_once_and_generated_names_differ() {
    let kit = Kit::new().await;
    kit.post(MAPS, &map("m", "1")).await.expect(201);
    assert_eq!(
        kit.post(MAPS, &map("m", "1")).await.refused(409),
        "configmaps \"m\" already exists"
    );
    let prefix = json!({"metadata": {"generateName": "x-"}});
    let one = kit.post(MAPS, &prefix).await.expect(201);
    let two = kit.post(MAPS, &prefix).await.expect(201);
    assert_ne!(one["metadata"]["name"], two["metadata"]["name"]);
    assert_eq!(one["metadata"]["name"].as_str().unwrap().len(), 7);
}

#[tokio::test]
async fn a_dry_run_leaves_nothing() {
    let kit = Kit::new().await;
    let dry = format!("{MAPS}?dryRun=All");
    let made = kit.post(&dry, &map("m", "1")).await.expect(201);
    assert_eq!(made["metadata"]["resourceVersion"], Value::Null);
    assert_eq!(kit.get(&format!("{MAPS}/m")).await.code, 404);
    kit.post(MAPS, &map("m", "1")).await.expect(201);
    kit.post(&dry, &map("m", "1")).await.refused(409);
    kit.put(&format!("{MAPS}/m?dryRun=All"), &map("m", "2"))
        .await
        .expect(200);
    kit.delete(&format!("{MAPS}/m?dryRun=All")).await.expect(200);
    assert_eq!(kit.get(&format!("{MAPS}/m")).await.expect(200)["data"]["k"], "1");
}

#[tokio::test]
async fn wrong_places_are_refused() {
    let kit = Kit::new().await;
    let text = kit
        .post(MAPS, &json!({"metadata": {"name": "m", "namespace": "b"}}))
        .await
        .refused(400);
    assert_eq!(
        text,
        "the namespace of the provided object does not match the namespace sent on the request"
    );
    kit.get("/api/v1/namespaces/a/nothing").await.refused(404);
    kit.get("/api/v2/namespaces/a/configmaps").await.refused(404);
    kit.post("/api/v1/configmaps", &map("m", "1")).await.refused(405);
    kit.put(MAPS, &map("m", "1")).await.refused(405);
    assert_eq!(kit.put(&format!("{MAPS}/other"), &map("m", "1")).await.code, 400);
    assert_eq!(
        kit.post(MAPS, &json!({"kind": "Pod", "apiVersion": "v1"})).await.code,
        400
    );
    assert_eq!(kit.put(&format!("{MAPS}/none"), &map("none", "1")).await.code, 404);
}

#[tokio::test]
async fn finalizers_hold_a_deleted_object_until_the_last_goes() {
    let kit = Kit::new().await;
    let path = format!("{MAPS}/m");
    let mut held = map("m", "1");
    held["metadata"]["finalizers"] = json!(["example.com/a"]);
    kit.post(MAPS, &held).await.expect(201);
    let marked = kit.delete(&path).await.expect(200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    let text = kit.post(MAPS, &held).await.refused(409);
    assert_eq!(text, "object is being deleted: configmaps \"m\" already exists");
    // A second delete changes nothing.
    let again = kit.delete(&path).await.expect(200);
    assert_eq!(
        again["metadata"]["resourceVersion"],
        marked["metadata"]["resourceVersion"]
    );
    kit.patch(&path, "merge", &json!({"metadata": {"finalizers": null}}))
        .await
        .expect(200);
    kit.get(&path).await.refused(404);
}

#[tokio::test]
async fn preconditions_and_propagation() {
    let kit = Kit::new().await;
    let path = format!("{MAPS}/m");
    let made = kit.post(MAPS, &map("m", "1")).await.expect(201);
    kit.delete_with(&path, &json!({"preconditions": {"uid": "other"}}))
        .await
        .refused(409);
    kit.delete_with(&path, &json!({"preconditions": {"resourceVersion": "1"}}))
        .await
        .refused(409);
    let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true});
    kit.delete_with(&path, &both).await.refused(422);
    let marked = kit
        .delete_with(&path, &json!({"propagationPolicy": "Foreground"}))
        .await
        .expect(202);
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let right = json!({"preconditions": {"uid": made["metadata"]["uid"]}, "propagationPolicy": "Background"});
    kit.delete_with(&path, &right).await.expect(200);
    kit.get(&path).await.refused(404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let kit = Kit::new().await;
    for (name, color) in [("a", "red"), ("b", "red"), ("c", "blue")] {
        let mut object = map(name, "1");
        object["metadata"]["labels"] = json!({"color": color});
        kit.post(MAPS, &object).await.expect(201);
    }
    let deleted = kit
        .delete(&format!("{MAPS}?labelSelector=color%3Dred"))
        .await
        .expect(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = kit.get(MAPS).await.expect(200);
    assert_eq!(left["items"][0]["metadata"]["name"], "c");
    kit.delete("/api/v1/configmaps").await.refused(405);
}

#[tokio::test]
async fn pages_together_are_the_list_as_it_was() {
    let kit = Kit::new().await;
    for i in 0..7 {
        kit.post(MAPS, &map(&format!("m{i}"), "1")).await.expect(201);
    }
    let mut names = Vec::new();
    let first = kit.get(&format!("{MAPS}?limit=3")).await.expect(200);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    let mut page = first.clone();
    loop {
        let items = page["items"].as_array().unwrap();
        names.extend(items.iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()));
        let Some(token) = page["metadata"]["continue"].as_str() else {
            break;
        };
        // What comes meanwhile is not in it.
        kit.post(MAPS, &json!({"metadata": {"generateName": "m5-"}}))
            .await
            .expect(201);
        page = kit.get(&format!("{MAPS}?limit=3&continue={token}")).await.expect(200);
        assert_eq!(
            page["metadata"]["resourceVersion"],
            first["metadata"]["resourceVersion"]
        );
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
    kit.get(&format!("{MAPS}?limit=3&continue=nonsense")).await.refused(400);
    let future = kit
        .get(&format!("{MAPS}?resourceVersion=1&resourceVersionMatch=Nonsense"))
        .await;
    future.refused(422);
}

#[tokio::test]
async fn selectors_select_and_unknown_fields_are_refused() {
    let kit = Kit::new().await;
    for name in ["a", "b"] {
        kit.post(MAPS, &map(name, "1")).await.expect(201);
    }
    let one = kit
        .get(&format!("{MAPS}?fieldSelector=metadata.name%3Db"))
        .await
        .expect(200);
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
    let text = kit.get(&format!("{MAPS}?fieldSelector=data.k%3D1")).await.refused(400);
    assert_eq!(
        text,
        "\"data.k\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
    );
    kit.get(&format!("{MAPS}?labelSelector=%3D%3D")).await.refused(400);
}

#[tokio::test]
async fn patches_in_three_languages() {
    let kit = Kit::new().await;
    let path = format!("{MAPS}/m");
    kit.post(MAPS, &map("m", "1")).await.expect(201);
    let merged = kit
        .patch(&path, "merge", &json!({"data": {"j": "2"}}))
        .await
        .expect(200);
    assert_eq!(merged["data"], json!({"j": "2", "k": "1"}));
    let replaced = kit
        .patch(
            &path,
            "json",
            &json!([{"op": "replace", "path": "/data/k", "value": "3"}]),
        )
        .await
        .expect(200);
    assert_eq!(replaced["data"]["k"], "3");
    let strategic = kit
        .patch(&path, "strategic-merge", &json!({"data": {"k": null}}))
        .await
        .expect(200);
    assert_eq!(strategic["data"], json!({"j": "2"}));
    // The patch holds the object to a revision if it names one.
    kit.patch(
        &path,
        "merge",
        &json!({"metadata": {"resourceVersion": "1"}, "data": {"x": "y"}}),
    )
    .await
    .refused(409);
    assert_eq!(
        kit.patch(&path, "json", &json!([{"op": "test", "path": "/data/k", "value": "0"}]))
            .await
            .refused(422),
        "the server rejected our request due to an error in our request"
    );
    kit.patch(&path, "apply", &json!({})).await.refused(415);
    kit.patch(&path, "merge", &json!({"metadata": {"name": "other"}}))
        .await
        .refused(400);
    kit.patch(&path, "merge", &json!({"data": 7})).await.refused(422);
    kit.patch(&format!("{MAPS}/none"), "merge", &json!({}))
        .await
        .refused(404);
}

#[tokio::test]
async fn a_method_that_means_nothing_is_refused() {
    let kit = Kit::new().await;
    for (method, path) in [
        ("OPTIONS", MAPS),
        ("FROB", MAPS),
        ("FROB", "/api/v1/namespaces/a/pods/p/exec"),
        ("POST", "/api/v1/watch/namespaces/a/configmaps"),
    ] {
        let request = Request::builder().method(method).uri(path).body(Body::empty());
        kit.whole(request.unwrap()).await.refused(405);
    }
}

#[tokio::test]
async fn a_patch_makes_no_object_of_another_kind() {
    let kit = Kit::new().await;
    let path = format!("{MAPS}/m");
    kit.post(MAPS, &map("m", "1")).await.expect(201);
    let secret = json!({"kind": "Secret", "data": {"k": "2"}});
    let text = kit.patch(&path, "merge", &secret).await.refused(422);
    assert!(
        text.contains("converting (v1.Secret) to (core.ConfigMap): unknown conversion"),
        "{text}"
    );
    let text = kit
        .patch(
            &path,
            "json",
            &json!([{"op": "replace", "path": "/kind", "value": "X"}]),
        )
        .await;
    assert!(
        text.refused(422)
            .contains("no kind \"X\" is registered for version \"v1\"")
    );
    // What a strategic merge says of the kind plays no part.
    let merged = kit.patch(&path, "strategic-merge", &secret).await.expect(200);
    assert_eq!(
        (&merged["kind"], &merged["data"]),
        (&json!("ConfigMap"), &json!({"k": "2"}))
    );
    let unnamed = json!({"kind": null, "apiVersion": null, "data": {"k": "3"}});
    let merged = kit.patch(&path, "merge", &unnamed).await.expect(200);
    assert_eq!(
        (&merged["kind"], &merged["apiVersion"]),
        (&json!("ConfigMap"), &json!("v1"))
    );
}

#[tokio::test]
async fn patches_are_refused_in_the_words_of_upstream() {
    let kit = Kit::new().await;
    let path = format!("{MAPS}/m");
    kit.post(MAPS, &map("m", "1")).await.expect(201);
    let rejected = "the server rejected our request due to an error in our request";
    for (kind, patch, code, want) in [
        (
            "strategic-merge",
            r#"{"data":"#,
            400,
            "error decoding patch: unexpected end of JSON input",
        ),
        (
            "merge",
            "[]",
            400,
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
        (
            "json",
            "{}",
            400,
            "error decoding patch: json: cannot unmarshal object into Go value of type []interface {}",
        ),
        (
            "json",
            "[1]",
            400,
            "json: cannot unmarshal number into Go value of type jsonpatch.Operation",
        ),
        ("json", r#"[{"op":"frob","path":"/a"}]"#, 422, rejected),
        ("json", r#"[{"path":"/a"}]"#, 422, rejected),
        (
            "strategic-merge",
            r#"{"data":7}"#,
            422,
            " \"\" is invalid: patch: Invalid value: \"map[data:7]\": cannot restore map from int64",
        ),
        (
            "strategic-merge",
            r#"{"immutable":"x"}"#,
            422,
            " \"\" is invalid: patch: Invalid value: \"map[immutable:x]\": unrecognized type: bool",
        ),
    ] {
        let request = Request::patch(&path).header("content-type", format!("application/{kind}-patch+json"));
        let answer = kit.whole(request.body(Body::from(patch)).unwrap()).await;
        assert_eq!(answer.refused(code), want, "{kind} {patch}");
    }
    let text = kit
        .patch(&path, "strategic-merge", &json!({"data": {"$patch": "x", "a": [1]}}))
        .await;
    assert_eq!(text.refused(500), "unknown patch type: x in map: map[$patch:x a:[1]]");
    let many: Vec<Value> = vec![json!({"op": "test", "path": "/data/k", "value": "1"}); 10_001];
    let text = kit.patch(&path, "json", &json!(many)).await.refused(413);
    assert_eq!(
        text,
        "The allowed maximum operations in a JSON patch is 10000, got 10001"
    );

    let twice = r#"{"data": {"k": "2", "k": "3"}, "x": 1}"#;
    let send = async |validation: &str| {
        let request = Request::patch(format!("{path}?fieldValidation={validation}"));
        let request = request.header("content-type", "application/merge-patch+json");
        kit.whole(request.body(Body::from(twice)).unwrap()).await
    };
    let text = send("Strict").await.refused(422);
    let want = r#"strict decoding error: duplicate field "data.k", unknown field "x""#;
    assert!(text.ends_with(want), "{text}");
    let warned = send("Warn").await;
    let warnings: Vec<&str> = warned
        .headers
        .get_all("warning")
        .iter()
        .map(|w| w.to_str().unwrap())
        .collect();
    assert_eq!(
        warnings,
        [
            r#"299 - "duplicate field \"data.k\"""#,
            r#"299 - "unknown field \"x\"""#
        ]
    );
    assert_eq!(warned.expect(200)["data"]["k"], "3");
}

#[tokio::test]
async fn strangers_are_told_what_they_may_not() {
    let mut kit = Kit::new().await;
    kit.act_as(apiserver::identity::User::new("bob", &[]));
    assert_eq!(
        kit.get(MAPS).await.refused(403),
        "configmaps is forbidden: User \"bob\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"a\""
    );
    assert_eq!(
        kit.get("/metrics").await.refused(403),
        "forbidden: User \"bob\" cannot get path \"/metrics\""
    );
}

#[tokio::test]
async fn yaml_comes_in_and_goes_out() {
    let kit = Kit::new().await;
    let request = http::Request::post(MAPS)
        .header("content-type", "application/yaml")
        .header("accept", "application/yaml")
        .body(axum::body::Body::from("metadata:\n  name: m\ndata:\n  k: \"1\"\n"));
    let answer = kit.whole(request.unwrap()).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    assert!(answer.text.contains("kind: ConfigMap"), "{}", answer.text);
    let request = http::Request::post(MAPS)
        .header("content-type", "text/plain")
        .body(axum::body::Body::from("{}"));
    kit.whole(request.unwrap()).await.refused(415);
    kit.get_as(MAPS, "text/html").await.refused(406);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let kit = Kit::new().await;
    let request = http::Request::post(MAPS).body(axum::body::Body::from(vec![b' '; 3 * 1024 * 1024 + 1]));
    assert_eq!(
        kit.whole(request.unwrap()).await.refused(413),
        "Request entity too large: limit is 3145728"
    );
}

#[tokio::test]
async fn tables_hold_columns_and_rows() {
    let kit = Kit::new().await;
    kit.post(MAPS, &map("m", "1")).await.expect(201);
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = kit.get_as(MAPS, accept).await.expect(200);
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "m");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["rows"][0]["object"]["data"], Value::Null);
    let one = kit.get_as(&format!("{MAPS}/m"), accept).await.expect(200);
    assert_eq!(one["rows"].as_array().unwrap().len(), 1);
    let bare = kit
        .get_as(&format!("{MAPS}?includeObject=None"), accept)
        .await
        .expect(200);
    assert_eq!(bare["rows"][0]["object"], Value::Null);
    let partial = kit
        .get_as(MAPS, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")
        .await
        .expect(200);
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert_eq!(partial["items"][0]["metadata"]["name"], "m");
    assert_eq!(partial["items"][0]["data"], Value::Null);
}

#[tokio::test]
async fn discovery_names_what_is_served() {
    let kit = Kit::new().await;
    let groups = kit.get("/apis").await.expect(200);
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "apps"));
    let core = kit.get("/api/v1").await.expect(200);
    let names: Vec<&str> = core["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    assert!(
        names.contains(&"pods/status") && names.contains(&"configmaps"),
        "{names:?}"
    );
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let all = kit.get_as("/apis", accept).await;
    let etag = all.headers["etag"].clone();
    assert_eq!(all.json()["kind"], "APIGroupDiscoveryList");
    let request = http::Request::get("/apis")
        .header("accept", accept)
        .header("if-none-match", etag);
    assert_eq!(
        kit.whole(request.body(axum::body::Body::empty()).unwrap()).await.code,
        304
    );
    kit.get("/version").await.expect(200);
    assert_eq!(kit.get("/readyz").await.text, "ok");
    assert!(kit.get("/readyz?verbose").await.text.contains("[+]etcd ok"));
    assert!(kit.get("/metrics").await.text.contains("apiserver_request_total"));
}

#[tokio::test]
async fn protobuf_comes_in_as_client_go_sends_it() {
    use apiserver::schema::{protobuf, type_of};
    let kit = Kit::new().await;
    let Value::Object(object) = map("m", "1") else {
        unreachable!()
    };
    let bytes = protobuf::to_protobuf(type_of("", "v1", "ConfigMap").unwrap(), &object).unwrap();
    let protobuf_of = |bytes| {
        http::Request::post(MAPS)
            .header("content-type", "application/vnd.kubernetes.protobuf")
            .header("accept", "application/vnd.kubernetes.protobuf,application/json")
            .body(axum::body::Body::from(bytes))
            .unwrap()
    };
    let made = kit.whole(protobuf_of(bytes)).await.expect(201);
    assert_eq!((&made["kind"], &made["data"]["k"]), (&json!("ConfigMap"), &json!("1")));
    kit.whole(protobuf_of(b"k8s\0nonsense".to_vec())).await.refused(400);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
    let Value::Object(pod) = pod else { unreachable!() };
    let bytes = protobuf::to_protobuf(type_of("", "v1", "Pod").unwrap(), &pod).unwrap();
    kit.whole(protobuf_of(bytes)).await.refused(400);
}
