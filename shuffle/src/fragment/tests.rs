//! Plans that are sent and come back.

use std::sync::Arc;
use std::thread;

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::Result;
use datafusion::execution::context::SessionContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{DynamicFilterPhysicalExpr, col, lit};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::{ExecutionPlan, displayable};

use super::{decode, encode};
use crate::nested::{DEPTH, MOST_DEPTH};

fn leaf() -> Arc<dyn ExecutionPlan> {
    let fields = vec![Field::new("a", DataType::Int64, false)];
    Arc::new(EmptyExec::new(Arc::new(Schema::new(fields))))
}

/// So many projections above `plan`.
fn deep(plan: Arc<dyn ExecutionPlan>, nodes: usize) -> Arc<dyn ExecutionPlan> {
    (0..nodes).fold(plan, |input, _| {
        let column = ProjectionExpr::new(col("a", &input.schema()).unwrap(), "a".to_owned());
        Arc::new(ProjectionExec::try_new(vec![column], input).unwrap())
    })
}

fn round_trip(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    decode(&encode(plan)?, &SessionContext::new().task_ctx())
}

fn shown(plan: &Arc<dyn ExecutionPlan>) -> String {
    displayable(plan.as_ref()).indent(true).to_string()
}

#[test]
fn deep_plans_are_sent_up_to_a_depth() {
    // A quarter of what the threads have that decode plans.
    let thread = thread::Builder::new().stack_size(16 << 20).spawn(|| {
        for nodes in [1, DEPTH - 1, DEPTH, DEPTH + 1, MOST_DEPTH - 1] {
            let plan = deep(leaf(), nodes);
            let decoded = round_trip(Arc::clone(&plan)).unwrap();
            assert_eq!(shown(&decoded), shown(&plan), "{nodes} nodes");
        }
        assert!(round_trip(deep(leaf(), MOST_DEPTH)).is_err());
    });
    thread.unwrap().join().unwrap();
}

/// A filter that a join fills and a scan far below it reads.
#[test]
fn nodes_of_different_parts_share_a_filter() {
    let column = || col("a", &leaf().schema()).unwrap();
    let shared = Arc::new(DynamicFilterPhysicalExpr::new(vec![column()], lit(true)));
    let filter = |input| {
        FilterExec::try_new(Arc::clone(&shared) as _, input)
            .map(Arc::new)
            .unwrap()
    };
    let plan = filter(deep(filter(leaf()), 3 * DEPTH));
    let decoded = round_trip(plan).unwrap();
    let filter_of = |plan: &Arc<dyn ExecutionPlan>| {
        let filter = plan.downcast_ref::<FilterExec>().unwrap();
        Arc::clone(filter.predicate())
    };
    let mut lowest = Arc::clone(decoded.children()[0]);
    while !lowest.is::<FilterExec>() {
        lowest = Arc::clone(lowest.children()[0]);
    }
    let upper = filter_of(&decoded);
    let filter = upper.downcast_ref::<DynamicFilterPhysicalExpr>().unwrap();
    filter.update(column_is_one()).unwrap();
    let lower = filter_of(&lowest);
    let lower = lower.downcast_ref::<DynamicFilterPhysicalExpr>().unwrap();
    assert_eq!(lower.current().unwrap().to_string(), "a@0 = 1");
}

fn column_is_one() -> Arc<dyn PhysicalExpr> {
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::binary;
    let schema = leaf().schema();
    binary(col("a", &schema).unwrap(), Operator::Eq, lit(1_i64), &schema).unwrap()
}
