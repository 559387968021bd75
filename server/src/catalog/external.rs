//! `CREATE EXTERNAL TABLE`: DataFusion's own, with object stores and without secrets.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::{not_impl_err, plan_err};
use datafusion::datasource::listing_table_factory::ListingTableFactory;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::CreateExternalTable;
use squadron_proto::Failure;
use squadron_shuffle::{failure, object_stores};
use url::Url;

use super::stores::Stores;

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

    fn locate(&self, location: &str, options: &[(String, String)]) -> Result<String, Failure> {
        let is_path = Path::new(location).is_absolute() || !location.contains("://");
        match Url::parse(location) {
            Ok(url) if !is_path => self.stores.locate(&url, options).map(String::from),
            _ => Ok(location.to_string()),
        }
    }
}

#[async_trait]
impl TableProviderFactory for ExternalTableFactory {
    async fn create(
        &self,
        state: &dyn Session,
        statement: &CreateExternalTable,
    ) -> Result<Arc<dyn TableProvider>> {
        if statement.unbounded {
            return not_impl_err!("UNBOUNDED tables are not supported; leave the word out");
        }
        let (store_options, format_options): (Vec<_>, HashMap<_, _>) =
            split_options(&statement.options);
        let mut statement = statement.clone();
        statement.options = format_options;
        for location in &mut statement.locations {
            *location = self
                .locate(location, &store_options)
                .map_err(failure::into_datafusion)?;
        }
        if let Some(missing) = statement
            .locations
            .iter()
            .find(|location| is_missing(location))
        {
            return plan_err!("there is no file or folder {missing}; correct LOCATION");
        }
        self.listing
            .create(state, &statement)
            .await
            .map_err(|error| {
                let failure = failure::of(&error);
                let message = self.stores.as_written(&failure.message);
                failure::into_datafusion(Failure::new(
                    failure.kind,
                    format!("table {}: {message}", statement.name),
                ))
            })
    }
}

fn split_options(
    options: &HashMap<String, String>,
) -> (Vec<(String, String)>, HashMap<String, String>) {
    let (store, format): (HashMap<_, _>, HashMap<_, _>) = options
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .partition(|(key, _)| object_stores::is_store_option(key));
    (store.into_iter().collect(), format)
}

/// A local path without a glob that is not there.
fn is_missing(location: &str) -> bool {
    let path = match Url::parse(location) {
        Ok(url) if url.scheme() == "file" => url.to_file_path().ok(),
        Ok(_) => None,
        Err(_) => Some(location.into()),
    };
    path.is_some_and(|path| !location.contains(['*', '?', '[']) && !path.exists())
}

/// A `DataFusionError` for a table that is there already.
pub(super) fn exists(name: &str) -> DataFusionError {
    DataFusionError::Plan(format!(
        "the table {name} already exists; drop it first, or say OR REPLACE"
    ))
}
