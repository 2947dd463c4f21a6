//! A profile as the file has it becomes rules in order, with weights and arguments.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Error;
use super::file::{Named, PluginConfig, ProfileText, Set};
use crate::pod::{LabelMap, NodeTerm, Spread};
use crate::rules::{
    BalancedAllocation, Candidates, Defaults, Fit, ImageLocality, InterPodAffinity, NodeAffinity, NodeName, NodePorts,
    NodeUnschedulable, Plugin, PodTopologySpread, Profile, Strategy, TaintToleration,
};
use crate::volumes::{VolumeBinding, VolumeRestrictions};

/// The points at which a plug-in has something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    Enqueue,
    Filter,
    PostFilter,
    Score,
    /// Without a choice: these points have one plug-in each, or none of ours.
    Fixed,
}

type Row = (&'static str, &'static [Point], i64);

/// Every plug-in that there is, in upstream's order, with its default weight where it scores.
const PLUGINS: &[Row] = &[
    ("SchedulingGates", &[Point::Enqueue], 0),
    ("PrioritySort", &[Point::Fixed], 0),
    ("NodeUnschedulable", &[Point::Filter], 0),
    ("NodeName", &[Point::Filter], 0),
    ("TaintToleration", &[Point::Filter, Point::Score], 3),
    ("NodeAffinity", &[Point::Filter, Point::Score], 2),
    ("NodePorts", &[Point::Filter], 0),
    ("NodeResourcesFit", &[Point::Filter, Point::Score], 1),
    ("VolumeRestrictions", &[Point::Filter], 0),
    ("VolumeBinding", &[Point::Filter], 0),
    ("PodTopologySpread", &[Point::Filter, Point::Score], 2),
    ("InterPodAffinity", &[Point::Filter, Point::Score], 2),
    ("DefaultPreemption", &[Point::PostFilter], 0),
    ("NodeResourcesBalancedAllocation", &[Point::Score], 1),
    ("ImageLocality", &[Point::Score], 1),
    ("DefaultBinder", &[Point::Fixed], 0),
];

struct Chosen {
    name: &'static str,
    weight: i64,
}

pub(super) fn make(path: &str, text: &ProfileText) -> Result<Profile, Error> {
    let ProfileText {
        scheduler_name,
        percentage_of_nodes_to_score: _,
        plugins,
        plugin_config,
    } = text;
    let at = |point: &str| format!("{path}.plugins.{point}");
    for (name, set) in [
        ("preFilter", &plugins.pre_filter),
        ("preScore", &plugins.pre_score),
        ("queueSort", &plugins.queue_sort),
        ("reserve", &plugins.reserve),
        ("permit", &plugins.permit),
        ("preBind", &plugins.pre_bind),
        ("bind", &plugins.bind),
        ("postBind", &plugins.post_bind),
    ] {
        // A rule's preparation belongs to the rule here: it is on where its filter or score is.
        for named in set.enabled.iter().chain(&set.disabled) {
            known(&at(name), named)?;
        }
    }
    let filters = choose(&at("filter"), Point::Filter, &plugins.multi_point, &plugins.filter)?;
    let scores = choose(&at("score"), Point::Score, &plugins.multi_point, &plugins.score)?;
    let after = choose(
        &at("postFilter"),
        Point::PostFilter,
        &plugins.multi_point,
        &plugins.post_filter,
    )?;
    let enqueue = choose(
        &at("preEnqueue"),
        Point::Enqueue,
        &plugins.multi_point,
        &plugins.pre_enqueue,
    )?;
    let arguments = Arguments::parse(path, plugin_config)?;
    let rule = |chosen: &Chosen| arguments.rule(chosen.name);
    Ok(Profile {
        name: scheduler_name.as_deref().unwrap_or("default-scheduler").into(),
        filters: filters.iter().map(rule).collect(),
        scores: scores.iter().map(|chosen| (chosen.weight, rule(chosen))).collect(),
        gates: !enqueue.is_empty(),
        preemption: (!after.is_empty()).then_some(arguments.candidates),
    })
}

fn known(path: &str, named: &Named) -> Result<Option<&'static Row>, Error> {
    if named.name == "*" {
        return Ok(None);
    }
    let found = PLUGINS.iter().find(|(name, ..)| *name == named.name);
    match found {
        Some(found) => Ok(Some(found)),
        None => Err(Error::new(path, format!("plugin \"{}\" does not exist", named.name))),
    }
}

