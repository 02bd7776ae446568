//! What is proven on one shard, in the terms of another: a page and its fragments need not live on the same one.
//!
//! # Why a translated version is sound
//!
//! A fragment is proven on shard A to be true up to `(a, l)`: in the history that epoch `a` follows, it reflects every commit up to `l` that touches its tags. The
//! page is to be stored on shard B in epoch `b`, under `(b, min(w, l))`, where `w` is the page's own token.
//!
//! *One history.* A position means the same on both if both epochs follow the same log: the same system, timeline and database; the slots differ. That is what
//! the sources say. They cannot tell a server whose disk was set back on its timeline; that, a daemon finds out when it comes back to the server, and then opens
//! an epoch. So B may have met the server that was set back, and A still vouch for what it has lost. Hence A must have been proven caught up *after* B's epoch was
//! there: then A's daemon has looked at the very server that B's follows, and found that `a` continues. Both moments are read on this process's clock: when a
//! look first showed `b`, and when A's last look was sent, less what A's Redis says that its daemon was behind. No clock of one server is compared with another's.
//! The other way round, where A has met the new server and B has not, B's epoch ends with the daemon's next look, and what is stored in it is no older than `b`'s
//! own hits may be.
//!
//! *Every later change is found.* A commit beyond `min(w, l)` that touches a tag of the fragment is a bump on B too, at that very position, because every
//! shard receives all bumps of its database above its floor. If B has applied it when the page is put, the page is refused; if not, it falls when B does. It makes no
//! difference that A, which answered the fragment, may be ahead of B or behind it.
//!
//! *Below the floor.* If `l` lies before B's epoch began, B may not know what came between. `(b, l)` is then below B's floor, and the put is refused.

use cachetag_core::{Epoch, Version};

use super::view::View;

/// Why what one shard has proven says nothing on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub(crate) enum Apart {
    /// One of the feeds is in another epoch than what is to be compared, or has not begun.
    #[error("the feed of one of their shards is in another epoch")]
    Epoch,
    /// The shards are fed from different databases, or from different timelines of one.
    #[error("their shards are fed from different databases or timelines, whose positions say nothing of each other")]
    Source,
    /// The shard of the part has not been proven to follow the same server since the other's epoch was opened.
    #[error("the shard of the part has not been proven caught up since the other's epoch was first seen")]
    Unproven,
}

impl View {
    /// A version of this shard's, up to which something is true, as one of another shard's epoch: see [above](self).
    pub(crate) fn translate(&self, version: Version, to: &View, epoch: Epoch) -> Result<Version, Apart> {
        if version.epoch != self.epoch || epoch != to.epoch {
            return Err(Apart::Epoch);
        }
        match (log_of(&self.source), log_of(&to.source)) {
            (Some(own), Some(other)) if own == other => {}
            _ => return Err(Apart::Source),
        }
        let caught_up = self.watermark.and(self.behind).and_then(|behind| self.looked.checked_sub(behind));
        if caught_up.is_none_or(|moment| moment < to.met) {
            return Err(Apart::Unproven);
        }
        Ok(Version::new(epoch, version.lsn))
    }
}

/// Which log a source reads: all of `<system>/<timeline>/<database>/<slot>` but the slot, whose name has no slash.
fn log_of(source: &str) -> Option<&str> {
    let (log, _slot) = source.rsplit_once('/')?;
    (log.split('/').count() >= 3).then_some(log)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use cachetag_core::Lsn;

    use super::*;

    fn version(epoch: u64, lsn: u64) -> Version {
        Version::new(Epoch::new(epoch).unwrap(), Lsn(lsn))
    }

    fn view(epoch: u64, source: &str, met: Instant) -> View {
        let at = |lsn| version(epoch, lsn);
        View {
            generation: epoch,
            live: true,
            epoch: at(0).epoch,
            floor: at(1),
            soft_floor: None,
            watermark: Some(at(50)),
            position: at(60),
            max_lag: None,
            source: Arc::from(source),
            timeline: Some(1),
            met,
            looked: met + Duration::from_secs(1),
            behind: Some(Duration::from_millis(1)),
            tick: epoch,
        }
    }

    #[test]
    fn a_position_of_the_same_log_is_one_in_the_other_epoch() {
        let now = Instant::now();
        let (a, b) = (view(7, "12/1/shop/ct_a", now), view(9, "12/1/shop/ct_b", now));
        assert_eq!(a.translate(version(7, 40), &b, b.epoch), Ok(version(9, 40)));
        assert_eq!(b.translate(version(9, 60), &a, a.epoch), Ok(version(7, 60)));
    }

    #[test]
    fn other_epochs_are_not_compared() {
        let now = Instant::now();
        let (a, b) = (view(7, "12/1/shop/ct_a", now), view(9, "12/1/shop/ct_b", now));
        assert_eq!(a.translate(version(6, 40), &b, b.epoch), Err(Apart::Epoch));
        assert_eq!(a.translate(version(7, 40), &b, version(8, 0).epoch), Err(Apart::Epoch));
    }

    #[test]
    fn other_logs_are_not_compared() {
        let now = Instant::now();
        let b = view(9, "12/1/shop/ct_b", now);
        for source in ["13/1/shop/ct_a", "12/2/shop/ct_a", "12/1/other/ct_a", "12/1/shop/x/ct_a", "here", "", "12/1"] {
            let a = view(7, source, now);
            assert_eq!(a.translate(version(7, 40), &b, b.epoch), Err(Apart::Source), "{source}");
            assert_eq!(b.translate(version(9, 40), &a, a.epoch), Err(Apart::Source), "{source}");
        }
        let (a, b) = (view(7, "here", now), view(9, "here", now));
        assert_eq!(a.translate(version(7, 40), &b, b.epoch), Err(Apart::Source), "no log is named");
    }

    #[test]
    fn a_shard_must_have_been_caught_up_since_the_other_epoch_was_there() {
        let now = Instant::now();
        let (a, mut b) = (view(7, "12/1/shop/ct_a", now), view(9, "12/1/shop/ct_b", now));
        b.met = a.looked - Duration::from_millis(1);
        assert!(a.translate(version(7, 40), &b, b.epoch).is_ok());
        b.met += Duration::from_nanos(1);
        assert_eq!(a.translate(version(7, 40), &b, b.epoch), Err(Apart::Unproven));
        let never = View { behind: None, ..a };
        b.met = now;
        assert_eq!(never.translate(version(7, 40), &b, b.epoch), Err(Apart::Unproven));
    }
}
