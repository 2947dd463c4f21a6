//! Environment variables of a container: literal, expanded, and read from the pod, its resources, ConfigMaps, Secrets and Services. Pure.

use std::{collections::BTreeMap, collections::HashMap, sync::Arc};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, ResourceFieldSelector, Secret, Service},
};

use crate::resources::qos;

/// Texts are what `CreateContainerConfigError` shows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    NoConfigMapKey {
        namespace: String,
        name: String,
        key: String,
    },
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    NoSecretKey {
        namespace: String,
        name: String,
        key: String,
    },
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    #[error("unsupported container resource: {0}")]
    Resource(String),
    #[error("container {0} not found")]
    Container(String),
    #[error("environment variable {0} has a value that is not text")]
    Binary(String),
}

/// What lies outside the pod's own definition.
#[derive(Debug, Default)]
pub struct World {
    pub config_maps: HashMap<String, Arc<ConfigMap>>,
    pub secrets: HashMap<String, Arc<Secret>>,
    /// Already chosen for this pod: those of its namespace and the API's own.
    pub services: Vec<Arc<Service>>,
    pub pod_ips: Vec<String>,
    pub host_ips: Vec<String>,
    pub node_name: String,
    /// Of the node, for limits that a container does not have.
    pub milli_cpu: i64,
    pub memory: i64,
}

/// Names of the ConfigMaps and Secrets that a container's environment may need: (is a secret, name).
pub fn references(container: &Container) -> Vec<(bool, String)> {
    let mut all = Vec::new();
    for from in container.env_from.iter().flatten() {
        all.extend(from.config_map_ref.as_ref().map(|r| (false, r.name.clone())));
        all.extend(from.secret_ref.as_ref().map(|r| (true, r.name.clone())));
    }
    for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        all.extend(source.config_map_key_ref.as_ref().map(|r| (false, r.name.clone())));
        all.extend(source.secret_key_ref.as_ref().map(|r| (true, r.name.clone())));
    }
    all.sort();
    all.dedup();
    all
}

/// In the order in which they were defined, each name once, the last definition winning.
pub fn build(pod: &Pod, container: &Container, world: &World) -> Result<Vec<(String, String)>, Error> {
    let mut service_env = HashMap::new();
    for service in &world.services {
        service_variables(service, &mut service_env);
    }
    let mut vars: Vec<(String, String)> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    let mut put = |name: String, value: String| match index.get(&name) {
        Some(&at) => vars[at].1 = value,
        None => {
            index.insert(name.clone(), vars.len());
            vars.push((name, value));
        }
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut known: HashMap<String, String> = HashMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or("");
        let mut pairs: Vec<(String, String)> = Vec::new();
        if let Some(reference) = &from.config_map_ref {
            match world.config_maps.get(&reference.name) {
                Some(map) => pairs.extend(map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone()))),
                None if reference.optional == Some(true) => {}
                None => return Err(Error::NoConfigMap(reference.name.clone())),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match world.secrets.get(&reference.name) {
                Some(secret) => {
                    for (key, ByteString(value)) in secret.data.iter().flatten() {
                        let text = String::from_utf8(value.clone()).map_err(|_| Error::Binary(key.clone()))?;
                        pairs.push((key.clone(), text));
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(Error::NoSecret(reference.name.clone())),
            }
        }
        for (key, value) in pairs {
            let name = format!("{prefix}{key}");
            // Upstream leaves out keys that no variable can be named after.
            if name.is_empty() || name.contains('=') {
                continue;
            }
            known.insert(name.clone(), value.clone());
            put(name, value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, |name| {
                known.get(name).or_else(|| service_env.get(name)).cloned()
            })),
            (_, Some(source)) => from_source(pod, container, namespace, source, world)?,
            _ => Some(String::new()),
        };
        // None: an optional key that is not there leaves no variable.
        let Some(value) = value else { continue };
        known.insert(variable.name.clone(), value.clone());
        put(variable.name.clone(), value);
    }
    let mut rest: Vec<(String, String)> = service_env
        .into_iter()
        .filter(|(name, _)| !known.contains_key(name))
        .collect();
    rest.sort();
    for (name, value) in rest {
        put(name, value);
    }
    Ok(vars)
}

