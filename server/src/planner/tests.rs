//! Staged plans of a dozen queries, as EXPLAIN shows them, and the rules that keep results correct.

use std::sync::OnceLock;

use datafusion::config::ConfigNonZeroUsize;
use datafusion::dataframe::DataFrameWriteOptions;
use datafusion::execution::SessionStateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use squadron_proto::QueryId;
use squadron_proto::control::PlanRef;
use squadron_scheduler::{Placement, StageGraph};
use squadron_shuffle::fragment::determinism::FIXED_FILES;
use squadron_shuffle::fragment::lossy;
use tempfile::TempDir;

use super::estimate::read_bytes;
use super::explain::describe_plan;
use super::schema::client_schema;
use super::stages::GraphContext;
use super::*;
use crate::datafusion_workarounds::physical_rules;

const TWO_WORKERS: ClusterShape = ClusterShape { workers: 2, slots: 4 };
const ONE_WORKER: ClusterShape = ClusterShape { workers: 1, slots: 2 };

/// Every byte justifies a task, and an exchange has as many partitions as there are slots.
const TINY: SizeOptions = SizeOptions {
    min_task_bytes: 1,
    partition_bytes: 1 << 40,
    max_partitions: 4,
};

/// Two Parquet tables: `orders` and `customer`, with nullable keys.
struct Fixture {
    context: SessionContext,
    folder: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let mut config = SessionConfig::new();
        config.options_mut().optimizer.repartition_file_min_size = 1;
        // DataFusion does not split a scan of at most one batch.
        config.options_mut().execution.batch_size = ConfigNonZeroUsize::try_new(10).unwrap();
        config.options_mut().sql_parser.recursion_limit = ConfigNonZeroUsize::try_new(1000).unwrap();
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features()
            .with_physical_optimizer_rules(physical_rules())
            .build();
        let fixture = Self {
            context: SessionContext::new_with_state(state),
            folder: TempDir::new().unwrap(),
        };
        fixture
            .table(
                "orders",
                "SELECT value AS id, value % 7 AS customer, value * 2 AS total FROM range(1000)",
            )
            .await;
        fixture
            .table(
                "customer",
                "SELECT value AS id, 'name ' || value AS name FROM range(100)",
            )
            .await;
        fixture
    }

    async fn table(&self, name: &str, rows: &str) {
        let path = self.folder.path().join(format!("{name}.parquet"));
        let path = path.to_str().unwrap();
        let frame = self.context.sql(rows).await.unwrap();
        let options = DataFrameWriteOptions::new().with_single_file_output(true);
        frame.write_parquet(path, options, None).await.unwrap();
        self.context
            .register_parquet(name, path, ParquetReadOptions::new())
            .await
            .unwrap();
    }

    async fn plan(&self, sql: &str, shape: ClusterShape) -> StagedPlan {
        let state = self.context.state();
        let logical = state.create_logical_plan(sql).await.unwrap();
        Planner::new(TINY).plan(&state, &logical, shape, None).await.unwrap()
    }

    /// The stages without the names of files, which differ from run to run.
    async fn explain(&self, sql: &str) -> String {
        let text = describe_plan(&self.plan(sql, TWO_WORKERS).await, false);
        text.lines().map(strip_files).collect::<Vec<_>>().join("\n")
    }

    async fn graph(&self, sql: &str) -> StageGraph {
        let state = self.context.state();
        let logical = state.create_logical_plan(sql).await.unwrap();
        let staged = self.plan(sql, TWO_WORKERS).await;
        staged
            .graph(&GraphContext {
                query: QueryId::from_u128(1),
                schema: client_schema(logical.schema().as_arrow()),
                settings: Vec::new(),
                stores: Vec::new(),
                state: Arc::new(state),
                task_context: OnceLock::new(),
                keep_result: false,
                in_process: false,
            })
            .unwrap()
    }
}

fn strip_files(line: &str) -> String {
    let Some((before, rest)) = line.split_once("file_groups={") else {
        return line.to_owned();
    };
    let (groups, rest) = rest.split_once(" group").unwrap();
    let (_, after) = rest.split_once("]]}").unwrap();
    format!("{before}file_groups={groups}{after}")
}

macro_rules! staged_plan {
    ($name:ident, $sql:literal) => {
        #[tokio::test]
        async fn $name() {
            let text = Fixture::new().await.explain($sql).await;
            insta::assert_snapshot!(stringify!($name), text, $sql);
        }
    };
}

