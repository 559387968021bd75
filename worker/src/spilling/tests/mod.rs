mod aggregates;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::catalog::MemTable;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::common::{JoinSide, JoinType, NullEquality};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column};
use datafusion::physical_expr::{LexOrdering, Partitioning, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::joins::utils::{ColumnIndex, JoinFilter};
use datafusion::physical_plan::joins::{HashJoinExecBuilder, PartitionMode};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::future::try_join_all;
use futures::{FutureExt, TryStreamExt};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use squadron_proto::FailureKind;
use squadron_proto::control::{OutputMode, Release};
use squadron_proto::ticket::ClusterKey;
use squadron_shuffle::{AttemptContext, failure};
use tempfile::TempDir;

use super::{SpillingJoinExec, with_bounded_memory, with_external_sorts};
use crate::engine::{Engine, WorkerOptions};
use crate::yielding::with_yields;
use crate::{stage, testing};

const JOIN_TYPES: [JoinType; 10] = [
    JoinType::Inner,
    JoinType::Left,
    JoinType::Right,
    JoinType::Full,
    JoinType::LeftSemi,
    JoinType::RightSemi,
    JoinType::LeftAnti,
    JoinType::RightAnti,
    JoinType::LeftMark,
    JoinType::RightMark,
];

/// Small enough that every table below goes to disk, and most pieces are scattered again.
const SMALL_POOL: usize = 64 * 1024;

/// The keys of a table.
#[derive(Clone, Copy, Debug)]
enum Keys {
    /// So many keys, each about equally often; one row in ten has none.
    Spread(i32),
    /// Nearly all rows have the same key.
    Skewed,
    /// As `Spread`, without nulls.
    Present(i32),
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Int32, true),
        Field::new("number", DataType::Int32, false),
        Field::new("text", DataType::Utf8, true),
    ]))
}

fn table(seed: u64, rows: usize, keys: Keys) -> Vec<RecordBatch> {
    let mut random = StdRng::seed_from_u64(seed);
    let numbers: Vec<i32> = (0..rows as i32).collect();
    let batches = numbers.chunks(500).map(|numbers| {
        let key = |random: &mut StdRng| match keys {
            Keys::Spread(count) => random.random_bool(0.9).then(|| random.random_range(0..count)),
            Keys::Skewed => Some(if random.random_bool(0.99) {
                7
            } else {
                random.random_range(0..50)
            }),
            Keys::Present(count) => Some(random.random_range(0..count)),
        };
        let keys: Int32Array = numbers.iter().map(|_| key(&mut random)).collect();
        let text: StringArray = numbers
            .iter()
            .map(|n| Some(format!("text of row {n} {}", "x".repeat(20))))
            .collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(keys),
            Arc::new(Int32Array::from(numbers.to_vec())),
            Arc::new(text),
        ];
        RecordBatch::try_new(schema(), columns).unwrap()
    });
    batches.collect()
}

fn column(name: &str, index: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(name, index))
}

/// `left.number < right.number`
fn filter() -> JoinFilter {
    let side = |side| ColumnIndex { index: 1, side };
    let condition = BinaryExpr::new(column("left", 0), Operator::Lt, column("right", 1));
    let schema = Schema::new(vec![
        Field::new("left", DataType::Int32, false),
        Field::new("right", DataType::Int32, false),
    ]);
    JoinFilter::new(
        Arc::new(condition),
        vec![side(JoinSide::Left), side(JoinSide::Right)],
        Arc::new(schema),
    )
}

