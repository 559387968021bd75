//! `CREATE EXTERNAL TABLE`: DataFusion's own, plus object stores, and without secrets in the table.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::{Constraint, not_impl_err, plan_err};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::listing::{ListingTable, ListingTableUrl};
use datafusion::datasource::listing_table_factory::ListingTableFactory;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::CreateExternalTable;
use futures::TryStreamExt;
use squadron_proto::Failure;
use squadron_shuffle::failure;
use squadron_shuffle::net::object_stores;
use url::Url;

use super::dialect::Dialect;
use super::format::Format;
use super::layout::{folder_values, partition_type};
use super::partitions::{PartitionedTable, files_of};
use super::source::refuse_special;
use super::stores::Stores;
use super::survey::Survey;

/// Takes the options of the object store (`aws.*`, `gcp.*`, `azure.*`, `http.*`) out of the statement, registers the
/// store under a URL of its own and leaves the rest to DataFusion.
pub(super) struct ExternalTableFactory {
    stores: Arc<Stores>,
    listing: ListingTableFactory,
}

impl fmt::Debug for ExternalTableFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExternalTableFactory")
    }
}

impl ExternalTableFactory {
    pub(super) fn new(stores: Arc<Stores>) -> Self {
        Self {
            stores,
            listing: ListingTableFactory::new(),
        }
    }

    /// Replaces the locations of `statement` by the URLs that plans use. Returns those that have an object store, even
    /// when a later one is refused.
    fn locate(
        &self,
        statement: &mut CreateExternalTable,
        options: &[(String, String)],
    ) -> (Vec<Url>, Result<(), Failure>) {
        let mut located = Vec::new();
        for location in &mut statement.locations {
            let is_path = Path::new(location.as_str()).is_absolute() || !location.contains("://");
            let Some(url) = Url::parse(location).ok().filter(|_| !is_path) else {
                continue;
            };
            match self.stores.locate(&url, options) {
                Ok(url) => {
                    *location = url.to_string();
                    located.push(url);
                }
                Err(failure) => return (located, Err(failure)),
            }
        }
        (located, Ok(()))
    }

    async fn open(&self, state: &dyn Session, statement: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
        for location in &statement.locations {
            let Some(path) = local_path(location) else { continue };
            if !location.contains(['*', '?', '[']) && !path.exists() {
                return plan_err!("there is no file or folder {location}; correct LOCATION");
            }
            refuse_special(&path).map_err(failure::into_datafusion)?;
        }
        let opened = async {
            let adapted = self.adapted(state, statement).await?;
            let table = self.listing.create(state, &adapted).await?;
            let table = typed(state, table, !statement.schema.fields().is_empty()).await?;
            if let Some(files) = files_of(table.as_ref())
                && let Some(text) = Survey::of_table(files, false, state.runtime_env())
                    .await
                    .omissions
                    .text()
            {
                let places = self.stores.to_user_urls(&statement.locations.join(", "));
                tracing::warn!("table {}: not all of {places} is read: {text}", statement.name);
            }
            Ok(table)
        };
        opened.await.map_err(|error: DataFusionError| {
            let failure = failure::of(&error);
            let reason = self.stores.to_user_urls(&failure.message).replace('\n', " ");
            let message = format!("table {}: {reason}", statement.name);
            failure::into_datafusion(Failure::new(failure.kind, message))
        })
    }
}

impl ExternalTableFactory {
    /// The statement with the dialect that its first file shows, where it does not say one.
    async fn adapted(&self, state: &dyn Session, statement: &CreateExternalTable) -> Result<CreateExternalTable> {
        let mut statement = statement.clone();
        let says = |option: &str| {
            let mut options = statement.options.keys();
            options.any(|key| key.trim_start_matches("format.").eq_ignore_ascii_case(option))
        };
        let is_csv = statement.file_type.eq_ignore_ascii_case("csv") && !says("delimiter");
        let is_json = statement.file_type.eq_ignore_ascii_case("json") && !says("newline_delimited");
        let compression = says("compression");
        if !(is_csv || is_json) || compression {
            return Ok(statement);
        }
        for location in &statement.locations {
            let url = ListingTableUrl::parse(location)?;
            let store = state.runtime_env().object_store(&url)?;
            let mut files = url.list_all_files(state, store.as_ref(), "").await?;
            while let Some(file) = files.try_next().await? {
                let name = file.location.filename().unwrap_or_default();
                let known = Format::of(name);
                if file.size == 0 || known.as_ref().is_some_and(|known| known.compression.is_compressed()) {
                    continue;
                }
                let dialect = Dialect::of(&store, &file, FileCompressionType::UNCOMPRESSED).await?;
                if is_csv && dialect.delimiter != b',' {
                    let delimiter = char::from(dialect.delimiter).to_string();
                    statement.options.insert("format.delimiter".to_owned(), delimiter);
                }
                if is_json && dialect.is_array {
                    statement
                        .options
                        .insert("format.newline_delimited".to_owned(), "false".to_owned());
                }
                return Ok(statement);
            }
        }
        Ok(statement)
    }
}

