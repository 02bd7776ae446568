//! Sizes and limits as people write them: `512MiB`, `8GB`, `none`.

use std::time::Duration;

use super::duration;

/// A limit that may be absent: `none`. Nought is refused: it reads as "no limit" to some and as "at once" to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit<T>(pub Option<T>);

/// Parses a number of bytes with a unit (`kB`, `MB`, `GB`, `TB`, or `KiB` … `TiB`; all count in 1024s, as PostgreSQL's settings do), or `none`.
pub fn parse_size(text: &str) -> Result<Limit<u64>, String> {
    let text = text.trim();
    if text == "none" {
        return Ok(Limit(None));
    }
    let wrong = || format!("{text:?} is not a size: write a number and a unit (kB, MB, GB, TB), such as 8GiB, or none");
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.trim() {
        "kB" | "KB" | "KiB" => 10,
        "MB" | "MiB" => 20,
        "GB" | "GiB" => 30,
        "TB" | "TiB" => 40,
        "B" => 0,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match number.checked_mul(1 << shift) {
        Some(0) => Err("0 would give everything up at once; write none for no limit".into()),
        Some(bytes) => Ok(Limit(Some(bytes))),
        None => Err(format!("{text:?} is out of range for a size")),
    }
}

/// Parses a duration above zero, or `none`.
pub fn parse_age(text: &str) -> Result<Limit<Duration>, String> {
    if text.trim() == "none" {
        return Ok(Limit(None));
    }
    match duration::parse_duration(text)? {
        Duration::ZERO => Err("0 would give everything up at once; write none for no limit".into()),
        age => Ok(Limit(Some(age))),
    }
}

/// The shortest exact way to write a size.
pub fn render_size(limit: Option<u64>) -> String {
    let Some(bytes) = limit else { return "none".into() };
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_units() {
        for (text, bytes) in [("8GiB", 8u64 << 30), ("8 GB", 8 << 30), ("1kB", 1024), ("17B", 17), (" 2TB ", 2 << 40)] {
            assert_eq!(parse_size(text), Ok(Limit(Some(bytes))), "{text}");
        }
        assert_eq!(parse_size("none"), Ok(Limit(None)));
        assert_eq!(parse_age("none"), Ok(Limit(None)));
        assert_eq!(parse_age("1h"), Ok(Limit(Some(Duration::from_secs(3600)))));
    }

    #[test]
    fn refuses_what_has_no_clear_meaning() {
        for text in ["", "8", "0", "0GiB", "-1GB", "1.5GB", "GB", "99999999999TB", "8gib", "never"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for text in ["0s", "1", "never"] {
            assert!(parse_age(text).is_err(), "{text}");
        }
        assert!(parse_size("0GB").is_err_and(|e| e.contains("none")));
    }

    #[test]
    fn what_is_written_reads_back() {
        for limit in [None, Some(1), Some(1536), Some(1 << 20), Some(8 << 30), Some(u64::MAX)] {
            assert_eq!(parse_size(&render_size(limit)), Ok(Limit(limit)));
        }
    }
}
