//! Plans that are refused, and the names in their errors.

use datafusion_substrait::substrait::proto::aggregate_rel::{Grouping, Measure};
use datafusion_substrait::substrait::proto::expression::nested;
use datafusion_substrait::substrait::proto::extensions::AdvancedExtension;
use datafusion_substrait::substrait::proto::extensions::simple_extension_declaration::{
    ExtensionType, ExtensionTypeVariation,
};
use datafusion_substrait::substrait::proto::read_rel::{LocalFiles, VirtualTable};
use datafusion_substrait::substrait::proto::{
    AggregateFunction, AggregateRel, AggregationPhase, CrossRel, FunctionOption,
};

use super::*;

#[track_caller]
fn assert_refused(plan: &Plan, kind: FailureKind, says: &[&str]) {
    let failure = read_plan(plan).expect_err("it is refused");
    assert_eq!(failure.kind, kind, "{}", failure.message);
    for word in says {
        assert!(
            failure.message.contains(word),
            "{word:?} is not in: {}",
            failure.message
        );
    }
    assert!(failure.message.len() < 1_000, "{}", failure.message);
}

use FailureKind::{Invalid, Unsupported};

#[test]
fn unreadable_bytes_are_refused_by_form() {
    for (bytes, says) in [
        (&b""[..], "empty"),
        (b" {\"relations\": []}", "JSON"),
        (b"SELECT 1", "not a Substrait plan"),
        (&[0xff; 40], "not a Substrait plan"),
    ] {
        let failure = read_bytes(bytes).unwrap_err();
        assert_eq!(failure.kind, Invalid);
        assert!(failure.message.contains(says), "{}", failure.message);
    }
    let failure = read_bytes(&vec![0x0a; MAX_PLAN_BYTES + 1]).unwrap_err();
    assert!(failure.message.contains("16 MiB"), "{}", failure.message);
}

#[test]
fn plan_needs_exactly_one_tree() {
    let mut plan = plan(&[], read_people(), &["a", "b"]);
    let tree = plan.relations.clone();
    plan.relations.clear();
    plan.expected_type_urls.push("x".into());
    assert_refused(&plan, Invalid, &["no relation"]);
    plan.relations = [tree.clone(), tree].concat();
    assert_refused(&plan, Unsupported, &["2 relation trees"]);
}

#[test]
fn unknown_tables_and_columns_are_named() {
    let read = |names: &[&str], schema| rel(RelType::Read(Box::new(read_of(names, schema))));
    let of = |root| plan(&[], root, &[]);
    assert_refused(&of(read(&["peple"], people())), Invalid, &["table 'peple' not found"]);
    assert_refused(
        &of(read(&["a", "b", "c"], people())),
        Invalid,
        &["table 'a.b.c' not found"],
    );
    assert_refused(&of(read(&["a", "b", "c", "d"], people())), Invalid, &["4 parts"]);
    assert_refused(&of(read(&[], people())), Invalid, &["without a name"]);
    let other = schema(vec![("nme", string_type(Nullability::Nullable, 0))]);
    assert_refused(
        &of(read(&["people"], other)),
        Invalid,
        &["'nme'", "'people'", "did you mean 'name'?"],
    );
    let other = schema(vec![("name", i64_type(Nullability::Nullable))]);
    assert_refused(&of(read(&["people"], other)), Invalid, &["'name'", "Int64", "Utf8"]);
}

