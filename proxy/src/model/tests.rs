use serde_json::{Value, json};

use super::*;

fn service(spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "a"}, "spec": spec})).unwrap()
}

fn plain(extra: Value) -> Service {
    let mut spec = json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80, "protocol": "TCP"}]});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    service(spec)
}

/// `10.244.0.5 n1 ready`: address, node and state of each endpoint.
fn slice(endpoints: &[&str]) -> EndpointSlice {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|text| {
            let [address, node, state] = text.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{text}")
            };
            let conditions = match state {
                "ready" => json!({"ready": true}),
                "unset" => json!({}),
                "serving" => json!({"ready": false, "serving": true, "terminating": true}),
                "gone" => json!({"ready": false, "serving": false, "terminating": true}),
                "unready" => json!({"ready": false, "serving": false, "terminating": false}),
                other => panic!("{other}"),
            };
            json!({"addresses": [address], "nodeName": node, "conditions": conditions})
        })
        .collect();
    serde_json::from_value(json!({
        "addressType": "IPv4", "metadata": {"name": "web-1"}, "endpoints": endpoints,
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    }))
    .unwrap()
}

fn shown(endpoints: &[Endpoint]) -> String {
    endpoints
        .iter()
        .map(|e| format!("{}:{}", e.address, e.port))
        .collect::<Vec<_>>()
        .join(" ")
}

#[track_caller]
fn check_eligible(extra: Value, endpoints: &[&str], all: &str, near: &str) {
    let slice = slice(endpoints);
    let ports = ports(&plain(extra), [&slice], "n1");
    assert_eq!(
        (shown(&ports[0].all).as_str(), shown(&ports[0].near).as_str()),
        (all, near)
    );
}

#[test]
fn ready_endpoints_come_first_and_ending_ones_before_none() {
    check_eligible(
        json!({}),
        &["10.0.0.2 n2 ready", "10.0.0.1 n1 unset"],
        "10.0.0.1:8080 10.0.0.2:8080",
        "",
    );
    check_eligible(
        json!({}),
        &["10.0.0.2 n2 ready", "10.0.0.1 n1 serving"],
        "10.0.0.2:8080",
        "",
    );
    check_eligible(
        json!({}),
        &["10.0.0.2 n2 gone", "10.0.0.1 n1 serving"],
        "10.0.0.1:8080",
        "",
    );
    check_eligible(json!({}), &["10.0.0.2 n2 gone", "10.0.0.1 n1 unready"], "", "");
}

#[test]
fn local_policies_look_at_this_node_alone() {
    let local = json!({"internalTrafficPolicy": "Local"});
    let all = "10.0.0.2:8080";
    check_eligible(
        local.clone(),
        &["10.0.0.2 n2 ready", "10.0.0.1 n1 serving"],
        all,
        "10.0.0.1:8080",
    );
    check_eligible(local, &["10.0.0.2 n2 ready"], all, "");
    let external = json!({"type": "NodePort", "externalTrafficPolicy": "Local"});
    check_eligible(
        external,
        &["10.0.0.2 n2 ready", "10.0.0.1 n1 ready"],
        "10.0.0.1:8080 10.0.0.2:8080",
        "10.0.0.1:8080",
    );
    // Left over from another type.
    check_eligible(
        json!({"externalTrafficPolicy": "Local"}),
        &["10.0.0.1 n1 ready"],
        "10.0.0.1:8080",
        "",
    );
}

#[test]
fn an_endpoint_in_two_slices_counts_once() {
    let (a, b) = (slice(&["10.0.0.1 n1 unready"]), slice(&["10.0.0.1 n1 ready"]));
    assert_eq!(shown(&ports(&plain(json!({})), [&a, &b], "n1")[0].all), "10.0.0.1:8080");
    assert_eq!(shown(&ports(&plain(json!({})), [&b, &a], "n1")[0].all), "10.0.0.1:8080");
}

#[test]
fn ports_are_matched_by_name_and_protocol() {
    let service = service(json!({"clusterIP": "10.96.0.7", "ports": [
        {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}, {"name": "x", "port": 1}]}));
    let mut slice = slice(&["10.0.0.1 n1 ready"]);
    slice.ports = serde_json::from_value(json!([
        {"name": "dns", "port": 1053, "protocol": "UDP"}, {"name": "dns-tcp", "port": 1054, "protocol": "TCP"},
        {"name": "x", "protocol": "TCP"}]))
    .unwrap();
    let ports = ports(&service, [&slice], "n1");
    let all: Vec<_> = ports.iter().map(|p| (p.protocol, shown(&p.all))).collect();
    assert_eq!(
        all,
        [
            (UDP, "10.0.0.1:1053".into()),
            (TCP, "10.0.0.1:1054".into()),
            (TCP, String::new())
        ]
    );
}

#[test]
fn some_services_are_not_ours() {
    let none = |spec: Value| assert_eq!(ports(&service(spec), [], "n1"), []);
    none(json!({"clusterIP": "None", "ports": [{"port": 80}]}));
    none(json!({"type": "ExternalName", "externalName": "a.b"}));
    none(json!({"clusterIP": "fd00::1", "ports": [{"port": 80}]}));
    let mut other = plain(json!({}));
    other.metadata.labels = Some([(well_known::SERVICE_PROXY_NAME.to_owned(), "x".to_owned())].into());
    assert!(!is_ours(&other));
}

#[test]
fn addresses_and_affinity_are_read() {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.7", "externalIPs": ["192.0.2.1", "fd00::1"],
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000, "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}, "loadBalancerSourceRanges": ["192.0.2.0/24"],
            "ports": [{"port": 80, "nodePort": 30080}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}, {"ip": "192.0.2.8", "ipMode": "Proxy"}, {"hostname": "x"}]}},
    }))
    .unwrap();
    let slice = slice(&["10.0.0.1 n1 ready", "10.0.0.2 n2 ready"]);
    let ports = ports(&service, [&slice], "n1");
    let port = &ports[0];
    assert_eq!(port.externals, [Ipv4Addr::new(192, 0, 2, 1)]);
    assert_eq!(port.balancers, [Ipv4Addr::new(192, 0, 2, 9)]);
    assert_eq!(
        (port.node_port, port.sticky, port.external),
        (Some(30080), Some(60), Reach::Near)
    );
    assert_eq!(port.sources, ["192.0.2.0/24".parse().unwrap()]);
    assert_eq!(port.here, [Ipv4Addr::new(10, 0, 0, 1)]);
    assert_eq!(check(&service, &ports), Some(Check { port: 31000, near: 1 }));
}

#[test]
fn host_ports_lead_to_running_pods() {
    let pod = |phase: &str, network: bool| -> Pod {
        serde_json::from_value(json!({
            "spec": {"hostNetwork": network, "containers": [{"name": "c", "ports": [
                {"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1"}]}]},
            "status": {"phase": phase, "podIP": "10.244.0.9"}}))
        .unwrap()
    };
    let ports = host_ports(&pod("Running", false));
    assert_eq!(
        (ports[0].address, ports[0].port, shown(&ports[0].all).as_str()),
        (Ipv4Addr::UNSPECIFIED, 8080, "10.244.0.9:80")
    );
    assert_eq!(
        (ports[1].address, ports[1].protocol),
        (Ipv4Addr::new(192, 0, 2, 1), UDP)
    );
    assert_eq!(host_ports(&pod("Succeeded", false)), []);
    assert_eq!(host_ports(&pod("Running", true)), []);
}
