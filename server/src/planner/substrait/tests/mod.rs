//! Plans made by hand over a small table, and by DataFusion's own producer.

mod hostile;
mod plans;
mod refusals;

use std::sync::Arc;
use std::thread;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::common::TableReference;
use datafusion::datasource::MemTable;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use datafusion_substrait::substrait::proto::expression::field_reference::{ReferenceType, RootReference, RootType};
use datafusion_substrait::substrait::proto::expression::literal::LiteralType;
use datafusion_substrait::substrait::proto::expression::reference_segment::{self, StructField};
use datafusion_substrait::substrait::proto::expression::{
    FieldReference, Literal, ReferenceSegment, RexType, ScalarFunction,
};
use datafusion_substrait::substrait::proto::extensions::SimpleExtensionDeclaration;
use datafusion_substrait::substrait::proto::extensions::simple_extension_declaration::{
    ExtensionFunction, MappingType,
};
use datafusion_substrait::substrait::proto::function_argument::ArgType;
use datafusion_substrait::substrait::proto::read_rel::{NamedTable, ReadType};
use datafusion_substrait::substrait::proto::rel::RelType;
use datafusion_substrait::substrait::proto::r#type::{self, Kind, Nullability};
use datafusion_substrait::substrait::proto::{
    Expression, FilterRel, FunctionArgument, NamedStruct, Plan, PlanRel, ProjectRel, ReadRel, Rel, RelCommon, RelRoot,
    Type, plan_rel, rel_common,
};
use prost::Message;
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::failure;

use super::limits::{MAX_EXPRESSIONS, MAX_RELATIONS};
use super::*;

/// The stack of the server's planning threads.
const STACK_BYTES: usize = 16 * 1024 * 1024;

/// Runs a future as the server plans: on a thread with a large stack.
fn run_on_planning_stack<T: Send>(work: impl Future<Output = T> + Send) -> T {
    thread::scope(|scope| {
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(work)
        };
        let thread = thread::Builder::new().stack_size(STACK_BYTES);
        thread.spawn_scoped(scope, body).unwrap().join().unwrap()
    })
}

/// `people(id, name)`: nullable columns, with a NULL in each.
fn context() -> SessionContext {
    let context = SessionContext::new();
    let id: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(2), None, Some(4)]));
    let names = vec![Some("ann"), None, Some("Bob"), Some("cat")];
    let name: ArrayRef = Arc::new(StringArray::from(names));
    let batch = RecordBatch::try_from_iter_with_nullable([("id", id, true), ("name", name, true)]);
    let batch = batch.unwrap();
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap();
    let name = TableReference::bare("people");
    context.register_table(name, Arc::new(table)).unwrap();
    context
}

fn read_bytes(bytes: &[u8]) -> Result<LogicalPlan, Failure> {
    let state = context().state();
    run_on_planning_stack(logical_plan(&state, bytes)).map_err(|error| failure::of(&error))
}

fn read_plan(plan: &Plan) -> Result<LogicalPlan, Failure> {
    read_bytes(&plan.encode_to_vec())
}

/// The rows of a plan, as a table in text.
fn rows(plan: &Plan) -> String {
    let context = context();
    let batches = run_on_planning_stack(async {
        let plan = logical_plan(&context.state(), &plan.encode_to_vec()).await;
        let frame = context.execute_logical_plan(plan.unwrap()).await.unwrap();
        frame.collect().await.unwrap()
    });
    pretty_format_batches(&batches).unwrap().to_string()
}

/// The column of one-column rows.
fn column(plan: &Plan) -> Vec<String> {
    let text = rows(plan);
    let cells = text.lines().filter(|line| line.starts_with('|')).skip(1);
    let cells = cells.map(|line| line.trim_matches(['|', ' ']).to_owned());
    cells.collect()
}

fn of(kind: Kind) -> Type {
    Type { kind: Some(kind) }
}

fn i64_type(nullability: Nullability) -> Type {
    of(Kind::I64(r#type::I64 {
        nullability: nullability.into(),
        ..Default::default()
    }))
}

