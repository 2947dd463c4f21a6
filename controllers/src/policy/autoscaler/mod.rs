//! Autoscalers: what pods use comes in every fifteen seconds, and the scale of their owner follows.
//! `count` says how many replicas the metrics ask for, `limits` how fast that may be followed; this file asks, performs
//! and writes the status. It knows no kind but by its scale.
//! A metric that cannot be read never makes a scale smaller.

mod count;
mod limits;
mod metrics;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::Quantity;
use api::quantity::Format;
use api::selector::Labels;
use daemon::events::{EventType, reference};
use daemon::informer::{Change, Lister};
use daemon::{Next, Queue};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition,
    HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{Api, PostParams};
use tokio_util::sync::CancellationToken;

use super::{said, scale};
use crate::context::{Context, Key, instant, now};
use crate::pods::selects;
use crate::{Error, is_gone};
use count::{Count, Goal, Subject, Tolerances};
use limits::{History, Range};

/// Upstream's horizontal-pod-autoscaler-sync-period.
const PERIOD: Duration = Duration::from_secs(15);
/// Upstream's horizontal-pod-autoscaler-tolerance.
const TOLERANCE: f64 = 0.1;

struct Controller {
    context: Context,
    autoscalers: Lister<HorizontalPodAutoscaler>,
    pods: Lister<Pod>,
    history: Mutex<HashMap<Key, History>>,
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let autoscalers = context.all::<HorizontalPodAutoscaler>();
    let pods = context.all::<Pod>();
    autoscalers.synced().await;
    pods.synced().await;
    let into = queue.clone();
    autoscalers.on_change(move |change| match change {
        // What this controller writes itself is no news.
        Change::Applied { old, new } => {
            let spec = |entry: &daemon::Entry<HorizontalPodAutoscaler>| entry.typed().ok().map(|it| it.spec.clone());
            if old.is_none_or(|old| spec(old) != spec(new)) {
                into.add(Key::of(new));
            }
        }
        Change::Deleted { old } => into.add(Key::of(old)),
    });
    let controller = Arc::new(Controller {
        context: context.clone(),
        autoscalers,
        pods,
        history: Mutex::default(),
    });
    context
        .work(queue, stop, move |key| {
            let controller = controller.clone();
            async move { controller.reconcile(&key).await }
        })
        .await
}

/// An autoscaler's status in the making.
struct Draft {
    about: ObjectReference,
    status: HorizontalPodAutoscalerStatus,
}

impl Draft {
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: impl Into<String>) {
        let conditions = self.status.conditions.get_or_insert_default();
        let condition = HorizontalPodAutoscalerCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.into()),
            last_transition_time: None,
        };
        api::condition::set(conditions, condition, &now());
    }
}

/// What the metrics ask for together.
struct Proposal {
    replicas: i32,
    /// The metric that asks for most, as people call it.
    metric: String,
    statuses: Vec<MetricStatus>,
}

