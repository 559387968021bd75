//! Conditions that are joined by AND, one after the other.
//!
//! DataFusion evaluates `a AND b` on all rows; where `a` leaves few of them it evaluates `b` on a copy of them, with all columns
//! of the batch, and puts the results back in the places of all rows, and so again for each further AND. Here the numbers of the
//! rows that are left go from condition to condition, as in vectorised engines (Boncz, Zukowski, Nes, "MonetDB/X100:
//! Hyper-Pipelining Query Execution", 2005), and only the columns that a condition reads are copied.
//!
//! No condition is evaluated on a row on which DataFusion would not evaluate it, so none fails that did not fail before.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::{filter, take};
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::cast::as_boolean_array;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::{collect_columns, split_conjunction};
use datafusion::physical_expr_common::physical_expr::is_volatile;

/// The rows that are left are copied for the next condition where they are at most one in so many; DataFusion copies them
/// where they are one in five.
const FEW: usize = 4;

/// `condition`, its parts evaluated one after the other, where AND joins any.
pub(super) fn in_turn(condition: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
    let parts = split_conjunction(&condition);
    if parts.len() < 2 || is_volatile(&condition) {
        return Ok(condition);
    }
    let parts = parts.into_iter().map(Part::new).collect::<Result<_>>()?;
    Ok(Arc::new(Conjunction {
        whole: condition,
        parts,
    }))
}

/// `a AND b AND c`, with FALSE in place of NULL: a filter drops the row either way.
#[derive(Debug)]
struct Conjunction {
    whole: Arc<dyn PhysicalExpr>,
    parts: Vec<Part>,
}

/// One of the conditions.
#[derive(Debug)]
struct Part {
    /// Over the columns of the batch.
    of_all: Arc<dyn PhysicalExpr>,
    /// Over the columns that it reads alone.
    of_own: Arc<dyn PhysicalExpr>,
    /// The places of these columns in the batch.
    columns: Vec<usize>,
}

impl Part {
    fn new(condition: &Arc<dyn PhysicalExpr>) -> Result<Self> {
        let mut columns: Vec<usize> = collect_columns(condition).iter().map(Column::index).collect();
        columns.sort_unstable();
        columns.dedup();
        let of_own = Arc::clone(condition).transform_up(|node| {
            let Some(column) = node.downcast_ref::<Column>() else {
                return Ok(Transformed::no(node));
            };
            match columns.binary_search(&column.index()) {
                Ok(place) => Ok(Transformed::yes(Arc::new(Column::new(column.name(), place)) as _)),
                Err(_) => internal_err!("{column} is a column of a condition that does not have it"),
            }
        });
        Ok(Self {
            of_all: Arc::clone(condition),
            of_own: of_own.data()?,
            columns,
        })
    }

    /// Which rows of the batch fulfil it.
    fn of_batch(&self, batch: &RecordBatch) -> Result<BooleanBuffer> {
        truth(self.of_all.evaluate(batch)?, batch.num_rows())
    }

    /// Which of `rows`, numbers of rows of the batch, fulfil it.
    fn of_rows(&self, batch: &RecordBatch, rows: &UInt32Array) -> Result<BooleanBuffer> {
        let columns = self.columns.iter().map(|place| take(batch.column(*place), rows, None));
        let picked = RecordBatch::try_new_with_options(
            Arc::new(batch.schema().project(&self.columns)?),
            columns.collect::<std::result::Result<_, _>>()?,
            &RecordBatchOptions::new().with_row_count(Some(rows.len())),
        )?;
        truth(self.of_own.evaluate(&picked)?, rows.len())
    }
}

/// Where `values` are true.
fn truth(values: ColumnarValue, rows: usize) -> Result<BooleanBuffer> {
    match values {
        ColumnarValue::Scalar(ScalarValue::Boolean(value)) => Ok(match value {
            Some(true) => BooleanBuffer::new_set(rows),
            Some(false) | None => BooleanBuffer::new_unset(rows),
        }),
        values => {
            let values = values.into_array(rows)?;
            let values = as_boolean_array(&values)?;
            Ok(match values.nulls() {
                Some(nulls) if nulls.null_count() > 0 => values.values() & nulls.inner(),
                _ => values.values().clone(),
            })
        }
    }
}

/// The rows that fulfil all conditions so far.
enum Left {
    All,
    /// Where the bits are set.
    Bits(BooleanBuffer),
    /// Few, by their numbers.
    Rows(UInt32Array),
}

impl Left {
    fn after(self, part: &Part, batch: &RecordBatch) -> Result<Self> {
        Ok(match self {
            Self::All => Self::of_bits(part.of_batch(batch)?),
            Self::Bits(bits) => Self::of_bits(&bits & &part.of_batch(batch)?),
            Self::Rows(rows) => {
                let fulfil = BooleanArray::new(part.of_rows(batch, &rows)?, None);
                Self::Rows(filter(&rows, &fulfil)?.as_primitive().clone())
            }
        })
    }

    fn of_bits(bits: BooleanBuffer) -> Self {
        match bits.count_set_bits() * FEW <= bits.len() {
            true => Self::Rows(bits.set_indices_u32().collect::<Vec<_>>().into()),
            false => Self::Bits(bits),
        }
    }

    fn is_none(&self) -> bool {
        matches!(self, Self::Rows(rows) if rows.is_empty())
    }

    fn bits(self, rows: usize) -> BooleanBuffer {
        match self {
            Self::All => BooleanBuffer::new_set(rows),
            Self::Bits(bits) => bits,
            Self::Rows(left) => {
                let mut bits = vec![false; rows];
                for row in left.values() {
                    bits[*row as usize] = true;
                }
                BooleanBuffer::from(bits)
            }
        }
    }
}

impl PhysicalExpr for Conjunction {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(false)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let mut left = Left::All;
        for part in &self.parts {
            left = left.after(part, batch)?;
            if left.is_none() {
                return Ok(ColumnarValue::Scalar(ScalarValue::Boolean(Some(false))));
            }
        }
        let bits = left.bits(batch.num_rows());
        Ok(ColumnarValue::Array(Arc::new(BooleanArray::new(bits, None))))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.whole]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match children.into_iter().next() {
            Some(whole) => in_turn(whole),
            None => internal_err!("a conjunction is of conditions"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.whole.fmt_sql(f)
    }
}

impl fmt::Display for Conjunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.whole.fmt(f)
    }
}

impl Hash for Conjunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.whole.hash(state);
    }
}

impl PartialEq for Conjunction {
    fn eq(&self, other: &Self) -> bool {
        *self.whole == *other.whole
    }
}

impl Eq for Conjunction {}
