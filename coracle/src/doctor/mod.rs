//! Whether this machine can run a cluster: each check says what it found, and on failure the cause and the cure.
//! Reads the machine; changes nothing.

mod checks;

use crate::layout::Layout;
use crate::progress::say;

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good(String),
    /// Works, but something will be missing or slow.
    Doubt {
        cause: String,
        cure: String,
    },
    Bad {
        cause: String,
        cure: String,
    },
}

impl Verdict {
    fn good(detail: impl Into<String>) -> Self {
        Verdict::Good(detail.into())
    }
    fn doubt(cause: impl Into<String>, cure: impl Into<String>) -> Self {
        Verdict::Doubt {
            cause: cause.into(),
            cure: cure.into(),
        }
    }
    fn bad(cause: impl Into<String>, cure: impl Into<String>) -> Self {
        Verdict::Bad {
            cause: cause.into(),
            cure: cure.into(),
        }
    }
}

/// What the checks look at.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    pub layout: &'a Layout,
    /// `PATH`.
    pub path: &'a str,
    pub secure_port: u16,
    /// Our own server runs: the ports that it holds are no conflict.
    pub running: bool,
}

type Check = fn(&Subject<'_>) -> Verdict;

/// Every check, in the order in which a failure of one explains the failures of the next.
const CHECKS: [(&str, Check); 10] = [
    ("privileges", checks::privileges),
    ("cgroups", checks::cgroups),
    ("overlay filesystem", checks::overlay),
    ("packet filter", checks::nftables),
    ("bridges", checks::bridges),
    ("runtime", checks::runtime),
    ("ports", checks::ports),
    ("addresses", checks::addresses),
    ("disk", checks::disk),
    ("inotify", checks::inotify),
];

/// Runs every check and prints all of them, or only what is not good. False when one is bad.
pub(crate) fn examine(subject: &Subject<'_>, all: bool) -> bool {
    let mut healthy = true;
    for (name, check) in CHECKS {
        match check(subject) {
            Verdict::Good(detail) if all => say(&format!("  ✓ {name:<20} {detail}")),
            Verdict::Good(_) => {}
            Verdict::Doubt { cause, cure } => say(&format!("  ! {name:<20} {cause}\n    {:<20} {cure}", "")),
            Verdict::Bad { cause, cure } => {
                healthy = false;
                say(&format!("  ✗ {name:<20} {cause}\n    {:<20} {cure}", ""));
            }
        }
    }
    healthy
}
