//! From `INSERT INTO` and `COPY ... TO` to a folder or file, a format and a schema; what cannot be written is refused here.

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
use squadron_shuffle::object_stores::is_store_option;
use squadron_shuffle::{FileEncoding, FileTarget, StagedFile, failure};
use url::Url;

use super::STAGING_FOLDER;
use super::folder_locks::Place;
use crate::catalog::{Catalog, StoreLease};
use crate::planner::FileWrite;
use crate::planner::schema::{client_schema, without_views};

/// Where one statement writes to.
#[derive(Clone, Debug)]
pub struct Destination {
    query: QueryId,
    store: Arc<dyn ObjectStore>,
    write: FileWrite,
    /// The folder of the table, or the one that the file is in.
    folder: Path,
    /// The name of the one file; none for a folder.
    file: Option<String>,
    /// What names of files end in, with the dot.
    suffix: String,
    /// Keeps the store of a COPY known for as long as it runs.
    _lease: Arc<StoreLease>,
}

impl Destination {
    /// What the plan of the rows must look like.
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
                    staging: staging(&folder, query),
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

    pub(super) fn staging_parent(&self) -> Path {
        self.folder.clone().join(STAGING_FOLDER)
    }

    /// What readers must not look at while files are published.
    pub(super) fn place(&self) -> Place {
        let folder = self.folder.clone();
        let path = match &self.file {
            Some(file) => folder.join(file.as_str()),
            None => folder,
        };
        Place {
            store: self.target().store.as_str().to_owned(),
            path: path.to_string(),
        }
    }

    /// Where the `number`th file of the statement goes. Names carry the query, so no two statements share one.
    pub(super) fn place_of(&self, file: &StagedFile, number: usize) -> Path {
        if let Some(name) = &self.file {
            return self.folder.clone().join(name.as_str());
        }
        let folders = file.folder.parts();
        let folder = folders.fold(self.folder.clone(), Path::join);
        folder.join(format!("{}-{number}{}", self.query, self.suffix))
    }
}

/// The destination of a write and the plan of its rows.
///
/// # Errors
/// `Unsupported` for tables and formats that are not written, `Invalid` for what makes no file.
pub async fn resolve(
    query: QueryId,
    plan: LogicalPlan,
    state: &SessionState,
    catalog: &Catalog,
) -> Result<(Destination, LogicalPlan), Failure> {
    match plan {
        LogicalPlan::Dml(insert) => {
            let destination = of_insert(query, &insert, state).await?;
            Ok((destination, Arc::unwrap_or_clone(insert.input)))
        }
        LogicalPlan::Copy(copy) => {
            let destination = of_copy(query, &copy, state, catalog).await?;
            Ok((destination, Arc::unwrap_or_clone(copy.input)))
        }
        other => Err(Failure::internal(format!("{} writes nothing", other.display()))),
    }
}

