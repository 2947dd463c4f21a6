//! rbac.authorization.k8s.io.

use super::super::row::Resource;
use super::{cells, cluster, namespaced};
use crate::strategy::{format, rbac};

const GROUP: &str = "rbac.authorization.k8s.io";
const V1: &str = "v1";
const BINDING: &str = "Name, Role, Age, Users*, Groups*, ServiceAccounts*";

pub(super) fn rows() -> Vec<Resource> {
    [
        cluster(GROUP, V1, "ClusterRoleBinding", "clusterrolebindings")
            .strategy(rbac::ClusterRoleBindings)
            .columns(BINDING, cells::cluster::role_binding),
        cluster(GROUP, V1, "ClusterRole", "clusterroles").strategy(rbac::ClusterRoles),
        namespaced(GROUP, V1, "RoleBinding", "rolebindings")
            .strategy(rbac::RoleBindings)
            .columns(BINDING, cells::cluster::role_binding),
        namespaced(GROUP, V1, "Role", "roles").strategy(rbac::Roles),
    ]
    .into_iter()
    .map(|row| row.names(format::path_segment_name).create_on_update())
    .collect()
}
