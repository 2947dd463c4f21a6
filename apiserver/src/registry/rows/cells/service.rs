//! Services and their endpoints.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::{NONE, UNSET, age, first_of, get, labels, name, or};
use crate::object::Object;
use crate::strategy::field::Field;

pub(in super::super) fn cells(service: &Object, now: Timestamp) -> Vec<Value> {
    let spec = get(service, "spec");
    let ports: Vec<String> = spec
        .get("ports")
        .items()
        .map(|port| {
            let (number, protocol) = (port.get("port").number(), port.get("protocol").str());
            match port.get("nodePort").number() {
                0 => format!("{number}/{protocol}"),
                node => format!("{number}:{node}/{protocol}"),
            }
        })
        .collect();
    vec![
        name(service),
        spec.get("type").str().into(),
        spec.get("clusterIPs").strings().next().unwrap_or(NONE).into(),
        external(service).into(),
        or(&ports.join(","), NONE).into(),
        age(service, now),
        labels(spec.get("selector").map()).into(),
    ]
}

fn external(service: &Object) -> String {
    let spec = get(service, "spec");
    let asked: Vec<&str> = spec.get("externalIPs").strings().collect();
    match spec.get("type").str() {
        "ClusterIP" | "NodePort" if asked.is_empty() => NONE.into(),
        "ClusterIP" | "NodePort" => asked.join(","),
        "LoadBalancer" => {
            let mut all = ingress(service);
            all.extend(asked.into_iter().map(str::to_owned));
            if all.is_empty() {
                "<pending>".into()
            } else {
                all.join(",")
            }
        }
        "ExternalName" => spec.get("externalName").str().into(),
        _ => "<unknown>".into(),
    }
}

/// The addresses or names of `status.loadBalancer`, sorted.
pub(super) fn ingress(object: &Object) -> Vec<String> {
    let points = get(object, "status.loadBalancer.ingress");
    let all: BTreeSet<String> = points
        .items()
        .map(|point| or(point.get("ip").str(), point.get("hostname").str()).to_owned())
        .filter(|point| !point.is_empty())
        .collect();
    all.into_iter().collect()
}

pub(in super::super) fn endpoints(object: &Object, now: Timestamp) -> Vec<Value> {
    let subsets = get(object, "subsets");
    let mut list = Vec::new();
    for subset in subsets.items() {
        let addresses = subset.get("addresses");
        let ports = subset.get("ports");
        if ports.is_empty() {
            list.extend(addresses.items().map(|a| a.get("ip").str().to_owned()));
        }
        for port in ports.items() {
            list.extend(
                addresses
                    .items()
                    .map(|a| join_port(a.get("ip").str(), port.get("port").number())),
            );
        }
    }
    let text = if subsets.is_empty() {
        NONE.into()
    } else {
        first_of(&list, 3)
    };
    vec![name(object), text.into(), age(object, now)]
}

fn join_port(ip: &str, port: i64) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

pub(in super::super) fn slice(object: &Object, now: Timestamp) -> Vec<Value> {
    let port = |port: Field| match port.get("port").int() {
        Some(number) => number.to_string(),
        None if port.get("name").present() => port.get("name").str().into(),
        None => "*".into(),
    };
    let ports: Vec<String> = get(object, "ports").items().map(port).collect();
    let addresses: Vec<String> = get(object, "endpoints")
        .items()
        .flat_map(|endpoint| {
            endpoint
                .get("addresses")
                .strings()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    vec![
        name(object),
        get(object, "addressType").str().into(),
        or(&first_of(&ports, 3), UNSET).into(),
        or(&first_of(&addresses, 3), UNSET).into(),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::check;
    use super::*;

    #[test]
    fn a_service_shows_how_to_reach_it() {
        let port = json!({"port": 80, "protocol": "TCP", "nodePort": 30080});
        check(
            cells,
            json!({"spec": {"type": "NodePort", "clusterIPs": ["10.96.0.9"], "ports": [port], "selector": {"a": "b"}}}),
            json!(["x", "NodePort", "10.96.0.9", "<none>", "80:30080/TCP", "5m", "a=b"]),
        );
        check(
            cells,
            json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["None"]}}),
            json!(["x", "LoadBalancer", "None", "<pending>", "<none>", "5m", "<none>"]),
        );
        check(
            cells,
            json!({"spec": {"type": "LoadBalancer", "externalIPs": ["9.9.9.9"]},
                "status": {"loadBalancer": {"ingress": [{"hostname": "h"}, {"ip": "1.1.1.1"}]}}}),
            json!([
                "x",
                "LoadBalancer",
                "<none>",
                "1.1.1.1,h,9.9.9.9",
                "<none>",
                "5m",
                "<none>"
            ]),
        );
        check(
            cells,
            json!({"spec": {"type": "ExternalName", "externalName": "a.b"}}),
            json!(["x", "ExternalName", "<none>", "a.b", "<none>", "5m", "<none>"]),
        );
    }
    #[test]
    fn endpoints_are_cut_after_three() {
        let addresses: Vec<Value> = (1..=4).map(|n| json!({"ip": format!("10.0.0.{n}")})).collect();
        check(
            endpoints,
            json!({"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]}),
            json!(["x", "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 1 more...", "5m"]),
        );
        check(endpoints, json!({}), json!(["x", "<none>", "5m"]));
        check(
            slice,
            json!({"addressType": "IPv4", "ports": [{"port": 80}, {"name": "n"}], "endpoints": [{"addresses": ["1.1.1.1"]}]}),
            json!(["x", "IPv4", "80,n", "1.1.1.1", "5m"]),
        );
        check(
            slice,
            json!({"addressType": "IPv4"}),
            json!(["x", "IPv4", "<unset>", "<unset>", "5m"]),
        );
    }
}
