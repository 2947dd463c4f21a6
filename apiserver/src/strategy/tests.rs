//! What may change once an object exists, kind by kind. Creations are judged by `registry::rows::parity`.

use serde_json::{Value, json};

use super::*;

fn object(value: Value) -> Object {
    Object(value.as_object().expect("map").clone())
}

/// `change` applied to `base`: each entry is a JSON pointer and the value to put there (null takes it away).
fn changed(base: &Value, change: &[(&str, Value)]) -> Value {
    let mut out = base.clone();
    for (path, value) in change {
        let (parent, name) = path.rsplit_once('/').expect("a pointer");
        let parent = out.pointer_mut(parent).unwrap_or_else(|| panic!("{path}"));
        match (parent, value) {
            (Value::Array(list), _) if name == "-" => list.push(value.clone()),
            (Value::Array(list), _) => list[name.parse::<usize>().expect("index")] = value.clone(),
            (Value::Object(map), Value::Null) => drop(map.remove(name)),
            (Value::Object(map), _) => drop(map.insert(name.into(), value.clone())),
            (other, _) => panic!("{path}: {other}"),
        }
    }
    out
}

/// The update as the registry runs it: the object after `prepare`, and what was refused as `field Reason`.
fn update(strategy: &dyn Strategy, subresource: &str, old: &Value, new: Value) -> (Object, Vec<String>) {
    let user = User::default();
    let context = Context {
        user: &user,
        version: "v1",
        subresource,
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    let (old, mut new) = (object(old.clone()), object(new));
    strategy.default(&mut new);
    meta::prepare_update(&mut new, &old);
    strategy.prepare_update(&context, &mut new, &old);
    let mut errors = Errors::default();
    strategy.validate_update(&context, &new, &old, &mut errors);
    let refused = errors
        .into_causes()
        .into_iter()
        .map(|cause| format!("{} {}", cause.field, cause.reason.trim_start_matches("FieldValue")))
        .collect();
    (new, refused)
}

#[track_caller]
fn check(strategy: &dyn Strategy, base: &Value, change: &[(&str, Value)], want: &[&str]) {
    let (_, refused) = update(strategy, "", base, changed(base, change));
    assert_eq!(refused, want, "{change:?}");
}

fn generation(object: &Object) -> i64 {
    object
        .at(&["metadata", "generation"])
        .and_then(Value::as_i64)
        .unwrap_or(0)
}

fn pod_spec() -> Value {
    json!({
        "containers": [{"name": "c", "image": "i:1", "imagePullPolicy": "Always", "terminationMessagePolicy": "File",
            "resources": {"requests": {"cpu": "1"}}}],
        "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
        "tolerations": [{"key": "a", "operator": "Exists"}], "activeDeadlineSeconds": 50,
    })
}

fn pod() -> Value {
    json!({"metadata": {"name": "p", "generation": 4}, "spec": pod_spec(), "status": {"phase": "Running", "qosClass": "Burstable"}})
}

#[test]
fn a_pod_changes_in_few_places() {
    let p = pod();
    let check = |change: &[(&str, Value)], want: &[&str]| check(&pod::Pods, &p, change, want);
    check(&[], &[]);
    check(&[("/spec/containers/0/image", json!("i:2"))], &[]);
    check(&[("/spec/activeDeadlineSeconds", json!(40))], &[]);
    check(
        &[("/spec/activeDeadlineSeconds", json!(60))],
        &["spec.activeDeadlineSeconds Invalid"],
    );
    check(
        &[("/spec/activeDeadlineSeconds", Value::Null)],
        &["spec.activeDeadlineSeconds Invalid"],
    );
    check(
        &[("/spec/tolerations/-", json!({"key": "b", "operator": "Exists"}))],
        &[],
    );
    check(&[("/spec/tolerations", json!([]))], &["spec.tolerations Forbidden"]);
    check(&[("/spec/containers/0/name", json!("d"))], &["spec Forbidden"]);
    check(&[("/spec/nodeName", json!("n"))], &["spec Forbidden"]);
    check(
        &[("/spec/containers", json!([]))],
        &["spec.containers Required", "spec.containers Forbidden"],
    );
    check(&[("/metadata/labels", json!({"a": "b"}))], &[]);
}

#[test]
fn the_message_says_what_changed_in_a_pod() {
    let user = User::default();
    let context = Context {
        user: &user,
        version: "v1",
        subresource: "",
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    let mut errors = Errors::default();
    let new = object(changed(&pod(), &[("/spec/dnsPolicy", json!("Default"))]));
    pod::Pods.validate_update(&context, &new, &object(pod()), &mut errors);
    let message = &errors.into_causes()[0].message;
    assert!(message.starts_with("Forbidden: pod updates may not change fields other than `spec.containers[*].image`"));
    assert!(
        message.ends_with("- spec.dnsPolicy: \"ClusterFirst\"\n+ spec.dnsPolicy: \"Default\""),
        "{message}"
    );
}

#[test]
fn a_gated_pod_may_be_aimed_more_narrowly() {
    let base = changed(
        &pod(),
        &[
            ("/spec/schedulingGates", json!([{"name": "g"}])),
            ("/spec/nodeSelector", json!({"a": "b"})),
        ],
    );
    let check = |change: &[(&str, Value)], want: &[&str]| check(&pod::Pods, &base, change, want);
    check(&[("/spec/schedulingGates", json!([]))], &[]);
    check(
        &[("/spec/schedulingGates/-", json!({"name": "h"}))],
        &["spec.schedulingGates Forbidden"],
    );
    check(&[("/spec/nodeSelector/c", json!("d"))], &[]);
    check(
        &[("/spec/nodeSelector/a", json!("c"))],
        &["spec.nodeSelector Invalid", "spec Forbidden"],
    );
}

#[test]
fn a_pod_counts_changes_of_its_spec() {
    let (new, _) = update(
        &pod::Pods,
        "",
        &pod(),
        changed(&pod(), &[("/spec/containers/0/image", json!("i:2"))]),
    );
    assert_eq!(generation(&new), 5);
    let (new, _) = update(
        &pod::Pods,
        "",
        &pod(),
        changed(&pod(), &[("/metadata/labels", json!({"a": "b"}))]),
    );
    assert_eq!(generation(&new), 4);
}

#[test]
fn the_status_subresource_writes_nothing_but_the_status() {
    let change = [
        ("/spec/dnsPolicy", json!("Default")),
        ("/status", json!({"phase": "Failed", "podIP": "10.0.0.1"})),
        ("/metadata/ownerReferences", json!([{"name": "o"}])),
    ];
    let (new, refused) = update(&pod::Pods, "status", &pod(), changed(&pod(), &change));
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(new.str_at(&["spec", "dnsPolicy"]), "ClusterFirst");
    assert_eq!(new.str_at(&["status", "phase"]), "Failed");
    assert_eq!(new.str_at(&["status", "qosClass"]), "Burstable");
    assert_eq!(new.at(&["status", "podIPs"]), Some(&json!([{"ip": "10.0.0.1"}])));
    assert_eq!(new.at(&["metadata", "ownerReferences"]), None);
    // And the object itself writes everything but the status.
    let (new, _) = update(
        &pod::Pods,
        "",
        &pod(),
        changed(&pod(), &[("/status/phase", json!("Failed"))]),
    );
    assert_eq!(new.str_at(&["status", "phase"]), "Running");
}

#[test]
fn a_container_that_ended_for_good_stays_ended() {
    let base = changed(
        &pod(),
        &[
            ("/spec/restartPolicy", json!("Never")),
            (
                "/status/containerStatuses",
                json!([{"name": "c", "state": {"terminated": {"exitCode": 1}}}]),
            ),
        ],
    );
    let running = changed(
        &base,
        &[(
            "/status/containerStatuses/0",
            json!({"name": "c", "state": {"running": {}}}),
        )],
    );
    let (_, refused) = update(&pod::Pods, "status", &base, running);
    assert_eq!(refused, ["status.containerStatuses[0].state Forbidden"]);
}

#[test]
fn ephemeral_containers_only_come() {
    let debug = json!({"name": "d", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"});
    let with = changed(
        &pod(),
        &[
            ("/spec/ephemeralContainers", json!([debug])),
            ("/spec/dnsPolicy", json!("Default")),
        ],
    );
    let (new, refused) = update(&pod::Pods, "ephemeralcontainers", &pod(), with);
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(new.str_at(&["spec", "dnsPolicy"]), "ClusterFirst");
    let base = Value::Object(new.0);
    let (_, refused) = update(
        &pod::Pods,
        "ephemeralcontainers",
        &base,
        changed(&base, &[("/spec/ephemeralContainers", json!([]))]),
    );
    assert_eq!(refused, ["spec.ephemeralContainers Forbidden"]);
}

#[test]
fn a_resize_keeps_the_class_of_service() {
    let resize = |requests: Value| {
        let change = [("/spec/containers/0/resources", json!({ "requests": requests }))];
        update(&pod::Pods, "resize", &pod(), changed(&pod(), &change))
    };
    let (new, refused) = resize(json!({"cpu": "2"}));
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(generation(&new), 5);
    let (_, refused) = resize(json!({}));
    assert_eq!(refused, ["spec Invalid", "spec.containers[0].resources Forbidden"]);
}

#[test]
fn a_pod_is_given_time_to_end() {
    let grace = |change: &[(&str, Value)], asked: Option<i64>| pod::Pods.grace(&object(changed(&pod(), change)), asked);
    let scheduled = ("/spec/nodeName", json!("n"));
    assert_eq!(grace(std::slice::from_ref(&scheduled), None), Some(30));
    assert_eq!(grace(std::slice::from_ref(&scheduled), Some(5)), Some(5));
    assert_eq!(grace(std::slice::from_ref(&scheduled), Some(0)), Some(0));
    assert_eq!(grace(std::slice::from_ref(&scheduled), Some(-3)), Some(1));
    assert_eq!(grace(&[], None), Some(0), "nobody runs it");
    assert_eq!(
        grace(&[scheduled, ("/status/phase", json!("Failed"))], None),
        Some(0),
        "nothing of it runs"
    );
}

fn workload() -> Value {
    let mut spec = pod_spec();
    spec.as_object_mut().expect("map").remove("activeDeadlineSeconds");
    json!({
        "metadata": {"name": "w", "generation": 2, "labels": {"x": "y"}},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"a": "b"}},
            "strategy": {"type": "Recreate"}, "updateStrategy": {"type": "OnDelete"},
            "podManagementPolicy": "Parallel", "serviceName": "s",
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": spec},
        },
        "status": {"replicas": 1},
    })
}

#[test]
fn a_workload_keeps_its_selector() {
    let other = [
        ("/spec/selector/matchLabels/a", json!("c")),
        ("/spec/template/metadata/labels/a", json!("c")),
    ];
    let w = workload();
    check(&workload::Deployments, &w, &other, &["spec.selector Invalid"]);
    check(&workload::ReplicaSets, &w, &other, &["spec.selector Invalid"]);
    check(&workload::DaemonSets, &w, &other, &["spec.selector Invalid"]);
    check(&workload::StatefulSets, &w, &other, &["spec Forbidden"]);
    check(
        &workload::StatefulSets,
        &w,
        &[("/spec/serviceName", json!("t"))],
        &["spec Forbidden"],
    );
    check(&workload::StatefulSets, &w, &[("/spec/replicas", json!(3))], &[]);
    check(
        &workload::Deployments,
        &w,
        &[("/spec/replicas", json!(-1))],
        &["spec.replicas Invalid"],
    );
}

#[test]
fn a_deployment_counts_annotations_as_spec() {
    let w = workload();
    let generation_after = |change: &[(&str, Value)]| {
        let (new, refused) = update(&workload::Deployments, "", &w, changed(&w, change));
        assert!(refused.is_empty(), "{refused:?}");
        generation(&new)
    };
    assert_eq!(generation_after(&[]), 2);
    assert_eq!(generation_after(&[("/metadata/labels", json!({"n": "ew"}))]), 2);
    assert_eq!(generation_after(&[("/metadata/annotations", json!({"n": "ew"}))]), 3);
    assert_eq!(generation_after(&[("/spec/replicas", json!(2))]), 3);
    let (new, _) = update(
        &workload::Deployments,
        "status",
        &w,
        changed(&w, &[("/metadata/labels", json!({"n": "ew"}))]),
    );
    assert_eq!(new.at(&["metadata", "labels"]), Some(&json!({"x": "y"})));
}

#[test]
fn a_status_has_no_part_larger_than_the_whole() {
    let w = workload();
    let more = changed(
        &w,
        &[(
            "/status",
            json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": 3}),
        )],
    );
    let (_, refused) = update(&workload::Deployments, "status", &w, more);
    assert_eq!(
        refused,
        [
            "status.readyReplicas Invalid",
            "status.availableReplicas Invalid",
            "status.availableReplicas Invalid"
        ]
    );
}

#[test]
fn a_daemon_set_counts_its_templates() {
    let user = User::default();
    let context = Context {
        user: &user,
        version: "v1",
        subresource: "",
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    let mut new = object(workload());
    workload::DaemonSets.prepare_create(&context, &mut new);
    let number = |object: &Object| {
        object
            .str_at(&["metadata", "annotations", "deprecated.daemonset.template.generation"])
            .to_owned()
    };
    assert_eq!(number(&new), "1");
    let base = Value::Object(new.0);
    let change = [("/spec/template/metadata/labels/n", json!("ew"))];
    let (new, _) = update(&workload::DaemonSets, "", &base, changed(&base, &change));
    assert_eq!(number(&new), "2");
}

#[test]
fn replication_controllers_leave_their_pods() {
    assert_eq!(workload::ReplicationControllers.propagation(), Propagation::Orphan);
    assert_eq!(job::Jobs.propagation(), Propagation::Background);
}

fn job() -> Value {
    let mut spec = pod_spec();
    spec["restartPolicy"] = json!("Never");
    let mut new = object(json!({
        "metadata": {"name": "j", "uid": "u"},
        "spec": {"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": 1,
            "template": {"metadata": {}, "spec": spec}},
    }));
    let user = User::default();
    let context = Context {
        user: &user,
        version: "v1",
        subresource: "",
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    job::Jobs.prepare_create(&context, &mut new);
    Value::Object(new.0)
}

#[test]
fn a_job_selects_its_own_pods_and_no_others() {
    let j = job();
    assert_eq!(
        j["spec"]["selector"],
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}})
    );
    assert_eq!(
        j["spec"]["template"]["metadata"]["labels"],
        json!({"batch.kubernetes.io/controller-uid": "u", "batch.kubernetes.io/job-name": "j", "controller-uid": "u", "job-name": "j"})
    );
    assert_eq!(j["metadata"].get("labels"), None);
}

