//! Text for people.

/// Escapes control characters other than newline and tab, so that words of a guest, an image or a
/// server cannot drive the terminal.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// How long ago a time was: `12 s`, `3 min`, `5 h`, `2 d`.
pub fn age(then_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        // A clock that was set back by more than people do by accident.
        _ if then_ms > now_ms.saturating_add(60_000) => "in the future".to_owned(),
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (7200, "2 h"),
            (172_800, "2 d"),
        ] {
            assert_eq!(age(0, seconds * 1000), text);
        }
        assert_eq!(age(5000, 0), "0 s", "a clock that was set back a little");
        assert_eq!(age(3_600_000, 0), "in the future");
    }
}
