//! What `up` prints: one line for each step, with how long it took.

use std::io::Write;

use tokio::time::Instant;

/// Prints steps as they end. Standard output is the product here, not a log.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    step: Instant,
}

impl Progress {
    pub(crate) fn start() -> Self {
        let now = Instant::now();
        Progress {
            started: now,
            step: now,
        }
    }

    /// A step is done. `detail` may be empty.
    pub(crate) fn done(&mut self, step: &str, detail: &str) {
        let now = Instant::now();
        let took = now - self.step;
        self.step = now;
        let gap = if detail.is_empty() { "" } else { "  " };
        say(&format!("  ✓ {step:<28} {:>6.2} s{gap}{detail}", took.as_secs_f64()));
    }

    pub(crate) fn finish(&self, message: &str) {
        say(&format!("{message} ({:.2} s)", self.started.elapsed().as_secs_f64()));
    }
}

/// Prints a line. A closed standard output is no reason to stop what the user asked for.
pub(crate) fn say(line: &str) {
    // Nothing can be told to a reader that has gone.
    let _ = writeln!(std::io::stdout(), "{line}");
}
