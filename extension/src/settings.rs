//! The extension's own settings, and those under which column values become text.

use std::ffi::{CString, c_int};
use std::sync::LazyLock;

use cachetag_core::RENDER_SETTINGS;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

/// Beyond so many tags of one family a captured result depends on the whole family.
pub static CAPTURE_KEYS: GucSetting<i32> = GucSetting::<i32>::new(100);

/// Defines the extension's settings.
pub fn init() {
    GucRegistry::define_int_guc(
        c"cachetag.capture_keys",
        c"Beyond so many tags of one family a captured result depends on the whole family.",
        c"Every tag of an entry is looked at when the entry is read.",
        &CAPTURE_KEYS,
        1,
        10_000,
        GucContext::Userset,
        GucFlags::default(),
    );
}

static SETTINGS: LazyLock<Vec<(CString, CString)>> = LazyLock::new(|| {
    let owned = |text: &str| CString::new(text).ok();
    RENDER_SETTINGS.iter().filter_map(|(name, value)| Some((owned(name)?, owned(value)?))).collect()
});

/// While it lives, the session has [`RENDER_SETTINGS`]; afterwards it has its own again.
///
/// The same mechanism as the `SET` clause of a function: an error in between needs no help, the end of the (sub)transaction restores what was set.
pub struct RenderSettings {
    nest_level: c_int,
}

impl RenderSettings {
    pub fn enter() -> RenderSettings {
        // SAFETY: plain calls of the server in a backend; an error they raise unwinds to the function's guard.
        let nest_level = unsafe { pg_sys::NewGUCNestLevel() };
        for (name, value) in SETTINGS.iter() {
            // SAFETY: both texts are valid C strings for the length of the call, which copies them. GUC_ACTION_SAVE is what parallel workers may do too.
            unsafe {
                pg_sys::set_config_option(
                    name.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
        }
        RenderSettings { nest_level }
    }
}

impl Drop for RenderSettings {
    fn drop(&mut self) {
        // Unwinding means that an error is on its way, and the abort restores the settings.
        if !std::thread::panicking() {
            // SAFETY: the level is the innermost one, since the guard does not leave the function that made it.
            unsafe { pg_sys::AtEOXact_GUC(true, self.nest_level) };
        }
    }
}
