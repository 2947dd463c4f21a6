//! Which thresholds are met, whether something is to be done about it, and which pod goes first. Pure.
//! After pkg/kubelet/eviction (1.36).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use api::quantity::{Format, Quantity};
use tokio::time::Instant;

/// In the order in which they are acted on: memory first, because nothing else kills by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    Memory,
    NodeFs,
    NodeInodes,
    ImageFs,
    ImageInodes,
    Pids,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pressure {
    Memory,
    Disk,
    Pid,
}

impl Pressure {
    pub fn condition(self) -> &'static str {
        match self {
            Pressure::Memory => "MemoryPressure",
            Pressure::Disk => "DiskPressure",
            Pressure::Pid => "PIDPressure",
        }
    }
}

impl Signal {
    pub fn parse(name: &str) -> Option<Signal> {
        Some(match name {
            "memory.available" => Signal::Memory,
            "nodefs.available" => Signal::NodeFs,
            "nodefs.inodesFree" => Signal::NodeInodes,
            "imagefs.available" => Signal::ImageFs,
            "imagefs.inodesFree" => Signal::ImageInodes,
            "pid.available" => Signal::Pids,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Signal::Memory => "memory.available",
            Signal::NodeFs => "nodefs.available",
            Signal::NodeInodes => "nodefs.inodesFree",
            Signal::ImageFs => "imagefs.available",
            Signal::ImageInodes => "imagefs.inodesFree",
            Signal::Pids => "pid.available",
        }
    }

    pub fn resource(self) -> &'static str {
        match self {
            Signal::Memory => "memory",
            Signal::NodeFs | Signal::ImageFs => "ephemeral-storage",
            Signal::NodeInodes | Signal::ImageInodes => "inodes",
            Signal::Pids => "pids",
        }
    }

    pub fn pressure(self) -> Pressure {
        match self {
            Signal::Memory => Pressure::Memory,
            Signal::Pids => Pressure::Pid,
            Signal::NodeFs | Signal::NodeInodes | Signal::ImageFs | Signal::ImageInodes => Pressure::Disk,
        }
    }

    fn shown(self, amount: i64) -> String {
        let format = match self {
            Signal::Memory | Signal::NodeFs | Signal::ImageFs => Format::BinarySi,
            Signal::NodeInodes | Signal::ImageInodes | Signal::Pids => Format::DecimalSi,
        };
        Quantity::new(amount, format).to_string()
    }
}

/// What there is of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    pub available: i64,
    pub capacity: i64,
}

pub type Levels = BTreeMap<Signal, Level>;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Amount {
    Exactly(i64),
    /// Of the capacity.
    Share(f64),
}