#[test]
fn a_job_keeps_its_template() {
    let j = job();
    let check = |change: &[(&str, Value)], want: &[&str]| check(&job::Jobs, &j, change, want);
    check(&[("/spec/parallelism", json!(1))], &[]);
    check(&[("/spec/completions", json!(1))], &["spec.completions Invalid"]);
    check(&[("/spec/completions", json!(1)), ("/spec/parallelism", json!(1))], &[]);
    check(
        &[("/spec/template/spec/containers/0/image", json!("i:2"))],
        &["spec.template Invalid"],
    );
    check(
        &[("/spec/template/spec/nodeSelector", json!({"a": "b"}))],
        &["spec.template Invalid"],
    );
    let suspended = changed(&j, &[("/spec/suspend", json!(true))]);
    let aimed = changed(&suspended, &[("/spec/template/spec/nodeSelector", json!({"a": "b"}))]);
    assert_eq!(update(&job::Jobs, "", &suspended, aimed).1, Vec::<String>::new());
}

#[test]
fn the_end_of_a_job_is_an_end() {
    let done = changed(
        &job(),
        &[(
            "/status",
            json!({"conditions": [{"type": "Complete", "status": "True"}], "completionTime": "t", "succeeded": 2}),
        )],
    );
    let (_, refused) = update(&job::Jobs, "status", &done, changed(&done, &[("/status", json!({}))]));
    assert_eq!(refused, ["status.conditions Invalid"]);
}

