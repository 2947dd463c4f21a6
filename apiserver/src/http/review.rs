//! Kinds that are never stored: a question is posted and comes back with its answer.
//! The only file of this room that names kinds. After pkg/registry/{authentication,authorization} and
//! pkg/registry/core/serviceaccount/storage/token.go (1.36).

use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::negotiate::{self, Offer};
use super::{Api, Call, body, get, options, respond};
use crate::authn::lookup::Lookups;
use crate::authn::service_account::{Bound, Grant, Issuer, Reference};
use crate::authz::{Decision, Request, Target};
use crate::identity::User;
use crate::object::Object;
use crate::registry::Row;
use crate::registry::write::{Gate, Write};
use crate::schema::Gvk;
use crate::status::{About, Errors, Status};

/// The shortest life of a token that may be asked for.
const MIN_SECONDS: i64 = 600;
const DEFAULT_SECONDS: i64 = 3600;
/// What the volumes that admission adds to pods ask for. Their tokens live on for clients that read them only once.
const EXTENDED_IF: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

/// POST of a kind that is never stored (TokenReview, SubjectAccessReview …).
pub(super) async fn create(call: &Call<'_>, row: &Row, body: Body) -> Result<Response<Body>, Status> {
    let options = options::Write::parse(call.query, "CreateOptions")?;
    let accept = negotiate::accept(&call.head.headers, Offer::Forms { list: false })?;
    let bytes = body::read(body).await?;
    let context = call.write(options.dry_run);
    let mut review = body::decode_row(row, &context, &call.head.headers, &bytes, options.validation)?;
    let status = match &*row.kind {
        "TokenReview" => token_review(call, &review).await?,
        "SelfSubjectReview" => json!({"userInfo": user_info(call.user)}),
        "SelfSubjectRulesReview" => rules_review(call, &review)?,
        "SelfSubjectAccessReview" => access_review(call, &review, Asked::Myself).await?,
        "SubjectAccessReview" => access_review(call, &review, Asked::Somebody).await?,
        "LocalSubjectAccessReview" => access_review(call, &review, Asked::SomebodyHere).await?,
        _ => return Err(Status::method_not_allowed(row.about(), "create")),
    };
    review.0.insert("status".into(), status);
    Ok(get::object(StatusCode::CREATED, call, accept, &review))
}

async fn token_review(call: &Call<'_>, review: &Object) -> Result<Value, Status> {
    let token = review.str_at(&["spec", "token"]);
    if token.is_empty() {
        return Err(Status::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let asked = strings(review.at(&["spec", "audiences"]));
    let authn = &call.api.authn;
    let audiences = if asked.is_empty() { &authn.audiences } else { &asked };
    Ok(match authn.verify(token, audiences).await {
        Ok(Some(verified)) => json!({
            "authenticated": true,
            "user": user_info(&verified.user),
            "audiences": verified.audiences,
        }),
        Ok(None) => json!({"user": {}}),
        Err(reason) => json!({"user": {}, "error": reason}),
    })
}

fn user_info(user: &User) -> Value {
    let mut info = Map::new();
    info.insert("username".into(), user.name.as_str().into());
    if !user.uid.is_empty() {
        info.insert("uid".into(), user.uid.as_str().into());
    }
    info.insert("groups".into(), json!(user.groups));
    if !user.extra.is_empty() {
        info.insert("extra".into(), json!(user.extra));
    }
    Value::Object(info)
}

fn rules_review(call: &Call<'_>, review: &Object) -> Result<Value, Status> {
    let namespace = review.str_at(&["spec", "namespace"]);
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let found = call.api.authz.rules_for(call.user, namespace);
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in &found.rules {
        if rule.urls.is_empty() {
            let mut value = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
            if !rule.resource_names.is_empty() {
                value["resourceNames"] = json!(rule.resource_names);
            }
            resources.push(value);
        } else {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.urls}));
        }
    }
    let mut status = json!({
        "resourceRules": resources, "nonResourceRules": paths, "incomplete": !found.errors.is_empty(),
    });
    if !found.errors.is_empty() {
        status["evaluationError"] = found.errors.join(", ").into();
    }
    Ok(status)
}

