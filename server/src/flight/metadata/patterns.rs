//! Search patterns: `%` is any text, `_` any character, and `\` before either makes it literal.

use arrow::array::StringArray;
use arrow::compute::like;
use squadron_proto::Failure;

use crate::flight::status::invalid;

/// The names that match; all without a pattern.
pub(super) fn filter_names(names: Vec<String>, pattern: Option<&str>) -> Result<Vec<String>, Failure> {
    let Some(pattern) = pattern.filter(|pattern| *pattern != "%") else {
        return Ok(names);
    };
    let array = StringArray::from_iter_values(&names);
    let matches = like(&array, &StringArray::new_scalar(pattern))
        .map_err(|error| invalid(format!("the pattern {pattern:?} cannot be used: {error}")))?;
    let keep = |(name, matches): (String, Option<bool>)| (matches == Some(true)).then_some(name);
    Ok(names.into_iter().zip(matches.iter()).filter_map(keep).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_sql_like() {
        for (pattern, name, expected) in [
            ("orders", "orders", true),
            ("orders", "Orders", false),
            ("ord%", "orders", true),
            ("%", "", true),
            ("", "orders", false),
            ("", "", true),
            ("o_ders", "orders", true),
            ("o_ders", "oders", false),
            ("line_item", "lineXitem", true),
            (r"line\_item", "lineXitem", false),
            (r"line\_item", "line_item", true),
            (r"100\%", "100%", true),
            (r"100\%", "1000", false),
            ("%é_", "caféx", true),
            ("a.c", "abc", false),
            ("a%b\nc", "a\nb\nc", true),
            ("(", "(", true),
        ] {
            let found = filter_names(vec![name.into()], Some(pattern)).unwrap();
            assert_eq!(!found.is_empty(), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn odd_patterns_match_without_panic() {
        for pattern in [r"\", r"%\", "[", "\u{0}", &"%_".repeat(500)] {
            let found = filter_names(vec!["orders".into()], Some(pattern));
            assert!(found.is_ok_and(|names| names.is_empty()), "{pattern}");
        }
    }

    #[test]
    fn missing_pattern_keeps_every_name() {
        let names = vec!["a".to_string(), String::new()];
        assert_eq!(filter_names(names.clone(), None), Ok(names));
    }
}