fn service() -> Value {
    json!({
        "metadata": {"name": "s"},
        "spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "externalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP", "nodePort": 30080}]},
        "status": {"loadBalancer": {}},
    })
}

#[test]
fn a_service_keeps_its_first_address() {
    let s = service();
    let other = [
        ("/spec/clusterIP", json!("10.96.0.8")),
        ("/spec/clusterIPs", json!(["10.96.0.8"])),
    ];
    check(&service::Services, &s, &other, &["spec.clusterIPs[0] Invalid"]);
    check(&service::Services, &s, &[("/spec/ports/0/port", json!(81))], &[]);
}

#[test]
fn what_the_new_type_of_a_service_does_not_have_goes() {
    let s = service();
    let (new, refused) = update(
        &service::Services,
        "",
        &s,
        changed(&s, &[("/spec/type", json!("ClusterIP"))]),
    );
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(new.at(&["spec", "externalTrafficPolicy"]), None);
    assert_eq!(new.0["spec"]["ports"][0].get("nodePort"), None);

    let change = [
        ("/spec/type", json!("ExternalName")),
        ("/spec/externalName", json!("a.b")),
    ];
    let (new, refused) = update(&service::Services, "", &s, changed(&s, &change));
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(new.at(&["spec", "clusterIP"]), None);
    assert_eq!(new.at(&["spec", "ipFamilies"]), None);
}

