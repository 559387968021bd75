//! Whole numbers of JSON that no BIGINT holds keep their digits.
//!
//! The reader of DataFusion 55.2 makes a DOUBLE of a column with a number beyond 9223372036854775807, and rounds it to 16
//! digits: identifiers of 64 bits then become others. Here such a column is BIGINT UNSIGNED, or a DECIMAL where it has
//! negative numbers too, as in DuckDB. FieldNumbers with a fraction, and those beyond 18446744073709551615, are doubles.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::error::{DataFusionError, Result};
use datafusion::object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

/// The digits of the smallest number that is beyond BIGINT.
const DIGITS: usize = 19;

/// A DECIMAL for whole numbers between the least BIGINT and the greatest BIGINT UNSIGNED.
const SIGNED: DataType = DataType::Decimal128(20, 0);

/// The schema of a file with wide integers in the place of such doubles.
///
/// # Errors
/// When the file cannot be read.
pub(super) async fn widen(
    schema: SchemaRef,
    format: &JsonFormat,
    store: &Arc<dyn ObjectStore>,
    object: &ObjectMeta,
) -> Result<SchemaRef> {
    if !schema.fields().iter().any(|field| has_double(field.data_type())) {
        return Ok(schema);
    }
    let mut scan = Scan::default();
    let mut chunks = text(format, store, object).await?;
    while let Some(chunk) = chunks.try_next().await? {
        scan.look(&chunk);
    }
    if !scan.ended() {
        return Ok(schema);
    }
    let chunks: Vec<Bytes> = text(format, store, object).await?.try_collect().await?;
    let parsed = tokio::task::spawn_blocking(move || FieldNumbers::of(&chunks.concat()));
    let numbers = parsed
        .await
        .map_err(|error| DataFusionError::External(Box::new(error)))?;
    let fields = schema.fields().iter().map(|field| numbers.widened(field, ""));
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

async fn text(
    format: &JsonFormat,
    store: &Arc<dyn ObjectStore>,
    object: &ObjectMeta,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    let compression = FileCompressionType::from(format.options().compression);
    let bytes = store.get(&object.location).await?.into_stream().map_err(Into::into);
    compression.convert_stream(bytes.boxed())
}

fn has_double(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float64 => true,
        DataType::List(item) => has_double(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_double(field.data_type())),
        _ => false,
    }
}

/// Looks for whole numbers with many digits outside of texts, chunk by chunk, which is faster than to parse them.
#[derive(Default)]
struct Scan {
    is_text: bool,
    is_escaped: bool,
    /// The digits of a number so far.
    digits: usize,
    /// Whether the number has a point, or an exponent.
    has_fraction: bool,
    found: bool,
}

impl Scan {
    fn look(&mut self, chunk: &[u8]) {
        for byte in chunk {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.is_text => self.is_escaped = true,
                b'"' => self.is_text = !self.is_text,
                _ if self.is_text => {}
                b'0'..=b'9' => self.digits += 1,
                b'.' | b'e' | b'E' => self.has_fraction = true,
                _ => self.end_number(),
            }
        }
    }

    fn end_number(&mut self) {
        self.found |= self.digits >= DIGITS && !self.has_fraction;
        self.digits = 0;
        self.has_fraction = false;
    }

    /// Whether the text, which ends here, has such a number.
    fn ended(mut self) -> bool {
        self.end_number();
        self.found
    }
}

/// What the numbers of each field are, by its path.
#[derive(Default)]
struct FieldNumbers {
    fields: HashMap<String, Kind>,
}

#[derive(Clone, Copy, Default)]
struct Kind {
    is_beyond: bool,
    is_negative: bool,
    has_fraction: bool,
}

impl FieldNumbers {
    fn of(text: &[u8]) -> Self {
        let mut numbers = Self::default();
        for value in serde_json::Deserializer::from_slice(text).into_iter::<Value>() {
            // What is no JSON is told where it is read.
            let Ok(value) = value else {
                break;
            };
            match value {
                Value::Array(rows) => rows.iter().for_each(|row| numbers.look(row, "")),
                row => numbers.look(&row, ""),
            }
        }
        numbers
    }

