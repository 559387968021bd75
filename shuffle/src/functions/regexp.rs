//! How large the values of `regexp_replace` will be.

use std::collections::HashMap;

use datafusion::arrow::array::{Array, ArrayRef, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::common::cast::as_string_array;
use datafusion::functions::regex::compile_regex;
use datafusion::logical_expr::ColumnarValue;

use super::arguments::array;

/// Matches are counted where a value could be larger than this, since counting costs as much as replacing.
const COUNTED_BYTES: u64 = 4 * 1024;

/// The sizes of the values of a batch.
pub(super) struct Growing(Vec<u64>);

impl Growing {
    /// Nothing for arguments that are no texts, and for patterns that are none: the function refuses them.
    pub(super) fn new(
        text: &ColumnarValue,
        pattern: &ColumnarValue,
        replacement: &ColumnarValue,
        flags: Option<&ColumnarValue>,
    ) -> Result<Self> {
        let columns = [Some(text), Some(pattern), Some(replacement), flags];
        let columns = columns.map(|column| column.map(texts).transpose());
        let [Ok(Some(text)), Ok(Some(pattern)), Ok(Some(replacement)), Ok(flags)] = columns else {
            return Ok(Self(Vec::new()));
        };
        let columns = [&text, &pattern, &replacement];
        let rows = columns.iter().map(|column| column.len()).max().unwrap_or(0);
        let mut counts = Counts::default();
        let size = |row| {
            let [Some(text), Some(pattern), Some(replacement)] = columns.map(|column| value(column, row)) else {
                return 0;
            };
            let flags = flags.as_ref().and_then(|flags| value(flags, row)).unwrap_or_default();
            let matches = |most: u64| match flags.contains('g') {
                false => most.min(1),
                true => most,
            };
            let most = grown(text, replacement, matches(text.len() as u64 + 1));
            if most <= COUNTED_BYTES {
                return most;
            }
            let found = counts.count(text, pattern, flags);
            grown(text, replacement, matches(found))
        };
        Ok(Self((0..rows).map(size).collect()))
    }

    /// The same for all rows where all arguments are constants.
    pub(super) fn at(&self, row: usize) -> u64 {
        let row = if self.0.len() == 1 { 0 } else { row };
        self.0.get(row).copied().unwrap_or(0)
    }
}

/// What a text takes in which so many matches are replaced. All matches together refer to no more than the text.
fn grown(text: &str, replacement: &str, matches: u64) -> u64 {
    let references = replacement.matches(['\\', '$']).count() as u64;
    let text = text.len() as u64;
    let replaced = matches.saturating_mul(replacement.len() as u64);
    text.saturating_mul(1 + references).saturating_add(replaced)
}

fn texts(column: &ColumnarValue) -> Result<ArrayRef> {
    Ok(cast(&array(column)?, &DataType::Utf8)?)
}

fn value(column: &ArrayRef, row: usize) -> Option<&str> {
    let column: &StringArray = as_string_array(column).ok()?;
    let row = if column.len() == 1 { 0 } else { row };
    column.is_valid(row).then(|| column.value(row))
}

/// Counts matches; compiles each pattern once.
#[derive(Default)]
struct Counts(HashMap<(String, String), Option<Matcher>>);

type Matcher = Box<dyn Fn(&str) -> usize>;

impl Counts {
    /// 0 for a pattern that is none.
    fn count(&mut self, text: &str, pattern: &str, flags: &str) -> u64 {
        let key = (pattern.to_owned(), flags.replace('g', ""));
        let matcher = self.0.entry(key).or_insert_with_key(|(pattern, flags)| {
            let flags = Some(flags.as_str()).filter(|flags| !flags.is_empty());
            let pattern = compile_regex(pattern, flags).ok()?;
            Some(Box::new(move |text: &str| pattern.find_iter(text).count()))
        });
        matcher.as_ref().map_or(0, |matcher| matcher(text) as u64)
    }
}
