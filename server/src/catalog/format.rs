//! The format of a file, by its name.

use std::sync::Arc;

use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::config::TableParquetOptions;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::avro::AvroFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::execution::context::SessionState;

use super::checked_format::CheckedFormat;
use super::dialect::Dialect;

/// The names of the formats, for messages.
pub(super) const FORMATS: &str = "Parquet, CSV, JSON lines, Arrow or Avro";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FormatKind {
    Parquet,
    Csv,
    Json,
    Arrow,
    Avro,
}

/// A format, its compression, and the suffix of the file's name that tells both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) kind: FormatKind,
    pub(super) compression: FileCompressionType,
    /// As written, with the dot, such as `.csv.gz`. A listing by suffix finds the files of one format.
    pub(super) suffix: String,
}

impl Format {
    /// The format of a file of this name; none if tables cannot have it.
    pub(super) fn of(file_name: &str) -> Option<Self> {
        let (rest, compression) = match file_name.rsplit_once('.') {
            Some((rest, extension)) => match parse_compression(extension) {
                Some(compression) => (rest, compression),
                None => (file_name, FileCompressionType::UNCOMPRESSED),
            },
            None => return None,
        };
        let (stem, extension) = rest.rsplit_once('.')?;
        let kind = match extension.to_ascii_lowercase().as_str() {
            "parquet" | "parq" | "pq" => FormatKind::Parquet,
            "csv" | "tsv" => FormatKind::Csv,
            "json" | "ndjson" | "jsonl" => FormatKind::Json,
            "arrow" | "arrows" | "feather" => FormatKind::Arrow,
            "avro" => FormatKind::Avro,
            _ => return None,
        };
        let compressible = matches!(kind, FormatKind::Csv | FormatKind::Json);
        if stem.is_empty() || compression.is_compressed() && !compressible {
            return None;
        }
        Some(Self {
            kind,
            compression,
            suffix: file_name[stem.len()..].to_string(),
        })
    }

    /// The file's name without the suffix of its format.
    pub(super) fn stem(file_name: &str) -> &str {
        Self::of(file_name).map_or(file_name, |format| {
            file_name.strip_suffix(format.suffix.as_str()).unwrap_or(file_name)
        })
    }

    /// DataFusion's reader, with the session's defaults.
    pub(super) fn reader(&self, state: &SessionState, dialect: Dialect) -> Arc<dyn FileFormat> {
        let execution = &state.config_options().execution;
        let reader: Arc<dyn FileFormat> = match self.kind {
            FormatKind::Parquet => Arc::new(ParquetFormat::new().with_options(TableParquetOptions {
                global: execution.parquet.clone(),
                ..TableParquetOptions::default()
            })),
            FormatKind::Csv => Arc::new(
                CsvFormat::default()
                    .with_has_header(true)
                    .with_delimiter(dialect.delimiter)
                    .with_file_compression_type(self.compression),
            ),
            FormatKind::Json => Arc::new(
                JsonFormat::default()
                    .with_newline_delimited(!dialect.is_array)
                    .with_file_compression_type(self.compression),
            ),
            FormatKind::Arrow => Arc::new(ArrowFormat),
            FormatKind::Avro => Arc::new(AvroFormat),
        };
        Arc::new(CheckedFormat::new(reader))
    }
}

fn parse_compression(extension: &str) -> Option<FileCompressionType> {
    let variant = match extension.to_ascii_lowercase().as_str() {
        "gz" | "gzip" => CompressionTypeVariant::GZIP,
        "bz2" => CompressionTypeVariant::BZIP2,
        "xz" => CompressionTypeVariant::XZ,
        "zst" | "zstd" => CompressionTypeVariant::ZSTD,
        _ => return None,
    };
    Some(FileCompressionType::from(variant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_name_tells_format_and_compression() {
        for (name, kind, suffix, stem) in [
            ("a.parquet", FormatKind::Parquet, ".parquet", "a"),
            ("a.b.csv", FormatKind::Csv, ".csv", "a.b"),
            ("a.csv.gz", FormatKind::Csv, ".csv.gz", "a"),
            ("A.CSV", FormatKind::Csv, ".CSV", "A"),
            ("a.ndjson.zst", FormatKind::Json, ".ndjson.zst", "a"),
            ("a.jsonl", FormatKind::Json, ".jsonl", "a"),
            ("a.json.bz2", FormatKind::Json, ".json.bz2", "a"),
            ("a.arrow", FormatKind::Arrow, ".arrow", "a"),
            ("a.avro", FormatKind::Avro, ".avro", "a"),
            ("a.tsv.gz", FormatKind::Csv, ".tsv.gz", "a"),
            ("a.parq", FormatKind::Parquet, ".parq", "a"),
            ("a.feather", FormatKind::Arrow, ".feather", "a"),
        ] {
            let format = Format::of(name).unwrap();
            assert_eq!((format.kind, format.suffix.as_str()), (kind, suffix), "{name}");
            assert_eq!(Format::stem(name), stem);
        }
        for name in ["a", "README.md", ".csv", "a.parquet.gz", "a.gz", "parquet", "a.csv.tmp"] {
            assert_eq!(Format::of(name), None, "{name}");
        }
    }
}