fn string_type(nullability: Nullability, variation: u32) -> Type {
    of(Kind::String(r#type::String {
        nullability: nullability.into(),
        type_variation_reference: variation,
    }))
}

fn schema(columns: Vec<(&str, Type)>) -> NamedStruct {
    let (names, types): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    NamedStruct {
        names: names.into_iter().map(Into::into).collect(),
        r#struct: Some(r#type::Struct {
            types,
            nullability: Nullability::Required.into(),
            ..Default::default()
        }),
    }
}

/// The table as most producers declare it: all columns required.
fn people() -> NamedStruct {
    let required = Nullability::Required;
    schema(vec![("id", i64_type(required)), ("name", string_type(required, 0))])
}

fn rel(kind: RelType) -> Rel {
    Rel { rel_type: Some(kind) }
}

fn read_of(names: &[&str], base_schema: NamedStruct) -> ReadRel {
    ReadRel {
        base_schema: Some(base_schema),
        read_type: Some(ReadType::NamedTable(NamedTable {
            names: names.iter().map(ToString::to_string).collect(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn read_people() -> Rel {
    rel(RelType::Read(Box::new(read_of(&["people"], people()))))
}

fn field(number: i32) -> Expression {
    let segment = ReferenceSegment {
        reference_type: Some(reference_segment::ReferenceType::StructField(Box::new(StructField {
            field: number,
            child: None,
        }))),
    };
    Expression {
        rex_type: Some(RexType::Selection(Box::new(FieldReference {
            reference_type: Some(ReferenceType::DirectReference(segment)),
            root_type: Some(RootType::RootReference(RootReference {})),
        }))),
    }
}

fn literal(value: LiteralType) -> Expression {
    Expression {
        rex_type: Some(RexType::Literal(Literal {
            literal_type: Some(value),
            ..Default::default()
        })),
    }
}

fn number(value: i64) -> Expression {
    literal(LiteralType::I64(value))
}

fn text(value: &str) -> Expression {
    literal(LiteralType::String(value.into()))
}

fn argument(value: Expression) -> FunctionArgument {
    FunctionArgument {
        arg_type: Some(ArgType::Value(value)),
    }
}

/// A call of the function that the plan declares with this anchor.
fn call(anchor: u32, arguments: Vec<Expression>) -> Expression {
    Expression {
        rex_type: Some(RexType::ScalarFunction(ScalarFunction {
            function_reference: anchor,
            arguments: arguments.into_iter().map(argument).collect(),
            ..Default::default()
        })),
    }
}

fn filter(input: Rel, condition: Expression) -> Rel {
    rel(RelType::Filter(Box::new(FilterRel {
        input: Some(Box::new(input)),
        condition: Some(Box::new(condition)),
        ..Default::default()
    })))
}

/// The expressions alone, over the two columns of `people`.
fn project(input: Rel, expressions: Vec<Expression>) -> Rel {
    let output_mapping = (2..).take(expressions.len()).collect();
    rel(RelType::Project(Box::new(ProjectRel {
        common: Some(RelCommon {
            emit_kind: Some(rel_common::EmitKind::Emit(rel_common::Emit { output_mapping })),
            ..Default::default()
        }),
        input: Some(Box::new(input)),
        expressions,
        ..Default::default()
    })))
}

/// A plan with these column names that declares these functions, from anchor 0.
fn plan(functions: &[&str], root: Rel, names: &[&str]) -> Plan {
    let extensions = (0..)
        .zip(functions)
        .map(|(function_anchor, name)| SimpleExtensionDeclaration {
            mapping_type: Some(MappingType::ExtensionFunction(ExtensionFunction {
                function_anchor,
                name: (*name).to_owned(),
                ..Default::default()
            })),
        });
    Plan {
        extensions: extensions.collect(),
        relations: vec![PlanRel {
            rel_type: Some(plan_rel::RelType::Root(RelRoot {
                input: Some(root),
                names: names.iter().map(ToString::to_string).collect(),
            })),
        }],
        ..Default::default()
    }
}