#[test]
fn a_claim_is_bound_once_and_then_grows() {
    let claim = |phase: &str, volume: &str| {
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}, "volumeName": volume},
            "status": {"phase": phase, "capacity": {"storage": "2Gi"}}})
    };
    let size = |text: &str| [("/spec/resources/requests/storage", json!(text))];
    check(
        &volume::Claims,
        &claim("Pending", ""),
        &[("/spec/volumeName", json!("v"))],
        &[],
    );
    check(
        &volume::Claims,
        &claim("Bound", "v"),
        &[("/spec/volumeName", json!("w"))],
        &["spec Forbidden"],
    );
    check(
        &volume::Claims,
        &claim("Pending", ""),
        &size("3Gi"),
        &["spec Forbidden"],
    );
    check(&volume::Claims, &claim("Bound", "v"), &size("3Gi"), &[]);
    check(
        &volume::Claims,
        &claim("Bound", "v"),
        &size("1Gi"),
        &["spec.resources.requests.storage Forbidden"],
    );
}

#[test]
fn a_node_gets_its_range_once() {
    let node = |cidr: Option<&str>| match cidr {
        Some(cidr) => json!({"metadata": {"name": "n"}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}}),
        None => json!({"metadata": {"name": "n"}, "spec": {}}),
    };
    let (new, refused) = update(
        &node::Nodes,
        "",
        &node(None),
        json!({"metadata": {"name": "n"}, "spec": {"podCIDR": "10.1.0.0/24"}}),
    );
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(new.at(&["spec", "podCIDRs"]), Some(&json!(["10.1.0.0/24"])));
    let base = node(Some("10.1.0.0/24"));
    check(
        &node::Nodes,
        &base,
        &[("/spec/podCIDR", json!("10.2.0.0/24"))],
        &["spec.podCIDRs Forbidden"],
    );
    check(&node::Nodes, &base, &[("/spec/unschedulable", json!(true))], &[]);
    check(
        &node::Nodes,
        &base,
        &[("/spec/taints", json!([{"key": "a", "effect": "NoSchedule"}]))],
        &[],
    );
}

