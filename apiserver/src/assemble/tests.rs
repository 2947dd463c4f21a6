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
