//! `CREATE EXTERNAL TABLE`: DataFusion's own, plus object stores, and without secrets in the table.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::{Constraint, not_impl_err, plan_err};
use datafusion::datasource::listing_table_factory::ListingTableFactory;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::CreateExternalTable;
use squadron_proto::Failure;
use squadron_shuffle::failure;
use squadron_shuffle::net::object_stores;
use url::Url;

use super::source::refuse_special;
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
        self.listing.create(state, statement).await.map_err(|error| {
            let failure = failure::of(&error);
            let reason = self.stores.to_user_urls(&failure.message).replace('\n', " ");
            let message = format!("table {}: {reason}", statement.name);
            failure::into_datafusion(Failure::new(failure.kind, message))
        })
    }
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
