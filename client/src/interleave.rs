//! For tests: something done in the middle of something else, as another thread might do it, each time in the same place.

use std::cell::RefCell;

/// Where a test may come in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The feed has raised the states of a look's records, and published nothing of it yet.
    Raised,
    /// The pulse of a feed is half written.
    Showing,
    /// The pulse is written, the view is not published yet.
    Shown,
    /// A copy's states were walked over, and the copy bears no mark of it yet.
    Walked,
}

type Hook = Box<dyn FnMut(Point)>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// Calls the hook of this thread. What the hook itself passes through calls none.
pub(crate) fn at(point: Point) {
    let Some(mut hook) = HOOK.take() else { return };
    hook(point);
    HOOK.with_borrow_mut(|place| *place = Some(hook));
}

/// Does something with a hook at all points of this thread.
pub(crate) fn with<T>(hook: impl FnMut(Point) + 'static, body: impl FnOnce() -> T) -> T {
    HOOK.set(Some(Box::new(hook)));
    let done = body();
    HOOK.set(None);
    done
}
