//! How large the values of a function will be, from its arguments.

use datafusion::arrow::array::Array;
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs};

use super::arguments::{Numbers, array, cardinalities, lengths, numbers};
use super::regexp;

/// The functions that can make large values of small arguments, and how they grow.
pub(super) const GROWING: [(&str, Growth); 13] = [
    ("repeat", Growth::Repeat),
    ("lpad", Growth::Pad),
    ("rpad", Growth::Pad),
    ("replace", Growth::Replace),
    ("concat", Growth::Concat),
    ("concat_ws", Growth::Concat),
    ("overlay", Growth::Concat),
    ("regexp_replace", Growth::RegexpReplace),
    ("array_concat", Growth::ArrayConcat),
    ("array_repeat", Growth::ArrayRepeat),
    ("array_resize", Growth::ArrayResize),
    ("range", Growth::Range),
    ("generate_series", Growth::Range),
];

/// How the size of a value follows from the arguments.
#[derive(Clone, Copy, Debug)]
pub(super) enum Growth {
    /// A text, so many times.
    Repeat,
    /// A text of so many characters.
    Pad,
    /// A text in which each occurrence of another grows.
    Replace,
    /// A text in which each match of a pattern grows.
    RegexpReplace,
    /// All texts together.
    Concat,
    /// The elements of all arrays together.
    ArrayConcat,
    /// An element, so many times.
    ArrayRepeat,
    /// So many elements.
    ArrayResize,
    /// The numbers between two.
    Range,
}

/// The sizes of the values of a batch, in bytes. Upper bounds where the exact size would cost as much as the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) largest: u64,
    pub(super) total: u64,
}

/// What an element of an array takes at least.
const ELEMENT_BYTES: u64 = 8;

impl Growth {
    /// Nothing for arguments of other types or numbers than expected: the function refuses them, or is small.
    pub(super) fn sizes(self, args: &ScalarFunctionArgs) -> Result<Sizes> {
        let rows = args.number_rows;
        let columns = args.args.as_slice();
        match (self, columns) {
            (Self::Repeat, [text, count]) => {
                let (text, count) = (lengths(text)?, numbers(count)?);
                Ok(sum(rows, columns, |row| text.at(row).saturating_mul(count.at(row))))
            }
            (Self::Pad, [_, count, ..]) => {
                let count = numbers(count)?;
                Ok(sum(rows, columns, |row| count.at(row)))
            }
            (Self::Replace, [text, from, to]) => {
                let (text, from, to) = (lengths(text)?, lengths(from)?, lengths(to)?);
                Ok(sum(rows, columns, |row| {
                    let occurrences = text.at(row) / from.at(row).max(1);
                    let growth = to.at(row).saturating_sub(from.at(row));
                    text.at(row).saturating_add(occurrences.saturating_mul(growth))
                }))
            }
            (Self::Concat, texts) => {
                let texts = texts.iter().map(lengths).collect::<Result<Vec<_>>>()?;
                Ok(sum(rows, columns, |row| {
                    let lengths = texts.iter().map(|text| text.at(row));
                    lengths.fold(0, u64::saturating_add)
                }))
            }
            (Self::RegexpReplace, [text, pattern, replacement, flags @ ..]) => {
                let growth = regexp::Growing::new(text, pattern, replacement, flags.first())?;
                Ok(sum(rows, columns, |row| growth.at(row)))
            }
            (Self::ArrayConcat, arrays) => {
                let sizes = arrays.iter().map(array_bytes).collect::<Result<Vec<_>>>()?;
                Ok(sum(rows, columns, |row| {
                    let sizes = sizes
                        .iter()
                        .map(|(elements, bytes)| elements.at(row).saturating_mul(*bytes));
                    sizes.fold(0, u64::saturating_add)
                }))
            }
            (Self::ArrayRepeat, [element, count]) => {
                let (bytes, count) = (element_bytes(element), numbers(count)?);
                Ok(sum(rows, columns, |row| count.at(row).saturating_mul(bytes)))
            }
            (Self::ArrayResize, [_, count, ..]) => {
                let count = numbers(count)?;
                if (0..rows).any(|row| count.signed(row) < 0) {
                    return exec_err!("array_resize needs a size of 0 or more");
                }
                Ok(sum(rows, columns, |row| count.at(row).saturating_mul(ELEMENT_BYTES)))
            }
            (Self::Range, [end]) => {
                let end = numbers(end)?;
                Ok(sum(rows, columns, |row| end.at(row).saturating_mul(ELEMENT_BYTES)))
            }
            (Self::Range, [start, end]) => range(rows, columns, start, end, None),
            (Self::Range, [start, end, step]) => range(rows, columns, start, end, Some(step)),
            _ => Ok(Sizes::default()),
        }
    }
}

fn range(
    rows: usize,
    columns: &[ColumnarValue],
    start: &ColumnarValue,
    end: &ColumnarValue,
    step: Option<&ColumnarValue>,
) -> Result<Sizes> {
    let (start, end) = (numbers(start)?, numbers(end)?);
    let step = step.map(numbers).transpose()?;
    Ok(sum(rows, columns, |row| {
        let step = step.as_ref().map_or(1, |step| step.signed(row).unsigned_abs());
        let distance = start.signed(row).abs_diff(end.signed(row));
        (distance / step.max(1)).saturating_mul(ELEMENT_BYTES)
    }))
}

/// A constant makes one value for all rows.
fn sum(rows: usize, columns: &[ColumnarValue], bytes: impl Fn(usize) -> u64) -> Sizes {
    let are_constant = columns.iter().all(|column| matches!(column, ColumnarValue::Scalar(_)));
    let rows = if are_constant { 1 } else { rows };
    (0..rows).map(bytes).fold(Sizes::default(), |sizes, bytes| Sizes {
        largest: sizes.largest.max(bytes),
        total: sizes.total.saturating_add(bytes),
    })
}

/// The number of elements of each array, and what one takes on average.
fn array_bytes(column: &ColumnarValue) -> Result<(Numbers, u64)> {
    let arrays = array(column)?;
    let counts = cardinalities(&arrays)?;
    let elements: u64 = (0..arrays.len()).map(|row| counts.at(row)).sum();
    let bytes = arrays.get_array_memory_size() as u64 / elements.max(1);
    Ok((counts, bytes.max(ELEMENT_BYTES)))
}

/// What one element takes on average.
fn element_bytes(column: &ColumnarValue) -> u64 {
    let bytes = match column {
        ColumnarValue::Scalar(value) => value.size(),
        ColumnarValue::Array(array) => array.get_array_memory_size() / array.len().max(1),
    };
    (bytes as u64).max(ELEMENT_BYTES)
}
