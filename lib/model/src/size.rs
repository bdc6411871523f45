//! Sizes in bytes as people type and read them.

use serde::{Deserialize, Serialize};

/// A number of bytes. Parses `512M`, `10GiB`, `1.5g`, `4096`; K, M, G and T are powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

/// Not a size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a size (examples: 512M, 10G, 1.5GiB)")]
pub struct SizeError(String);

impl std::str::FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let error = || SizeError(text.to_owned());
        let split = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(error()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole
                .checked_mul(1 << shift)
                .map(ByteSize)
                .ok_or_else(error);
        }
        let fraction: f64 = number.parse().map_err(|_| error())?;
        let bytes = fraction * (1u64 << shift) as f64;
        if shift > 0 && bytes.is_finite() && bytes < 2f64.powi(62) {
            Ok(ByteSize(bytes as u64))
        } else {
            Err(error())
        }
    }
}

impl std::fmt::Display for ByteSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let units = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < units.len() {
            value /= 1024.0;
            unit += 1;
        }
        if unit == 0 || value.fract() < 0.05 {
            f.pad(&format!("{value:.0} {}", units[unit]))
        } else {
            f.pad(&format!("{value:.1} {}", units[unit]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_and_print() {
        for (text, bytes, printed) in [
            ("4096", 4096, "4 KiB"),
            ("512M", 512 << 20, "512 MiB"),
            ("10GiB", 10 << 30, "10 GiB"),
            ("1.5g", 3 << 29, "1.5 GiB"),
            ("0", 0, "0 B"),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
            assert_eq!(ByteSize(bytes).to_string(), printed);
        }
        for bad in ["", "G", "-1", "1X", "1.5", "99999999999T", "1..5G", "nan"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }
}
