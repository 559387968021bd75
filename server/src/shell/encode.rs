//! Rows as text or bytes, batch by batch, in the formats of `--format`.
//!
//! An encoder appends to a buffer that its caller writes out, so that errors of the format are distinct from errors of
//! the output.

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
use super::view::Style;
use crate::config::OutputFormat;

/// Encodes the rows of one result.
pub(super) enum Encoder {
    /// A drawn table.
    Table(Table),
    /// Comma-separated values with a header; NULL is an empty field.
    Csv {
        /// The names of the columns; taken once the header is written.
        header: Option<SchemaRef>,
    },
    /// One JSON object a line, with explicit nulls.
    Json,
    /// An Arrow IPC stream.
    Arrow(Box<StreamWriter<Vec<u8>>>),
}

impl Encoder {
    /// An encoder for rows of `schema`; the style is that of a table.
    pub(super) fn new(format: OutputFormat, schema: &SchemaRef, style: Style) -> Result<Self, ArrowError> {
        Ok(match format {
            OutputFormat::Table => Self::Table(Table::new(Arc::clone(schema), style)),
            OutputFormat::Csv => Self::Csv {
                header: Some(Arc::clone(schema)),
            },
            OutputFormat::Json => Self::Json,
            OutputFormat::Arrow => Self::Arrow(Box::new(StreamWriter::try_new(Vec::new(), schema)?)),
        })
    }

    /// Appends the rows of `batch`; a table holds back the first ones to find the widths of its columns.
    pub(super) fn write_batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        match self {
            Self::Table(table) => append_text(out, |out| table.push(batch, out)),
            Self::Csv { header } => {
                let with_header = header.take().is_some();
                write_csv(batch, with_header, out)
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

    /// Appends the rows that are held back for the widths of a table.
    pub(super) fn end_preview(&mut self, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        match self {
            Self::Table(table) => append_text(out, |out| table.end_preview(out)),
            Self::Csv { .. } | Self::Json | Self::Arrow(_) => Ok(()),
        }
    }

    /// A sentence for the line below a table that is not shown as the user may expect.
    pub(super) fn note(&self) -> Option<&'static str> {
        match self {
            Self::Table(table) => table.note(),
            Self::Csv { .. } | Self::Json | Self::Arrow(_) => None,
        }
    }

    /// Appends the end of the result.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        match self {
            Self::Table(table) => append_text(out, |out| table.finish(out)),
            Self::Csv { header } => match header.take() {
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

fn append_text(out: &mut Vec<u8>, write: impl FnOnce(&mut String) -> Result<(), ArrowError>) -> Result<(), ArrowError> {
    let mut text = String::new();
    let result = write(&mut text);
    out.extend_from_slice(text.as_bytes());
    result
}

fn write_csv(batch: &RecordBatch, with_header: bool, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    if batch.num_columns() == 0 {
        return Ok(());
    }
    csv::WriterBuilder::new()
        .with_header(with_header)
        .build(out)
        .write(&flatten(batch)?)
}

/// Makes lists, structs and other nested values text, since CSV has no form for them.
fn flatten(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    if !schema.fields().iter().any(|field| field.data_type().is_nested()) {
        return Ok(batch.clone());
    }
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        if field.data_type().is_nested() {
            fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
            columns.push(to_text(column)?);
        } else {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(column));
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

fn to_text(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
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

    fn encode(format: OutputFormat, batches: &[RecordBatch]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(format, &batch().schema(), Style::WHOLE).unwrap();
        for batch in batches {
            encoder.write_batch(batch, &mut out).unwrap();
        }
        encoder.finish(&mut out).unwrap();
        out
    }

    fn encode_text(format: OutputFormat, batches: &[RecordBatch]) -> String {
        String::from_utf8(encode(format, batches)).unwrap()
    }

    #[test]
    fn csv_has_header_and_flat_lists() {
        let row = "1,\"a,\"\"b\"\"\",\"[1, ]\"\n2,,\n";
        assert_eq!(
            encode_text(OutputFormat::Csv, &[batch(), batch()]),
            format!("id,name,list\n{row}{row}")
        );
    }

    #[test]
    fn csv_without_rows_is_its_header() {
        assert_eq!(encode_text(OutputFormat::Csv, &[]), "id,name,list\n");
    }

    #[test]
    fn json_writes_one_object_per_line() {
        let expected =
            "{\"id\":1,\"name\":\"a,\\\"b\\\"\",\"list\":[1,null]}\n{\"id\":2,\"name\":null,\"list\":null}\n";
        assert_eq!(encode_text(OutputFormat::Json, &[batch()]), expected);
        assert_eq!(encode_text(OutputFormat::Json, &[]), "");
    }

    #[test]
    fn arrow_output_is_an_ipc_stream() {
        let bytes = encode(OutputFormat::Arrow, &[batch(), batch()]);
        let read: Vec<_> = StreamReader::try_new(bytes.as_slice(), None)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(read, [batch(), batch()]);
        let empty = encode(OutputFormat::Arrow, &[]);
        assert_eq!(
            StreamReader::try_new(empty.as_slice(), None).unwrap().schema(),
            batch().schema()
        );
    }

    #[test]
    fn end_preview_writes_held_table_rows() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(OutputFormat::Table, &batch().schema(), Style::WHOLE).unwrap();
        encoder.write_batch(&batch(), &mut out).unwrap();
        assert!(out.is_empty());
        encoder.end_preview(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap().lines().count(), 5);
    }
}
