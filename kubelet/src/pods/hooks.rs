//! Runs what a container asked to be run after its start and before its stop.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use super::net::{self, Get};
use crate::runtime::Runtime;

/// What the hook said when it failed.
pub async fn run(
    runtime: &dyn Runtime,
    id: &str,
    container: &Container,
    hook: &LifecycleHandler,
    pod_ip: Option<&str>,
    limit: Option<Duration>,
) -> Result<(), String> {
    let run = async {
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            let answer = runtime
                .exec_sync(id, command.clone(), limit.unwrap_or(Duration::ZERO))
                .await;
            let answer = answer.map_err(|e| e.to_string())?;
            if answer.exit_code != 0 {
                let said = [answer.stdout, answer.stderr].concat();
                let said = String::from_utf8_lossy(&said).into_owned();
                return Err(format!(
                    "command '{}' exited with {}: {said}",
                    command.join(" "),
                    answer.exit_code
                ));
            }
        } else if let Some(get) = &hook.http_get {
            let host = get
                .host
                .as_deref()
                .filter(|h| !h.is_empty())
                .or(pod_ip)
                .ok_or("the pod has no address")?;
            let headers = get
                .http_headers
                .iter()
                .flatten()
                .map(|h| (h.name.clone(), h.value.clone()))
                .collect();
            let get = Get {
                https: get.scheme.as_deref() == Some("HTTPS"),
                host: host.to_owned(),
                port: net::port(&get.port, container)?,
                path: slashed(get.path.as_deref()),
                headers,
                agent: "kube-lifecycle/1.36",
            };
            get.send(limit.unwrap_or(Duration::from_secs(60))).await?;
        } else if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        }
        Ok(())
    };
    match limit {
        None => run.await,
        Some(limit) => tokio::time::timeout(limit, run)
            .await
            .unwrap_or_else(|_| Err("it did not end in time".to_owned())),
    }
}

pub fn slashed(path: Option<&str>) -> String {
    match path.unwrap_or("/") {
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    }
}
