//! Formats of names and values, each with upstream's message (apimachinery/pkg/util/validation, 1.36).

/// A check that returns what is wrong; nothing when the value is good.
pub type Check = fn(&str) -> Vec<String>;

pub use api::names::{
    config_map_key as config_key, dns1035_label as dns_1035_label, dns1123_label as dns_label,
    dns1123_subdomain as dns_subdomain, label_value, path_segment, port_name, port_number, qualified_name,
    relaxed_env_var_name as env_name, wildcard_dns1123_subdomain as wildcard_subdomain,
};

fn lower_alnum(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// As [`dns_subdomain`], with `_` allowed.
pub fn dns_subdomain_underscore(value: &str) -> Vec<String> {
    let mut out = Vec::new();
    if value.len() > 253 {
        out.push(api::names::too_long(253));
    }
    let part = |s: &str| {
        let b = s.as_bytes();
        !b.is_empty()
            && b.iter().all(|c| lower_alnum(*c) || *c == b'-' || *c == b'_')
            && lower_alnum(b[0])
            && lower_alnum(b[b.len() - 1])
    };
    if !value.split('.').all(part) {
        out.push("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')".into());
    }
    out
}

pub fn path_segment_prefix(value: &str) -> Vec<String> {
    ["/", "%"]
        .into_iter()
        .filter(|bad| value.contains(bad))
        .map(|bad| format!("may not contain '{bad}'"))
        .collect()
}

/// A C identifier.
pub fn c_identifier(value: &str) -> Vec<String> {
    let b = value.as_bytes();
    if !b.is_empty() && !b[0].is_ascii_digit() && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'_') {
        return Vec::new();
    }
    vec!["a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')".into()]
}

/// An address as `net.ParseIP` takes it, without leading zeros.
pub fn ip(value: &str) -> Vec<String> {
    if value.parse::<std::net::IpAddr>().is_ok() && !value.contains('%') {
        Vec::new()
    } else {
        vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()]
    }
}

/// An address in its one canonical spelling.
pub fn ip_canonical(value: &str) -> Vec<String> {
    let problems = ip(value);
    if !problems.is_empty() {
        return problems;
    }
    match value.parse::<std::net::IpAddr>() {
        Ok(parsed) if parsed.to_string() != value => {
            vec![format!("must be in canonical form ({:?})", parsed.to_string())]
        }
        _ => Vec::new(),
    }
}

pub fn cidr(value: &str) -> Vec<String> {
    if parse_cidr(value).is_some() {
        Vec::new()
    } else {
        vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".into()]
    }
}

/// Address and prefix length.
pub fn parse_cidr(value: &str) -> Option<(std::net::IpAddr, u8)> {
    let (address, length) = value.split_once('/')?;
    let address: std::net::IpAddr = address.parse().ok()?;
    if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let length: u8 = length.parse().ok()?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    (length <= max).then_some((address, length))
}

/// `path`, cleaned of `.`, `..` and doubled slashes, as Go's path.Clean does.
pub fn clean_path(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut out: Vec<&str> = Vec::new();
    for step in path.split('/') {
        match step {
            "" | "." => {}
            ".." => {
                if out.last().is_some_and(|last| *last != "..") {
                    out.pop();
                } else if !rooted {
                    out.push("..");
                }
            }
            other => out.push(other),
        }
    }
    match (rooted, out.is_empty()) {
        (true, _) => format!("/{}", out.join("/")),
        (false, true) => ".".into(),
        (false, false) => out.join("/"),
    }
}

// Name rules of kinds: with `prefix` set, the name is a generateName and what the suffix adds is not judged.
pub type NameRule = fn(&str, bool) -> Vec<String>;

/// A trailing dash of a prefix is replaced, since the suffix will follow it.
fn masked(name: &str, prefix: bool) -> std::borrow::Cow<'_, str> {
    match name.strip_suffix('-') {
        Some(head) if prefix && name.len() > 1 => format!("{head}a").into(),
        _ => name.into(),
    }
}
pub fn subdomain_name(name: &str, prefix: bool) -> Vec<String> {
    dns_subdomain(&masked(name, prefix))
}
pub fn label_name(name: &str, prefix: bool) -> Vec<String> {
    dns_label(&masked(name, prefix))
}
pub fn dns_1035_name(name: &str, prefix: bool) -> Vec<String> {
    dns_1035_label(&masked(name, prefix))
}
pub fn path_segment_name(name: &str, prefix: bool) -> Vec<String> {
    if prefix {
        path_segment_prefix(name)
    } else {
        path_segment(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_take_what_upstream_takes() {
        let cases: &[(Check, &str, bool)] = &[
            (dns_label, "a-1", true),
            (dns_label, "-a", false),
            (dns_label, "A", false),
            (dns_label, "", false),
            (dns_subdomain, "a.b-c.1", true),
            (dns_subdomain, "a..b", false),
            (dns_1035_label, "1a", false),
            (dns_1035_label, "a1", true),
            (dns_1035_label, "", false),
            (qualified_name, "example.com/My_Name.x", true),
            (qualified_name, "/x", false),
            (qualified_name, "a/b/c", false),
            (label_value, "", true),
            (label_value, "-x", false),
            (port_name, "http-2", true),
            (port_name, "80", false),
            (port_name, "a--b", false),
            (env_name, "a b.c-d", true),
            (env_name, "a=b", false),
            (config_key, "a.b_c-D", true),
            (config_key, "..a", false),
            (config_key, "a/b", false),
            (ip, "10.0.0.1", true),
            (ip, "10.0.0.01", false),
            (ip, "fe80::1%eth0", false),
            (ip_canonical, "::0001", false),
            (cidr, "10.0.0.0/33", false),
            (cidr, "fd00::/8", true),
            (path_segment, "..", false),
            (path_segment, "system:node", true),
            (wildcard_subdomain, "*.a.b", true),
            (wildcard_subdomain, "a.*.b", false),
        ];
        for (check, value, good) in cases {
            assert_eq!(check(value).is_empty(), *good, "{value:?}: {:?}", check(value));
        }
    }
    #[test]
    fn a_prefix_may_end_in_a_dash() {
        assert!(subdomain_name("web-", true).is_empty());
        assert!(!subdomain_name("web-", false).is_empty());
        assert!(dns_1035_name("a-", true).is_empty());
    }
    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, want) in [
            ("/a//b/../c", "/a/c"),
            ("", "."),
            ("../a/..", ".."),
            ("/..", "/"),
            ("a/./b", "a/b"),
        ] {
            assert_eq!(clean_path(path), want);
        }
    }
}
