//! The whole server on a memory store, asked through connections in memory.

use ::http::{Method, Request};
use axum::body::Body;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use super::*;
use crate::store::Memory;

struct Running {
    router: axum::Router,
    store: Arc<Memory>,
    stop: CancellationToken,
    tasks: JoinSet<Result<(), Error>>,
    /// Removed with the server.
    _key: tempfile::NamedTempFile,
}

impl Running {
    async fn start() -> Running {
        Self::over(Arc::new(Memory::default())).await
    }

    async fn over(store: Arc<Memory>) -> Running {
        let key = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(key.path(), rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let config = Config::for_test(key.path().to_owned());
        let server = Server::new(config, store.clone()).await.unwrap();
        let router = server.api().router();
        let ready = server.ready();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(server.run(stop.clone()));
        tokio::select! {
            () = ready.cancelled() => {}
            ended = tasks.join_next() => panic!("ended early: {ended:?}"),
        }
        Running {
            router,
            store,
            stop,
            tasks,
            _key: key,
        }
    }

    /// Stops the server and starts another over the same store.
    async fn restart(mut self) -> Running {
        self.stop.cancel();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
        Self::over(self.store.clone()).await
    }

    async fn ask(&self, user: &User, method: Method, path: &str, body: Value) -> (u16, Value) {
        let mut request = Request::builder().method(method.clone()).uri(path);
        if method == Method::PATCH {
            request = request.header("content-type", "application/merge-patch+json");
        } else {
            request = request.header("content-type", "application/json");
        }
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        let request = request.body(body).unwrap();
        let response = server::internal(self.router.clone(), user.clone())
            .oneshot(request)
            .await
            .unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes).into_owned()));
        (code, value)
    }
    /// As a peer over the network with a bearer token.
    async fn get_with(&self, token: &str, path: &str) -> (u16, Value) {
        let mut request = Request::get(path)
            .header("authorization", format!("Bearer {token}"))
            .body(Body::empty())
            .unwrap();
        request.extensions_mut().insert(crate::identity::Peer::Tls {
            certificate: crate::identity::Certificate::None,
            address: ([127, 0, 0, 1], 1).into(),
        });
        let response = self.router.clone().oneshot(request).await.unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }
    async fn get(&self, user: &User, path: &str) -> (u16, Value) {
        self.ask(user, Method::GET, path, Value::Null).await
    }
    async fn create(&self, user: &User, path: &str, body: Value) -> (u16, Value) {
        self.ask(user, Method::POST, path, body).await
    }
    /// The service account `default` of a namespace, which a controller would make.
    async fn account(&self, namespace: &str) {
        let account = json!({"metadata": {"name": "default"}});
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        let (code, body) = self.create(&admin(), &path, account).await;
        assert_eq!(code, 201, "{body}");
    }
}

fn admin() -> User {
    User::new("admin", &[crate::identity::MASTERS])
}

/// What follows the caches holds within a moment.
async fn eventually(holds: impl AsyncFn() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), wait).await.unwrap();
}

fn message(body: &Value) -> &str {
    body["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_cluster_is_born_once() {
    let server = Running::start().await;
    for path in [
        "/api/v1/namespaces/kube-system",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles/system::leader-locking-kube-scheduler",
        "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication",
    ] {
        let (code, body) = server.get(&admin(), path).await;
        assert_eq!(code, 200, "{path}: {body}");
        assert_ne!(body["metadata"]["uid"], Value::Null, "{path}");
    }
    let (_, service) = server
        .get(&admin(), "/api/v1/namespaces/default/services/kubernetes")
        .await;
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let (_, role) = server
        .get(&admin(), "/apis/rbac.authorization.k8s.io/v1/clusterroles/admin")
        .await;
    assert!(role["rules"].as_array().unwrap().len() > 10, "a union is born whole");

    let before = server.store.revision().await.unwrap();
    let server = server.restart().await;
    assert_eq!(
        server.store.revision().await.unwrap(),
        before,
        "a restart writes nothing"
    );
}

#[tokio::test]
async fn roles_decide_what_a_user_may() {
    let server = Running::start().await;
    let bob = User::new("bob", &[]);
    let (code, body) = server.get(&bob, "/api/v1/namespaces/default/configmaps").await;
    assert_eq!(code, 403);
    assert_eq!(
        message(&body),
        r#"configmaps is forbidden: User "bob" cannot list resource "configmaps" in API group "" in the namespace "default""#
    );
    assert_eq!(server.get(&bob, "/version").await.0, 200);
    let binding = json!({"metadata": {"name": "bob"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}]});
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let (code, body) = server.create(&admin(), path, binding).await;
    assert_eq!(code, 201, "{body}");
    eventually(async || server.get(&bob, "/api/v1/namespaces/default/configmaps").await.0 == 200).await;
    assert_eq!(server.get(&bob, "/api/v1/namespaces/default/secrets").await.0, 403);
    assert_eq!(
        server.get(&bob, "/api/v1/namespaces/kube-system/configmaps").await.0,
        403
    );
}

