//! One walk over a plan before it is read: how much it is, whether its references lead somewhere, and what in it is not
//! supported, by its name.
//!
//! DataFusion's consumer ignores some of what a plan says (phases, extensions, distinct windows, the field that held
//! arguments in old releases). What would be ignored and matters is refused or rewritten here.

use datafusion::error::{DataFusionError, Result};
use datafusion_substrait::substrait::proto::aggregate_rel::Grouping;
use datafusion_substrait::substrait::proto::exchange_rel::ExchangeKind;
use datafusion_substrait::substrait::proto::expression::field_reference::RootType;
use datafusion_substrait::substrait::proto::expression::literal::LiteralType;
use datafusion_substrait::substrait::proto::expression::nested::NestedType;
use datafusion_substrait::substrait::proto::expression::subquery::SubqueryType;
use datafusion_substrait::substrait::proto::expression::{Literal, Nested, RexType, Subquery, WindowFunction, nested};
use datafusion_substrait::substrait::proto::extensions::AdvancedExtension;
use datafusion_substrait::substrait::proto::fetch_rel::{CountMode, OffsetMode};
use datafusion_substrait::substrait::proto::function_argument::ArgType;
use datafusion_substrait::substrait::proto::read_rel::ReadType;
use datafusion_substrait::substrait::proto::rel::RelType;
use datafusion_substrait::substrait::proto::rel_common::EmitKind;
use datafusion_substrait::substrait::proto::r#type::Kind;
use datafusion_substrait::substrait::proto::{
    AggregateFunction, AggregateRel, AggregationPhase, Expression, FunctionArgument, Plan, ReadRel, Rel, RelCommon,
    SortField, Type, plan_rel,
};
use prost::Message;

use super::declarations::{Declarations, Dialect, is_distinct};
use super::{MAX_EXPRESSIONS, MAX_RELATIONS, invalid, unsupported};

/// Bytes that a plan may grow by through references that repeat an expression.
const MAX_REPEATED_BYTES: usize = 64 * 1024 * 1024;

/// Checks `plan`, and settles what stands elsewhere than DataFusion's consumer looks for it.
pub(super) fn check(plan: &mut Plan, declarations: &mut Declarations) -> Result<()> {
    enhanced(plan.advanced_extensions.as_ref(), "plan")?;
    let [tree] = plan.relations.as_mut_slice() else {
        return Err(match plan.relations.len() {
            0 => invalid("the Substrait plan has no relation"),
            trees => unsupported(format!(
                "the Substrait plan has {trees} relation trees; send a plan with one"
            )),
        });
    };
    let mut walk = Walk {
        declarations,
        relations: 0,
        expressions: 0,
        repeated: 0,
    };
    match tree.rel_type.as_mut() {
        Some(plan_rel::RelType::Rel(rel)) => walk.relation(rel),
        Some(plan_rel::RelType::Root(root)) => walk.input(root.input.as_mut(), "root"),
        None => Err(invalid("the Substrait plan has no relation")),
    }
}

struct Walk<'a> {
    declarations: &'a mut Declarations,
    relations: usize,
    expressions: usize,
    repeated: usize,
}

