//! What brings claims and volumes together and keeps both while they are used.
//! It comes from claims, volumes, classes and pods alone; making and deleting storage is a provisioner's affair, and
//! choosing a node is the scheduler's.
//! A volume is given to one claim at most, and the same claim keeps it until the claim is gone.

pub mod binder;
pub mod ephemeral;
pub mod protection;
