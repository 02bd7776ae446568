//! Readers: a miss, a snapshot, a put.

use super::redis::Entry;
use super::version::{Commits, Version};
use super::world::{Reader, Sees, State, World};
use crate::Variant;

impl State {
    /// A reader misses and takes the watermark as its token.
    pub fn miss(&mut self, key: usize, sees: Sees) {
        let Some(token) = self.redis.watermark else { return };
        if let Some(free) = self.readers.iter_mut().find(|reader| reader.is_none()) {
            *free = Some(Reader { key: key as u8, token, sees });
        }
    }

    /// A reader raises its token to the commit floor, which may be ahead of the feed.
    pub fn raise(&mut self, reader: usize) {
        let floor = self.visible.prefix();
        if let Some(reader) = &mut self.readers[reader] {
            reader.token = reader.token.max(Version::new(reader.token.epoch(), floor));
        }
    }

    /// A reader takes its snapshot.
    pub fn snapshot(&mut self, reader: usize) {
        let visible = self.visible;
        if let Some(reader) = &mut self.readers[reader] {
            reader.sees = Sees::Snapshot(visible);
        }
    }

    /// A reader stores; whatever the answer, it is done.
    pub fn put(&mut self, world: &World, reader: usize) {
        let Some(Reader { key, token, sees }) = self.readers[reader].take() else { return };
        let late = if world.is(Variant::TokenAfterSnapshot) { self.redis.watermark } else { None };
        let as_of = late.unwrap_or(token);
        let (snapshot, watch) = match sees {
            Sees::Snapshot(snapshot) => (snapshot, true),
            Sees::Whatever | Sees::Nothing => (Commits::default(), false),
        };
        self.redis.put(world, Entry { key, as_of, snapshot }, watch);
    }
}
