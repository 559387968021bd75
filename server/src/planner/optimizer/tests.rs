//! Plans before and after each rule, and that the rows stay the same.

use std::fmt::Write;

use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::dataframe::DataFrameWriteOptions;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use tempfile::TempDir;

use super::*;
use crate::datafusion_workarounds::physical_rules;
use crate::plan_marks::create_physical_plan;
use crate::settings::OptimizerRules;

/// A star: 20,000 sales of 1,000 items in 20 stores of 4 regions, with keys that are NULL, come twice or match nothing. Ids
/// could be NULL by their type, and are not.
struct Star {
    context: SessionContext,
    samples: Samples,
    misestimate: &'static str,
    _folder: TempDir,
}

const TABLES: [(&str, &str); 6] = [
    (
        "sales",
        "SELECT nullif(value, -1) AS id, CASE WHEN value % 97 = 0 THEN NULL ELSE value % 1050 END AS item, \
         CASE WHEN value % 89 = 0 THEN NULL ELSE value % 21 END AS store, value % 13 AS amount FROM range(20000)",
    ),
    (
        "item",
        "SELECT nullif(value, -1) AS id, 'brand ' || (value % 25) AS brand, value % 50 AS size FROM range(1000)",
    ),
    (
        "store",
        "SELECT nullif(value, -1) AS id, 'city ' || value AS city, value % 4 AS region FROM range(20)",
    ),
    (
        "visits",
        "SELECT value AS id, CASE WHEN value % 2 = 0 THEN 7 ELSE value % 40 END AS store, 'note ' || value AS note \
         FROM range(4000)",
    ),
    ("region", "SELECT value AS id, 'region ' || value AS name FROM range(4)"),
    (
        "nothing",
        "SELECT value AS id, value AS item FROM range(3) WHERE value > 5",
    ),
];

impl Star {
    async fn new() -> Self {
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().extensions.insert(SquadronOptions::default());
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features()
            .with_physical_optimizer_rules(physical_rules())
            .build();
        let star = Self {
            context: SessionContext::new_with_state(state),
            samples: Samples::default(),
            misestimate: "1",
            _folder: TempDir::new().unwrap(),
        };
        for (name, rows) in TABLES {
            let path = star._folder.path().join(format!("{name}.parquet"));
            let path = path.to_str().unwrap();
            let options = DataFrameWriteOptions::new().with_single_file_output(true);
            let frame = star.context.sql(rows).await.unwrap();
            frame.write_parquet(path, options, None).await.unwrap();
            let read = ParquetReadOptions::new();
            star.context.register_parquet(name, path, read).await.unwrap();
        }
        star
    }

    /// The session's state with all rules off but for those named.
    fn state(&self, rules: &[&str]) -> SessionState {
        let mut state = self.context.state();
        for rule in ALL {
            let switch = if rules.contains(&rule) { "on" } else { "off" };
            let options = state.config_mut().options_mut();
            options.set(&format!("squadron.optimizer.{rule}"), switch).unwrap();
        }
        let options = state.config_mut().options_mut();
        options.set("squadron.optimizer.misestimate", self.misestimate).unwrap();
        state
    }

    async fn improved(&self, sql: &str, rules: &[&str]) -> Improved {
        let state = self.state(rules);
        let plan = state.create_logical_plan(sql).await.unwrap();
        let plan = state.optimize(&plan).unwrap();
        let mut improved = improve(&state, plan, &self.samples, WORKERS).await.unwrap();
        improved.plan = share(&state, improved.plan, &mut improved.changes).unwrap();
        improved
    }

    /// The plan as it was and as the rules leave it, and what they say.
    async fn shown(&self, sql: &str, rules: &[&str]) -> String {
        let before = self.improved(sql, &[]).await;
        let after = self.improved(sql, rules).await;
        let mut text = format!("{sql}\n\n{}\n", before.plan.display_indent());
        if after.plan == before.plan {
            assert!(after.changes.is_empty());
            text.push_str("\nstays\n");
            return text;
        }
        let _ = write!(
            text,
            "\n{}\n\n{}\n",
            after.changes.join("\n"),
            after.plan.display_indent()
        );
        text
    }