/// About whom an access review asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Myself,
    Somebody,
    SomebodyHere,
}

async fn access_review(call: &Call<'_>, review: &Object, asked: Asked) -> Result<Value, Status> {
    let mut errors = Errors::default();
    let resource = review.at(&["spec", "resourceAttributes"]);
    let path = review.at(&["spec", "nonResourceAttributes"]);
    if resource.is_some() && path.is_some() {
        let why = "cannot be specified in combination with resourceAttributes";
        errors.invalid("spec.nonResourceAttributes", &json!("nonResourceAttributes"), why);
    }
    if resource.is_none() && path.is_none() {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.invalid("spec.resourceAttributes", &json!("resourceAttributes"), why);
    }
    let text = |value: Option<&Value>, field: &str| {
        let value = value.and_then(|value| value.get(field)).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    let named = asked_user(review);
    if asked != Asked::Myself && named.name.is_empty() && named.groups.is_empty() {
        errors.invalid(
            "spec.user",
            &json!(""),
            "at least one of user or group must be specified",
        );
    }
    let namespace = text(resource, "namespace");
    if asked == Asked::SomebodyHere {
        if path.is_some() {
            let why = "disallowed on this kind of request";
            errors.invalid("spec.nonResourceAttributes", &json!("nonResourceAttributes"), why);
        }
        if resource.is_some() && namespace != call.target.namespace {
            let why = "must match metadata.namespace";
            errors.invalid("spec.resourceAttributes.namespace", &json!(namespace), why);
        }
    }
    if !errors.is_empty() {
        let kind = review.kind().to_owned();
        return Err(Status::invalid("authorization.k8s.io", &kind, "", errors));
    }
    let fields = resource
        .and_then(|resource| resource.get("fieldSelector"))
        .and_then(field_selector);
    let (verb, url) = match (resource, path) {
        (Some(resource), _) => (text(Some(resource), "verb"), String::new()),
        (None, path) => (text(path, "verb"), text(path, "path")),
    };
    let parts = ["group", "version", "resource", "subresource", "name"].map(|field| text(resource, field));
    let [group, version, plural, subresource, name] = &parts;
    let target = if resource.is_some() {
        Target::Resource {
            group,
            version,
            resource: plural,
            subresource,
            namespace: &namespace,
            name,
            fields: fields.as_ref(),
        }
    } else {
        Target::Path(&url)
    };
    let user = if asked == Asked::Myself { call.user } else { &named };
    let request = Request {
        user,
        verb: &verb,
        target,
    };
    let (allowed, denied, reason) = match call.api.authz.authorize(&request).await {
        Decision::Allow(reason) => (true, false, reason),
        Decision::NoOpinion(reason) => (false, false, reason),
        Decision::Deny(reason) => (false, true, reason),
    };
    let mut status = json!({"allowed": allowed});
    if denied {
        status["denied"] = true.into();
    }
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    Ok(status)
}

fn asked_user(review: &Object) -> User {
    let mut user = User {
        name: review.str_at(&["spec", "user"]).to_owned(),
        uid: review.str_at(&["spec", "uid"]).to_owned(),
        groups: strings(review.at(&["spec", "groups"])),
        ..User::default()
    };
    let extra = review.at(&["spec", "extra"]).and_then(Value::as_object);
    for (key, values) in extra.into_iter().flatten() {
        user.extra.insert(key.to_lowercase(), strings(Some(values)));
    }
    user
}

/// The equalities of a structured field selector: all that an authorizer looks at.
fn field_selector(selector: &Value) -> Option<api::selector::Fields> {
    if let Some(raw) = selector["rawSelector"].as_str() {
        return raw.parse().ok();
    }
    let requirements = selector["requirements"].as_array()?;
    let terms = requirements
        .iter()
        .filter_map(|requirement| {
            let values = requirement["values"].as_array()?;
            let [value] = values.as_slice() else { return None };
            (requirement["operator"] == "In").then(|| api::selector::Term {
                field: requirement["key"].as_str().unwrap_or_default().to_owned(),
                equal: true,
                value: value.as_str().unwrap_or_default().to_owned(),
            })
        })
        .collect();
    Some(api::selector::Fields { terms })
}

fn strings(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

/// `serviceaccounts/token`.
pub(super) async fn token(call: &Call<'_>, row: &Row, body: Body) -> Result<Response<Body>, Status> {
    let options = options::Write::parse(call.query, "CreateOptions")?;
    let accept = negotiate::accept(&call.head.headers, Offer::Forms { list: false })?;
    let Some(issuer) = &call.api.issuer else {
        return Err(Status::method_not_allowed(row.about(), "create"));
    };
    let bytes = body::read(body).await?;
    let gvk = Gvk {
        group: "authentication.k8s.io",
        version: "v1",
        kind: "TokenRequest",
    };
    let context = call.write(options.dry_run);
    let mut request = body::decode(gvk, &call.head.headers, &bytes, options.validation, |w| context.warn(w))?;
    let (namespace, name) = (call.target.namespace, &*call.target.name);
    for (field, said, want) in [
        ("name", request.name(), name),
        ("namespace", request.namespace(), namespace),
    ] {
        if !said.is_empty() && said != want {
            return Err(Status::bad_request(format!(
                "the {field} of the provided object does not match the {field} sent on the request"
            )));
        }
    }
    let metadata = request.metadata_mut();
    metadata.insert("name".into(), name.into());
    metadata.insert("namespace".into(), namespace.into());
    let lookups = Lookups::new(&call.api.registry);
    let Some(account) = lookups.live(Bound::ServiceAccount, namespace, name).await else {
        return Err(Status::not_found(row.about(), name));
    };
    let mut grant = grant(call, issuer, &lookups, &mut request).await?;
    grant.account.uid = account.uid;
    let gate = call.gate(row, options.dry_run);
    gate.mutate(name, &mut request, None).await?;
    let outcome = gate.validate(name, Some(&request), None).await;
    gate.finish(&request, None, Write::Create, outcome.is_ok() && !options.dry_run)
        .await;
    outcome?;
    let asked = grant.seconds;
    let extends = issuer.extend && asked == EXTENDED_IF && grant.audiences == issuer.audiences;
    if extends {
        grant.warn_after = Some(asked);
        grant.seconds = EXTENDED_SECONDS;
    }
    let (token, _) = issuer.issue(&grant, call.now).map_err(|_| {
        tracing::error!("a token could not be signed");
        Status::internal("the token could not be signed")
    })?;
    // The client is told when to come back, not how long the token is good.
    let ends = jiff::Timestamp::from_second(call.now.as_second() + asked).unwrap_or(jiff::Timestamp::MAX);
    let ends = ends.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let stamp = call.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    request.metadata_mut().insert("creationTimestamp".into(), stamp.into());
    request
        .0
        .insert("status".into(), json!({"token": token, "expirationTimestamp": ends}));
    Ok(get::object(StatusCode::CREATED, call, accept, &request))
}

/// What the request may have: its wishes checked, shortened and completed.
async fn grant(call: &Call<'_>, issuer: &Issuer, lookups: &Lookups, request: &mut Object) -> Result<Grant, Status> {
    let (namespace, name) = (call.target.namespace, &*call.target.name);
    let seconds = request
        .at(&["spec", "expirationSeconds"])
        .and_then(Value::as_i64)
        .unwrap_or(DEFAULT_SECONDS);
    let mut errors = Errors::default();
    let field = "spec.expirationSeconds";
    if seconds < MIN_SECONDS {
        errors.invalid(
            field,
            &json!(seconds),
            "may not specify a duration less than 10 minutes",
        );
    }
    if seconds > 1 << 32 {
        let why = "may not specify a duration larger than 2^32 seconds";
        errors.invalid(field, &json!(seconds), why);
    }
    if !errors.is_empty() {
        return Err(Status::invalid("authentication.k8s.io", "TokenRequest", name, errors));
    }
    let longest = issuer.longest.unwrap_or(i64::MAX);
    if seconds > longest {
        let context = call.write(false);
        context.warn(format!(
            "requested expiration of {seconds} seconds shortened to {longest} seconds"
        ));
    }
    let seconds = seconds.min(longest);
    let asked = strings(request.at(&["spec", "audiences"]));
    let audiences = if asked.is_empty() {
        issuer.audiences.clone()
    } else {
        asked
    };
    let mut grant = Grant {
        namespace: namespace.to_owned(),
        account: Reference {
            name: name.to_owned(),
            uid: String::new(),
        },
        pod: None,
        secret: None,
        node: None,
        audiences,
        seconds,
        warn_after: None,
    };
    bind(call, lookups, request, &mut grant).await?;
    let spec = request.entry("spec");
    spec.insert("audiences".into(), json!(grant.audiences));
    spec.insert("expirationSeconds".into(), seconds.into());
    spec.entry("boundObjectRef").or_insert(Value::Null);
    Ok(grant)
}

async fn bind(call: &Call<'_>, lookups: &Lookups, request: &Object, grant: &mut Grant) -> Result<(), Status> {
    let Some(reference) = request.at(&["spec", "boundObjectRef"]) else {
        return Ok(());
    };
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let (version, kind, name, uid) = (text("apiVersion"), text("kind"), text("name"), text("uid"));
    let (bound, resource) = match (version, kind) {
        ("v1", "Pod") => (Bound::Pod, "pods"),
        ("v1", "Secret") => (Bound::Secret, "secrets"),
        ("v1", "Node") => (Bound::Node, "nodes"),
        _ => {
            let kind = if version.is_empty() {
                kind.to_owned()
            } else {
                format!("{version}, Kind={kind}")
            };
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {kind}"
            )));
        }
    };
    let about = About { group: "", resource };
    let namespace = if bound == Bound::Node { "" } else { &*grant.namespace };
    let Some(live) = lookups.live(bound, namespace, name).await else {
        return Err(Status::not_found(about, name));
    };
    if !uid.is_empty() && uid != live.uid {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
             deleted and then recreated"
        );
        return Err(Status::conflict(about, name, &why));
    }
    let this = Reference {
        name: name.to_owned(),
        uid: live.uid,
    };
    match bound {
        Bound::Pod => {
            let cache = call.api.registry.cache("", "pods");
            let pod = cache
                .and_then(|cache| cache.get(namespace, name))
                .map(|item| item.object());
            let pod = pod.ok_or_else(|| Status::not_found(about, name))?;
            if pod.str_at(&["spec", "serviceAccountName"]) != grant.account.name {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    grant.account.name
                )));
            }
            let node = pod.str_at(&["spec", "nodeName"]);
            if !node.is_empty() {
                let live = lookups.live(Bound::Node, "", node).await;
                grant.node = Some(Reference {
                    name: node.to_owned(),
                    uid: live.map(|live| live.uid).unwrap_or_default(),
                });
            }
            grant.pod = Some(this);
        }
        Bound::Secret => grant.secret = Some(this),
        Bound::Node => grant.node = Some(this),
        Bound::ServiceAccount => unreachable!("no such reference is made above"),
    }
    Ok(())
}

/// Public documents about tokens (`/.well-known/openid-configuration`, `/openid/v1/jwks`). `None`: another path.
pub(super) fn path(api: &Api, path: &str) -> Option<Result<Response<Body>, Status>> {
    let issuer = api.issuer.as_ref()?;
    let (content_type, document) = match path.trim_end_matches('/') {
        "/.well-known/openid-configuration" => ("application/json", issuer.discovery()),
        "/openid/v1/jwks" => ("application/jwk-set+json", issuer.key_set()),
        _ => return None,
    };
    Some(Ok(respond::bytes(StatusCode::OK, content_type, document.to_string())))
}