fn from_source(
    pod: &Pod,
    container: &Container,
    namespace: &str,
    source: &EnvVarSource,
    world: &World,
) -> Result<Option<String>, Error> {
    if let Some(field) = &source.field_ref {
        return field_value(pod, &field.field_path, world).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_value(pod, Some(container), resource, world).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(map) = world.config_maps.get(&reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(Error::NoConfigMap(reference.name.clone()))
            };
        };
        return match map.data.as_ref().and_then(|d| d.get(&reference.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(Error::NoConfigMapKey {
                namespace: namespace.to_owned(),
                name: reference.name.clone(),
                key: reference.key.clone(),
            }),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = world.secrets.get(&reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(Error::NoSecret(reference.name.clone()))
            };
        };
        return match secret.data.as_ref().and_then(|d| d.get(&reference.key)) {
            Some(ByteString(value)) => String::from_utf8(value.clone())
                .map(Some)
                .map_err(|_| Error::Binary(reference.key.clone())),
            None if optional => Ok(None),
            None => Err(Error::NoSecretKey {
                namespace: namespace.to_owned(),
                name: reference.name.clone(),
                key: reference.key.clone(),
            }),
        };
    }
    Ok(Some(String::new()))
}

/// The value of a downward API field, for variables and volumes.
pub fn field_value(pod: &Pod, path: &str, world: &World) -> Result<String, Error> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((field, key)) = path.strip_suffix(']').and_then(|p| p.split_once('[')) {
        let key = key.trim_matches(|c| c == '\'' || c == '"');
        let map = match field {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(Error::Field(path.to_owned())),
        };
        return Ok(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    Ok(match path {
        "metadata.name" => text(meta.name.as_deref()),
        "metadata.namespace" => text(meta.namespace.as_deref()),
        "metadata.uid" => text(meta.uid.as_deref()),
        "metadata.labels" => formatted(meta.labels.as_ref()),
        "metadata.annotations" => formatted(meta.annotations.as_ref()),
        "spec.nodeName" => world.node_name.clone(),
        "spec.serviceAccountName" => text(spec.and_then(|s| s.service_account_name.as_deref())),
        "status.hostIP" => text(world.host_ips.first().map(String::as_str)),
        "status.hostIPs" => world.host_ips.join(","),
        "status.podIP" => text(world.pod_ips.first().map(String::as_str)),
        "status.podIPs" => world.pod_ips.join(","),
        _ => return Err(Error::Field(path.to_owned())),
    })
}

/// One `key="value"` a line, sorted, quoted as Go quotes.
fn formatted(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", go_quote(value)))
        .collect();
    lines.join("\n")
}

fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a resource field: a request or limit divided, rounded up. Limits that are not set are the node's.
pub fn resource_value(
    pod: &Pod,
    container: Option<&Container>,
    selector: &ResourceFieldSelector,
    world: &World,
) -> Result<String, Error> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let spec = pod.spec.as_ref();
    let container = match named {
        None => container,
        Some(name) => spec.and_then(|s| {
            s.containers
                .iter()
                .chain(s.init_containers.iter().flatten())
                .find(|c| c.name == name)
        }),
    };
    let container = container.ok_or_else(|| Error::Container(named.unwrap_or_default().to_owned()))?;
    let (kind, name) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| Error::Resource(selector.resource.clone()))?;
    let resources = container.resources.as_ref();
    let quantity = match kind {
        "limits" => resources.and_then(|r| r.limits.as_ref()).and_then(|l| l.get(name)),
        "requests" => resources.and_then(|r| r.requests.as_ref()).and_then(|l| l.get(name)),
        _ => return Err(Error::Resource(selector.resource.clone())),
    };
    let divisor = selector.divisor.as_ref().filter(|d| d.0 != "0" && !d.0.is_empty());
    if name == "cpu" {
        let fallback = if kind == "limits" { world.milli_cpu } else { 0 };
        let have = qos::milli(quantity).unwrap_or(fallback);
        let by = qos::milli(divisor).unwrap_or(1000).max(1);
        return Ok(((have + by - 1) / by).to_string());
    }
    let known = ["memory", "ephemeral-storage"].contains(&name) || name.starts_with("hugepages-");
    if !known {
        return Err(Error::Resource(selector.resource.clone()));
    }
    let fallback = if kind == "limits" && name == "memory" {
        world.memory
    } else {
        0
    };
    let have = qos::whole(quantity).unwrap_or(fallback);
    let by = qos::whole(divisor).unwrap_or(1).max(1);
    Ok(((have + by - 1) / by).to_string())
}