#[tokio::test]
async fn upstreams_components_may_what_they_need_and_no_more() {
    let server = Running::start().await;
    let scheduler = User::new("system:kube-scheduler", &[]);
    let manager = User::new("system:kube-controller-manager", &[]);
    let proxy = User::new("system:kube-proxy", &[]);
    let deployments = User::service_account("kube-system", "deployment-controller");
    for (user, path, want) in [
        (&scheduler, "/api/v1/pods", 200),
        (&scheduler, "/api/v1/secrets", 403),
        (&manager, "/api/v1/pods", 200),
        (&proxy, "/api/v1/services", 200),
        (&proxy, "/api/v1/secrets", 403),
        (&deployments, "/apis/apps/v1/replicasets", 200),
        (&deployments, "/api/v1/secrets", 403),
        (&User::node("n1"), "/api/v1/secrets", 403),
        (&User::node("n1"), "/api/v1/services", 200),
        (&User::node("n1"), "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", 200),
        (&User::node("n1"), "/api/v1/pods", 403),
        (&User::anonymous(), "/livez", 200),
        (&User::anonymous(), "/api/v1/pods", 403),
    ] {
        let (code, body) = server.get(user, path).await;
        assert_eq!(code, want, "{} {path}: {body}", user.name);
    }
}

#[tokio::test]
async fn a_pod_is_given_its_account_token_tolerations_and_priority() {
    let server = Running::start().await;
    server.account("default").await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let (code, pod) = server.create(&admin(), "/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(code, 201, "{pod}");
    let spec = &pod["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["priority"], 0);
    assert_eq!(spec["preemptionPolicy"], "PreemptLowerPriority");
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    let volume = spec["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-"));
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], volume);
}

#[tokio::test]
async fn nothing_is_made_in_a_namespace_that_is_not_there() {
    let server = Running::start().await;
    let object = json!({"metadata": {"name": "c"}});
    let (code, body) = server
        .create(&admin(), "/api/v1/namespaces/nowhere/configmaps", object.clone())
        .await;
    assert_eq!((code, message(&body)), (404, r#"namespaces "nowhere" not found"#));
    let (code, body) = server
        .ask(&admin(), Method::DELETE, "/api/v1/namespaces/kube-system", Value::Null)
        .await;
    assert_eq!(
        (code, message(&body)),
        (
            403,
            r#"namespaces "kube-system" is forbidden: this namespace may not be deleted"#
        )
    );
    let (code, _) = server
        .create(&admin(), "/api/v1/namespaces", json!({"metadata": {"name": "going"}}))
        .await;
    assert_eq!(code, 201);
    let (code, body) = server
        .ask(&admin(), Method::DELETE, "/api/v1/namespaces/going", Value::Null)
        .await;
    assert_eq!(code, 200, "{body}");
    let (code, body) = server
        .create(&admin(), "/api/v1/namespaces/going/configmaps", object)
        .await;
    assert_eq!(
        (code, message(&body)),
        (
            403,
            "configmaps \"c\" is forbidden: unable to create new content in namespace going because it is being terminated"
        )
    );
    assert_eq!(body["details"]["causes"][0]["reason"], "NamespaceTerminating");
}

#[tokio::test]
async fn a_token_for_a_pod_works_until_the_pod_is_gone() {
    let server = Running::start().await;
    server.account("default").await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pods = "/api/v1/namespaces/default/pods";
    let (_, pod) = server.create(&admin(), pods, pod).await;
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let request = |uid: &str, seconds: i64| {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
            "expirationSeconds": seconds,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid}}})
    };
    let (code, body) = server.create(&admin(), tokens, request("another", 3607)).await;
    assert_eq!(code, 409, "{body}");
    let (code, body) = server.create(&admin(), tokens, request(uid, 60)).await;
    assert_eq!(code, 422, "{body}");
    let (code, body) = server.create(&admin(), tokens, request(uid, 3607)).await;
    assert_eq!(code, 201, "{body}");
    let token = body["status"]["token"].as_str().unwrap().to_owned();

    let (code, body) = server.get_with(&token, pods).await;
    assert_eq!(code, 403);
    assert!(
        message(&body).contains("system:serviceaccount:default:default"),
        "{body}"
    );
    assert_eq!(server.get_with("nonsense", pods).await.0, 401);

    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (code, body) = server.create(&admin(), reviews, review.clone()).await;
    assert_eq!((code, &body["status"]["authenticated"]), (201, &json!(true)), "{body}");
    let user = &body["status"]["user"];
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));

    let path = format!("{pods}/p?gracePeriodSeconds=0");
    let (code, body) = server.ask(&admin(), Method::DELETE, &path, Value::Null).await;
    assert_eq!(code, 200, "{body}");
    eventually(async || server.get_with(&token, pods).await.0 == 401).await;
    let (_, body) = server.create(&admin(), reviews, review).await;
    assert_eq!(body["status"]["authenticated"], Value::Null);
    assert_eq!(body["status"]["error"], r#"pod "p" not found"#);
}

