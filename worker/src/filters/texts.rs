//! Texts that are compared with short ones, as numbers.
//!
//! A view holds a text of up to 12 bytes whole, in 16 bytes: its length, its bytes, and zeros; a longer text has another length
//! (Neumann and Freitag, "Umbra: A Disk-Based System with In-Memory Performance", 2020). So a text equals a short one exactly
//! when their views are the same number.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, BooleanArray, RecordBatch, make_view};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, InListExpr, Literal};

/// Bytes of the longest text that a view holds whole.
const SHORT: usize = 12;

/// In a longer list, DataFusion's hash table is faster than one comparison after the other.
const MOST_TEXTS: usize = 8;

/// `condition`, in which columns of texts are compared with short texts as numbers; `schema` is that of the batches.
pub(super) fn compared_as_numbers(condition: Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    let compared = condition.transform_up(|node| {
        Ok(match comparison(&node, schema) {
            Some(comparison) => Transformed::yes(Arc::new(comparison) as _),
            None => Transformed::no(node),
        })
    });
    compared.data()
}

/// `column IN (texts)`, all of them short.
#[derive(Debug)]
struct OneOf {
    whole: Arc<dyn PhysicalExpr>,
    column: Arc<dyn PhysicalExpr>,
    views: Vec<u128>,
    /// `NOT IN`.
    negated: bool,
}

/// What is looked for in a column: the column, the texts, and whether others than these are meant.
type Lookup<'a> = (&'a Arc<dyn PhysicalExpr>, Vec<&'a Arc<dyn PhysicalExpr>>, bool);

fn comparison(node: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Option<OneOf> {
    let (column, texts, negated) = match node.downcast_ref::<BinaryExpr>() {
        Some(binary) => lookup_of_binary(binary)?,
        None => {
            let list = node.downcast_ref::<InListExpr>()?;
            (list.expr(), list.list().iter().collect(), list.negated())
        }
    };
    let is_text = |column: &Column| schema.field(column.index()).data_type() == &DataType::Utf8View;
    if texts.len() > MOST_TEXTS || !column.downcast_ref::<Column>().is_some_and(is_text) {
        return None;
    }
    Some(OneOf {
        views: texts.into_iter().map(view).collect::<Option<_>>()?,
        whole: Arc::clone(node),
        column: Arc::clone(column),
        negated,
    })
}

fn lookup_of_binary(binary: &BinaryExpr) -> Option<Lookup<'_>> {
    let negated = match binary.op() {
        Operator::Eq => false,
        Operator::NotEq => true,
        _ => return None,
    };
    let (left, right) = (binary.left(), binary.right());
    Some(match left.is::<Column>() {
        true => (left, vec![right], negated),
        false => (right, vec![left], negated),
    })
}

/// The view of a short text that is written in the condition.
fn view(expression: &Arc<dyn PhysicalExpr>) -> Option<u128> {
    let text = match expression.downcast_ref::<Literal>()?.value() {
        ScalarValue::Utf8View(Some(text)) | ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) => text,
        _ => return None,
    };
    (text.len() <= SHORT).then(|| make_view(text.as_bytes(), 0, 0))
}

impl PhysicalExpr for OneOf {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.column.nullable(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let texts = self.column.evaluate(batch)?.into_array(batch.num_rows())?;
        let Some(texts) = texts.as_string_view_opt() else {
            return internal_err!("{} is no column of views", self.column);
        };
        let views = texts.views();
        let bits = match self.views[..] {
            [view] => BooleanBuffer::collect_bool(views.len(), |row| (views[row] == view) != self.negated),
            _ => BooleanBuffer::collect_bool(views.len(), |row| self.views.contains(&views[row]) != self.negated),
        };
        Ok(ColumnarValue::Array(Arc::new(BooleanArray::new(
            bits,
            texts.nulls().cloned(),
        ))))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.column]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match children.into_iter().next() {
            Some(column) => Ok(Arc::new(Self {
                whole: Arc::clone(&self.whole),
                column,
                views: self.views.clone(),
                negated: self.negated,
            })),
            None => internal_err!("texts are those of a column"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.whole.fmt_sql(f)
    }
}

impl fmt::Display for OneOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.whole.fmt(f)
    }
}

impl Hash for OneOf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.column, &self.views, self.negated).hash(state);
    }
}

impl PartialEq for OneOf {
    fn eq(&self, other: &Self) -> bool {
        *self.column == *other.column && self.views == other.views && self.negated == other.negated
    }
}

impl Eq for OneOf {}
