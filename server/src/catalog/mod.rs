//! The tables of a server: those found in `--data`, those of `--tpch`, and those that statements create.
//!
//! ```text
//! Catalog ---- SessionState, prepared once, cloned per session
//!    |             '-- catalog "datafusion", schema "public" = SharedSchema
//!    |                                                            |-- source: which tables lie in a folder
//!    |-- Stores: object stores and their options                  '-- listing: opens one of them as a table
//!    '-- ExternalTableFactory: CREATE EXTERNAL TABLE
//! ```
//!
//! All sessions share one schema, so a table that one session creates is seen by the next statement of every other.

mod ddl;
mod external;
mod format;
mod found;
mod layout;
mod listing;
mod schema;
mod source;
mod stores;
#[cfg(test)]
mod tests;
pub mod tpch;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, SchemaProvider,
    TableProviderFactory,
};
use datafusion::config::{ConfigNonZeroUsize, ConfigOptions};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::{SessionContext, SessionState};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::logical_expr::DdlStatement;
use datafusion::prelude::SessionConfig;
use squadron_proto::Failure;
use squadron_proto::control::ObjectStoreSpec;
use tokio::task::JoinSet;

use crate::auth::Principal;
use crate::config::{self, DataSource, ServeArgs};
use crate::datafusion_workarounds;
use crate::settings::session::Wrong;
use crate::settings::{self, SquadronOptions};
use external::ExternalTableFactory;
use schema::SharedSchema;
use source::Source;
pub use stores::StoreLease;
use stores::Stores;

/// Name of the one catalog, as DataFusion calls it.
pub const DEFAULT_CATALOG: &str = "datafusion";
/// Name of the schema that `--data` fills, as DataFusion calls it.
pub const DEFAULT_SCHEMA: &str = "public";
/// Name of the schema that shows what the server does.
pub const SYSTEM_SCHEMA: &str = "system";

/// Where the tables come from.
#[derive(Clone, Debug, Default)]
pub struct CatalogOptions {
    /// Folders, files and named URLs.
    pub data: Vec<DataSource>,
    /// TPC-H tables to serve, and to generate first where they are not cached.
    pub tpch: Option<tpch::Tpch>,
    /// Whether one table that cannot be read keeps the catalog from opening.
    pub strict: bool,
}

impl From<&ServeArgs> for CatalogOptions {
    fn from(args: &ServeArgs) -> Self {
        Self {
            data: args.data.clone(),
            tpch: args.tpch.map(|scale| tpch::Tpch {
                scale,
                cache_dir: args.cache_dir.clone().unwrap_or_else(config::default_cache_dir),
                program: std::env::current_exe().ok(),
            }),
            strict: args.strict,
        }
    }
}

/// All tables, and the prepared state that sessions start from. One per server; clones share it.
#[derive(Clone)]
pub struct Catalog(Arc<Inner>);

struct Inner {
    state: SessionState,
    catalog: Arc<MemoryCatalogProvider>,
    schema: Arc<SharedSchema>,
    stores: Arc<Stores>,
    factory: Arc<ExternalTableFactory>,
    /// Looks for new files; ends with the catalog.
    _watch: JoinSet<()>,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog")
            .field("schema", &self.0.schema)
            .finish_non_exhaustive()
    }
}

impl Catalog {
    /// Opens every table of `options`; sessions plan with the memory pool, object stores and caches of `runtime`.
    ///
    /// A table that cannot be read is logged, and says so again to whoever asks for it.
    ///
    /// # Errors
    /// When the TPC-H tables cannot be made, and with `strict` for the first table that cannot be read.
    pub async fn open(options: &CatalogOptions, runtime: Arc<RuntimeEnv>) -> Result<Self, Failure> {
        let runtime = without_listing_cache(&runtime)?;
        let stores = Arc::new(Stores::new(Arc::clone(&runtime)));
        let factory = Arc::new(ExternalTableFactory::new(Arc::clone(&stores)));
        let mut sources: Vec<Source> = options.data.iter().map(Source::from).collect();
        if let Some(tpch) = &options.tpch {
            sources.push(Source::Folder(tpch.ensure().await?));
        }
        // What opens tables needs a state, and the state needs the schema that opens tables: so the schema gets its
        // own copy, with the same runtime and settings and an empty catalog.
        let (opener, _) = prepared_state(Arc::clone(&runtime), &factory)?;
        let schema = Arc::new(SharedSchema::new(sources, opener, Arc::clone(&stores)));
        for failure in schema.rescan().await {
            if options.strict {
                return Err(Failure::new(
                    failure.kind,
                    format!("{}; mend or remove it, or start without --strict", failure.message),
                ));
            }
            tracing::warn!("{}", failure.message);
        }
        let (state, catalog) = prepared_state(runtime, &factory)?;
        catalog
            .register_schema(DEFAULT_SCHEMA, Arc::clone(&schema) as _)
            .map_err(|error| squadron_shuffle::failure::of(&error))?;
        let mut watch = JoinSet::new();
        watch.spawn(schema::watch(Arc::downgrade(&schema)));
        Ok(Self(Arc::new(Inner {
            state,
            catalog,
            schema,
            stores,
            factory,
            _watch: watch,
        })))
    }

    /// A context for a new session: its own settings, the shared tables. Costs tens of microseconds.
    ///
    /// Contexts share DataFusion's session id; nothing in it tells sessions apart.
    pub fn session_context(&self) -> SessionContext {
        SessionContext::new_with_state(self.0.state.clone())
    }

