//! Rows as text or bytes, batch by batch, in the formats of `--format`.
//!
//! An encoder appends to a buffer that its caller writes out, so that a failure of the format and a failure of the output
//! stay apart.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::csv;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json;
use arrow::json::writer::LineDelimited;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::table::Table;
use crate::config::OutputFormat;

/// Writes the rows of one result.
pub(super) enum Encoder {
    /// A drawn table.
    Table(Table),
    /// Comma-separated values with a head; NULL is an empty field.
    Csv {
        /// What the columns are called; taken once the head is written.
        head: Option<SchemaRef>,
    },
    /// One JSON object a line, NULLs named.
    Json,
    /// An Arrow IPC stream.
    Arrow(Box<StreamWriter<Vec<u8>>>),
}

impl Encoder {
    /// An encoder for rows of `schema`.
    pub(super) fn new(format: OutputFormat, schema: &SchemaRef) -> Result<Self, ArrowError> {
        Ok(match format {
            OutputFormat::Table => Self::Table(Table::new(Arc::clone(schema))),
            OutputFormat::Csv => Self::Csv {
                head: Some(Arc::clone(schema)),
            },
            OutputFormat::Json => Self::Json,
            OutputFormat::Arrow => Self::Arrow(Box::new(StreamWriter::try_new(Vec::new(), schema)?)),
        })
    }

    /// Appends what can be written of the rows so far and of `batch`.
    pub(super) fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        match self {
            Self::Table(table) => text(out, |out| table.push(batch, out)),
            Self::Csv { head } => {
                let header = head.take().is_some();
                write_csv(batch, header, out)
            }
            Self::Json => {
                let mut writer = json::WriterBuilder::new()
                    .with_explicit_nulls(true)
                    .build::<_, LineDelimited>(out);
                writer.write(batch)?;
                writer.finish()
            }
            Self::Arrow(writer) => {
                writer.write(batch)?;
                out.append(writer.get_mut());
                Ok(())
            }
        }
    }

    /// Appends what is held back only in the hope of more rows.
    pub(super) fn settle(&mut self, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        match self {
            Self::Table(table) => text(out, |out| table.settle(out)),
            Self::Csv { .. } | Self::Json | Self::Arrow(_) => Ok(()),
        }
    }

    /// Appends the end of the result.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        match self {
            Self::Table(table) => text(out, |out| table.finish(out)),
            Self::Csv { head } => match head.take() {
                Some(schema) => write_csv(&RecordBatch::new_empty(schema), true, out),
                None => Ok(()),
            },
            Self::Json => Ok(()),
            Self::Arrow(writer) => {
                writer.finish()?;
                out.append(writer.get_mut());
                Ok(())
            }
        }
    }
}

fn text(out: &mut Vec<u8>, write: impl FnOnce(&mut String) -> Result<(), ArrowError>) -> Result<(), ArrowError> {
    let mut text = String::new();
    let result = write(&mut text);
    out.extend_from_slice(text.as_bytes());
    result
}

fn write_csv(batch: &RecordBatch, header: bool, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    if batch.num_columns() == 0 {
        return Ok(());
    }
    csv::WriterBuilder::new()
        .with_header(header)
        .build(out)
        .write(&flat(batch)?)
}

/// Lists, structs and other nested values as text, since CSV has no form of its own for them.
fn flat(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    if !schema.fields().iter().any(|field| field.data_type().is_nested()) {
        return Ok(batch.clone());
    }
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        if field.data_type().is_nested() {
            fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
            columns.push(as_text(column)?);
        } else {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(column));
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

fn as_text(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = FormatOptions::new();
    let formatter = ArrayFormatter::try_new(column, &options)?;
    let value = |row| {
        if column.is_null(row) {
            Ok(None)
        } else {
            formatter.value(row).try_to_string().map(Some)
        }
    };
    let values = (0..column.len())
        .map(value)
        .collect::<Result<StringArray, ArrowError>>()?;
    Ok(Arc::new(values))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, ListArray};
    use arrow::datatypes::Int32Type;
    use arrow::ipc::reader::StreamReader;

    use super::*;

    fn batch() -> RecordBatch {
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from(vec![1, 2]))),
            ("name", Arc::new(StringArray::from(vec![Some("a,\"b\""), None]))),
            ("list", Arc::new(lists)),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
    }

    fn encoded(format: OutputFormat, batches: &[RecordBatch]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(format, &batch().schema()).unwrap();
        for batch in batches {
            encoder.batch(batch, &mut out).unwrap();
        }
        encoder.finish(&mut out).unwrap();
        out
    }

    fn encoded_text(format: OutputFormat, batches: &[RecordBatch]) -> String {
        String::from_utf8(encoded(format, batches)).unwrap()
    }

    #[test]
    fn csv_has_one_head_and_flattens_lists() {
        let row = "1,\"a,\"\"b\"\"\",\"[1, ]\"\n2,,\n";
        assert_eq!(
            encoded_text(OutputFormat::Csv, &[batch(), batch()]),
            format!("id,name,list\n{row}{row}")
        );
    }

    #[test]
    fn csv_of_no_rows_is_its_head() {
        assert_eq!(encoded_text(OutputFormat::Csv, &[]), "id,name,list\n");
    }

    #[test]
    fn json_is_one_object_a_line_with_nulls() {
        let expected =
            "{\"id\":1,\"name\":\"a,\\\"b\\\"\",\"list\":[1,null]}\n{\"id\":2,\"name\":null,\"list\":null}\n";
        assert_eq!(encoded_text(OutputFormat::Json, &[batch()]), expected);
        assert_eq!(encoded_text(OutputFormat::Json, &[]), "");
    }

    #[test]
    fn arrow_is_a_stream_any_reader_takes() {
        let bytes = encoded(OutputFormat::Arrow, &[batch(), batch()]);
        let read: Vec<_> = StreamReader::try_new(bytes.as_slice(), None)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(read, [batch(), batch()]);
        let empty = encoded(OutputFormat::Arrow, &[]);
        assert_eq!(
            StreamReader::try_new(empty.as_slice(), None).unwrap().schema(),
            batch().schema()
        );
    }

    #[test]
    fn table_rows_held_for_the_widths_come_when_asked() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(OutputFormat::Table, &batch().schema()).unwrap();
        encoder.batch(&batch(), &mut out).unwrap();
        assert!(out.is_empty());
        encoder.settle(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap().lines().count(), 5);
    }
}
