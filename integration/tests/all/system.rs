//! The schema `system`, and KILL.

use arrow::array::ArrayRef;
use arrow::util::display::array_value_to_string;
use datafusion::common::runtime::SpawnedTask;
use datafusion::dataframe::DataFrameWriteOptions;
use datafusion::prelude::SessionContext;
use squadron_integration::client::Client;
use squadron_integration::cluster::cluster;
use tempfile::TempDir;
use tonic::Code;

use crate::callers::{Caller, Files, PASSWORD, text};
use crate::support::{ENDLESS, bounded, failure_of, minutes, two_workers};

/// A query that runs for ever without a row.
const SILENT: &str =
    "SELECT count(*) FROM lineitem a, lineitem b, lineitem c WHERE a.l_comment || b.l_comment LIKE c.l_comment || '%x'";

/// All rows as text.
async fn rows(client: &Client, sql: &str) -> Vec<Vec<String>> {
    let (_, batches) = client
        .query(sql)
        .await
        .unwrap_or_else(|status| panic!("{sql}: {status}"));
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cell = |column: &ArrayRef| array_value_to_string(column, row).expect("it can be shown");
            rows.push(batch.columns().iter().map(cell).collect());
        }
    }
    rows
}

/// The one value of a statement.
async fn value(client: &Client, sql: &str) -> String {
    let rows = rows(client, sql).await;
    assert_eq!((rows.len(), rows[0].len()), (1, 1), "{sql}: {rows:?}");
    rows[0][0].clone()
}

/// Waits until a query is in this state, and gives its id.
async fn wait_for_query_id(client: &Client, marker: &str, state: &str) -> String {
    let sql = format!(
        "SELECT query_id FROM system.queries WHERE statement LIKE '%{marker}%' AND state = '{state}' \
         AND statement NOT LIKE '%system.queries%'"
    );
    loop {
        if let [row] = rows(client, &sql).await.as_slice() {
            return row[0].clone();
        }
    }
}

#[test]
fn finished_query_reports_its_resources() {
    bounded(minutes(5), async {
        let cluster = two_workers().start().await;
        let client = cluster.client().await;
        let sql = "SELECT l_returnflag, count(*) FROM lineitem GROUP BY l_returnflag /* finished */";
        let (_, batches) = client.query(sql).await.expect("rows");
        let answered: usize = batches.iter().map(|batch| batch.num_rows()).sum();
        let id = wait_for_query_id(&client, "/* finished */", "finished").await;

        let query = format!("FROM system.queries WHERE query_id = '{id}'");
        let checks = format!(
            "SELECT progress = 1.0 AND rows = {answered} AND tasks = finished_tasks AND tasks > 2 AND stages > 1 \
             AND cpu_ms > 0 AND read_bytes > 0 AND shuffled_bytes > 0 AND fetched_bytes > 0 AND peak_memory_bytes > 0 \
             AND created_at <= queued_at AND queued_at <= started_at AND started_at <= delivering_at \
             AND delivering_at <= ended_at AND failure IS NULL AND held_slots = 0 AND resource_group = 'server' {query}"
        );
        if value(&client, &checks).await != "true" {
            panic!("{:?}", rows(&client, &format!("SELECT * {query}")).await);
        }
        let totals = |table: &str| {
            format!(
                "SELECT sum(cpu_ms) > 0, sum(read_bytes), sum(shuffled_bytes), sum(fetched_bytes) \
                 FROM system.{table} WHERE query_id = '{id}'"
            )
        };
        let of_query = rows(&client, &totals("queries")).await;
        assert_eq!(rows(&client, &totals("stages")).await, of_query);
        assert_eq!(rows(&client, &totals("tasks")).await, of_query);

        let tasks = format!(
            "SELECT count(*) FROM system.tasks t JOIN system.workers w ON t.worker_id = w.worker_id \
             WHERE query_id = '{id}' AND t.state = 'finished' AND launched_at <= started_at AND started_at <= ended_at"
        );
        let all = value(&client, &format!("SELECT tasks {query}")).await;
        assert_eq!(value(&client, &tasks).await, all);
    });
}