    /// The same for a session of `principal`, to whom some tables show what is his own.
    pub fn session_context_of(&self, principal: &Principal) -> SessionContext {
        let mut state = self.0.state.clone();
        state.config_mut().set_extension(Arc::new(principal.clone()));
        SessionContext::new_with_state(state)
    }

    /// What every session begins with.
    pub fn session_defaults(&self) -> Arc<ConfigOptions> {
        Arc::clone(self.0.state.config().options())
    }

    /// Puts [`SYSTEM_SCHEMA`] beside the schema of the tables.
    ///
    /// # Errors
    /// None but a bug of ours.
    pub fn add_system(&self, schema: Arc<dyn SchemaProvider>) -> Result<(), DataFusionError> {
        self.0.catalog.register_schema(SYSTEM_SCHEMA, schema)?;
        Ok(())
    }

    /// Sets an option of a session; without a value to what every session begins with.
    ///
    /// # Errors
    /// What is wrong with the name or the value.
    pub fn set_option(&self, context: &SessionContext, name: &str, value: Option<&str>) -> Result<(), Wrong> {
        settings::session::set(context, self.0.state.config().options(), name, value)
    }

    /// Runs a statement that changes the catalog, safely beside others: of two that create the same table one
    /// succeeds, a replaced table is never missing, and a replacement that fails leaves the old table.
    ///
    /// # Errors
    /// As DataFusion's own DDL.
    pub async fn execute_ddl(&self, context: &SessionContext, statement: DdlStatement) -> Result<(), DataFusionError> {
        ddl::execute(context, &self.0.factory, statement).await
    }

    /// Every object store that a table may read from, with its options, for those who run plans elsewhere.
    pub fn object_store_specs(&self) -> Vec<ObjectStoreSpec> {
        self.0.stores.specs()
    }

    /// The specification of the store with this URL (scheme and authority, as plans name it); none for local files.
    pub fn object_store_spec(&self, url: &str) -> Option<ObjectStoreSpec> {
        self.0.stores.spec(url)
    }

    /// The URL under which plans find what the user calls `url`, which is no table. Its store, made with `options`, stays
    /// known while the lease lives.
    ///
    /// # Errors
    /// `Invalid` for a URL that no file can have, and where the options do not make a store.
    pub fn lease_store(&self, url: &url::Url, options: &[(String, String)]) -> Result<(url::Url, StoreLease), Failure> {
        let registered = self.0.stores.locate(url, options)?;
        let lease = StoreLease::new(Arc::clone(&self.0.stores), registered.clone());
        Ok((registered, lease))
    }

    /// The table that `name` (qualified or not) was probably meant to be.
    pub fn nearest_table(&self, name: &str) -> Option<String> {
        let bare = name.rsplit('.').next().unwrap_or(name).trim_matches('"');
        let names = self.0.schema.all_names();
        config::nearest(bare, names.iter().map(String::as_str)).map(str::to_string)
    }

    /// The runtime that sessions plan with.
    pub fn runtime(&self) -> &Arc<RuntimeEnv> {
        self.0.state.runtime_env()
    }

    /// Looks for new, changed and removed files now, not within the next second.
    pub async fn refresh(&self) {
        schema::log_failures(&self.0.schema.rescan().await);
    }
}

/// The same pool, stores and footer cache, but listings are never cached: new files are seen by the next query.
fn without_listing_cache(runtime: &RuntimeEnv) -> Result<Arc<RuntimeEnv>, Failure> {
    RuntimeEnvBuilder::from_runtime_env(runtime)
        .with_object_list_cache_limit(0)
        .build_arc()
        .map_err(|error| squadron_shuffle::failure::of(&error))
}

/// How deeply a statement may nest before it is refused.
const MAX_SQL_DEPTH: usize = 1000;

/// A state with all functions, and the catalog in it, which is still empty.
fn prepared_state(
    runtime: Arc<RuntimeEnv>,
    factory: &Arc<ExternalTableFactory>,
) -> Result<(SessionState, Arc<MemoryCatalogProvider>), Failure> {
    let mut config = SessionConfig::new()
        .with_information_schema(true)
        .with_default_catalog_and_schema(DEFAULT_CATALOG, DEFAULT_SCHEMA)
        .with_create_default_catalog_and_schema(false);
    config.options_mut().extensions.insert(SquadronOptions::default());
    let parser = &mut config.options_mut().sql_parser;
    // Generated statements nest deeply, and statements are planned on large stacks.
    parser.recursion_limit =
        ConfigNonZeroUsize::try_new(MAX_SQL_DEPTH).map_err(|error| squadron_shuffle::failure::of(&error))?;
    // So that errors can say where.
    parser.collect_spans = true;
    let catalogs = MemoryCatalogProviderList::new();
    let catalog = Arc::new(MemoryCatalogProvider::new());
    catalogs.register_catalog(DEFAULT_CATALOG.to_string(), Arc::clone(&catalog) as _);
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_physical_optimizer_rules(datafusion_workarounds::physical_rules())
        .with_catalog_list(Arc::new(catalogs))
        .build();
    let factories: HashMap<String, Arc<dyn TableProviderFactory>> = state
        .table_factories()
        .keys()
        .map(|format| (format.clone(), Arc::clone(factory) as _))
        .collect();
    *state.table_factories_mut() = factories;
    Ok((state, catalog))
}

/// `path` for messages: without the scheme where it is a local file.
fn shown(url: &url::Url) -> String {
    let path: Option<PathBuf> = (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten();
    path.map_or_else(|| url.to_string(), |path| path.display().to_string())
}
