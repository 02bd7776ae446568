//! Connection strings as libpq reads them, taken apart into names and values; what they mean is [`super::options`]'s business.
//!
//! No error repeats the text: it may hold a password.

/// A setting and its value, in the order of the text.
pub(super) type Settings = Vec<(String, String)>;

/// Takes apart `postgres://user:password@host:port/database?name=value` or `name=value name='a value'`.
pub(super) fn parse(text: &str) -> Result<Settings, String> {
    let text = text.trim();
    match text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
        Some(rest) => url(rest),
        None => pairs(text),
    }
}

fn url(text: &str) -> Result<Settings, String> {
    let mut settings = Settings::new();
    let mut push = |name: &str, value: &str| -> Result<(), String> {
        if !value.is_empty() {
            let value = decoded(value).ok_or_else(|| format!("the {name} in the URL is not percent-encoded UTF-8"))?;
            settings.push((name.to_owned(), value));
        }
        Ok(())
    };
    let (text, query) = text.split_once('?').unwrap_or((text, ""));
    let (authority, database) = text.split_once('/').unwrap_or((text, ""));
    let (who, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = who.split_once(':').unwrap_or((who, ""));
    push("user", user)?;
    push("password", password)?;
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for host in host.split(',') {
        let (host, port) = match host.strip_prefix('[') {
            // An IPv6 address has colons of its own.
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or("an IPv6 address lacks its closing bracket")?;
                (address, port.strip_prefix(':').unwrap_or(port))
            }
            None => host.rsplit_once(':').unwrap_or((host, "")),
        };
        hosts.push(host);
        ports.push(port);
    }
    push("host", &hosts.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        push("port", &ports.join(","))?;
    }
    push("dbname", database)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or("a parameter behind the question mark has no value")?;
        push(name, value)?;
    }
    Ok(settings)
}

/// Undoes percent-encoding; `None` when it is broken.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let digit = |at: usize| tail.get(at).and_then(|&digit| char::from(digit).to_digit(16));
            bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

fn pairs(text: &str) -> Result<Settings, String> {
    let mut settings = Settings::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or("neither a postgres:// URL nor name=value pairs")?;
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err("neither a postgres:// URL nor name=value pairs".into());
        }
        let (value, after) =
            value(after.trim_start()).ok_or_else(|| format!("the value of {name} lacks its closing quote"))?;
        settings.push((name.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(settings)
}

/// A value, quoted or up to the next white space, and what follows it. A backslash takes the next character as it is.
pub(crate) fn value(text: &str) -> Option<(String, &str)> {
    let (quoted, text) = match text.strip_prefix('\'') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            space if !quoted && space.is_whitespace() => return Some((value, &text[at..])),
            plain => value.push(plain),
        }
    }
    if quoted { None } else { Some((value, "")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn settings<const N: usize>(expected: [(&str, &str); N]) -> Vec<(String, String)> {
        expected.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }

    #[test]
    fn urls() {
        assert_eq!(
            read("postgres://ann:p%40ss%3Aword@db.example:6543/shop?sslmode=verify-full&sslrootcert=%2Fca.pem"),
            settings([
                ("user", "ann"),
                ("password", "p@ss:word"),
                ("host", "db.example"),
                ("port", "6543"),
                ("dbname", "shop"),
                ("sslmode", "verify-full"),
                ("sslrootcert", "/ca.pem"),
            ])
        );
        assert_eq!(read("postgresql://[::1]:5433"), settings([("host", "::1"), ("port", "5433")]));
        assert_eq!(read("postgresql://[::1]/d"), settings([("host", "::1"), ("dbname", "d")]));
        assert_eq!(read("postgres://%2Frun%2Fpg/d"), settings([("host", "/run/pg"), ("dbname", "d")]));
        assert_eq!(read("postgres:///d?host=/run/pg"), settings([("dbname", "d"), ("host", "/run/pg")]));
        assert_eq!(read("postgres://"), settings([]));
        assert_eq!(
            read("postgres://a,[::1]:5433,c:1/d"),
            settings([("host", "a,::1,c"), ("port", ",5433,1"), ("dbname", "d")])
        );
        assert_eq!(read("postgres://a,b/d"), settings([("host", "a,b"), ("dbname", "d")]));
    }

    #[test]
    fn name_value_pairs() {
        assert_eq!(
            read(r"host = /run/pg user=ann password='it\'s a \\ secret' dbname=a\ b options=''"),
            settings([
                ("host", "/run/pg"),
                ("user", "ann"),
                ("password", r"it's a \ secret"),
                ("dbname", "a b"),
                ("options", ""),
            ])
        );
        assert_eq!(read(""), settings([]));
    }

    #[test]
    fn broken_ones_say_why_without_the_password() {
        for (text, word) in [
            ("nonsense", "neither"),
            ("user secret=x", "neither"),
            ("password='secret", "closing quote"),
            ("postgres://u:secret%zz@a/d", "percent-encoded"),
            ("postgres://u:secret%F@a/d", "percent-encoded"),
            ("postgres://u:secret@[::1/d", "bracket"),
            ("postgres://u:secret@h/d?x", "no value"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word) && !error.contains("secret"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = parse(&text);
            let _ = parse(&format!("postgres://{text}"));
        }

        #[test]
        fn quoting_carries_any_value(password in any::<String>()) {
            let quoted = password.replace('\\', "\\\\").replace('\'', "\\'");
            let parsed = parse(&format!("password='{quoted}' user=u")).unwrap();
            prop_assert_eq!(parsed, settings([("password", &password), ("user", "u")]));
        }
    }
}
