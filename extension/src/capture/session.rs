//! What a session has captured so far.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use cachetag_core::Tag;
use pgrx::pg_sys;

use crate::broken::{Guard, forgets};
use crate::settings::CAPTURE_KEYS;

/// Reasons beyond these are not told: there is one already.
const MAX_REASONS: usize = 20;
/// Descriptions of scans beyond these are not kept.
const MAX_SCANS: usize = 1000;

/// Is a capture running? Asked by every hook; a backend has one thread.
static ACTIVE: AtomicBool = AtomicBool::new(false);
/// Which capture of the session is the current one.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// A reason could not be kept.
static IS_LOST: AtomicBool = AtomicBool::new(false);

thread_local! {
    static CAPTURE: RefCell<Capture> = RefCell::default();
}

/// The tags of one family that were met.
#[derive(Default)]
struct Members {
    tags: BTreeSet<Box<str>>,
    /// Too many, or not known one by one: the whole family.
    is_whole: bool,
    /// They were too many.
    is_full: bool,
}

/// How one relation was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanReport {
    pub relation: pg_sys::Oid,
    /// The rules that speak for what was read, as their templates.
    pub templates: Vec<String>,
    /// Why it is no finer.
    pub reason: Option<String>,
    /// The template of a rule that would make it finer.
    pub finer: Option<String>,
}

/// Everything that is known about what the queries since `capture_begin` depend on.
#[derive(Default)]
pub struct Capture {
    /// The token raised, if there was one.
    pub as_of: Option<String>,
    /// What of the session is part of the caller's key.
    pub keyed_by: BTreeSet<String>,
    /// Why the result may not be cached.
    pub reasons: Vec<String>,
    /// What of the session the result depends on.
    pub session: BTreeSet<String>,
    /// By the text of their whole family.
    families: BTreeMap<Box<str>, Members>,
    /// The relations of all queries, read or not, each with the families that changes of its definition invalidate.
    relations: BTreeMap<u32, Vec<Box<str>>>,
    /// How relations were read that had to be read as a whole; all of them, if the capture is to explain itself.
    pub scans: Vec<ScanReport>,
    /// The tags of each of these, if it is.
    details: Option<Vec<BTreeSet<String>>>,
}

pub fn is_active() -> bool {
    ACTIVE.load(Relaxed)
}

/// Which capture is running, or ran last.
pub fn generation() -> u64 {
    GENERATION.load(Relaxed)
}

/// Begins anew; what an earlier capture has found is forgotten.
pub fn begin(capture: Capture) {
    CAPTURE.set(capture);
    GENERATION.fetch_add(1, Relaxed);
    ACTIVE.store(true, Relaxed);
}

/// Ends the capture, if one is running.
pub fn end() -> Option<Capture> {
    let mut capture = ACTIVE.swap(false, Relaxed).then(|| CAPTURE.take());
    if IS_LOST.swap(false, Relaxed)
        && let Some(capture) = &mut capture
    {
        capture.refuse("something happened while the capture was being written");
    }
    capture
}

/// Does something with what has been captured. Not inside itself.
pub fn with<T>(act: impl FnOnce(&mut Capture) -> T) -> T {
    CAPTURE.with_borrow_mut(act)
}

/// The result may not be cached, if a capture is running. Also for callbacks, which must not fail.
pub fn refuse(reason: impl Into<String>) {
    if is_active() {
        CAPTURE.with(|capture| match capture.try_borrow_mut() {
            Ok(mut capture) => capture.refuse(reason),
            Err(_) => IS_LOST.store(true, Relaxed),
        });
    }
}

/// While it lives, queries are cachetag's own and are not captured.
pub struct Suspended {
    was_active: bool,
}

impl Suspended {
    pub fn enter() -> Suspended {
        Suspended { was_active: ACTIVE.swap(false, Relaxed) }
    }
}

impl Drop for Suspended {
    fn drop(&mut self) {
        ACTIVE.store(self.was_active, Relaxed);
    }
}

impl Capture {
    pub fn keyed_by(keyed_by: BTreeSet<String>) -> Capture {
        Capture { keyed_by, ..Capture::default() }
    }

