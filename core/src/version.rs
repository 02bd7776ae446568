//! Positions in the write-ahead log, and the versions made of them.

use std::fmt;
use std::str::FromStr;

/// A position in PostgreSQL's write-ahead log, in bytes. Written `X/Y` in upper-case hexadecimal, as PostgreSQL writes a `pg_lsn`.
///
/// ```
/// use cachetag_core::Lsn;
///
/// let lsn: Lsn = "16/B374D848".parse()?;
/// assert_eq!(lsn, Lsn(0x16_B374_D848));
/// assert_eq!(lsn.to_string(), "16/B374D848");
/// # Ok::<(), cachetag_core::VersionError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `0/0`, which is no valid position and lies before all of them.
    pub const ZERO: Lsn = Lsn(0);
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = VersionError;

    /// Takes what PostgreSQL takes for a `pg_lsn`: one to eight hexadecimal digits, upper or lower case, on each side of the `/`.
    fn from_str(text: &str) -> Result<Lsn, VersionError> {
        let half = |digits: &str| {
            let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            if plain { u64::from_str_radix(digits, 16).ok() } else { None }
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| VersionError::Lsn { text: crate::tag::excerpt(text) })
    }
}

/// The number of an epoch: the Unix second at which it was opened, or one more than the last. At most [`Epoch::MAX`], so ten digits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// The least epoch, which no instance ever has.
    pub const ZERO: Epoch = Epoch(0);

    /// The greatest epoch that has ten digits.
    pub const MAX: Epoch = Epoch(9_999_999_999);

    /// The epoch of this number, unless it has more than ten digits.
    pub fn new(number: u64) -> Result<Epoch, VersionError> {
        if number <= Epoch::MAX.0 { Ok(Epoch(number)) } else { Err(VersionError::Epoch { number }) }
    }

    /// Its number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}", self.0)
    }
}

/// An epoch and the end of a commit in it: `EEEEEEEEEE.LLLLLLLLLLLLLLLLLLLL`, ten and twenty decimal digits, 31 bytes.
///
/// Versions compare as their texts do. What follows the dot, without its leading zeros, is the first half of a Redis stream id.
///
/// ```
/// use cachetag_core::{Epoch, Lsn, Version};
///
/// let version = Version::new(Epoch::new(1_767_225_600)?, Lsn(0x16_B374_D848));
/// assert_eq!(version.to_string(), "1767225600.00000000097500059720");
/// assert_eq!(version, "1767225600.00000000097500059720".parse()?);
/// # Ok::<(), cachetag_core::VersionError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The epoch, which decides first.
    pub epoch: Epoch,
    /// The end of the commit.
    pub lsn: Lsn,
}

impl Version {
    /// Bytes of the text of every version.
    pub const LEN: usize = EPOCH_DIGITS + 1 + LSN_DIGITS;

    /// The version of a position in an epoch.
    pub fn new(epoch: Epoch, lsn: Lsn) -> Version {
        Version { epoch, lsn }
    }

    /// The text as ASCII bytes, without an allocation.
    ///
    /// ```
    /// # use cachetag_core::Version;
    /// assert_eq!(&Version::default().to_bytes(), b"0000000000.00000000000000000000");
    /// ```
    pub fn to_bytes(self) -> [u8; Version::LEN] {
        let mut text = [b'.'; Version::LEN];
        write_digits(self.epoch.0, &mut text[..EPOCH_DIGITS]);
        write_digits(self.lsn.0, &mut text[EPOCH_DIGITS + 1..]);
        text
    }
}

const EPOCH_DIGITS: usize = 10;
const LSN_DIGITS: usize = 20;

fn write_digits(mut number: u64, out: &mut [u8]) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// The number that is written with exactly this many decimal digits.
fn read_digits(text: &[u8], count: usize) -> Option<u64> {
    if text.len() != count {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:020}", self.epoch, self.lsn.0)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    /// Takes the 31 bytes that [`Version`] displays, and nothing else.
    fn from_str(text: &str) -> Result<Version, VersionError> {
        // Every hit reads some: by place, without looking for the dot.
        text.as_bytes()
            .split_at_checked(EPOCH_DIGITS)
            .and_then(|(epoch, rest)| {
                let epoch = Epoch(read_digits(epoch, EPOCH_DIGITS)?);
                Some(Version { epoch, lsn: Lsn(read_digits(rest.strip_prefix(b".")?, LSN_DIGITS)?) })
            })
            .ok_or_else(|| VersionError::Version { text: crate::tag::excerpt(text) })
    }
}

/// Why a text is not a version or a position, or a number not an epoch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VersionError {
    /// Not a position in the write-ahead log.
    #[error("{text:?} is not a log position: write it as PostgreSQL does, for example 16/B374D848")]
    Lsn {
        /// What was given, shortened.
        text: Box<str>,
    },
    /// Not a version.
    #[error("{text:?} is not a version: it has ten digits, a dot and twenty digits that fit in 64 bits")]
    Version {
        /// What was given, shortened.
        text: Box<str>,
    },
    /// An epoch of more than ten digits.
    #[error("epoch {number} has more than ten digits: is it in milliseconds? An epoch is a Unix time in seconds")]
    Epoch {
        /// What was given.
        number: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_ten_digits() {
        assert_eq!(Epoch::new(9_999_999_999), Ok(Epoch::MAX));
        assert_eq!(
            Epoch::new(1_767_225_600_000).unwrap_err().to_string(),
            "epoch 1767225600000 has more than ten digits: is it in milliseconds? An epoch is a Unix time in seconds"
        );
        assert_eq!(Epoch::new(7).unwrap().to_string(), "0000000007");
    }

    #[test]
    fn the_epoch_decides_first() {
        let version = |epoch, lsn| Version::new(Epoch::new(epoch).unwrap(), Lsn(lsn));
        assert!(version(1, u64::MAX) < version(2, 0));
        assert!(version(2, 9) < version(2, 10));
    }
}