/// Refuses what the readers would leave out without a word.
fn refuse_ignored_options(statement: &CreateExternalTable) -> Result<()> {
    for option in statement.options.keys() {
        let name = option.trim_start_matches("format.");
        if ["null_value", "null_regex"]
            .iter()
            .any(|ignored| name.eq_ignore_ascii_case(ignored))
        {
            return not_impl_err!("{name} is not supported when files are read; write nullif(column, 'NA') in a view");
        }
    }
    Ok(())
}

/// The table with values for the names of its folders; their types are those of the values if no columns are declared.
async fn typed(
    state: &dyn Session,
    table: Arc<dyn TableProvider>,
    is_declared: bool,
) -> Result<Arc<dyn TableProvider>> {
    let Some(files) = table.downcast_ref::<ListingTable>() else {
        return Ok(table);
    };
    let mut types = files.options().table_partition_cols.clone();
    if types.is_empty() {
        return Ok(table);
    }
    if !is_declared {
        let mut values = vec![Vec::new(); types.len()];
        for url in files.table_paths() {
            let store = state.runtime_env().object_store(url)?;
            let mut objects = url
                .list_all_files(state, store.as_ref(), &files.options().file_extension)
                .await?;
            while let Some(object) = objects.try_next().await? {
                let folders = folder_values(url.prefix(), &object.location);
                for (values, value) in values.iter_mut().zip(folders) {
                    if values.last() != Some(&value) {
                        values.push(value);
                    }
                }
            }
        }
        for ((_, data_type), values) in types.iter_mut().zip(values) {
            *data_type = partition_type(&values);
        }
    }
    Ok(Arc::new(PartitionedTable::new(files, &types)?))
}

#[async_trait]
impl TableProviderFactory for ExternalTableFactory {
    async fn create(&self, state: &dyn Session, statement: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
        if statement.unbounded {
            return not_impl_err!("UNBOUNDED tables are not supported; leave the word out");
        }
        // It is trusted when queries are planned, and nothing enforces it (apache/datafusion#21507, #23820).
        if statement
            .constraints
            .iter()
            .any(|constraint| matches!(constraint, Constraint::Unique(_)))
        {
            return not_impl_err!("UNIQUE is not supported, for files may hold equal values; leave it out");
        }
        let (store_options, format_options): (Vec<_>, HashMap<_, _>) = split_options(&statement.options);
        let mut statement = statement.clone();
        statement.options = format_options;
        refuse_ignored_options(&statement)?;
        let (located, outcome) = self.locate(&mut statement, &store_options);
        let table = match outcome {
            Ok(()) => self.open(state, &statement).await,
            Err(failure) => Err(failure::into_datafusion(failure)),
        };
        if table.is_err() {
            for url in &located {
                self.stores.release(url);
            }
        }
        table
    }
}

fn split_options(options: &HashMap<String, String>) -> (Vec<(String, String)>, HashMap<String, String>) {
    let (store, format): (HashMap<_, _>, HashMap<_, _>) = options
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .partition(|(key, _)| object_stores::is_store_option(key));
    (store.into_iter().collect(), format)
}

/// The local path of a location, if it is one.
pub(super) fn local_path(location: &str) -> Option<PathBuf> {
    match Url::parse(location) {
        Ok(url) if url.scheme() == "file" => url.to_file_path().ok(),
        Ok(_) => None,
        Err(_) => Some(location.into()),
    }
}

/// The error of a statement that creates a table which exists already.
pub(super) fn already_exists(name: &str) -> DataFusionError {
    DataFusionError::Plan(format!(
        "the table {name} already exists; drop it first, or say OR REPLACE"
    ))
}
