//! A described relation and what was compiled for it.

use std::cell::{Ref, RefCell};

use super::catalog::Catalog;
use super::metadata::MetadataTable;
use super::relation::Relation;
use super::rules::CompiledRule;

/// A relation as the stream describes it; shared by the transactions that know it under the same description.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) relation: Relation,
    /// Which table of the catalog it is, if it is one.
    pub(super) metadata: Option<MetadataTable>,
    /// Of one generation of the catalog, from the first row on.
    rules: RefCell<Option<(u64, Vec<CompiledRule>)>>,
}

impl Target {
    pub(super) fn new(relation: Relation) -> Self {
        let metadata = MetadataTable::of(&relation);
        Self { relation, metadata, rules: RefCell::new(None) }
    }

    /// The rules that its rows feed, bound to its columns.
    pub(super) fn rules(&self, catalog: &Catalog, generation: u64) -> Ref<'_, [CompiledRule]> {
        if self.rules.borrow().as_ref().is_none_or(|(compiled, _)| *compiled != generation) {
            self.rules.replace(Some((generation, compile(catalog, &self.relation))));
        }
        Ref::map(self.rules.borrow(), |rules| rules.as_ref().map_or(&[][..], |(_, rules)| rules))
    }
}

fn compile(catalog: &Catalog, relation: &Relation) -> Vec<CompiledRule> {
    let rules = catalog.rules_of(relation.oid);
    rules
        .map(|(id, rule)| {
            let (compiled, degraded) = CompiledRule::new(rule, relation);
            if let Some(reason) = degraded {
                let Relation { namespace, name, .. } = relation;
                tracing::warn!(rule = id, relation = %format_args!("{namespace}.{name}"), template = %rule.template,
                    reason, "the rule bumps its whole family");
            }
            compiled
        })
        .collect()
}