#[test]
fn unsupported_functions_are_named() {
    let of = |functions: &[&str], root| plan(functions, project(read_people(), vec![root]), &["x"]);
    assert_refused(
        &of(&["frobnicate:i64"], call(0, vec![field(0)])),
        Unsupported,
        &["frobnicate"],
    );
    assert_refused(&of(&["add:i64_i64"], call(5, vec![field(0)])), Invalid, &["anchor 5"]);
    let mut like = call(0, vec![field(1), text("b%")]);
    let Some(RexType::ScalarFunction(function)) = like.rex_type.as_mut() else {
        unreachable!("call() makes a function");
    };
    function.options = vec![FunctionOption {
        name: "case_sensitivity".into(),
        preference: vec!["CASE_INSENSITIVE_ASCII".into()],
    }];
    assert_refused(
        &of(&["like:str_str"], like),
        Unsupported,
        &["like:str_str", "CASE_INSENSITIVE_ASCII"],
    );
    let mut chosen = call(0, vec![field(0)]);
    if let Some(RexType::ScalarFunction(function)) = chosen.rex_type.as_mut() {
        function.arguments.insert(
            0,
            FunctionArgument {
                arg_type: Some(ArgType::Enum("MILLISECOND".into())),
            },
        );
    }
    assert_refused(
        &of(&["extract:req_date"], chosen),
        Unsupported,
        &["extract:req_date", "MILLISECOND"],
    );
}

fn aggregate(functions: &[&str], function: AggregateFunction, groupings: usize) -> Plan {
    let root = rel(RelType::Aggregate(Box::new(AggregateRel {
        input: Some(Box::new(read_people())),
        grouping_expressions: vec![field(0)],
        groupings: vec![
            Grouping {
                expression_references: vec![0],
                ..Default::default()
            };
            groupings
        ],
        measures: vec![Measure {
            measure: Some(function),
            filter: None,
        }],
        ..Default::default()
    })));
    plan(functions, root, &[])
}

#[test]
fn unsupported_aggregates_are_refused_by_name() {
    let count = |phase: AggregationPhase| AggregateFunction {
        phase: phase.into(),
        ..Default::default()
    };
    let whole = count(AggregationPhase::InitialToResult);
    let half = count(AggregationPhase::InitialToIntermediate);
    assert!(read_plan(&aggregate(&["count:"], whole.clone(), 1)).is_ok());
    assert_refused(
        &aggregate(&["count:"], half, 1),
        Unsupported,
        &["count:", "INTERMEDIATE"],
    );
    assert_refused(&aggregate(&["mode:i64"], whole.clone(), 1), Unsupported, &["mode"]);
    assert_refused(&aggregate(&[], whole.clone(), 1), Invalid, &["anchor 0"]);
    assert_refused(
        &aggregate(&["count:"], whole.clone(), 2),
        Unsupported,
        &["several groupings"],
    );
    let mut astray = aggregate(&["count:"], whole, 1);
    let Some(plan_rel::RelType::Root(root)) = astray.relations[0].rel_type.as_mut() else {
        unreachable!("plan() makes a root");
    };
    if let Some(RelType::Aggregate(it)) = root.input.as_mut().unwrap().rel_type.as_mut() {
        it.groupings[0].expression_references = vec![3];
    }
    assert_refused(&astray, Invalid, &["expression 3 of 1"]);
}

#[test]
fn dangling_references_are_refused_by_number() {
    for number in [2, -1, i32::MAX, i32::MIN] {
        let plan = plan(&[], project(read_people(), vec![field(number)]), &["x"]);
        assert_refused(&plan, Invalid, &[&format!("field {number} "), "2 fields"]);
    }
    let mut emit = plan(&[], project(read_people(), vec![field(0)]), &["x"]);
    let Some(plan_rel::RelType::Root(root)) = emit.relations[0].rel_type.as_mut() else {
        unreachable!("plan() makes a root");
    };
    if let Some(RelType::Project(it)) = root.input.as_mut().unwrap().rel_type.as_mut() {
        it.common = Some(RelCommon {
            emit_kind: Some(rel_common::EmitKind::Emit(rel_common::Emit {
                output_mapping: vec![9],
            })),
            ..Default::default()
        });
    }
    assert_refused(&emit, Invalid, &["9"]);
}

