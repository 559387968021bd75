//! Counts, sizes and times as people read them.

use std::time::Duration;

const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];

/// Such as `6,001,215`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Such as `230.1 MiB`.
pub(super) fn size(bytes: u64) -> String {
    let mut unit = None;
    let mut number = bytes as f64;
    for larger in UNITS {
        // What would be shown as 1024.0 of a unit is 1.0 of the next.
        if number < 1023.95 {
            break;
        }
        number /= 1024.0;
        unit = Some(larger);
    }
    match unit {
        None => format!("{bytes} B"),
        Some(unit) => format!("{number:.1} {unit}"),
    }
}

/// Such as `12.3 ms` or `2.10 s`.
pub(super) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{seconds:.2} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_few_digits() {
        let counts = [0, 12, 999, 1_000, 6_001_215].map(count);
        assert_eq!(counts, ["0", "12", "999", "1,000", "6,001,215"]);
        let sizes = [0, 1_023, 1_024, 1_048_575, 241_274_552, u64::MAX].map(size);
        assert_eq!(
            sizes,
            ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "230.1 MiB", "16384.0 PiB"]
        );
        let times = [0, 49, 12_345, 999_000, 2_104_000].map(|micros| time(Duration::from_micros(micros)));
        assert_eq!(times, ["0.0 ms", "0.0 ms", "12.3 ms", "999.0 ms", "2.10 s"]);
    }
}
