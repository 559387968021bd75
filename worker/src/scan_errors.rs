//! Names the files of a scan in its errors and panics: decoders tell what is wrong with the bytes, not whose bytes they are.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use datafusion::arrow::error::ArrowError;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use squadron_proto::Failure;
use squadron_shuffle::failure;
use squadron_shuffle::plan_nodes::file_scan;

/// How many files an error names.
const MAX_NAMES: usize = 3;

/// DataFusion's names of the formats.
const AVRO: &str = "avro";
const PARQUET: &str = "parquet";

/// Stands between the name of a file and the byte at which a piece of it begins.
const PIECE: &str = " (read from byte ";

/// The rows of a partition of `plan`, whose errors name the partition's files if it is a scan of files.
pub(crate) fn with_file_names(
    plan: &Arc<dyn ExecutionPlan>,
    partition: usize,
    rows: SendableRecordBatchStream,
) -> SendableRecordBatchStream {
    if file_scan(plan.as_ref()).is_none() {
        return rows;
    }
    // Names are looked for only when they are needed: a scan may have very many files.
    let plan = Arc::clone(plan);
    let schema = rows.schema();
    let rows = AssertUnwindSafe(rows).catch_unwind().map(move |read| {
        let names = || file_scan(plan.as_ref()).map_or_else(Vec::new, |scan| names_of(scan, partition));
        let is_avro = || file_scan(plan.as_ref()).is_some_and(|scan| scan.file_source().file_type() == AVRO);
        match read {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) if is_of_file(error.find_root(), is_avro()) => {
                Err(name_files(&failure::of_file(&error), &names()))
            }
            Ok(Err(error)) => Err(error),
            Err(panic) => Err(name_files(&failure::of_broken_file(panic.as_ref()), &names())),
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}

/// The names of the files that a partition of `scan` may read, each once: also those of other partitions, where partitions
/// take files from each other.
fn names_of(scan: &FileScanConfig, partition: usize) -> Vec<String> {
    let groups = match scan.preserve_order || scan.output_partitioning.is_some() {
        true => scan.file_groups.get(partition).map_or(&[][..], std::slice::from_ref),
        false => &scan.file_groups[..],
    };
    let format = scan.file_source().file_type();
    let names = groups
        .iter()
        .flat_map(FileGroup::iter)
        .map(|file| name_of(file, format));
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The name of a file; of a piece of one also where it begins, where readers count lines from there.
fn name_of(file: &PartitionedFile, format: &str) -> String {
    let name = file.object_meta.location.as_ref();
    match &file.range {
        Some(range) if range.start > 0 && format != PARQUET => format!("{name}{PIECE}{})", range.start),
        _ => name.to_owned(),
    }
}

/// Whether the bytes of a file are the cause, or that they cannot be had; not an expression that the scan evaluates.
fn is_of_file(error: &DataFusionError, is_avro: bool) -> bool {
    use ArrowError as E;
    match error {
        DataFusionError::ParquetError(_) | DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => true,
        DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
            // The only texts with lines are those of files; expressions parse texts, too.
            E::ParseError(text) => text.contains(" at line "),
            E::ParquetError(_)
            | E::IpcError(_)
            | E::CsvError(_)
            | E::JsonError(_)
            | E::AvroError(_)
            | E::IoError(..) => true,
            // Of texts that are none.
            E::InvalidArgumentError(_) => is_avro,
            _ => false,
        },
        _ => false,
    }
}

fn name_files(failure: &Failure, names: &[String]) -> DataFusionError {
    let is_named = |name: &String| {
        let path = name.split(PIECE).next().unwrap_or(name);
        failure.message.contains(path)
    };
    if names.iter().any(is_named) {
        return failure::into_datafusion(failure.clone());
    }
    let shown = names[..names.len().min(MAX_NAMES)].join(", ");
    let more = match names.len().saturating_sub(MAX_NAMES) {
        0 => String::new(),
        more => format!(" and {more} others"),
    };
    let which = if names.len() == 1 {
        "the file"
    } else {
        "one of the files"
    };
    let message = format!(
        "{which} {shown}{more} cannot be read, or changed while it was read: {}; if it changed, run the statement again",
        failure.message
    );
    failure::into_datafusion(Failure::new(failure.kind, message))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Schema;
    use datafusion::datasource::object_store::ObjectStoreUrl;
    use datafusion::datasource::physical_plan::{FileScanConfigBuilder, ParquetSource};
    use datafusion::parquet::errors::ParquetError;
    use squadron_proto::FailureKind;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn value_of_a_text_file_names_file_and_byte() {
        let value = "Error while parsing value 'x' as type 'Int64' for column 0 at line 7. Row data: '[x]'";
        assert!(is_of_file(&ArrowError::ParseError(value.into()).into(), false));
        let of_expression = "Error parsing timestamp from 'x': timestamp must contain at least 10 characters";
        assert!(!is_of_file(&ArrowError::ParseError(of_expression.into()).into(), false));
        let mut file = PartitionedFile::new("t/1.csv", 100);
        assert_eq!(name_of(&file, "csv"), "t/1.csv");
        file = file.with_range(40, 100);
        assert_eq!(name_of(&file, "csv"), "t/1.csv (read from byte 40)");
        assert_eq!(name_of(&file, PARQUET), "t/1.csv");
    }

    #[test]
    fn partitions_that_share_files_name_all_of_them_once() {
        let file = |name: &str, start, end| PartitionedFile::new(name, 100).with_range(start, end);
        let groups = vec![
            FileGroup::new(vec![file("1", 0, 50), file("1", 50, 100)]),
            FileGroup::new(vec![file("2", 0, 100)]),
        ];
        let source = Arc::new(ParquetSource::new(Arc::new(Schema::empty())));
        let scan = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source).with_file_groups(groups);
        let shared = scan.build();
        assert_eq!(names_of(&shared, 0), names(&["1", "2"]));
        let ordered = FileScanConfigBuilder::from(shared).with_preserve_order(true).build();
        assert_eq!(names_of(&ordered, 0), names(&["1"]));
        assert_eq!(names_of(&ordered, 1), names(&["2"]));
    }

    #[test]
    fn error_of_file_names_it() {
        let corrupt = || DataFusionError::ParquetError(Box::new(ParquetError::General("snappy: corrupt input".into())));
        assert!(is_of_file(&corrupt(), false));
        let named = failure::of(&name_files(&failure::of(&corrupt()), &names(&["data/a.parquet"])));
        assert!(
            named.message.starts_with("the file data/a.parquet cannot be read"),
            "{named}"
        );
        assert!(named.message.contains("snappy: corrupt input"), "{named}");
        let many = failure::of(&name_files(
            &failure::of(&corrupt()),
            &names(&["t/1.csv", "t/2.csv", "t/3.csv", "t/4.csv", "t/5.csv"]),
        ));
        assert!(
            many.message
                .starts_with("one of the files t/1.csv, t/2.csv, t/3.csv and 2 others"),
            "{many}"
        );
        assert_eq!(many.kind, FailureKind::Invalid);
    }

    #[test]
    fn what_decoders_say_of_a_file_is_no_bug() {
        let cut_off = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let cut_off = DataFusionError::IoError(cut_off);
        assert!(is_of_file(&cut_off, false));
        assert_eq!(failure::of_file(&cut_off).kind, FailureKind::Invalid);
        let corrupt = DataFusionError::IoError(std::io::Error::other("corrupt stream"));
        assert_eq!(failure::of_file(&corrupt).kind, FailureKind::Invalid);
        let text = DataFusionError::from(ArrowError::InvalidArgumentError("Encountered non UTF-8 data".into()));
        assert!(is_of_file(&text, true) && !is_of_file(&text, false));
    }

    #[test]
    fn error_of_expression_is_left_alone() {
        assert!(!is_of_file(&ArrowError::DivideByZero.into(), false));
        assert!(!is_of_file(&DataFusionError::ResourcesExhausted("no".into()), false));
    }
}
