//! What the expressions of a node refer to.

use datafusion::common::DFSchema;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::utils::merge_schema;

/// The columns that the expressions of `node` may name, but for those of queries around it.
pub(crate) fn input_schema(node: &LogicalPlan) -> DFSchema {
    match node {
        // The filters of a scan speak of all its columns.
        LogicalPlan::TableScan(scan) => {
            DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())
                .unwrap_or_else(|_| DFSchema::empty())
        }
        _ => merge_schema(&node.inputs()),
    }
}
