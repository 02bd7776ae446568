//! The aggregate `tag_agg`: the tags of a result, in the query that produces it.

use std::collections::HashSet;

use cachetag_core::Tag;
use pgrx::Internal;
use pgrx::prelude::*;

use crate::error::Result;

type Report = pg_sys::panic::ErrorReport;
type Tags = HashSet<Box<str>>;

/// Separates tags in the state that a parallel worker hands over: no tag has a line feed.
const SEPARATOR: char = '\n';

/// State and one tag to state.
#[pg_extern(sql = false)]
fn tag_agg_add(state: Internal, tag: Option<&str>, fcinfo: pg_sys::FunctionCallInfo) -> Result<Internal, Report> {
    let mut state = state;
    add(tags(&mut state, fcinfo), tag)?;
    Ok(state)
}

/// State and an array of tags to state.
#[pg_extern(sql = false)]
fn tag_agg_add_array(
    state: Internal,
    array: Option<Array<'_, &str>>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Internal, Report> {
    let mut state = state;
    let tags = tags(&mut state, fcinfo);
    for tag in array.iter().flat_map(|array| array.iter()) {
        add(tags, tag)?;
    }
    Ok(state)
}

/// Two states to one.
#[pg_extern(sql = false)]
fn tag_agg_combine(state: Internal, other: Internal, fcinfo: pg_sys::FunctionCallInfo) -> Internal {
    let mut state = state;
    let tags = tags(&mut state, fcinfo);
    // SAFETY: states are made here only, of this type.
    if let Some(other) = unsafe { other.get::<Tags>() } {
        tags.extend(other.iter().cloned());
    }
    state
}

/// State to bytes, for the way from a parallel worker to its leader.
#[pg_extern(sql = false)]
fn tag_agg_serialize(state: Internal) -> Vec<u8> {
    sorted(&state).join(&SEPARATOR.to_string()).into_bytes()
}

/// Bytes to state.
#[pg_extern(sql = false)]
fn tag_agg_deserialize(bytes: &[u8], _dummy: Internal) -> Internal {
    let text = String::from_utf8_lossy(bytes);
    Internal::new(text.split(SEPARATOR).filter(|tag| !tag.is_empty()).map(Box::from).collect::<Tags>())
}

/// State to the tags, each once, sorted by their bytes; none for no rows.
#[pg_extern(sql = false)]
fn tag_agg_final(state: Internal) -> Vec<String> {
    sorted(&state).into_iter().map(str::to_owned).collect()
}

fn add(tags: &mut Tags, tag: Option<&str>) -> Result<()> {
    if let Some(tag) = tag
        && !tags.contains(tag)
    {
        Tag::parse(tag)?;
        tags.insert(tag.into());
    }
    Ok(())
}

/// The set in the state, which is made in the memory context of the aggregate if there is none yet.
fn tags(state: &mut Internal, fcinfo: pg_sys::FunctionCallInfo) -> &mut Tags {
    let mut context = std::ptr::null_mut();
    // SAFETY: asks for the context of the aggregate that calls; a state is made here only, of this type.
    unsafe {
        if pg_sys::AggCheckCallContext(fcinfo, &mut context) == 0 {
            error!("this function is a part of the aggregate cachetag.tag_agg");
        }
        let caller = pg_sys::MemoryContextSwitchTo(context);
        let tags = state.get_or_insert_default::<Tags>();
        pg_sys::MemoryContextSwitchTo(caller);
        tags
    }
}

fn sorted(state: &Internal) -> Vec<&str> {
    // SAFETY: a state is made here only, of this type.
    let tags = unsafe { state.get::<Tags>() };
    let mut tags: Vec<&str> = tags.into_iter().flatten().map(AsRef::as_ref).collect();
    tags.sort_unstable();
    tags
}