#[tokio::test]
async fn access_reviews_tell_what_the_authorizers_would() {
    let server = Running::start().await;
    let review = |kind: &str, spec: Value| json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
    let base = "/apis/authorization.k8s.io/v1";
    let pods = json!({"verb": "list", "resource": "pods", "namespace": "default"});
    let bob = User::new("bob", &[]);
    let (code, body) = server
        .create(
            &bob,
            &format!("{base}/selfsubjectaccessreviews"),
            review("SelfSubjectAccessReview", json!({"resourceAttributes": pods})),
        )
        .await;
    assert_eq!((code, &body["status"]), (201, &json!({"allowed": false})), "{body}");
    let subject = |user: &str| json!({"user": user, "resourceAttributes": {"verb": "list", "resource": "pods"}});
    for (user, want) in [("system:kube-scheduler", true), ("bob", false)] {
        let (_, body) = server
            .create(
                &admin(),
                &format!("{base}/subjectaccessreviews"),
                review("SubjectAccessReview", subject(user)),
            )
            .await;
        assert_eq!(body["status"]["allowed"], want, "{body}");
    }
    let (code, _) = server
        .create(
            &bob,
            &format!("{base}/subjectaccessreviews"),
            review("SubjectAccessReview", subject("x")),
        )
        .await;
    assert_eq!(code, 403);
    let (code, body) = server
        .create(
            &admin(),
            &format!("{base}/subjectaccessreviews"),
            review("SubjectAccessReview", json!({"user": "x"})),
        )
        .await;
    assert_eq!((code, &body["reason"]), (422, &json!("Invalid")), "{body}");
    let (_, body) = server
        .create(
            &bob,
            &format!("{base}/selfsubjectrulesreviews"),
            review("SelfSubjectRulesReview", json!({"namespace": "default"})),
        )
        .await;
    assert_eq!(body["status"]["incomplete"], false, "{body}");
    let paths = body["status"]["nonResourceRules"].to_string();
    assert!(paths.contains("/healthz"), "{paths}");
    let (_, body) = server
        .create(
            &bob,
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}),
        )
        .await;
    assert_eq!(body["status"]["userInfo"]["username"], "bob", "{body}");
}

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

async fn reserved(server: &Running, address: &str) -> bool {
    let key = format!("/registry/ipaddresses/{address}");
    server.store.get(&key).await.unwrap().is_some()
}