    /// How many rows are expected.
    async fn estimate(&self, sql: &str, state: &SessionState) -> f64 {
        let plan = state.create_logical_plan(sql).await.unwrap();
        let plan = state.optimize(&plan).unwrap();
        let tables = Tables::of(&plan, &self.samples, state).await.unwrap();
        Estimator { tables: &tables }.relation(&plan).unwrap().rows
    }

    /// The rows in the order of their text.
    async fn rows(&self, sql: &str, rules: &[&str]) -> Vec<String> {
        let state = self.state(rules);
        let plan = self.improved(sql, rules).await.plan;
        let physical = create_physical_plan(&state, &plan).await.unwrap();
        let batches = datafusion::physical_plan::collect(physical, self.context.task_ctx())
            .await
            .unwrap();
        let text = pretty_format_batches(&batches).unwrap().to_string();
        let mut rows: Vec<String> = text.lines().map(str::to_owned).collect();
        rows.sort();
        rows
    }
}

const WORKERS: usize = 2;

const ALL: [&str; 7] = OptimizerRules::NAMES;

const SEMI_JOINS: [&str; 12] = [
    // What HAVING chose.
    "SELECT s.id FROM sales s JOIN item i ON s.item = i.id \
     WHERE s.item IN (SELECT item FROM sales GROUP BY item HAVING sum(amount) > 130)",
    // A filter that leaves few.
    "SELECT s.id FROM sales s JOIN store t ON s.store = t.id WHERE s.item IN (SELECT id FROM item WHERE size = 7)",
    // Two joins below.
    "SELECT s.id, r.name FROM sales s JOIN store t ON s.store = t.id JOIN region r ON t.region = r.id \
     WHERE s.item IN (SELECT id FROM item WHERE id < 20)",
    // Of the right side.
    "SELECT s.id FROM store t JOIN sales s ON s.store = t.id WHERE s.item IN (SELECT id FROM item WHERE id < 20)",
    // Below an outer join, of the side that is kept.
    "SELECT s.id, t.city FROM sales s LEFT JOIN store t ON s.store = t.id \
     WHERE s.item IN (SELECT id FROM item WHERE id < 20)",
    // Not of the other side.
    "SELECT s.id, i.size FROM sales s LEFT JOIN item i ON s.item = i.id \
     WHERE coalesce(i.id, 1) IN (SELECT id FROM item WHERE id < 20)",
    // Two of them.
    "SELECT s.id FROM sales s JOIN store t ON s.store = t.id \
     WHERE s.item IN (SELECT id FROM item WHERE id < 20) AND t.region IN (SELECT id FROM region WHERE name = 'region 2')",
    // EXISTS with another condition, of both sides of the join: stays.
    "SELECT s.id FROM sales s JOIN item i ON s.item = i.id \
     WHERE EXISTS (SELECT 1 FROM sales o WHERE o.item = s.item AND o.amount > i.size)",
    // Nearly all rows have a partner: stays.
    "SELECT s.id FROM sales s JOIN item i ON s.item = i.id WHERE s.store IN (SELECT id FROM store)",
    // Anti-joins keep most rows: stays.
    "SELECT s.id FROM sales s JOIN item i ON s.item = i.id \
     WHERE NOT EXISTS (SELECT 1 FROM store t WHERE t.id = s.store AND t.region = 2)",
    // An empty table.
    "SELECT s.id FROM sales s JOIN item i ON s.item = i.id WHERE s.item IN (SELECT item FROM nothing)",
    // Beside a filter of the same side.
    "SELECT count(*), sum(s.amount) FROM sales s JOIN item i ON s.item = i.id \
     WHERE s.amount + i.size > 20 AND s.id IN (SELECT id FROM sales WHERE id BETWEEN 100 AND 200)",
];