    fn look(&mut self, value: &Value, path: &str) {
        match value {
            Value::Number(number) => {
                let kind = match self.fields.get_mut(path) {
                    Some(kind) => kind,
                    None => self.fields.entry(path.to_owned()).or_default(),
                };
                match (number.as_i64(), number.as_u64()) {
                    (Some(number), _) => kind.is_negative |= number < 0,
                    (None, Some(_)) => kind.is_beyond = true,
                    (None, None) => kind.has_fraction = true,
                }
            }
            // The elements of a list are of one field.
            Value::Array(items) => items.iter().for_each(|item| self.look(item, path)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    self.look(value, &below(path, name));
                }
            }
            Value::Null | Value::Bool(_) | Value::String(_) => {}
        }
    }

    fn widened(&self, field: &FieldRef, path: &str) -> FieldRef {
        self.in_place(field, &below(path, field.name()))
    }

    fn in_place(&self, field: &FieldRef, path: &str) -> FieldRef {
        let data_type = match field.data_type() {
            DataType::Float64 => match self.fields.get(path) {
                Some(kind) if kind.is_beyond && !kind.has_fraction => match kind.is_negative {
                    true => SIGNED,
                    false => DataType::UInt64,
                },
                _ => return Arc::clone(field),
            },
            DataType::List(item) => DataType::List(self.in_place(item, path)),
            DataType::Struct(fields) => DataType::Struct(fields.iter().map(|part| self.widened(part, path)).collect()),
            _ => return Arc::clone(field),
        };
        Arc::new(Field::clone(field).with_data_type(data_type))
    }
}

/// The path of a field. The lengths keep names apart whatever they are.
fn below(path: &str, name: &str) -> String {
    format!("{path}{}:{name}", name.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn finds(text: &str) -> bool {
        let mut scan = Scan::default();
        for chunk in text.as_bytes().chunks(3) {
            scan.look(chunk);
        }
        scan.ended()
    }

    #[test]
    fn long_whole_numbers_are_found() {
        assert!(finds(r#"{"a": 18446744073709551615}"#));
        assert!(finds("9223372036854775808"));
        assert!(finds(r#"{"t": "\"", "a": [1, 9223372036854775808]}"#));
        assert!(!finds(r#"{"a": 0.1844674407370955161512, "b": 1e300}"#));
        assert!(!finds(r#"{"a": "18446744073709551615 \" 18446744073709551615"}"#));
        assert!(!finds(r#"{"a": 123456789012345678, "b": 1234567890}"#));
    }

    #[test]
    fn fields_get_types_that_hold_their_numbers() {
        let mut numbers = FieldNumbers::default();
        numbers.look(&json!({"u": 1, "s": -1, "d": 0.5, "n": {"l": [u64::MAX, 1]}}), "");
        numbers.look(
            &json!({"u": u64::MAX, "s": u64::MAX, "d": u64::MAX, "n": {"l": []}}),
            "",
        );
        let double = |name: &str| Arc::new(Field::new(name, DataType::Float64, true));
        let list = Arc::new(Field::new("l", DataType::List(double("item")), true));
        let nested: FieldRef = Arc::new(Field::new("n", DataType::Struct(vec![list].into()), true));
        let data_type = |field: &FieldRef| numbers.widened(field, "").data_type().clone();
        assert_eq!(data_type(&double("u")), DataType::UInt64);
        assert_eq!(data_type(&double("s")), SIGNED);
        assert_eq!(data_type(&double("d")), DataType::Float64);
        let DataType::Struct(fields) = data_type(&nested) else {
            panic!("a struct stays one");
        };
        assert!(matches!(fields[0].data_type(), DataType::List(item) if *item.data_type() == DataType::UInt64));
    }
}
