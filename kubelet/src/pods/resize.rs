//! Resizing in place: what a pod's containers were promised, what they run with, and what a wish for more or less leads to.
//!
//! The definition in the API is a wish. The node grants it when there is room, writes down that it did, and then makes it so
//! container by container; until then everything else on the node goes by what was granted.

use std::collections::{BTreeMap, HashMap, HashSet};

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde::{Deserialize, Serialize};

use super::{
    admit::{self, Offer},
    observed::Observed,
    plan::{inits, is_sidecar},
};

/// Both by the containers' names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Allocation {
    pub granted: BTreeMap<String, ResourceRequirements>,
    /// What the latest run of the container was started with or changed to.
    pub applied: BTreeMap<String, ResourceRequirements>,
}

/// What becomes of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing else is wished for than was granted.
    Nothing,
    Granted,
    /// Others use what it would take.
    Deferred(String),
    /// This node can never give it.
    Infeasible(String),
}

/// What the API is told of a resize.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Reason and message.
    pub pending: Option<(String, String)>,
    /// Under way; the text is of what went wrong, empty when nothing did.
    pub progress: Option<String>,
}

fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    spec.into_iter()
        .flat_map(|s| s.containers.iter().chain(inits(s).iter().filter(|c| is_sidecar(c))))
}

fn resources(container: &Container) -> ResourceRequirements {
    container.resources.clone().unwrap_or_default()
}

/// Equal amounts may be written in different ways.
fn same(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    ["cpu", "memory"].iter().all(|name| same_of(a, b, name))
}

fn same_of(a: &ResourceRequirements, b: &ResourceRequirements, name: &str) -> bool {
    let amount = |r: &ResourceRequirements, limits: bool| {
        let list = if limits { &r.limits } else { &r.requests };
        Quantity::parse(&list.as_ref()?.get(name)?.0).ok()
    };
    [false, true].iter().all(|&l| amount(a, l) == amount(b, l))
}

impl Allocation {
    /// Of a pod that is taken as it is defined.
    pub fn of(pod: &Pod) -> Self {
        let granted: BTreeMap<_, _> = resizable(pod).map(|c| (c.name.clone(), resources(c))).collect();
        Allocation {
            applied: granted.clone(),
            granted,
        }
    }

    /// The pod as it was granted.
    pub fn apply(&self, pod: &Pod) -> Pod {
        let mut pod = pod.clone();
        if let Some(spec) = &mut pod.spec {
            let inits = spec.init_containers.iter_mut().flatten();
            for container in spec.containers.iter_mut().chain(inits) {
                let granted = self.granted.get(&container.name);
                if let Some(granted) = granted.filter(|g| !same(g, &resources(container))) {
                    container.resources = Some(granted.clone());
                }
            }
        }
        pod
    }

    /// The pod as its containers run.
    pub fn running(&self, pod: &Pod) -> Pod {
        Allocation {
            granted: self.applied.clone(),
            applied: BTreeMap::new(),
        }
        .apply(pod)
    }

    /// Takes a wish over.
    pub fn grant(&mut self, pod: &Pod) {
        self.granted = Allocation::of(pod).granted;
    }

    pub fn apply_one(&mut self, name: &str) {
        if let Some(granted) = self.granted.get(name) {
            self.applied.insert(name.to_owned(), granted.clone());
        }
    }

    fn due(&self, name: &str) -> Option<(&ResourceRequirements, &ResourceRequirements)> {
        let (granted, applied) = (self.granted.get(name)?, self.applied.get(name)?);
        (!same(granted, applied)).then_some((granted, applied))
    }

    /// Whether the container has to be changed, and whether that takes a restart by its own policy.
    pub fn step(&self, container: &Container) -> Option<Step> {
        let (granted, applied) = self.due(&container.name)?;
        let restart = container.resize_policy.iter().flatten().any(|policy| {
            policy.restart_policy == "RestartContainer" && !same_of(granted, applied, &policy.resource_name)
        });
        Some(if restart { Step::Restart } else { Step::Update })
    }

    /// Whether a container runs with something else than was granted.
    pub fn under_way(&self, observed: &Observed) -> bool {
        self.granted
            .keys()
            .any(|name| self.due(name).is_some() && observed.latest(name).is_some_and(super::observed::Seen::running))
    }