#[test]
fn a_role_reference_does_not_change() {
    let base = json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"}});
    let other = [("/roleRef/name", json!("s"))];
    check(&rbac::RoleBindings, &base, &other, &["roleRef Invalid"]);
    check(&rbac::ClusterRoleBindings, &base, &other, &["roleRef Invalid"]);
    check(
        &rbac::ClusterRoleBindings,
        &base,
        &[("/subjects", json!([{"kind": "ServiceAccount", "name": "a"}]))],
        &["subjects[0].namespace Required"],
    );
}

#[test]
fn approving_and_signing_are_two_things() {
    let base = json!({"spec": {"signerName": "a.b/c"}, "status": {}});
    let approved = json!({"conditions": [{"type": "Approved", "status": "True", "reason": "r"}], "certificate": "x"});
    let asked = changed(&base, &[("/status", approved), ("/spec/signerName", json!("d.e/f"))]);
    let (new, refused) = update(&certificates::Requests, "approval", &base, asked.clone());
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(new.str_at(&["spec", "signerName"]), "a.b/c");
    assert_eq!(new.at(&["status", "certificate"]), None, "approval signs nothing");
    assert_eq!(
        new.0["status"]["conditions"][0]["lastUpdateTime"],
        "1970-01-01T00:00:00Z"
    );

    let (signed, _) = update(&certificates::Requests, "status", &base, asked);
    assert_eq!(signed.at(&["status", "conditions"]), None, "signing approves nothing");
    let decided = Value::Object(new.0);
    let (_, refused) = update(
        &certificates::Requests,
        "approval",
        &decided,
        changed(
            &decided,
            &[("/status/conditions", json!([{"type": "Denied", "status": "True"}]))],
        ),
    );
    assert_eq!(refused, ["status.conditions Forbidden"]);
}