#[tokio::test(start_paused = true)]
async fn the_way_to_the_server_is_brought_back_when_somebody_takes_it_away() {
    let server = Running::start().await;
    let path = format!("{SERVICES}/kubernetes");
    let (_, before) = server.get(&admin(), &path).await;
    for path in [path.as_str(), "/api/v1/namespaces/default/endpoints/kubernetes"] {
        let (code, body) = server.ask(&admin(), Method::DELETE, path, Value::Null).await;
        assert_eq!(code, 200, "{body}");
    }
    // The clock stands still but for what waits.
    let back = async |path: &str| loop {
        let (code, body) = server.get(&admin(), path).await;
        if code == 200 && body["metadata"]["deletionTimestamp"].is_null() {
            return body;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    };
    let after = back(&path).await;
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["spec"]["clusterIP"], before["spec"]["clusterIP"]);
    back("/api/v1/namespaces/default/endpoints/kubernetes").await;
    let address = after["spec"]["clusterIP"].as_str().unwrap();
    while !reserved(&server, address).await {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_service_has_its_address_alone_and_gives_it_back() {
    let server = Running::start().await;
    let ports = json!([{"port": 80}]);
    let (code, a) = server
        .create(&admin(), SERVICES, service("a", json!({"ports": ports})))
        .await;
    assert_eq!(code, 201, "{a}");
    let address = a["spec"]["clusterIP"].as_str().unwrap();
    assert!(address.starts_with("10.96."), "{address}");
    assert_eq!(a["spec"]["clusterIPs"], json!([address]));
    assert_eq!(a["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(a["spec"]["ipFamilyPolicy"], "SingleStack");
    assert!(reserved(&server, address).await);

    for (wanted, part) in [
        (address, "failed to allocate IP"),
        (
            "10.97.0.1",
            "is not in the valid range. The range of valid IPs is 10.96.0.0/16",
        ),
    ] {
        let spec = json!({"ports": ports, "clusterIP": wanted});
        let (code, body) = server.create(&admin(), SERVICES, service("b", spec)).await;
        assert_eq!(code, 422, "{body}");
        assert!(message(&body).contains(part), "{body}");
        assert_eq!(body["details"]["causes"][0]["field"], "spec.clusterIPs");
    }
    // The one address alone is changed as a client without the list does it.
    let change = json!({"spec": {"clusterIP": "10.96.0.77"}});
    let (code, body) = server
        .ask(&admin(), Method::PATCH, &format!("{SERVICES}/a"), change)
        .await;
    assert_eq!(code, 422, "{body}");
    let want = r#"spec.clusterIPs[0]: Invalid value: ["10.96.0.77"]: may not change once set"#;
    assert!(message(&body).ends_with(want), "{body}");
    let change = json!({"spec": {"clusterIP": null}});
    let (code, body) = server
        .ask(&admin(), Method::PATCH, &format!("{SERVICES}/a"), change)
        .await;
    assert_eq!((code, &body["spec"]["clusterIP"]), (200, &json!(address)));
    let (code, body) = server
        .ask(&admin(), Method::DELETE, &format!("{SERVICES}/a"), Value::Null)
        .await;
    assert_eq!(code, 200, "{body}");
    assert!(!reserved(&server, address).await);
    let spec = json!({"ports": ports, "clusterIP": address});
    assert_eq!(server.create(&admin(), SERVICES, service("b", spec)).await.0, 201);
}

#[tokio::test]
async fn a_write_that_fails_or_is_dry_reserves_nothing() {
    let server = Running::start().await;
    let spec = json!({"type": "NodePort", "clusterIP": "10.96.0.77", "ports": [{"port": 80, "nodePort": 30080}]});
    let before = server
        .store
        .list("/registry/ipaddresses/", Default::default())
        .await
        .unwrap();
    let path = format!("{SERVICES}?dryRun=All");
    let (code, body) = server.create(&admin(), &path, service("a", spec.clone())).await;
    assert_eq!(
        (code, &body["spec"]["clusterIP"]),
        (201, &json!("10.96.0.77")),
        "{body}"
    );
    assert!(!reserved(&server, "10.96.0.77").await);
    let mut invalid = service("a", spec.clone());
    invalid["spec"]["sessionAffinity"] = "Never".into();
    assert_eq!(server.create(&admin(), SERVICES, invalid).await.0, 422);
    assert!(!reserved(&server, "10.96.0.77").await);
    assert_eq!(server.create(&admin(), SERVICES, service("a", spec)).await.0, 201);
    // The second of one name: what it got beside is given back.
    let again = service("a", json!({"ports": [{"port": 80}]}));
    assert_eq!(server.create(&admin(), SERVICES, again).await.0, 409);
    let after = server
        .store
        .list("/registry/ipaddresses/", Default::default())
        .await
        .unwrap();
    assert_eq!(after.entries.len(), before.entries.len() + 1);
}

#[tokio::test]
async fn node_ports_follow_the_services_type() {
    let server = Running::start().await;
    let spec = json!({"type": "NodePort", "ports": [
        {"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"},
        {"name": "w", "port": 80, "nodePort": 30080}]});
    let (code, body) = server.create(&admin(), SERVICES, service("a", spec)).await;
    assert_eq!(code, 201, "{body}");
    let port = |body: &Value, at: usize| body["spec"]["ports"][at]["nodePort"].as_i64();
    assert!((30086..=32767).contains(&port(&body, 0).unwrap()), "{body}");
    assert_eq!(port(&body, 0), port(&body, 1), "one port in two protocols shares");
    let other = |name: &str| {
        service(
            name,
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}),
        )
    };
    let (code, refused) = server.create(&admin(), SERVICES, other("b")).await;
    assert_eq!(code, 422);
    assert!(
        message(&refused).contains("provided port is already allocated"),
        "{refused}"
    );

    let path = format!("{SERVICES}/a");
    let (code, body) = server
        .ask(&admin(), Method::PATCH, &path, json!({"spec": {"type": "ClusterIP"}}))
        .await;
    assert_eq!((code, port(&body, 2)), (200, None), "{body}");
    let (code, body) = server.create(&admin(), SERVICES, other("b")).await;
    assert_eq!(code, 201, "{body}");

    let name = json!({"spec": {"type": "ExternalName", "externalName": "example.org"}});
    let address = body["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let (code, body) = server
        .ask(&admin(), Method::PATCH, &format!("{SERVICES}/b"), name)
        .await;
    assert_eq!((code, &body["spec"]["clusterIP"]), (200, &Value::Null), "{body}");
    assert!(!reserved(&server, &address).await);
}

#[tokio::test]
async fn a_restart_gives_back_what_a_crash_left_and_takes_what_is_missing() {
    let server = Running::start().await;
    let spec = json!({"type": "NodePort", "clusterIP": "10.96.0.77", "ports": [{"port": 80, "nodePort": 30080}]});
    assert_eq!(server.create(&admin(), SERVICES, service("a", spec)).await.0, 201);
    let owner = ("default".to_owned(), "gone".to_owned());
    let lost = crate::admission::addresses::ip_address("10.96.0.99".parse().unwrap(), &owner).to_stored();
    let key: Arc<str> = "/registry/ipaddresses/10.96.0.99".into();
    let (expect, durable) = (store::Expect::Absent, store::Options::DURABLE);
    server.store.put(&key, lost, expect, durable).await.unwrap();
    for key in ["/registry/ipaddresses/10.96.0.77", "/registry/ranges/servicenodeports"] {
        let entry = server.store.get(key).await.unwrap().unwrap();
        server.store.delete(&entry.key, entry.revision).await.unwrap();
    }
    let server = server.restart().await;
    assert!(!reserved(&server, "10.96.0.99").await);
    assert!(reserved(&server, "10.96.0.77").await);
    let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    assert_eq!(server.create(&admin(), SERVICES, service("b", spec)).await.0, 422);
}

#[tokio::test]
async fn nobody_grants_more_than_he_holds() {
    let server = Running::start().await;
    let base = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let reference = |name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name});
    let subject = |name: &str| json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}]);
    let binding = |name: &str, role: &str, user: &str| json!({"metadata": {"name": name}, "roleRef": reference(role), "subjects": subject(user)});
    let bindings = format!("{base}/rolebindings");
    let (code, body) = server
        .create(&admin(), &bindings, binding("amy-is-admin", "admin", "amy"))
        .await;
    assert_eq!(code, 201, "{body}");
    let amy = User::new("amy", &[]);
    eventually(async || server.get(&amy, &bindings).await.0 == 200).await;
    let (code, body) = server.create(&amy, &bindings, binding("view", "view", "bob")).await;
    assert_eq!(code, 201, "{body}");
    let (code, body) = server
        .create(&amy, &bindings, binding("all", "cluster-admin", "amy"))
        .await;
    assert_eq!(code, 403, "{body}");
    assert!(
        message(&body).contains("is attempting to grant RBAC permissions not currently held:\n"),
        "{body}"
    );
    let (code, body) = server.create(&amy, &bindings, binding("x", "nothing", "amy")).await;
    assert_eq!(
        (code, message(&body)),
        (404, r#"clusterroles.rbac.authorization.k8s.io "nothing" not found"#)
    );
    let role = json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    assert_eq!(server.create(&amy, &format!("{base}/roles"), role).await.0, 403);
    let role =
        json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    let (code, body) = server.create(&amy, &format!("{base}/roles"), role).await;
    assert_eq!(code, 201, "{body}");
}

