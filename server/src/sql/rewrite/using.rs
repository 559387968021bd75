//! The merged columns of `RIGHT` and `FULL JOIN ... USING`.
//!
//! `USING (k)` makes one column `k` of both sides: that of the right side for RIGHT JOIN, the first that is not NULL for
//! FULL JOIN. DataFusion 55.2 takes the left side's column, which is NULL in rows of the right side alone
//! (apache/datafusion#22881). Here the join gets a condition with ON, and `k` and `*` become what they mean.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, ExcludeSelectItem, Expr, Ident, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart,
    OrderByKind, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableFactor, TableWithJoins,
    VisitMut, VisitorMut, WildcardAdditionalOptions,
};
use squadron_proto::{Failure, FailureKind};

use super::{binary, call, normalized};

/// Rewrites the joins and the columns of one query.
pub(super) fn merge_columns(query: &mut Query) -> ControlFlow<Failure> {
    let SetExpr::Select(select) = query.body.as_mut() else {
        return ControlFlow::Continue(());
    };
    let mut merged = Merged::default();
    let has_conditions = select.selection.is_some();
    for from in &mut select.from {
        let is_outer = from.joins.iter().any(|join| needs_merge(&join.join_operator));
        let is_inner = has_conditions && from.joins.iter().any(|join| has_using(&join.join_operator));
        let (before, known) = (from.clone(), merged.clone());
        if is_outer {
            merged.join(from)?;
        } else if is_inner && merged.join(from).is_continue() {
        } else {
            *from = before;
            merged = known;
            merged
                .relations
                .extend(name_of(&from.relation).map(|name| (name, HashSet::new())));
            let names = from.joins.iter().filter_map(|join| name_of(&join.relation));
            merged.relations.extend(names.map(|name| (name, HashSet::new())));
        }
    }
    if merged.columns.is_empty() {
        return ControlFlow::Continue(());
    }
    merged.name_items(select)?;
    select.visit(&mut merged)?;
    let outputs: HashSet<_> = select.projection.iter().filter_map(output_name).collect();
    if let Some(order) = &mut query.order_by
        && let OrderByKind::Expressions(order) = &mut order.kind
    {
        for by in order {
            let is_output = matches!(&by.expr, Expr::Identifier(name) if outputs.contains(&normalized(name)));
            if !is_output {
                by.visit(&mut merged)?;
            }
        }
    }
    ControlFlow::Continue(())
}

fn needs_merge(operator: &JoinOperator) -> bool {
    match operator {
        JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint) => {
            matches!(constraint, JoinConstraint::Using(_) | JoinConstraint::Natural)
        }
        _ => false,
    }
}

fn has_using(operator: &JoinOperator) -> bool {
    match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint) => matches!(constraint, JoinConstraint::Using(_)),
        _ => false,
    }
}

/// Columns that stand for those of several tables.
#[derive(Clone, Default)]
struct Merged {
    columns: Vec<(Ident, Expr)>,
    /// The tables in their order, with the merged columns that each has.
    relations: Vec<(Ident, HashSet<String>)>,
    /// How many queries are around the visited expression.
    depth: usize,
}

impl Merged {
    fn find(&self, name: &Ident) -> Option<&Expr> {
        let found = self
            .columns
            .iter()
            .find(|(column, _)| normalized(column) == normalized(name));
        found.map(|(_, value)| value)
    }

    fn join(&mut self, from: &mut TableWithJoins) -> ControlFlow<Failure> {
        let first = name_of(&from.relation).map_or_else(refuse_name, ControlFlow::Continue)?;
        let start = self.relations.len();
        self.relations.push((first, HashSet::new()));
        for join in &mut from.joins {
            let relation = name_of(&join.relation).map_or_else(refuse_name, ControlFlow::Continue)?;
            let operator = std::mem::replace(&mut join.join_operator, JoinOperator::CrossApply);
            join.join_operator = self.with_condition(operator, &relation, start)?;
        }
        ControlFlow::Continue(())
    }

    /// The join with ON in place of USING; its table becomes one of the tables.
    fn with_condition(
        &mut self,
        operator: JoinOperator,
        relation: &Ident,
        start: usize,
    ) -> ControlFlow<Failure, JoinOperator> {
        let (make, constraint): (fn(JoinConstraint) -> JoinOperator, _) = match operator {
            JoinOperator::Join(constraint) => (JoinOperator::Join, constraint),
            JoinOperator::Inner(constraint) => (JoinOperator::Inner, constraint),
            JoinOperator::Left(constraint) => (JoinOperator::Left, constraint),
            JoinOperator::LeftOuter(constraint) => (JoinOperator::LeftOuter, constraint),
            JoinOperator::Right(constraint) => (JoinOperator::Right, constraint),
            JoinOperator::RightOuter(constraint) => (JoinOperator::RightOuter, constraint),
            JoinOperator::FullOuter(constraint) => (JoinOperator::FullOuter, constraint),
            other => {
                self.relations.push((relation.clone(), HashSet::new()));
                return ControlFlow::Continue(other);
            }
        };
        let columns = match constraint {
            JoinConstraint::Using(columns) => columns,
            JoinConstraint::Natural => {
                return refuse("NATURAL cannot be joined with RIGHT or FULL JOIN here; name the columns with USING");
            }
            other => {
                self.relations.push((relation.clone(), HashSet::new()));
                return ControlFlow::Continue(make(other));
            }
        };
        let mut condition: Option<Expr> = None;
        let mut own = HashSet::new();
        for column in columns {
            let [ObjectNamePart::Identifier(column)] = column.0.as_slice() else {
                return refuse("USING takes names of columns without a table");
            };
            let left = self.left_side(column, start)?;
            let right = Expr::CompoundIdentifier(vec![relation.clone(), column.clone()]);
            let value = match make(JoinConstraint::None) {
                JoinOperator::Right(_) | JoinOperator::RightOuter(_) => right.clone(),
                JoinOperator::FullOuter(_) => call("coalesce", vec![left.clone(), right.clone()]),
                _ => left.clone(),
            };
            self.columns.retain(|(name, _)| normalized(name) != normalized(column));
            self.columns.push((column.clone(), value));
            own.insert(normalized(column));
            let equal = binary(left, BinaryOperator::Eq, right);
            condition = Some(match condition {
                Some(condition) => binary(condition, BinaryOperator::And, equal),
                None => equal,
            });
        }
        self.relations.push((relation.clone(), own));
        ControlFlow::Continue(make(condition.map_or(JoinConstraint::None, JoinConstraint::On)))
    }

