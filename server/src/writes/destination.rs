//! Resolves `INSERT INTO` and `COPY ... TO` to a folder or file, a format and a schema, and refuses unsupported ones.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::{FileFormat, file_type_to_format};
use datafusion::datasource::listing::{ListingTable, ListingTableUrl};
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::datasource::physical_plan::{FileOutputMode, FileSinkConfig};
use datafusion::datasource::{ViewTable, source_as_provider};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::dml::{CopyTo, InsertOp};
use datafusion::logical_expr::{DmlStatement, LogicalPlan, WriteOp};
use datafusion::physical_plan::empty::EmptyExec;
use object_store::ObjectStore;
use object_store::path::Path;
use squadron_proto::{Failure, FailureKind, QueryId};
use squadron_shuffle::net::object_stores::is_store_option;
use squadron_shuffle::{FileEncoding, FileTarget, StagedFile, failure};
use url::Url;

use super::folder_locks::StorePath;
use crate::catalog::files_of;
use crate::catalog::{Catalog, StoreLease, unchecked};
use crate::planner::FileWrite;
use crate::planner::schema::{client_schema, without_views};

/// The folder of unpublished files, within the folder that they are for. Readers skip it, as they skip every name that
/// begins with `_`.
pub const STAGING_FOLDER: &str = "_squadron";

/// Where a statement writes to.
#[derive(Clone, Debug)]
pub struct Destination {
    query: QueryId,
    store: Arc<dyn ObjectStore>,
    write: FileWrite,
    /// The folder of the table or of the file.
    folder: Path,
    /// The name of the one file; none for a folder.
    file: Option<String>,
    /// The end of the files' names, with the dot.
    suffix: String,
    /// Keeps the store of a COPY registered while it runs.
    _lease: Arc<StoreLease>,
}

impl Destination {
    /// The form that the plan of the rows needs.
    pub fn write(&self) -> &FileWrite {
        &self.write
    }

    /// The folder of a table of CSV files.
    #[cfg(test)]
    pub(super) fn of_folder(folder: &std::path::Path, query: QueryId) -> Self {
        use datafusion::common::config::CsvOptions;
        use datafusion::common::file_options::csv_writer::CsvWriterOptions;

        let options = CsvWriterOptions::try_from(&CsvOptions::default()).unwrap();
        let folder = Path::from_absolute_path(folder).unwrap();
        Self {
            query,
            store: Arc::new(object_store::local::LocalFileSystem::new()),
            file: None,
            suffix: ".csv".into(),
            _lease: Arc::default(),
            write: FileWrite {
                ordering: None,
                target: Arc::new(FileTarget {
                    store: ObjectStoreUrl::local_filesystem(),
                    staging: staging_folder(&folder, query),
                    schema: Arc::new(datafusion::arrow::datatypes::Schema::empty()),
                    partition_by: Vec::new(),
                    keep_partition_columns: false,
                    never_empty: false,
                    single_file: false,
                    encoding: FileEncoding::Csv(Box::new(options)),
                }),
            },
            folder,
        }
    }

    pub(super) fn target(&self) -> &FileTarget {
        &self.write.target
    }

