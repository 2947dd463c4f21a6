//! Ownership on real kinds. The expectations are upstream's documented behaviour and its own recorded entries.

use serde_json::{Map, Value, json};

use super::*;
use crate::status::Status;

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => panic!("an object"),
    }
}

/// A live object and the writes to it.
struct Lab {
    gvk: Gvk<'static>,
    live: Option<Map<String, Value>>,
    clock: u32,
}

impl Lab {
    fn new(group: &'static str, version: &'static str, kind: &'static str) -> Lab {
        Lab {
            gvk: Gvk { group, version, kind },
            live: None,
            clock: 0,
        }
    }
    fn form<'a>(&self, manager: &'a str, subresource: &'a str) -> Form<'a> {
        Form {
            gvk: self.gvk,
            ty: schema::type_of(self.gvk.group, self.gvk.version, self.gvk.kind).unwrap(),
            subresource,
            reset: match subresource {
                "" => Reset::Paths(&[&["status"]]),
                _ => Reset::Paths(&[&["spec"]]),
            },
            manager,
            now: format!("2026-01-02T03:04:{:02}Z", self.clock),
            versions: &OneVersion,
        }
    }
    fn read(&self, value: Value) -> Map<String, Value> {
        let ty = schema::type_of(self.gvk.group, self.gvk.version, self.gvk.kind).unwrap();
        let bytes = serde_json::to_vec(&value).unwrap();
        let read = schema::decode(ty, self.gvk, schema::Format::Json, &bytes, schema::Validation::Strict);
        let mut object = read.unwrap().object.0;
        schema::default(ty, &mut object);
        object
    }
    fn update_by(&mut self, manager: &str, subresource: &str, value: Value) -> &mut Self {
        self.clock += 1;
        let mut new = self.read(value);
        track(&self.form(manager, subresource), self.live.as_ref(), &mut new);
        self.live = Some(new);
        self
    }
    fn update(&mut self, manager: &str, value: Value) -> &mut Self {
        self.update_by(manager, "", value)
    }
    fn try_apply(&mut self, manager: &str, config: Value, force: bool) -> Result<(), Status> {
        self.clock += 1;
        let config = map(config);
        let new = apply(&self.form(manager, ""), self.live.as_ref(), &config, force)?;
        self.live = Some(new);
        Ok(())
    }
    fn apply(&mut self, manager: &str, config: Value) -> &mut Self {
        self.try_apply(manager, config, false).unwrap();
        self
    }
    fn refused(&mut self, manager: &str, config: Value) -> Status {
        let before = self.live.clone();
        let status = self.try_apply(manager, config, false).unwrap_err();
        assert_eq!(self.live, before);
        status
    }
    fn at(&self, pointer: &str) -> Value {
        let live = Value::Object(self.live.clone().unwrap());
        live.pointer(pointer).cloned().unwrap_or(Value::Null)
    }
    /// `manager/operation` of each entry, in order.
    fn managers(&self) -> Vec<String> {
        let list = self.at("/metadata/managedFields");
        let entries = list.as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .map(|e| {
                format!(
                    "{}/{}",
                    e["manager"].as_str().unwrap(),
                    e["operation"].as_str().unwrap()
                )
            })
            .collect()
    }
    fn entry(&self, manager: &str) -> Value {
        let list = self.at("/metadata/managedFields");
        let found = list
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["manager"] == manager);
        found.unwrap_or_else(|| panic!("{manager} in {list}")).clone()
    }
    fn owned(&self, manager: &str) -> Value {
        self.entry(manager)["fieldsV1"].clone()
    }
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "d"}, "data": data})
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"}, "spec": spec})
}

fn web(replicas: u32, containers: Value) -> Value {
    deployment(
        json!({"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": containers}}}),
    )
}