    /// What `column` means in the tables before a join. That of a single table is its own.
    fn left_side(&mut self, column: &Ident, start: usize) -> ControlFlow<Failure, Expr> {
        if let Some(value) = self.find(column) {
            return ControlFlow::Continue(value.clone());
        }
        match &mut self.relations[start..] {
            [(relation, columns)] => {
                columns.insert(normalized(column));
                ControlFlow::Continue(Expr::CompoundIdentifier(vec![relation.clone(), column.clone()]))
            }
            _ => refuse(
                "after other joins, RIGHT or FULL JOIN takes in USING only columns that those have in USING; write ON, and \
                 coalesce(a.k, b.k) AS k",
            ),
        }
    }

    /// Names the merged columns of a SELECT, and writes out `*`.
    fn name_items(&self, select: &mut Select) -> ControlFlow<Failure> {
        let mut items = Vec::with_capacity(select.projection.len());
        for item in std::mem::take(&mut select.projection) {
            match item {
                SelectItem::UnnamedExpr(Expr::Identifier(name)) if self.find(&name).is_some() => {
                    items.push(SelectItem::ExprWithAlias {
                        expr: Expr::Identifier(name.clone()),
                        alias: name,
                    });
                }
                SelectItem::Wildcard(options) if is_plain(&options) => items.extend(self.all()),
                SelectItem::Wildcard(_) => {
                    return refuse(
                        "* with EXCLUDE or REPLACE is not supported over RIGHT or FULL JOIN with USING; name the columns",
                    );
                }
                other => items.push(other),
            }
        }
        select.projection = items;
        ControlFlow::Continue(())
    }

    /// The columns that `*` stands for: the merged ones first, then those of each table.
    fn all(&self) -> Vec<SelectItem> {
        let merged = self.columns.iter().map(|(name, _)| SelectItem::ExprWithAlias {
            expr: Expr::Identifier(name.clone()),
            alias: name.clone(),
        });
        let tables = self.relations.iter().map(|(relation, columns)| {
            let mut left_out: Vec<_> = columns
                .iter()
                .map(|name| ObjectName::from(vec![Ident::new(name)]))
                .collect();
            left_out.sort_by_key(ToString::to_string);
            let options = WildcardAdditionalOptions {
                opt_exclude: (!left_out.is_empty()).then_some(ExcludeSelectItem::Multiple(left_out)),
                ..WildcardAdditionalOptions::default()
            };
            let table = ObjectName::from(vec![relation.clone()]);
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(table), options)
        });
        merged.chain(tables).collect()
    }
}

impl VisitorMut for Merged {
    type Break = Failure;

    // Names within another query are those of its own tables.
    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<Failure> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Failure> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<Failure> {
        if self.depth == 0
            && let Expr::Identifier(name) = expression
            && let Some(value) = self.find(name)
        {
            *expression = value.clone();
        }
        ControlFlow::Continue(())
    }
}

fn is_plain(options: &WildcardAdditionalOptions) -> bool {
    options.opt_exclude.is_none()
        && options.opt_except.is_none()
        && options.opt_replace.is_none()
        && options.opt_rename.is_none()
        && options.opt_ilike.is_none()
}

/// The name by which columns of a table are called.
fn name_of(table: &TableFactor) -> Option<Ident> {
    match table {
        TableFactor::Table { alias: Some(alias), .. }
        | TableFactor::Derived { alias: Some(alias), .. }
        | TableFactor::TableFunction { alias: Some(alias), .. }
        | TableFactor::UNNEST { alias: Some(alias), .. } => Some(alias.name.clone()),
        TableFactor::Table { name, .. } => match name.0.last() {
            Some(ObjectNamePart::Identifier(name)) => Some(name.clone()),
            _ => None,
        },
        _ => None,
    }
}

fn output_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(normalized(alias)),
        _ => None,
    }
}

fn refuse<T>(sentence: &str) -> ControlFlow<Failure, T> {
    ControlFlow::Break(Failure::new(FailureKind::Unsupported, sentence))
}

fn refuse_name<T>() -> ControlFlow<Failure, T> {
    refuse("the tables of RIGHT and FULL JOIN with USING need names; give each an alias, or write ON")
}
