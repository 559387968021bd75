//! The rows and schemas of plans.

use datafusion_substrait::substrait::proto::expression::field_reference::OuterReference;
use datafusion_substrait::substrait::proto::expression::mask_expression::{StructItem, StructSelect};
use datafusion_substrait::substrait::proto::expression::subquery::set_predicate::PredicateOp;
use datafusion_substrait::substrait::proto::expression::subquery::{SetPredicate, SubqueryType};
use datafusion_substrait::substrait::proto::expression::{MaskExpression, Subquery, nested};
use datafusion_substrait::substrait::proto::read_rel::VirtualTable;
use datafusion_substrait::substrait::proto::{DynamicParameter, DynamicParameterBinding, FunctionOption, Version};

use super::*;

/// `not_null(id)`
fn has_id(anchor: u32) -> Expression {
    call(anchor, vec![field(0)])
}

#[test]
fn nullable_table_overrides_required_column() {
    let plan = plan(&[], read_people(), &["a", "b"]);
    let read = read_plan(&plan).unwrap();
    let fields = read.schema().fields();
    let seen: Vec<_> = fields.iter().map(|it| (it.name().as_str(), it.is_nullable())).collect();
    assert_eq!(seen, [("a", true), ("b", true)]);
    assert_eq!(rows(&plan).lines().count(), 4 + 4);
}

/// A table may apply a filter partly, or not at all, as this one does.
#[test]
fn read_filter_is_always_applied() {
    let mut read = read_of(&["people"], people());
    read.filter = Some(Box::new(has_id(0)));
    let plan = plan(
        &["is_not_null:any"],
        rel(RelType::Read(Box::new(read))),
        &["id", "name"],
    );
    assert_eq!(rows(&plan).lines().count(), 3 + 4);
}

#[test]
fn columns_match_by_name_and_mask() {
    let nullable = Nullability::Nullable;
    let reordered = vec![("name", string_type(nullable, 0)), ("id", i64_type(nullable))];
    let mut read = read_of(&["people"], schema(reordered));
    let select = StructSelect {
        struct_items: vec![StructItem { field: 1, child: None }],
    };
    read.projection = Some(MaskExpression {
        select: Some(select),
        maintain_singular_struct: false,
    });
    let plan = plan(&[], rel(RelType::Read(Box::new(read))), &["x"]);
    assert_eq!(column(&plan), ["1", "2", "", "4"]);
}

#[test]
fn names_fall_back_to_lower_case() {
    let upper = schema(vec![
        ("ID", i64_type(Nullability::Required)),
        ("Name", string_type(Nullability::Required, 0)),
    ]);
    for names in [
        &["PEOPLE"][..],
        &["PUBLIC", "People"],
        &["DataFusion", "public", "people"],
    ] {
        let read = rel(RelType::Read(Box::new(read_of(names, upper.clone()))));
        let plan = plan(&[], project(read, vec![field(0)]), &["ID"]);
        assert_eq!(column(&plan).len(), 4, "{names:?}");
        assert_eq!(read_plan(&plan).unwrap().schema().field(0).name(), "ID");
    }
}

#[test]
fn virtual_table_keeps_types_and_filter() {
    let row = |value| nested::Struct {
        fields: vec![literal(LiteralType::I32(value))],
    };
    let read = ReadRel {
        base_schema: Some(schema(vec![("n", i64_type(Nullability::Required))])),
        filter: Some(Box::new(call(0, vec![field(0), number(1)]))),
        read_type: Some(ReadType::VirtualTable(VirtualTable {
            expressions: vec![row(1), row(2), row(3)],
            ..Default::default()
        })),
        ..Default::default()
    };
    let plan = plan(&["gt:any_any"], rel(RelType::Read(Box::new(read))), &["n"]);
    assert_eq!(column(&plan), ["2", "3"]);
    let read = read_plan(&plan).unwrap();
    assert_eq!(read.schema().field(0).data_type().to_string(), "Int64");
}

#[test]
fn standard_functions_follow_the_standard() {
    let name = || field(1);
    let id = || field(0);
    for (function, arguments, expected) in [
        ("concat:str_str", vec![name(), text("!")], ["ann!", "", "Bob!", "cat!"]),
        ("greatest:any", vec![id(), number(2)], ["2", "2", "", "4"]),
        ("least:any", vec![id(), number(2)], ["1", "2", "", "2"]),
        ("least_skip_null:any", vec![id(), number(2)], ["1", "2", "2", "2"]),
        ("sign:i64", vec![id()], ["1", "1", "", "1"]),
        ("add", vec![id(), id()], ["2", "4", "", "8"]),
        ("LIKE:str_str", vec![name(), text("%n")], ["true", "", "false", "false"]),
        (
            "is_not_distinct_from:any_any",
            vec![id(), number(2)],
            ["false", "true", "false", "false"],
        ),
        (
            "substring:str_i32_i32",
            vec![name(), number(2), number(1)],
            ["n", "", "o", "a"],
        ),
    ] {
        let plan = plan(&[function], project(read_people(), vec![call(0, arguments)]), &["x"]);
        let seen = column(&plan).into_iter().map(|cell| cell.replace(".0", ""));
        assert_eq!(seen.collect::<Vec<_>>(), expected, "{function}");
    }
}

