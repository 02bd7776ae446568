//! How much of the world is explored.

use clap::{Args, ValueEnum};

/// What may go wrong, each use of which counts against [`Bounds::faults`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// The daemon crashes, or is paused and replaced; the former one may wake up at any time.
    Crash,
    /// Redis fails over to an older copy of itself, and nobody tells the daemon.
    FailOver,
    /// Redis is emptied.
    Flush,
    /// The slot is lost and made again: the commits in between are in nobody's stream.
    LoseSlot,
    /// Redis evicts a tag.
    Evict,
    /// The log forgets its oldest records.
    Trim,
}

/// The size of the world. Everything within is explored.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Bounds {
    /// Commits, each of one of two rows
    #[arg(long, default_value_t = 2)]
    pub commits: u8,
    /// Readers that have missed and not stored yet, at a time
    #[arg(long, default_value_t = 2)]
    pub readers: usize,
    /// Commits in one batch, at most
    #[arg(long, default_value_t = 2)]
    pub batch: u8,
    /// Faults of all kinds together
    #[arg(long, default_value_t = 2)]
    pub faults: u8,
    /// Which faults
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Fault::value_variants().to_vec())]
    pub kinds: Vec<Fault>,
    /// What readers ask for: 0 the row, 1 the list, 2 both
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1, 2])]
    pub keys: Vec<usize>,
    /// An application with an in-process cache
    #[arg(long)]
    pub in_process: bool,
}

impl Bounds {
    /// As large as a check of every push can afford; without the in-process cache.
    pub fn small() -> Bounds {
        Bounds {
            commits: 2,
            readers: 2,
            batch: 2,
            faults: 2,
            kinds: Fault::value_variants().to_vec(),
            keys: vec![0, 1, 2],
            in_process: false,
        }
    }
}