// As kubectl shows it after `kubectl create deployment` and `kubectl apply` on a real cluster.
#[test]
fn a_creation_owns_what_was_sent_and_defaulted_in_upstreams_letters() {
    let mut lab = Lab::new("apps", "v1", "Deployment");
    lab.update(
        "kubectl-create",
        web(
            1,
            json!([{"name": "nginx", "image": "nginx", "ports": [{"containerPort": 80}]}]),
        ),
    );
    let want = json!({"f:spec": {
        "f:progressDeadlineSeconds": {}, "f:replicas": {}, "f:revisionHistoryLimit": {}, "f:selector": {},
        "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}}, "f:type": {}},
        "f:template": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {
            "f:containers": {"k:{\"name\":\"nginx\"}": {".": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {},
                "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}},
                "f:resources": {}, "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {}}},
            "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {},
            "f:terminationGracePeriodSeconds": {}}}}});
    assert_eq!(lab.owned("kubectl-create"), want);
    let entry = lab.entry("kubectl-create");
    assert_eq!(
        (
            &entry["operation"],
            &entry["apiVersion"],
            &entry["fieldsType"],
            &entry["time"]
        ),
        (
            &json!("Update"),
            &json!("apps/v1"),
            &json!("FieldsV1"),
            &json!("2026-01-02T03:04:01Z")
        )
    );
}

#[test]
fn an_applier_owns_what_it_says_and_no_defaults() {
    let mut lab = Lab::new("apps", "v1", "Deployment");
    lab.apply(
        "me",
        web(
            2,
            json!([{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]),
        ),
    );
    let want = json!({"f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {
        "f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {},
            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}});
    assert_eq!(lab.owned("me"), want);
    assert_eq!(lab.managers(), ["me/Apply"]);
    assert_eq!(lab.at("/spec/progressDeadlineSeconds"), 600);
}

#[test]
fn a_conflict_names_the_manager_and_the_field() {
    let mut lab = Lab::new("apps", "v1", "Deployment");
    lab.update(
        "kubectl-client-side-apply",
        web(3, json!([{"name": "c", "image": "i"}])),
    );
    let status = lab.refused("me", deployment(json!({"replicas": 5})));
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    let causes = status.details.unwrap().causes;
    assert_eq!(status.code, 409);
    assert_eq!(
        (causes[0].reason, &*causes[0].field),
        ("FieldManagerConflict", ".spec.replicas")
    );
    assert_eq!(
        causes[0].message,
        "conflict with \"kubectl-client-side-apply\" using apps/v1"
    );
    let status = lab.refused(
        "me",
        deployment(json!({"replicas": 5, "template": {"spec": {"containers": [{"name": "c", "image": "j"}]}}})),
    );
    assert_eq!(
        status.message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n- .spec.replicas\n- .spec.template.spec.containers[name=\"c\"].image"
    );
    lab.try_apply("me", deployment(json!({"replicas": 5})), true).unwrap();
    assert_eq!(lab.at("/spec/replicas"), 5);
    assert_eq!(lab.owned("me"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(lab.owned("kubectl-client-side-apply")["f:spec"].get("f:replicas"), None);
}

#[test]
fn appliers_conflict_by_name_alone_and_share_what_they_agree_on() {
    let mut lab = Lab::new("", "v1", "ConfigMap");
    lab.apply("one", config_map(json!({"a": "1", "b": "2"})));
    lab.apply("two", config_map(json!({"a": "1"})));
    let status = lab.refused("two", config_map(json!({"a": "other"})));
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"one\": .data.a"
    );
    lab.apply("one", config_map(json!({"b": "2"})));
    assert_eq!(lab.at("/data"), json!({"a": "1", "b": "2"}));
    lab.apply("two", config_map(json!({})));
    assert_eq!(lab.at("/data"), json!({"b": "2"}));
    assert_eq!(lab.owned("two"), json!({"f:data": {}}));
}

#[test]
fn what_is_no_longer_applied_goes_but_what_others_have_stays() {
    let mut lab = Lab::new("", "v1", "ConfigMap");
    lab.apply("me", config_map(json!({"a": "1", "b": "2"})));
    lab.update("other", config_map(json!({"a": "1", "b": "2", "c": "3"})));
    lab.apply("me", config_map(json!({"a": "1"})));
    assert_eq!(lab.at("/data"), json!({"a": "1", "c": "3"}));
    lab.apply(
        "me",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "d"}}),
    );
    assert_eq!(lab.at("/data"), json!({"c": "3"}));
}