/// Why one metric says nothing: the reason and the text of the condition.
struct Unknown {
    reason: &'static str,
    message: String,
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(entry) = self.autoscalers.get(&key.namespace, &key.name) else {
            self.histories().remove(key);
            return Ok(Next::Done);
        };
        let autoscaler = entry.typed()?;
        let spec = &autoscaler.spec;
        let mut draft = Draft {
            about: reference(&*autoscaler),
            status: autoscaler.status.clone().unwrap_or_default(),
        };
        self.steer(key, spec, &mut draft).await;
        if autoscaler.status.as_ref() != Some(&draft.status) {
            let changed = HorizontalPodAutoscaler {
                status: Some(draft.status),
                ..(*autoscaler).clone()
            };
            let api: Api<HorizontalPodAutoscaler> = Api::namespaced(self.context.client.clone(), &key.namespace);
            match api.replace_status(&key.name, &PostParams::default(), &changed).await {
                Err(error) if is_gone(&error) => return Ok(Next::Done),
                answer => drop(answer?),
            }
        }
        Ok(Next::After(PERIOD))
    }

    fn histories(&self) -> std::sync::MutexGuard<'_, HashMap<Key, History>> {
        self.history.lock().expect("no holder of this lock panics")
    }

    fn tell(&self, draft: &Draft, kind: EventType, reason: &str, message: impl Into<String>) {
        self.context.recorder.publish(&draft.about, kind, reason, message);
    }

    /// Brings the scale to where it should be. What goes wrong is told in conditions and events, and tried again.
    async fn steer(&self, key: &Key, spec: &HorizontalPodAutoscalerSpec, draft: &mut Draft) {
        let (resource, scale) = match self.scale(key, spec).await {
            Ok(found) => found,
            Err(why) => {
                self.tell(draft, EventType::Warning, "FailedGetScale", &why);
                let text = format!("the HPA controller was unable to get the target's current scale: {why}");
                return draft.set("AbleToScale", "False", "FailedGetScale", text);
            }
        };
        let text = "the HPA controller was able to get the target's current scale";
        draft.set("AbleToScale", "True", "SucceededGetScale", text);
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let range = Range {
            min: spec.min_replicas.unwrap_or(1),
            max: spec.max_replicas,
        };
        self.histories()
            .entry(key.clone())
            .or_default()
            .begin(instant(), current);
        draft.status.current_replicas = Some(scale.status.as_ref().map_or(0, |status| status.replicas));

        let (wanted, why) = if current == 0 && range.min != 0 {
            let text = "scaling is disabled since the replica count of the target is zero";
            draft.set("ScalingActive", "False", "ScalingDisabled", text);
            draft.status.desired_replicas = 0;
            return;
        } else if current > range.max {
            (
                range.max,
                "Current number of replicas above Spec.MaxReplicas".to_owned(),
            )
        } else if current < range.min {
            (
                range.min,
                "Current number of replicas below Spec.MinReplicas".to_owned(),
            )
        } else {
            let Some(proposal) = self.propose(key, spec, &scale, draft).await else {
                return;
            };
            draft.status.current_metrics = Some(proposal.statuses);
            let why = if proposal.replicas > current {
                format!("{} above target", proposal.metric)
            } else {
                "All metrics below target".to_owned()
            };
            let limited = {
                let mut histories = self.histories();
                let history = histories.entry(key.clone()).or_default();
                let behavior = spec.behavior.as_ref();
                limits::limit(behavior, history, current, proposal.replicas, range, instant())
            };
            let (status, reason, message) = limited.able;
            draft.set("AbleToScale", status, reason, message);
            let (status, reason, message) = limited.limited;
            draft.set("ScalingLimited", status, reason, message);
            (limited.replicas, why)
        };
        if wanted == current {
            draft.status.desired_replicas = current;
            return;
        }
        let mut changed = scale.clone();
        changed.spec.get_or_insert_default().replicas = Some(wanted);
        let client = &self.context.client;
        let name = &spec.scale_target_ref.name;
        match scale::put(client, &resource, &key.namespace, name, &changed).await {
            Ok(_) => {
                let text = format!("the HPA controller was able to update the target scale to {wanted}");
                draft.set("AbleToScale", "True", "SucceededRescale", text);
                let text = format!("New size: {wanted}; reason: {why}");
                self.tell(draft, EventType::Normal, "SuccessfulRescale", text);
                let mut histories = self.histories();
                histories
                    .entry(key.clone())
                    .or_default()
                    .scaled(instant(), current, wanted);
                drop(histories);
                draft.status.last_scale_time = Some(now());
                draft.status.desired_replicas = wanted;
            }
            Err(error) => {
                let error = said(&error);
                let text = format!("New size: {wanted}; reason: {why}; error: {error}");
                self.tell(draft, EventType::Warning, "FailedRescale", text);
                let text = format!("the HPA controller was unable to update the target scale: {error}");
                draft.set("AbleToScale", "False", "FailedUpdateScale", text);
                draft.status.desired_replicas = current;
            }
        }
    }

    async fn scale(
        &self,
        key: &Key,
        spec: &HorizontalPodAutoscalerSpec,
    ) -> Result<(daemon::informer::Resource, Scale), String> {
        let target = &spec.scale_target_ref;
        let version = target.api_version.as_deref().unwrap_or_default();
        let client = &self.context.client;
        let resource = scale::resolve(client, version, &target.kind).await;
        let resource = resource.map_err(|error| said(&error))?.ok_or_else(|| {
            format!(
                "unable to determine resource for scale target reference: no matches for kind {:?} in group {:?}",
                target.kind,
                version.split_once('/').map_or("", |(group, _)| group)
            )
        })?;
        let scale = scale::get(client, &resource, &key.namespace, &target.name).await;
        let scale = scale.map_err(|error| said(&error))?;
        let scale = scale.ok_or_else(|| format!("{resource} {:?} not found", target.name))?;
        Ok((resource, scale))
    }

    /// The largest of what the metrics ask for; nothing where that cannot be known.
    async fn propose(
        &self,
        key: &Key,
        spec: &HorizontalPodAutoscalerSpec,
        scale: &Scale,
        draft: &mut Draft,
    ) -> Option<Proposal> {
        let selector = scale.status.as_ref().and_then(|status| status.selector.as_deref());
        let selector = selector.unwrap_or_default();
        let inactive = |draft: &mut Draft, reason: &str, text: &str| {
            draft.set("ScalingActive", "False", reason, text);
        };
        if selector.is_empty() {
            self.tell(draft, EventType::Warning, "SelectorRequired", "selector is required");
            inactive(draft, "InvalidSelector", "the HPA target's scale is missing a selector");
            return None;
        }
        let Ok(labels) = selector.parse::<Labels>() else {
            let text = format!("couldn't convert selector into a corresponding internal selector object: {selector}");
            self.tell(draft, EventType::Warning, "InvalidSelector", &text);
            inactive(draft, "InvalidSelector", &text);
            return None;
        };
        let mut pods = Vec::new();
        for pod in self.pods.in_namespace(&key.namespace) {
            if selects(&labels, &pod) {
                pods.extend(pod.typed().ok());
            }
        }
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let metrics = spec.metrics.as_deref().unwrap_or_default();
        let mut proposal = Proposal {
            replicas: 0,
            metric: String::new(),
            statuses: Vec::new(),
        };
        let mut unknown: Vec<Unknown> = Vec::new();
        for metric in metrics {
            match self.one(key, spec, metric, current, selector, &pods).await {
                Ok((replicas, name, status)) => {
                    if proposal.metric.is_empty() || replicas > proposal.replicas {
                        proposal.replicas = replicas;
                        proposal.metric = name;
                    }
                    proposal.statuses.push(status);
                }
                Err(why) => {
                    self.tell(draft, EventType::Warning, why.reason, &why.message);
                    unknown.push(why);
                }
            }
        }
        let all = unknown.len() == metrics.len();
        if let Some(first) = unknown.first().filter(|_| all || proposal.replicas < current) {
            let text = format!("the HPA was unable to compute the replica count: {}", first.message);
            draft.set("ScalingActive", "False", first.reason, text);
            let text = format!(
                "invalid metrics ({} invalid out of {}), first error is: {}",
                unknown.len(),
                metrics.len(),
                first.message
            );
            self.tell(draft, EventType::Warning, "FailedComputeMetricsReplicas", text);
            return None;
        }
        let text = format!(
            "the HPA was able to successfully calculate a replica count from {}",
            proposal.metric
        );
        draft.set("ScalingActive", "True", "ValidMetricFound", text);
        Some(proposal)
    }

    async fn one(
        &self,
        key: &Key,
        spec: &HorizontalPodAutoscalerSpec,
        metric: &MetricSpec,
        current: i32,
        selector: &str,
        pods: &[Arc<Pod>],
    ) -> Result<(i32, String, MetricStatus), Unknown> {
        let (subject, target, reason) = if let Some(source) = &metric.resource {
            let subject = Subject {
                resource: &source.name,
                container: None,
            };
            (subject, &source.target, "FailedGetResourceMetric")
        } else if let Some(source) = &metric.container_resource {
            let subject = Subject {
                resource: &source.name,
                container: Some(&source.container),
            };
            (subject, &source.target, "FailedGetContainerResourceMetric")
        } else {
            return Err(elsewhere(&metric.type_));
        };
        let kind = if subject.container.is_some() {
            "container"
        } else {
            "resource"
        };
        let (goal, what) = goal(target).map_err(|message| Unknown { reason, message })?;
        let failed = |why: String| Unknown {
            reason,
            message: format!(
                "failed to get {} {kind} metric value: failed to get {} {what}: {why}",
                subject.resource, subject.resource
            ),
        };
        let samples = metrics::ask(&self.context.client, &key.namespace, selector, subject)
            .await
            .map_err(|why| {
                failed(format!(
                    "unable to get metrics for resource {}: {why}",
                    subject.resource
                ))
            })?;
        let counted = count::replicas(current, pods, &samples, subject, goal, tolerances(spec), instant());
        let counted = counted.map_err(|why| {
            failed(format!(
                "unable to get metrics for resource {}: {why}",
                subject.resource
            ))
        })?;
        let name = match goal {
            Goal::Share(_) => format!("{} {kind} utilization (percentage of request)", subject.resource),
            Goal::Each(_) => format!("{} {kind}", subject.resource),
        };
        Ok((counted.replicas, name, status(metric, subject, counted)))
    }
}

