//! A place in the log that the stream does not get past. Pure.
//!
//! What the server cannot decode (a value whose text would be longer than it can allocate, a catalog that its decoding misremembers), or what
//! cannot be read here, is sent again to every session and ends every session, while the slot keeps the log.

use cachetag_core::Lsn;

/// The first failure may have been an accident.
const FAILURES: u32 = 2;

/// How a slot gets past such a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// It is moved to the present.
    Move,
    /// It is replaced: decoding begins anew, with the catalog as it is now.
    Replace,
}

/// How often sessions have ended at the same place.
#[derive(Debug, Default)]
pub struct Standstill {
    at: Lsn,
    failures: u32,
    moved: bool,
}

impl Standstill {
    /// A session failed on what the stream holds behind `confirmed`. Does the slot need a remedy?
    pub fn failed(&mut self, confirmed: Lsn) -> bool {
        if self.at != confirmed {
            (self.at, self.failures) = (confirmed, 0);
        }
        self.failures += 1;
        self.failures >= FAILURES
    }

    /// Which one. A new slot waits for the transactions that are running; in strict mode those may be waiting for this daemon, so moving
    /// the slot is tried before.
    pub fn remedy(&mut self, is_strict: bool) -> Remedy {
        self.failures = 0;
        if is_strict && !std::mem::replace(&mut self.moved, true) { Remedy::Move } else { Remedy::Replace }
    }

    /// A session has lasted.
    pub fn overcome(&mut self) {
        // Not the failures: a session may take long to get to such a place.
        self.moved = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_failure_at_a_place_needs_a_remedy() {
        let mut standstill = Standstill::default();
        assert!(!standstill.failed(Lsn(7)));
        assert!(!standstill.failed(Lsn(8)), "it has got on");
        standstill.overcome();
        assert!(standstill.failed(Lsn(8)));
        assert!(standstill.failed(Lsn(8)), "it was not given yet");
        assert_eq!(standstill.remedy(false), Remedy::Replace);
        assert!(!standstill.failed(Lsn(8)));
    }

    #[test]
    fn in_strict_mode_the_slot_is_moved_before_it_is_replaced() {
        let mut standstill = Standstill::default();
        assert_eq!(standstill.remedy(true), Remedy::Move);
        assert_eq!(standstill.remedy(true), Remedy::Replace, "moving has not helped");
        standstill.overcome();
        assert_eq!(standstill.remedy(true), Remedy::Move);
    }
}
