//! Opens the file or folder at a URL as a table: layout, schema, and an error that names the file that cannot be read.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::DataFusionError;
use datafusion::execution::context::SessionState;
use datafusion::object_store::{self, ObjectMeta, ObjectStore, ObjectStoreExt};
use futures::TryStreamExt;
use squadron_proto::{Failure, FailureKind};
use url::Url;

use super::definition;
use super::dialect::Dialect;
use super::external::local_path;
use super::format::{FORMATS, FormatKind};
use super::layout::Layout;
use super::names::{DEFAULT_CATALOG, DEFAULT_SCHEMA, display_url};
use super::partitions::PartitionedTable;
use super::source::refuse_special;
use super::stores::Stores;

/// How many files one table may have; a longer listing is probably that of a wrong folder.
const MAX_FILES: usize = 1_000_000;

/// How many files are read one by one to find a broken one.
const MAX_FILES_TO_CHECK: usize = 10_000;

/// Opens the table `name` at `url`. None for a folder without data files.
///
/// # Errors
/// One sentence with the table, the path and the reason.
pub(super) async fn open(
    name: &str,
    url: &Url,
    state: &SessionState,
    stores: &Stores,
) -> Result<Option<Arc<dyn TableProvider>>, Failure> {
    let about = |failure: Failure| {
        let reason = failure.message.replace('\n', " ");
        let message = format!("table {name} cannot be read: {}: {reason}", display_url(url));
        Failure::new(failure.kind, message)
    };
    if let Some(path) = local_path(url.as_str()) {
        refuse_special(&path)?;
    }
    let opener = TableOpener {
        name,
        state,
        user_url: url,
        url: stores.locate(url, &[]).map_err(about)?,
    };
    opener.open().await.map_err(about)
}

struct TableOpener<'a> {
    name: &'a str,
    state: &'a SessionState,
    /// The URL as the user knows it.
    user_url: &'a Url,
    /// The URL in the object store registry.
    url: Url,
}