const AGGREGATES: [&str; 14] = [
    // TPC-H 17.
    "SELECT sum(s.amount) FROM sales s JOIN item i ON s.item = i.id WHERE i.brand = 'brand 3' AND i.size = 3 \
     AND s.amount < (SELECT 0.9 * avg(amount) FROM sales WHERE item = i.id)",
    // By a column that equals the filtered one.
    "SELECT sum(s.amount) FROM sales s JOIN item i ON s.item = i.id WHERE i.id < 20 \
     AND s.amount < (SELECT avg(amount) FROM sales x WHERE x.item = s.item)",
    // Two keys.
    "SELECT count(*) FROM sales s JOIN item i ON s.item = i.id WHERE i.id < 20 \
     AND s.amount < (SELECT avg(amount) FROM sales x WHERE x.item = s.item AND x.store = s.store)",
    // Rows that no group has, counted as none.
    "SELECT i.id, (SELECT count(*) FROM sales s WHERE s.item = i.id) FROM item i WHERE i.id > 990",
    // Values that no group has.
    "SELECT i.id, (SELECT max(amount) FROM sales s WHERE s.item = i.id + 0) FROM item i WHERE i.id > 990",
    // A join within the subquery.
    "SELECT i.id FROM item i WHERE i.size = 7 AND i.size < (SELECT sum(amount) FROM sales s JOIN store t \
     ON s.store = t.id WHERE s.item = i.id AND t.region = 1)",
    // A view with groups that is joined.
    "SELECT i.brand, g.total FROM item i JOIN (SELECT item, sum(amount) AS total FROM sales GROUP BY item) g \
     ON i.id = g.item WHERE i.size = 9",
    // The same with an outer join.
    "SELECT i.brand, g.total FROM item i LEFT JOIN (SELECT item, sum(amount) AS total FROM sales GROUP BY item) g \
     ON i.id = g.item WHERE i.size = 9 AND i.id < 300",
    // The condition is on what is computed once for all of it.
    "SELECT i.brand, g.total FROM item i JOIN (SELECT item, sum(amount) AS total FROM sales GROUP BY item) g \
     ON i.id = g.item WHERE i.size * i.size > 5 AND i.size * i.size < 17",
    // Keys and groups are of tables of one size: stays.
    "SELECT a.id FROM sales a WHERE a.id < 30 AND a.amount < (SELECT avg(amount) FROM sales s WHERE s.item = a.item)",
    // Most keys are asked for: stays.
    "SELECT i.brand, g.total FROM item i JOIN (SELECT item, sum(amount) AS total FROM sales GROUP BY item) g \
     ON i.id = g.item WHERE i.size <> 9",
    // Keys of ROLLUP are more than the column's: stays.
    "SELECT i.brand, g.total FROM item i JOIN (SELECT item, store, sum(amount) AS total FROM sales \
     GROUP BY ROLLUP (item, store)) g ON i.id = g.item WHERE i.size = 9",
    // A volatile value may differ when it is computed twice: stays.
    "SELECT i.id, g.total > 0 FROM (SELECT * FROM item WHERE size = 9 AND random() >= 0) i \
     JOIN (SELECT item, count(*) AS total FROM sales GROUP BY item) g ON i.id = g.item",
    // LIMIT within may choose other rows: stays.
    "SELECT g.total FROM (SELECT id FROM item WHERE size = 9 ORDER BY id LIMIT 3) i \
     JOIN (SELECT item, sum(amount) AS total FROM sales GROUP BY item) g ON i.id = g.item",
];

