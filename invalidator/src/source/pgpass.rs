//! The password file of libpq: lines `host:port:database:user:password`.

use std::path::Path;

use tracing::warn;

/// The password of the first line that matches, if the file is there and nobody else can read it.
pub(super) fn password(file: &Path, wanted: [&str; 4]) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(file).ok()?.permissions().mode();
    if mode & 0o077 != 0 {
        warn!(file = %file.display(), "the password file can be read by others, so it is not used; chmod 600 it");
        return None;
    }
    search(&std::fs::read_to_string(file).ok()?, wanted)
}

fn search(text: &str, wanted: [&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for field in wanted {
            let (value, tail) = field_of(rest)?;
            if value != "*" && value != field {
                return None;
            }
            rest = tail?;
        }
        Some(field_of(rest)?.0)
    })
}

/// A field with its escapes undone, and what follows its colon.
fn field_of(text: &str) -> Option<(String, Option<&str>)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            ':' => return Some((value, Some(&text[at + 1..]))),
            '\\' => value.push(chars.next()?.1),
            plain => value.push(plain),
        }
    }
    Some((value, None))
}

#[cfg(test)]
mod tests {
    use super::search;

    #[test]
    fn first_match_wins() {
        let text = "# comment\nother:5432:shop:ann:no\nbroken\ndb:5432:*:ann:se\\:cr\\\\et\n*:*:*:*:last";
        assert_eq!(search(text, ["db", "5432", "shop", "ann"]).as_deref(), Some(r"se:cr\et"));
        assert_eq!(search(text, ["db", "5433", "shop", "ann"]).as_deref(), Some("last"));
        assert_eq!(search("a:1:b:c:d", ["a", "1", "b", "x"]), None);
        assert_eq!(search("a:1:b:c", ["a", "1", "b", "c"]), None);
    }
}
