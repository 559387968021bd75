//! The schema `system`: the state and recent history of the server, as tables for any client.
//!
//! | table | a row for each |
//! |---|---|
//! | queries, stages, tasks | query that is active or has ended recently, its stages, their tasks |
//! | workers, groups | worker, resource group |
//! | sessions | open session |
//! | settings | option of the session that reads the table |
//! | tables | table of the catalog, and folder with what is no table |
//! | columns | column of which the planner has read some rows |
//!
//! A table is a snapshot, taken while the statement that reads it is planned. A user sees only their own queries and
//! sessions; workers, groups, tables and columns are visible to all users.

mod cluster;
mod columns;
mod queries;
mod rows;
mod sessions;
mod settings;
mod tables;
mod view;
mod work;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{SchemaProvider, Session, TableProvider};
use datafusion::config::ConfigOptions;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use squadron_proto::Failure;

use self::view::View;
use crate::auth::Principal;
use crate::catalog::{Catalog, WeakCatalog};
use crate::driver::SchedulerHandle;
use crate::planner::{Planner, Samples};
use crate::query::OpenSessions;
use crate::query::records::QueryRecords;

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

/// Adds the schema to the catalog.
///
/// # Errors
/// Only for a bug in the server.
pub fn register(
    catalog: &Catalog,
    scheduler: &SchedulerHandle,
    records: &QueryRecords,
    sessions: &OpenSessions,
    planner: &Planner,
) -> Result<(), Failure> {
    let sources = Sources {
        scheduler: scheduler.clone(),
        records: records.clone(),
        sessions: sessions.clone(),
        defaults: catalog.session_defaults(),
        catalog: catalog.downgrade(),
        samples: Arc::clone(planner.samples()),
    };
    SystemSchema::new(&sources)
        .and_then(|schema| catalog.add_system(Arc::new(schema)))
        .map_err(Failure::internal)
}

/// The sources of the tables' rows.
#[derive(Clone)]
struct Sources {
    scheduler: SchedulerHandle,
    records: QueryRecords,
    sessions: OpenSessions,
    /// The options of a new session.
    defaults: Arc<ConfigOptions>,
    catalog: WeakCatalog,
    samples: Arc<Samples>,
}

/// All tables.
#[derive(Debug)]
struct SystemSchema {
    tables: Vec<Arc<SystemTable>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Queries,
    Stages,
    Tasks,
    Workers,
    Groups,
    Sessions,
    Settings,
    Tables,
    Columns,
}

struct SystemTable {
    kind: Kind,
    schema: SchemaRef,
    sources: Sources,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Columns,
        Self::Groups,
        Self::Queries,
        Self::Sessions,
        Self::Settings,
        Self::Stages,
        Self::Tables,
        Self::Tasks,
        Self::Workers,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Queries => "queries",
            Self::Stages => "stages",
            Self::Tasks => "tasks",
            Self::Workers => "workers",
            Self::Groups => "groups",
            Self::Sessions => "sessions",
            Self::Settings => "settings",
            Self::Tables => "tables",
            Self::Columns => "columns",
        }
    }

    fn empty(self) -> Result<RecordBatch> {
        match self {
            Self::Queries => queries::batch(&[]),
            Self::Stages => work::stages(&[]),
            Self::Tasks => work::tasks(&[]),
            Self::Workers => cluster::workers(&[]),
            Self::Groups => cluster::groups(&[]),
            Self::Sessions => sessions::batch(&[]),
            Self::Settings => settings::batch(&[]),
            Self::Tables => tables::batch(&[]),
            Self::Columns => columns::batch(&[]),
        }
    }
}

impl SystemSchema {
    fn new(sources: &Sources) -> Result<Self> {
        let table = |kind: Kind| {
            Ok(Arc::new(SystemTable {
                kind,
                schema: kind.empty()?.schema(),
                sources: sources.clone(),
            }))
        };
        Ok(Self {
            tables: Kind::ALL.into_iter().map(table).collect::<Result<_>>()?,
        })
    }
}

impl SystemTable {
    /// Whether each row is about one query.
    fn is_of_queries(&self) -> bool {
        match self.kind {
            Kind::Queries | Kind::Stages | Kind::Tasks => true,
            Kind::Workers | Kind::Groups | Kind::Sessions | Kind::Settings | Kind::Tables | Kind::Columns => false,
        }
    }

    async fn snapshot(&self, viewer: &Principal, only: Option<&str>, options: &ConfigOptions) -> Result<RecordBatch> {
        let Sources {
            scheduler,
            records,
            sessions,
            defaults,
            catalog,
            samples,
        } = &self.sources;
        match self.kind {
            Kind::Queries => queries::batch(&View::take(scheduler, records, viewer, only).await.queries),
            Kind::Stages => work::stages(&View::take(scheduler, records, viewer, only).await.stages()),
            Kind::Tasks => work::tasks(&View::take(scheduler, records, viewer, only).await.tasks()),
            Kind::Workers => cluster::workers(&scheduler.snapshot().await.workers),
            Kind::Groups => cluster::groups(&cluster::group_rows(&scheduler.snapshot().await)),
            Kind::Sessions => sessions::batch(&sessions::rows(sessions, records, viewer)),
            Kind::Settings => settings::batch(&settings::rows(options, defaults)),
            Kind::Tables => match catalog.upgrade() {
                Some(catalog) => tables::batch(&catalog.tables().await),
                None => tables::batch(&[]),
            },
            Kind::Columns => columns::batch(&samples.newest_sketches()),
        }
    }
}

impl fmt::Debug for SystemTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "system.{}", self.kind.name())
    }
}

/// The id in a filter `query_id = '...'`.
fn requested_query(filter: &Expr) -> Option<&str> {
    let Expr::BinaryExpr(BinaryExpr {
        left,
        op: Operator::Eq,
        right,
    }) = filter
    else {
        return None;
    };
    match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _)) | (Expr::Literal(value, _), Expr::Column(column))
            if column.name == "query_id" =>
        {
            value.try_as_str().flatten()
        }
        _ => None,
    }
}

#[async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        let tables = self.tables.iter();
        tables.map(|table| table.kind.name().to_owned()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let named = |table: &&Arc<SystemTable>| table.kind.name() == name;
        let table = self.tables.iter().find(named);
        Ok(table.map(|table| Arc::clone(table) as _))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.iter().any(|table| table.kind.name() == name)
    }
}

#[async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Pushes down a filter by query: the history may hold the tasks of a thousand queries, and a statement about one
    /// should not wait for all.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let is_served = |filter: &&Expr| self.is_of_queries() && requested_query(filter).is_some();
        let served = filters.iter().map(|filter| match is_served(filter) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        });
        Ok(served.collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let viewer = state.config().get_extension::<Principal>();
        let viewer = viewer.unwrap_or_default();
        // The options of the session: planning may have changed its own copy of them.
        let options = state.config().get_extension::<ConfigOptions>();
        let options = options.as_deref().unwrap_or(state.config_options());
        let only = filters.iter().find_map(requested_query);
        let batch = self.snapshot(&viewer, only, options).await?;
        let schema = Arc::clone(&self.schema);
        Ok(MemorySourceConfig::try_new_exec(
            &[vec![batch]],
            schema,
            projection.cloned(),
        )?)
    }
}