const ORDERS: [&str; 12] = [
    // The filtered table last.
    "SELECT count(*) FROM sales s JOIN store t ON s.store = t.id JOIN item i ON s.item = i.id WHERE i.size = 7",
    // A chain, from its far end.
    "SELECT count(*) FROM sales s JOIN store t ON s.store = t.id JOIN region r ON t.region = r.id \
     JOIN item i ON s.item = i.id WHERE r.name = 'region 2' AND i.size = 3",
    // All columns, in their order.
    "SELECT * FROM sales s JOIN store t ON s.store = t.id JOIN item i ON s.item = i.id WHERE i.size = 7",
    // Equalities that follow from others.
    "SELECT count(*) FROM sales s JOIN sales o ON s.item = o.item JOIN item i ON o.item = i.id WHERE i.id < 5",
    // A condition of three tables.
    "SELECT count(*) FROM sales s JOIN store t ON s.store = t.id JOIN item i ON s.item = i.id \
     WHERE i.size < 3 AND s.amount + t.region > i.size",
    // Beside an outer join, which is one leaf.
    "SELECT count(*), count(t.id) FROM (sales s LEFT JOIN store t ON s.store = t.id) \
     JOIN item i ON s.item = i.id JOIN item j ON i.size = j.id WHERE j.brand = 'brand 3'",
    // A key of two columns.
    "SELECT count(*) FROM sales s JOIN sales o ON s.item = o.item AND s.store = o.store JOIN item i ON i.id = s.item \
     WHERE i.size = 4",
    // In a subquery, too.
    "SELECT id FROM region WHERE id IN (SELECT t.region FROM sales s JOIN store t ON s.store = t.id \
     JOIN item i ON s.item = i.id JOIN item j ON i.size = j.id WHERE j.size = 8 AND j.id + s.id > 20)",
    // Good as it is: stays.
    "SELECT count(*) FROM region r JOIN store t ON t.region = r.id JOIN sales s ON s.store = t.id WHERE r.id = 1",
    // Two tables: stays.
    "SELECT count(*) FROM sales s JOIN item i ON s.item = i.id WHERE i.id = 7",
    // Without a common column: stays.
    "SELECT count(*) FROM store t CROSS JOIN region r JOIN item i ON i.id = t.id WHERE i.id = 7",
    // Equal by NULL as well: stays.
    "SELECT count(*) FROM sales s JOIN store t ON s.store IS NOT DISTINCT FROM t.id \
     JOIN item i ON s.item IS NOT DISTINCT FROM i.id WHERE i.id = 7",
];

const NOT_INS: [&str; 8] = [
    "SELECT id FROM item WHERE id NOT IN (SELECT id FROM store)",
    "SELECT s.id FROM sales s WHERE s.id NOT IN (SELECT i.id FROM item i JOIN store t ON t.id = i.size WHERE i.id < 20)",
    "SELECT brand, count(*) FROM item WHERE id NOT IN (SELECT region FROM store GROUP BY region) GROUP BY brand",
    // Nothing is known of a file without rows: stays.
    "SELECT id FROM item WHERE id NOT IN (SELECT id FROM nothing)",
    // NULL on the left: stays.
    "SELECT id FROM sales WHERE item NOT IN (SELECT id FROM store)",
    // NULL on the right: stays.
    "SELECT id FROM item WHERE id NOT IN (SELECT item FROM sales)",
    // NULL by an outer join: stays.
    "SELECT id FROM item WHERE id NOT IN (SELECT t.id FROM sales s LEFT JOIN store t ON s.store = t.id)",
    // NULL by ROLLUP: stays.
    "SELECT id FROM item WHERE id NOT IN (SELECT id FROM store GROUP BY ROLLUP (id))",
];

