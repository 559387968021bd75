//! The classes of short and long queries, over the same tables or over separate ones.

use std::collections::BTreeMap;

use super::schedule::Arrival;
use crate::connection::{self, Connection};
use crate::isolated::Isolated;
use crate::policies::Contender;
use crate::system::SystemArgs;
use crate::{Result, tables};

/// The schema of the tables for long queries.
const LARGE_SCHEMA: &str = "large";

/// How many connections the arrivals of a class share; one connection carries many queries at a time.
const CONNECTIONS: usize = 16;

/// The queries of both classes, measured with a server to themselves.
#[derive(Debug)]
pub(super) struct Classes {
    pub(super) short: BTreeMap<u8, Isolated>,
    pub(super) long: BTreeMap<u8, Isolated>,
}

impl Classes {
    pub(super) fn of(&self, arrival: &Arrival) -> &Isolated {
        match arrival.is_long {
            true => &self.long[&arrival.query],
            false => &self.short[&arrival.query],
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Isolated> {
        self.short.values().chain(self.long.values())
    }
}

/// The mean processor seconds of these queries, where the processor time is known.
pub(super) fn mean_cpu(isolated: &BTreeMap<u8, Isolated>, queries: &[u8]) -> Option<f64> {
    let cpu = queries.iter().map(|query| isolated[query].cpu_seconds);
    let sum = cpu.sum::<Option<f64>>();
    sum.map(|sum| sum / queries.len() as f64)
}

/// Creates tables of this scale in a separate schema of each server, and makes that schema the default of the
/// contender's connection.
pub(super) async fn add_large_tables(contenders: &mut [Contender], scale: f64, system: &SystemArgs) -> Result<()> {
    let folder = tables::ensure_tpch(scale, system.cache_dir.as_deref()).await?;
    for contender in contenders {
        let connection = &mut contender.connection;
        connection::update(connection, &format!("CREATE SCHEMA {LARGE_SCHEMA}")).await?;
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let create = format!(
                "CREATE EXTERNAL TABLE {LARGE_SCHEMA}.{name} STORED AS PARQUET LOCATION '{}'",
                path.display()
            );
            connection::update(connection, &create).await?;
        }
        use_large_tables(connection).await?;
    }
    Ok(())
}

async fn use_large_tables(connection: &mut Connection) -> Result<()> {
    let set = format!("SET datafusion.catalog.default_schema = '{LARGE_SCHEMA}'");
    connection::update(connection, &set).await
}

/// The connections of both classes.
pub(super) struct Connections {
    short: Vec<Connection>,
    long: Vec<Connection>,
}

impl Connections {
    /// `has_large_tables`: whether long queries read separate tables.
    pub(super) async fn open(url: &str, has_large_tables: bool) -> Result<Self> {
        let (mut short, mut long) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            short.push(connection::connect(url).await?);
            let mut connection = connection::connect(url).await?;
            if has_large_tables {
                use_large_tables(&mut connection).await?;
            }
            long.push(connection);
        }
        Ok(Self { short, long })
    }

    pub(super) fn of(&self, number: usize, arrival: &Arrival) -> Connection {
        let connections = match arrival.is_long {
            true => &self.long,
            false => &self.short,
        };
        connections[number % CONNECTIONS].clone()
    }
}
