//! Partial aggregates under their cap.

use super::*;

/// Rows that the partial aggregate of a plan has handed on.
fn partial_rows(plan: &dyn ExecutionPlan) -> usize {
    let below = plan.children().into_iter().map(|child| partial_rows(child.as_ref()));
    let below = below.max().unwrap_or(0);
    match plan.name() {
        "GrantedExec" if below == 0 => plan.metrics().unwrap().output_rows().unwrap(),
        _ => below,
    }
}

/// Also tells when DataFusion renames the consumer by which partial aggregates are known.
#[test]
fn large_tables_of_partial_aggregates_are_handed_on() {
    // Each group has 3 rows in a row, and comes twice.
    let sql = "SELECT g, count(*) FROM (SELECT value % 1500000 / 3 AS g FROM range(3000000)) GROUP BY g";
    let run = Run::new(1 << 30);
    let config = SessionConfig::new().with_target_partitions(2);
    let context = SessionContext::new_with_config(config);
    let plan = async { context.sql(sql).await?.create_physical_plan().await };
    let (plan, rows) = run.rows(&run.runtime.block_on(plan).unwrap(), true).unwrap();
    assert_eq!(rows.len(), 500_000);
    assert!(rows.iter().all(|row| row.ends_with('6')), "{:?}", &rows[..3]);
    let handed_on = partial_rows(plan.as_ref());
    assert!(handed_on > 600_000, "{handed_on}");
    drop(plan);
    run.assert_nothing_left();
}
