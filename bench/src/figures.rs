//! Figures with their budgets, printed and kept.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use jiff::Timestamp;
use serde_json::json;

/// One measured number.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    budget: Option<f64>,
    /// The budget is the least that will do, not the most.
    floor: bool,
}

impl Figure {
    /// A number that may not be smaller than its budget.
    pub(crate) fn at_least(name: &str, value: f64, unit: &'static str, budget: f64) -> Self {
        Figure {
            floor: true,
            ..Figure::at_most(name, value, unit, budget)
        }
    }
    /// A number that may not be larger than its budget.
    pub(crate) fn at_most(name: &str, value: f64, unit: &'static str, budget: f64) -> Self {
        Figure {
            name: name.to_owned(),
            value,
            unit,
            budget: Some(budget),
            floor: false,
        }
    }
    /// A number without a budget.
    pub(crate) fn told(name: &str, value: f64, unit: &'static str) -> Self {
        Figure {
            name: name.to_owned(),
            value,
            unit,
            budget: None,
            floor: false,
        }
    }
    fn within(&self) -> bool {
        self.budget.is_none_or(|budget| {
            if self.floor {
                self.value >= budget
            } else {
                self.value <= budget
            }
        })
    }
}

/// All of one run.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<Figure>);

impl Figures {
    /// Prints a figure as soon as it is known.
    pub(crate) fn add(&mut self, figure: Figure) {
        let budget = figure
            .budget
            .map(|budget| format!("of {budget:.4}"))
            .unwrap_or_default();
        let mark = if figure.within() { ' ' } else { '!' };
        crate::say(&format!(
            "{mark} {:<58} {:>12.4} {:<4} {budget}",
            figure.name, figure.value, figure.unit
        ));
        self.0.push(figure);
    }

    pub(crate) fn all_within(&self) -> bool {
        self.0.iter().all(Figure::within)
    }

    /// Appends the run to the history, a line of JSON.
    pub(crate) fn keep(&self, history: &Path, commit: &str) -> anyhow::Result<()> {
        let figures: Vec<_> = self
            .0
            .iter()
            .map(|f| json!({"name": f.name, "value": f.value, "unit": f.unit, "budget": f.budget}))
            .collect();
        let line = json!({"at": Timestamp::now().round(jiff::Unit::Second)?.to_string(), "commit": commit, "figures": figures});
        writeln!(OpenOptions::new().create(true).append(true).open(history)?, "{line}")?;
        Ok(())
    }
}
