//! `information_schema.df_settings`, which SHOW reads: a snapshot of the options of the session that asks.
//!
//! DataFusion fills that table where the plan runs. There only the options that a query takes with it are known, and
//! those of Squadron are not among them.

use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, StringArray};
use datafusion::catalog::MemTable;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::datasource::provider_as_source;
use datafusion::error::Result;
use datafusion::logical_expr::{LogicalPlan, TableScan};

const SCHEMA: &str = "information_schema";
const TABLE: &str = "df_settings";

/// The plan, which reads `options` wherever it reads the settings.
pub(crate) fn with_snapshot(plan: LogicalPlan, options: &ConfigOptions) -> Result<LogicalPlan> {
    if !reads_settings(&plan)? {
        return Ok(plan);
    }
    let snapshot = |node: LogicalPlan| match node {
        LogicalPlan::TableScan(mut scan) if is_settings(&scan) => {
            scan.source = provider_as_source(Arc::new(table(&scan, options)?));
            Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
        }
        other => Ok(Transformed::no(other)),
    };
    Ok(plan.transform_up_with_subqueries(snapshot)?.data)
}

/// Hardly any plan does, and making one anew copies all of it.
fn reads_settings(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= matches!(node, LogicalPlan::TableScan(scan) if is_settings(scan));
        Ok(match found {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(found)
}

fn is_settings(scan: &TableScan) -> bool {
    scan.table_name.table() == TABLE && scan.table_name.schema() == Some(SCHEMA)
}

fn table(scan: &TableScan, options: &ConfigOptions) -> Result<MemTable> {
    let entries = options.entries();
    let names = StringArray::from_iter_values(entries.iter().map(|entry| &entry.key));
    let values: StringArray = entries.iter().map(|entry| entry.value.as_deref()).collect();
    let descriptions = entries.iter().map(|entry| entry.description);
    let descriptions = StringArray::from_iter_values(descriptions);
    let schema = scan.source.schema();
    let columns: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "name" => Arc::new(names.clone()) as _,
            "value" => Arc::new(values.clone()) as _,
            _ => Arc::new(descriptions.clone()) as _,
        })
        .collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
    MemTable::try_new(schema, vec![vec![batch]])
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;
    use crate::settings::SquadronOptions;

    #[tokio::test]
    async fn settings_table_shows_the_session() {
        let config = SessionConfig::new().with_information_schema(true);
        let context = SessionContext::new_with_config(config);
        let mut options = context.copied_config().options().as_ref().clone();
        options.extensions.insert(SquadronOptions::default());
        options.set("squadron.priority", "7").unwrap();
        for sql in [
            "SELECT value FROM information_schema.df_settings WHERE name = 'squadron.priority'",
            "SELECT (SELECT value FROM information_schema.df_settings s WHERE s.name = 'squadron.priority') AS value",
        ] {
            let plan = context.sql(sql).await.unwrap().into_unoptimized_plan();
            let plan = with_snapshot(plan, &options).unwrap();
            let rows = context.execute_logical_plan(plan).await.unwrap();
            let rows = rows.collect().await.unwrap();
            let values: Vec<_> = rows
                .iter()
                .flat_map(|batch| {
                    let values = batch.column(0).as_any().downcast_ref::<StringArray>();
                    values.unwrap().iter().flatten().map(str::to_owned)
                })
                .collect();
            assert_eq!(values, ["7"], "{sql}");
        }
    }
}
