//! Durations as people write them: `500ms`, `2s`, `1.5s`, `3m`, `1h`.

use std::time::Duration;

/// Parses a number with a unit (`us`, `ms`, `s`, `m`, `h`); a bare number is refused, since its unit would be a guess.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit.trim() {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => {
            return Err(format!(
                "{text:?} is not a duration: write a number and a unit (us, ms, s, m, h), such as 500ms"
            ));
        }
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is not a duration: {number:?} is not a number"))?;
    Duration::try_from_secs_f64(number * scale).map_err(|_| format!("{text:?} is out of range for a duration"))
}

/// The shortest exact way to write a duration.
pub(super) fn render(duration: Duration) -> String {
    let us = duration.as_micros();
    match us {
        0 => "0s".into(),
        _ if us.is_multiple_of(1_000_000) => format!("{}s", us / 1_000_000),
        _ if us.is_multiple_of(1_000) => format!("{}ms", us / 1_000),
        _ => format!("{us}us"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration(" 3 m "), Ok(Duration::from_secs(180)));
    }

    #[test]
    fn refuses_what_has_no_clear_meaning() {
        for text in ["", "5", "s", "-1s", "1..2s", "1e400s", "99999999999999999999999h", "1 day"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for duration in [Duration::from_secs(2), Duration::from_millis(1), Duration::from_micros(1500)] {
            assert_eq!(parse_duration(&render(duration)), Ok(duration));
        }
    }
}
