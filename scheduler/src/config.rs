//! What a scheduler is told at its start.

/// Limits and names. The defaults are upstream's where it has them.
#[derive(Debug, Clone)]
pub struct Config {
    /// Pods whose `spec.schedulerName` is this one are ours.
    pub scheduler_name: String,
    /// Bindings under way at once; decisions pause when so many are.
    pub concurrent_binds: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            scheduler_name: "default-scheduler".into(),
            concurrent_binds: 256,
        }
    }
}
