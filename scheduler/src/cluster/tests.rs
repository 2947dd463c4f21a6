use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::cycle::decide;
use crate::memo::Memo;
use crate::rules::Profile;
use crate::rules::tests::{node, pod};

#[test]
fn what_a_pod_takes_is_given_back_exactly() {
    let mut cluster = Cluster::default();
    cluster.set_node(&node("n", "2", "1Gi"));
    let pod = Arc::new(pod("a").cpu("500m").memory("64Mi").port(80).build());
    let before = cluster.summary();
    cluster.place(pod.clone(), &"n".into(), true);
    assert_eq!(cluster.node("n").unwrap().taken.cpu, 500);
    // Seen for certain: counted once.
    cluster.place(pod.clone(), &"n".into(), false);
    assert_eq!(cluster.node("n").unwrap().pods.len(), 1);
    assert_eq!(cluster.forget(&pod.uid), None);
    assert!(cluster.displace(&pod.uid).is_some());
    assert_eq!(cluster.summary(), before);
}

#[test]
fn a_node_that_is_gone_stays_while_its_pods_do() {
    let mut cluster = Cluster::default();
    cluster.set_node(&node("n", "2", "1Gi"));
    cluster.set_node(&node("m", "2", "1Gi"));
    let pod = Arc::new(pod("a").build());
    cluster.place(pod.clone(), &"n".into(), false);
    cluster.remove_node("n");
    assert_eq!(cluster.known(), 1);
    cluster.displace(&pod.uid);
    assert!(cluster.node("n").is_none());
    assert!(cluster.node("m").is_some());
}

#[test]
fn a_node_that_says_the_same_again_is_no_change() {
    let mut cluster = Cluster::default();
    assert_eq!(cluster.set_node(&node("n", "2", "1Gi")), Changed::Something);
    assert_eq!(cluster.set_node(&node("n", "2", "1Gi")), Changed::Nothing);
    assert_eq!(cluster.set_node(&node("n", "3", "1Gi")), Changed::Something);
}

/// Something that happens to a cluster.
#[derive(Debug, Clone)]
enum Step {
    Node { name: u8, zone: u8, cpu: u8, image: bool },
    NodeGone(u8),
    Pod { name: u8, node: u8, look: u8, going: bool },
    PodGone(u8),
    Ask(u8),
    Namespace(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..5_u8, 0..4_u8, 1..5_u8, any::<bool>()).prop_map(|(name, zone, cpu, image)| Step::Node {
            name,
            zone,
            cpu,
            image
        }),
        (0..5_u8).prop_map(Step::NodeGone),
        (0..12_u8, 0..5_u8, 0..8_u8, any::<bool>()).prop_map(|(name, node, look, going)| Step::Pod {
            name,
            node,
            look,
            going
        }),
        (0..12_u8).prop_map(Step::PodGone),
        (0..8_u8).prop_map(Step::Ask),
        (0..3_u8).prop_map(Step::Namespace),
    ]
}

/// Pods of different kinds: with affinity, anti-affinity, wishes, spread and priorities.
fn looking(name: &str, look: u8) -> crate::rules::tests::Builder {
    let app = format!("app-{}", look % 3);
    let term = json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "zone"});
    let by_namespace =
        json!({"labelSelector": {}, "namespaceSelector": {"matchLabels": {"n": "1"}}, "topologyKey": "zone"});
    let base = pod(name).label("app", &app).cpu("1").spec("priority", json!(look / 2));
    match look {
        0 => base.spec("affinity", json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}})),
        1 => base.spec("affinity", json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}})),
        2 => base.spec("affinity", json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 7, "podAffinityTerm": term}]}})),
        3 => base.spec("affinity", json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [by_namespace]}})),
        4 => base.spec("topologySpreadConstraints", json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": app}}}])),
        5 => base.spec("topologySpreadConstraints", json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": app}}}])),
        6 => base.port(80),
        _ => base,
    }
}

fn take(cluster: &mut Cluster, memo: &mut Memo, step: Step) {
    match step {
        Step::Node { name, zone, cpu, image } => {
            let mut object = node(&format!("n{name}"), &cpu.to_string(), "4Gi");
            if zone > 0 {
                let labels = object.metadata.labels.as_mut().unwrap();
                labels.insert("zone".into(), format!("z{zone}"));
            }
            if image {
                object.status.as_mut().unwrap().images =
                    serde_json::from_value(json!([{"names": ["i:latest"], "sizeBytes": 900 << 20}])).unwrap();
            }
            cluster.set_node(&object);
        }
        Step::NodeGone(name) => cluster.remove_node(&format!("n{name}")),
        Step::Pod {
            name,
            node,
            look,
            going,
        } => {
            let mut pod = looking(&format!("p{name}"), look).build();
            pod.deleting = going;
            cluster.place(Arc::new(pod), &format!("n{node}").into(), false);
        }
        Step::PodGone(name) => {
            cluster.displace(&format!("p{name}"));
        }
        Step::Ask(look) => {
            let pod = looking("asking", look).build();
            let remembered = decide(&pod, cluster, memo, &Profile::default(), 0);
            // What is remembered changes no decision, and neither does counting on.
            let mut again = cluster.recounted();
            let anew = decide(&pod, &mut again, &mut Memo::default(), &Profile::default(), 0);
            assert_eq!(remembered, anew);
        }
        Step::Namespace(value) => {
            cluster.set_namespace("default", Some([("n".to_owned(), value.to_string())].into()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn counting_on_equals_counting_from_scratch(steps in prop::collection::vec(step(), 1..60)) {
        let (mut cluster, mut memo) = (Cluster::default(), Memo::default());
        for step in steps {
            take(&mut cluster, &mut memo, step);
            prop_assert_eq!(cluster.summary(), cluster.recounted().summary());
        }
    }
}
