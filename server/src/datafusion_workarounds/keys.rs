//! Declared keys of tables are not trusted.
//!
//! Nothing checks the files: they may hold NULLs and equal values in the columns of a PRIMARY KEY. DataFusion 55.2 takes
//! columns that depend on such a key out of GROUP BY, and merges the groups (apache/datafusion#21507, #23820). The catalog
//! still tells the key to clients.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Constraints, Result};
use datafusion::config::ConfigOptions;
use datafusion::datasource::listing::ListingTable;
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::{LogicalPlan, TableScan, TableScanBuilder};
use datafusion::optimizer::AnalyzerRule;

use crate::plan_limits::expressions::rewrite_types;

/// Reads tables as if they had no keys.
#[derive(Debug)]
pub(crate) struct DistrustKeys;

impl AnalyzerRule for DistrustKeys {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        // What depends on a key is part of the schemas above.
        rewrite_types(plan, |node| match node {
            LogicalPlan::TableScan(scan) => without_key(scan),
            other => Ok(Transformed::no(other)),
        })
    }

    fn name(&self) -> &'static str {
        "distrust_keys"
    }
}

fn without_key(scan: TableScan) -> Result<Transformed<LogicalPlan>> {
    let provider = source_as_provider(&scan.source).ok();
    let files = provider
        .as_ref()
        .and_then(|provider| provider.downcast_ref::<ListingTable>());
    let is_declared = scan
        .source
        .constraints()
        .is_some_and(|known| known.iter().next().is_some());
    let (Some(files), true) = (files, is_declared) else {
        return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
    };
    let files = files.clone().with_constraints(Constraints::default());
    let source = provider_as_source(Arc::new(files));
    let TableScan {
        table_name,
        projection,
        filters,
        fetch,
        ..
    } = scan;
    let scan = TableScanBuilder::new(table_name, source)
        .with_projection(projection)
        .with_filters(filters)
        .with_fetch(fetch)
        .build()?;
    Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
}
