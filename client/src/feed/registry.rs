//! The tags of all values that are held in the process: for each key that one of them checks, a state that they share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::keys::{CheckKey, family};
use super::ring::{Bumped, Bumps};

/// Dead states are looked for when there are this many, and from then on whenever the number has doubled.
const SWEEP: usize = 1024;

/// The last bumps of a key, read by every hit and written by the feed alone. They only rise.
#[derive(Debug, Default)]
pub(super) struct TagState {
    hard: AtomicU64,
    soft: AtomicU64,
}

impl TagState {
    /// Release: with [`TagState::bumps`]'s acquire, who sees a bump sees what was written before it. A reader that must not miss a bump relies on
    /// more: it has loaded the view that was published after it.
    fn raise(&self, bumps: Bumps) {
        self.hard.fetch_max(bumps.hard, Ordering::Release);
        self.soft.fetch_max(bumps.soft, Ordering::Release);
    }

    /// The last bumps.
    pub(super) fn bumps(&self) -> Bumps {
        Bumps { hard: self.hard.load(Ordering::Acquire), soft: self.soft.load(Ordering::Acquire) }
    }
}

/// The states by key. It keeps none alive: a state lives as long as a value that checks it.
#[derive(Debug)]
pub(super) struct Registry {
    tags: HashMap<Box<str>, Weak<TagState>>,
    members: HashMap<Box<str>, Weak<TagState>>,
    sweep_at: usize,
}

impl Registry {
    /// An empty one.
    pub(super) fn new() -> Registry {
        Registry { tags: HashMap::new(), members: HashMap::new(), sweep_at: SWEEP }
    }

    /// How many states there are, dead ones included.
    pub(super) fn len(&self) -> usize {
        self.tags.len() + self.members.len()
    }

    /// The state of a key, which knows these bumps at least.
    pub(super) fn intern(&mut self, key: &CheckKey, known: Bumps) -> Arc<TagState> {
        if self.len() >= self.sweep_at {
            self.sweep();
        }
        let (map, name) = match key {
            CheckKey::Tag(tag) => (&mut self.tags, tag),
            CheckKey::Members(family) => (&mut self.members, family),
        };
        let state = map.get(name).and_then(Weak::upgrade).unwrap_or_else(|| {
            let state = Arc::new(TagState::default());
            map.insert(name.clone(), Arc::downgrade(&state));
            state
        });
        state.raise(known);
        state
    }

    /// Bumps what is registered, at `to`; returns the tags of the record that concern a registered key.
    pub(super) fn bump(&mut self, to: u64, bumped: &Bumped) -> Vec<Arc<str>> {
        let mut concerned = Vec::new();
        let hard = Bumps { hard: to, soft: 0 };
        let soft = Bumps { hard: 0, soft: to };
        for (list, bumps) in [(&bumped.hard, hard), (&bumped.soft, soft)] {
            for tag in list {
                // All three, each time: no short cut.
                let registered = [
                    raise(&mut self.tags, tag, bumps),
                    raise(&mut self.members, family(tag), bumps),
                    raise(&mut self.members, "*", bumps),
                ];
                if registered.contains(&true) || **tag == *"*" {
                    concerned.push(Arc::clone(tag));
                }
            }
        }
        concerned
    }

    /// Forgets all states: no value that holds one will be judged by it again.
    pub(super) fn clear(&mut self) {
        *self = Registry::new();
    }

    /// Amortised: what it goes through has at least doubled since the last time.
    fn sweep(&mut self) {
        for map in [&mut self.tags, &mut self.members] {
            map.retain(|_, state| state.strong_count() > 0);
        }
        self.sweep_at = SWEEP.max(self.len() * 2);
    }
}

/// Bumps one key; whether anybody holds it.
fn raise(map: &mut HashMap<Box<str>, Weak<TagState>>, name: &str, bumps: Bumps) -> bool {
    let Some(state) = map.get(name) else { return false };
    if let Some(state) = state.upgrade() {
        state.raise(bumps);
        return true;
    }
    map.remove(name);
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: &str) -> CheckKey {
        CheckKey::Tag(name.into())
    }

    fn record(hard: &[&str], soft: &[&str]) -> Bumped {
        let shared = |tags: &[&str]| tags.iter().map(|tag| Arc::from(*tag)).collect();
        Bumped { hard: shared(hard), soft: shared(soft) }
    }

    #[test]
    fn values_share_a_state_and_see_its_bumps() {
        let mut registry = Registry::new();
        let first = registry.intern(&tag("p:1"), Bumps::default());
        let second = registry.intern(&tag("p:1"), Bumps::default());
        let family = registry.intern(&tag("p:*"), Bumps::default());
        let member = registry.intern(&CheckKey::Members("p".into()), Bumps::default());
        let any = registry.intern(&CheckKey::Members("*".into()), Bumps::default());
        assert!(Arc::ptr_eq(&first, &second));
        registry.bump(7, &record(&["p:1"], &[]));
        let hard = |state: &TagState| state.bumps().hard;
        assert_eq!([hard(&first), hard(&family), hard(&member), hard(&any)], [7, 0, 7, 7]);
        registry.bump(8, &record(&["p:*"], &[]));
        assert_eq!([hard(&first), hard(&family), hard(&member), hard(&any)], [7, 8, 8, 8]);
        registry.bump(9, &record(&["q:1"], &["p:1"]));
        assert_eq!([hard(&first), hard(&family), hard(&member), hard(&any)], [7, 8, 8, 9]);
        assert_eq!([first.bumps().soft, family.bumps().soft, member.bumps().soft, any.bumps().soft], [9, 0, 9, 9]);
    }

    #[test]
    fn a_new_state_knows_what_the_ring_knows() {
        let mut registry = Registry::new();
        let state = registry.intern(&tag("p:1"), Bumps { hard: 3, soft: 4 });
        assert_eq!(state.bumps(), Bumps { hard: 3, soft: 4 });
        registry.bump(2, &record(&["p:1"], &[]));
        assert_eq!(state.bumps(), Bumps { hard: 3, soft: 4 }, "bumps never fall");
    }

    #[test]
    fn the_concerned_are_told() {
        let mut registry = Registry::new();
        let _held = registry.intern(&tag("p:1"), Bumps::default());
        let _member = registry.intern(&CheckKey::Members("q".into()), Bumps::default());
        let told = registry.bump(1, &record(&["p:1", "p:2", "q:5", "r"], &["*"]));
        assert_eq!(told, [Arc::from("p:1"), Arc::from("q:5"), Arc::from("*")] as [Arc<str>; 3]);
    }

    #[test]
    fn the_dead_are_collected() {
        let mut registry = Registry::new();
        let held: Vec<_> = (0..100).map(|i| registry.intern(&tag(&format!("held:{i}")), Bumps::default())).collect();
        for i in 0..100_000 {
            registry.intern(&tag(&format!("p:{i}")), Bumps::default());
        }
        assert!(registry.len() <= SWEEP, "{}", registry.len());
        registry.bump(5, &record(&["held:7"], &[]));
        assert_eq!(held[7].bumps().hard, 5);
        drop(registry.intern(&tag("x"), Bumps::default()));
        let before = registry.len();
        registry.bump(6, &record(&["x"], &[]));
        assert_eq!(registry.len(), before - 1, "found dead, it is removed");
    }
}