/// A join to be built anew for each run: joins have state.
#[derive(Clone, Debug)]
struct Case {
    join_type: JoinType,
    partitions: usize,
    is_shared: bool,
    has_filter: bool,
    null_equality: NullEquality,
    null_aware: bool,
    is_ordered: bool,
    fetch: Option<usize>,
    projection: Option<Vec<usize>>,
    build: (usize, Keys),
    probe: (usize, Keys),
    pool: usize,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            join_type: JoinType::Inner,
            partitions: 1,
            is_shared: true,
            has_filter: false,
            null_equality: NullEquality::NullEqualsNothing,
            null_aware: false,
            is_ordered: false,
            fetch: None,
            projection: None,
            build: (6_000, Keys::Spread(3_000)),
            probe: (4_000, Keys::Spread(4_000)),
            pool: SMALL_POOL,
        }
    }
}

impl Case {
    fn plan(&self) -> Arc<dyn ExecutionPlan> {
        let on = vec![(column("key", 0), column("key", 0))];
        let build = self.input(table(1, self.build.0, self.build.1), !self.is_shared);
        let mut probe = self.input(table(2, self.probe.0, self.probe.1), true);
        if self.is_ordered {
            let order = PhysicalSortExpr::new(column("number", 1), SortOptions::default());
            let sort = SortExec::new(LexOrdering::new([order]).unwrap(), probe);
            probe = Arc::new(sort.with_preserve_partitioning(true));
        }
        let mode = match self.is_shared {
            true => PartitionMode::CollectLeft,
            false => PartitionMode::Partitioned,
        };
        HashJoinExecBuilder::new(build, probe, on, self.join_type)
            .with_filter(self.has_filter.then(filter))
            .with_null_equality(self.null_equality)
            .with_null_aware(self.null_aware)
            .with_fetch(self.fetch)
            .with_projection(self.projection.clone())
            .with_partition_mode(mode)
            .build_exec()
            .unwrap()
    }

    fn input(&self, rows: Vec<RecordBatch>, is_partitioned: bool) -> Arc<dyn ExecutionPlan> {
        let source = MemorySourceConfig::try_new_exec(&[rows], schema(), None).unwrap();
        if !is_partitioned || self.partitions == 1 {
            return source;
        }
        let partitioning = Partitioning::Hash(vec![column("key", 0)], self.partitions);
        Arc::new(RepartitionExec::try_new(source, partitioning).unwrap())
    }

    /// Checks that the join gives the same rows in a small pool, and that it went to disk there.
    fn check(&self) {
        let (_, expected) = Run::new(1 << 30).rows(&self.plan(), false).unwrap();
        let run = Run::new(self.pool);
        let (plan, rows) = run.rows(&self.plan(), true).unwrap();
        let sorted = |mut rows: Vec<String>| {
            rows.sort_unstable();
            rows
        };
        match self.fetch {
            None => assert!(sorted(expected) == sorted(rows), "{self:?}"),
            Some(fetch) => assert_eq!(rows.len(), expected.len().min(fetch * self.partitions), "{self:?}"),
        }
        assert!(spills(plan.as_ref()) > 0, "nothing was spilled: {self:?}");
        drop(plan);
        run.assert_nothing_left();
    }
}

fn spills(plan: &dyn ExecutionPlan) -> usize {
    let own = match plan.is::<SpillingJoinExec>() {
        true => plan.metrics().and_then(|metrics| metrics.spill_count()).unwrap_or(0),
        false => 0,
    };
    own + plan
        .children()
        .into_iter()
        .map(|child| spills(child.as_ref()))
        .sum::<usize>()
}

/// A process with a pool of some size.
struct Run {
    _folder: TempDir,
    engine: Arc<Engine>,
    runtime: tokio::runtime::Runtime,
}

impl Run {
    fn new(pool_bytes: usize) -> Self {
        Self::with_disk(pool_bytes, u64::MAX)
    }

    fn with_disk(pool_bytes: usize, max_spill_bytes: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let guard = runtime.enter();
        let (folder, options) = testing::options();
        let options = WorkerOptions {
            memory_bytes: pool_bytes,
            max_spill_bytes,
            ..options
        };
        let engine = Engine::new(&options, ClusterKey::random(), None).unwrap();
        drop(guard);
        Self {
            _folder: folder,
            engine,
            runtime,
        }
    }

