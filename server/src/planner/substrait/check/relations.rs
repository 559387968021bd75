//! Relations: those that are served, with their inputs, and those that are refused by name.

use datafusion::error::Result;
use datafusion_substrait::substrait::proto::aggregate_rel::Grouping;
use datafusion_substrait::substrait::proto::exchange_rel::ExchangeKind;
use datafusion_substrait::substrait::proto::extensions::AdvancedExtension;
use datafusion_substrait::substrait::proto::fetch_rel::{CountMode, OffsetMode};
use datafusion_substrait::substrait::proto::read_rel::ReadType;
use datafusion_substrait::substrait::proto::rel::RelType;
use datafusion_substrait::substrait::proto::rel_common::EmitKind;
use datafusion_substrait::substrait::proto::{
    AggregateRel, CrossRel, ExchangeRel, Expression, FetchRel, FilterRel, JoinRel, ProjectRel, ReadRel, Rel, RelCommon,
    SetRel, SortRel,
};

use super::limits::Walk;
use super::refusals::{extension_relation, not_supported, physical_relation, refuse_enhancement};
use crate::planner::substrait::declarations::Dialect;
use crate::planner::substrait::errors::{invalid, unsupported};

impl Walk<'_> {
    /// Checks a relation and everything below it.
    pub(super) fn check_relation(&mut self, rel: &mut Rel) -> Result<()> {
        self.count_relation()?;
        let Some(kind) = rel.rel_type.as_mut() else {
            return Err(invalid(
                "the Substrait plan has a relation of no kind, or of one that this server does not know",
            ));
        };
        match kind {
            RelType::Read(read) => self.check_read(read),
            RelType::Filter(filter) => self.check_filter(filter),
            RelType::Fetch(fetch) => self.check_fetch(fetch),
            RelType::Aggregate(aggregate) => self.check_aggregate(aggregate),
            RelType::Sort(sort) => self.check_sort(sort),
            RelType::Join(join) => self.check_join(join),
            RelType::Project(project) => self.check_project(project),
            RelType::Set(set) => self.check_set(set),
            RelType::Cross(cross) => self.check_cross(cross),
            RelType::Exchange(exchange) => self.check_exchange(exchange),
            RelType::ExtensionSingle(it) => Err(extension_relation(it.detail.as_ref().map(|it| it.type_url.as_str()))),
            RelType::ExtensionMulti(it) => Err(extension_relation(it.detail.as_ref().map(|it| it.type_url.as_str()))),
            RelType::ExtensionLeaf(it) => Err(extension_relation(it.detail.as_ref().map(|it| it.type_url.as_str()))),
            RelType::Reference(_) => Err(not_supported("a reference to another relation tree (ReferenceRel)")),
            RelType::Write(_) => Err(not_supported("a write (WriteRel); send INSERT, COPY or CREATE as SQL")),
            RelType::Ddl(_) => Err(not_supported("a definition (DdlRel); send CREATE or DROP as SQL")),
            RelType::Update(_) => Err(not_supported("an update (UpdateRel)")),
            RelType::HashJoin(_) => Err(physical_relation("HashJoinRel")),
            RelType::MergeJoin(_) => Err(physical_relation("MergeJoinRel")),
            RelType::NestedLoopJoin(_) => Err(physical_relation("NestedLoopJoinRel")),
            RelType::Window(_) => Err(not_supported(
                "a window relation (ConsistentPartitionWindowRel); send window functions in a project relation",
            )),
            RelType::Expand(_) => Err(not_supported("an expansion (ExpandRel)")),
        }
    }

    pub(super) fn check_input(&mut self, rel: Option<&mut Rel>, of: &str) -> Result<()> {
        match rel {
            Some(rel) => self.check_relation(rel),
            None => Err(invalid(format!(
                "the Substrait plan has a {of} relation that lacks an input"
            ))),
        }
    }

    /// Checks what all relations have. `repeatable` are the expressions that the mapping of the output can repeat.
    fn check_common(
        &mut self,
        common: Option<&RelCommon>,
        extension: Option<&AdvancedExtension>,
        kind: &str,
        repeatable: &[Expression],
    ) -> Result<()> {
        refuse_enhancement(extension, kind)?;
        let Some(common) = common else { return Ok(()) };
        refuse_enhancement(common.advanced_extension.as_ref(), kind)?;
        match &common.emit_kind {
            Some(EmitKind::Emit(emit)) => self.count_repeats(emit.output_mapping.len(), repeatable),
            _ => Ok(()),
        }
    }

    fn check_filter(&mut self, filter: &mut FilterRel) -> Result<()> {
        let extension = filter.advanced_extension.as_ref();
        self.check_common(filter.common.as_ref(), extension, "filter", &[])?;
        self.check_input(filter.input.as_deref_mut(), "filter")?;
        self.check_required(filter.condition.as_deref_mut(), "a filter without a condition")
    }

    fn check_fetch(&mut self, fetch: &mut FetchRel) -> Result<()> {
        self.check_common(fetch.common.as_ref(), fetch.advanced_extension.as_ref(), "fetch", &[])?;
        self.check_input(fetch.input.as_deref_mut(), "fetch")?;
        if let Some(OffsetMode::OffsetExpr(offset)) = fetch.offset_mode.as_mut() {
            self.check_expression(offset)?;
        }
        match fetch.count_mode.as_mut() {
            Some(CountMode::CountExpr(count)) => self.check_expression(count),
            _ => Ok(()),
        }
    }

    fn check_sort(&mut self, sort: &mut SortRel) -> Result<()> {
        self.check_common(sort.common.as_ref(), sort.advanced_extension.as_ref(), "sort", &[])?;
        self.check_input(sort.input.as_deref_mut(), "sort")?;
        self.check_sorts(&mut sort.sorts)
    }

    fn check_join(&mut self, join: &mut JoinRel) -> Result<()> {
        self.check_common(join.common.as_ref(), join.advanced_extension.as_ref(), "join", &[])?;
        self.check_input(join.left.as_deref_mut(), "join")?;
        self.check_input(join.right.as_deref_mut(), "join")?;
        if join.post_join_filter.is_some() {
            return Err(not_supported(
                "a join with a post-join filter; send it as a filter relation",
            ));
        }
        self.check_optional(join.expression.as_deref_mut())
    }

    fn check_project(&mut self, project: &mut ProjectRel) -> Result<()> {
        let extension = project.advanced_extension.as_ref();
        self.check_common(project.common.as_ref(), extension, "project", &project.expressions)?;
        self.check_input(project.input.as_deref_mut(), "project")?;
        self.check_expressions(&mut project.expressions)
    }

    fn check_set(&mut self, set: &mut SetRel) -> Result<()> {
        self.check_common(set.common.as_ref(), set.advanced_extension.as_ref(), "set", &[])?;
        set.inputs.iter_mut().try_for_each(|input| self.check_relation(input))
    }

    fn check_cross(&mut self, cross: &mut CrossRel) -> Result<()> {
        self.check_common(cross.common.as_ref(), cross.advanced_extension.as_ref(), "cross", &[])?;
        self.check_input(cross.left.as_deref_mut(), "cross")?;
        self.check_input(cross.right.as_deref_mut(), "cross")
    }

    fn check_exchange(&mut self, exchange: &mut ExchangeRel) -> Result<()> {
        let extension = exchange.advanced_extension.as_ref();
        self.check_common(exchange.common.as_ref(), extension, "exchange", &[])?;
        if let Some(ExchangeKind::Broadcast(_) | ExchangeKind::MultiTarget(_)) = exchange.exchange_kind {
            return Err(not_supported("an exchange that copies rows"));
        }
        self.check_input(exchange.input.as_deref_mut(), "exchange")
    }

    fn check_read(&mut self, read: &mut ReadRel) -> Result<()> {
        self.check_common(read.common.as_ref(), read.advanced_extension.as_ref(), "read", &[])?;
        let schema = read.base_schema.as_ref().and_then(|it| it.r#struct.as_ref());
        for column in schema.map(|it| it.types.as_slice()).unwrap_or_default() {
            self.check_type(column)?;
        }
        self.check_optional(read.filter.as_deref_mut())?;
        match read.read_type.as_mut() {
            Some(ReadType::NamedTable(table)) => refuse_enhancement(table.advanced_extension.as_ref(), "read"),
            Some(ReadType::VirtualTable(table)) => {
                #[expect(deprecated, reason = "older producers write rows here")]
                for row in &mut table.values {
                    row.fields.iter_mut().try_for_each(|cell| self.check_literal(cell))?;
                }
                let rows = table.expressions.iter_mut();
                rows.map(|row| &mut row.fields)
                    .try_for_each(|cells| self.check_expressions(cells))
            }
            Some(ReadType::LocalFiles(_)) => Err(unsupported(
                "local files of a Substrait plan are not read; make a table of them with CREATE EXTERNAL TABLE and \
                 read it by its name",
            )),
            Some(ReadType::IcebergTable(_)) => Err(not_supported("a read of an Iceberg table")),
            Some(ReadType::ExtensionTable(_)) => Err(not_supported("a read of an extension's table")),
            None => Err(invalid("the Substrait plan has a read relation that reads nothing")),
        }
    }

    fn check_aggregate(&mut self, aggregate: &mut AggregateRel) -> Result<()> {
        let extension = aggregate.advanced_extension.as_ref();
        self.check_common(aggregate.common.as_ref(), extension, "aggregate", &[])?;
        self.check_input(aggregate.input.as_deref_mut(), "aggregate")?;
        // The standard adds a column with the number of the set, which DataFusion's own plans do not count on.
        if aggregate.groupings.len() > 1 && self.declarations.dialect != Dialect::DataFusion {
            return Err(not_supported(
                "several groupings in one aggregate relation; send a union of aggregate relations",
            ));
        }
        self.check_expressions(&mut aggregate.grouping_expressions)?;
        for grouping in &mut aggregate.groupings {
            self.check_grouping(grouping, &aggregate.grouping_expressions)?;
        }
        for measure in &mut aggregate.measures {
            self.check_optional(measure.filter.as_mut())?;
            let Some(function) = measure.measure.as_mut() else {
                return Err(invalid("the Substrait plan has a measure without a function"));
            };
            self.check_aggregate_function(function)?;
        }
        Ok(())
    }

    fn check_grouping(&mut self, grouping: &mut Grouping, expressions: &[Expression]) -> Result<()> {
        #[expect(deprecated, reason = "older producers write expressions here")]
        self.check_expressions(&mut grouping.grouping_expressions)?;
        let references = &grouping.expression_references;
        self.count_repeats(references.len(), expressions)?;
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
}