#[test]
fn statements_without_tasks_are_recorded() {
    bounded(minutes(3), async {
        let cluster = cluster().slots(1).start().await;
        let client = cluster.client().await;
        client.update("SET squadron.tag = 'mine'").await.expect("set");
        client
            .update("CREATE VIEW v AS SELECT 1 AS one")
            .await
            .expect("created");
        client
            .query("SELECT 1 / (one - 1) FROM v")
            .await
            .expect_err("it divides by zero");
        client
            .query("SELECT * FROM nowhere")
            .await
            .expect_err("there is no such table");
        let seen = rows(
            &client,
            "SELECT state, tag, failure_kind, statement FROM system.queries WHERE ended_at IS NOT NULL \
             ORDER BY created_at",
        )
        .await;
        let expected = [
            ["finished", "", "", "SET squadron.tag = 'mine'"],
            ["finished", "mine", "", "CREATE VIEW v AS SELECT 1 AS one"],
            ["failed", "mine", "invalid", "SELECT 1 / (one - 1) FROM v"],
        ];
        assert_eq!(seen, expected);
    });
}

#[test]
fn statement_options_are_redacted() {
    bounded(minutes(3), async {
        let cluster = cluster().slots(1).start().await;
        let client = cluster.client().await;
        let create = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://nowhere/t/' \
                      OPTIONS ('aws.secret_access_key' 'hush', 'aws.endpoint' 'http://127.0.0.1:1')";
        let _ = client.query(create).await;
        let statements = rows(&client, "SELECT statement, failure FROM system.queries").await;
        let shown = format!("{statements:?}");
        assert!(shown.contains("OPTIONS (...)"), "{shown}");
        assert!(!shown.contains("hush"), "{shown}");
    });
}

#[test]
fn history_keeps_a_bounded_number() {
    bounded(minutes(3), async {
        let cluster = cluster().slots(1).serve_arg("--history-queries=3").start().await;
        let client = cluster.client().await;
        for number in 0..6 {
            client.query(&format!("SELECT {number}")).await.expect("a row");
        }
        let ended = "SELECT count(*) FROM system.queries WHERE ended_at IS NOT NULL";
        assert_eq!(value(&client, ended).await, "3");
    });
}

#[test]
fn history_survives_a_server_restart() {
    bounded(minutes(3), async {
        let folder = TempDir::with_prefix("squadron-state-").expect("a folder");
        let serve = || {
            let folder = format!("--state-dir={}", folder.path().display());
            cluster().slots(1).tpch(0.01).serve_arg(folder).start()
        };
        let columns = "query_id, state, created_at, queued_at, started_at, ended_at, statement, stages, tasks, rows, \
                       cpu_ms, failure_kind, failure";
        let marked = format!(
            "SELECT {columns} FROM system.queries WHERE statement LIKE '%/* kept */' AND ended_at IS NOT NULL \
             ORDER BY created_at"
        );
        let first = serve().await;
        let client = first.client().await;
        let counted = client.query("SELECT count(*) FROM lineitem /* kept */").await;
        counted.expect("a row");
        failure_of(
            &client,
            "SELECT 1 / (l_linenumber - l_linenumber) FROM lineitem /* kept */",
        )
        .await;
        let before = loop {
            let ended = rows(&client, &marked).await;
            if ended.len() == 2 {
                break ended;
            }
        };
        let file = folder.path().join("queries.jsonl");
        let is_written = || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            text.ends_with('\n') && before.iter().all(|row| text.contains(&row[0]))
        };
        while !is_written() {
            tokio::task::yield_now().await;
        }
        drop(first);
        let second = serve().await;
        let client = second.client().await;
        assert_eq!(rows(&client, &marked).await, before);
        let again = client.query("SELECT count(*) FROM lineitem /* kept */").await;
        again.expect("it goes on");
        while rows(&client, &marked).await.len() < 3 {}
    });
}

