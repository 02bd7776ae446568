//! Reads of one user, which never go back behind what that user has done or seen.

use parking_lot::Mutex;

use crate::options::{AtLeast, ReadOptions};

/// Carries what one user has written and seen from read to read, in one process or, as text, from one to the next.
///
/// A read covers every version that the session was answered with before, and more: a value may hold commits between its token and its query. Up to where
/// its loader had seen is stored with a value and presented from then on, so that no later read, in whichever layer or process, goes back behind it.
/// [`Load::query`](crate::Load::query) notes it by itself; a loader that queries by other means says [`Load::seen`](crate::Load::seen).
///
/// ```
/// use cachetag_client::Session;
///
/// let session = Session::new();
/// session.wrote("1@16/B374D848".parse()?);           // SELECT cachetag.position(), after the COMMIT
/// let cookie = session.position().map(|p| p.to_string());
/// // The next request, perhaps on another server:
/// let session = Session::new();
/// session.wrote(cookie.unwrap().parse()?);
/// # Ok::<(), cachetag_client::PositionError>(())
/// ```
#[derive(Debug, Default)]
pub struct Session {
    options: ReadOptions,
    position: Mutex<Option<AtLeast>>,
}

impl Session {
    /// Nothing written, nothing seen.
    ///
    /// ```
    /// # use cachetag_client::Session;
    /// assert!(Session::new().position().is_none());
    /// ```
    pub fn new() -> Session {
        Session::default()
    }

    /// Every read of the session asks for this, too.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cachetag_client::{ReadOptions, Session};
    ///
    /// let session = Session::with(ReadOptions::new().max_lag(Duration::from_millis(100)));
    /// ```
    pub fn with(options: ReadOptions) -> Session {
        Session { options, position: Mutex::default() }
    }

    /// The user has made this commit: reads cover it from now on.
    ///
    /// ```
    /// # use cachetag_client::Session;
    /// let session = Session::new();
    /// session.wrote("1@16/B374D848".parse().unwrap());
    /// assert!(session.position().is_some());
    /// ```
    pub fn wrote(&self, commit: AtLeast) {
        let mut position = self.position.lock();
        *position = Some(position.map_or(commit, |known| known.and(commit)));
    }

    /// The user has seen a value that was read at this position: no read shows an older state from now on.
    pub(crate) fn saw(&self, position: AtLeast) {
        self.wrote(position);
    }

    /// Where the user is.
    ///
    /// ```
    /// # use cachetag_client::Session;
    /// let session = Session::new();
    /// session.wrote("1@16/B374D848".parse().unwrap());
    /// session.wrote("1@16/00000001".parse().unwrap());
    /// assert_eq!(session.position().unwrap().to_string(), "1@16/B374D848");
    /// ```
    pub fn position(&self) -> Option<AtLeast> {
        *self.position.lock()
    }

    /// What a read of the session asks for.
    pub(crate) fn options(&self) -> ReadOptions {
        match self.position() {
            Some(position) => self.options.at_least(position),
            None => self.options,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cachetag_core::{Epoch, Lsn, Version};

    #[test]
    fn a_session_only_goes_forward() {
        let session = Session::new();
        let version = |lsn| Version::new(Epoch::new(3).unwrap(), Lsn(lsn));
        session.wrote(Lsn(9).into());
        session.saw(version(5).into());
        assert_eq!(session.position(), Some(version(9).into()));
        session.saw(version(4).into());
        assert_eq!(session.options().at_least, Some(version(9).into()));
    }
}
