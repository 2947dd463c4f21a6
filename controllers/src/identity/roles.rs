//! Cluster roles that are the sum of others (aggregationRule).

use std::sync::Arc;

use api::selector::Labels;
use daemon::informer::Lister;
use daemon::{Next, Queue};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Api, PostParams};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Key};
use crate::pods::matches;
use crate::{Error, is_conflict, is_gone};

/// The rules of all roles that the aggregation rule selects, each once, in the order of the roles' names.
fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Result<Option<Vec<PolicyRule>>, Error> {
    let Some(aggregation) = &role.aggregation_rule else {
        return Ok(None);
    };
    let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let selector = Labels::from_structured(Some(selector))?;
        for other in all {
            if other.metadata.name == role.metadata.name || !matches(&selector, &other.metadata) {
                continue;
            }
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    let unchanged = role.rules.as_deref().unwrap_or_default() == rules;
    Ok((!unchanged).then_some(rules))
}

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let roles = context.all::<ClusterRole>();
    let into = queue.clone();
    // Any change may concern any aggregate, and there are few: one key stands for all of them.
    roles.on_change(move |_| into.add(Key::new("", "")));
    roles.synced().await;
    let client = context.client.clone();
    context
        .work(queue, stop, move |_| reconcile(client.clone(), roles.clone()))
        .await
}

async fn reconcile(client: kube::Client, roles: Lister<ClusterRole>) -> Result<Next, Error> {
    let all: Vec<Arc<ClusterRole>> = roles.list().iter().map(|role| role.typed()).collect::<Result<_, _>>()?;
    let api: Api<ClusterRole> = Api::all(client);
    for role in &all {
        let Some(rules) = plan(role, &all)? else { continue };
        let mut changed = (**role).clone();
        changed.rules = Some(rules);
        let name = role.metadata.name.as_deref().unwrap_or_default();
        match api.replace(name, &PostParams::default(), &changed).await {
            // The change that was in the way brings us back.
            Err(error) if is_conflict(&error) || is_gone(&error) => {}
            answer => drop(answer?),
        }
    }
    Ok(Next::Done)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn role(value: Value) -> Arc<ClusterRole> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn an_aggregate_has_each_rule_of_the_others_once() {
        let rule = |resource: &str| json!({"apiGroups": [""], "resources": [resource], "verbs": ["get"]});
        let labels = json!({"to-view": "true"});
        let all = [
            role(json!({"metadata": {"name": "a", "labels": labels}, "rules": [rule("pods"), rule("nodes")]})),
            role(json!({"metadata": {"name": "b", "labels": labels}, "rules": [rule("pods")]})),
            role(json!({"metadata": {"name": "c"}, "rules": [rule("secrets")]})),
            role(json!({"metadata": {"name": "view"}, "rules": [],
                "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": labels}]}})),
        ];
        let rules = plan(&all[3], &all).unwrap().unwrap();
        assert_eq!(
            serde_json::to_value(&rules).unwrap(),
            json!([rule("pods"), rule("nodes")])
        );
        let mut done = (*all[3]).clone();
        done.rules = Some(rules);
        assert_eq!(plan(&done, &all).unwrap(), None);
        assert_eq!(plan(&all[0], &all).unwrap(), None);
    }
}
