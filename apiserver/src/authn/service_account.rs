//! Service-account tokens: issued for an account, bound to a pod, node or secret, and good only while those live.
//! Comes in: a token, and caches to look up what it is bound to. Goes out: the account as a user. The format is
//! upstream's (pkg/serviceaccount/claims.go, 1.36): an upstream API server with the same key takes our tokens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::jws::{PublicKey, Signer, Token};
use super::{CREDENTIAL_ID, Tokens, Verified};
use crate::identity::User;

/// A pod that terminates keeps its tokens for a while: its last words are written with them.
const AFTER_DELETION: i64 = 60;
/// Tokens whose signature was verified, remembered by digest: bounded, emptied when full.
const REMEMBERED: usize = 1024;

/// The token's claims.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Claims {
    pub iss: String,
    pub sub: String,
    /// One audience may be written without a list.
    #[serde(deserialize_with = "one_or_many", default)]
    pub aud: Vec<String>,
    pub exp: i64,
    #[serde(default)]
    pub nbf: i64,
    #[serde(default)]
    pub iat: i64,
    #[serde(default)]
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub private: Private,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Private {
    pub namespace: String,
    pub serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Reference {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audiences {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audiences::deserialize(from)? {
        Audiences::One(one) => vec![one],
        Audiences::Many(many) => many,
    })
}

/// What tokens are bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    ServiceAccount,
    Pod,
    Secret,
    Node,
}

/// An object that a token is bound to, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    pub uid: String,
    pub deleted: Option<Timestamp>,
}

/// Finds what a token is bound to, no older than the moment of the question.
pub trait Lookup: Send + Sync + std::fmt::Debug {
    fn find<'a>(&'a self, kind: Bound, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Option<Live>>;
}

/// What to write into a token.
#[derive(Debug, Clone)]
pub struct Grant {
    pub namespace: String,
    pub account: Reference,
    pub pod: Option<Reference>,
    pub secret: Option<Reference>,
    pub node: Option<Reference>,
    pub audiences: Vec<String>,
    pub seconds: i64,
    /// The token is meant to be exchanged after so long, though it is good for `seconds`.
    pub warn_after: Option<i64>,
}

/// Issues tokens.
#[derive(Debug)]
pub struct Issuer {
    pub name: String,
    pub signer: Signer,
    /// For whom a token is that names nobody.
    pub audiences: Vec<String>,
    /// No token lives longer, in seconds.
    pub longest: Option<i64>,
    /// Whether tokens of pods live on for clients that read them only once.
    pub extend: bool,
    /// All keys that verify tokens of this issuer, for those who verify elsewhere.
    pub keys: Vec<PublicKey>,
    /// Where they are published.
    pub keys_uri: String,
}

impl Issuer {
    /// An issuer that publishes its signing key only.
    pub fn new(name: impl Into<String>, signer: Signer) -> Issuer {
        let name = name.into();
        Issuer {
            audiences: vec![name.clone()],
            longest: None,
            extend: true,
            keys: vec![signer.public().clone()],
            keys_uri: format!("{name}/openid/v1/jwks"),
            name,
            signer,
        }
    }