    fn context(&self) -> Arc<TaskContext> {
        let writer = self
            .engine
            .store
            .create(testing::key(0), schema(), vec![0], OutputMode::Retained);
        let attempt = AttemptContext {
            key: testing::key(0),
            partitions: vec![],
            inputs: HashMap::new(),
            store: self.engine.store.clone(),
            fetcher: self.engine.fetcher.clone(),
            writer: writer.unwrap(),
        };
        let config = stage::session_config(&[])
            .with_batch_size(256)
            .with_sort_spill_reservation_bytes(SMALL_POOL)
            .with_extension(Arc::new(attempt));
        let memory = self.engine.attempt_memory(testing::QUERY, 0, Arc::default());
        self.engine.attempt_context(config, memory)
    }

    /// The rows of `plan`, partition after partition.
    fn rows(&self, plan: &Arc<dyn ExecutionPlan>, may_spill: bool) -> Result<(Arc<dyn ExecutionPlan>, Vec<String>)> {
        let plan = match may_spill {
            true => with_bounded_memory(with_yields(Arc::clone(plan))?)?,
            false => Arc::clone(plan),
        };
        let context = self.context();
        let partitions = (0..plan.output_partitioning().partition_count()).map(|partition| {
            let rows = plan.execute(partition, Arc::clone(&context)).unwrap();
            self.runtime
                .spawn(rows.try_collect::<Vec<_>>())
                .map(|joined| joined.unwrap())
        });
        let partitions: Vec<_> = partitions.collect();
        let batches = self.runtime.block_on(try_join_all(partitions))?;
        drop(self.engine.store.take(&Release {
            query: testing::QUERY,
            stages: vec![],
        }));
        Ok((plan, batches.iter().flatten().flat_map(texts).collect()))
    }

    /// Tasks that operators have spawned end soon after them.
    fn assert_nothing_left(&self) {
        let held = || (self.engine.memory_used_bytes(), self.engine.store.usage().disk_bytes);
        let freed = async {
            while held() != (0, 0) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let freed = self
            .runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(10), freed).await });
        assert!(freed.is_ok(), "memory and disk still held: {:?}", held());
    }
}

fn texts(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
        .collect();
    (0..batch.num_rows())
        .map(|row| {
            columns
                .iter()
                .map(|column| column.value(row).to_string())
                .collect::<Vec<_>>()
                .join("|")
        })
        .collect()
}

#[test]
fn spilled_joins_of_all_types_keep_their_rows() {
    for join_type in JOIN_TYPES {
        for (partitions, is_shared) in [(1, true), (3, true), (3, false)] {
            for has_filter in [false, true] {
                Case {
                    join_type,
                    partitions,
                    is_shared,
                    has_filter,
                    ..Case::default()
                }
                .check();
            }
        }
    }
}

#[test]
fn rows_of_one_key_are_joined_in_chunks() {
    for join_type in JOIN_TYPES {
        Case {
            join_type,
            has_filter: true,
            build: (3_000, Keys::Skewed),
            probe: (60, Keys::Skewed),
            ..Case::default()
        }
        .check();
    }
}

#[test]
fn nulls_that_equal_nulls_meet() {
    for join_type in JOIN_TYPES {
        Case {
            join_type,
            null_equality: NullEquality::NullEqualsNull,
            build: (3_000, Keys::Spread(3_000)),
            probe: (60, Keys::Spread(3_000)),
            ..Case::default()
        }
        .check();
    }
}

#[test]
fn not_in_regards_nulls_of_both_sides() {
    for probe in [
        (0, Keys::Present(10)),
        (2_000, Keys::Present(2_000)),
        (2_000, Keys::Spread(2_000)),
    ] {
        for partitions in [1, 3] {
            Case {
                join_type: JoinType::LeftAnti,
                null_aware: true,
                partitions,
                probe,
                ..Case::default()
            }
            .check();
        }
    }
}