/// What is on at a point. The point's own list stands above `multiPoint`, and that above the defaults.
fn choose(path: &str, point: Point, multi: &Set, own: &Set) -> Result<Vec<Chosen>, Error> {
    let off = |set: &Set, name: &str| set.disabled.iter().any(|named| named.name == "*" || named.name == name);
    for named in multi.disabled.iter().chain(&own.disabled) {
        known(path, named)?;
    }
    let mut chosen: Vec<Chosen> = Vec::new();
    let mut add = |named: &Named, explicit: bool| -> Result<(), Error> {
        let Some((name, points, weight)) = known(path, named)? else {
            return Err(Error::new(path, "\"*\" cannot be enabled"));
        };
        if !points.contains(&point) {
            return if explicit {
                Err(Error::new(
                    path,
                    format!("plugin \"{name}\" does not extend this point"),
                ))
            } else {
                Ok(())
            };
        }
        let weight = named.weight.filter(|weight| *weight != 0).unwrap_or(*weight);
        match chosen.iter_mut().find(|have| have.name == *name) {
            Some(have) => have.weight = weight,
            None => chosen.push(Chosen { name, weight }),
        }
        Ok(())
    };
    for (name, ..) in PLUGINS {
        let named = Named {
            name: (*name).to_owned(),
            weight: None,
        };
        if !off(multi, name) && !off(own, name) {
            add(&named, false)?;
        }
    }
    for named in multi.enabled.iter().filter(|named| !off(own, &named.name)) {
        add(named, false)?;
    }
    for named in &own.enabled {
        add(named, true)?;
    }
    Ok(chosen)
}

