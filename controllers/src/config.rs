//! What the controllers can be told.

use std::time::Duration;

use crate::nodes::ipam::Cidr;

/// Settings of the controllers; the defaults are upstream's.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which controllers run: `*` is all that are on by default, `name` turns one on, `-name` turns one off.
    pub controllers: Vec<String>,
    /// Pod addresses of the whole cluster; each node gets a part of it. Nothing is given out without one.
    pub cluster_cidr: Option<Cidr>,
    /// Length of the prefix of each node's part.
    pub node_cidr_mask_size: u8,
    /// Certificates that pods trust, as PEM; nothing is published without them.
    pub root_ca: Option<String>,
    /// The authority that signs approved requests; none are signed without it.
    pub signing: Option<daemon::pki::Pair>,
    /// How long what it signs lives at most.
    pub signing_duration: Duration,
    /// A node that says nothing for this long is unknown.
    pub node_monitor_grace_period: Duration,
    /// So many ended pods may stay before the oldest are removed; zero keeps all.
    pub terminated_pod_threshold: usize,
    /// Reconciliations at a time, per controller.
    pub workers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            controllers: vec!["*".to_owned()],
            cluster_cidr: Some("10.244.0.0/16".parse().expect("a literal network")),
            node_cidr_mask_size: 24,
            root_ca: None,
            signing: None,
            signing_duration: Duration::from_secs(365 * 24 * 3600),
            node_monitor_grace_period: Duration::from_secs(50),
            terminated_pod_threshold: 12500,
            workers: 5,
        }
    }
}

impl Config {
    /// Whether a controller runs.
    pub fn enables(&self, name: &str, by_default: bool) -> bool {
        let named = |text: &String| text == name;
        let refused = |text: &String| text.strip_prefix('-') == Some(name);
        if self.controllers.iter().any(named) {
            return true;
        }
        if self.controllers.iter().any(refused) {
            return false;
        }
        by_default && self.controllers.iter().any(|text| text == "*")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_chosen_by_name() {
        let chosen = |list: &[&str]| Config {
            controllers: list.iter().map(|name| (*name).to_owned()).collect(),
            ..Config::default()
        };
        for (list, name, by_default, want) in [
            (&["*"][..], "a", true, true),
            (&["*"], "a", false, false),
            (&["*", "a"], "a", false, true),
            (&["*", "-a"], "a", true, false),
            (&["b"], "a", true, false),
        ] {
            assert_eq!(chosen(list).enables(name, by_default), want, "{list:?}");
        }
    }
}
