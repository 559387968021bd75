//! The size of a logical plan as the passes of an optimizer see it.

use std::collections::HashMap;
use std::fmt;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion, TreeNodeVisitor};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan};

/// How deeply expressions may nest, chains of operators included: the tree of `1 + 1 + 1` has three levels. All threads
/// that handle expressions have stacks for so many levels, also without optimisations of the compiler.
pub(crate) const MAX_EXPRESSION_DEPTH: usize = 5000;
/// How many nodes of a plan may stand upon each other.
pub(super) const MAX_PLAN_DEPTH: usize = 5000;

/// How deeply types may nest: the nesting that readers of Arrow's messages accept, with some room for what encloses them.
pub(super) const MAX_TYPE_DEPTH: usize = 56;
/// How many steps the checks of subqueries may take, about a second.
pub(super) const MAX_CHECK_STEPS: u64 = 1 << 20;

/// Estimates of what planning takes, logical and physical plan and their rewriting together. Measured with joins, whose
/// equivalences of columns are what takes most, and rounded up.
const NODE_BYTES: u64 = 32 * 1024;
const COLUMN_BYTES: u64 = 256;
const EXPRESSION_BYTES: u64 = 512;
/// What each pair of projections above each other takes: they are merged, and each holds the expressions of those below.
const PROJECTION_PAIR_BYTES: u64 = 512;

/// Estimates of what a logical plan takes while it is kept. Measured with prepared TPC-H queries, and rounded up.
const KEPT_NODE_BYTES: u64 = 2 * 1024;
const KEPT_COLUMN_BYTES: u64 = 128;
const KEPT_EXPRESSION_BYTES: u64 = 512;

/// A plan in numbers. What is shared counts as often as it is used: passes walk over it as often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    nodes: u64,
    columns: u64,
    expressions: u64,
    /// Nodes that DataFusion visits when it checks the subqueries of expressions: each twice as often as the plan around
    /// it, hence subqueries in subqueries in subqueries eight times.
    pub(super) check_steps: u64,
    /// How many projections stand upon each other.
    projections: u64,
    pub(super) plan_depth: usize,
    pub(super) expression_depth: usize,
    pub(super) type_depth: usize,
}

impl Size {
    pub(super) fn of(plan: &LogicalPlan) -> Self {
        Sizer::default().plan(plan)
    }

    /// What the logical plan takes while nothing is done with it.
    pub(super) fn kept_bytes(&self) -> u64 {
        let nodes = self.nodes.saturating_mul(KEPT_NODE_BYTES);
        let columns = self.columns.saturating_mul(KEPT_COLUMN_BYTES);
        let expressions = self.expressions.saturating_mul(KEPT_EXPRESSION_BYTES);
        nodes.saturating_add(columns).saturating_add(expressions)
    }

    pub(super) fn bytes(&self) -> u64 {
        let nodes = self.nodes.saturating_mul(NODE_BYTES);
        let columns = self.columns.saturating_mul(COLUMN_BYTES);
        let expressions = self.expressions.saturating_mul(EXPRESSION_BYTES);
        let pairs = self.projections.saturating_mul(self.projections);
        let projections = pairs.saturating_mul(PROJECTION_PAIR_BYTES);
        let parts = [columns, expressions, projections];
        parts.into_iter().fold(nodes, u64::saturating_add)
    }

    fn add(&mut self, part: &Self) {
        self.nodes = self.nodes.saturating_add(part.nodes);
        self.columns = self.columns.saturating_add(part.columns);
        self.expressions = self.expressions.saturating_add(part.expressions);
        self.check_steps = self.check_steps.saturating_add(part.check_steps);
        self.projections = self.projections.max(part.projections);
        self.plan_depth = self.plan_depth.max(part.plan_depth);
        self.expression_depth = self.expression_depth.max(part.expression_depth);
        self.type_depth = self.type_depth.max(part.type_depth);
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            nodes,
            columns,
            expressions,
            ..
        } = self;
        write!(
            f,
            "{nodes} plan nodes with {columns} columns and {expressions} expressions"
        )
    }
}

/// Sizes each node once, however often the plan uses it.
#[derive(Default)]
struct Sizer {
    /// By address: the plan is borrowed meanwhile.
    known: HashMap<*const LogicalPlan, Size>,
}

