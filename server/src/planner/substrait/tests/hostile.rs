//! Plans that are broken, deep or large: an error that blames the plan, in bounded time and memory, and never a panic.

use std::sync::LazyLock;

use datafusion_substrait::logical_plan::producer::to_substrait_plan;
use datafusion_substrait::substrait::proto::expression::nested;
use datafusion_substrait::substrait::proto::read_rel::VirtualTable;
use proptest::prelude::*;

use super::*;

/// A plan with most kinds of relations and expressions, by DataFusion's own producer.
fn rich_plan() -> Vec<u8> {
    let context = context();
    let plan = run_on_planning_stack(async {
        let sql = "SELECT p.name, count(*) AS n, sum(q.id) OVER (ORDER BY p.name) AS s FROM people p LEFT JOIN people q \
                   ON p.id = q.id WHERE p.name LIKE 'a%' OR p.id IN (SELECT id FROM people) GROUP BY p.name, q.id \
                   HAVING count(*) > 0 ORDER BY 1 LIMIT 3";
        let plan = context.state().create_logical_plan(sql).await.unwrap();
        to_substrait_plan(&plan, &context.state()).unwrap()
    });
    plan.encode_to_vec()
}

static RICH_PLAN: LazyLock<Vec<u8>> = LazyLock::new(rich_plan);

/// Asserts that a failure blames the plan, not the server.
fn assert_blames_plan(outcome: Result<LogicalPlan, Failure>) {
    if let Err(failure) = outcome {
        let kind = failure.kind;
        assert!(
            matches!(kind, FailureKind::Invalid | FailureKind::Unsupported),
            "{kind:?}: {}",
            failure.message
        );
    }
}

/// Plans `bytes`; the failure is the one that the client gets.
async fn plan_bytes(context: &SessionContext, bytes: &[u8]) -> Result<LogicalPlan, Failure> {
    let plan = logical_plan(&context.state(), bytes).await;
    plan.map_err(|error| failure::of(&error))
}

#[test]
fn truncated_plan_is_read_or_refused() {
    let bytes = RICH_PLAN.clone();
    let context = context();
    run_on_planning_stack(async {
        assert!(plan_bytes(&context, &bytes).await.is_ok());
        for end in 0..bytes.len() {
            assert_blames_plan(plan_bytes(&context, &bytes[..end]).await);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn corrupted_plan_is_read_or_refused(
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut bytes = RICH_PLAN.clone();
        for (place, byte) in places {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        assert_blames_plan(read_bytes(&bytes));
    }
}

/// Encodes a message as a field of another message.
fn nest(field: u8, message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![field << 3 | 2];
    let mut length = message.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(message);
    bytes
}

/// `levels` filters around a read: Plan.relations(3) . PlanRel.rel(1) . (Rel.filter(2) . FilterRel.input(2))*
fn deep_relations(levels: usize) -> Vec<u8> {
    let mut rel = read_people().encode_to_vec();
    for _ in 0..levels {
        let condition = literal(LiteralType::Boolean(true)).encode_to_vec();
        let filter = [nest(2, &rel), nest(3, &condition)].concat();
        rel = nest(2, &filter);
    }
    nest(3, &nest(1, &rel))
}

/// `levels` calls of `not` around a literal, in a filter: (Expression.scalar_function(3) . ScalarFunction.arguments(4)
/// . FunctionArgument.value(3))*
fn deep_expressions(levels: usize) -> Vec<u8> {
    let mut expression = literal(LiteralType::Boolean(true)).encode_to_vec();
    for _ in 0..levels {
        expression = nest(3, &nest(4, &nest(3, &expression)));
    }
    let filter = [nest(2, &read_people().encode_to_vec()), nest(3, &expression)];
    let tree = nest(3, &nest(1, &nest(2, &filter.concat())));
    let declared = Plan {
        relations: Vec::new(),
        ..plan(&["not:bool"], read_people(), &[])
    };
    [declared.encode_to_vec(), tree].concat()
}

#[test]
fn depth_limit_refuses_only_deep_plans() {
    for (name, of, most) in [
        ("relations", deep_relations as fn(usize) -> Vec<u8>, 45),
        ("expressions", deep_expressions, 28),
    ] {
        let context = context();
        let rows = run_on_planning_stack(async {
            let plan = plan_bytes(&context, &of(most)).await.unwrap();
            let frame = context.execute_logical_plan(plan).await.unwrap();
            frame.count().await.unwrap()
        });
        assert_eq!(rows, 4, "{name}");
        for levels in [60, 1_000, 4_000] {
            let failure = read_bytes(&of(levels)).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Invalid);
            assert!(failure.message.contains("nests deeper"), "{name}: {}", failure.message);
        }
    }
}

#[test]
fn counts_above_the_limits_are_refused() {
    let set = datafusion_substrait::substrait::proto::SetRel {
        inputs: vec![read_people(); MAX_RELATIONS],
        op: 6,
        ..Default::default()
    };
    let failure = read_plan(&plan(&[], rel(RelType::Set(set)), &[])).unwrap_err();
    assert!(failure.message.contains("1000 relations"), "{}", failure.message);

    let row = nested::Struct {
        fields: vec![number(1)],
    };
    let read = ReadRel {
        base_schema: Some(schema(vec![("n", i64_type(Nullability::Required))])),
        read_type: Some(ReadType::VirtualTable(VirtualTable {
            expressions: vec![row; MAX_EXPRESSIONS + 1],
            ..Default::default()
        })),
        ..Default::default()
    };
    let failure = read_plan(&plan(&[], rel(RelType::Read(Box::new(read))), &["n"])).unwrap_err();
    assert!(failure.message.contains("expressions"), "{}", failure.message);
}

/// A mapping with entries of a few bytes repeats an expression of a megabyte.
#[test]
fn repeated_large_expression_is_refused() {
    let mut root = project(read_people(), vec![text(&"x".repeat(1 << 20))]);
    let Some(RelType::Project(it)) = root.rel_type.as_mut() else {
        unreachable!("project() makes one");
    };
    it.common = Some(RelCommon {
        emit_kind: Some(rel_common::EmitKind::Emit(rel_common::Emit {
            output_mapping: vec![2; 100_000],
        })),
        ..Default::default()
    });
    let failure = read_plan(&plan(&[], root, &[])).unwrap_err();
    assert!(failure.message.contains("repeats"), "{}", failure.message);
}