#[tokio::test]
async fn a_kubelet_writes_its_own_and_nothing_else() {
    let server = Running::start().await;
    server.account("default").await;
    let (n1, n2) = (User::node("n1"), User::node("n2"));
    let node = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
    let nodes = "/api/v1/nodes";
    let (code, body) = server
        .create(&n1, nodes, node("n1", json!({"kubernetes.io/hostname": "n1"})))
        .await;
    assert_eq!(code, 201, "{body}");
    assert_eq!(body["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    assert_eq!(server.create(&n1, nodes, node("n2", json!({}))).await.0, 403);
    let role = json!({"node-role.kubernetes.io/control-plane": ""});
    let (code, body) = server.create(&n2, nodes, node("n2", role)).await;
    assert_eq!(code, 403);
    assert!(
        message(&body).contains("not allowed to set the following labels"),
        "{body}"
    );
    let (code, body) = server
        .ask(&n1, Method::PATCH, "/api/v1/nodes/n1", json!({"spec": {"taints": []}}))
        .await;
    assert_eq!(code, 403, "{body}");

    let pods = "/api/v1/namespaces/default/pods";
    let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "s", "secret": {"secretName": "s"}}]});
    let (code, body) = server
        .create(&admin(), pods, json!({"metadata": {"name": "p"}, "spec": spec}))
        .await;
    assert_eq!(code, 201, "{body}");
    let secret = json!({"metadata": {"name": "s"}});
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(server.create(&admin(), secrets, secret).await.0, 201);
    eventually(async || server.get(&n1, &format!("{secrets}/s")).await.0 == 200).await;
    assert_eq!(server.get(&n2, &format!("{secrets}/s")).await.0, 403);
    let status = json!({"status": {"phase": "Running"}});
    let path = format!("{pods}/p/status");
    assert_eq!(server.ask(&n2, Method::PATCH, &path, status.clone()).await.0, 403);
    let (code, body) = server.ask(&n1, Method::PATCH, &path, status).await;
    assert_eq!(code, 200, "{body}");
    let free =
        json!({"metadata": {"name": "q"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    let (code, body) = server.create(&n1, pods, free).await;
    assert_eq!(code, 403);
    assert!(message(&body).contains("can only create mirror pods"), "{body}");
}

#[tokio::test]
async fn a_namespace_enforces_its_pod_security() {
    let server = Running::start().await;
    let namespace = json!({"metadata": {"name": "safe", "labels": {
        "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"}}});
    assert_eq!(server.create(&admin(), "/api/v1/namespaces", namespace).await.0, 201);
    server.account("safe").await;
    let pods = "/api/v1/namespaces/safe/pods";
    let pod = |host: bool| {
        json!({"metadata": {"name": "p"},
        "spec": {"hostNetwork": host, "containers": [{"name": "c", "image": "i"}]}})
    };
    let (code, body) = server.create(&admin(), pods, pod(true)).await;
    assert_eq!(
        (code, message(&body)),
        (
            403,
            "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
        )
    );
    assert_eq!(server.create(&admin(), pods, pod(false)).await.0, 201);
    let namespace = json!({"metadata": {"name": "odd", "labels": {"pod-security.kubernetes.io/enforce": "strict"}}});
    let (code, body) = server.create(&admin(), "/api/v1/namespaces", namespace).await;
    assert_eq!((code, &body["reason"]), (422, &json!("Invalid")));
}

#[tokio::test]
async fn a_limit_range_fills_in_and_bounds() {
    let server = Running::start().await;
    server.account("default").await;
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "1"}, "max": {"cpu": "2"}}]}});
    let (code, body) = server
        .create(&admin(), "/api/v1/namespaces/default/limitranges", range)
        .await;
    assert_eq!(code, 201, "{body}");
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str, limits: Value| {
        json!({"metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": limits}}]}})
    };
    eventually(async || {
        let (_, body) = server
            .create(&admin(), &format!("{pods}?dryRun=All"), pod("a", json!({})))
            .await;
        body["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "1"
    })
    .await;
    let (code, body) = server.create(&admin(), pods, pod("a", json!({}))).await;
    let resources = &body["spec"]["containers"][0]["resources"];
    assert_eq!((code, &resources["requests"]["cpu"]), (201, &json!("1")), "{body}");
    let (code, body) = server.create(&admin(), pods, pod("b", json!({"cpu": "3"}))).await;
    assert_eq!(
        (code, message(&body)),
        (
            403,
            "pods \"b\" is forbidden: maximum cpu usage per Container is 2, but limit is 3"
        )
    );
}

