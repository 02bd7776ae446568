//! What a backend keeps of the rules, and when it forgets it.
//!
//! The triggers of the catalog's tables send a relcache invalidation of `cachetag.rule`; changes of the tables themselves send their own. Every
//! backend hears of both before its next look at the rules, as it does for PostgreSQL's own caches.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use pgrx::prelude::*;

use super::{Stored, TableRules};
use crate::error::Result;
use crate::snapshot::{self, Seen};

/// A partition falls under the rules of all its ancestors.
const RULES_OF: &std::ffi::CStr = c"
    WITH RECURSIVE up(relation) AS (
        SELECT $1
      UNION
        SELECT i.inhparent FROM pg_catalog.pg_inherits i, up WHERE i.inhrelid OPERATOR(pg_catalog.=) up.relation)
    SELECT r.template, r.family, r.predicate, (r.state OPERATOR(pg_catalog.=) 'ok')::pg_catalog.text, r.soft::pg_catalog.text,
           (r.operations OPERATOR(pg_catalog.@>) '{insert,update,delete,truncate}')::pg_catalog.text, pg_catalog.to_json(r.columns_that_matter)::pg_catalog.text
      FROM cachetag.rule r, up WHERE r.relation OPERATOR(pg_catalog.=) up.relation
     ORDER BY r.id";

/// Relations whose rules are kept; beyond that everything is forgotten.
const MAX_TABLES: usize = 1000;

#[derive(Default)]
struct Cache {
    tables: HashMap<pg_sys::Oid, Rc<TableRules>>,
    /// The state of [`GENERATION`] under which the tables were read.
    generation: u64,
    is_registered: bool,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
    /// Counts what has been heard. A callback cannot fail, so it does no more than this.
    static GENERATION: Cell<u64> = const { Cell::new(1) };
    /// Relations whose change matters: the tables that are kept and `cachetag.rule`.
    static WATCHED: RefCell<BTreeSet<u32>> = const { RefCell::new(BTreeSet::new()) };
}

/// Changes whenever rules or their tables may have changed. What was made of [`rules_of`] under one number is good as long as it is the same.
pub fn generation() -> u64 {
    GENERATION.get()
}

/// The rules of a table.
pub fn rules_of(table: pg_sys::Oid) -> Result<Rc<TableRules>> {
    if let Some(rules) = CACHE.with_borrow_mut(|cache| cache.current().get(&table).cloned()) {
        return Ok(rules);
    }
    let rule_table = snapshot::own_table(c"rule");
    // Watched before they are read: what changes in between must not be missed.
    watch(table);
    watch(rule_table);
    let generation = GENERATION.get();
    let rules = Rc::new(read(table)?);
    CACHE.with_borrow_mut(|cache| {
        if cache.generation == generation && GENERATION.get() == generation {
            cache.tables.insert(table, Rc::clone(&rules));
        }
    });
    Ok(rules)
}

fn read(table: pg_sys::Oid) -> Result<TableRules> {
    let mut rules = TableRules::default();
    for row in snapshot::select(RULES_OF, table, Seen::Now)? {
        let [template, family, predicate, is_ok, soft, all_operations, columns] = row.as_slice() else { continue };
        let is_true = |column: &Option<String>| column.as_deref() == Some("true");
        let stored = Stored {
            template: template.as_deref().unwrap_or_default(),
            family: family.as_deref().unwrap_or_default(),
            predicate: predicate.as_deref(),
            is_ok: is_true(is_ok),
            soft: is_true(soft),
            all_operations: is_true(all_operations),
            columns: columns.as_deref(),
        };
        rules.add(&stored, table);
    }
    Ok(rules)
}

impl Cache {
    /// The tables, of which none is kept that has changed.
    fn current(&mut self) -> &HashMap<pg_sys::Oid, Rc<TableRules>> {
        if !self.is_registered {
            // SAFETY: the callback lives as long as the library, which is never unloaded.
            unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(on_relcache_invalidation), pg_sys::Datum::from(0)) };
            self.is_registered = true;
        }
        if self.tables.len() >= MAX_TABLES {
            // What others have made of these is not kept either, since they are no longer watched.
            GENERATION.set(GENERATION.get() + 1);
        }
        if self.generation != GENERATION.get() {
            self.tables.clear();
            WATCHED.take();
            self.generation = GENERATION.get();
        }
        &self.tables
    }
}

/// From now on a change of this relation's definition changes the [`generation`].
pub fn watch(relation: pg_sys::Oid) {
    CACHE.with_borrow_mut(|cache| {
        cache.current();
    });
    if relation != pg_sys::InvalidOid {
        WATCHED.with_borrow_mut(|watched| watched.insert(relation.to_u32()));
    }
}

/// Called by the server for every relation whose definition may have changed; `InvalidOid` is all of them.
#[pg_guard]
unsafe extern "C-unwind" fn on_relcache_invalidation(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    let matters = relation == pg_sys::InvalidOid
        || WATCHED.with(|watched| match watched.try_borrow() {
            Ok(watched) => watched.contains(&relation.to_u32()),
            Err(_) => true,
        });
    if matters {
        GENERATION.set(GENERATION.get() + 1);
    }
}

/// Trigger on the tables of the catalog: every backend forgets the rules that it keeps once this transaction commits.
#[pg_trigger]
fn rules_changed<'a>(
    _: &'a pgrx::PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, AllocatedByRust>>, pgrx::PgTriggerError> {
    let rule_table = snapshot::own_table(c"rule");
    if rule_table != pg_sys::InvalidOid {
        // SAFETY: queues a message for the commit; the relation exists.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(rule_table) };
    }
    Ok(None)
}

/// Are there rules about these tables (about any table, without an array) that the statement does not see, because its transaction's snapshot is older
/// than they are?
#[pg_extern(sql = false)]
fn has_unseen_rules(tables: Option<pgrx::Array<pg_sys::Oid>>) -> Result<bool, pg_sys::panic::ErrorReport> {
    let about = tables.map_or_else(String::new, |tables| {
        let oids: Vec<String> = tables.iter_deny_null().map(|oid| oid.to_u32().to_string()).collect();
        format!(" AND r.id IN (SELECT cachetag._rules_about('{{{}}}'::pg_catalog.oid[]))", oids.join(","))
    });
    let query = format!(
        "SELECT pg_catalog.string_agg(r.id::pg_catalog.text, ',' ORDER BY r.id) FROM cachetag.rule r WHERE $1 IS NOT NULL{about}"
    );
    let query = std::ffi::CString::new(query).unwrap_or_default();
    let rules = |seen| snapshot::select(&query, pg_sys::InvalidOid, seen);
    Ok(rules(Seen::Now)? != rules(Seen::ByStatement)?)
}
