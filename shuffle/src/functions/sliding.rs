//! Aggregates over frames that move, of which rows leave at the front.
//!
//! ```text
//! rows of the frame:   [ a  b  c | d  e ]
//!                       front      back
//! front: what the rest of it comes to, from each row on: {abc, bc, c}; the first row leaves: {bc, c}
//! back:  what it comes to: de. When the front is empty, the rows of the back become the front.
//! ```
//!
//! DataFusion 55.2 takes a value out of a sum by subtraction, so that NaN and infinity never leave it, and what was
//! rounded off stays lost. Here nothing is subtracted, at a constant cost for each row. It also gives frames that move
//! to aggregates that cannot give values back.

use std::collections::VecDeque;
use std::fmt::{Debug, Formatter};
use std::mem::{size_of, size_of_val};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, FieldRef, Float64Type, Schema};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::expr::{AggregateFunctionParams, WindowFunctionParams};
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF, SetMonotonicity,
    Signature, StatisticsArgs,
};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};

/// The aggregates in place of DataFusion's of the same names, but for `sum`, which is in [`super::sum`].
pub(super) const SLIDING: [&str; 22] = [
    "avg",
    "var",
    "var_pop",
    "stddev",
    "stddev_pop",
    "covar_samp",
    "covar_pop",
    "corr",
    "regr_slope",
    "regr_intercept",
    "regr_count",
    "regr_r2",
    "regr_avgx",
    "regr_avgy",
    "regr_sxx",
    "regr_syy",
    "regr_sxy",
    "bool_and",
    "bool_or",
    "bit_and",
    "bit_or",
    "string_agg",
];

