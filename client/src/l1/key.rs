//! Keys as the store holds them.

use std::hash::{Hash, Hasher};

use moka::Equivalent;

/// Bytes of a short key: with the length and the kind they fill three quarters of a cache line, and the counts before them the rest.
const SHORT: usize = 46;

/// A key in the store. A short one lies in place, so that comparing it reads no more memory than finding it does.
#[derive(Clone)]
pub(super) enum StoredKey {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Box<str>),
}

/// A key that is looked for.
pub(super) struct Sought<'a>(pub(super) &'a str);

impl StoredKey {
    pub(super) fn new(key: &str) -> StoredKey {
        let mut bytes = [0; SHORT];
        match bytes.get_mut(..key.len()) {
            Some(place) => {
                place.copy_from_slice(key.as_bytes());
                StoredKey::Short { length: key.len() as u8, bytes }
            }
            None => StoredKey::Long(key.into()),
        }
    }

    #[inline]
    fn as_bytes(&self) -> &[u8] {
        match self {
            StoredKey::Short { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or(bytes),
            StoredKey::Long(key) => key.as_bytes(),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            // It was made of a text.
            StoredKey::Short { .. } => std::str::from_utf8(self.as_bytes()).unwrap_or_default(),
            StoredKey::Long(key) => key,
        }
    }
}

impl PartialEq for StoredKey {
    fn eq(&self, other: &StoredKey) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for StoredKey {}

impl Hash for StoredKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash(self.as_bytes(), state);
    }
}

impl Hash for Sought<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash(self.0.as_bytes(), state);
    }
}

impl Equivalent<StoredKey> for Sought<'_> {
    #[inline]
    fn equivalent(&self, key: &StoredKey) -> bool {
        self.0.as_bytes() == key.as_bytes()
    }
}

/// As a text is hashed, whichever of the two it is.
#[inline]
fn hash<H: Hasher>(bytes: &[u8], state: &mut H) {
    state.write(bytes);
    state.write_u8(0xFF);
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    #[test]
    fn a_key_is_found_whatever_its_length() {
        let hasher = RandomState::new();
        for length in [0, 1, SHORT - 1, SHORT, SHORT + 1, 1000] {
            let text = "k".repeat(length);
            let (key, other) = (StoredKey::new(&text), StoredKey::new(&format!("{text}k")));
            assert_eq!(key.as_str(), text);
            assert!(Sought(&text).equivalent(&key) && !Sought(&text).equivalent(&other) && key != other);
            assert_eq!(hasher.hash_one(&key), hasher.hash_one(Sought(&text)));
            assert_eq!(matches!(key, StoredKey::Short { .. }), length <= SHORT);
        }
        // Bytes of a text that end in the middle of a letter would be none.
        let umlauts = "ä".repeat(SHORT / 2);
        assert_eq!(StoredKey::new(&umlauts).as_str(), umlauts);
        assert!(size_of::<StoredKey>() == 48);
    }
}