impl Walk<'_> {
    fn relation(&mut self, rel: &mut Rel) -> Result<()> {
        self.relations += 1;
        if self.relations > MAX_RELATIONS {
            return Err(invalid(format!(
                "the Substrait plan has more than {MAX_RELATIONS} relations; send it in parts"
            )));
        }
        let Some(kind) = rel.rel_type.as_mut() else {
            return Err(invalid(
                "the Substrait plan has a relation of no kind, or of one that this server does not know",
            ));
        };
        match kind {
            RelType::Read(read) => self.read(read),
            RelType::Filter(filter) => {
                self.common(
                    filter.common.as_ref(),
                    filter.advanced_extension.as_ref(),
                    "filter",
                    &[],
                )?;
                self.input(filter.input.as_deref_mut(), "filter")?;
                self.needed(filter.condition.as_deref_mut(), "a filter without a condition")
            }
            RelType::Fetch(fetch) => {
                self.common(fetch.common.as_ref(), fetch.advanced_extension.as_ref(), "fetch", &[])?;
                self.input(fetch.input.as_deref_mut(), "fetch")?;
                if let Some(OffsetMode::OffsetExpr(offset)) = fetch.offset_mode.as_mut() {
                    self.expression(offset)?;
                }
                match fetch.count_mode.as_mut() {
                    Some(CountMode::CountExpr(count)) => self.expression(count),
                    _ => Ok(()),
                }
            }
            RelType::Aggregate(aggregate) => self.aggregate(aggregate),
            RelType::Sort(sort) => {
                self.common(sort.common.as_ref(), sort.advanced_extension.as_ref(), "sort", &[])?;
                self.input(sort.input.as_deref_mut(), "sort")?;
                self.sorts(&mut sort.sorts)
            }
            RelType::Join(join) => {
                self.common(join.common.as_ref(), join.advanced_extension.as_ref(), "join", &[])?;
                self.input(join.left.as_deref_mut(), "join")?;
                self.input(join.right.as_deref_mut(), "join")?;
                if join.post_join_filter.is_some() {
                    return Err(not_served(
                        "a join with a post-join filter; send it as a filter relation",
                    ));
                }
                self.optional(join.expression.as_deref_mut())
            }
            RelType::Project(project) => {
                let extension = project.advanced_extension.as_ref();
                self.common(project.common.as_ref(), extension, "project", &project.expressions)?;
                self.input(project.input.as_deref_mut(), "project")?;
                self.expressions(&mut project.expressions)
            }
            RelType::Set(set) => {
                self.common(set.common.as_ref(), set.advanced_extension.as_ref(), "set", &[])?;
                set.inputs.iter_mut().try_for_each(|input| self.relation(input))
            }
            RelType::Cross(cross) => {
                self.common(cross.common.as_ref(), cross.advanced_extension.as_ref(), "cross", &[])?;
                self.input(cross.left.as_deref_mut(), "cross")?;
                self.input(cross.right.as_deref_mut(), "cross")
            }
            RelType::Exchange(exchange) => {
                let extension = exchange.advanced_extension.as_ref();
                self.common(exchange.common.as_ref(), extension, "exchange", &[])?;
                if let Some(ExchangeKind::Broadcast(_) | ExchangeKind::MultiTarget(_)) = exchange.exchange_kind {
                    return Err(not_served("an exchange that copies rows"));
                }
                self.input(exchange.input.as_deref_mut(), "exchange")
            }
            RelType::ExtensionSingle(it) => Err(extension_relation(it.detail.as_ref().map(|it| it.type_url.as_str()))),
            RelType::ExtensionMulti(it) => Err(extension_relation(it.detail.as_ref().map(|it| it.type_url.as_str()))),
            RelType::ExtensionLeaf(it) => Err(extension_relation(it.detail.as_ref().map(|it| it.type_url.as_str()))),
            RelType::Reference(_) => Err(not_served("a reference to another relation tree (ReferenceRel)")),
            RelType::Write(_) => Err(not_served("a write (WriteRel); send INSERT, COPY or CREATE as SQL")),
            RelType::Ddl(_) => Err(not_served("a definition (DdlRel); send CREATE or DROP as SQL")),
            RelType::Update(_) => Err(not_served("an update (UpdateRel)")),
            RelType::HashJoin(_) => Err(physical("HashJoinRel")),
            RelType::MergeJoin(_) => Err(physical("MergeJoinRel")),
            RelType::NestedLoopJoin(_) => Err(physical("NestedLoopJoinRel")),
            RelType::Window(_) => Err(not_served(
                "a window relation (ConsistentPartitionWindowRel); send window functions in a project relation",
            )),
            RelType::Expand(_) => Err(not_served("an expansion (ExpandRel)")),
        }
    }

    fn input(&mut self, rel: Option<&mut Rel>, of: &str) -> Result<()> {
        match rel {
            Some(rel) => self.relation(rel),
            None => Err(invalid(format!(
                "the Substrait plan has a {of} relation that lacks an input"
            ))),
        }
    }

    /// What all relations have. `repeatable` are the expressions that the mapping of the output can repeat.
    fn common(
        &mut self,
        common: Option<&RelCommon>,
        extension: Option<&AdvancedExtension>,
        kind: &str,
        repeatable: &[Expression],
    ) -> Result<()> {
        enhanced(extension, kind)?;
        let Some(common) = common else { return Ok(()) };
        enhanced(common.advanced_extension.as_ref(), kind)?;
        match &common.emit_kind {
            Some(EmitKind::Emit(emit)) => self.repeats(emit.output_mapping.len(), repeatable),
            _ => Ok(()),
        }
    }

    /// References may repeat an expression, so that a small plan becomes a large one.
    fn repeats(&mut self, references: usize, of: &[Expression]) -> Result<()> {
        let largest = of.iter().map(Message::encoded_len).max().unwrap_or(0) + 16;
        self.repeated = self.repeated.saturating_add(references.saturating_mul(largest));
        if self.repeated > MAX_REPEATED_BYTES {
            return Err(invalid(
                "the Substrait plan repeats large expressions too often in output mappings or groupings; compute them once, in \
                 a project relation of their own",
            ));
        }
        Ok(())
    }

    fn read(&mut self, read: &mut ReadRel) -> Result<()> {
        self.common(read.common.as_ref(), read.advanced_extension.as_ref(), "read", &[])?;
        let schema = read.base_schema.as_ref().and_then(|it| it.r#struct.as_ref());
        for column in schema.map(|it| it.types.as_slice()).unwrap_or_default() {
            self.of_type(column)?;
        }
        self.optional(read.filter.as_deref_mut())?;
        match read.read_type.as_mut() {
            Some(ReadType::NamedTable(table)) => enhanced(table.advanced_extension.as_ref(), "read"),
            Some(ReadType::VirtualTable(table)) => {
                #[expect(deprecated, reason = "older producers write rows here")]
                for row in &mut table.values {
                    row.fields.iter_mut().try_for_each(|cell| self.literal(cell))?;
                }
                let rows = table.expressions.iter_mut();
                rows.map(|row| &mut row.fields)
                    .try_for_each(|cells| self.expressions(cells))
            }
            Some(ReadType::LocalFiles(_)) => Err(unsupported(
                "local files of a Substrait plan are not read; make a table of them with CREATE EXTERNAL TABLE and read it by \
                 its name",
            )),
            Some(ReadType::IcebergTable(_)) => Err(not_served("a read of an Iceberg table")),
            Some(ReadType::ExtensionTable(_)) => Err(not_served("a read of an extension's table")),
            None => Err(invalid("the Substrait plan has a read relation that reads nothing")),
        }
    }

    fn aggregate(&mut self, aggregate: &mut AggregateRel) -> Result<()> {
        let extension = aggregate.advanced_extension.as_ref();
        self.common(aggregate.common.as_ref(), extension, "aggregate", &[])?;
        self.input(aggregate.input.as_deref_mut(), "aggregate")?;
        // The standard adds a column with the number of the set, which DataFusion's own plans do not count on.
        if aggregate.groupings.len() > 1 && self.declarations.dialect != Dialect::DataFusion {
            return Err(not_served(
                "several groupings in one aggregate relation; send a union of aggregate relations",
            ));
        }
        self.expressions(&mut aggregate.grouping_expressions)?;
        for grouping in &mut aggregate.groupings {
            self.grouping(grouping, &aggregate.grouping_expressions)?;
        }
        for measure in &mut aggregate.measures {
            self.optional(measure.filter.as_mut())?;
            let Some(function) = measure.measure.as_mut() else {
                return Err(invalid("the Substrait plan has a measure without a function"));
            };
            self.aggregate_function(function)?;
        }
        Ok(())
    }

    fn grouping(&mut self, grouping: &mut Grouping, expressions: &[Expression]) -> Result<()> {
        #[expect(deprecated, reason = "older producers write expressions here")]
        self.expressions(&mut grouping.grouping_expressions)?;
        let references = &grouping.expression_references;
        self.repeats(references.len(), expressions)?;
        match references
            .iter()
            .find(|reference| **reference as usize >= expressions.len())
        {
            Some(reference) => Err(invalid(format!(
                "the Substrait plan groups by expression {reference} of {}",
                expressions.len()
            ))),
            None => Ok(()),
        }
    }

    fn aggregate_function(&mut self, function: &mut AggregateFunction) -> Result<()> {
        #[expect(deprecated, reason = "older producers write arguments here")]
        settle_arguments(&mut function.arguments, &mut function.args);
        self.declarations.settle_aggregate(function)?;
        self.whole(function.phase, function.function_reference)?;
        self.sorts(&mut function.sorts)?;
        self.arguments(&mut function.arguments)
    }

    /// Steps of an aggregation are the business of the server.
    fn whole(&self, phase: i32, function: u32) -> Result<()> {
        match AggregationPhase::try_from(phase) {
            Ok(AggregationPhase::Unspecified | AggregationPhase::InitialToResult) => Ok(()),
            other => Err(unsupported(format!(
                "the aggregate function '{}' in the phase {} is not supported; send the whole aggregation",
                self.declarations.function(function)?,
                other.map_or("unknown", |phase| phase.as_str_name())
            ))),
        }
    }

    fn window_function(&mut self, function: &mut WindowFunction) -> Result<()> {
        #[expect(deprecated, reason = "older producers write arguments here")]
        settle_arguments(&mut function.arguments, &mut function.args);
        let name = self.declarations.function(function.function_reference)?;
        if is_distinct(function.invocation) {
            return Err(unsupported(format!(
                "the window function '{name}' over distinct values is not supported"
            )));
        }
        self.whole(function.phase, function.function_reference)?;
        self.sorts(&mut function.sorts)?;
        self.expressions(&mut function.partitions)?;
        self.arguments(&mut function.arguments)
    }

    fn sorts(&mut self, sorts: &mut [SortField]) -> Result<()> {
        sorts
            .iter_mut()
            .try_for_each(|sort| self.needed(sort.expr.as_mut(), "a sort field without an expression"))
    }

    fn arguments(&mut self, arguments: &mut [FunctionArgument]) -> Result<()> {
        arguments
            .iter_mut()
            .try_for_each(|argument| match argument.arg_type.as_mut() {
                Some(ArgType::Value(value)) => self.expression(value),
                Some(ArgType::Type(of)) => self.of_type(of),
                Some(ArgType::Enum(_)) => Ok(()),
                None => Err(invalid("the Substrait plan has a function argument without a value")),
            })
    }

    fn expressions(&mut self, all: &mut [Expression]) -> Result<()> {
        all.iter_mut().try_for_each(|one| self.expression(one))
    }

    fn optional(&mut self, expression: Option<&mut Expression>) -> Result<()> {
        expression.map_or(Ok(()), |expression| self.expression(expression))
    }

    fn needed(&mut self, expression: Option<&mut Expression>, otherwise: &str) -> Result<()> {
        match expression {
            Some(expression) => self.expression(expression),
            None => Err(invalid(format!("the Substrait plan has {otherwise}"))),
        }
    }

    fn count(&mut self) -> Result<()> {
        self.expressions += 1;
        if self.expressions > MAX_EXPRESSIONS {
            return Err(invalid(format!(
                "the Substrait plan has more than {MAX_EXPRESSIONS} expressions; put large lists of values into a table"
            )));
        }
        Ok(())
    }

    fn expression(&mut self, expression: &mut Expression) -> Result<()> {
        self.count()?;
        let Some(kind) = expression.rex_type.as_mut() else {
            return Err(invalid(
                "the Substrait plan has an expression of no kind, or of one that this server does not know",
            ));
        };
        match kind {
            RexType::Literal(literal) => self.literal(literal),
            RexType::Selection(reference) => match reference.root_type.as_mut() {
                Some(RootType::Expression(root)) => self.expression(root),
                _ => Ok(()),
            },
            RexType::ScalarFunction(function) => {
                #[expect(deprecated, reason = "older producers write arguments here")]
                settle_arguments(&mut function.arguments, &mut function.args);
                self.declarations.function(function.function_reference)?;
                self.arguments(&mut function.arguments)
            }
            RexType::WindowFunction(function) => self.window_function(function),
            RexType::IfThen(if_then) => {
                for (number, clause) in if_then.ifs.iter_mut().enumerate() {
                    self.needed(clause.r#if.as_mut(), "an if-then without a condition")?;
                    // The first one may hold the value that the others are compared with.
                    match clause.then.as_mut() {
                        None if number == 0 => (),
                        then => self.needed(then, "an if-then without a result")?,
                    }
                }
                self.optional(if_then.r#else.as_deref_mut())
            }
            RexType::SingularOrList(list) => {
                self.needed(list.value.as_deref_mut(), "a list of options without a value")?;
                self.expressions(&mut list.options)
            }
            RexType::Cast(cast) => {
                let Some(to) = cast.r#type.as_ref() else {
                    return Err(invalid("the Substrait plan has a cast without a type"));
                };
                self.of_type(to)?;
                self.needed(cast.input.as_deref_mut(), "a cast without a value")
            }
            RexType::Subquery(subquery) => self.subquery(subquery),
            RexType::Nested(nested) => self.nested(nested),
            RexType::DynamicParameter(parameter) => match parameter.r#type.as_ref() {
                Some(of) => self.of_type(of),
                None => Ok(()),
            },
            RexType::Lambda(lambda) => {
                let parameters = lambda.parameters.as_ref().map(|it| it.types.as_slice());
                for parameter in parameters.unwrap_or_default() {
                    self.of_type(parameter)?;
                }
                self.needed(lambda.body.as_deref_mut(), "a lambda without a body")
            }
            RexType::SwitchExpression(_) => Err(not_served("a switch expression; send if-then")),
            RexType::MultiOrList(_) => Err(not_served("a list of options for several values (MultiOrList)")),
            RexType::LambdaInvocation(_) => Err(not_served("the invocation of a lambda")),
            #[expect(deprecated, reason = "it has to be refused by name")]
            RexType::Enum(_) => Err(not_served("an enumeration as an expression")),
        }
    }

    fn subquery(&mut self, subquery: &mut Subquery) -> Result<()> {
        match subquery.subquery_type.as_mut() {
            Some(SubqueryType::Scalar(scalar)) => self.input(scalar.input.as_deref_mut(), "subquery"),
            Some(SubqueryType::InPredicate(predicate)) => {
                self.expressions(&mut predicate.needles)?;
                self.input(predicate.haystack.as_deref_mut(), "subquery")
            }
            Some(SubqueryType::SetPredicate(predicate)) => self.input(predicate.tuples.as_deref_mut(), "subquery"),
            Some(SubqueryType::SetComparison(comparison)) => {
                self.needed(comparison.left.as_deref_mut(), "a comparison without a value")?;
                self.input(comparison.right.as_deref_mut(), "subquery")
            }
            None => Err(invalid("the Substrait plan has a subquery of no kind")),
        }
    }

    fn nested(&mut self, value: &mut Nested) -> Result<()> {
        match value.nested_type.as_mut() {
            Some(NestedType::Struct(fields)) => self.expressions(&mut fields.fields),
            Some(NestedType::List(list)) => self.expressions(&mut list.values),
            Some(NestedType::Map(map)) => {
                map.key_values
                    .iter_mut()
                    .try_for_each(|nested::map::KeyValue { key, value }| {
                        self.needed(key.as_mut(), "a map entry without a key")?;
                        self.needed(value.as_mut(), "a map entry without a value")
                    })
            }
            None => Err(invalid("the Substrait plan has a nested value of no kind")),
        }
    }

    fn literal(&mut self, literal: &mut Literal) -> Result<()> {
        self.count()?;
        // DataFusion's consumer knows texts of one kind alone.
        if let Some(LiteralType::VarChar(text)) = literal.literal_type.as_mut() {
            literal.literal_type = Some(LiteralType::String(std::mem::take(&mut text.value)));
        }
        let Some(value) = literal.literal_type.as_mut() else {
            return Err(invalid(
                "the Substrait plan has a literal of no type, or of one that this server does not know",
            ));
        };
        let (name, known) = match value {
            LiteralType::I8(_) => ("i8", 1),
            LiteralType::I16(_) => ("i16", 1),
            LiteralType::I32(_) => ("i32", 1),
            LiteralType::I64(_) => ("i64", 1),
            LiteralType::String(_) => ("string", 2),
            LiteralType::Binary(_) => ("binary", 2),
            LiteralType::PrecisionTime(_) => ("precision_time", 1),
            LiteralType::List(_) | LiteralType::EmptyList(_) => ("list", 1),
            #[expect(deprecated, reason = "DataFusion reads it")]
            LiteralType::Timestamp(_) => ("timestamp", 3),
            LiteralType::Null(of) => {
                self.of_type(of)?;
                ("null", 0)
            }
            _ => ("literal", 0),
        };
        self.declarations
            .check_variation(literal.type_variation_reference, name, known)?;
        match value {
            LiteralType::Struct(it) => it.fields.iter_mut().try_for_each(|one| self.literal(one)),
            LiteralType::List(it) => it.values.iter_mut().try_for_each(|one| self.literal(one)),
            LiteralType::Map(it) => {
                it.key_values
                    .iter_mut()
                    .try_for_each(|entry| match (entry.key.as_mut(), entry.value.as_mut()) {
                        (Some(key), Some(value)) => {
                            self.literal(key)?;
                            self.literal(value)
                        }
                        _ => Err(invalid("the Substrait plan has a map entry without a key or a value")),
                    })
            }
            LiteralType::EmptyList(of) if of.r#type.is_none() => {
                Err(invalid("the Substrait plan has an empty list without a type"))
            }
            _ => Ok(()),
        }
    }

    /// The variations that DataFusion gives a meaning of its own are those up to `known`.
    fn of_type(&mut self, of: &Type) -> Result<()> {
        self.count()?;
        let Some(kind) = &of.kind else {
            return Err(invalid(
                "the Substrait plan has a type of no kind, or of one that this server does not know",
            ));
        };
        let (reference, name, known) = match kind {
            Kind::Bool(it) => (it.type_variation_reference, "boolean", 0),
            Kind::I8(it) => (it.type_variation_reference, "i8", 1),
            Kind::I16(it) => (it.type_variation_reference, "i16", 1),
            Kind::I32(it) => (it.type_variation_reference, "i32", 1),
            Kind::I64(it) => (it.type_variation_reference, "i64", 1),
            Kind::Fp32(it) => (it.type_variation_reference, "fp32", 0),
            Kind::Fp64(it) => (it.type_variation_reference, "fp64", 0),
            Kind::String(it) => (it.type_variation_reference, "string", 2),
            Kind::Binary(it) => (it.type_variation_reference, "binary", 2),
            #[expect(deprecated, reason = "DataFusion reads it")]
            Kind::Timestamp(it) => (it.type_variation_reference, "timestamp", 3),
            Kind::Date(it) => (it.type_variation_reference, "date", 1),
            Kind::Decimal(it) => (it.type_variation_reference, "decimal", 1),
            Kind::Varchar(it) => (it.type_variation_reference, "varchar", 0),
            Kind::FixedChar(it) => (it.type_variation_reference, "fixedchar", 0),
            Kind::PrecisionTime(it) => (it.type_variation_reference, "precision_time", 1),
            Kind::IntervalDay(it) => (it.type_variation_reference, "interval_day", 1),
            Kind::List(it) => {
                match it.r#type.as_deref() {
                    Some(item) => self.of_type(item)?,
                    None => {
                        return Err(invalid("the Substrait plan has a list type without an item"));
                    }
                }
                (it.type_variation_reference, "list", 1)
            }
            Kind::Map(it) => {
                let (Some(key), Some(value)) = (it.key.as_deref(), it.value.as_deref()) else {
                    return Err(invalid("the Substrait plan has a map type without a key or a value"));
                };
                self.of_type(key)?;
                self.of_type(value)?;
                (it.type_variation_reference, "map", 1)
            }
            Kind::Struct(it) => {
                it.types.iter().try_for_each(|field| self.of_type(field))?;
                (it.type_variation_reference, "struct", 0)
            }
            Kind::UserDefined(it) => {
                self.declarations.check_type(it.type_reference)?;
                (it.type_variation_reference, "user-defined", 0)
            }
            // DataFusion knows no variation of the others, and names those that it does not know at all.
            _ => return Ok(()),
        };
        self.declarations.check_variation(reference, name, known)
    }
}