const EQUALS: [&str; 12] = [
    // A view that is joined with itself.
    "WITH v AS (SELECT item, sum(amount) AS total FROM sales GROUP BY item) \
     SELECT a.item, b.total FROM v a JOIN v b ON a.item = b.item + 1",
    // TPC-H 15.
    "WITH v AS (SELECT store, sum(amount) AS total FROM sales GROUP BY store) \
     SELECT t.id, v.total FROM store t JOIN v ON t.id = v.store WHERE v.total = (SELECT max(total) FROM v)",
    // Filtered by each reader.
    "WITH v AS (SELECT item, sum(amount) AS total FROM sales GROUP BY item) \
     SELECT count(*) FROM v a, v b WHERE a.total > 130 AND b.total < 3",
    // Three times.
    "WITH v AS (SELECT DISTINCT region FROM store) \
     SELECT a.region FROM v a JOIN v b ON a.region = b.region + 1 JOIN v c ON b.region = c.region + 1",
    // Windows.
    "WITH v AS (SELECT store, item, rank() OVER (PARTITION BY store ORDER BY item) AS place FROM sales WHERE item < 10) \
     SELECT a.store, b.item FROM v a JOIN v b ON a.store = b.store AND a.place = b.place + 1",
    // Below other groups.
    "SELECT max(total) FROM (SELECT item, sum(amount) AS total FROM sales GROUP BY item) \
     UNION ALL SELECT min(total) FROM (SELECT item, sum(amount) AS total FROM sales GROUP BY item)",
    // Filtered by a key, which is a condition of the rows of each: stays.
    "WITH v AS (SELECT item, sum(amount) AS total FROM sales GROUP BY item) \
     SELECT a.total + b.total FROM v a, v b WHERE a.item = 1 AND b.item = 2",
    // Other groups: stays.
    "SELECT item, sum(amount) FROM sales GROUP BY item UNION ALL SELECT store, sum(amount) FROM sales GROUP BY store",
    // Volatile: stays.
    "SELECT count(*) FROM (SELECT DISTINCT random() AS r FROM store) a, (SELECT DISTINCT random() AS r FROM store) b \
     WHERE a.r >= b.r",
    // What is only read: stays.
    "SELECT count(*) FROM store a JOIN store b ON a.id = b.region",
    // Of what depends on a subquery, the subquery.
    "WITH v AS (SELECT item, count(*) AS n FROM sales WHERE amount > (SELECT avg(amount) FROM sales) GROUP BY item) \
     SELECT count(*) FROM v a JOIN v b ON a.n = b.n",
    // Once: stays.
    "SELECT item, count(*) FROM sales GROUP BY item",
];

async fn snapshot(name: &str, rule: &str, queries: &[&str]) {
    snapshot_of(Star::new().await, name, rule, queries).await;
}

async fn snapshot_of(star: Star, name: &str, rule: &str, queries: &[&str]) {
    let mut text = String::new();
    for sql in queries {
        let _ = writeln!(text, "{}\n{}", "-".repeat(80), star.shown(sql, &[rule]).await);
    }
    insta::assert_snapshot!(name, text);
}

#[tokio::test]
async fn semi_joins_come_first_where_they_leave_few_rows() {
    snapshot("semi_joins", "semi_join_placement", &SEMI_JOINS).await;
}

#[tokio::test]
async fn groups_are_computed_for_keys_that_are_asked_for() {
    snapshot("aggregates", "correlated_aggregates", &AGGREGATES).await;
}

#[tokio::test]
async fn joins_are_ordered_by_rows() {
    snapshot("join_order", "join_order", &ORDERS).await;
}

#[tokio::test]
async fn not_in_without_null_is_a_plain_anti_join() {
    snapshot("not_in", "not_in", &NOT_INS).await;
}

const SIDES: [&str; 4] = [
    // DataFusion takes the join of sales and item for as many rows as sales has.
    "SELECT count(*) FROM store t JOIN (sales s JOIN item i ON s.item = i.id AND i.size = 7) ON s.store = t.id",
    "SELECT id FROM sales s WHERE NOT EXISTS (SELECT 1 FROM sales o WHERE o.item = s.item AND o.amount > s.amount) \
     AND s.item IN (SELECT id FROM item WHERE size = 7)",
    "SELECT s.id, g.total FROM sales s LEFT JOIN (SELECT item, sum(amount) AS total FROM sales GROUP BY item) g \
     ON s.item = g.item",
    // Nothing is known of one side: stays.
    "SELECT count(*) FROM item i JOIN generate_series(1, 100) AS n(value) ON i.id = n.value",
];