async fn of_insert(query: QueryId, insert: &DmlStatement, state: &SessionState) -> Result<Destination, Failure> {
    let name = &insert.table_name;
    match insert.op {
        WriteOp::Insert(InsertOp::Append) => {}
        WriteOp::Insert(InsertOp::Overwrite | InsertOp::Replace) => {
            return Err(unsupported(format!(
                "{} is not supported, since files cannot be replaced in one step; COPY the rows that shall remain to another \
                 folder and make a table of it",
                insert.op
            )));
        }
        _ => return Err(unsupported(format!("{} is not supported", insert.op))),
    }
    let provider = source_as_provider(&insert.target).map_err(failed)?;
    let table = provider
        .downcast_ref::<ListingTable>()
        .ok_or_else(|| not_files(name, provider.as_ref()))?;
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
    let schema = without_views(&table.schema());
    let encoding = encoding(options.format.as_ref(), &schema, state).await?;
    let ordering = table
        .try_create_output_ordering(state.execution_props(), &[])
        .map_err(failed)?;
    let destination = Destination {
        query,
        store: state.runtime_env().object_store(url).map_err(failed)?,
        folder: url.prefix().clone(),
        file: None,
        suffix: suffix(table, url),
        _lease: Arc::default(),
        write: FileWrite {
            ordering: ordering.into_iter().next(),
            target: Arc::new(FileTarget {
                store: url.object_store(),
                staging: staging(url.prefix(), query),
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

/// What the files of the table are called.
fn suffix(table: &ListingTable, url: &ListingTableUrl) -> String {
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
    format!(".{}", extension(options.format.as_ref()))
}

/// Refuses a table that would not find its new files.
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
    let path = destination.place_of(&file, 0);
    let ignore_subdirectory = state.config_options().execution.listing_table_ignore_subdirectory;
    if url.contains(&path, ignore_subdirectory) && path.as_ref().ends_with(extension) {
        return Ok(());
    }
    let name = path.filename().unwrap_or_default();
    Err(unsupported(format!(
        "the table {table} would not see a new file {name}, since it reads only some of its folder; make a table of the \
         whole folder"
    )))
}

fn not_files(name: &TableReference, table: &dyn TableProvider) -> Failure {
    unsupported(match table.is::<ViewTable>() {
        true => format!("{name} is a view; INSERT into the table that it reads"),
        false => format!("the table {name} is not made of files; INSERT into one made by CREATE EXTERNAL TABLE"),
    })
}

async fn of_copy(
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
    let (url, lease) = located(&copy.output_url, &store_options, catalog)?;
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
    let factory = file_type_to_format(&copy.file_type).map_err(failed)?;
    let format = factory.create(state, &format_options).map_err(failed)?;
    let encoding = encoding(format.as_ref(), &schema, state).await?;
    Ok(Destination {
        query,
        store: state.runtime_env().object_store(&url).map_err(failed)?,
        suffix: format!(".{}", extension(format.as_ref())),
        _lease: Arc::new(lease),
        write: FileWrite {
            ordering: None,
            target: Arc::new(FileTarget {
                store: url.object_store(),
                staging: staging(&folder, query),
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

/// The options of a COPY, by whom they are for.
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
                "single_file_output" => sorted.output = Some(flag(key, value)?).into(),
                "execution.keep_partition_by_columns" | "keep_partition_by_columns" => {
                    sorted.keep_partition_columns = flag(key, value)?;
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

fn flag(key: &str, value: &str) -> Result<bool, Failure> {
    value
        .trim()
        .to_ascii_lowercase()
        .parse()
        .map_err(|_| invalid(format!("the option {key} is true or false, not {value}")))
}

/// The URL under which plans find what the user calls `text`.
fn located(
    text: &str,
    options: &[(String, String)],
    catalog: &Catalog,
) -> Result<(ListingTableUrl, StoreLease), Failure> {
    let is_path = std::path::Path::new(text).is_absolute() || !text.contains("://");
    if !is_path {
        let url = Url::parse(text).map_err(|error| invalid(format!("{text} is no URL: {error}")))?;
        let (url, lease) = catalog.lease_store(&url, options)?;
        return Ok((ListingTableUrl::try_new(url, None).map_err(failed)?, lease));
    }
    if let Some((key, _)) = options.first() {
        return Err(invalid(format!(
            "the option {key} has no meaning for the local path {text}; leave it out"
        )));
    }
    let url = ListingTableUrl::parse(text).map_err(failed)?;
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

/// How `format` is written, as DataFusion would.
async fn encoding(format: &dyn FileFormat, schema: &SchemaRef, state: &SessionState) -> Result<FileEncoding, Failure> {
    let refused = || {
        unsupported(format!(
            "{} files are not written; use Parquet, CSV or JSON lines",
            format.get_ext()
        ))
    };
    let is_array = format
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
        Ok(plan) => FileEncoding::of_plan(plan.as_ref()).ok_or_else(refused),
        Err(DataFusionError::NotImplemented(_)) => Err(refused()),
        Err(error) => Err(failed(error)),
    }
}

/// With that of the compression, without the dot.
fn extension(format: &dyn FileFormat) -> String {
    let extension = format.get_ext();
    let extension = match format.compression_type() {
        Some(compression) => format.get_ext_with_compression(&compression).unwrap_or(extension),
        None => extension,
    };
    extension.trim_start_matches('.').to_owned()
}

fn staging(folder: &Path, query: QueryId) -> Path {
    let parent = folder.clone().join(STAGING_FOLDER);
    parent.join(query.to_string())
}

fn parent(path: &Path) -> Path {
    let parts: Vec<_> = path.parts().collect();
    let above = parts.len().saturating_sub(1);
    parts.into_iter().take(above).collect()
}

fn failed(error: DataFusionError) -> Failure {
    failure::of(&error)
}

fn unsupported(message: String) -> Failure {
    Failure::new(FailureKind::Unsupported, message)
}

fn invalid(message: String) -> Failure {
    Failure::new(FailureKind::Invalid, message)
}