    /// The OpenID provider's configuration, as much of it as Kubernetes has.
    pub fn discovery(&self) -> serde_json::Value {
        let mut algorithms: Vec<&str> = self.keys.iter().map(|key| key.algorithm.name()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        json!({
            "issuer": self.name,
            "jwks_uri": self.keys_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }
    /// The public keys as a JSON Web Key Set.
    pub fn key_set(&self) -> serde_json::Value {
        json!({"keys": self.keys.iter().map(PublicKey::jwk).collect::<Vec<_>>()})
    }

    /// The token and when it ends.
    pub fn issue(&self, grant: &Grant, now: Timestamp) -> Result<(String, Timestamp), ring::error::Unspecified> {
        let seconds = now.as_second();
        let claims = Claims {
            iss: self.name.clone(),
            sub: User::service_account(&grant.namespace, &grant.account.name).name,
            aud: grant.audiences.clone(),
            exp: seconds + grant.seconds,
            nbf: seconds,
            iat: seconds,
            jti: uuid::Uuid::new_v4().to_string(),
            private: Private {
                namespace: grant.namespace.clone(),
                serviceaccount: grant.account.clone(),
                pod: grant.pod.clone(),
                secret: grant.secret.clone(),
                node: grant.node.clone(),
                warnafter: grant.warn_after.map(|after| seconds + after),
            },
        };
        let ends = Timestamp::from_second(claims.exp).unwrap_or(Timestamp::MAX);
        Ok((self.signer.sign(&json!(claims))?, ends))
    }
}

/// Verifies tokens.
#[derive(Debug)]
pub struct Verifier {
    issuers: Vec<String>,
    keys: Vec<PublicKey>,
    lookup: Arc<dyn Lookup>,
    signed: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl Verifier {
    pub fn new(issuers: Vec<String>, keys: Vec<PublicKey>, lookup: Arc<dyn Lookup>) -> Verifier {
        Verifier {
            issuers,
            keys,
            lookup,
            signed: Mutex::default(),
        }
    }

    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// The claims, if we signed them. `None`: not one of ours.
    fn claims(&self, text: &str) -> Result<Option<Arc<Claims>>, String> {
        let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        let lock = || self.signed.lock().expect("nothing panics while it holds this");
        if let Some(claims) = lock().get(&digest) {
            return Ok(Some(claims.clone()));
        }
        let Some(token) = Token::parse(text) else {
            return Ok(None);
        };
        let Ok(claims) = serde_json::from_slice::<Claims>(token.payload()) else {
            return Ok(None);
        };
        if !self.issuers.contains(&claims.iss) {
            return Ok(None);
        }
        if !token.is_signed_by(&self.keys) {
            return Err("invalid signature".into());
        }
        let claims = Arc::new(claims);
        let mut signed = lock();
        if signed.len() >= REMEMBERED {
            signed.clear();
        }
        signed.insert(digest, claims.clone());
        Ok(Some(claims))
    }

    async fn check(&self, claims: &Claims, now: Timestamp) -> Result<User, String> {
        let seconds = now.as_second();
        if claims.exp < seconds {
            return Err("service account token has expired".into());
        }
        if claims.nbf > seconds {
            return Err("service account token is not valid yet".into());
        }
        let Private {
            namespace,
            serviceaccount,
            pod,
            secret,
            node,
            warnafter: _,
        } = &claims.private;
        if claims.sub != User::service_account(namespace, &serviceaccount.name).name {
            return Err("the subject is not the service account".into());
        }
        self.lives(Bound::ServiceAccount, namespace, serviceaccount, 0, now)
            .await?;
        if let Some(secret) = secret {
            self.lives(Bound::Secret, namespace, secret, 0, now).await?;
        }
        if let Some(pod) = pod {
            self.lives(Bound::Pod, namespace, pod, AFTER_DELETION, now).await?;
        } else if let Some(node) = node {
            // A pod's token only mentions the node: it dies with the pod.
            self.lives(Bound::Node, "", node, AFTER_DELETION, now).await?;
        }
        let mut user = User::service_account(namespace, &serviceaccount.name);
        user.uid = serviceaccount.uid.clone();
        let mut extra = |key: &str, value: &str| {
            if !value.is_empty() {
                user.extra
                    .insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
            }
        };
        for (kind, reference) in [("pod", pod), ("node", node)] {
            if let Some(reference) = reference {
                extra(&format!("{kind}-name"), &reference.name);
                extra(&format!("{kind}-uid"), &reference.uid);
            }
        }
        if !claims.jti.is_empty() {
            user.extra
                .insert(CREDENTIAL_ID.into(), vec![format!("JTI={}", claims.jti)]);
        }
        Ok(user)
    }

    async fn lives(
        &self,
        kind: Bound,
        namespace: &str,
        reference: &Reference,
        grace: i64,
        now: Timestamp,
    ) -> Result<(), String> {
        let word = match kind {
            Bound::ServiceAccount => "service account",
            Bound::Pod => "pod",
            Bound::Secret => "secret",
            Bound::Node => "node",
        };
        let Some(live) = self.lookup.find(kind, namespace, &reference.name).await else {
            return Err(format!("{word} {:?} not found", reference.name));
        };
        if live.deleted.is_some_and(|at| at.as_second() + grace < now.as_second()) {
            return Err(format!("{word} has been deleted"));
        }
        if live.uid != reference.uid {
            return Err(format!(
                "{word} UID ({}) does not match claim ({})",
                live.uid, reference.uid
            ));
        }
        Ok(())
    }
}

impl Tokens for Verifier {
    fn verify<'a>(
        &'a self,
        token: &'a str,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<Option<Verified>, String>> {
        Box::pin(async move {
            let Some(claims) = self.claims(token)? else {
                return Ok(None);
            };
            let common: Vec<String> = audiences.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
            if common.is_empty() {
                return Err(format!(
                    "token audiences {:?} is invalid for the target audiences {audiences:?}",
                    claims.aud
                ));
            }
            let user = self.check(&claims, Timestamp::now()).await?;
            Ok(Some(Verified {
                user,
                audiences: common,
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    /// Everything lives with uid `u`, but what is listed.
    #[derive(Debug, Default)]
    struct World {
        gone: Vec<Bound>,
        reborn: Vec<Bound>,
        deleted_before: Option<(Bound, i64)>,
    }
    impl Lookup for World {
        fn find<'a>(&'a self, kind: Bound, _: &'a str, _: &'a str) -> BoxFuture<'a, Option<Live>> {
            let live = Live {
                uid: if self.reborn.contains(&kind) { "other" } else { "u" }.into(),
                deleted: self
                    .deleted_before
                    .filter(|(deleted, _)| *deleted == kind)
                    .map(|(_, seconds)| Timestamp::from_second(Timestamp::now().as_second() - seconds).unwrap()),
            };
            Box::pin(std::future::ready((!self.gone.contains(&kind)).then_some(live)))
        }
    }

    fn grant(pod: bool) -> Grant {
        let reference = |name: &str| Reference {
            name: name.into(),
            uid: "u".into(),
        };
        Grant {
            namespace: "n".into(),
            account: reference("sa"),
            pod: pod.then(|| reference("p")),
            secret: None,
            node: pod.then(|| reference("n1")),
            audiences: vec![ISSUER.into()],
            seconds: 600,
            warn_after: None,
        }
    }

    async fn check(world: World, grant: Grant, ago: i64, audience: &str, want: Result<&str, &str>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let issuer = Issuer::new(ISSUER, Signer::from_pem(&key.serialize_pem()).unwrap());
        let issued = Timestamp::from_second(Timestamp::now().as_second() - ago).unwrap();
        let (token, ends) = issuer.issue(&grant, issued).unwrap();
        assert_eq!(ends.as_second(), issued.as_second() + grant.seconds);
        let keys = vec![issuer.signer.public().clone()];
        let verifier = Verifier::new(vec![ISSUER.into()], keys, Arc::new(world));
        for _ in 0..2 {
            let got = verifier.verify(&token, &[audience.to_owned()]).await;
            match (&got, want) {
                (Ok(Some(verified)), Ok(name)) => assert_eq!(verified.user.name, name),
                (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
                _ => panic!("{got:?} is not {want:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_token_is_good_while_what_it_is_bound_to_lives() {
        let good = Ok("system:serviceaccount:n:sa");
        check(World::default(), grant(true), 0, ISSUER, good).await;
        check(World::default(), grant(false), 0, ISSUER, good).await;
        check(World::default(), grant(false), 601, ISSUER, Err("expired")).await;
        check(World::default(), grant(false), -60, ISSUER, Err("not valid yet")).await;
        check(
            World::default(),
            grant(false),
            0,
            "vault",
            Err("is invalid for the target"),
        )
        .await;
        let gone = |kind| World {
            gone: vec![kind],
            ..World::default()
        };
        check(gone(Bound::ServiceAccount), grant(true), 0, ISSUER, Err("not found")).await;
        check(gone(Bound::Pod), grant(true), 0, ISSUER, Err("not found")).await;
        check(gone(Bound::Pod), grant(false), 0, ISSUER, good).await;
        check(gone(Bound::Node), grant(true), 0, ISSUER, good).await;
        let reborn = |kind| World {
            reborn: vec![kind],
            ..World::default()
        };
        check(
            reborn(Bound::ServiceAccount),
            grant(false),
            0,
            ISSUER,
            Err("UID (other)"),
        )
        .await;
        check(reborn(Bound::Pod), grant(true), 0, ISSUER, Err("UID (other)")).await;
        let deleted = |kind, seconds| World {
            deleted_before: Some((kind, seconds)),
            ..World::default()
        };
        check(deleted(Bound::Pod, 30), grant(true), 0, ISSUER, good).await;
        check(deleted(Bound::Pod, 90), grant(true), 0, ISSUER, Err("deleted")).await;
        check(
            deleted(Bound::ServiceAccount, 5),
            grant(true),
            0,
            ISSUER,
            Err("deleted"),
        )
        .await;
    }

    #[tokio::test]
    async fn a_pods_token_tells_pod_and_node_to_authorizers() {
        let key = rcgen::KeyPair::generate().unwrap();
        let issuer = Issuer::new(ISSUER, Signer::from_pem(&key.serialize_pem()).unwrap());
        let (token, _) = issuer.issue(&grant(true), Timestamp::now()).unwrap();
        let keys = vec![issuer.signer.public().clone()];
        let verifier = Verifier::new(vec![ISSUER.into()], keys, Arc::new(World::default()));
        let user = verifier.verify(&token, &[ISSUER.into()]).await.unwrap().unwrap().user;
        assert_eq!(user.uid, "u");
        assert!(user.in_group("system:serviceaccounts:n"));
        for (key, value) in [
            ("pod-name", "p"),
            ("pod-uid", "u"),
            ("node-name", "n1"),
            ("node-uid", "u"),
        ] {
            assert_eq!(user.extra[&format!("authentication.kubernetes.io/{key}")], [value]);
        }
        assert!(user.extra[CREDENTIAL_ID][0].starts_with("JTI="));
    }

    #[tokio::test]
    async fn another_issuers_token_is_none_of_ours() {
        let key = rcgen::KeyPair::generate().unwrap();
        let issuer = Issuer::new("https://elsewhere", Signer::from_pem(&key.serialize_pem()).unwrap());
        let (token, _) = issuer.issue(&grant(false), Timestamp::now()).unwrap();
        let verifier = Verifier::new(vec![ISSUER.into()], Vec::new(), Arc::new(World::default()));
        assert_eq!(verifier.verify(&token, &[ISSUER.into()]).await, Ok(None));
        assert_eq!(verifier.verify("opaque", &[ISSUER.into()]).await, Ok(None));
    }
}
