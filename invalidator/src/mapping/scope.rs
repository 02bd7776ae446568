//! What a canonical tag text stands for.

/// What a bump of a tag covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope<'a> {
    /// `*`
    Everything,
    /// `family:*`
    Family(&'a str),
    /// A single tag, of this family.
    Member(&'a str),
}

impl<'a> Scope<'a> {
    /// `tag` is canonical: an asterisk can only be its last byte, and then stands alone or behind the family's colon.
    pub(super) fn of(tag: &'a str) -> Self {
        if tag == "*" {
            return Self::Everything;
        }
        match tag.strip_suffix(":*") {
            Some(family) => Self::Family(family),
            None => Self::Member(tag.split_once(':').map_or(tag, |(family, _)| family)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes() {
        assert_eq!(Scope::of("*"), Scope::Everything);
        assert_eq!(Scope::of("product:*"), Scope::Family("product"));
        assert_eq!(Scope::of("product:42"), Scope::Member("product"));
        assert_eq!(Scope::of("product:a:b"), Scope::Member("product"));
        assert_eq!(Scope::of("product:"), Scope::Member("product"));
        assert_eq!(Scope::of("product"), Scope::Member("product"));
        assert_eq!(Scope::of("product:%2A"), Scope::Member("product"));
    }
}