staged_plan!(
    aggregate_is_split_before_ordering,
    "SELECT customer, sum(total) FROM orders GROUP BY customer ORDER BY customer"
);
staged_plan!(
    inner_join_broadcasts_small_side,
    "SELECT name, total FROM orders o JOIN customer c ON o.customer = c.id"
);
staged_plan!(
    full_join_hashes_both_sides,
    "SELECT name, total FROM orders o FULL JOIN customer c ON o.customer = c.id"
);
staged_plan!(
    not_in_broadcasts_the_subquery,
    "SELECT total FROM orders WHERE customer NOT IN (SELECT id FROM customer)"
);
staged_plan!(
    scalar_subquery_gets_own_stage,
    "SELECT id FROM orders WHERE total > (SELECT avg(total) FROM orders)"
);
staged_plan!(
    union_cuts_branch_of_one_task,
    "SELECT id FROM orders UNION ALL SELECT count(*) FROM customer"
);
staged_plan!(limit_is_pushed_into_scans, "SELECT id FROM orders LIMIT 10 OFFSET 5");
staged_plan!(
    top_k_sorts_before_merging,
    "SELECT id, total FROM orders ORDER BY total DESC LIMIT 3"
);
staged_plan!(
    window_hashes_by_its_key,
    "SELECT id, row_number() OVER (PARTITION BY customer ORDER BY id) FROM orders"
);
staged_plan!(
    nested_loop_join_broadcasts_one_side,
    "SELECT o.id, c.id FROM orders o JOIN customer c ON o.total < c.id"
);
staged_plan!(
    recursive_cte_runs_in_one_task,
    "WITH RECURSIVE n AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM n WHERE x < 5) SELECT x FROM n"
);
staged_plan!(
    distinct_aggregate_hashes_its_argument,
    "SELECT count(DISTINCT customer) FROM orders"
);
staged_plan!(
    equal_groups_are_one_stage,
    "WITH g AS (SELECT customer, sum(total) AS total FROM orders GROUP BY customer) \
     SELECT customer FROM g WHERE total = (SELECT max(total) FROM g)"
);

#[tokio::test]
async fn equal_groups_are_one_stage_on_one_worker() {
    let fixture = Fixture::new().await;
    let sql = "WITH g AS (SELECT customer, count(*) AS n FROM orders GROUP BY customer) \
               SELECT a.n, b.n FROM g a JOIN g b ON a.customer = b.customer + 1";
    let staged = fixture.plan(sql, ONE_WORKER).await;
    assert_eq!(staged.stages.len(), 2);
    assert_eq!(super::size::reads(staged.stages[1].plan.as_ref()).len(), 2);
    assert!(
        staged.changes[0].starts_with("equal_subplans: "),
        "{:?}",
        staged.changes
    );
}

#[tokio::test]
async fn columns_that_are_not_read_have_no_bytes() {
    let fixture = Fixture::new().await;
    let mut bytes = Vec::new();
    for columns in ["*", "id", "name", "count(*)"] {
        let sql = format!("SELECT {columns} FROM customer WHERE true");
        let staged = fixture.plan(&sql, TWO_WORKERS).await;
        let plans = staged.stages.iter().map(|stage| stage.plan.as_ref());
        bytes.push(plans.map(read_bytes).sum::<u64>());
    }
    let [all, id, name, none] = bytes[..] else {
        panic!("{bytes:?}");
    };
    assert!(id > 0 && name > id && all.abs_diff(id + name) <= 1, "{bytes:?}");
    assert_eq!(none, 0);
}

#[tokio::test]
async fn one_worker_gets_one_task() {
    let fixture = Fixture::new().await;
    let staged = fixture
        .plan("SELECT customer, count(*) FROM orders GROUP BY 1", ONE_WORKER)
        .await;
    assert_eq!(staged.stages.len(), 1);
    assert_eq!(staged.stages[0].tasks, [Vec::<u32>::new()]);
}

#[test]
fn lossy_plans_stay_on_the_server() {
    // The stack of the server's planning threads; that of a test thread is too small for a deep plan.
    let planning = std::thread::Builder::new().stack_size(16 << 20).spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(assert_lossy_plans_stay());
    });
    planning.unwrap().join().unwrap();
}