#[test]
fn order_of_probe_side_is_restored() {
    for join_type in [JoinType::Inner, JoinType::RightAnti] {
        let case = Case {
            join_type,
            is_ordered: true,
            projection: Some(match join_type {
                JoinType::Inner => vec![4, 0],
                _ => vec![1],
            }),
            build: (20_000, Keys::Spread(10_000)),
            // Sorting takes more memory than joining.
            pool: 8 * SMALL_POOL,
            ..Case::default()
        };
        case.check();
        let (_, rows) = Run::new(case.pool).rows(&case.plan(), true).unwrap();
        let number = |row: &String| row.split('|').next().unwrap().parse::<i32>().unwrap();
        assert!(rows.is_sorted_by_key(number), "{join_type}");
    }
}

#[test]
fn fetch_limits_rows_of_all_pieces() {
    Case {
        fetch: Some(100),
        ..Case::default()
    }
    .check();
}

#[test]
fn full_disk_ends_join() {
    let run = Run::with_disk(SMALL_POOL, 1_000);
    let error = run.rows(&Case::default().plan(), true).unwrap_err();
    let failure = failure::of(&error);
    assert_eq!(failure.kind, FailureKind::DiskFull);
    assert!(failure.message.contains("--max-spill-bytes"), "{failure}");
    run.assert_nothing_left();
}

#[test]
fn join_that_fits_is_not_spilled() {
    let run = Run::new(1 << 30);
    let (plan, rows) = run.rows(&Case::default().plan(), true).unwrap();
    assert!(!rows.is_empty());
    assert_eq!(spills(plan.as_ref()), 0);
    drop(plan);
    run.assert_nothing_left();
}

/// The plan of a statement over `t`, in which one row in ten has no key.
fn plan_of(run: &Run, sql: &str, partitions: usize) -> Arc<dyn ExecutionPlan> {
    let rows = table(3, 6_000, Keys::Spread(200));
    let config = SessionConfig::new()
        .with_target_partitions(partitions)
        .with_batch_size(256);
    let context = SessionContext::new_with_config(config);
    let table = MemTable::try_new(schema(), vec![rows]).unwrap();
    context.register_table("t", Arc::new(table)).unwrap();
    let plan = async { context.sql(sql).await?.create_physical_plan().await };
    run.runtime.block_on(plan).unwrap()
}

fn has_node(plan: &dyn ExecutionPlan, name: &str) -> bool {
    plan.name() == name || plan.children().into_iter().any(|child| has_node(child.as_ref(), name))
}

#[test]
fn windows_run_group_by_group() {
    let statements = [
        "SELECT number, sum(number) OVER (PARTITION BY key) FROM t",
        "SELECT number, count(*) OVER (PARTITION BY key), max(text) OVER (PARTITION BY key) FROM t",
        "SELECT number, last_value(number) OVER (PARTITION BY key ORDER BY number
            ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) FROM t",
        "SELECT number, ntile(3) OVER (PARTITION BY key, number % 2 ORDER BY number) FROM t",
    ];
    for sql in statements {
        for partitions in [1, 3] {
            let large = Run::new(1 << 30);
            let (_, mut expected) = large.rows(&plan_of(&large, sql, partitions), false).unwrap();
            let small = Run::new(16 * SMALL_POOL);
            let (plan, mut rows) = small.rows(&plan_of(&small, sql, partitions), true).unwrap();
            assert!(has_node(plan.as_ref(), "WindowChunksExec"), "{sql}");
            expected.sort_unstable();
            rows.sort_unstable();
            assert!(expected == rows, "{sql} over {partitions} partitions");
            drop(plan);
            small.assert_nothing_left();
        }
    }
}

