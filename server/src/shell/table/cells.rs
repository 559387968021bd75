//! Values as text that is safe for a terminal, and how wide a text is there.

use std::borrow::Cow;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

const OPTIONS: FormatOptions<'static> = FormatOptions::new().with_null("NULL").with_display_error(true);

/// Ends a text that was cut; as wide as one column.
const ELLIPSIS: char = '…';

/// What writes the values of each column of `batch`.
pub(super) fn formatters(batch: &RecordBatch) -> Result<Vec<ArrayFormatter<'_>>, ArrowError> {
    batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &OPTIONS))
        .collect()
}

/// The lines of a cell, safe for a terminal: tabs as blanks, other control characters as escapes.
pub(super) fn lines(text: &str) -> Vec<String> {
    let clean = |line: &str| {
        let mut clean = String::with_capacity(line.len());
        for character in line.chars() {
            match character {
                '\t' => clean.push_str("    "),
                control if control.is_control() => clean.extend(control.escape_default()),
                plain => clean.push(plain),
            }
        }
        clean
    };
    text.trim_end_matches('\n')
        .split('\n')
        .map(|line| clean(line.trim_end_matches('\r')))
        .collect()
}

/// How many columns a text takes in a terminal.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(character_width).sum()
}

/// The text in at most `most` columns; an ellipsis ends it if it is cut.
pub(super) fn cut(text: &str, most: usize) -> Cow<'_, str> {
    if width(text) <= most {
        return Cow::Borrowed(text);
    }
    let mut taken = 0;
    let kept = text.chars().take_while(|character| {
        taken += character_width(*character);
        // One column is left for the ellipsis.
        taken < most
    });
    Cow::Owned(kept.chain([ELLIPSIS]).collect())
}

/// Unicode Standard Annex 11, in ranges coarse enough for a table: combining marks take no column, East Asian wide
/// characters and pictographs two.
fn character_width(character: char) -> usize {
    match u32::from(character) {
        0x0300..=0x036F | 0x200B..=0x200F | 0xFE00..=0xFE0F => 0,
        0x1100..=0x115F | 0x2E80..=0xA4CF | 0xAC00..=0xD7A3 | 0xF900..=0xFAFF | 0xFE30..=0xFE6F => 2,
        0xFF00..=0xFF60 | 0xFFE0..=0xFFE6 | 0x1F300..=0x1FAFF | 0x20000..=0x3FFFD => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_text_is_never_wider_than_asked() {
        for (text, most, expected) in [
            ("abcd", 4, "abcd"),
            ("abcde", 4, "abc…"),
            ("日本語", 6, "日本語"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("e\u{301}fg", 2, "e\u{301}…"),
        ] {
            let found = cut(text, most);
            assert_eq!(found, expected, "{most}");
            assert!(width(&found) <= most, "{found}");
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(lines("a\u{1b}[2Jb\tc\r\nd\n"), ["a\\u{1b}[2Jb    c", "d"]);
    }
}
