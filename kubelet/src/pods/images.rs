//! Brings a container's image onto the node, by its pull policy, with the pod's credentials, within bounds and back-off.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::Engine;
use k8s_openapi::{
    ByteString,
    api::core::v1::{Container, Secret},
};
use kube::api::Api;
use serde::Deserialize;
use tokio::{sync::Semaphore, time::Instant};

use super::{
    backoff::Backoff,
    translate::{ImageUser, Subject},
};
use crate::runtime::{self, AuthConfig, Image, Runtime, SandboxConfig};

const MIN: Duration = Duration::from_secs(10);
const MAX: Duration = Duration::from_secs(300);

/// Why a container has no image yet: what its status says, and until when it is pointless to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: &'static str,
    pub message: String,
    pub retry: Option<Instant>,
}

/// What is told to the pod's events on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

#[derive(Debug)]
pub struct Present {
    pub reference: String,
    pub user: ImageUser,
}

pub struct Images {
    runtime: Arc<dyn Runtime>,
    client: kube::Client,
    slots: Semaphore,
    /// By pod and image: the back-off, and what the last pull said.
    state: Mutex<State>,
}

struct State {
    backoff: Backoff,
    failed: std::collections::HashMap<String, (Instant, String)>,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Images")
    }
}

impl Images {
    pub fn new(runtime: Arc<dyn Runtime>, client: kube::Client, parallel: usize) -> Self {
        let state = State {
            backoff: Backoff::new(MIN, MAX),
            failed: std::collections::HashMap::new(),
        };
        Images {
            runtime,
            client,
            slots: Semaphore::new(parallel),
            state: Mutex::new(state),
        }
    }

    pub async fn ensure(
        &self,
        subject: &Subject<'_>,
        container: &Container,
        sandbox: SandboxConfig,
        note: &(dyn Fn(Note) + Sync),
    ) -> Result<Present, Failure> {
        let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        let shown = container.image.as_deref().unwrap_or_default();
        let tell = |warning, reason, message| {
            note(Note {
                warning,
                reason,
                message,
            })
        };
        if let Err(why) = reference(shown) {
            let message =
                format!("Failed to apply default image tag \"{shown}\": couldn't parse image name \"{shown}\": {why}");
            tell(true, "InspectFailed", message.clone());
            return Err(Failure {
                reason: "InvalidImageName",
                message,
                retry: None,
            });
        }
        let name = with_tag(shown);
        let present = match self.runtime.image_status(&name).await {
            Ok(present) => present,
            Err(error) => {
                let message = format!("Failed to inspect image \"{shown}\": {error}");
                tell(true, "InspectFailed", message.clone());
                return Err(Failure {
                    reason: "ImageInspectError",
                    message,
                    retry: None,
                });
            }
        };
        let key = format!("{}/{name}", subject.uid);
        match (present, policy) {
            (Some(image), "IfNotPresent" | "Never") => {
                tell(
                    false,
                    "Pulled",
                    format!("Container image \"{shown}\" already present on machine and can be accessed by the pod"),
                );
                return Ok(found(image));
            }
            (None, "Never") => {
                let message = format!("Container image \"{shown}\" is not present with pull policy of Never");
                tell(true, "ErrImageNeverPull", message.clone());
                return Err(Failure {
                    reason: "ErrImageNeverPull",
                    message,
                    retry: None,
                });
            }
            _ => {}
        }
        if let Some((until, last)) = self.waiting(&key) {
            let message = format!("Back-off pulling image \"{shown}\"");
            tell(false, "BackOff", message.clone());
            return Err(Failure {
                reason: "ImagePullBackOff",
                message: format!("{message}: ErrImagePull: {last}"),
                retry: Some(until),
            });
        }
        match self.pull(subject, &name, shown, sandbox, &tell).await {
            Ok(reference) => {
                self.succeeded(&key);
                let image = self.runtime.image_status(&name).await.ok().flatten();
                Ok(image.map_or(
                    Present {
                        reference,
                        user: ImageUser::default(),
                    },
                    found,
                ))
            }
            Err(error) => {
                let message = error.to_string();
                tell(true, "Failed", format!("Failed to pull image \"{shown}\": {message}"));
                let now = Instant::now();
                let mut state = self.lock();
                state.backoff.next(&key, now, now);
                let retry = state.backoff.until(&key, now).map(|(until, _)| until);
                state.failed.insert(key, (now, message.clone()));
                Err(Failure {
                    reason: "ErrImagePull",
                    message,
                    retry,
                })
            }
        }
    }