/// The function with frames that move.
pub(super) fn sliding(inner: Arc<AggregateUDF>) -> AggregateUDF {
    AggregateUDF::new_from_impl(Sliding { inner })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Sliding {
    inner: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for Sliding {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner.inner().schema_name(params)
    }

    fn human_display(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner.inner().human_display(params)
    }

    fn window_function_schema_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.inner.inner().window_function_schema_name(params)
    }

    fn display_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner.inner().display_name(params)
    }

    fn window_function_display_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.inner.inner().window_function_display_name(params)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field(&self, fields: &[FieldRef]) -> Result<FieldRef> {
        self.inner.inner().return_field(fields)
    }

    fn is_nullable(&self) -> bool {
        self.inner.is_nullable()
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let is_float = *args.return_field.data_type() == DataType::Float64;
        // Sets of values, and sums of numbers that are not rounded, give values back as they should.
        let gives_back = args.is_distinct || !is_float;
        match self.name() {
            "avg" if is_float && !args.is_distinct => Ok(Box::new(FloatFrame::average())),
            "string_agg" => Ok(Box::new(Replayed::new(&self.inner, &args))),
            "bool_and" | "bool_or" | "bit_and" | "bit_or" => Ok(Box::new(Frame::new(&self.inner, &args)?)),
            _ if gives_back => self.inner.inner().create_sliding_accumulator(args),
            _ => Ok(Box::new(Frame::new(&self.inner, &args)?)),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.inner().state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.inner().groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        self.inner.inner().create_groups_accumulator(args)
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        self.inner.inner().simplify()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.inner.reverse_udf() {
            ReversedUDAF::Reversed(reversed) => ReversedUDAF::Reversed(Arc::new(sliding(reversed))),
            other => other,
        }
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner.is_descending()
    }

    fn value_from_stats(&self, statistics: &StatisticsArgs) -> Option<ScalarValue> {
        self.inner.value_from_stats(statistics)
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.inner.default_value(data_type)
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.inner.supports_null_handling_clause()
    }

    fn supports_within_group_clause(&self) -> bool {
        self.inner.supports_within_group_clause()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// The sum or the average of the floats of a frame.
#[derive(Debug, Default)]
pub(super) struct FloatFrame {
    /// The sums of the first rows: the last is that of all of them.
    front: Vec<f64>,
    back: Vec<f64>,
    back_sum: f64,
    is_average: bool,
}

impl FloatFrame {
    pub(super) fn sum() -> Self {
        Self::default()
    }

    fn average() -> Self {
        Self {
            is_average: true,
            ..Self::default()
        }
    }

    fn leave(&mut self) {
        if self.front.is_empty() {
            let mut sum = 0.0;
            self.front.extend(self.back.drain(..).rev().map(|value| {
                sum += value;
                sum
            }));
            self.back_sum = 0.0;
        }
        self.front.pop();
    }
}

impl Accumulator for FloatFrame {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<Float64Type>().iter().flatten() {
            self.back.push(value);
            self.back_sum += value;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let leaving = values[0].len() - values[0].null_count();
        (0..leaving).for_each(|_| self.leave());
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        exec_err!("a frame that moves has no partial sums")
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let count = self.front.len() + self.back.len();
        let sum = match self.front.last() {
            Some(front) if self.back.is_empty() => *front,
            Some(front) => front + self.back_sum,
            None => self.back_sum,
        };
        let value = match self.is_average {
            true => sum / count as f64,
            false => sum,
        };
        Ok(ScalarValue::Float64((count > 0).then_some(value)))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        exec_err!("a frame that moves has no partial sums")
    }

    fn size(&self) -> usize {
        size_of_val(self) + (self.front.capacity() + self.back.capacity()) * size_of::<f64>()
    }
}

/// What accumulators are made of.
struct Call {
    function: Arc<AggregateUDF>,
    return_field: FieldRef,
    schema: Schema,
    ignore_nulls: bool,
    order_bys: Vec<PhysicalSortExpr>,
    is_reversed: bool,
    name: String,
    is_distinct: bool,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    expr_fields: Vec<FieldRef>,
}

impl Call {
    fn new(function: &Arc<AggregateUDF>, args: &AccumulatorArgs) -> Self {
        Self {
            function: Arc::clone(function),
            return_field: Arc::clone(&args.return_field),
            schema: args.schema.clone(),
            ignore_nulls: args.ignore_nulls,
            order_bys: args.order_bys.to_vec(),
            is_reversed: args.is_reversed,
            name: args.name.to_owned(),
            is_distinct: args.is_distinct,
            exprs: args.exprs.to_vec(),
            expr_fields: args.expr_fields.to_vec(),
        }
    }

    fn accumulator(&self) -> Result<Box<dyn Accumulator>> {
        self.function.accumulator(AccumulatorArgs {
            return_field: Arc::clone(&self.return_field),
            schema: &self.schema,
            ignore_nulls: self.ignore_nulls,
            order_bys: &self.order_bys,
            is_reversed: self.is_reversed,
            name: &self.name,
            is_distinct: self.is_distinct,
            exprs: &self.exprs,
            expr_fields: &self.expr_fields,
        })
    }
}

impl Debug for Call {
    fn fmt(&self, f: &mut Formatter) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

/// A frame of an aggregate whose states can be merged, and be looked at more than once.
#[derive(Debug)]
struct Frame {
    call: Call,
    /// The states of the first rows: the last is that of all of them.
    front: Vec<Vec<ScalarValue>>,
    /// The arguments of each of the last rows.
    rows: Vec<Vec<ArrayRef>>,
    back: Box<dyn Accumulator>,
}

impl Frame {
    fn new(function: &Arc<AggregateUDF>, args: &AccumulatorArgs) -> Result<Self> {
        let call = Call::new(function, args);
        let back = call.accumulator()?;
        Ok(Self {
            call,
            front: Vec::new(),
            rows: Vec::new(),
            back,
        })
    }

    fn leave(&mut self) -> Result<()> {
        if self.front.is_empty() {
            let mut state = self.call.accumulator()?;
            for row in self.rows.drain(..).rev() {
                state.update_batch(&row)?;
                self.front.push(state.state()?);
            }
            self.back = self.call.accumulator()?;
        }
        self.front.pop();
        Ok(())
    }
}

fn merge(into: &mut dyn Accumulator, state: &[ScalarValue]) -> Result<()> {
    let state = state.iter().map(ScalarValue::to_array).collect::<Result<Vec<_>>>()?;
    into.merge_batch(&state)
}

impl Accumulator for Frame {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let rows = values.first().map_or(0, |first| first.len());
        for row in 0..rows {
            self.rows
                .push(values.iter().map(|column| column.slice(row, 1)).collect());
        }
        self.back.update_batch(values)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let rows = values.first().map_or(0, |first| first.len());
        (0..rows).try_for_each(|_| self.leave())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        exec_err!("a frame that moves has no partial states")
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let Some(front) = self.front.last() else {
            return self.back.evaluate();
        };
        let mut all = self.call.accumulator()?;
        merge(all.as_mut(), front)?;
        merge(all.as_mut(), &self.back.state()?)?;
        all.evaluate()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        exec_err!("a frame that moves has no partial states")
    }

    fn size(&self) -> usize {
        let row = self.call.exprs.len() * size_of::<ArrayRef>() + size_of::<Vec<ArrayRef>>();
        let state = self.front.first().map_or(0, |state| size_of_val(state.as_slice()));
        size_of_val(self) + self.rows.capacity() * row + self.front.capacity() * (state + size_of::<Vec<ScalarValue>>())
    }
}

/// A frame of which each result is made anew, for aggregates whose results are as large as it.
#[derive(Debug)]
struct Replayed {
    call: Call,
    rows: VecDeque<Vec<ArrayRef>>,
}

impl Replayed {
    fn new(function: &Arc<AggregateUDF>, args: &AccumulatorArgs) -> Self {
        Self {
            call: Call::new(function, args),
            rows: VecDeque::new(),
        }
    }
}

impl Accumulator for Replayed {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let rows = values.first().map_or(0, |first| first.len());
        for row in 0..rows {
            self.rows
                .push_back(values.iter().map(|column| column.slice(row, 1)).collect());
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let rows = values.first().map_or(0, |first| first.len());
        self.rows.drain(..rows.min(self.rows.len()));
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        exec_err!("a frame that moves has no partial states")
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut all = self.call.accumulator()?;
        self.rows.iter().try_for_each(|row| all.update_batch(row))?;
        all.evaluate()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        exec_err!("a frame that moves has no partial states")
    }

    fn size(&self) -> usize {
        let row = self.call.exprs.len() * size_of::<ArrayRef>() + size_of::<Vec<ArrayRef>>();
        size_of_val(self) + self.rows.capacity() * row
    }
}