#[test]
fn list_items_of_others_survive_and_keep_their_place() {
    let mut lab = Lab::new("", "v1", "Pod");
    let pod = |containers: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}});
    lab.apply(
        "me",
        pod(json!([{"name": "a", "image": "1"}, {"name": "c", "image": "1"}])),
    );
    lab.update(
        "injector",
        pod(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}, {"name": "c", "image": "1"}])),
    );
    lab.apply("me", pod(json!([{"name": "c", "image": "1"}])));
    let names: Vec<Value> = lab
        .at("/spec/containers")
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].clone())
        .collect();
    assert_eq!(names, ["b", "c"]);
}

#[test]
fn sets_and_atomic_values_are_owned_as_upstream_does() {
    let mut lab = Lab::new("", "v1", "Pod");
    lab.apply("me", json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "finalizers": ["x/y"]},
        "spec": {"nodeSelector": {"a": "b"}, "containers": [{"name": "c", "image": "i", "args": ["x"], "command": ["y"]}],
            "imagePullSecrets": [{"name": "s"}]}}));
    assert_eq!(
        lab.owned("me"),
        json!({"f:metadata": {"f:finalizers": {"v:\"x/y\"": {}}}, "f:spec": {
        "f:nodeSelector": {}, "f:imagePullSecrets": {"k:{\"name\":\"s\"}": {}},
        "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}, "f:args": {}, "f:command": {}}}}})
    );
}

#[test]
fn time_moves_only_when_something_of_the_manager_does() {
    let mut lab = Lab::new("", "v1", "ConfigMap");
    lab.apply("me", config_map(json!({"a": "1"})));
    lab.apply("me", config_map(json!({"a": "1"})));
    assert_eq!(lab.entry("me")["time"], "2026-01-02T03:04:01Z");
    lab.update("other", config_map(json!({"a": "1", "b": "1"})));
    assert_eq!(lab.entry("me")["time"], "2026-01-02T03:04:01Z");
    assert_eq!(lab.entry("other")["time"], "2026-01-02T03:04:03Z");
    lab.apply("me", config_map(json!({"a": "2"})));
    assert_eq!(lab.entry("me")["time"], "2026-01-02T03:04:04Z");
    lab.apply("third", config_map(json!({"a": "2"})));
    assert_eq!(lab.entry("third")["time"], "2026-01-02T03:04:05Z");
}

#[test]
fn a_write_that_only_moves_times_is_none() {
    let mut lab = Lab::new("", "v1", "ConfigMap");
    lab.update("me", config_map(json!({"a": "1"})));
    let old = lab.live.clone().unwrap();
    let mut new = old.clone();
    new["metadata"]["managedFields"][0]["time"] = json!("2027-01-01T00:00:00Z");
    same_but_times(&old, &mut new);
    assert_eq!(new, old);
    new["metadata"]["managedFields"][0]["time"] = json!("2027-01-01T00:00:00Z");
    new["data"]["a"] = json!("2");
    same_but_times(&old, &mut new);
    assert_eq!(new["metadata"]["managedFields"][0]["time"], "2027-01-01T00:00:00Z");
}

#[test]
fn kubectl_takes_over_what_its_client_side_apply_wrote() {
    let mut lab = Lab::new("apps", "v1", "Deployment");
    let mut object = web(3, json!([{"name": "c", "image": "i"}]));
    let last = object.to_string();
    object["metadata"]["annotations"] = json!({apply::LAST_APPLIED: last});
    lab.update("kubectl-client-side-apply", object.clone());
    // Changed by nobody since: kubectl may change it without force; another manager may not.
    let status = lab.refused("me", web(4, json!([{"name": "c", "image": "i"}])));
    assert_eq!(status.code, 409);
    lab.apply("kubectl", web(4, json!([{"name": "c", "image": "i"}])));
    assert_eq!(lab.at("/spec/replicas"), 4);
    let synced = lab.at("/metadata/annotations").as_object().unwrap()[apply::LAST_APPLIED]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(serde_json::from_str::<Value>(&synced).unwrap()["spec"]["replicas"], 4);
    // What somebody else changed in between is a conflict for kubectl too.
    let mut scaled = Value::Object(lab.live.clone().unwrap());
    scaled["spec"]["replicas"] = json!(9);
    lab.update("autoscaler", scaled);
    let status = lab.refused("kubectl", web(5, json!([{"name": "c", "image": "i"}])));
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"autoscaler\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn managed_fields_can_be_reset_and_rewritten_by_clients() {
    let mut lab = Lab::new("", "v1", "ConfigMap");
    lab.update("me", config_map(json!({"a": "1"})));
    let list = lab.at("/metadata/managedFields");
    // Leaving them out keeps them, as does garbage.
    lab.update("me", config_map(json!({"a": "1"})));
    assert_eq!(lab.at("/metadata/managedFields"), list);
    let with = |list: Value| {
        let mut object = config_map(json!({"a": "1"}));
        object["metadata"]["managedFields"] = list;
        object
    };
    lab.update("me", with(json!([{"operation": "Nothing", "manager": "x"}])));
    assert_eq!(lab.at("/metadata/managedFields"), list);
    // What kubectl does to move ownership of client-side apply.
    let mut moved = list.clone();
    moved[0]["manager"] = json!("kubectl");
    moved[0]["operation"] = json!("Apply");
    lab.update("kubectl", with(moved));
    assert_eq!(lab.managers(), ["kubectl/Apply"]);
    // A subresource changes no ownership by hand.
    lab.update_by("me", "status", with(json!([{}])));
    assert_eq!(lab.managers(), ["kubectl/Apply"]);
    lab.update("me", with(json!([{}])));
    assert_eq!(lab.at("/metadata/managedFields"), Value::Null);
    // From then on it is not tracked, until somebody applies.
    lab.update("me", config_map(json!({"a": "2"})));
    assert_eq!(lab.at("/metadata/managedFields"), Value::Null);
    lab.apply("me", config_map(json!({"a": "2", "b": "1"})));
    assert_eq!(lab.managers(), ["me/Apply", "before-first-apply/Update"]);
    assert_eq!(lab.owned("before-first-apply"), json!({"f:data": {".": {}, "f:a": {}}}));
}

#[test]
fn status_and_spec_are_owned_by_who_may_write_them() {
    let mut lab = Lab::new("apps", "v1", "Deployment");
    let mut object = web(3, json!([{"name": "c", "image": "i"}]));
    object["status"] = json!({"replicas": 7});
    lab.update("me", object.clone());
    assert_eq!(lab.owned("me").get("f:status"), None);
    object["status"] = json!({"replicas": 3, "conditions": [{"type": "Available", "status": "True"}]});
    object["spec"]["replicas"] = json!(100);
    lab.update_by("controller", "status", object);
    assert_eq!(lab.entry("controller")["subresource"], "status");
    assert_eq!(
        lab.owned("controller"),
        json!({"f:status": {"f:conditions": {".": {}, "k:{\"type\":\"Available\"}": {".": {}, "f:lastTransitionTime": {}, "f:lastUpdateTime": {},
            "f:status": {}, "f:type": {}}}, "f:replicas": {}}})
    );
}

#[test]
fn what_is_not_of_the_type_is_refused_in_upstreams_words() {
    let mut lab = Lab::new("apps", "v1", "Deployment");
    for (config, code, message) in [
        (
            deployment(json!({"nope": 1})),
            500,
            "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.nope: field not declared in schema",
        ),
        (
            deployment(json!({"replicas": "x", "paused": 1})),
            500,
            "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): errors:\n  .spec.paused: expected boolean, got &{1}\n  .spec.replicas: expected numeric (int or float), got string",
        ),
        (
            web(1, json!([{"image": "i"}])),
            500,
            "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.template.spec.containers: element 0: associative list with keys has an element that omits key field \"name\" (and doesn't have default value)",
        ),
        (
            web(1, json!([{"name": "c", "env": [{"name": "A", "value": 1}]}])),
            500,
            "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.template.spec.containers[name=\"c\"].env[name=\"A\"].value: expected string, got &value.valueUnstructured{Value:1}",
        ),
        (
            web(1, json!([{"name": "c"}, {"name": "c"}])),
            500,
            "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.template.spec.containers: duplicate entries for key [name=\"c\"]",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}}),
            400,
            "invalid object type: /v1, Kind=Pod",
        ),
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "managedFields": []}}),
            400,
            "metadata.managedFields must be nil",
        ),
    ] {
        let status = lab.refused("me", config);
        assert_eq!((status.code, &*status.message), (code, message));
    }
}

