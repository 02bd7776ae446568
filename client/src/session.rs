//! Reads of one user, which never go back behind what that user has done or seen.

use cachetag_core::Version;
use parking_lot::Mutex;

use crate::options::{AtLeast, ReadOptions};

/// Carries what one user has written and seen from read to read, in one process or, as text, from one to the next.
///
/// ```
/// use cachetag_client::Session;
///
/// let session = Session::new();
/// session.wrote("16/B374D848".parse()?);             // pg_current_wal_insert_lsn() after the COMMIT
/// let cookie = session.position().map(|p| p.to_string());
/// // The next request, perhaps on another server:
/// let session = Session::new();
/// session.wrote(cookie.unwrap().parse()?);
/// # Ok::<(), cachetag_client::core::VersionError>(())
/// ```
#[derive(Debug, Default)]
pub struct Session {
    options: ReadOptions,
    position: Mutex<Option<AtLeast>>,
}

impl Session {
    /// Nothing written, nothing seen.
    pub fn new() -> Session {
        Session::default()
    }

    /// Every read of the session asks for this, too.
    pub fn with(options: ReadOptions) -> Session {
        Session { options, position: Mutex::default() }
    }

    /// The user has made this commit: reads cover it from now on.
    pub fn wrote(&self, commit: AtLeast) {
        let mut position = self.position.lock();
        *position = Some(position.map_or(commit, |known| known.and(commit)));
    }

    /// The user has seen a value of this version: no read shows an older state from now on.
    pub(crate) fn saw(&self, version: Version) {
        let mut position = self.position.lock();
        *position = Some(match *position {
            // An older epoch is over; its positions are none of this one, but what the user wrote still has to be covered.
            Some(known) => known.and(AtLeast::Version(version)),
            None => AtLeast::Version(version),
        });
    }

    /// Where the user is.
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
    use cachetag_core::{Epoch, Lsn};

    #[test]
    fn a_session_only_goes_forward() {
        let session = Session::new();
        let version = |lsn| Version::new(Epoch::new(3).unwrap(), Lsn(lsn));
        session.wrote(Lsn(9).into());
        session.saw(version(5));
        assert_eq!(session.position(), Some(AtLeast::Version(version(9))));
        session.saw(version(4));
        assert_eq!(session.options().at_least, Some(AtLeast::Version(version(9))));
    }
}