    /// Both what is promised and what runs, as the events write it.
    pub fn shown(&self, pod: &Pod) -> String {
        let containers: Vec<_> = resizable(pod)
            .map(|c| serde_json::json!({"name": c.name, "resources": self.granted.get(&c.name)}))
            .collect();
        serde_json::json!({"containers": containers, "generation": pod.metadata.generation}).to_string()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Update,
    Restart,
}

/// `others` as they were granted.
pub fn answer(pod: &Pod, allocation: &Allocation, others: &[&Pod], offer: &Offer) -> Answer {
    let wished = Allocation::of(pod).granted;
    let changed = wished
        .iter()
        .any(|(name, wish)| allocation.granted.get(name).is_none_or(|had| !same(had, wish)));
    if !changed {
        return Answer::Nothing;
    }
    let Some(spec) = &pod.spec else { return Answer::Nothing };
    let total = api::pod::requests(spec).unwrap_or_default();
    for name in ["cpu", "memory"] {
        let number = |q: &Quantity| if name == "cpu" { q.as_milli() } else { q.as_i64() };
        if let (Some(wanted), Some(capacity)) = (total.get(name), offer.allocatable.get(name))
            && number(wanted) > number(capacity)
        {
            return Answer::Infeasible(format!(
                "Node didn't have enough capacity: {name}, requested: {}, capacity: {}",
                number(wanted),
                number(capacity)
            ));
        }
    }
    match admit::shortage(spec, others, offer) {
        Some(short) => Answer::Deferred(short.message),
        None => Answer::Granted,
    }
}

/// What each pod of the node was granted, also after a restart of the node agent. Pods that wait for room are known by UID.
#[derive(Debug)]
pub struct Allocations {
    root: std::path::PathBuf,
    known: std::sync::Mutex<HashMap<String, Allocation>>,
    deferred: std::sync::Mutex<HashSet<String>>,
}

impl Allocations {
    pub fn new(root: &std::path::Path) -> Self {
        Allocations {
            root: root.join("pods"),
            known: std::sync::Mutex::default(),
            deferred: std::sync::Mutex::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Allocation>> {
        self.known.lock().expect("no holder of this lock panics")
    }

    fn file(&self, uid: &str) -> std::path::PathBuf {
        self.root.join(uid).join("allocation.json")
    }

    pub fn get(&self, uid: &str) -> Option<Allocation> {
        if let Some(known) = self.lock().get(uid) {
            return Some(known.clone());
        }
        // One that cannot be read is as good as none: the pod is then taken as it is defined.
        let read: Allocation = serde_json::from_slice(&std::fs::read(self.file(uid)).ok()?).ok()?;
        self.lock().insert(uid.to_owned(), read.clone());
        Some(read)
    }

    pub fn put(&self, uid: &str, allocation: Allocation) -> std::io::Result<()> {
        let file = self.file(uid);
        let next = file.with_extension("next");
        std::fs::create_dir_all(self.root.join(uid))?;
        std::fs::write(&next, serde_json::to_vec(&allocation).map_err(std::io::Error::other)?)?;
        std::fs::rename(&next, &file)?;
        self.lock().insert(uid.to_owned(), allocation);
        Ok(())
    }

    /// The file goes with the pod's directory.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
        self.defer(uid, false);
    }

    pub fn defer(&self, uid: &str, deferred: bool) {
        let mut waiting = self.deferred.lock().expect("no holder of this lock panics");
        if deferred {
            waiting.insert(uid.to_owned());
        } else {
            waiting.remove(uid);
        }
    }

    pub fn deferred(&self) -> Vec<String> {
        let waiting = self.deferred.lock().expect("no holder of this lock panics");
        waiting.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(cpu: &str, memory: &str) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "generation": 2}, "spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": cpu, "memory": memory}},
             "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"},
                 {"resourceName": "memory", "restartPolicy": "RestartContainer"}]}]}}),
        )
        .unwrap()
    }

    fn offer() -> Offer {
        let quantity = |text: &str| Quantity::parse(text).unwrap();
        Offer {
            allocatable: BTreeMap::from([
                ("cpu".to_owned(), quantity("2")),
                ("memory".to_owned(), quantity("1Gi")),
            ]),
            ..Offer::default()
        }
    }

    fn step(from: &Pod, to: &Pod) -> Option<Step> {
        let mut allocation = Allocation::of(from);
        allocation.grant(to);
        allocation.step(&to.spec.as_ref().unwrap().containers[0])
    }

    #[test]
    fn a_wish_is_granted_deferred_or_infeasible() {
        let had = Allocation::of(&pod("500m", "100Mi"));
        let other = pod("1", "100Mi");
        let ask = |cpu: &str, memory: &str| answer(&pod(cpu, memory), &had, &[&other], &offer());
        assert_eq!(ask("0.5", "102400Ki"), Answer::Nothing);
        assert_eq!(ask("1", "100Mi"), Answer::Granted);
        assert_eq!(
            ask("1100m", "100Mi"),
            Answer::Deferred(
                "Node didn't have enough resource: cpu, requested: 1100, used: 1000, capacity: 2000".into()
            )
        );
        assert_eq!(
            ask("500m", "2Gi"),
            Answer::Infeasible(
                "Node didn't have enough capacity: memory, requested: 2147483648, capacity: 1073741824".into()
            )
        );
    }

    #[test]
    fn the_policy_of_what_changed_decides_about_a_restart() {
        let start = pod("500m", "100Mi");
        assert_eq!(step(&start, &pod("500m", "100Mi")), None);
        assert_eq!(step(&start, &pod("1", "100Mi")), Some(Step::Update));
        assert_eq!(step(&start, &pod("1", "200Mi")), Some(Step::Restart));
    }

    #[test]
    fn until_it_is_granted_a_pod_is_what_it_was() {
        let mut allocation = Allocation::of(&pod("500m", "100Mi"));
        let wish = pod("1", "100Mi");
        let cpu = |pod: &Pod| {
            resources(&pod.spec.as_ref().unwrap().containers[0]).requests.unwrap()["cpu"]
                .0
                .clone()
        };
        assert_eq!(cpu(&allocation.apply(&wish)), "500m");
        allocation.grant(&wish);
        assert_eq!(
            (cpu(&allocation.apply(&wish)), cpu(&allocation.running(&wish))),
            ("1".into(), "500m".into())
        );
        allocation.apply_one("a");
        assert_eq!(cpu(&allocation.running(&wish)), "1");
    }

    #[test]
    fn what_was_granted_outlives_the_node_agent() {
        let dir = tempfile::tempdir().unwrap();
        let allocations = Allocations::new(dir.path());
        assert_eq!(allocations.get("u"), None);
        allocations.put("u", Allocation::of(&pod("1", "1Gi"))).unwrap();
        let anew = Allocations::new(dir.path());
        assert_eq!(anew.get("u"), Some(Allocation::of(&pod("1", "1Gi"))));
    }
}