#[test]
fn window_without_groups_is_charged() {
    for sql in [
        "SELECT number, text, sum(number) OVER () FROM t",
        "SELECT number, text, lead(number, 5000) OVER (ORDER BY number) FROM t",
    ] {
        let large = Run::new(1 << 30);
        let (plan, rows) = large.rows(&plan_of(&large, sql, 1), true).unwrap();
        assert!(has_node(plan.as_ref(), "ChargedWindowExec"), "{sql}");
        assert_eq!(rows.len(), 6_000);
        drop(plan);
        large.assert_nothing_left();
        let small = Run::new(5 * SMALL_POOL);
        let error = small.rows(&plan_of(&small, sql, 1), true).unwrap_err();
        let failure = failure::of(&error);
        assert_eq!(failure.kind, FailureKind::Exhausted, "{failure}");
        assert!(failure.message.contains("WindowRows"), "{failure}");
        small.assert_nothing_left();
    }
}

#[test]
fn large_limits_become_sorts() {
    let sql = "SELECT text, number FROM t ORDER BY text, number LIMIT 5000";
    for partitions in [1, 3] {
        let large = Run::new(1 << 30);
        let plan = plan_of(&large, sql, partitions);
        let kept = with_external_sorts(Arc::clone(&plan), 1 << 30, 256).unwrap();
        assert!(!has_node(kept.as_ref(), "LocalLimitExec"), "they fit");
        let (_, expected) = large.rows(&plan, false).unwrap();
        let small = Run::new(8 * SMALL_POOL);
        let sorting = with_external_sorts(plan_of(&small, sql, partitions), 8 * SMALL_POOL, 256).unwrap();
        assert!(has_node(sorting.as_ref(), "LocalLimitExec"));
        let (_, rows) = small.rows(&sorting, true).unwrap();
        assert!(expected == rows);
        small.assert_nothing_left();
    }
}

/// Each time the inputs race for the spill files anew.
#[test]
fn outputs_of_repartition_are_read_one_after_another() {
    for _ in 0..20 {
        let inputs = [4, 5].map(|seed| table(seed, 40_000, Keys::Spread(5_000)));
        let source = MemorySourceConfig::try_new_exec(&inputs, schema(), None).unwrap();
        let partitioning = Partitioning::Hash(vec![column("key", 0)], 2);
        let plan: Arc<dyn ExecutionPlan> = Arc::new(RepartitionExec::try_new(source, partitioning).unwrap());
        // Rows of the output that nobody reads yet go to disk.
        let run = Run::new(8 * SMALL_POOL);
        let context = run.context();
        let outputs = [0, 1].map(|partition| plan.execute(partition, Arc::clone(&context)).unwrap());
        let counts = run.runtime.spawn(async {
            let mut counts = Vec::new();
            for output in outputs {
                let batches: Vec<_> = output.try_collect().await.unwrap();
                counts.push(batches.iter().map(RecordBatch::num_rows).sum::<usize>());
            }
            counts
        });
        let counts = async { tokio::time::timeout(Duration::from_secs(60), counts).await };
        let counts = run.runtime.block_on(counts).expect("the outputs end").unwrap();
        assert_eq!(counts.iter().sum::<usize>(), 80_000, "{counts:?}");
        assert!(plan.metrics().unwrap().spill_count().unwrap() > 0);
    }
}

fn key_kinds() -> impl Strategy<Value = Keys> {
    prop_oneof![
        (1..5_000i32).prop_map(Keys::Spread),
        (1..5_000i32).prop_map(Keys::Present),
        Just(Keys::Skewed),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn spilled_joins_equal_joins_in_memory(
        join_type in prop::sample::select(&JOIN_TYPES[..]),
        partitions in 1..4usize,
        is_shared: bool,
        has_filter: bool,
        build in (3_000..8_000usize, key_kinds()),
        probe in (0..150usize, key_kinds()),
    ) {
        Case { join_type, partitions, is_shared: is_shared || partitions == 1, has_filter, build, probe, ..Case::default() }.check();
    }
}