/// The rules with the arguments that `pluginConfig` gives them.
struct Arguments {
    affinity: Arc<NodeAffinity>,
    fit: Arc<Fit>,
    balanced: Arc<BalancedAllocation>,
    spread: Arc<PodTopologySpread>,
    neighbours: Arc<InterPodAffinity>,
    candidates: Candidates,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
struct FitArgs {
    api_version: Option<String>,
    kind: Option<String>,
    ignored_resources: BTreeSet<String>,
    ignored_resource_groups: BTreeSet<String>,
    scoring_strategy: Option<ScoringStrategy>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ScoringStrategy {
    #[serde(rename = "type", default = "least")]
    kind: String,
    #[serde(default)]
    resources: Vec<ResourceSpec>,
    requested_to_capacity_ratio: Option<Ratio>,
}

fn least() -> String {
    "LeastAllocated".into()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceSpec {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratio {
    shape: Vec<RatioPoint>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RatioPoint {
    utilization: i64,
    score: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct BalancedArgs {
    api_version: Option<String>,
    kind: Option<String>,
    resources: Vec<ResourceSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct NeighboursArgs {
    api_version: Option<String>,
    kind: Option<String>,
    hard_pod_affinity_weight: Option<i64>,
    ignore_preferred_terms_of_existing_pods: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct SpreadArgs {
    api_version: Option<String>,
    kind: Option<String>,
    default_constraints: Vec<core::TopologySpreadConstraint>,
    defaulting_type: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct AffinityArgs {
    api_version: Option<String>,
    kind: Option<String>,
    added_affinity: Option<core::NodeAffinity>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct PreemptionArgs {
    api_version: Option<String>,
    kind: Option<String>,
    min_candidate_nodes_percentage: Option<i64>,
    min_candidate_nodes_absolute: Option<i64>,
}

impl Arguments {
    fn parse(path: &str, configs: &[PluginConfig]) -> Result<Self, Error> {
        let mut all = Arguments {
            affinity: Arc::default(),
            fit: Arc::default(),
            balanced: Arc::default(),
            spread: Arc::default(),
            neighbours: Arc::default(),
            candidates: Candidates::default(),
        };
        let mut seen = BTreeSet::new();
        for (at, PluginConfig { name, args }) in configs.iter().enumerate() {
            let path = format!("{path}.pluginConfig[{at}]");
            if !seen.insert(name) {
                return Err(Error::new(path, format!("repeated config for plugin {name}")));
            }
            match name.as_str() {
                "NodeResourcesFit" => all.fit = Arc::new(fit(&path, args)?),
                "NodeResourcesBalancedAllocation" => all.balanced = Arc::new(balanced(&path, args)?),
                "InterPodAffinity" => all.neighbours = Arc::new(neighbours(&path, args)?),
                "PodTopologySpread" => all.spread = Arc::new(spread(&path, args)?),
                "NodeAffinity" => all.affinity = Arc::new(affinity(&path, args)?),
                "DefaultPreemption" => all.candidates = candidates(&path, args)?,
                other => {
                    return Err(Error::new(
                        format!("{path}.name"),
                        format!("plugin \"{other}\" takes no arguments"),
                    ));
                }
            }
        }
        Ok(all)
    }

    fn rule(&self, name: &str) -> Arc<dyn Plugin> {
        match name {
            "NodeUnschedulable" => Arc::new(NodeUnschedulable),
            "NodeName" => Arc::new(NodeName),
            "TaintToleration" => Arc::new(TaintToleration),
            "NodeAffinity" => self.affinity.clone(),
            "NodePorts" => Arc::new(NodePorts),
            "NodeResourcesFit" => self.fit.clone(),
            "VolumeRestrictions" => Arc::new(VolumeRestrictions),
            "VolumeBinding" => Arc::new(VolumeBinding),
            "PodTopologySpread" => self.spread.clone(),
            "InterPodAffinity" => self.neighbours.clone(),
            "NodeResourcesBalancedAllocation" => self.balanced.clone(),
            "ImageLocality" => Arc::new(ImageLocality),
            other => unreachable!("{other} filters or scores by PLUGINS, and has a rule here"),
        }
    }
}

/// Reads arguments; they may carry the version and kind of their type.
fn read<T: DeserializeOwned + Default>(path: &str, args: &Value) -> Result<T, Error> {
    if args.is_null() {
        return Ok(T::default());
    }
    serde_json::from_value(args.clone()).map_err(|error| Error::new(format!("{path}.args"), error.to_string()))
}

fn typed(path: &str, version: Option<&str>, kind: Option<&str>, want: &str) -> Result<(), Error> {
    if version.is_some_and(|v| v != "kubescheduler.config.k8s.io/v1") || kind.is_some_and(|k| k != want) {
        return Err(Error::new(
            format!("{path}.args"),
            format!("want kind {want} of kubescheduler.config.k8s.io/v1"),
        ));
    }
    Ok(())
}

fn weights(path: &str, specs: Vec<ResourceSpec>) -> Result<Vec<(Box<str>, i64)>, Error> {
    specs
        .into_iter()
        .map(
            |ResourceSpec { name, weight }| match if weight == 0 { 1 } else { weight } {
                weight @ 1..=100 => Ok((name.into(), weight)),
                _ => Err(Error::new(
                    path,
                    format!("resource weight of {name} not in valid range [1-100]"),
                )),
            },
        )
        .collect()
}

fn fit(path: &str, args: &Value) -> Result<Fit, Error> {
    let FitArgs {
        api_version,
        kind,
        ignored_resources,
        ignored_resource_groups,
        scoring_strategy,
    } = read(path, args)?;
    typed(path, api_version.as_deref(), kind.as_deref(), "NodeResourcesFitArgs")?;
    let mut fit = Fit {
        ignored: ignored_resources,
        ignored_groups: ignored_resource_groups,
        ..Fit::default()
    };
    let Some(ScoringStrategy {
        kind,
        resources,
        requested_to_capacity_ratio,
    }) = scoring_strategy
    else {
        return Ok(fit);
    };
    let path = format!("{path}.args.scoringStrategy");
    if !resources.is_empty() {
        fit.scored = weights(&format!("{path}.resources"), resources)?;
    }
    fit.strategy = match (kind.as_str(), requested_to_capacity_ratio) {
        ("LeastAllocated", _) => Strategy::LeastAllocated,
        ("MostAllocated", _) => Strategy::MostAllocated,
        ("RequestedToCapacityRatio", Some(ratio)) => {
            let points: Vec<(i64, i64)> = ratio.shape.iter().map(|p| (p.utilization, p.score)).collect();
            let rising = points.windows(2).all(|pair| pair[0].0 < pair[1].0);
            let inside = points
                .iter()
                .all(|(x, y)| (0..=100).contains(x) && (0..=10).contains(y));
            if points.is_empty() || !rising || !inside {
                let message = "utilization must rise within [0-100], score lie within [0-10]";
                return Err(Error::new(format!("{path}.requestedToCapacityRatio.shape"), message));
            }
            Strategy::RequestedToCapacityRatio(points)
        }
        ("RequestedToCapacityRatio", None) => {
            return Err(Error::new(format!("{path}.requestedToCapacityRatio"), "is required"));
        }
        (other, _) => {
            return Err(Error::new(
                format!("{path}.type"),
                format!("{other:?} is not a strategy"),
            ));
        }
    };
    Ok(fit)
}

fn balanced(path: &str, args: &Value) -> Result<BalancedAllocation, Error> {
    let BalancedArgs {
        api_version,
        kind,
        resources,
    } = read(path, args)?;
    typed(
        path,
        api_version.as_deref(),
        kind.as_deref(),
        "NodeResourcesBalancedAllocationArgs",
    )?;
    if resources.is_empty() {
        return Ok(BalancedAllocation::default());
    }
    Ok(BalancedAllocation {
        scored: resources.into_iter().map(|spec| spec.name.into()).collect(),
    })
}

fn neighbours(path: &str, args: &Value) -> Result<InterPodAffinity, Error> {
    let NeighboursArgs {
        api_version,
        kind,
        hard_pod_affinity_weight,
        ignore_preferred_terms_of_existing_pods,
    } = read(path, args)?;
    typed(path, api_version.as_deref(), kind.as_deref(), "InterPodAffinityArgs")?;
    let hard_weight = hard_pod_affinity_weight.unwrap_or(1);
    if !(0..=100).contains(&hard_weight) {
        let path = format!("{path}.args.hardPodAffinityWeight");
        return Err(Error::new(path, "not in valid range [0-100]"));
    }
    Ok(InterPodAffinity {
        hard_weight,
        ignore_theirs: ignore_preferred_terms_of_existing_pods,
    })
}

fn spread(path: &str, args: &Value) -> Result<PodTopologySpread, Error> {
    let SpreadArgs {
        api_version,
        kind,
        default_constraints,
        defaulting_type,
    } = read(path, args)?;
    typed(path, api_version.as_deref(), kind.as_deref(), "PodTopologySpreadArgs")?;
    let path = format!("{path}.args");
    let defaults = match defaulting_type.as_deref().unwrap_or("System") {
        "System" if default_constraints.is_empty() => Defaults::System,
        "System" => {
            let message = "when .defaultingType is System, must be empty";
            return Err(Error::new(format!("{path}.defaultConstraints"), message));
        }
        "List" => {
            if default_constraints.iter().any(|c| c.label_selector.is_some()) {
                let message = "constraint must not define a selector, as they deduced for each pod";
                return Err(Error::new(format!("{path}.defaultConstraints"), message));
            }
            let none = LabelMap::new();
            Defaults::List(default_constraints.iter().map(|c| Spread::new(c, &none)).collect())
        }
        other => {
            return Err(Error::new(
                format!("{path}.defaultingType"),
                format!("{other:?} is neither System nor List"),
            ));
        }
    };
    Ok(PodTopologySpread { defaults })
}

fn affinity(path: &str, args: &Value) -> Result<NodeAffinity, Error> {
    let AffinityArgs {
        api_version,
        kind,
        added_affinity,
    } = read(path, args)?;
    typed(path, api_version.as_deref(), kind.as_deref(), "NodeAffinityArgs")?;
    let added = added_affinity.unwrap_or_default();
    Ok(NodeAffinity {
        added: added
            .required_during_scheduling_ignored_during_execution
            .map(|required| required.node_selector_terms.iter().map(NodeTerm::new).collect()),
        added_preferred: added
            .preferred_during_scheduling_ignored_during_execution
            .iter()
            .flatten()
            .map(|term| (i64::from(term.weight), NodeTerm::new(&term.preference)))
            .collect(),
    })
}

fn candidates(path: &str, args: &Value) -> Result<Candidates, Error> {
    let PreemptionArgs {
        api_version,
        kind,
        min_candidate_nodes_percentage,
        min_candidate_nodes_absolute,
    } = read(path, args)?;
    typed(path, api_version.as_deref(), kind.as_deref(), "DefaultPreemptionArgs")?;
    let default = Candidates::default();
    let read = |name: &str, value: Option<i64>, default: usize, most: i64| match value {
        None => Ok(default),
        Some(value) => usize::try_from(value)
            .ok()
            .filter(|_| value <= most)
            .ok_or_else(|| Error::new(format!("{path}.args.{name}"), "not in valid range")),
    };
    Ok(Candidates {
        percentage: read(
            "minCandidateNodesPercentage",
            min_candidate_nodes_percentage,
            default.percentage,
            100,
        )?,
        absolute: read(
            "minCandidateNodesAbsolute",
            min_candidate_nodes_absolute,
            default.absolute,
            i64::MAX,
        )?,
    })
}