    pub fn refuse(&mut self, reason: impl Into<String>) {
        let reason = reason.into();
        if self.reasons.len() < MAX_REASONS && !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    pub fn depends_on_session(&mut self, what: &str) {
        if !self.session.contains(what) {
            self.session.insert(what.to_owned());
        }
    }

    /// The result depends on this tag, as its scan at `place` says. `false`: its whole family is among the tags, and no other of it needs to be told.
    pub fn add_tag(&mut self, place: Option<usize>, whole_family: &Tag, tag: &str) -> bool {
        let is_told = self.detail(place, tag);
        let members = self.members(whole_family);
        if members.is_whole {
            // Another scan reads all of it. What this one would depend on without the other is told all the same.
            return is_told && !members.is_full;
        }
        if !members.tags.contains(tag) {
            members.tags.insert(tag.into());
            if members.tags.len() > CAPTURE_KEYS.get() as usize {
                if forgets(Guard::Limit) {
                    return members.tags.remove(tag);
                }
                members.make_whole();
                members.is_full = true;
                return false;
            }
        }
        true
    }

    /// The result depends on every tag of a family.
    pub fn add_family(&mut self, place: Option<usize>, whole_family: &Tag) {
        self.detail(place, whole_family.as_str());
        self.members(whole_family).make_whole();
    }

    /// From now on each scan's tags are kept apart.
    pub fn explain(&mut self) {
        self.details = Some(Vec::new());
    }

    pub fn is_detailed(&self) -> bool {
        self.details.is_some()
    }

    /// `false`: nothing more of this scan is kept apart.
    fn detail(&mut self, place: Option<usize>, tag: &str) -> bool {
        let (Some(details), Some(place)) = (&mut self.details, place) else { return false };
        details.resize_with(self.scans.len(), BTreeSet::new);
        let Some(tags) = details.get_mut(place) else { return false };
        tags.insert(tag.to_owned());
        tags.len() <= CAPTURE_KEYS.get() as usize
    }

    /// The tags of the scan at this place, if they were kept apart.
    pub fn tags_of(&self, place: usize) -> Vec<String> {
        let tags = self.details.as_ref().and_then(|details| details.get(place));
        tags.into_iter().flatten().cloned().collect()
    }

    fn members(&mut self, whole_family: &Tag) -> &mut Members {
        if !self.families.contains_key(whole_family.as_str()) {
            self.families.insert(whole_family.as_str().into(), Members::default());
        }
        // It has just been seen to.
        self.families.entry(whole_family.as_str().into()).or_default()
    }

    /// A query names this relation.
    pub fn add_relation(&mut self, relation: pg_sys::Oid, families: &[Box<str>]) {
        self.relations.entry(relation.to_u32()).or_insert_with(|| families.to_vec());
    }

    /// Its place among the scans, where scans of which the same is to be said share one; `None`: there are too many.
    pub fn add_scan(&mut self, scan: &ScanReport) -> Option<usize> {
        if let Some(place) = self.scans.iter().position(|known| known == scan) {
            return Some(place);
        }
        if self.scans.len() >= MAX_SCANS {
            return None;
        }
        self.scans.push(scan.clone());
        Some(self.scans.len() - 1)
    }

    /// The tags, sorted.
    pub fn tags(&self) -> Vec<String> {
        let mut tags = BTreeSet::new();
        let mut families = BTreeSet::new();
        for (whole, members) in &self.families {
            if members.is_whole {
                tags.insert(whole.to_string());
            } else {
                tags.extend(members.tags.iter().map(|tag| tag.to_string()));
            }
            if members.is_whole || !members.tags.is_empty() {
                families.insert(whole);
            }
        }
        if forgets(Guard::Definitions) {
            return tags.into_iter().collect();
        }
        // A change of a definition invalidates the families of the rules about the relation. Where the result has a tag of one of them, that is enough.
        for (relation, of_rules) in &self.relations {
            if !of_rules.iter().any(|family| families.contains(family)) {
                tags.insert(format!("{DEFINITIONS}:{relation}"));
            }
        }
        tags.insert(DEFINITIONS.to_owned());
        tags.into_iter().collect()
    }

    /// What the caller has to hear, the session's part included.
    pub fn all_reasons(&self) -> Vec<String> {
        let missing = self.session.iter().filter(|what| !self.keyed_by.contains(*what));
        let missing = missing.map(|what| {
            format!("depends on {what} of the session: put its value into the key and name it in keyed_by")
        });
        self.reasons.iter().cloned().chain(missing).collect()
    }
}

impl Members {
    fn make_whole(&mut self) {
        self.is_whole = true;
        self.tags.clear();
    }
}

/// The reserved family of changes of definitions. The family alone: functions, types, operators, new names; with a number: the relation of this oid.
pub const DEFINITIONS: &str = "cachetag.ddl";