    pub(super) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    pub(super) fn is_local(&self) -> bool {
        let url: &Url = self.target().store.as_ref();
        url.scheme() == "file"
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn staging_parent(&self) -> Path {
        self.folder.clone().join(STAGING_FOLDER)
    }

    /// The path that plans must not read while files are published.
    pub(super) fn lock_path(&self) -> StorePath {
        let folder = self.folder.clone();
        let path = match &self.file {
            Some(file) => folder.join(file.as_str()),
            None => folder,
        };
        StorePath {
            store: self.target().store.as_str().to_owned(),
            path: path.to_string(),
        }
    }

    /// The path of the statement's `number`th file. Names contain the query's id, so that statements never share one.
    pub(super) fn file_path(&self, file: &StagedFile, number: usize) -> Path {
        if let Some(name) = &self.file {
            return self.folder.clone().join(name.as_str());
        }
        let folders = file.folder.parts();
        let folder = folders.fold(self.folder.clone(), Path::join);
        folder.join(format!("{}-{number}{}", self.query, self.suffix))
    }
}

/// Returns the destination of a write and the plan of its rows.
///
/// # Errors
/// `Unsupported` for tables and formats that cannot be written, `Invalid` for options and names that make no file.
pub async fn resolve(
    query: QueryId,
    plan: LogicalPlan,
    state: &SessionState,
    catalog: &Catalog,
) -> Result<(Destination, LogicalPlan), Failure> {
    match plan {
        LogicalPlan::Dml(insert) => {
            let destination = resolve_insert(query, &insert, state).await?;
            Ok((destination, Arc::unwrap_or_clone(insert.input)))
        }
        LogicalPlan::Copy(copy) => {
            let destination = resolve_copy(query, &copy, state, catalog).await?;
            Ok((destination, Arc::unwrap_or_clone(copy.input)))
        }
        other => Err(Failure::internal(format!("{} writes nothing", other.display()))),
    }
}

async fn resolve_insert(query: QueryId, insert: &DmlStatement, state: &SessionState) -> Result<Destination, Failure> {
    let name = &insert.table_name;
    match insert.op {
        WriteOp::Insert(InsertOp::Append) => {}
        WriteOp::Insert(InsertOp::Overwrite | InsertOp::Replace) => {
            return Err(unsupported(format!(
                "{} is not supported, since files cannot be replaced in one step; COPY the rows that shall remain to \
                 another folder and make a table of it",
                insert.op
            )));
        }
        _ => return Err(unsupported(format!("{} is not supported", insert.op))),
    }
    let provider = source_as_provider(&insert.target).map_err(to_failure)?;
    let table = files_of(provider.as_ref()).ok_or_else(|| not_file_table(name, provider.as_ref()))?;
    let [url] = table.table_paths().as_slice() else {
        return Err(unsupported(format!(
            "the table {name} has several locations; INSERT into a table with one folder"
        )));
    };
    if !url.is_collection() {
        return Err(unsupported(format!(
            "the table {name} is a single file, and files are not appended to; make a table of a folder \
             (LOCATION with a / at its end), or write a new file with COPY"
        )));
    }
    check_scheme(url)?;
    let options = table.options();
    let partition_by: Vec<String> = options
        .table_partition_cols
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    let schema = without_views(&provider.schema());
    let encoding = resolve_encoding(options.format.as_ref(), &schema, state).await?;
    let ordering = table
        .try_create_output_ordering(state.execution_props(), &[])
        .map_err(to_failure)?;
    let destination = Destination {
        query,
        store: state.runtime_env().object_store(url).map_err(to_failure)?,
        folder: url.prefix().clone(),
        file: None,
        suffix: file_suffix(table, url),
        _lease: Arc::default(),
        write: FileWrite {
            ordering: ordering.into_iter().next(),
            target: Arc::new(FileTarget {
                store: url.object_store(),
                staging: staging_folder(url.prefix(), query),
                schema,
                partition_by,
                keep_partition_columns: false,
                never_empty: false,
                single_file: false,
                encoding,
            }),
        },
    };
    check_visible(&destination, name, url, &options.file_extension, state)?;
    Ok(destination)
}

/// The end of the names that the table's files have.
fn file_suffix(table: &ListingTable, url: &ListingTableUrl) -> String {
    let options = table.options();
    let by_glob = url
        .get_glob()
        .as_ref()
        .and_then(|glob| glob.as_str().rsplit_once('*'))
        .map(|(_, suffix)| suffix.to_owned())
        .filter(|suffix| suffix.starts_with('.') && !suffix.contains(['?', '[']));
    let known = match by_glob {
        Some(suffix) => suffix,
        None => options.file_extension.clone(),
    };
    if known.starts_with('.') {
        return known;
    }
    format!(".{}", file_extension(options.format.as_ref()))
}

/// Refuses a table that would not list its new files.
fn check_visible(
    destination: &Destination,
    table: &TableReference,
    url: &ListingTableUrl,
    extension: &str,
    state: &SessionState,
) -> Result<(), Failure> {
    let partition_by = &destination.target().partition_by;
    let folder = partition_by
        .iter()
        .fold(Path::default(), |folder, name| folder.join(format!("{name}=value")));
    let file = StagedFile {
        path: Path::default(),
        folder,
        rows: 0,
        bytes: 0,
    };
    let path = destination.file_path(&file, 0);
    let ignore_subdirectory = state.config_options().execution.listing_table_ignore_subdirectory;
    if url.contains(&path, ignore_subdirectory) && path.as_ref().ends_with(extension) {
        return Ok(());
    }
    let name = path.filename().unwrap_or_default();
    Err(unsupported(format!(
        "the table {table} would not see a new file {name}, since it reads only some of its folder; make a table of \
         the whole folder"
    )))
}

fn not_file_table(name: &TableReference, table: &dyn TableProvider) -> Failure {
    unsupported(match table.is::<ViewTable>() {
        true => format!("{name} is a view; INSERT into the table that it reads"),
        false => format!("the table {name} is not made of files; INSERT into one made by CREATE EXTERNAL TABLE"),
    })
}

async fn resolve_copy(
    query: QueryId,
    copy: &CopyTo,
    state: &SessionState,
    catalog: &Catalog,
) -> Result<Destination, Failure> {
    let CopyOptions {
        store: store_options,
        format: format_options,
        keep_partition_columns,
        output,
    } = CopyOptions::of(&copy.options, state)?;
    let (url, lease) = locate(&copy.output_url, &store_options, catalog)?;
    check_scheme(&url)?;
    let partitioned = !copy.partition_by.is_empty();
    let single_file = !partitioned && output.single_file_output(&url);
    let (folder, file) = match (single_file, url.prefix().filename()) {
        (false, _) => (url.prefix().clone(), None),
        (true, Some(name)) => {
            let name = name.to_owned();
            (parent(url.prefix()), Some(name))
        }
        (true, None) => {
            return Err(invalid(format!("{} is not the name of a file", copy.output_url)));
        }
    };
    let schema = client_schema(copy.input.schema().as_arrow());
    check_columns(&schema, &copy.partition_by)?;
    let factory = file_type_to_format(&copy.file_type).map_err(to_failure)?;
    let format = factory.create(state, &format_options).map_err(to_failure)?;
    let encoding = resolve_encoding(format.as_ref(), &schema, state).await?;
    Ok(Destination {
        query,
        store: state.runtime_env().object_store(&url).map_err(to_failure)?,
        suffix: format!(".{}", file_extension(format.as_ref())),
        _lease: Arc::new(lease),
        write: FileWrite {
            ordering: None,
            target: Arc::new(FileTarget {
                store: url.object_store(),
                staging: staging_folder(&folder, query),
                schema,
                partition_by: copy.partition_by.clone(),
                keep_partition_columns,
                never_empty: !partitioned,
                single_file,
                encoding,
            }),
        },
        folder,
        file,
    })
}

/// The options of a COPY, sorted by what they configure.
struct CopyOptions {
    store: Vec<(String, String)>,
    format: HashMap<String, String>,
    keep_partition_columns: bool,
    output: FileOutputMode,
}

impl CopyOptions {
    fn of(options: &HashMap<String, String>, state: &SessionState) -> Result<Self, Failure> {
        let execution = &state.config_options().execution;
        let mut sorted = Self {
            store: Vec::new(),
            format: HashMap::new(),
            keep_partition_columns: execution.keep_partition_by_columns,
            output: FileOutputMode::Automatic,
        };
        for (key, value) in options {
            // DataFusion puts `format.` before every option without a dot.
            match key.strip_prefix("format.").unwrap_or(key) {
                "single_file_output" => sorted.output = Some(parse_flag(key, value)?).into(),
                "execution.keep_partition_by_columns" | "keep_partition_by_columns" => {
                    sorted.keep_partition_columns = parse_flag(key, value)?;
                }
                _ if is_store_option(key) => sorted.store.push((key.clone(), value.clone())),
                _ => {
                    sorted.format.insert(key.clone(), value.clone());
                }
            }
        }
        Ok(sorted)
    }
}

fn parse_flag(key: &str, value: &str) -> Result<bool, Failure> {
    value
        .trim()
        .to_ascii_lowercase()
        .parse()
        .map_err(|_| invalid(format!("the option {key} is true or false, not {value}")))
}

/// The URL that plans use for the user's `text`.
fn locate(
    text: &str,
    options: &[(String, String)],
    catalog: &Catalog,
) -> Result<(ListingTableUrl, StoreLease), Failure> {
    let is_path = std::path::Path::new(text).is_absolute() || !text.contains("://");
    if !is_path {
        let url = Url::parse(text).map_err(|error| invalid(format!("{text} is no URL: {error}")))?;
        let (url, lease) = catalog.lease_store(&url, options)?;
        return Ok((ListingTableUrl::try_new(url, None).map_err(to_failure)?, lease));
    }
    if let Some((key, _)) = options.first() {
        return Err(invalid(format!(
            "the option {key} has no meaning for the local path {text}; leave it out"
        )));
    }
    let url = ListingTableUrl::parse(text).map_err(to_failure)?;
    if url.get_glob().is_some() {
        return Err(invalid(format!(
            "{text} has one of the characters * ? [, which stand for many files; name a single file or a folder"
        )));
    }
    Ok((url, StoreLease::default()))
}

fn check_scheme(url: &ListingTableUrl) -> Result<(), Failure> {
    match url.scheme().split('+').next() {
        Some("http" | "https") => Err(unsupported(
            "nothing can be written over http; write to a local folder or to an object store".into(),
        )),
        _ => Ok(()),
    }
}

fn check_columns(schema: &SchemaRef, partition_by: &[String]) -> Result<(), Failure> {
    let mut names = HashSet::new();
    let mut fields = schema.fields().iter();
    if let Some(twice) = fields.find(|field| !names.insert(field.name())) {
        return Err(invalid(format!(
            "the files would have two columns named {}; give one an alias",
            twice.name()
        )));
    }
    if schema.fields().len() == partition_by.len() {
        return Err(invalid(
            "every column is a partition column, and a file needs one more; leave one out of PARTITIONED BY".into(),
        ));
    }
    Ok(())
}

/// The encoding with which DataFusion would write `format`.
async fn resolve_encoding(
    format: &dyn FileFormat,
    schema: &SchemaRef,
    state: &SessionState,
) -> Result<FileEncoding, Failure> {
    let refusal = || {
        unsupported(format!(
            "{} files are not written; use Parquet, CSV or JSON lines",
            format.get_ext()
        ))
    };
    let is_array = unchecked(format)
        .downcast_ref::<JsonFormat>()
        .is_some_and(|json| !json.options().newline_delimited);
    if is_array {
        return Err(unsupported(
            "JSON arrays are not written; use JSON lines, which is the default".into(),
        ));
    }
    let config = FileSinkConfig {
        original_url: String::new(),
        object_store_url: ObjectStoreUrl::local_filesystem(),
        file_group: Default::default(),
        table_paths: Vec::new(),
        output_schema: Arc::clone(schema),
        table_partition_cols: Vec::new(),
        insert_op: InsertOp::Append,
        keep_partition_by_columns: false,
        file_extension: String::new(),
        file_output_mode: FileOutputMode::SingleFile,
    };
    let nothing = Arc::new(EmptyExec::new(Arc::clone(schema)));
    let plan = format.create_writer_physical_plan(nothing, state, config, None);
    match plan.await {
        Ok(plan) => FileEncoding::from_plan(plan.as_ref()).ok_or_else(refusal),
        Err(DataFusionError::NotImplemented(_)) => Err(refusal()),
        Err(error) => Err(to_failure(error)),
    }
}

/// The extension of files of this format, with that of the compression, without the dot.
fn file_extension(format: &dyn FileFormat) -> String {
    let extension = format.get_ext();
    let extension = match format.compression_type() {
        Some(compression) => format.get_ext_with_compression(&compression).unwrap_or(extension),
        None => extension,
    };
    extension.trim_start_matches('.').to_owned()
}

fn staging_folder(folder: &Path, query: QueryId) -> Path {
    let parent = folder.clone().join(STAGING_FOLDER);
    parent.join(query.to_string())
}

fn parent(path: &Path) -> Path {
    let parts: Vec<_> = path.parts().collect();
    let above = parts.len().saturating_sub(1);
    parts.into_iter().take(above).collect()
}

fn to_failure(error: DataFusionError) -> Failure {
    failure::of(&error)
}

fn unsupported(message: String) -> Failure {
    Failure::new(FailureKind::Unsupported, message)
}

fn invalid(message: String) -> Failure {
    Failure::new(FailureKind::Invalid, message)
}