    /// The pod is gone; what its pulls said does not matter any more.
    pub fn forget(&self, uid: &str) {
        let mut state = self.lock();
        let keys: Vec<String> = state.failed.keys().filter(|k| k.starts_with(uid)).cloned().collect();
        for key in keys {
            state.failed.remove(&key);
            state.backoff.forget(&key);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    fn succeeded(&self, key: &str) {
        let mut state = self.lock();
        state.backoff.forget(key);
        state.failed.remove(key);
    }

    fn waiting(&self, key: &str) -> Option<(Instant, String)> {
        let state = self.lock();
        let (at, message) = state.failed.get(key)?;
        let (until, _) = state.backoff.until(key, *at)?;
        (until > Instant::now()).then(|| (until, message.clone()))
    }

    async fn pull(
        &self,
        subject: &Subject<'_>,
        name: &str,
        shown: &str,
        sandbox: SandboxConfig,
        tell: &(dyn Fn(bool, &'static str, String) + Sync),
    ) -> Result<String, runtime::Error> {
        tell(false, "Pulling", format!("Pulling image \"{shown}\""));
        let asked = Instant::now();
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        let begun = Instant::now();
        let credentials = self.credentials(subject, name).await;
        let mut last = None;
        for auth in credentials.into_iter().map(Some).chain([None]) {
            // The attempt without credentials is for images that need none; after a refusal it only repeats it.
            if auth.is_none() && last.is_some() {
                break;
            }
            match self.runtime.pull_image(name, auth, Some(sandbox.clone())).await {
                Ok(reference) => {
                    let size = self
                        .runtime
                        .image_status(name)
                        .await
                        .ok()
                        .flatten()
                        .map_or(0, |i| i.size);
                    let (took, waited) = (go_duration(begun.elapsed()), go_duration(asked.elapsed()));
                    tell(
                        false,
                        "Pulled",
                        format!(
                            "Successfully pulled image \"{shown}\" in {took} ({waited} including waiting). Image size: {size} bytes."
                        ),
                    );
                    return Ok(reference);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("the loop runs at least once and leaves an error"))
    }

    async fn credentials(&self, subject: &Subject<'_>, image: &str) -> Vec<AuthConfig> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), subject.namespace);
        let mut found = Vec::new();
        for reference in subject.spec().image_pull_secrets.iter().flatten() {
            match secrets.get_opt(&reference.name).await {
                Ok(Some(secret)) => found.extend(matching(&secret, image)),
                Ok(None) => tracing::debug!(secret = reference.name, "image pull secret is not there"),
                Err(error) => tracing::warn!(
                    secret = reference.name,
                    error = daemon::chain(&error),
                    "image pull secret"
                ),
            }
        }
        found
    }
}

fn found(image: Image) -> Present {
    let user = ImageUser {
        uid: image.uid.map(|u| u.value),
        name: image.username,
    };
    Present {
        reference: image.id,
        user,
    }
}

/// A name without tag or digest means `latest`.
pub fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || image.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

/// Whether it is a name of an image at all: `[host[:port]/]path[:tag][@digest]`.
fn reference(image: &str) -> Result<(), &'static str> {
    const INVALID: &str = "invalid reference format";
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    if let Some(digest) = digest {
        let (kind, hex) = digest.split_once(':').ok_or(INVALID)?;
        let kinds = kind.split(['+', '.', '-', '_']);
        let named = kinds
            .into_iter()
            .all(|k| !k.is_empty() && k.chars().all(|c| c.is_ascii_alphanumeric()));
        if !named || hex.len() < 32 || !hex.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(INVALID);
        }
    }
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    if let Some(tag) = tag {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut chars = tag.chars();
        if !chars.next().is_some_and(word) || !chars.all(|c| word(c) || c == '.' || c == '-') || tag.len() > 128 {
            return Err(INVALID);
        }
    }
    let path = match path.split_once('/') {
        Some((host, rest))
            if host.contains(['.', ':']) || host == "localhost" || host.chars().any(char::is_uppercase) =>
        {
            let (host, port) = host.rsplit_once(':').map_or((host, "0"), |(h, p)| (h, p));
            let label = |l: &str| {
                !l.is_empty()
                    && !l.starts_with('-')
                    && !l.ends_with('-')
                    && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            };
            let address = host.starts_with('[') && host.ends_with(']');
            if !(address || host.split('.').all(label)) || port.is_empty() || !port.chars().all(|c| c.is_ascii_digit())
            {
                return Err(INVALID);
            }
            rest
        }
        _ => path,
    };
    if path.is_empty() || name.len() > 255 {
        return Err(INVALID);
    }
    if path.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("invalid reference format: repository name must be lowercase");
    }
    let component = |part: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let separators: Vec<&str> = part.split(plain).filter(|s| !s.is_empty()).collect();
        part.starts_with(plain)
            && part.ends_with(plain)
            && separators
                .iter()
                .all(|s| matches!(*s, "." | "_" | "__") || s.chars().all(|c| c == '-'))
    };
    if path.split('/').all(component) {
        Ok(())
    } else {
        Err(INVALID)
    }
}

#[derive(Deserialize, Default)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize, Default)]
struct DockerAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

fn matching(secret: &Secret, image: &str) -> Vec<AuthConfig> {
    let data = |key: &str| {
        secret
            .data
            .as_ref()
            .and_then(|d| d.get(key))
            .map(|ByteString(b)| b.as_slice())
    };
    let auths = if let Some(json) = data(".dockerconfigjson") {
        serde_json::from_slice::<DockerConfig>(json).unwrap_or_default().auths
    } else if let Some(json) = data(".dockercfg") {
        serde_json::from_slice(json).unwrap_or_default()
    } else {
        return Vec::new();
    };
    let target = canonical(image);
    let mut all: Vec<(String, AuthConfig)> = auths
        .into_iter()
        .filter(|(key, _)| covers(key, &target))
        .map(|(key, auth)| (key, auth.into()))
        .collect();
    // The more precise entry goes first.
    all.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
    all.into_iter().map(|(_, auth)| auth).collect()
}

impl From<DockerAuth> for AuthConfig {
    fn from(auth: DockerAuth) -> Self {
        let decoded = base64::engine::general_purpose::STANDARD.decode(&auth.auth).ok();
        let pair = decoded.and_then(|d| String::from_utf8(d).ok());
        let pair = pair.as_deref().and_then(|p| p.split_once(':'));
        let (username, password) = match pair {
            Some((user, password)) if auth.username.is_empty() => (user.to_owned(), password.to_owned()),
            _ => (auth.username, auth.password),
        };
        AuthConfig {
            username,
            password,
            ..AuthConfig::default()
        }
    }
}

/// `host/path` of an image name, with the host that an unqualified one has.
fn canonical(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => image.to_owned(),
        Some(_) => format!("docker.io/{image}"),
        None => format!("docker.io/library/{image}"),
    }
}

/// Whether an entry of a docker configuration is for this image: by host, where `*` stands for one label, and path prefix.
fn covers(key: &str, image: &str) -> bool {
    let key = key
        .trim_start_matches("https://")
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let key = key
        .strip_suffix("/v1")
        .or_else(|| key.strip_suffix("/v2"))
        .unwrap_or(key);
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let host = if host == "index.docker.io" || host == "registry-1.docker.io" {
        "docker.io"
    } else {
        host
    };
    let (image_host, image_path) = image.split_once('/').unwrap_or((image, ""));
    let labels = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (pattern, actual) = (labels(host), labels(image_host));
    let hosts = pattern.len() == actual.len() && pattern.iter().zip(&actual).all(|(p, a)| p == "*" || p == a);
    hosts && (path.is_empty() || image_path.starts_with(path))
}

/// As Go prints durations: events are read by people who know that form.
pub fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0s".to_owned(),
        1..=999 => format!("{millis}ms"),
        _ => {
            let (minutes, rest) = (millis / 60_000, millis % 60_000);
            let seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
            let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
            if minutes > 0 {
                format!("{minutes}m{seconds}s")
            } else {
                format!("{seconds}s")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_without_a_tag_is_the_latest() {
        for (name, want) in [
            ("web", "web:latest"),
            ("web:1", "web:1"),
            ("localhost:5000/web", "localhost:5000/web:latest"),
            ("web@sha256:ab", "web@sha256:ab"),
        ] {
            assert_eq!(with_tag(name), want);
        }
    }

    #[test]
    fn what_is_no_name_of_an_image_is_refused() {
        let digest = format!("web@sha256:{}", "ab".repeat(32));
        for name in [
            "web",
            "a/b/c:1.0_x",
            "localhost:5000/a",
            "r.io/a__b/c-d--e",
            "10.0.0.1:5000/x",
            digest.as_str(),
        ] {
            assert_eq!(reference(name), Ok(()), "{name}");
        }
        for name in [
            "",
            "web:",
            "web:::1",
            "a//b",
            "-a",
            "a_",
            "web@sha256:ab",
            "we b",
            "r.io:x/a",
            "a/Web",
        ] {
            assert!(reference(name).is_err(), "{name}");
        }
        assert_eq!(
            reference("Web"),
            Err("invalid reference format: repository name must be lowercase")
        );
    }

    #[test]
    fn credentials_are_found_by_registry() {
        for (key, image, want) in [
            ("https://index.docker.io/v1/", "busybox:1", true),
            ("registry.example.com", "registry.example.com/a/b:1", true),
            ("registry.example.com/a", "registry.example.com/a/b:1", true),
            ("registry.example.com/c", "registry.example.com/a/b:1", false),
            ("*.example.com", "registry.example.com/a:1", true),
            ("*.example.com", "example.com/a:1", false),
            ("172.30.0.1:5000", "172.30.0.1:5000/a:1", true),
        ] {
            assert_eq!(covers(key, &canonical(image)), want, "{key} {image}");
        }
    }

    #[test]
    fn a_docker_configuration_gives_user_and_password() {
        let config = json!({"auths": {"r.io": {"auth": base64::engine::general_purpose::STANDARD.encode("u:p:q")}}});
        let secret = Secret {
            data: Some(
                [(
                    ".dockerconfigjson".to_owned(),
                    ByteString(config.to_string().into_bytes()),
                )]
                .into(),
            ),
            ..Secret::default()
        };
        let found = matching(&secret, "r.io/x");
        assert_eq!((found[0].username.as_str(), found[0].password.as_str()), ("u", "p:q"));
    }

    #[test]
    fn durations_read_as_in_go() {
        for (ms, want) in [
            (0, "0s"),
            (340, "340ms"),
            (1200, "1.2s"),
            (61_000, "1m1s"),
            (2000, "2s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(ms)), want);
        }
    }
}