async fn assert_lossy_plans_stay() {
    let fixture = Fixture::new().await;
    let deep = (0..200).fold("id".to_owned(), |inner, _| format!("abs({inner})"));
    for sql in [
        "SELECT sum(total) FILTER (WHERE id > 3) OVER (PARTITION BY customer) FROM orders",
        "SELECT count(*) FROM orders GROUP BY GROUPING SETS (())",
        "SELECT first_value(total) IGNORE NULLS OVER (PARTITION BY customer ORDER BY id) FROM orders",
        &format!("SELECT {deep} FROM orders"),
    ] {
        let graph = fixture.graph(sql).await;
        let local = graph
            .stages
            .iter()
            .find(|stage| stage.placement == Placement::Local)
            .unwrap_or_else(|| panic!("some stage of this must stay: {sql}"));
        assert!(matches!(local.plan, PlanRef::InProcess(_)));
        assert_eq!(local.tasks.len(), 1);
    }
}

#[tokio::test]
async fn scan_stage_is_sent_without_files() {
    let fixture = Fixture::new().await;
    let graph = fixture.graph("SELECT customer, count(*) FROM orders GROUP BY 1").await;
    let scan = &graph.stages[0];
    assert_eq!(scan.placement, Placement::Any);
    assert_eq!(scan.tasks.len(), 2);
    let groups: usize = scan
        .tasks
        .iter()
        .flat_map(|task| &task.scans)
        .map(|splits| splits.file_groups.len())
        .sum();
    assert_eq!(groups, 4);
    let partitions: Vec<u32> = scan.tasks.iter().flat_map(|task| task.partitions.clone()).collect();
    assert_eq!(partitions, [0, 1, 2, 3]);
}

/// The joins that fill dynamic filters, by the columns that they join by.
async fn filtering_joins(fixture: &Fixture, sql: &str) -> Vec<String> {
    fn collect(plan: &dyn ExecutionPlan, found: &mut Vec<String>) {
        if let Some(join) = plan.downcast_ref::<HashJoinExec>()
            && !plan.dynamic_expressions_produced().is_empty()
        {
            found.extend(join.on().iter().map(|(left, right)| format!("{left} = {right}")));
        }
        for child in plan.children() {
            collect(child.as_ref(), found);
        }
    }
    let mut found = Vec::new();
    collect(fixture.plan(sql, ONE_WORKER).await.stages[0].plan.as_ref(), &mut found);
    found
}

#[tokio::test]
async fn dynamic_filters_stay_below_ambiguous_names() {
    let fixture = Fixture::new().await;
    let clear = "SELECT name FROM customer c JOIN orders o ON c.id = o.customer";
    assert_eq!(filtering_joins(&fixture, clear).await, ["id@0 = customer@0"]);
    // The outer join has `total` of both sides, and one of its inputs is a join without such names.
    let outer = "SELECT a.total, b.total FROM (SELECT total, name FROM customer c JOIN orders o ON c.id = o.customer) a \
                 FULL JOIN orders b ON a.total = b.id";
    assert_eq!(filtering_joins(&fixture, outer).await, ["id@0 = customer@0"]);
    // The filter on `o.total` would be one on `x.total` on the other side, which is no key of the semi-join.
    let semi = "SELECT id FROM orders o WHERE EXISTS \
                (SELECT 1 FROM orders x WHERE x.customer = o.total AND x.total > o.id)";
    assert_eq!(filtering_joins(&fixture, semi).await, Vec::<String>::new());
}

#[tokio::test]
async fn ordinary_window_is_not_lossy() {
    let fixture = Fixture::new().await;
    let staged = fixture
        .plan(
            "SELECT sum(total) OVER (PARTITION BY customer ORDER BY id) FROM orders",
            TWO_WORKERS,
        )
        .await;
    for stage in &staged.stages {
        assert_eq!(lossy::reason(stage.plan.as_ref()), None);
    }
}

/// apache/datafusion#24927: see `datafusion_workarounds`.
#[tokio::test]
async fn fetch_stays_above_a_grouping() {
    let fixture = Fixture::new().await;
    let text = fixture
        .explain(
            "WITH s AS (SELECT id FROM orders ORDER BY id LIMIT 3) \
             SELECT DISTINCT id FROM (SELECT * FROM s UNION ALL SELECT * FROM s) ORDER BY id LIMIT 2",
        )
        .await;
    let (_, below) = text.split_once("mode=FinalPartitioned").unwrap();
    assert!(!below.contains("fetch=2"), "{text}");
}