#[tokio::test]
async fn a_quota_is_never_exceeded_and_given_back() {
    let server = Running::start().await;
    server.account("default").await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = |name: &str| json!({"metadata": {"name": name}});
    assert_eq!(server.create(&admin(), maps, map("before")).await.0, 201);
    let quota =
        json!({"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "3", "requests.cpu": "1", "pods": "5"}}});
    let (code, body) = server.create(&admin(), quotas, quota).await;
    assert_eq!(code, 201, "{body}");
    let used = async |name: &str| {
        let (_, quota) = server.get(&admin(), &format!("{quotas}/q")).await;
        quota["status"]["used"][name].as_str().unwrap_or_default().to_owned()
    };
    eventually(async || used("configmaps").await == "1").await;

    let names: Vec<String> = (0..8).map(|n| format!("m{n}")).collect();
    let admin_ = admin();
    let writes = names.iter().map(|name| server.create(&admin_, maps, map(name)));
    let answers = futures::future::join_all(writes).await;
    let made = answers.iter().filter(|(code, _)| *code == 201).count();
    assert_eq!(made, 2, "of eight at once two fit");
    let refused = answers.iter().find(|(code, _)| *code != 201).unwrap();
    assert_eq!(
        (refused.0, message(&refused.1).split_once(" is forbidden: ").unwrap().1),
        (
            403,
            "exceeded quota: q, requested: configmaps=1, used: configmaps=3, limited: configmaps=3"
        )
    );
    assert_eq!(used("configmaps").await, "3");
    assert_eq!(server.create(&admin(), maps, map("before")).await.0, 403);
    let (code, _) = server
        .ask(&admin(), Method::DELETE, &format!("{maps}/before"), Value::Null)
        .await;
    assert_eq!((code, used("configmaps").await.as_str()), (200, "2"));

    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str, resources: Value| {
        json!({"metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
    };
    let (code, body) = server.create(&admin(), pods, pod("a", json!({}))).await;
    assert_eq!(code, 403);
    assert!(
        message(&body).ends_with("failed quota: q: must specify requests.cpu for: c"),
        "{body}"
    );
    let cpu = json!({"requests": {"cpu": "700m"}});
    assert_eq!(server.create(&admin(), pods, pod("a", cpu.clone())).await.0, 201);
    assert_eq!(used("requests.cpu").await, "700m");
    let (_, body) = server.create(&admin(), pods, pod("b", cpu)).await;
    assert!(message(&body).contains("requested: requests.cpu=700m, used: requests.cpu=700m, limited: requests.cpu=1"));
    let status = json!({"status": {"phase": "Succeeded"}});
    let (code, _) = server
        .ask(&admin(), Method::PATCH, &format!("{pods}/a/status"), status)
        .await;
    assert_eq!(
        (code, used("requests.cpu").await.as_str()),
        (200, "0"),
        "what is over uses nothing"
    );
    // A write that fails after it was charged.
    assert_eq!(server.create(&admin(), maps, map("m")).await.0, 201);
    assert_eq!(used("configmaps").await, "3");
}

/// What differs from run to run, or was left out when the answers were recorded.
fn without_chance(value: &mut Value) {
    const CHANCE: [&str; 9] = [
        "lastPhaseTransitionTime",
        "uid",
        "creationTimestamp",
        "resourceVersion",
        "managedFields",
        "clusterIP",
        "clusterIPs",
        "controller-uid",
        "batch.kubernetes.io/controller-uid",
    ];
    match value {
        Value::Object(map) => {
            map.retain(|key, value| !CHANCE.contains(&key.as_str()) && !value.is_null());
            map.values_mut().for_each(without_chance);
            if let Some(Value::String(name)) = map.get_mut("name")
                && name.starts_with("kube-api-access-")
            {
                *name = "kube-api-access".into();
            }
            // A LimitRange without a name is given a random one.
            let is_random = |name: &Value| name.as_str().is_some_and(|name| uuid::Uuid::parse_str(name).is_ok());
            if map.get("name").is_some_and(is_random) {
                map.remove("name");
            }
            if map
                .get("nodePort")
                .and_then(Value::as_i64)
                .is_some_and(|port| port != 30100)
            {
                map.remove("nodePort");
            }
            // An empty list or object says what its absence says.
            map.retain(|_, value| {
                !matches!(value, Value::Object(m) if m.is_empty()) && !matches!(value, Value::Array(l) if l.is_empty())
            });
        }
        Value::Array(list) => list.iter_mut().for_each(without_chance),
        _ => {}
    }
}

fn first_difference(path: &str, got: &Value, want: &Value) -> Option<String> {
    match (got, want) {
        (Value::Object(a), Value::Object(b)) => a
            .keys()
            .chain(b.keys())
            .find_map(|key| first_difference(&format!("{path}.{key}"), &got[key], &want[key])),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(at, (a, b))| first_difference(&format!("{path}[{at}]"), a, b)),
        _ => (got != want).then(|| format!("{path}: {got} is not {want}")),
    }
}

/// Cases where we knowingly do otherwise. A dry run upstream does not look whether a node port is in the range; we do.
const OTHERWISE: [&str; 1] = ["neg spec.ports.0.nodePort"];

/// Posts each recorded object as a dry run; `check` says what is wrong with the answer.
#[expect(
    clippy::disallowed_methods,
    reason = "where the facts are is told by the environment"
)]
async fn against_recorded(file: &str, check: impl Fn(&Value, u16, Value) -> Option<String>) {
    let Ok(facts) = std::env::var("KUBERNETES_FACTS") else {
        println!("skipped: KUBERNETES_FACTS is not set");
        return;
    };
    let server = Running::start().await;
    server.account("default").await;
    let text = std::fs::read_to_string(std::path::Path::new(&facts).join(file)).unwrap();
    let (mut same, mut differ, mut not_served) = (0, Vec::new(), std::collections::BTreeSet::new());
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (path, name) = (case["path"].as_str().unwrap(), case["case"].as_str().unwrap());
        let asked = format!("{path}?dryRun=All&fieldValidation=Strict");
        let (code, got) = server.create(&admin(), &asked, case["object"].clone()).await;
        let unserved = code == 404 && got["message"] == "the server could not find the requested resource";
        // Some kinds are only listed.
        if unserved || code == 405 {
            not_served.insert(path.to_owned());
            continue;
        }
        match check(&case, code, got) {
            Some(_) if OTHERWISE.contains(&name) => {}
            Some(difference) => differ.push(format!("{path} {name}: {code} {difference}")),
            None => same += 1,
        }
    }
    println!("{same} the same; kinds that are not served yet: {not_served:?}");
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
}