/// The history is evicted first, then unfetched results; a single plan may exceed the limit.
#[test]
fn scheduler_memory_is_a_soft_limit() {
    bounded(minutes(3), async {
        let cluster = cluster()
            .workers(1)
            .slots(1)
            .tpch(0.01)
            .serve_arg("--scheduler-memory=64KiB")
            .start()
            .await;
        let client = cluster.client().await;
        let old = "SELECT 'old'";
        client.query(old).await.expect("a row");
        let remembered = format!(
            "SELECT count(*) FROM system.queries WHERE statement = '{}'",
            old.replace('\'', "''")
        );
        assert_eq!(value(&client, &remembered).await, "1");
        // The server holds the rows of EXPLAIN itself.
        let held = client.info("EXPLAIN SELECT * FROM lineitem").await.expect("it starts");
        let text = "x".repeat(256 * 1024);
        let large = format!("SELECT count(*) FROM lineitem WHERE l_comment <> '{text}'");
        client.query(&large).await.expect("one plan may be large");
        assert_eq!(value(&client, &remembered).await, "0", "the history is evicted");
        let gone = match client.fetch(held).await {
            Ok(_) => panic!("an unfetched result is evicted"),
            Err(status) => status,
        };
        assert_eq!(gone.code(), Code::NotFound, "{gone:?}");
        let running = SpawnedTask::spawn({
            let other = cluster.client().await;
            let endless = format!("{SILENT} AND a.l_comment <> '{text}'");
            async move { failure_of(&other, &endless).await }
        });
        let id = wait_for_query_id(&client, "lineitem c ", "running").await;
        let status = failure_of(&client, &large).await;
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().contains("--scheduler-memory"), "{status:?}");
        let killed = client.update(&format!("KILL QUERY '{id}'")).await;
        killed.expect("killed");
        running.await.expect("it ended");
        client.query(&large).await.expect("memory is free again");
    });
}

#[test]
fn full_server_still_shows_and_kills() {
    bounded(minutes(5), async {
        let cluster = cluster()
            .workers(1)
            .slots(1)
            .tpch(0.01)
            .serve_arg("--max-running=1")
            .serve_arg("--max-queued=1")
            .start()
            .await;
        let client = cluster.client().await;
        let other = cluster.client().await;
        let running = SpawnedTask::spawn({
            let other = other.clone();
            async move { failure_of(&other, &format!("{ENDLESS} /* running */")).await }
        });
        let running_id = wait_for_query_id(&client, "/* running */", "running").await;
        let queued = SpawnedTask::spawn(async move { failure_of(&other, &format!("{SILENT} /* waiting */")).await });
        let queued_id = wait_for_query_id(&client, "/* waiting */", "queued").await;
        for (id, query) in [(queued_id, queued), (running_id, running)] {
            client.update(&format!("KILL QUERY '{id}'")).await.expect("killed");
            let status = query.await.expect("it ended");
            assert_eq!(status.code(), Code::Cancelled, "{status:?}");
            assert!(status.message().contains("killed"), "{status:?}");
            let state = format!("SELECT state FROM system.queries WHERE query_id = '{id}'");
            assert_eq!(value(&client, &state).await, "cancelled");
            // A repeated KILL succeeds.
            client
                .update(&format!("KILL QUERY '{id}'"))
                .await
                .expect("it was killed before");
        }
        let live = "SELECT count(*) FROM system.tasks WHERE launched_at IS NOT NULL AND ended_at IS NULL";
        while value(&client, live).await != "0" {}
    });
}

#[test]
fn killed_session_ends_its_queries() {
    bounded(minutes(5), async {
        let cluster = cluster().slots(1).tpch(0.01).start().await;
        let client = cluster.client().await;
        let other = cluster.client().await;
        other.update("SET squadron.priority = 7").await.expect("set");
        let running = SpawnedTask::spawn({
            let other = other.clone();
            async move { failure_of(&other, &format!("{ENDLESS} /* mine */")).await }
        });
        let id = wait_for_query_id(&client, "/* mine */", "running").await;
        let session = value(
            &client,
            &format!("SELECT session_id FROM system.queries WHERE query_id = '{id}'"),
        )
        .await;
        let open = format!("SELECT queries FROM system.sessions WHERE session_id = '{session}'");
        assert_eq!(value(&client, &open).await, "1");
        let kill = format!("KILL SESSION '{session}'");
        client.update(&kill).await.expect("killed");
        let status = running.await.expect("it ended");
        assert_eq!(status.code(), Code::Cancelled, "{status:?}");
        assert!(rows(&client, &open).await.is_empty());
        let status = client.update(&kill).await.expect_err("it is gone");
        assert_eq!(status.code(), Code::NotFound, "{status:?}");
        // The client goes on with a new session.
        let priority = "SELECT value FROM system.settings WHERE name = 'squadron.priority'";
        assert_eq!(value(&other, priority).await, "0");
    });
}

