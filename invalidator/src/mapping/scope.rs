//! What a canonical tag text stands for. On bytes, because the hot path renders tags into a buffer that it reuses.

/// The tag of everything.
pub(super) const EVERYTHING: &[u8] = b"*";

/// What a bump of a tag covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope<'a> {
    /// `*`
    Everything,
    /// `family:*`
    Family(&'a [u8]),
    /// A single tag, of this family.
    Member(&'a [u8]),
}

impl<'a> Scope<'a> {
    /// `tag` is canonical: an asterisk can only be its last byte, and then stands alone or behind the family's colon.
    pub(super) fn of(tag: &'a [u8]) -> Self {
        match tag {
            EVERYTHING => Self::Everything,
            [family @ .., b':', b'*'] => Self::Family(family),
            tag => Self::Member(tag.split(|&byte| byte == b':').next().unwrap_or(tag)),
        }
    }
}

/// `family:*`
pub(super) fn whole_family(family: &[u8]) -> Box<[u8]> {
    [family, b":*"].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes() {
        assert_eq!(Scope::of(b"*"), Scope::Everything);
        assert_eq!(Scope::of(b"product:*"), Scope::Family(b"product"));
        assert_eq!(Scope::of(b"product:42"), Scope::Member(b"product"));
        assert_eq!(Scope::of(b"product:a:b"), Scope::Member(b"product"));
        assert_eq!(Scope::of(b"product:"), Scope::Member(b"product"));
        assert_eq!(Scope::of(b"product"), Scope::Member(b"product"));
        assert_eq!(&*whole_family(b"product"), b"product:*");
    }
}
