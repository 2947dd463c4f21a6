//! What makes pods and people somebody: service accounts, trusted certificates, aggregated roles.
//! It comes from namespaces and roles alone; tokens are the API server's affair.
//! Every active namespace has its default account and the cluster's CA.

pub mod accounts;
pub mod roles;
pub mod roots;
