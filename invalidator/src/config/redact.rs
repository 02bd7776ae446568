//! Connection strings without their passwords, for logs and messages. What cannot be taken apart is hidden rather than shown.

use crate::source::dsn;

const HIDDEN: &str = "***";

/// A connection string with every password in it replaced by `***`.
pub fn redact(text: &str) -> String {
    let is_scheme = |scheme: &str| scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    match text.trim_start().split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => format!("{scheme}://{}", url(rest)),
        _ => pairs(text),
    }
}

fn url(rest: &str) -> String {
    let query = rest.find('?').unwrap_or(rest.len());
    // A password that should have been encoded may hold any of the characters that end it: everything up to the last `@` is the login.
    let login = rest[..query].rfind('@').or_else(|| rest.rfind('@')).unwrap_or(0);
    let shown = match rest[..login].split_once(':') {
        Some((user, _)) => format!("{user}:{HIDDEN}"),
        None => rest[..login].to_owned(),
    };
    let rest = &rest[login..];
    let Some((place, query)) = rest.split_once('?') else { return shown + rest };
    let parameter = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={HIDDEN}"),
        _ => pair.to_owned(),
    };
    format!("{shown}{place}?{}", query.split('&').map(parameter).collect::<Vec<_>>().join("&"))
}

fn pairs(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(equals) = rest.find('=') {
        let name = &rest[..equals];
        let after = rest[equals + 1..].trim_start();
        shown.push_str(&rest[..rest.len() - after.len()]);
        let Some((_, next)) = dsn::value(after) else { return shown + HIDDEN };
        let value = &after[..after.len() - next.len()];
        if is_secret(name) {
            shown.push_str(HIDDEN);
            // What follows a closing quote at once may have been meant to belong to it.
            rest = &next[next.find(char::is_whitespace).unwrap_or(next.len())..];
        } else {
            shown.push_str(value);
            rest = next;
        }
    }
    shown + rest
}

fn is_secret(name: &str) -> bool {
    let name = name.trim().to_ascii_lowercase();
    name.contains("pass") && name != "passfile"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden_in_every_form() {
        for (text, shown) in [
            ("postgres://u:secret@h:1/d", "postgres://u:***@h:1/d"),
            ("postgres://u:se/cr@et@h:1/d", "postgres://u:***@h:1/d"),
            ("postgres://u:secr?et@h", "postgres://u:***@h"),
            ("postgres://u@h/d?password=secret&x=1", "postgres://u@h/d?password=***&x=1"),
            ("postgres://u@h/d?password=a&sslpassword=b", "postgres://u@h/d?password=***&sslpassword=***"),
            ("postgres://h:1/d?application_name=a", "postgres://h:1/d?application_name=a"),
            ("host=h password='se cret' user=u", "host=h password=*** user=u"),
            (r"host=h password='se\' cret' user=u", "host=h password=*** user=u"),
            (r"password=se\ cret user=u", "password=*** user=u"),
            ("host=h password=secret://x", "host=h password=***"),
            (" postgres://u:secret@h", "postgres://u:***@h"),
            ("password=''secret user=u", "password=*** user=u"),
            ("password = a host=h password=b", "password = *** host=h password=***"),
            ("user=password password=secret", "user=password password=***"),
            ("passfile=/x password='secret", "passfile=/x password=***"),
            ("redis://:secret@h:6379/0", "redis://:***@h:6379/0"),
            ("redis://h:6379/0", "redis://h:6379/0"),
            ("redis+unix:///s?db=1&pass=secret", "redis+unix:///s?db=1&pass=***"),
        ] {
            assert_eq!(redact(text), shown);
            assert_eq!(redact(shown), shown);
        }
    }
}
