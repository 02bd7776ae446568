//! The aggregate `tag_agg`: distinct tags, sorted.

use std::collections::BTreeSet;

use pgrx::prelude::*;
use pgrx::{Internal, PgMemoryContexts};

use crate::error::{Error, raise};

type Tags = BTreeSet<String>;

#[pg_extern(sql = false)]
fn tag_agg_one(state: Internal, tag: Option<&str>, fcinfo: pg_sys::FunctionCallInfo) -> Internal {
    add(state, tag.map(str::to_string), fcinfo)
}

#[pg_extern(sql = false)]
fn tag_agg_many(state: Internal, tags: Option<Vec<Option<String>>>, fcinfo: pg_sys::FunctionCallInfo) -> Internal {
    add(state, tags.into_iter().flatten().flatten(), fcinfo)
}

#[pg_extern(sql = false)]
fn tag_agg_final(state: Internal) -> Vec<String> {
    // SAFETY: only `add` makes such a state, and it holds `Tags`.
    match unsafe { state.get::<Tags>() } {
        Some(tags) => tags.iter().cloned().collect(),
        None => Vec::new(),
    }
}

fn add(mut state: Internal, tags: impl IntoIterator<Item = String>, fcinfo: pg_sys::FunctionCallInfo) -> Internal {
    let mut context = std::ptr::null_mut();
    // SAFETY: fcinfo is that of the running call; the context pointer is written before it is read.
    unsafe {
        if pg_sys::AggCheckCallContext(fcinfo, &mut context) == 0 {
            raise(Err::<(), _>(Error::NoAggregate));
        }
        // The set has to live as long as the group: it is allocated, and dropped, with the aggregate's memory context.
        if !state.initialized() {
            PgMemoryContexts::For(context).switch_to(|_| {
                state.insert(Tags::new());
            });
        }
        if let Some(set) = state.get_mut::<Tags>() {
            set.extend(tags);
        }
    }
    state
}
