//! Every controller: its name and the name of its service account, as upstream has them.

use std::future::Future;
use std::pin::Pin;

use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::{Error, workloads};

type Start = fn(Context, CancellationToken) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// One controller.
pub struct Row {
    /// As --controllers names it.
    pub name: &'static str,
    /// Its service account in kube-system, whose role is all that it may.
    pub account: &'static str,
    /// Who its events are from.
    pub component: &'static str,
    pub on: bool,
    pub start: Start,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! rows {
    ($($name:literal $account:literal $component:literal => $($start:ident)::+;)*) => {
        &[$(Row {
            name: $name,
            account: $account,
            component: $component,
            on: true,
            start: |context, stop| Box::pin($($start)::+(context, stop)),
        }),*]
    };
}

pub const TABLE: &[Row] = rows! {
    "deployment-controller" "deployment-controller" "deployment-controller" => workloads::deployment::start;
    "replicaset-controller" "replicaset-controller" "replicaset-controller" => workloads::replicaset::start_replica_sets;
    "replicationcontroller-controller" "replication-controller" "replication-controller" => workloads::replicaset::start_replication_controllers;
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = TABLE.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }
}
