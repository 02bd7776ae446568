//! The way of a miss: which layers were asked, in which order, and what they said.

use std::collections::VecDeque;
use std::fmt;

use parking_lot::Mutex;
use serde::Serialize;

use super::layer::Layer;
use super::reason::MissReason;

/// What a layer said.
///
/// ```
/// use cachetag_client::observe::{Answer, MissReason};
/// assert_eq!(Answer::Miss(MissReason::Bumped).to_string(), "bumped");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A valid value.
    Hit,
    /// A value that may be used while it is made anew.
    Stale,
    /// None, for this reason.
    Miss(MissReason),
    /// The loader returned.
    Loaded,
    /// The loader failed.
    Failed,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Answer::Hit => "hit",
            Answer::Stale => "stale",
            Answer::Miss(reason) => reason.name(),
            Answer::Loaded => "loaded",
            Answer::Failed => "failed",
        })
    }
}

/// One layer on the way.
///
/// ```
/// use cachetag_client::observe::{Answer, Layer, Step};
/// let step = Step { layer: Layer::L2, answer: Answer::Hit, took_us: 80 };
/// assert_eq!(step.to_string(), "l2 hit (80 µs)");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The layer.
    pub layer: Layer,
    /// What it said.
    pub answer: Answer,
    /// How long it took, in microseconds; 0 where that was not measured.
    pub took_us: u64,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({} µs)", self.layer, self.answer, self.took_us)
    }
}

/// The way of one access that the first layer could not answer. One that ends with a miss was given up.
///
/// ```
/// use cachetag_client::observe::{Answer, Layer, MissPath, MissReason, Step};
/// let steps = vec![
///     Step { layer: Layer::L1, answer: Answer::Miss(MissReason::None), took_us: 0 },
///     Step { layer: Layer::L2, answer: Answer::Hit, took_us: 80 },
/// ];
/// let path = MissPath { key: "product:42".into(), steps };
/// assert_eq!(path.to_string(), "product:42: l1 none (0 µs) → l2 hit (80 µs)");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissPath {
    /// The key.
    pub key: String,
    /// The layers, as they were asked.
    pub steps: Vec<Step>,
}

impl fmt::Display for MissPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.key)?;
        for (n, step) in self.steps.iter().enumerate() {
            write!(f, "{}{step}", if n == 0 { "" } else { " → " })?;
        }
        Ok(())
    }
}

/// The last paths.
pub(super) struct Paths {
    last: Mutex<VecDeque<MissPath>>,
    most: usize,
}

impl Paths {
    pub(super) fn new(most: usize) -> Paths {
        Paths { last: Mutex::default(), most }
    }

    /// Keeps a path, unless another thread is at it: in a storm of misses a part of them says enough.
    pub(super) fn keep(&self, key: &str, steps: Vec<Step>) {
        if self.most == 0 {
            return;
        }
        let Some(mut last) = self.last.try_lock() else { return };
        if last.len() >= self.most {
            last.pop_front();
        }
        last.push_back(MissPath { key: key.to_owned(), steps });
    }

    pub(super) fn last(&self) -> Vec<MissPath> {
        self.last.lock().iter().cloned().collect()
    }
}