#[test]
fn the_oldest_updates_become_one_entry() {
    let mut lab = Lab::new("", "v1", "ConfigMap");
    let mut data = Map::new();
    for number in 0..14 {
        data.insert(format!("k{number:02}"), json!("v"));
        lab.update(&format!("m{number:02}"), config_map(Value::Object(data.clone())));
    }
    let managers = lab.managers();
    assert_eq!(managers.len(), 10, "{managers:?}");
    assert_eq!(managers[0], "ancient-changes/Update");
    assert_eq!(
        lab.owned("ancient-changes"),
        json!({"f:data": {".": {}, "f:k00": {}, "f:k01": {}, "f:k02": {}, "f:k03": {}, "f:k04": {}}})
    );
}

#[test]
fn a_scale_moves_the_replicas_and_nothing_else() {
    let mut lab = Lab::new("apps", "v1", "Deployment");
    lab.apply("me", web(3, json!([{"name": "c", "image": "i"}])));
    let workload = lab.live.clone().unwrap();
    let scale = |replicas: u32| {
        map(json!({"apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {"name": "web", "uid": "u"}, "spec": {"replicas": replicas}, "status": {"replicas": 0}}))
    };
    let form = |manager| Form {
        gvk: Gvk {
            group: "autoscaling",
            version: "v1",
            kind: "Scale",
        },
        ty: schema::type_of("autoscaling", "v1", "Scale").unwrap(),
        subresource: "scale",
        reset: Reset::NOTHING,
        manager,
        now: "2026-01-02T03:04:30Z".into(),
        versions: &OneVersion,
    };
    let mut live = scale(3);
    scale_entries(&workload, &mut live);
    assert_eq!(
        live["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:spec": {"f:replicas": {}}})
    );
    let mut new = scale(5);
    track(&form("hpa"), Some(&live), &mut new);
    let mut scaled = workload.clone();
    workload_entries("apps/v1", &new, &mut scaled);
    lab.live = Some(scaled);
    assert_eq!(lab.managers(), ["me/Apply", "hpa/Update"]);
    let entry = lab.entry("hpa");
    assert_eq!(
        (&entry["subresource"], &entry["apiVersion"]),
        (&json!("scale"), &json!("apps/v1"))
    );
    assert_eq!(lab.owned("me")["f:spec"].get("f:replicas"), None);
    let status = apply(&form("you"), Some(&live), &scale(7), false).unwrap_err();
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"me\": .spec.replicas"
    );
}

#[test]
fn items_that_come_twice_are_owned_together_and_replaced_by_an_apply() {
    let mut lab = Lab::new("", "v1", "Pod");
    let pod = |env: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "image": "i", "env": env}]}})
    };
    let twice = json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "B", "value": "b"}]);
    lab.update("old", pod(twice.clone()));
    let env = "/f:spec/f:containers/k:{\"name\":\"c\"}/f:env";
    assert_eq!(
        lab.owned("old").pointer(env).unwrap(),
        &json!({".": {}, "k:{\"name\":\"A\"}": {}, "k:{\"name\":\"B\"}": {".": {}, "f:name": {}, "f:value": {}}})
    );
    // Who says nothing of them leaves both alone.
    lab.apply("me", pod(json!([{"name": "C", "value": "c"}])));
    assert_eq!(lab.at("/spec/containers/0/env").as_array().unwrap().len(), 4);
    let status = lab.refused(
        "me",
        pod(json!([{"name": "A", "value": "1"}, {"name": "C", "value": "c"}])),
    );
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"old\" using v1: .spec.containers[name=\"c\"].env[name=\"A\"]"
    );
    let config = pod(json!([{"name": "A", "value": "1"}, {"name": "C", "value": "c"}]));
    lab.try_apply("me", config, true).unwrap();
    let mut names: Vec<String> = lab
        .at("/spec/containers/0/env")
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["name"].to_string())
        .collect();
    names.sort();
    assert_eq!(names, ["\"A\"", "\"B\"", "\"C\""]);
}