#[test]
fn events_of_the_new_group_say_everything() {
    let strict = event::Events { strict: true };
    let lax = event::Events { strict: false };
    let user = User::default();
    let context = Context {
        user: &user,
        version: "v1",
        subresource: "",
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    let refused = |strategy: &dyn Strategy, value: Value| {
        let mut errors = Errors::default();
        strategy.validate(&context, &object(value), &mut errors);
        errors.into_causes().into_iter().map(|c| c.field).collect::<Vec<_>>()
    };
    let old = json!({"metadata": {"namespace": "n"}, "involvedObject": {"namespace": "n"}, "type": "Odd", "count": 1});
    assert_eq!(refused(&lax, old.clone()), Vec::<String>::new());
    assert_eq!(
        refused(&strict, old),
        [
            "reportingController",
            "reportingController",
            "reportingController",
            "reportingInstance",
            "action",
            "reason",
            "eventTime",
            "type",
            "count"
        ]
    );
    let elsewhere = json!({"metadata": {"namespace": "n"}, "involvedObject": {"namespace": "m"}});
    assert_eq!(refused(&lax, elsewhere), ["involvedObject.namespace"]);
    let cluster = json!({"metadata": {"namespace": "default"}, "involvedObject": {}});
    assert_eq!(refused(&lax, cluster), Vec::<String>::new());
}

#[test]
fn warnings_name_what_had_better_not_be() {
    let p = changed(
        &pod(),
        &[
            ("/spec/nodeSelector", json!({"beta.kubernetes.io/os": "linux"})),
            (
                "/spec/containers/0/env",
                json!([{"name": "A"}, {"name": "A"}, {"name": "A", "value": "$(A)x"}]),
            ),
            (
                "/spec/containers/0/ports",
                json!([{"containerPort": 80}, {"containerPort": 80, "hostPort": 80}]),
            ),
            ("/spec/containers/0/resources/requests/memory", json!("100m")),
        ],
    );
    let user = User::default();
    let context = Context {
        user: &user,
        version: "v1",
        subresource: "",
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    assert_eq!(
        pod::Pods.warnings(&context, &object(p), None),
        [
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            "spec.containers[0].resources.requests[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
        ]
    );
}
