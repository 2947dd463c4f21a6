//! What every process of Coracle does, whatever its part: flags, supervised tasks, signals, logs, health, TLS files,
//! API clients, shared informers, work queues, events, leader election, and connections that have left HTTP.
//! It knows the API's objects by their metadata only: what a kind means belongs to the parts.
//! Nothing in here polls: work is caused by an event, or by the one timer that an event set.

pub mod args;
pub mod backoff;
pub mod clients;
pub mod clock;
pub mod events;
pub mod health;
pub mod informer;
pub mod lead;
mod memory;
pub mod metrics;
pub mod pki;
pub mod process;
pub mod queue;
pub mod requests;
pub mod signal;
pub mod supervise;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod wire;

pub use clients::Clients;
pub use events::Recorder;
pub use informer::{Change, Entry, Informers, Lister, Options};
pub use queue::{Next, Queue, work};
pub use supervise::supervise;
pub use tasks::Tasks;

/// Any error, where nobody branches on its kind.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An error with its causes, as one line for the log.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Many libraries repeat their source's text in their own.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_names_each_layer_once() {
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(super::chain(&error), "outer: inner");
    }
}
