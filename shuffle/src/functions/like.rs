//! `LIKE` with several texts to find, such as `'%special%requests%'`.
//!
//! Arrow's kernel makes a regular expression of such a pattern anew for each batch. Here the texts are looked for one after the
//! other. The first place of each is the right one: any later one leaves less to find the rest in.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArrayType};
use datafusion::arrow::compute::kernels::comparison;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use memchr::memmem::Finder;

use super::strict_field;

/// `like_in_order(text, pattern)` is `text LIKE pattern`, for a pattern that is a constant. Plans of Substrait know the
/// operator as a function `like`, so this has another name.
pub fn like() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Like {
        signature: Signature::any(2, Volatility::Immutable),
    }))
}

/// Whether [`like`] is faster than the operator: there are two texts to find or more, and nothing else. A pattern with a
/// beginning stays, for it prunes files.
pub fn is_faster(pattern: &str) -> bool {
    pattern.starts_with('%') && Pattern::of(pattern).is_some_and(|pattern| pattern.texts() > 1)
}

/// A pattern without wildcards other than `%`.
struct Pattern<'a> {
    start: &'a str,
    inner: Vec<Finder<'a>>,
    end: &'a str,
}

impl<'a> Pattern<'a> {
    /// None where `_` stands for a character, `\` for the next one, or nothing for any text.
    fn of(pattern: &'a str) -> Option<Self> {
        if pattern.contains(['_', '\\']) {
            return None;
        }
        let (start, rest) = pattern.split_once('%')?;
        let (inner, end) = rest.rsplit_once('%').unwrap_or(("", rest));
        let inner = inner.split('%').filter(|text| !text.is_empty()).map(Finder::new);
        Some(Self {
            start,
            inner: inner.collect(),
            end,
        })
    }

    fn texts(&self) -> usize {
        let ends = [self.start, self.end];
        self.inner.len() + ends.into_iter().filter(|text| !text.is_empty()).count()
    }

    fn matches(&self, text: &str) -> bool {
        let Some(mut rest) = text.as_bytes().strip_prefix(self.start.as_bytes()) else {
            return false;
        };
        for part in &self.inner {
            let Some(place) = part.find(rest) else {
                return false;
            };
            rest = &rest[place + part.needle().len()..];
        }
        rest.ends_with(self.end.as_bytes())
    }

    fn matches_all<'t>(&self, texts: impl StringArrayType<'t>) -> ArrayRef {
        Arc::new(BooleanArray::from_unary(texts, |text| self.matches(text)))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Like {
    signature: Signature,
}

impl ScalarUDFImpl for Like {
    fn name(&self) -> &str {
        "like_in_order"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        strict_field(self.name(), &args, |types| self.return_type(types))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [texts, ColumnarValue::Scalar(pattern)] = &args.args[..] else {
            return exec_err!("like_in_order takes a text and a constant pattern");
        };
        let is_constant = matches!(texts, ColumnarValue::Scalar(_));
        let texts = texts.to_array(1)?;
        let found = found(&texts, pattern)?;
        Ok(match is_constant {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&found, 0)?),
            false => ColumnarValue::Array(found),
        })
    }
}

fn found(texts: &ArrayRef, pattern: &ScalarValue) -> Result<ArrayRef> {
    let parsed = pattern.try_as_str().flatten().and_then(Pattern::of);
    Ok(match (texts.data_type(), parsed) {
        (DataType::Utf8, Some(pattern)) => pattern.matches_all(texts.as_string::<i32>()),
        (DataType::LargeUtf8, Some(pattern)) => pattern.matches_all(texts.as_string::<i64>()),
        (DataType::Utf8View, Some(pattern)) => pattern.matches_all(texts.as_string_view()),
        _ => {
            let pattern = pattern.cast_to(texts.data_type())?.to_scalar()?;
            Arc::new(comparison::like(texts, &pattern)?)
        }
    })
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::StringArray;
    use proptest::prelude::*;

    use super::*;

    fn by_kernel(texts: &[Option<String>], pattern: &str) -> BooleanArray {
        let texts = StringArray::from(texts.to_vec());
        comparison::like(&texts, &StringArray::new_scalar(pattern)).unwrap()
    }

    proptest! {
        #[test]
        fn equals_the_operator(
            texts in prop::collection::vec(prop::option::of("[abé\n%_]{0,8}"), 1..8),
            pattern in "[ab%é_]{0,6}",
        ) {
            for data_type in [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View] {
                let column = Arc::new(StringArray::from(texts.clone())) as ArrayRef;
                let column = datafusion::arrow::compute::cast(&column, &data_type).unwrap();
                let found = found(&column, &ScalarValue::from(pattern.as_str())).unwrap();
                prop_assert_eq!(found.as_boolean(), &by_kernel(&texts, &pattern));
            }
        }
    }

    #[test]
    fn only_patterns_of_several_texts_are_faster() {
        for (pattern, expected) in [
            ("%special%requests%", true),
            ("%a%b", true),
            ("%a%b%c", true),
            ("%a%", false),
            ("%a", false),
            ("a%b%c%", false),
            ("%a_%b%", false),
            ("%a\\%%b%", false),
            ("abc", false),
            ("%", false),
        ] {
            assert_eq!(is_faster(pattern), expected, "{pattern}");
        }
    }
}
