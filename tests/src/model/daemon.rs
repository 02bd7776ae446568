//! The daemon: claiming, applying, advancing.

use super::redis::Claimant;
use super::version::{Tags, Version};
use super::world::{Daemon, State, World};
use crate::Variant;

impl State {
    /// A daemon takes the slot, claims Redis, and proves continuity or opens an epoch.
    pub fn start_daemon(&mut self, world: &World, slot_is_new: bool) {
        self.former = Some(self.daemon);
        if let Some(copy) = &mut self.copy {
            copy.claimant = match copy.claimant {
                Claimant::Present => Claimant::Former,
                Claimant::Former | Claimant::Nobody => Claimant::Nobody,
            };
        }
        self.redis.claimant = Claimant::Present;
        let applied = self.redis.applied;
        let lost = slot_is_new || applied.is_none_or(|applied| applied.lsn() < self.confirmed);
        let mut position = self.confirmed;
        let empty = self.redis.floor.is_none();
        if empty || lost && !world.is(Variant::NoEpochAfterLoss) {
            self.epochs += 1;
            self.redis.reset(Version::new(self.epochs, self.confirmed));
        } else if lost || world.is(Variant::ReplayLowers) {
            // Broken: as if Redis stood where the slot does, above it or below.
            self.redis.applied = Some(Version::new(self.redis.epoch(), self.confirmed));
        } else {
            position = position.max(applied.map_or(0, Version::lsn));
        }
        self.daemon = Daemon { epoch: self.redis.epoch(), position };
    }

    /// The daemon, if Redis obeys it; otherwise the one that holds the slot claims again.
    fn obeyed(&mut self, world: &World, who: Claimant) -> Option<Daemon> {
        let daemon = match who {
            Claimant::Present => self.daemon,
            _ => self.former?,
        };
        // Continuity would catch by itself what an unfenced daemon does: without it the harm shows.
        let continuity = !world.is(Variant::NoContinuity) && !world.is(Variant::NoFence);
        let fenced = self.redis.claimant != who && !world.is(Variant::NoFence);
        let elsewhere = self.redis.applied != Some(Version::new(daemon.epoch, daemon.position));
        if !(fenced || continuity && elsewhere) {
            return Some(daemon);
        }
        if who == Claimant::Present {
            self.start_daemon(world, false);
        }
        None
    }

    /// Applies the next commits as one batch.
    pub fn apply(&mut self, world: &World, who: Claimant, commits: u8) {
        let Some(mut daemon) = self.obeyed(world, who) else { return };
        let first = daemon.position + 1;
        daemon.position += commits;
        let tags = (first..=daemon.position).map(|lsn| self.tags_of(lsn)).fold(Tags::LIST, Tags::and);
        self.fell |= self.redis.apply(world, Version::new(daemon.epoch, daemon.position), tags);
        self.bumped = self.bumped.max(daemon.position);
        match who {
            Claimant::Present => self.daemon = daemon,
            _ => self.former = Some(daemon),
        }
    }

    /// Publishes what is applied and visible.
    pub fn advance(&mut self, world: &World, who: Claimant) {
        let Some(daemon) = self.obeyed(world, who) else { return };
        let start = self.redis.floor.map_or(0, Version::lsn);
        let mut upto = daemon.position;
        if !world.is(Variant::WatermarkBeforeVisible) {
            let first = if world.is(Variant::EpochNotDrained) { start + 1 } else { 1 };
            upto = (first..=upto).find(|&lsn| !self.visible.has(lsn)).map_or(upto, |invisible| invisible - 1);
        }
        if self.redis.floor.is_some() && upto >= start {
            self.redis.advance(Version::new(daemon.epoch, upto));
        }
    }
}