impl Sizer {
    /// Recurses once for each level of the plan, on the large stacks of threads that plan.
    fn plan(&mut self, plan: &LogicalPlan) -> Size {
        let address = std::ptr::from_ref(plan);
        if let Some(size) = self.known.get(&address) {
            return *size;
        }
        let mut size = Size::default();
        for input in plan.inputs() {
            size.add(&self.plan(input));
        }
        let mut expressions = Expressions {
            sizer: self,
            size: &mut size,
            depth: 0,
        };
        // The visitor returns no errors.
        let _ = plan.apply_expressions(|expression| expression.visit(&mut expressions));
        let fields = plan.schema().fields();
        let type_depth = fields.iter().map(|field| depth_of(field.data_type())).max();
        size.nodes = size.nodes.saturating_add(1);
        size.check_steps = size.check_steps.saturating_add(1);
        size.columns = size.columns.saturating_add(fields.len() as u64);
        size.projections += u64::from(matches!(plan, LogicalPlan::Projection(_)));
        size.plan_depth += 1;
        size.type_depth = size.type_depth.max(type_depth.unwrap_or(0));
        self.known.insert(address, size);
        size
    }
}

/// How many types stand in each other.
fn depth_of(data_type: &DataType) -> usize {
    let inner = match data_type {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _)
        | DataType::RunEndEncoded(_, field) => depth_of(field.data_type()),
        DataType::Struct(fields) => {
            let depths = fields.iter().map(|field| depth_of(field.data_type()));
            depths.max().unwrap_or(0)
        }
        DataType::Union(fields, _) => {
            let depths = fields.iter().map(|(_, field)| depth_of(field.data_type()));
            depths.max().unwrap_or(0)
        }
        DataType::Dictionary(_, value) => depth_of(value),
        _ => 0,
    };
    inner + 1
}

/// Adds expressions to the size of their node.
struct Expressions<'a> {
    sizer: &'a mut Sizer,
    size: &'a mut Size,
    depth: usize,
}

impl TreeNodeVisitor<'_> for Expressions<'_> {
    type Node = Expr;

    fn f_down(&mut self, expression: &Expr) -> Result<TreeNodeRecursion> {
        self.depth += 1;
        self.size.expressions = self.size.expressions.saturating_add(1);
        self.size.expression_depth = self.size.expression_depth.max(self.depth);
        let subquery = match expression {
            Expr::ScalarSubquery(subquery) => Some(subquery),
            Expr::InSubquery(within) => Some(&within.subquery),
            Expr::Exists(exists) => Some(&exists.subquery),
            Expr::SetComparison(comparison) => Some(&comparison.subquery),
            _ => None,
        };
        if let Some(subquery) = subquery {
            let size = self.sizer.plan(&subquery.subquery);
            self.size.add(&size);
            self.size.check_steps = self.size.check_steps.saturating_add(size.check_steps);
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn f_up(&mut self, _: &Expr) -> Result<TreeNodeRecursion> {
        self.depth -= 1;
        Ok(TreeNodeRecursion::Continue)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::datatypes::Field;
    use datafusion::common::JoinType;
    use datafusion::logical_expr::{LogicalPlanBuilder, col, lit, scalar_subquery};

    use super::*;

    fn one_row() -> LogicalPlanBuilder {
        LogicalPlanBuilder::values(vec![vec![lit(1)]]).unwrap()
    }

    #[test]
    fn shared_inputs_count_as_often_as_they_are_used() {
        let mut plan = one_row().project(vec![col("column1").alias("x")]).unwrap();
        for level in 0..100 {
            let left = plan.clone().alias(format!("a{level}")).unwrap();
            let right = plan.alias(format!("b{level}")).unwrap().build().unwrap();
            let on = (vec![format!("a{level}.x")], vec![format!("b{level}.x")]);
            let joined = left.join(right, JoinType::Inner, on, None).unwrap();
            plan = joined.project(vec![col(format!("a{level}.x"))]).unwrap();
        }
        let size = Size::of(&plan.build().unwrap());
        assert_eq!(size.nodes, u64::MAX);
        assert_eq!(size.bytes(), u64::MAX);
        assert_eq!(size.plan_depth, 302);
    }

    #[test]
    fn expressions_and_subqueries_count() {
        let sum = (0..9).fold(lit(0), |sum, _| sum + lit(1));
        let plan = one_row().project(vec![sum]).unwrap().build().unwrap();
        let size = Size::of(&plan);
        assert_eq!((size.nodes, size.expression_depth, size.plan_depth), (2, 10, 2));
        let inner = scalar_subquery(Arc::new(plan));
        let outer = one_row().project(vec![inner]).unwrap().build().unwrap();
        let outer = Size::of(&outer);
        assert_eq!((outer.nodes, outer.expression_depth, outer.plan_depth), (4, 10, 3));
        assert!(outer.bytes() > size.bytes());
        assert_eq!((size.check_steps, outer.check_steps), (2, 6));
    }

    #[test]
    fn types_are_as_deep_as_their_elements() {
        let list = |inner| DataType::new_list(inner, true);
        assert_eq!(depth_of(&DataType::Int64), 1);
        assert_eq!(depth_of(&list(list(DataType::Int64))), 3);
        let fields = vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", list(DataType::Int64), true),
        ];
        assert_eq!(depth_of(&DataType::Struct(fields.into())), 3);
    }
}
