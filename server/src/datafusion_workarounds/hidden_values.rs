//! Values under a NULL struct or list stay hidden.
//!
//! DataFusion 55.2 makes a list or struct NULL by a mark alone in `nullif` and `CASE`, and shows what is below the mark as
//! a field or an element (apache/datafusion#25120, #25293, #25222, #25223). Here it is removed where it arises; Arrow files,
//! which may hold such values too, are cleaned by their format.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;
use squadron_shuffle::functions::{clean, may_hide};

use crate::plan_limits::expressions::rewrite_plan;

/// Removes hidden values.
#[derive(Debug)]
pub(crate) struct RemoveHiddenValues;

impl AnalyzerRule for RemoveHiddenValues {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        rewrite_plan(plan, |expression, schema| {
            expression.transform_up(|part| Ok(cleaned(part, schema)))
        })
    }

    fn name(&self) -> &'static str {
        "remove_hidden_values"
    }
}

fn cleaned(part: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let marks = match &part {
        Expr::Case(_) => true,
        Expr::ScalarFunction(call) => call.name() == "nullif",
        _ => false,
    };
    if !marks || !part.get_type(schema).is_ok_and(|data_type| may_hide(&data_type)) {
        return Transformed::no(part);
    }
    Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(clean(), vec![part])))
}