/// Releases before 0.8 wrote arguments as expressions into a field of its own.
fn settle_arguments(arguments: &mut Vec<FunctionArgument>, old: &mut Vec<Expression>) {
    if arguments.is_empty() {
        let values = std::mem::take(old).into_iter();
        arguments.extend(values.map(|value| FunctionArgument {
            arg_type: Some(ArgType::Value(value)),
        }));
    }
}

/// An enhancement changes what something means: who does not know it must refuse it.
fn enhanced(extension: Option<&AdvancedExtension>, of: &str) -> Result<()> {
    match extension.and_then(|extension| extension.enhancement.as_ref()) {
        Some(enhancement) => Err(unsupported(format!(
            "the Substrait plan has an enhancement of its {of}, '{}', which is not supported",
            shortened(&enhancement.type_url)
        ))),
        None => Ok(()),
    }
}

fn extension_relation(name: Option<&str>) -> DataFusionError {
    let name = name.unwrap_or("without a name");
    not_served(&format!("an extension relation, '{}'", shortened(name)))
}

fn physical(kind: &str) -> DataFusionError {
    not_served(&format!("a physical relation ({kind}); send the logical one, JoinRel"))
}

fn not_served(what: &str) -> DataFusionError {
    unsupported(format!("the Substrait plan has {what}: it is not supported"))
}

fn shortened(name: &str) -> String {
    name.chars().take(100).collect()
}