impl Amount {
    fn parse(text: &str) -> Option<Amount> {
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent = percent.parse::<f64>().ok().filter(|p| (0.0..=100.0).contains(p))?;
                Some(Amount::Share(percent / 100.0))
            }
            None => {
                let quantity = Quantity::parse(text).ok().filter(|q| !q.is_negative())?;
                Some(Amount::Exactly(quantity.as_i64()))
            }
        }
    }

    fn of(self, level: Level) -> i64 {
        match self {
            Amount::Exactly(amount) => amount,
            Amount::Share(share) => (level.capacity as f64 * share) as i64,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    least: Amount,
    /// How long a soft threshold has to be met; none is a hard one.
    pub grace: Option<Duration>,
    reclaim: Option<Amount>,
}

/// Signals to amounts, as configuration files have them.
pub type Amounts = BTreeMap<String, String>;

/// Hard and soft thresholds in the order in which they are acted on; the name of what is not understood.
pub fn thresholds(
    hard: &Amounts,
    soft: &Amounts,
    grace: &BTreeMap<String, Duration>,
    reclaim: &Amounts,
) -> Result<Vec<Threshold>, String> {
    let mut all = Vec::new();
    let soft_grace = |name: &String| {
        grace
            .get(name)
            .copied()
            .ok_or_else(|| format!("evictionSoftGracePeriod of {name}"))
    };
    let hard = hard.iter().map(|(name, text)| Ok::<_, String>((name, text, None)));
    let soft = soft
        .iter()
        .map(|(name, text)| Ok((name, text, Some(soft_grace(name)?))));
    for entry in hard.chain(soft) {
        let (name, text, grace): (&String, &String, Option<Duration>) = entry?;
        // Upstream's word for none.
        if text == "0%" || text == "100%" {
            continue;
        }
        let amount = |text: &str| Amount::parse(text).ok_or_else(|| format!("{name}: {text}"));
        all.push(Threshold {
            signal: Signal::parse(name).ok_or_else(|| name.clone())?,
            least: amount(text)?,
            grace,
            reclaim: reclaim.get(name).map(|text| amount(text)).transpose()?,
        });
    }
    all.sort_by_key(|t| (t.signal, t.grace.is_some()));
    Ok(all)
}

impl Threshold {
    /// `was` asks for the minimum that has to be reclaimed too.
    pub fn is_met(&self, level: Level, was: bool) -> bool {
        let reclaim = self.reclaim.filter(|_| was).map_or(0, |r| r.of(level));
        level.available < self.least.of(level) + reclaim
    }
}

/// What was seen before: since when thresholds are met, and when there was pressure last.
#[derive(Debug, Default)]
pub struct State {
    met: HashMap<usize, Instant>,
    pressed: BTreeMap<Pressure, Instant>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Look {
    pub pressures: BTreeSet<Pressure>,
    /// Index of the threshold to act on.
    pub act: Option<usize>,
}

impl State {
    /// `transition`: how long the pressure is told after it was seen last.
    pub fn look(&mut self, all: &[Threshold], levels: &Levels, now: Instant, transition: Duration) -> Look {
        let mut act = None;
        for (at, threshold) in all.iter().enumerate() {
            let was = self.met.contains_key(&at);
            let met = levels.get(&threshold.signal).is_some_and(|l| threshold.is_met(*l, was));
            if !met {
                self.met.remove(&at);
                continue;
            }
            let since = *self.met.entry(at).or_insert(now);
            self.pressed.insert(threshold.signal.pressure(), now);
            let due = threshold.grace.is_none_or(|grace| now.duration_since(since) >= grace);
            act = act.or(due.then_some(at));
        }
        self.pressed.retain(|_, last| now.duration_since(*last) < transition);
        Look {
            pressures: self.pressed.keys().copied().collect(),
            act,
        }
    }
}

/// A pod that could go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    pub uid: String,
    pub priority: i32,
    pub usage: i64,
    pub request: i64,
    /// Name, use and request of each.
    pub containers: Vec<(String, i64, i64)>,
}

/// Who goes first comes first: who uses more than was asked for, then the less important, then who is furthest above.
pub fn rank(signal: Signal, candidates: &mut [Candidate]) {
    match signal {
        Signal::Pids => candidates.sort_by_key(|c| (c.priority, Reverse(c.usage))),
        _ => candidates.sort_by_key(|c| (c.usage <= c.request, c.priority, Reverse(c.usage - c.request))),
    }
}

pub fn message(threshold: &Threshold, level: Level, candidate: &Candidate) -> String {
    let signal = threshold.signal;
    let mut text = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        signal.resource(),
        signal.shown(threshold.least.of(level)),
        signal.shown(level.available)
    );
    for (name, usage, request) in candidate
        .containers
        .iter()
        .filter(|(_, usage, request)| usage > request)
    {
        text.push_str(&format!(
            "Container {name} was using {}, request is {}, has larger consumption of {}. ",
            signal.shown(*usage),
            signal.shown(*request),
            signal.resource()
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(pairs: &[(&str, &str)]) -> Amounts {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn levels(memory: i64) -> Levels {
        Levels::from([(
            Signal::Memory,
            Level {
                available: memory,
                capacity: 1000,
            },
        )])
    }

    #[test]
    fn a_hard_threshold_is_acted_on_at_once_and_told_for_a_while() {
        let all = thresholds(
            &amounts(&[("memory.available", "10%")]),
            &amounts(&[]),
            &BTreeMap::new(),
            &amounts(&[]),
        );
        let (all, mut state, start) = (all.unwrap(), State::default(), Instant::now());
        let minute = Duration::from_secs(60);
        let mut look = |memory, minutes: u32| state.look(&all, &levels(memory), start + minute * minutes, 5 * minute);
        assert_eq!(look(100, 0).pressures, BTreeSet::new());
        let met = look(99, 1);
        assert_eq!((met.act, met.pressures), (Some(0), BTreeSet::from([Pressure::Memory])));
        let over = look(500, 2);
        assert_eq!((over.act, over.pressures.len()), (None, 1));
        assert_eq!(look(500, 6).pressures, BTreeSet::new());
    }

    #[test]
    fn a_soft_threshold_has_its_time_and_a_minimum_is_reclaimed() {
        let grace = BTreeMap::from([("memory.available".to_owned(), Duration::from_secs(60))]);
        let soft = amounts(&[("memory.available", "200")]);
        let reclaim = amounts(&[("memory.available", "100")]);
        let all = thresholds(&amounts(&[]), &soft, &grace, &reclaim).unwrap();
        let (mut state, start) = (State::default(), Instant::now());
        let mut act = |memory, seconds| {
            let now = start + Duration::from_secs(seconds);
            state.look(&all, &levels(memory), now, Duration::from_secs(300)).act
        };
        assert_eq!(act(150, 0), None);
        assert_eq!(act(150, 60), Some(0));
        assert_eq!(act(250, 70), Some(0));
        assert_eq!(act(300, 80), None);
        assert_eq!(act(150, 90), None);
    }

    #[test]
    fn thresholds_that_are_not_understood_are_named() {
        let of = |hard: &[(&str, &str)], soft: &[(&str, &str)]| {
            thresholds(&amounts(hard), &amounts(soft), &BTreeMap::new(), &amounts(&[]))
        };
        assert_eq!(of(&[("swap.available", "1")], &[]), Err("swap.available".to_owned()));
        assert_eq!(
            of(&[("pid.available", "many")], &[]),
            Err("pid.available: many".to_owned())
        );
        assert_eq!(
            of(&[], &[("pid.available", "5")]),
            Err("evictionSoftGracePeriod of pid.available".to_owned())
        );
        assert_eq!(of(&[("nodefs.available", "0%")], &[]), Ok(Vec::new()));
    }

    #[test]
    fn who_uses_more_than_was_asked_for_goes_first() {
        let candidate = |uid: &str, priority, usage, request| Candidate {
            uid: uid.into(),
            priority,
            usage,
            request,
            ..Candidate::default()
        };
        let mut all = [
            candidate("modest", 0, 10, 20),
            candidate("important", 9, 500, 0),
            candidate("above", 0, 100, 50),
            candidate("far above", 0, 400, 50),
        ];
        rank(Signal::Memory, &mut all);
        let order: Vec<&str> = all.iter().map(|c| c.uid.as_str()).collect();
        assert_eq!(order, ["far above", "above", "important", "modest"]);
    }

    #[test]
    fn the_message_says_what_was_short_and_who_used_it() {
        let all = thresholds(
            &amounts(&[("memory.available", "100Mi")]),
            &amounts(&[]),
            &BTreeMap::new(),
            &amounts(&[]),
        );
        let level = Level {
            available: 90 << 20,
            capacity: 1 << 30,
        };
        let candidate = Candidate {
            containers: vec![("c".into(), 200 << 20, 0), ("d".into(), 1, 1 << 20)],
            ..Candidate::default()
        };
        assert_eq!(
            message(&all.unwrap()[0], level, &candidate),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. \
             Container c was using 200Mi, request is 0, has larger consumption of memory. "
        );
    }
}