/// `$(NAME)` becomes the value where there is one, `$$` a dollar, everything else stays.
pub fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match value(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The variables that Docker links once set, still expected for Services.
fn service_variables(service: &Service, into: &mut HashMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
        return;
    };
    let Some(first) = spec.ports.as_ref().and_then(|p| p.first()) else {
        return;
    };
    let name = service
        .metadata
        .name
        .as_deref()
        .unwrap_or_default()
        .to_uppercase()
        .replace('-', "_");
    into.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
    into.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
    let host = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    };
    for (position, port) in spec.ports.iter().flatten().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{host}:{}", port.port);
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let port_name = port_name.to_uppercase().replace('-', "_");
            into.insert(format!("{name}_SERVICE_PORT_{port_name}"), port.port.to_string());
        }
        if position == 0 {
            into.insert(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
        into.insert(prefix.clone(), url);
        into.insert(format!("{prefix}_PROTO"), lower);
        into.insert(format!("{prefix}_PORT"), port.port.to_string());
        into.insert(format!("{prefix}_ADDR"), ip.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(container: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": {"app": "web", "tier": "a\"b"}},
            "spec": {"serviceAccountName": "sa", "containers": [container]}
        }))
        .unwrap()
    }

    fn env(container: serde_json::Value, world: &World) -> Result<Vec<(String, String)>, Error> {
        let pod = pod(container);
        build(&pod, &pod.spec.as_ref().unwrap().containers[0], world)
    }

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn references_are_expanded_where_known_and_kept_where_not() {
        let known = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, want) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A", "$A"),
            ("$", "$"),
            ("$(A", "$(A"),
            ("a$$b", "a$b"),
        ] {
            assert_eq!(expand(text, known), want, "{text}");
        }
    }

    #[test]
    fn later_variables_see_earlier_ones_and_win_over_envfrom() {
        let map: ConfigMap = serde_json::from_value(json!({"data": {"A": "from-map", "B": "b"}})).unwrap();
        let world = World {
            config_maps: HashMap::from([("m".into(), Arc::new(map))]),
            ..World::default()
        };
        let container = json!({"name": "c",
            "envFrom": [{"configMapRef": {"name": "m"}, "prefix": "P_"}],
            "env": [{"name": "P_A", "value": "own"}, {"name": "C", "value": "$(P_A)-$(P_B)-$(D)"}, {"name": "D", "value": "d"}]});
        assert_eq!(
            env(container, &world).unwrap(),
            pairs(&[("P_A", "own"), ("P_B", "b"), ("C", "own-b-$(D)"), ("D", "d")])
        );
    }

    #[test]
    fn fields_of_the_pod_are_values() {
        let world = World {
            node_name: "n1".into(),
            pod_ips: vec!["10.0.0.9".into()],
            ..World::default()
        };
        let field = |path: &str| field_value(&pod(json!({"name": "c"})), path, &world).unwrap();
        assert_eq!(field("metadata.name"), "web");
        assert_eq!(field("metadata.labels['app']"), "web");
        assert_eq!(field("metadata.labels"), "app=\"web\"\ntier=\"a\\\"b\"");
        assert_eq!(field("spec.nodeName"), "n1");
        assert_eq!(field("status.podIP"), "10.0.0.9");
        assert_eq!(
            field_value(&pod(json!({"name": "c"})), "spec.priority", &world),
            Err(Error::Field("spec.priority".into()))
        );
    }

    #[test]
    fn resources_are_divided_and_rounded_up_and_fall_back_to_the_node() {
        let world = World {
            milli_cpu: 2000,
            memory: 1 << 30,
            ..World::default()
        };
        let pod = pod(json!({"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "100Mi"}}}));
        let value = |resource: &str, divisor: &str| {
            let selector =
                serde_json::from_value(json!({"containerName": "c", "resource": resource, "divisor": divisor}))
                    .unwrap();
            resource_value(&pod, None, &selector, &world).unwrap()
        };
        assert_eq!(value("limits.cpu", "1"), "2");
        assert_eq!(value("limits.cpu", "1m"), "1500");
        assert_eq!(value("requests.memory", "1Mi"), "100");
        assert_eq!(value("limits.memory", "0"), "1073741824");
    }

    #[test]
    fn what_is_missing_is_named_unless_optional() {
        let missing = |source: serde_json::Value| {
            env(
                json!({"name": "c", "env": [{"name": "A", "valueFrom": source}]}),
                &World::default(),
            )
        };
        assert_eq!(
            missing(json!({"configMapKeyRef": {"name": "m", "key": "k"}}))
                .unwrap_err()
                .to_string(),
            "configmap \"m\" not found"
        );
        assert_eq!(
            missing(json!({"secretKeyRef": {"name": "s", "key": "k", "optional": true}})).unwrap(),
            []
        );
    }

    #[test]
    fn services_appear_as_docker_links_did() {
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "my-db"},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]}}))
        .unwrap();
        let world = World {
            services: vec![Arc::new(service)],
            ..World::default()
        };
        let vars: HashMap<String, String> = env(json!({"name": "c"}), &world).unwrap().into_iter().collect();
        assert_eq!(vars["MY_DB_SERVICE_HOST"], "10.96.0.7");
        assert_eq!(vars["MY_DB_SERVICE_PORT_SQL"], "5432");
        assert_eq!(vars["MY_DB_PORT"], "tcp://10.96.0.7:5432");
        assert_eq!(vars["MY_DB_PORT_5432_TCP_ADDR"], "10.96.0.7");
    }
}