#[test]
fn unsupported_types_and_variations_are_named() {
    let variation = |declared: bool, reference| {
        let columns = schema(vec![("name", string_type(Nullability::Nullable, reference))]);
        let mut plan = plan(&[], rel(RelType::Read(Box::new(read_of(&["people"], columns)))), &[]);
        if declared {
            plan.extensions.push(SimpleExtensionDeclaration {
                mapping_type: Some(MappingType::ExtensionTypeVariation(ExtensionTypeVariation {
                    type_variation_anchor: 2,
                    name: "compressed".into(),
                    ..Default::default()
                })),
            });
        }
        plan
    };
    assert_refused(
        &variation(true, 2),
        Unsupported,
        &["'compressed'", "reference 2", "string"],
    );
    assert_refused(&variation(false, 7), Unsupported, &["reference 7", "string"]);
    // A variation that no type uses is accepted, and DataFusion's own need no declaration.
    assert!(read_plan(&variation(true, 0)).is_ok());
    assert!(read_plan(&variation(false, 2)).is_ok());

    let own = of(Kind::UserDefined(r#type::UserDefined {
        type_reference: 9,
        ..Default::default()
    }));
    let columns = schema(vec![("name", own)]);
    let mut plan = plan(&[], rel(RelType::Read(Box::new(read_of(&["people"], columns)))), &[]);
    assert_refused(&plan, Invalid, &["type with anchor 9"]);
    plan.extensions.push(SimpleExtensionDeclaration {
        mapping_type: Some(MappingType::ExtensionType(ExtensionType {
            type_anchor: 9,
            name: "point".into(),
            ..Default::default()
        })),
    });
    assert_refused(&plan, Unsupported, &["'point'"]);
}

#[test]
fn unsupported_relations_are_named() {
    for (kind, says) in [
        (RelType::HashJoin(Box::default()), "HashJoinRel"),
        (RelType::Write(Box::default()), "WriteRel"),
        (
            RelType::ExtensionLeaf(datafusion_substrait::substrait::proto::ExtensionLeafRel::default()),
            "extension relation",
        ),
    ] {
        assert_refused(&plan(&[], rel(kind), &[]), Unsupported, &[says]);
    }
    let mut files = read_of(&[], people());
    files.read_type = Some(ReadType::LocalFiles(LocalFiles::default()));
    let files = plan(&[], rel(RelType::Read(Box::new(files))), &[]);
    assert_refused(&files, Unsupported, &["local files", "CREATE EXTERNAL TABLE"]);
    let cross = rel(RelType::Cross(Box::new(CrossRel {
        left: Some(Box::new(read_people())),
        ..Default::default()
    })));
    assert_refused(&plan(&[], cross, &[]), Invalid, &["cross", "lacks an input"]);
}

#[test]
fn enhancement_is_refused_by_name() {
    let mut plan = plan(&[], read_people(), &[]);
    let mut extension = AdvancedExtension {
        enhancement: Some(Default::default()),
        ..Default::default()
    };
    if let Some(enhancement) = extension.enhancement.as_mut() {
        enhancement.type_url = "acme/time-travel".into();
    }
    plan.advanced_extensions = Some(extension);
    assert_refused(&plan, Unsupported, &["acme/time-travel"]);
}

#[test]
fn virtual_rows_must_fit_their_columns() {
    let table = |fields: Vec<Expression>| {
        let read = ReadRel {
            base_schema: Some(schema(vec![("n", i64_type(Nullability::Required))])),
            read_type: Some(ReadType::VirtualTable(VirtualTable {
                expressions: vec![nested::Struct { fields }],
                ..Default::default()
            })),
            ..Default::default()
        };
        plan(&[], rel(RelType::Read(Box::new(read))), &["n"])
    };
    assert_refused(&table(vec![number(1), number(2)]), Invalid, &[]);
    let boolean = table(vec![literal(LiteralType::FixedBinary(vec![1]))]);
    assert!(read_plan(&boolean).is_err());
}