#[test]
fn case_insensitive_option_is_honoured() {
    let mut like = call(0, vec![field(1), text("b%")]);
    let Some(RexType::ScalarFunction(function)) = like.rex_type.as_mut() else {
        unreachable!("call() makes a function");
    };
    function.options = vec![FunctionOption {
        name: "case_sensitivity".into(),
        preference: vec!["CASE_INSENSITIVE".into()],
    }];
    let plan = plan(&["like:str_str"], project(read_people(), vec![like]), &["x"]);
    assert_eq!(column(&plan), ["false", "", "true", "false"]);
}

#[test]
fn extract_gives_parts_of_dates() {
    // 2026-11-22
    let date = literal(LiteralType::Date(20_779));
    for (component, indexing, expected) in [
        ("YEAR", None, "2026"),
        ("MONTH", Some("ONE"), "11"),
        ("MONTH", Some("ZERO"), "10"),
        ("DAY", None, "22"),
    ] {
        let choice = |chosen: &str| FunctionArgument {
            arg_type: Some(ArgType::Enum(chosen.into())),
        };
        let mut arguments = vec![choice(component)];
        arguments.extend(indexing.map(choice));
        arguments.push(argument(date.clone()));
        let extract = Expression {
            rex_type: Some(RexType::ScalarFunction(ScalarFunction {
                arguments,
                ..Default::default()
            })),
        };
        let plan = plan(&["extract:req_date"], project(read_people(), vec![extract]), &["x"]);
        assert_eq!(column(&plan)[0], expected, "{component}");
    }
}

/// DataFusion's own `concat` skips NULLs, and its plans expect that.
#[test]
fn datafusion_plans_use_datafusion_functions() {
    let joined = call(0, vec![field(1), text("!")]);
    let mut plan = plan(&["concat"], project(read_people(), vec![joined]), &["x"]);
    plan.version = Some(Version {
        producer: "datafusion".into(),
        ..Default::default()
    });
    assert_eq!(column(&plan), ["ann!", "!", "Bob!", "cat!"]);
}

/// DuckDB's projections give their expressions alone, without an output mapping that says so.
#[test]
fn duckdb_projection_gives_only_its_expressions() {
    let mut root = project(read_people(), vec![field(1)]);
    if let Some(RelType::Project(it)) = root.rel_type.as_mut() {
        it.common = None;
    }
    let mut plan = plan(&[], root, &["x"]);
    assert!(read_plan(&plan).is_err(), "the standard has three columns here");
    plan.version = Some(Version {
        producer: "DuckDB".into(),
        minor_number: 53,
        ..Default::default()
    });
    assert_eq!(column(&plan), ["ann", "", "Bob", "cat"]);
}

/// One table inside and outside of a subquery: the rows for which another row has a greater id.
#[test]
fn outer_column_differs_from_inner_column() {
    let mut outer = field(0);
    if let Some(RexType::Selection(it)) = outer.rex_type.as_mut() {
        it.root_type = Some(RootType::OuterReference(OuterReference { steps_out: 1 }));
    }
    let tuples = filter(read_people(), call(0, vec![field(0), outer]));
    let exists = Expression {
        rex_type: Some(RexType::Subquery(Box::new(Subquery {
            subquery_type: Some(SubqueryType::SetPredicate(Box::new(SetPredicate {
                predicate_op: PredicateOp::Exists.into(),
                tuples: Some(Box::new(tuples)),
            }))),
        }))),
    };
    let root = project(filter(read_people(), exists), vec![field(0)]);
    assert_eq!(column(&plan(&["gt:any_any"], root, &["x"])), ["1", "2"]);
}

fn parameter(reference: u32) -> Expression {
    Expression {
        rex_type: Some(RexType::DynamicParameter(DynamicParameter {
            r#type: Some(i64_type(Nullability::Nullable)),
            parameter_reference: reference,
        })),
    }
}

#[test]
fn parameters_are_typed_and_numbered() {
    let equal = call(0, vec![field(0), parameter(0)]);
    let plan = plan(&["equal:any_any"], filter(read_people(), equal), &["id", "name"]);
    let types = read_plan(&plan).unwrap().get_parameter_types().unwrap();
    let types: Vec<_> = types.into_iter().collect();
    assert_eq!(
        types,
        [("$1".to_owned(), Some(datafusion::arrow::datatypes::DataType::Int64))]
    );
}

#[test]
fn bound_parameter_becomes_a_value() {
    let equal = call(0, vec![field(0), parameter(7)]);
    let filtered = filter(read_people(), equal);
    let mut plan = plan(&["equal:any_any"], project(filtered, vec![field(1)]), &["x"]);
    plan.parameter_bindings = vec![DynamicParameterBinding {
        parameter_anchor: 7,
        value: Some(Literal {
            literal_type: Some(LiteralType::I64(4)),
            ..Default::default()
        }),
    }];
    assert_eq!(column(&plan), ["cat"]);
}

#[test]
fn varchar_literal_compares_as_text() {
    let name = literal(LiteralType::VarChar(
        datafusion_substrait::substrait::proto::expression::literal::VarChar {
            value: "cat".into(),
            length: 3,
        },
    ));
    let equal = call(0, vec![field(1), name]);
    let plan = plan(
        &["equal"],
        project(filter(read_people(), equal), vec![field(0)]),
        &["x"],
    );
    assert_eq!(column(&plan), ["4"]);
}