#[tokio::test]
async fn sides_of_joins_are_estimated() {
    snapshot("join_sides", "join_sides", &SIDES).await;
}

/// Of tables of which visits is taken for 1,000 times larger, and store for as many times smaller.
const REDUCERS: [&str; 12] = [
    "SELECT t.id, v.id, v.note FROM store t LEFT JOIN visits v ON v.store = t.id WHERE t.region = 2",
    "SELECT t.id FROM store t WHERE region < 3 AND NOT EXISTS \
     (SELECT 1 FROM visits v WHERE v.store = t.id AND v.note <> t.city AND v.id > t.region)",
    // The keys of the filtered table are those of the rows of the join.
    "SELECT t.id, v.id, v.note FROM store t JOIN region r ON t.region = r.id LEFT JOIN visits v ON v.store = t.id AND v.id > 9 \
     WHERE r.name = 'region 1' AND t.city <> 'city 3'",
    // The keys are those that a subquery leaves,
    "SELECT t.id, v.id, v.note FROM (SELECT id FROM store WHERE id IN (SELECT id FROM region WHERE name <> 'x')) t \
     LEFT JOIN visits v ON v.store = t.id",
    // unless another evaluation may choose other rows, or give another sum.
    "SELECT t.id, v.id, v.note FROM (SELECT id FROM store WHERE id IN (SELECT region FROM store ORDER BY region LIMIT 3)) t \
     LEFT JOIN visits v ON v.store = t.id",
    "SELECT t.id, v.id, v.note FROM (SELECT id FROM store WHERE id IN \
     (SELECT region FROM store GROUP BY region HAVING sum(id * 0.1e0) > 3)) t LEFT JOIN visits v ON v.store = t.id",
    // A key alone is sent as fast as it is looked up.
    "SELECT id FROM store t WHERE region = 1 AND EXISTS (SELECT 1 FROM visits v WHERE v.store = t.id)",
    // All keys are asked for.
    "SELECT t.id, v.id, v.note FROM store t LEFT JOIN visits v ON v.store = t.id",
    // The smaller side has a copy everywhere.
    "SELECT t.id, v.id, v.note FROM store t JOIN visits v ON v.store = t.id WHERE t.region = 2",
    // The larger side is kept.
    "SELECT t.city, v.id, v.note FROM visits v LEFT JOIN store t ON v.store = t.id AND t.region = 2",
    // NULL among the values tells of every row.
    "SELECT city FROM store WHERE region = 2 AND city NOT IN (SELECT note FROM visits)",
    // The rows without a partner are asked for.
    "SELECT t.id, v.id, v.note FROM (SELECT * FROM store WHERE region = 2) t FULL JOIN visits v ON v.store = t.id",
];

#[tokio::test]
async fn exchanges_are_reduced_by_keys() {
    let star = Star {
        misestimate: "1000",
        ..Star::new().await
    };
    snapshot_of(star, "reducers", "semi_join_reducers", &REDUCERS).await;
}

#[tokio::test]
async fn equal_parts_are_shared() {
    snapshot("equal_subplans", "equal_subplans", &EQUALS).await;
}

#[tokio::test]
async fn conditions_on_texts_are_tried_on_samples() {
    let star = Star::new().await;
    let state = star.state(&ALL);
    for (condition, rows) in [
        ("brand = 'brand 3'", 40.0),
        ("brand LIKE '% 1_'", 400.0),
        ("length(brand) = 7 AND size < 25", 200.0),
        ("brand = 'no brand'", 0.5),
    ] {
        let sql = format!("SELECT id FROM item WHERE {condition}");
        let estimate = star.estimate(&sql, &state).await;
        assert!(
            (rows * 0.8..=rows * 1.25).contains(&estimate),
            "{condition}: {estimate}"
        );
    }
}