#[test]
fn what_is_written_in_another_form_is_still_the_same_value_at_rest() {
    let mut lab = Lab::new("", "v1", "Pod");
    let pod = |cpu: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "creationTimestamp": null},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": cpu}}}]}})
    };
    lab.apply("me", pod(json!("1000m")));
    assert_eq!(lab.at("/spec/containers/0/resources/limits/cpu"), "1");
    let before = lab.live.clone().unwrap();
    lab.apply("me", pod(json!(1)));
    let mut after = lab.live.clone().unwrap();
    same_but_times(&before, &mut after);
    assert_eq!(after, before);
    // To another applier the letters count, as they do upstream.
    assert_eq!(lab.refused("you", pod(json!("1000m"))).code, 409);
    lab.apply("you", pod(json!("1")));
}

#[test]
fn a_port_that_goes_takes_no_other_with_it() {
    let mut lab = Lab::new("", "v1", "Service");
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}});
    lab.apply("me", service(json!([{"port": 53, "name": "udp", "protocol": "UDP"}, {"port": 53, "name": "tcp"}, {"port": 80, "name": "web"}])));
    lab.apply(
        "me",
        service(json!([{"port": 53, "name": "tcp"}, {"port": 80, "name": "web"}])),
    );
    let ports: Vec<Value> = lab
        .at("/spec/ports")
        .as_array()
        .unwrap()
        .iter()
        .map(|p| json!([p["port"], p["protocol"]]))
        .collect();
    assert_eq!(ports, [json!([53, "TCP"]), json!([80, "TCP"])]);
}

#[test]
fn an_item_stays_while_any_applier_says_it() {
    let mut lab = Lab::new("apps", "v1", "Deployment");
    let both = json!([{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]);
    lab.apply("me", web(1, both));
    lab.apply(
        "you",
        deployment(json!({"template": {"spec": {"containers": [{"name": "b", "image": "i"}]}}})),
    );
    lab.apply("me", web(1, json!([{"name": "a", "image": "i"}])));
    assert_eq!(lab.at("/spec/template/spec/containers").as_array().unwrap().len(), 2);
    assert_eq!(lab.at("/spec/template/spec/containers/1/image"), "i");
    lab.apply("you", deployment(json!({})));
    assert_eq!(lab.at("/spec/template/spec/containers").as_array().unwrap().len(), 1);
}
