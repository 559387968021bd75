//! ListFlights: every table is a flight, under the path `[catalog, schema, table]`.
//!
//! The criteria are a LIKE pattern of table names, as in CommandGetTables; without criteria all tables are listed.
//! System tables are left out: they only describe other tables and the server.

use arrow_flight::{FlightDescriptor, FlightInfo};
use datafusion::prelude::SessionContext;
use squadron_proto::Failure;
use tracing::warn;

use super::catalogs::{is_system, provider, schemas};
use super::patterns::filter_names;
use crate::flight::status::invalid;
use crate::flight::{info, statement};
use crate::query::{Queries, Session};

/// The paths of the tables that match.
pub(in crate::flight) fn paths(context: &SessionContext, criteria: &[u8]) -> Result<Vec<[String; 3]>, Failure> {
    let pattern = str::from_utf8(criteria)
        .map_err(|_| invalid("the criteria of ListFlights are a LIKE pattern of table names, in UTF-8"))?;
    let pattern = Some(pattern).filter(|pattern| !pattern.is_empty());
    let mut paths = Vec::new();
    for (catalog, schema) in schemas(context, None, None)? {
        if is_system(&schema) {
            continue;
        }
        let Some(provider) = provider(context, &catalog, &schema) else {
            continue;
        };
        for table in filter_names(provider.table_names(), pattern)? {
            paths.push([catalog.clone(), schema.clone(), table]);
        }
    }
    Ok(paths)
}

/// The flight of one table; `None` for a table that cannot be read, which must not hide the others.
pub(in crate::flight) async fn flight(queries: &Queries, session: &Session, path: [String; 3]) -> Option<FlightInfo> {
    let schema = async {
        let sql = statement::select_table(session, &path)?;
        let source = statement::source(sql, None)?;
        info::encapsulate(&queries.prepare(session, source).await?.schema)
    };
    match schema.await {
        Ok(schema) => {
            let descriptor = FlightDescriptor::new_path(path.into());
            let mut info = FlightInfo::new().with_descriptor(descriptor);
            info.schema = schema;
            Some(info)
        }
        Err(failure) => {
            warn!(table = path[2], "table is not listed: {failure}");
            None
        }
    }
}