#[tokio::test]
async fn a_recorded_server_made_the_same_of_what_it_accepted() {
    against_recorded("defaulting-cases.jsonl", |case, _, mut got| {
        let mut want = case["result"].clone();
        without_chance(&mut got);
        without_chance(&mut want);
        first_difference("", &got, &want)
    })
    .await;
}

#[tokio::test]
async fn a_recorded_server_refused_the_same() {
    against_recorded("validation-cases.jsonl", |case, code, got| {
        let causes = got["details"]["causes"].as_array().into_iter().flatten();
        let mut causes: Vec<Value> = causes.map(|c| json!([c["field"], c["reason"]])).collect();
        causes.sort_by_key(Value::to_string);
        // Recorded once each.
        causes.dedup();
        let mut want = case["causes"].as_array().cloned().unwrap_or_default();
        want.sort_by_key(Value::to_string);
        let reason = if code == 201 {
            ""
        } else {
            got["reason"].as_str().unwrap_or_default()
        };
        let is_same = case["code"] == code && case["reason"] == reason && (code != 422 || causes == want);
        (!is_same).then(|| {
            let wanted = format!("{} {} {}", case["code"], case["reason"], json!(want));
            format!("{reason} {} is not {wanted}: {}", json!(causes), message(&got))
        })
    })
    .await;
}