/// Metrics that other servers would serve.
fn elsewhere(kind: &str) -> Unknown {
    let (reason, api) = match kind {
        "External" => ("FailedGetExternalMetric", "external"),
        "Object" => ("FailedGetObjectMetric", "custom"),
        "Pods" => ("FailedGetPodsMetric", "custom"),
        _ => ("InvalidMetricSourceType", "any"),
    };
    Unknown {
        reason,
        message: format!(
            "unable to fetch metrics from {api} metrics API: no API server serves {api}.metrics.k8s.io in this cluster"
        ),
    }
}

fn goal(target: &MetricTarget) -> Result<(Goal, &'static str), String> {
    if let Some(each) = &target.average_value {
        let each = Quantity::try_from(each).map_err(|error| error.to_string())?;
        return Ok((Goal::Each(each.as_milli()), "usage"));
    }
    let share = target.average_utilization;
    let share = share
        .ok_or("invalid resource metric source: neither an average utilization nor an average value target was set")?;
    Ok((Goal::Share(share), "utilization"))
}

fn tolerances(spec: &HorizontalPodAutoscalerSpec) -> Tolerances {
    let of = |rules: Option<&HPAScalingRules>| {
        let own = rules.and_then(|rules| rules.tolerance.as_ref());
        own.and_then(|own| Quantity::try_from(own).ok())
            .map_or(TOLERANCE, |own| own.as_f64())
    };
    let behavior = spec.behavior.as_ref();
    Tolerances {
        down: of(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
        up: of(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
    }
}

fn status(metric: &MetricSpec, subject: Subject<'_>, counted: Count) -> MetricStatus {
    let each = Quantity::from_milli(counted.each, Format::DecimalSi);
    let current = MetricValueStatus {
        average_utilization: counted.share,
        average_value: Some(each.into()),
        value: None,
    };
    let mut status = MetricStatus {
        type_: metric.type_.clone(),
        ..MetricStatus::default()
    };
    match subject.container {
        None => {
            status.resource = Some(ResourceMetricStatus {
                name: subject.resource.to_owned(),
                current,
            });
        }
        Some(container) => {
            status.container_resource = Some(ContainerResourceMetricStatus {
                name: subject.resource.to_owned(),
                container: container.to_owned(),
                current,
            });
        }
    }
    status
}
