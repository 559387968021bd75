//! Plans that are broken, deep or large: an error of the caller's, in bounded time and memory, and never a panic.

use std::sync::LazyLock;

use datafusion_substrait::logical_plan::producer::to_substrait_plan;
use datafusion_substrait::substrait::proto::expression::nested;
use datafusion_substrait::substrait::proto::read_rel::VirtualTable;
use proptest::prelude::*;

use super::*;

/// A plan with most of what plans have, by DataFusion's own producer.
fn busy() -> Vec<u8> {
    let context = context();
    let plan = planning(async {
        let sql = "SELECT p.name, count(*) AS n, sum(q.id) OVER (ORDER BY p.name) AS s FROM people p LEFT JOIN people q ON \
            p.id = q.id WHERE p.name LIKE 'a%' OR p.id IN (SELECT id FROM people) GROUP BY p.name, q.id HAVING count(*) > 0 \
            ORDER BY 1 LIMIT 3";
        let plan = context.state().create_logical_plan(sql).await.unwrap();
        to_substrait_plan(&plan, &context.state()).unwrap()
    });
    plan.encode_to_vec()
}

static BUSY: LazyLock<Vec<u8>> = LazyLock::new(busy);

/// Blames the plan, not the server.
fn judged(outcome: Result<LogicalPlan, Failure>) {
    if let Err(failure) = outcome {
        let kind = failure.kind;
        assert!(
            matches!(kind, FailureKind::Invalid | FailureKind::Unsupported),
            "{kind:?}: {}",
            failure.message
        );
    }
}

/// Plans `bytes` as far as its client hears of it.
async fn planned(context: &SessionContext, bytes: &[u8]) -> Result<LogicalPlan, Failure> {
    let plan = logical_plan(&context.state(), bytes).await;
    plan.map_err(|error| failure::of(&error))
}

#[test]
fn a_plan_cut_anywhere_is_read_or_refused() {
    let bytes = BUSY.clone();
    let context = context();
    planning(async {
        assert!(planned(&context, &bytes).await.is_ok());
        for end in 0..bytes.len() {
            judged(planned(&context, &bytes[..end]).await);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_plan_with_wrong_bytes_is_read_or_refused(
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut bytes = BUSY.clone();
        for (place, byte) in places {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        judged(read_bytes(&bytes));
    }
}

/// A message inside a field of another one.
fn inside(field: u8, message: &[u8]) -> Vec<u8> {
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
        let filter = [inside(2, &rel), inside(3, &condition)].concat();
        rel = inside(2, &filter);
    }
    inside(3, &inside(1, &rel))
}

/// `levels` calls of `not` around a literal, in a filter: (Expression.scalar_function(3) . ScalarFunction.arguments(4) .
/// FunctionArgument.value(3))*
fn deep_expressions(levels: usize) -> Vec<u8> {
    let mut expression = literal(LiteralType::Boolean(true)).encode_to_vec();
    for _ in 0..levels {
        expression = inside(3, &inside(4, &inside(3, &expression)));
    }
    let filter = [inside(2, &read_people().encode_to_vec()), inside(3, &expression)];
    let tree = inside(3, &inside(1, &inside(2, &filter.concat())));
    let declared = Plan {
        relations: Vec::new(),
        ..plan(&["not:bool"], read_people(), &[])
    };
    [declared.encode_to_vec(), tree].concat()
}

#[test]
fn deep_plans_are_refused_and_less_deep_ones_run() {
    for (name, of, most) in [
        ("relations", deep_relations as fn(usize) -> Vec<u8>, 45),
        ("expressions", deep_expressions, 28),
    ] {
        let context = context();
        let rows = planning(async {
            let plan = planned(&context, &of(most)).await.unwrap();
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
fn many_relations_and_expressions_are_refused() {
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

/// A mapping of a few bytes an entry repeats an expression of a megabyte.
#[test]
fn a_small_plan_does_not_become_a_large_one() {
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
