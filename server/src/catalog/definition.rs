//! The statement that makes a table that was found in a folder: what SHOW CREATE TABLE shows of it.

use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use squadron_shuffle::type_names::{quoted, text_literal};
use url::Url;

use super::dialect::Dialect;
use super::format::{Format, FormatKind};
use super::layout::Layout;
use super::names::display_url;

/// The statement for the table `name` at the user's `url`.
pub(super) fn statement(name: &str, url: &Url, is_folder: bool, layout: &Layout, dialect: Dialect) -> String {
    let format = &layout.format;
    let (stored_as, suffix) = names_of(format.kind);
    let mut location = display_url(url);
    if is_folder {
        if !location.ends_with('/') {
            location.push('/');
        }
        // Without a pattern the files are those whose names end as the format's do.
        if format.suffix != format!("{suffix}{}", compressed_suffix(&format.compression)) {
            location = format!("{location}*{}", format.suffix);
        }
    }
    let mut text = format!("CREATE EXTERNAL TABLE {} STORED AS {stored_as}", quoted(name));
    if !layout.partitions.is_empty() {
        let columns: Vec<_> = layout.partitions.iter().map(|(column, _)| quoted(column)).collect();
        text += &format!(" PARTITIONED BY ({})", columns.join(", "));
    }
    text += &format!(" LOCATION {}", text_literal(&location));
    let options = options_of(format, dialect);
    if !options.is_empty() {
        let options: Vec<_> = options
            .iter()
            .map(|(key, value)| format!("{} {}", text_literal(key), text_literal(value)))
            .collect();
        text += &format!(" OPTIONS ({})", options.join(", "));
    }
    text
}

/// What the format is called in SQL, and at the end of file names.
fn names_of(kind: FormatKind) -> (&'static str, &'static str) {
    match kind {
        FormatKind::Parquet => ("PARQUET", ".parquet"),
        FormatKind::Csv => ("CSV", ".csv"),
        FormatKind::Json => ("JSON", ".json"),
        FormatKind::Arrow => ("ARROW", ".arrow"),
        FormatKind::Avro => ("AVRO", ".avro"),
    }
}

fn compressed_suffix(compression: &FileCompressionType) -> &'static str {
    match compression.get_variant() {
        CompressionTypeVariant::GZIP => ".gz",
        CompressionTypeVariant::BZIP2 => ".bz2",
        CompressionTypeVariant::XZ => ".xz",
        CompressionTypeVariant::ZSTD => ".zst",
        CompressionTypeVariant::UNCOMPRESSED => "",
    }
}

/// What the files do not have by default.
fn options_of(format: &Format, dialect: Dialect) -> Vec<(&'static str, String)> {
    let mut options = Vec::new();
    if format.compression.is_compressed() {
        let name = format.compression.get_variant().to_string().to_lowercase();
        options.push(("format.compression", name));
    }
    if format.kind == FormatKind::Csv && dialect.delimiter != b',' {
        options.push(("format.delimiter", char::from(dialect.delimiter).to_string()));
    }
    if format.kind == FormatKind::Json && dialect.is_array {
        options.push(("format.newline_delimited", "false".to_owned()));
    }
    options
}
