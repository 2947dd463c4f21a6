//! What a watch says, and in which order.

use serde_json::{Value, json};

use crate::kit::Kit;

const MAPS: &str = "/api/v1/namespaces/a/configmaps";

fn map(name: &str, color: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"color": color}}})
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_a_list_misses_nothing() {
    let kit = Kit::new().await;
    kit.post(MAPS, &map("before", "red")).await.expect(201);
    let list = kit.get(MAPS).await.expect(200);
    let from = list["metadata"]["resourceVersion"].as_str().unwrap();
    kit.post(MAPS, &map("m", "red")).await.expect(201);
    let mut events = kit.watch(&format!("{MAPS}?watch=1&resourceVersion={from}")).await;
    let added = events.next().await.unwrap();
    assert_eq!(
        (&added["type"], &added["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!("m"))
    );
    let changed = kit.put(&format!("{MAPS}/m"), &map("m", "blue")).await.expect(200);
    let modified = events.next().await.unwrap();
    assert_eq!(modified["type"], "MODIFIED");
    assert_eq!(modified["object"], changed);
    kit.delete(&format!("{MAPS}/m")).await.expect(200);
    let deleted = events.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    let number = |v: &Value| {
        v["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert!(number(&deleted["object"]) > number(&changed));
}

#[tokio::test(start_paused = true)]
async fn a_selector_turns_changes_into_arrivals_and_departures() {
    let kit = Kit::new().await;
    let mut events = kit.watch(&format!("{MAPS}?watch=1&labelSelector=color%3Dred")).await;
    kit.post(MAPS, &map("m", "blue")).await.expect(201);
    kit.put(&format!("{MAPS}/m"), &map("m", "red")).await.expect(200);
    assert_eq!(events.next().await.unwrap()["type"], "ADDED");
    kit.put(&format!("{MAPS}/m"), &map("m", "green")).await.expect(200);
    let left = events.next().await.unwrap();
    assert_eq!(left["type"], "DELETED");
    assert_eq!(left["object"]["metadata"]["labels"]["color"], "red");
}

#[tokio::test(start_paused = true)]
async fn the_initial_state_ends_with_a_bookmark() {
    let kit = Kit::new().await;
    kit.post(MAPS, &map("m", "red")).await.expect(201);
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = kit.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(events.next().await.unwrap()["type"], "ADDED");
    let end = events.next().await.unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["kind"], "ConfigMap");
    assert_eq!(
        end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    // Later ones come about every minute, where there is something to tell.
    kit.post("/api/v1/namespaces/b/configmaps", &map("elsewhere", "red"))
        .await
        .expect(201);
    let later = events.next().await.unwrap();
    assert_eq!(later["type"], "BOOKMARK");
    assert_ne!(
        later["object"]["metadata"]["resourceVersion"],
        end["object"]["metadata"]["resourceVersion"]
    );
    kit.get(&format!("{MAPS}?watch=1&sendInitialEvents=true"))
        .await
        .refused(422);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_when_its_time_is_over() {
    let kit = Kit::new().await;
    let mut events = kit.watch(&format!("{MAPS}?watch=1&timeoutSeconds=5")).await;
    assert_eq!(events.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn one_object_is_watched_by_its_name() {
    let kit = Kit::new().await;
    let mut events = kit
        .watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Db"))
        .await;
    kit.post(MAPS, &map("a", "red")).await.expect(201);
    kit.post(MAPS, &map("b", "red")).await.expect(201);
    assert_eq!(events.next().await.unwrap()["object"]["metadata"]["name"], "b");
}

#[tokio::test(start_paused = true)]
async fn inside_the_process_an_event_is_five_frames_of_shared_bytes() {
    let mut kit = Kit::new().await;
    kit.internal();
    let mut events = kit.watch(&format!("{MAPS}?watch=1")).await;
    let made = kit.post(MAPS, &map("m", "red")).await.expect(201);
    let mut frames = Vec::new();
    for _ in 0..5 {
        frames.push(events.frame().await.unwrap());
    }
    assert_eq!(frames[0], "{\"type\":\"ADDED\",\"object\":");
    assert_eq!(frames[4], "}\n");
    let event: Value = serde_json::from_slice(&frames.concat()).unwrap();
    assert_eq!(event["object"], made);
}

#[tokio::test(start_paused = true)]
async fn tables_are_watched_too() {
    let kit = Kit::new().await;
    kit.post(MAPS, &map("m", "red")).await.expect(201);
    let request = http::Request::get(format!("{MAPS}?watch=1"))
        .header(
            "accept",
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        )
        .body(axum::body::Body::empty());
    let response = kit.send(request.unwrap()).await;
    let mut events = crate::kit::Events::of(response.into_body());
    let first = events.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    kit.put(&format!("{MAPS}/m"), &map("m", "blue")).await.expect(200);
    let second = events.next().await.unwrap();
    assert_eq!(second["object"]["columnDefinitions"], Value::Null);
    assert_eq!(second["object"]["rows"][0]["cells"][0], "m");
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_forgotten_history_is_told_so_in_the_stream() {
    let kit = Kit::new().await;
    kit.post(MAPS, &map("m", "red")).await.expect(201);
    // Compaction comes every five minutes in which something was written.
    for color in ["blue", "green", "black"] {
        kit.put(&format!("{MAPS}/m"), &map("m", color)).await.expect(200);
        tokio::time::sleep(std::time::Duration::from_secs(301)).await;
    }
    let mut events = kit.watch(&format!("{MAPS}?watch=1&resourceVersion=1")).await;
    let error = events.next().await.unwrap();
    assert_eq!(
        (&error["type"], &error["object"]["code"]),
        (&json!("ERROR"), &json!(410)),
        "{error}"
    );
    assert_eq!(error["object"]["reason"], "Expired");
    assert_eq!(events.next().await, None);
    let text = kit
        .get(&format!("{MAPS}?resourceVersion=1&resourceVersionMatch=Exact"))
        .await
        .refused(410);
    assert!(text.starts_with("too old resource version: 1 ("), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_page_of_forgotten_history_can_go_on_with_the_present() {
    let kit = Kit::new().await;
    for name in ["a", "b", "c"] {
        kit.post(MAPS, &map(name, "red")).await.expect(201);
    }
    let page = kit.get(&format!("{MAPS}?limit=1")).await.expect(200);
    let token = page["metadata"]["continue"].as_str().unwrap().to_owned();
    for color in ["blue", "green", "black"] {
        kit.put(&format!("{MAPS}/c"), &map("c", color)).await.expect(200);
        tokio::time::sleep(std::time::Duration::from_secs(301)).await;
    }
    let refusal = kit.get(&format!("{MAPS}?limit=1&continue={token}")).await.expect(410);
    assert_eq!(refusal["reason"], "Expired");
    let other = refusal["metadata"]["continue"].as_str().unwrap();
    let rest = kit.get(&format!("{MAPS}?continue={other}")).await.expect(200);
    assert_eq!(rest["items"].as_array().unwrap().len(), 2);
    assert_eq!(rest["items"][1]["metadata"]["labels"]["color"], "black");
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_is_not_there_yet_is_waited_for_and_refused() {
    let kit = Kit::new().await;
    let refusal = kit.get(&format!("{MAPS}?resourceVersion=1000000")).await.expect(504);
    assert_eq!(refusal["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(refusal["details"]["retryAfterSeconds"], 1);
    assert!(
        refusal["message"]
            .as_str()
            .unwrap()
            .starts_with("Timeout: Too large resource version: 1000000, current: ")
    );
}

#[tokio::test(start_paused = true)]
async fn many_events_at_once_are_one_frame_over_the_network() {
    let kit = Kit::new().await;
    for i in 0..50 {
        kit.post(MAPS, &map(&format!("m{i}"), "red")).await.expect(201);
    }
    let mut events = kit.watch(&format!("{MAPS}?watch=1")).await;
    let frame = events.frame().await.unwrap();
    assert_eq!(frame.iter().filter(|b| **b == b'\n').count(), 50);
}