#[test]
fn settings_list_defaults_and_descriptions() {
    bounded(minutes(3), async {
        let cluster = cluster().slots(1).start().await;
        let client = cluster.client().await;
        client.update("SET squadron.priority = 7").await.expect("set");
        let changed = "SELECT name, value, default_value, description LIKE '%twice the share%' FROM system.settings \
                       WHERE value <> default_value";
        assert_eq!(rows(&client, changed).await, [["squadron.priority", "7", "0", "true"]]);
        let undescribed = "SELECT count(*) FROM system.settings WHERE description = ''";
        assert_eq!(value(&client, undescribed).await, "0");
    });
}

#[test]
fn columns_show_what_was_read_until_files_change() {
    bounded(minutes(3), async {
        let files = TempDir::with_prefix("squadron-columns-").expect("there is a temporary folder");
        write_visits(&files, "3").await;
        let cluster = cluster().slots(1).data(files.path()).start().await;
        let client = cluster.client().await;
        let columns = "SELECT name, rows, sampled_rows, distinct_values, null_part, common_values FROM system.columns \
                       WHERE schema = 'public' AND table = 'visits'";
        let join = "SELECT count(*) FROM visits a JOIN visits b ON a.store = b.id";
        client
            .update("SET squadron.optimizer.samples = off")
            .await
            .expect("set");
        client.query(join).await.expect("it runs");
        assert!(rows(&client, columns).await.is_empty());

        client.update("RESET squadron.optimizer.samples").await.expect("reset");
        client.query(join).await.expect("it runs");
        let id = ["id", "1000", "1000", "1000", "0.0", ""];
        assert_eq!(
            rows(&client, columns).await,
            [id, ["store", "1000", "1000", "2", "0.25", "3 (50.0 %), 0 (25.0 %)"]]
        );

        write_visits(&files, "NULL").await;
        client.query(join).await.expect("it runs");
        assert_eq!(
            rows(&client, columns).await,
            [id, ["store", "1000", "1000", "1", "0.75", "0 (25.0 %)"]]
        );
    });
}

/// A table of 1,000 visits, half of them to `store`, a quarter to 0 and a quarter to none.
async fn write_visits(files: &TempDir, store: &str) {
    let select = format!(
        "SELECT value AS id, CASE value % 4 WHEN 0 THEN 0 WHEN 1 THEN NULL ELSE {store} END AS store FROM range(1000)"
    );
    let context = SessionContext::new();
    let frame = context.sql(&select).await.expect("it can be planned");
    let path = files.path().join("visits.parquet");
    let options = DataFrameWriteOptions::new().with_single_file_output(true);
    let written = frame
        .write_parquet(path.to_str().expect("it is UTF-8"), options, None)
        .await;
    written.expect("it is written");
}

#[test]
fn users_see_only_their_queries() {
    bounded(minutes(5), async {
        let files = Files::new();
        let cluster = cluster()
            .slots(1)
            .tpch(0.01)
            .serve_arg("--users")
            .serve_arg(text(&files.users()))
            .start()
            .await;
        let ann = Caller::connect(cluster.url()).await.basic("ann", PASSWORD);
        let bob = Caller::connect(cluster.url()).await.basic("bob", PASSWORD);
        ann.info(ENDLESS).await.expect("it starts");
        let find =
            "SELECT query_id FROM system.queries WHERE statement LIKE '%CROSS JOIN%' AND statement NOT LIKE '%system%'";
        let id = ann.value(find).await.expect("a row");
        assert_eq!(bob.value(find).await.expect("no row"), "");
        let session = ann.value("SELECT session_id FROM system.sessions").await.expect("one");
        let workers = "SELECT count(*) FROM system.workers";
        assert_eq!(bob.value(workers).await.expect("a row"), "2");
        for kill in [format!("KILL QUERY '{id}'"), format!("KILL SESSION '{session}'")] {
            let status = bob.info(&kill).await.expect_err("it is not his");
            assert_eq!(status.code(), Code::NotFound, "{status:?}");
        }
        ann.info(&format!("KILL QUERY '{id}'")).await.expect("it is hers");
    });
}

#[test]
fn system_schema_is_read_only() {
    bounded(minutes(3), async {
        let cluster = cluster().slots(1).start().await;
        let client = cluster.client().await;
        for sql in [
            "DROP SCHEMA system CASCADE",
            "DROP TABLE system.queries",
            "CREATE VIEW system.mine AS SELECT 1",
            "INSERT INTO system.queries SELECT * FROM system.queries",
        ] {
            client.update(sql).await.expect_err(sql);
        }
        assert_eq!(value(&client, "SELECT count(*) > 0 FROM system.queries").await, "true");
    });
}