impl TableOpener<'_> {
    async fn open(&self) -> Result<Option<Arc<dyn TableProvider>>, Failure> {
        let store = self
            .state
            .runtime_env()
            .object_store_registry
            .get_store(&self.url)
            .map_err(to_failure)?;
        let Some((location, layout)) = self.layout(store.as_ref()).await? else {
            return Ok(None);
        };
        let dialect = self.dialect(&store, &layout).await?;
        let reader = layout.format.reader(self.state, dialect);
        let schema = self.schema(&store, &layout, reader.as_ref()).await?;
        let mut options = ListingOptions::new(reader).with_table_partition_cols(layout.partitions.clone());
        let reference = TableReference::full(DEFAULT_CATALOG, DEFAULT_SCHEMA, self.name);
        let mut location = location.with_table_ref(reference);
        let definition = definition::statement(self.name, self.user_url, location.is_collection(), &layout, dialect);
        if location.is_collection() {
            options = options.with_file_extension(&layout.format.suffix);
            location = location
                .with_glob(&format!("[!._]*{}", layout.format.suffix))
                .map_err(to_failure)?;
        } else {
            options = options.with_file_extension("");
        }
        let config = ListingTableConfig::new(location)
            .with_listing_options(options)
            .with_schema(schema);
        let statistics = self.state.runtime_env().cache_manager.get_file_statistic_cache();
        let table = ListingTable::try_new(config)
            .map_err(to_failure)?
            .with_cache(statistics)
            .with_definition(Some(definition));
        if layout.are_plain {
            return Ok(Some(Arc::new(table)));
        }
        let table = PartitionedTable::new(&table, &layout.partitions).map_err(to_failure)?;
        Ok(Some(Arc::new(table)))
    }

    /// How texts are written, by the first file that has any.
    async fn dialect(&self, store: &Arc<dyn ObjectStore>, layout: &Layout) -> Result<Dialect, Failure> {
        let is_text = matches!(layout.format.kind, FormatKind::Csv | FormatKind::Json);
        match layout.files.iter().find(|file| file.size > 0) {
            Some(file) if is_text => Dialect::of(store, file, layout.format.compression)
                .await
                .map_err(to_failure),
            _ => Ok(Dialect::default()),
        }
    }

    /// Lists the table's files. A remote URL without a trailing slash is a file if there is one, else a folder.
    async fn layout(&self, store: &dyn ObjectStore) -> Result<Option<(ListingTableUrl, Layout)>, Failure> {
        let location = ListingTableUrl::try_new(self.url.clone(), None).map_err(to_failure)?;
        if !location.is_collection() {
            match store.head(location.prefix()).await {
                Ok(file) => return Ok(Some((location, Layout::of_file(file)?))),
                Err(object_store::Error::NotFound { .. }) if !self.url.scheme().starts_with("http") => {}
                Err(error) => return Err(to_failure(error.into())),
            }
        }
        let mut folder = self.url.clone();
        if !location.is_collection() {
            folder.set_path(&format!("{}/", self.url.path()));
        }
        let location = ListingTableUrl::try_new(folder, None).map_err(to_failure)?;
        let mut objects = Vec::new();
        let mut listing = store.list(Some(location.prefix()));
        while let Some(object) = listing.try_next().await.map_err(|error| to_failure(error.into()))? {
            if objects.len() == MAX_FILES {
                return Err(invalid(format!(
                    "it has more than {MAX_FILES} files; name a folder below it"
                )));
            }
            objects.push(object);
        }
        let is_remote = self.url.scheme() != "file";
        if objects.is_empty() && is_remote {
            return Err(Failure::new(FailureKind::NotFound, "there is nothing; correct the URL"));
        }
        match Layout::of_folder(location.prefix(), objects)? {
            None if is_remote => Err(invalid(format!("no file in it is {FORMATS}"))),
            layout => Ok(layout.map(|layout| (location, layout))),
        }
    }

    /// The columns of the files, without those of partition folders.
    async fn schema(
        &self,
        store: &Arc<dyn ObjectStore>,
        layout: &Layout,
        reader: &dyn FileFormat,
    ) -> Result<SchemaRef, Failure> {
        let files: Vec<_> = layout.files.iter().filter(|file| file.size > 0).cloned().collect();
        if files.is_empty() {
            return Err(invalid(
                "every file is empty; write some rows, or at least a header".into(),
            ));
        }
        let schema = match reader.infer_schema(self.state, store, &files).await {
            Ok(schema) => schema,
            Err(error) => return Err(self.find_broken_file(store, &files, reader, error).await),
        };
        let schema = without_partition_columns(schema, layout);
        if schema.fields().is_empty() {
            return Err(invalid("it has no columns".into()));
        }
        let mut names = HashSet::new();
        if let Some(twice) = schema.fields().iter().find(|field| !names.insert(field.name())) {
            return Err(invalid(format!(
                "it has two columns named {}; rename one",
                twice.name()
            )));
        }
        Ok(match layout.format.kind {
            FormatKind::Csv | FormatKind::Json => nulls_to_text(&schema),
            FormatKind::Parquet | FormatKind::Arrow | FormatKind::Avro => schema,
        })
    }

    /// Finds the file that caused `error`.
    async fn find_broken_file(
        &self,
        store: &Arc<dyn ObjectStore>,
        files: &[ObjectMeta],
        reader: &dyn FileFormat,
        error: DataFusionError,
    ) -> Failure {
        if files.len() == 1 {
            return to_failure(error);
        }
        for file in files.iter().take(MAX_FILES_TO_CHECK) {
            if let Err(error) = reader.infer_schema(self.state, store, std::slice::from_ref(file)).await {
                let failure = to_failure(error);
                let name = file.location.filename().unwrap_or_default();
                return Failure::new(failure.kind, format!("{name}: {}", failure.message));
            }
        }
        let failure = to_failure(error);
        Failure::new(
            failure.kind,
            format!("its files have columns that do not fit together: {}", failure.message),
        )
    }
}

/// Leaves out columns of partition values that some writers repeat in the files: the folder's name counts.
fn without_partition_columns(schema: SchemaRef, layout: &Layout) -> SchemaRef {
    let is_partition = |field: &Field| layout.partitions.iter().any(|(name, _)| name == field.name());
    if !schema.fields().iter().any(|field| is_partition(field)) {
        return schema;
    }
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .filter(|field| !is_partition(field))
        .cloned()
        .collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// Makes a column text if the sample has only nulls of it, so that values further down are not lost.
fn nulls_to_text(schema: &SchemaRef) -> SchemaRef {
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| match field.data_type() {
            DataType::Null => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)),
            _ => Arc::clone(field),
        })
        .collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn to_failure(error: DataFusionError) -> Failure {
    squadron_shuffle::failure::of(&error)
}

fn invalid(message: String) -> Failure {
    Failure::new(FailureKind::Invalid, message)
}
