//! The metadata commands: their schemas, exact to name and nullability as Flight SQL defines them, and their rows.

mod catalogs;
mod failure;
pub(super) mod flights;
mod keys;
mod patterns;
mod sql_info;
mod tables;
mod types;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::FlightData;
use arrow_flight::sql::{
    Command, CommandGetCatalogs, CommandGetDbSchemas, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTables,
    CommandGetXdbcTypeInfo,
};
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use futures::stream;
use squadron_proto::Failure;
use squadron_shuffle::encode;

use super::status::{self, Stream};

/// A metadata command.
pub(super) enum Metadata {
    Catalogs,
    DbSchemas(CommandGetDbSchemas),
    Tables(CommandGetTables),
    TableTypes,
    PrimaryKeys(CommandGetPrimaryKeys),
    /// Exported keys, imported keys and cross references: one schema, and no rows.
    ForeignKeys,
    SqlInfo(CommandGetSqlInfo),
    XdbcTypeInfo(CommandGetXdbcTypeInfo),
}

impl Metadata {
    /// The command, if it is a metadata command.
    pub(super) fn from_command(command: &Command) -> Option<Self> {
        Some(match command {
            Command::CommandGetCatalogs(CommandGetCatalogs {}) => Self::Catalogs,
            Command::CommandGetDbSchemas(command) => Self::DbSchemas(command.clone()),
            Command::CommandGetTables(command) => Self::Tables(command.clone()),
            Command::CommandGetTableTypes(_) => Self::TableTypes,
            Command::CommandGetPrimaryKeys(command) => Self::PrimaryKeys(command.clone()),
            Command::CommandGetExportedKeys(_)
            | Command::CommandGetImportedKeys(_)
            | Command::CommandGetCrossReference(_) => Self::ForeignKeys,
            Command::CommandGetSqlInfo(command) => Self::SqlInfo(command.clone()),
            Command::CommandGetXdbcTypeInfo(command) => Self::XdbcTypeInfo(*command),
            _ => return None,
        })
    }

    /// The schema of the rows.
    pub(super) fn schema(&self) -> SchemaRef {
        match self {
            Self::Catalogs => CommandGetCatalogs {}.into_builder().schema(),
            Self::DbSchemas(command) => command.clone().into_builder().schema(),
            Self::Tables(command) => command.clone().into_builder().schema(),
            Self::TableTypes => catalogs::table_types_schema(),
            Self::PrimaryKeys(_) => keys::primary_keys_schema(),
            Self::ForeignKeys => keys::foreign_keys_schema(),
            Self::SqlInfo(_) => sql_info::schema(),
            Self::XdbcTypeInfo(_) => types::xdbc_schema(),
        }
    }

    /// The rows as the session sees them.
    pub(super) async fn rows(&self, context: &SessionContext) -> Result<RecordBatch, Failure> {
        match self {
            Self::Catalogs => catalogs::catalogs(context),
            Self::DbSchemas(command) => catalogs::db_schemas(context, command),
            Self::Tables(command) => tables::tables(context, command).await,
            Self::TableTypes => Ok(catalogs::table_types()),
            Self::PrimaryKeys(command) => keys::primary_keys(context, command).await,
            Self::ForeignKeys => Ok(RecordBatch::new_empty(self.schema())),
            Self::SqlInfo(command) => sql_info::rows(&command.info),
            Self::XdbcTypeInfo(command) => types::xdbc_rows(command.data_type),
        }
    }

    /// The rows as Flight frames, from the same encoder as results.
    pub(super) async fn frames(&self, context: &SessionContext) -> Result<Stream<FlightData>, Failure> {
        let batch = self.rows(context).await?;
        let frames = encode::frames(batch.schema(), stream::iter([Ok(batch)]));
        Ok(frames
            .map(|frame| frame.map_err(|failure| status::from_failure(&failure, None)))
            .boxed())
    }
}
