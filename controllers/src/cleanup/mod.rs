//! What removes things: dependents of owners that are gone, the content of namespaces that are going, pods and Jobs
//! that ended long ago.
//! All of it works on metadata, except where an end has to be understood. Nothing is deleted because a lister does not
//! show it: absence is asked of the API.
//! An object is deleted under the UID that was seen, so that its successor of the same name is safe.

pub mod discovery;
pub mod garbage;
pub mod namespace;
pub mod objects;
pub mod pod_gc;
pub mod ttl;