/// With one probe partition, the nodes above a join were planned for one.
#[tokio::test]
async fn join_with_single_probe_stays_unspread() {
    let fixture = Fixture::new().await;
    fixture.table("few", "SELECT value AS id FROM range(5)").await;
    let mut state = fixture.context.state();
    state.config_mut().options_mut().execution.target_partitions = 4;
    // So that a small file is neither split nor distributed by rows.
    state.config_mut().options_mut().execution.batch_size = ConfigNonZeroUsize::try_new(8192).unwrap();
    let sql = "SELECT count(*) FROM few f FULL JOIN few g ON f.id = g.id";
    let logical = state.create_logical_plan(sql).await.unwrap();
    let logical = state.optimize(&logical).unwrap();
    let physical = create_physical_plan(&state, &logical).await.unwrap();
    let shown = |plan: &dyn ExecutionPlan| datafusion::physical_plan::displayable(plan).indent(false).to_string();
    let before = shown(physical.as_ref());
    assert!(before.contains("mode=CollectLeft, join_type=Full"), "{before}");
    let spread = joins::spread_joins(physical, 4).unwrap();
    assert_eq!(shown(spread.as_ref()), before);
}

/// A nested loop join that emits build rows has one probe partition: see `datafusion_workarounds`.
#[tokio::test]
async fn left_nested_loop_probes_one_partition() {
    let text = Fixture::new()
        .await
        .explain("SELECT o.id FROM orders o LEFT JOIN customer c ON o.total < c.id")
        .await;
    let (_, below) = text.split_once("NestedLoopJoinExec").unwrap();
    assert!(
        !below.contains("join_type=Left") || below.contains("CoalescePartitionsExec"),
        "{text}"
    );
}

/// Which stages give the same rows whenever they run, producers first.
async fn determinate_stages(fixture: &Fixture, sql: &str) -> Vec<bool> {
    let graph = fixture.graph(sql).await;
    graph.stages.iter().map(|stage| stage.is_determinate).collect()
}

#[tokio::test]
async fn stages_that_give_the_same_rows_again_are_known() {
    let fixture = Fixture::new().await;
    let join = "SELECT name, sum(total), count(*), min(name) FROM orders JOIN customer ON customer = customer.id";
    for sql in [
        &format!("{join} GROUP BY name ORDER BY name"),
        "SELECT customer, count(DISTINCT total), avg(CAST(total AS DECIMAL(20, 2))) FROM orders GROUP BY customer",
        "SELECT total, name FROM orders FULL JOIN customer ON customer = customer.id",
        "SELECT * FROM orders WHERE total > (SELECT max(id) FROM customer)",
        "SELECT * FROM orders UNION ALL SELECT id, id AS b, id AS c FROM customer",
    ] {
        let stages = determinate_stages(&fixture, sql).await;
        assert!(stages.iter().all(|is| *is), "{sql}: {stages:?}");
    }
    for (sql, indeterminate) in [
        (
            "SELECT customer, sum(total * random()) FROM orders GROUP BY customer",
            0,
        ),
        (
            "SELECT customer, avg(CAST(total AS DOUBLE)) FROM orders GROUP BY customer",
            0,
        ),
        ("SELECT customer, first_value(total) FROM orders GROUP BY customer", 0),
        ("SELECT customer, array_agg(total) FROM orders GROUP BY customer", 0),
        (
            "SELECT customer, count(*) FROM (SELECT * FROM orders LIMIT 10) GROUP BY customer",
            0,
        ),
        ("SELECT * FROM orders ORDER BY customer LIMIT 10", 0),
        (
            "SELECT id, row_number() OVER (PARTITION BY customer ORDER BY total) FROM orders",
            1,
        ),
    ] {
        let stages = determinate_stages(&fixture, sql).await;
        assert!(!stages[indeterminate], "{sql}: {stages:?}");
    }
}

/// The partitions of a scan that each go to a reader of their own must not take files from each other.
#[tokio::test]
async fn scan_read_partition_by_partition_keeps_its_files_apart() {
    let fixture = Fixture::new().await;
    let (key, value) = FIXED_FILES;
    let is_fixed = |stage: &squadron_scheduler::StageSpec| stage.settings.contains(&(key.to_owned(), value.to_owned()));
    let plain = fixture.graph("SELECT id FROM orders").await;
    let scan = &plain.stages[0];
    assert!(scan.is_determinate && is_fixed(scan), "{:?}", scan.settings);
    let hashed = fixture
        .graph("SELECT customer, count(*) FROM orders GROUP BY customer")
        .await;
    let scan = &hashed.stages[0];
    assert!(scan.is_determinate && !is_fixed(scan), "{:?}", scan.settings);
}
