//! What can go wrong with a read. Trouble of a layer is none: the next layer is asked, and in the end the loader.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Why a read has no value, or why a cache could not be built. Cheap to clone: everybody who waited for one load gets its error.
///
/// ```
/// # use cachetag_client::Error;
/// fn status(error: &Error) -> u16 {
///     if error.is_overloaded() || error.is_timeout() { 503 } else { 500 }
/// }
/// ```
#[derive(Clone)]
pub struct Error(Arc<Kind>);

pub(crate) enum Kind {
    /// The loader's own.
    Loader(Box<dyn std::error::Error + Send + Sync>),
    /// The loader panicked.
    Panicked { key: Box<str>, message: Box<str> },
    /// The loader took longer than it may.
    Timeout { key: Box<str>, after: Duration },
    /// Too many loads at a time, and the queue is full or did not move.
    Overloaded { key: Box<str>, reason: Box<str> },
    /// No layer has it, and the loader is switched off.
    SwitchedOff { key: Box<str> },
    /// A key that has a value was asked for, and it is known that there is none.
    Absent { key: Box<str> },
    /// Redis, where it was needed: to forget a key.
    Redis(crate::l2::Error),
    /// What the builder was given.
    Configuration { what: &'static str, problem: Box<str>, source: Option<Box<dyn std::error::Error + Send + Sync>> },
    /// A key that cannot be one.
    Key { problem: Box<str> },
}

impl Error {
    pub(crate) fn new(kind: Kind) -> Error {
        Error(Arc::new(kind))
    }

    pub(crate) fn loader(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::new(Kind::Loader(source.into()))
    }

    pub(crate) fn panicked(key: &str, panic: Box<dyn Any + Send>) -> Error {
        let message = panic.downcast_ref::<&str>().copied().map(str::to_owned);
        let message =
            message.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into());
        Error::new(Kind::Panicked { key: key.into(), message: message.into() })
    }

    pub(crate) fn configuration(what: &'static str, problem: impl Into<Box<str>>) -> Error {
        Error::new(Kind::Configuration { what, problem: problem.into(), source: None })
    }

    pub(crate) fn absent(key: &str) -> Error {
        Error::new(Kind::Absent { key: key.into() })
    }

    pub(crate) fn redis(error: crate::l2::Error) -> Error {
        Error::new(Kind::Redis(error))
    }

    /// Is it known that there is no such value? Who asks by [`get_or_load_optional`](crate::Cache::get_or_load_optional) gets `None`.
    ///
    /// ```
    /// # use cachetag_client::Error;
    /// fn status(error: &Error) -> u16 {
    ///     if error.is_absent() { 404 } else { 500 }
    /// }
    /// ```
    pub fn is_absent(&self) -> bool {
        matches!(*self.0, Kind::Absent { .. })
    }

    /// Did the loader return this error, or panic?
    ///
    /// ```
    /// # use cachetag_client::Error;
    /// fn status(error: &Error) -> u16 {
    ///     if error.is_loader() { 500 } else { 503 }
    /// }
    /// ```
    pub fn is_loader(&self) -> bool {
        matches!(*self.0, Kind::Loader(_) | Kind::Panicked { .. })
    }

    /// Did the loader take longer than `load_timeout`?
    ///
    /// ```
    /// # use cachetag_client::Error;
    /// fn status(error: &Error) -> u16 {
    ///     if error.is_timeout() { 504 } else { 500 }
    /// }
    /// ```
    pub fn is_timeout(&self) -> bool {
        matches!(*self.0, Kind::Timeout { .. })
    }

    /// Were there too many loads at a time?
    ///
    /// ```
    /// # use cachetag_client::Error;
    /// fn status(error: &Error) -> u16 {
    ///     if error.is_overloaded() { 503 } else { 500 }
    /// }
    /// ```
    pub fn is_overloaded(&self) -> bool {
        matches!(*self.0, Kind::Overloaded { .. })
    }

    /// Was there nothing to serve while the loader was bypassed: `Switches::bypass(Layer::Loader, true)`?
    ///
    /// ```
    /// # use cachetag_client::Error;
    /// fn status(error: &Error) -> u16 {
    ///     if error.is_switched_off() { 503 } else { 500 }
    /// }
    /// ```
    pub fn is_switched_off(&self) -> bool {
        matches!(*self.0, Kind::SwitchedOff { .. })
    }

    /// Is it what the builder, or a call, was given?
    ///
    /// ```
    /// # use cachetag_client::Error;
    /// fn status(error: &Error) -> u16 {
    ///     if error.is_configuration() { 500 } else { 503 }
    /// }
    /// ```
    pub fn is_configuration(&self) -> bool {
        matches!(*self.0, Kind::Configuration { .. } | Kind::Key { .. })
    }

    /// The loader's error, if it was of this type.
    ///
    /// ```
    /// # use cachetag_client::Error;
    /// fn is_not_found(error: &Error) -> bool {
    ///     error.loader_error::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound)
    /// }
    /// ```
    pub fn loader_error<E: std::error::Error + 'static>(&self) -> Option<&E> {
        match &*self.0 {
            Kind::Loader(source) => source.downcast_ref(),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::Loader(source) => write!(f, "the loader failed: {source}"),
            Kind::Panicked { key, message } => write!(f, "the loader of {key:?} panicked: {message}"),
            Kind::Timeout { key, after } => {
                write!(f, "the loader of {key:?} took longer than load_timeout, {} ms", after.as_millis())
            }
            Kind::Overloaded { key, reason } => {
                write!(f, "no room to load {key:?}: {reason}; raise load_concurrency if the database can take it")
            }
            Kind::SwitchedOff { key } => write!(
                f,
                "no layer has {key:?}, and the loader is switched off; Switches::bypass(Layer::Loader, false) lets it load again"
            ),
            Kind::Absent { key } => write!(f, "{key:?} is known not to exist; get_or_load_optional tells that by None"),
            Kind::Redis(error) => write!(f, "redis: {error}"),
            Kind::Configuration { what, problem, .. } => write!(f, "{what}: {problem}"),
            Kind::Key { problem } => write!(f, "key: {problem}"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({self})")
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            Kind::Loader(source) => Some(source.as_ref()),
            Kind::Redis(error) => Some(error),
            Kind::Configuration { source, .. } => source.as_ref().map(|source| source.as_ref() as _),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_error_comes_back_as_it_was() {
        let error = Error::loader(std::io::Error::other("down"));
        assert!(error.is_loader() && !error.is_timeout());
        assert_eq!(error.loader_error::<std::io::Error>().unwrap().to_string(), "down");
        assert!(error.loader_error::<std::fmt::Error>().is_none());
        assert_eq!(error.to_string(), "the loader failed: down");
    }

    #[test]
    fn a_panic_tells_its_message() {
        let caught = std::panic::catch_unwind(|| std::panic::panic_any("boom".to_owned())).unwrap_err();
        assert_eq!(Error::panicked("k", caught).to_string(), "the loader of \"k\" panicked: boom");
    }
}
