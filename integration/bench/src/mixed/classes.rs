//! Short and long queries, over the same tables or over tables of their own.

use std::collections::BTreeMap;

use super::super::connection::{self, Connection};
use super::super::isolated::Alone;
use super::super::policies::Contender;
use super::super::system::SystemArgs;
use super::super::{Result, tables};
use super::schedule::Arrival;

/// The schema of the tables that only long queries read.
const LARGE_SCHEMA: &str = "large";

/// How many connections the arrivals of a class share; each carries many queries at a time.
const CONNECTIONS: usize = 16;

/// What each query takes with a server to itself.
#[derive(Debug)]
pub(super) struct Classes {
    pub(super) short: BTreeMap<u8, Alone>,
    pub(super) long: BTreeMap<u8, Alone>,
}

impl Classes {
    pub(super) fn of(&self, arrival: &Arrival) -> &Alone {
        match arrival.is_long {
            true => &self.long[&arrival.query],
            false => &self.short[&arrival.query],
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Alone> {
        self.short.values().chain(self.long.values())
    }
}

/// The processor seconds of one of these on average, where the system tells.
pub(super) fn mean_cpu(alone: &BTreeMap<u8, Alone>, queries: &[u8]) -> Option<f64> {
    let cpu = queries.iter().map(|query| alone[query].cpu_seconds);
    let sum = cpu.sum::<Option<f64>>();
    sum.map(|sum| sum / queries.len() as f64)
}

/// Gives each server tables of this scale in a schema of their own, to which the connection that asks one question at a time
/// turns.
pub(super) async fn add_large_tables(contenders: &mut [Contender], scale: f64, system: &SystemArgs) -> Result<()> {
    let folder = tables::tpch(scale, system.cache_dir.as_deref()).await?;
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

/// The connections of the clients.
pub(super) struct Connections {
    short: Vec<Connection>,
    long: Vec<Connection>,
}

impl Connections {
    /// `has_large_tables`: whether long queries have tables of their own.
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
