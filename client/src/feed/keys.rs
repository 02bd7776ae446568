//! Which keys an entry checks, exactly as `cachetag_put` settles it in Redis.

use std::fmt;

use cachetag_core::Tag;

/// A key whose last bump an entry checks.
///
/// ```text
/// tag product:42   t:product:42 and t:product:*
/// tag product:*    t:product:* and a:product
/// tag *            a:*                             (the floor is checked for every entry)
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum CheckKey {
    /// `t:<tag>`: the tag itself.
    Tag(Box<str>),
    /// `a:<family>`: any member of the family; `*` any tag at all.
    Members(Box<str>),
}

/// A key whose last bump an entry checks, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    /// `t:<tag>`: the tag itself, or `family:*`.
    Tag(&'a str),
    /// `a:<family>`: any member of the family; `*` any tag at all.
    Members(&'a str),
}

impl CheckKey {
    /// The key.
    pub(crate) fn as_key(&self) -> Key<'_> {
        match self {
            CheckKey::Tag(tag) => Key::Tag(tag),
            CheckKey::Members(family) => Key::Members(family),
        }
    }
}

impl fmt::Display for CheckKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckKey::Tag(tag) => write!(f, "t:{tag}"),
            CheckKey::Members(family) => write!(f, "a:{family}"),
        }
    }
}

/// The family under which a bumped tag is a member: the text before the first `:`. That of `*` is `*`, as in Redis.
pub(super) fn family(tag: &str) -> &str {
    tag.split_once(':').map_or(tag, |(family, _)| family)
}

/// The keys that an entry with these tags checks, each once.
pub(crate) fn check_keys(tags: &[Tag]) -> Vec<CheckKey> {
    let mut keys = Vec::with_capacity(tags.len() * 2);
    for tag in tags {
        let text = tag.as_str();
        if tag.is_everything() {
            keys.push(CheckKey::Members("*".into()));
        } else if tag.is_whole_family() {
            keys.push(CheckKey::Tag(text.into()));
            keys.push(CheckKey::Members(family(text).into()));
        } else {
            keys.push(CheckKey::Tag(text.into()));
            keys.push(CheckKey::Tag(format!("{}:*", family(text)).into()));
        }
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(tags: &[&str]) -> Vec<String> {
        let tags: Vec<Tag> = tags.iter().map(|tag| Tag::parse(tag).unwrap()).collect();
        check_keys(&tags).iter().map(CheckKey::to_string).collect()
    }

    #[test]
    fn an_entry_checks_what_redis_checks() {
        assert_eq!(keys(&["product:42"]), ["t:product:*", "t:product:42"]);
        assert_eq!(keys(&["product:*"]), ["t:product:*", "a:product"]);
        assert_eq!(keys(&["*"]), ["a:*"]);
        assert_eq!(keys(&["homepage"]), ["t:homepage", "t:homepage:*"]);
        assert_eq!(keys(&["a:b:c"]), ["t:a:*", "t:a:b:c"]);
        assert_eq!(keys(&[]), [""; 0]);
    }

    #[test]
    fn a_key_is_checked_once() {
        assert_eq!(keys(&["p:1", "p:2", "p:1"]), ["t:p:*", "t:p:1", "t:p:2"]);
        assert_eq!(keys(&["p:*", "p:1"]), ["t:p:*", "t:p:1", "a:p"]);
    }

    #[test]
    fn a_family_is_what_precedes_the_colon() {
        assert_eq!([family("p:1:2"), family("p"), family("p:*"), family("*")], ["p", "p", "p", "*"]);
    }
}
