//! Long chains of additions, subtractions and multiplications become one call while SQL is planned.
//!
//! DataFusion 55.2 asks for the name and the type of an expression at each of its levels, and each answer spells the names
//! of all levels below: a time that grows with the cube of a chain's length, 7 s for 3,000 additions even where
//! [`super::typed_chains`] writes types down. A call with all operands has one level.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, ExprSchemable, Operator, binary_expr};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use squadron_shuffle::functions::arithmetic::{calculation, is_operator_checked, operands_of, with_step};

use super::typed_chains::{INTERVAL, is_long, steps_of};

/// Flattens chains whose operands are all integers, or all floats.
#[derive(Debug)]
pub(crate) struct FlattenChains;

impl ExprPlanner for FlattenChains {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let operator = match expr.op {
            BinaryOperator::Plus => Operator::Plus,
            BinaryOperator::Minus => Operator::Minus,
            BinaryOperator::Multiply => Operator::Multiply,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let is_long = is_flat(&expr.left) || is_long(&expr.left, is_operator_checked);
        if !is_long || !is_plain(&expr.right, schema) || !has_plain_operands(&expr.left, schema) {
            return Ok(PlannerResult::Original(expr));
        }
        let (first, mut steps) = steps_of(expr.left, is_operator_checked);
        steps.push((operator, expr.right));
        let mut chain = Chain::begin(first, schema)?;
        for (operator, operand) in steps {
            chain = chain.with_step(operator, operand, schema)?;
        }
        Ok(PlannerResult::Planned(chain.done))
    }
}

/// What has been done so far.
struct Chain {
    done: Expr,
    data_type: DataType,
    /// Whether it is a call that takes further operands.
    is_open: bool,
}

impl Chain {
    fn begin(first: Expr, schema: &DFSchema) -> Result<Self> {
        Ok(Self {
            data_type: match flat_operands(&first) {
                // All are of one type, which the call has too.
                Some([operand, ..]) => operand.get_type(schema)?,
                _ => first.get_type(schema)?,
            },
            is_open: is_flat(&first),
            done: first,
        })
    }

    /// Adds a step, with the casts that the coercion of types would add.
    fn with_step(self, operator: Operator, operand: Expr, schema: &DFSchema) -> Result<Self> {
        let right = operand.get_type(schema)?;
        let (common, other) = BinaryTypeCoercer::new(&self.data_type, &operator, &right).get_input_types()?;
        if common != other || !is_plain_type(&common) {
            return Self::begin(binary_expr(self.done, operator, operand), schema);
        }
        let operand = cast(operand, &right, &common);
        let done = match cast(self.done, &self.data_type, &common) {
            Expr::ScalarFunction(call) if self.is_open => with_step(call, operator, operand),
            first => calculation(first, vec![(operator, operand)]),
        };
        Ok(Self {
            done,
            data_type: common,
            is_open: true,
        })
    }
}

fn is_flat(expression: &Expr) -> bool {
    flat_operands(expression).is_some()
}

/// The operands of a chain that was flattened. Shorter calls may be the user's.
fn flat_operands(expression: &Expr) -> Option<&[Expr]> {
    match expression {
        Expr::ScalarFunction(call) => operands_of(call).filter(|operands| operands.len() > INTERVAL),
        _ => None,
    }
}

/// Whether all operands of the chain are plain numbers. A call has them.
fn has_plain_operands(chain: &Expr, schema: &DFSchema) -> bool {
    let mut next = chain;
    loop {
        match next {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_operator_checked(*op) => {
                if !is_plain(right, schema) {
                    return false;
                }
                next = left;
            }
            first => return is_flat(first) || is_plain(first, schema),
        }
    }
}

/// Whether the expression has a type whose sums, differences and products are of the same type. What has none belongs to
/// a query around this one, or is a parameter.
fn is_plain(expression: &Expr, schema: &DFSchema) -> bool {
    expression
        .get_type(schema)
        .is_ok_and(|data_type| is_plain_type(&data_type))
}

fn is_plain_type(data_type: &DataType) -> bool {
    data_type.is_integer() || data_type.is_floating()
}

fn cast(expression: Expr, from: &DataType, to: &DataType) -> Expr {
    match from == to {
        true => expression,
        false => Expr::Cast(Cast::new(Box::new(expression), to.clone())),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Field;
    use datafusion::common::ScalarValue;
    use datafusion::logical_expr::{col, lit};

    use super::*;

    fn schema() -> DFSchema {
        let fields = vec![Field::new("x", DataType::Int32, true)];
        DFSchema::from_unqualified_fields(fields.into(), [].into()).unwrap()
    }

    /// The sum of the operands as the planner of SQL makes it.
    fn sum(operands: impl IntoIterator<Item = Expr>) -> Expr {
        let add = |left, right| {
            let op = BinaryOperator::Plus;
            match FlattenChains.plan_binary_op(RawBinaryExpr { op, left, right }, &schema()) {
                Ok(PlannerResult::Planned(sum)) => sum,
                Ok(PlannerResult::Original(expr)) => expr.left + expr.right,
                Err(error) => panic!("{error}"),
            }
        };
        operands.into_iter().reduce(add).unwrap()
    }

    /// How many operands the calls of a chain have, from the last one.
    fn calls(chain: &Expr) -> Vec<usize> {
        match chain {
            Expr::ScalarFunction(call) => {
                let operands = operands_of(call).unwrap();
                [operands.len()].into_iter().chain(calls(&operands[0])).collect()
            }
            Expr::Cast(cast) => calls(&cast.expr),
            _ => Vec::new(),
        }
    }

    #[test]
    fn long_chains_are_one_call_and_keep_type_and_name() {
        let operands = || (0..100).map(|_| col("x"));
        let flat = sum(operands());
        assert_eq!(calls(&flat), [100]);
        let chain = operands().reduce(|left, right| left + right).unwrap();
        let (flat, chain) = (flat.to_field(&schema()).unwrap(), chain.to_field(&schema()).unwrap());
        assert_eq!(flat, chain);
    }

    #[test]
    fn types_change_where_they_did() {
        let flat = sum((0..100).map(|number| if number < 50 { col("x") } else { lit(1_i64) }));
        assert_eq!(calls(&flat), [50, 2, 50]);
        assert_eq!(flat.get_type(&schema()).unwrap(), DataType::Int64);
    }

    #[test]
    fn short_chains_and_other_types_stay() {
        assert!(calls(&sum((0..INTERVAL).map(|_| col("x")))).is_empty());
        assert!(calls(&sum((0..100).map(|_| lit(ScalarValue::Decimal128(Some(1), 9, 2))))).is_empty());
        assert!(calls(&sum((0..100).map(|_| col("unknown")))).is_empty());
    }
}
