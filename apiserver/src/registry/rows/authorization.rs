//! Reviews: asked, answered by `http::review`, never stored.

use super::super::row::Resource;
use super::{CREATE, cluster, namespaced};

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const V1: &str = "v1";

pub(super) fn rows() -> Vec<Resource> {
    [
        cluster(AUTHENTICATION, V1, "SelfSubjectReview", "selfsubjectreviews"),
        cluster(AUTHENTICATION, V1, "TokenReview", "tokenreviews"),
        namespaced(
            AUTHORIZATION,
            V1,
            "LocalSubjectAccessReview",
            "localsubjectaccessreviews",
        ),
        cluster(AUTHORIZATION, V1, "SelfSubjectAccessReview", "selfsubjectaccessreviews"),
        cluster(AUTHORIZATION, V1, "SelfSubjectRulesReview", "selfsubjectrulesreviews"),
        cluster(AUTHORIZATION, V1, "SubjectAccessReview", "subjectaccessreviews"),
    ]
    .into_iter()
    .map(|row| row.verbs(CREATE))
    .collect()
}
