//! Requests that a front proxy passes on: its certificate vouches, its headers say for whom.

use http::HeaderMap;

use crate::identity::{Certificate, Peer, User};

/// What is read of such a request (upstream's --requestheader-… flags).
#[derive(Debug, Clone)]
pub struct FrontProxy {
    /// Common names that may; empty: any that the front proxy's CA signed.
    pub allowed_names: Vec<String>,
    pub username_headers: Vec<String>,
    pub uid_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_prefixes: Vec<String>,
}

impl Default for FrontProxy {
    fn default() -> Self {
        let one = |text: &str| vec![text.to_owned()];
        FrontProxy {
            allowed_names: one("front-proxy-client"),
            username_headers: one("X-Remote-User"),
            uid_headers: one("X-Remote-Uid"),
            group_headers: one("X-Remote-Group"),
            extra_prefixes: one("X-Remote-Extra-"),
        }
    }
}

impl FrontProxy {
    /// `None` where the peer is no front proxy or names no user.
    pub(super) fn authenticate(&self, peer: &Peer, headers: &HeaderMap) -> Option<User> {
        let Peer::Tls {
            certificate:
                Certificate::Verified {
                    front_proxy: Some(name),
                    ..
                },
            ..
        } = peer
        else {
            return None;
        };
        if !self.allowed_names.is_empty() && !self.allowed_names.iter().any(|allowed| **allowed == **name) {
            return None;
        }
        let first = |names: &[String]| {
            names
                .iter()
                .filter_map(|name| headers.get(name.as_str())?.to_str().ok())
                .find(|value| !value.is_empty())
                .map(str::to_owned)
        };
        let mut user = User {
            name: first(&self.username_headers)?,
            uid: first(&self.uid_headers).unwrap_or_default(),
            ..User::default()
        };
        for name in &self.group_headers {
            let values = headers.get_all(name.as_str()).iter();
            user.groups
                .extend(values.filter_map(|v| v.to_str().ok()).map(str::to_owned));
        }
        for prefix in &self.extra_prefixes {
            extra(headers, prefix, &mut user);
        }
        Some(user)
    }
}

/// `Prefix-Key: value` into the user's extra; keys are lower case and percent-decoded, as upstream unescapes them.
pub(super) fn extra(headers: &HeaderMap, prefix: &str, user: &mut User) {
    let prefix = prefix.to_ascii_lowercase();
    for (name, value) in headers {
        let (Some(key), Ok(value)) = (name.as_str().strip_prefix(&prefix), value.to_str()) else {
            continue;
        };
        if key.is_empty() {
            continue;
        }
        let list = user.extra.entry(percent_decode(key)).or_default();
        list.push(value.to_owned());
    }
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match hex {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    // Upstream keeps a key that does not decode as it came.
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_the_user_only_on_a_front_proxys_connection() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "alice"),
            ("x-remote-group", "dev"),
            ("x-remote-group", "ops"),
            ("x-remote-extra-example.org%2fscope", "one"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let peer = |certificate| Peer::Tls {
            certificate,
            address: ([127, 0, 0, 1], 1).into(),
        };
        let proxy_named = |name: &str| Certificate::Verified {
            client: None,
            front_proxy: Some(name.into()),
        };
        let proxy = FrontProxy::default();
        let user = proxy
            .authenticate(&peer(proxy_named("front-proxy-client")), &headers)
            .unwrap();
        assert_eq!((user.name.as_str(), user.groups.len()), ("alice", 2));
        assert_eq!(user.extra["example.org/scope"], ["one"]);
        for certificate in [Certificate::None, Certificate::Refused, proxy_named("somebody")] {
            assert_eq!(proxy.authenticate(&peer(certificate), &headers), None);
        }
    }
}