#[tokio::test]
async fn rows_without_a_partner_are_estimated() {
    let star = Star::new().await;
    let state = star.state(&ALL);
    for (sql, expected) in [
        // Of 1,050 values of the key, 1,000 are items.
        (
            "SELECT s.id FROM sales s LEFT JOIN item i ON s.item = i.id WHERE i.id IS NULL",
            950.0,
        ),
        (
            "SELECT s.id FROM item i RIGHT JOIN sales s ON s.item = i.id WHERE i.size IS NULL",
            950.0,
        ),
        (
            "SELECT i.id FROM item i LEFT JOIN nothing n ON n.item = i.id WHERE n.id IS NULL",
            1_000.0,
        ),
        (
            "SELECT i.id FROM item i LEFT JOIN store t ON t.id = i.id WHERE t.id IS NOT NULL",
            20.0,
        ),
    ] {
        let estimate = star.estimate(sql, &state).await;
        assert!(
            (expected * 0.8..=expected * 1.25).contains(&estimate),
            "{sql}: {estimate}"
        );
    }
}

#[tokio::test]
async fn texts_and_common_keys_are_estimated_by_sketches() {
    let star = Star::new().await;
    let mut state = star.state(&ALL);
    for (sql, without, with) in [
        // 25 brands: without a sketch, any row may have one of its own.
        (
            "SELECT i.brand FROM item i JOIN store t ON i.size = t.id GROUP BY i.brand",
            400.0,
            25.0,
        ),
        // Each visit has one group.
        (
            "SELECT a.id FROM visits a JOIN (SELECT store, count(*) AS n FROM visits GROUP BY store) b ON a.store = b.store",
            4_000.0,
            4_000.0,
        ),
        // Half of the visits are to one store, of both kinds.
        (
            "SELECT a.id FROM visits a JOIN visits b ON a.store = b.store",
            400_000.0,
            5_200_000.0,
        ),
    ] {
        for (samples, expected) in [("off", without), ("on", with)] {
            state
                .config_mut()
                .options_mut()
                .set("squadron.optimizer.samples", samples)
                .unwrap();
            let estimate = star.estimate(sql, &state).await;
            assert!(
                (expected * 0.8..=expected * 1.25).contains(&estimate),
                "{sql}, samples {samples}: {estimate}"
            );
        }
    }
    let kept = star.samples.newest_sketches();
    let names: Vec<_> = kept
        .iter()
        .map(|sketch| format!("{}.{}", sketch.table, sketch.column))
        .collect();
    assert_eq!(
        names,
        ["item.brand", "item.id", "item.size", "store.id", "visits.store"]
    );
}

#[tokio::test]
async fn estimates_are_wrong_where_a_test_wants_it() {
    let star = Star::new().await;
    for (table, rows, wrong) in [("item", 1_000.0, 1.0), ("sales", 20_000.0, 20_000_000.0)] {
        for (misestimate, expected) in [("1", rows), ("1000", wrong)] {
            let mut state = star.state(&ALL);
            let options = state.config_mut().options_mut();
            options.set("squadron.optimizer.misestimate", misestimate).unwrap();
            let sql = format!("SELECT * FROM {table}");
            let estimated = star.estimate(&sql, &state).await;
            assert!(
                (estimated - expected).abs() < 1e-6 * expected,
                "{table} {misestimate}: {estimated}"
            );
        }
    }
}

#[tokio::test]
async fn rows_are_the_same_with_each_rule() {
    for misestimate in ["1", "1000"] {
        let star = Star {
            misestimate,
            ..Star::new().await
        };
        assert_same_rows(&star).await;
    }
}

async fn assert_same_rows(star: &Star) {
    for sql in SEMI_JOINS
        .iter()
        .chain(&AGGREGATES)
        .chain(&NOT_INS)
        .chain(&ORDERS)
        .chain(&SIDES)
        .chain(&REDUCERS)
    {
        let expected = star.rows(sql, &[]).await;
        // Shared parts run as stages alone.
        let runnable = &ALL[..6];
        for rules in runnable.chunks(1).chain([runnable]) {
            assert_eq!(star.rows(sql, rules).await, expected, "{rules:?}: {sql}");
        }
    }
}
