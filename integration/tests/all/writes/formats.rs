//! Written rows are read back, in each format, in one file, in folders and in partitions.

use squadron_integration::client::Client;
use squadron_integration::compare::compare;
use tempfile::TempDir;

use super::{create_folder_table, files, has_staging_folder, number, three_workers, update};
use crate::support::{Mismatches, bounded, minutes};

const FORMATS: [(&str, &str); 3] = [("PARQUET", "parquet"), ("CSV", "csv"), ("JSON", "json")];

/// Compares the rows of two queries.
async fn compare_rows(client: &Client, left: &str, right: &str) -> Result<(), String> {
    let rows = async |sql: &str| {
        let rows = client.query(sql).await;
        rows.map_err(|status| format!("{sql}: {status}"))
    };
    compare(&rows(left).await?, &rows(right).await?, &[]).map_err(|difference| difference.to_string())
}

#[test]
fn copied_rows_read_back_unchanged() {
    bounded(minutes(6), async {
        let cluster = three_workers().await;
        let client = cluster.client().await;
        let folder = TempDir::new().unwrap();
        let root = folder.path().display();
        let mut mismatches = Mismatches::default();
        for (format, extension) in FORMATS {
            for (name, location) in [
                ("file", format!("{root}/{extension}/one.{extension}")),
                ("folder", format!("{root}/{extension}/many/")),
            ] {
                let table = format!("{extension}_{name}");
                let copied = update(
                    &client,
                    &format!(
                        "COPY (SELECT DISTINCT o_orderkey, o_orderstatus, o_totalprice, o_orderdate FROM orders) \
                         TO '{location}' STORED AS {format}"
                    ),
                )
                .await;
                assert_eq!(copied, 15_000, "{location}");
                update(
                    &client,
                    &format!(
                        "CREATE EXTERNAL TABLE {table} (o_orderkey BIGINT, o_orderstatus VARCHAR, \
                         o_totalprice DECIMAL(15,2), o_orderdate DATE) STORED AS {format} LOCATION '{location}'"
                    ),
                )
                .await;
                let outcome = compare_rows(
                    &client,
                    &format!("SELECT o_orderkey, o_orderstatus, o_totalprice, o_orderdate FROM {table}"),
                    "SELECT o_orderkey, CAST(o_orderstatus AS VARCHAR) AS o_orderstatus, o_totalprice, o_orderdate \
                     FROM orders",
                )
                .await;
                mismatches.note(&location, outcome);
            }
            assert!(
                files(&folder.path().join(extension).join("many")).len() > 1,
                "several workers wrote {extension}"
            );
            assert_eq!(
                files(&folder.path().join(extension)).len(),
                files(&folder.path().join(extension).join("many")).len() + 1
            );
        }
        mismatches.assert_none();
        assert!(!has_staging_folder(folder.path()));
    });
}

#[test]
fn insert_appends_to_existing_rows() {
    bounded(minutes(6), async {
        let cluster = three_workers().await;
        let client = cluster.client().await;
        let other = cluster.client().await;
        let folder = TempDir::new().unwrap();
        create_folder_table(&client, "t", folder.path()).await;
        assert_eq!(number(&client, "SELECT count(*) FROM t").await, 0);
        assert_eq!(update(&client, "INSERT INTO t VALUES (1, 'one'), (2, 'two')").await, 2);
        assert_eq!(number(&other, "SELECT count(*) FROM t").await, 2);
        // Another order of columns, a column left out, values that are cast, and the query form of the statement.
        let (_, batches) = client
            .query("INSERT INTO t (name, id) VALUES (3, '3')")
            .await
            .expect("it inserts");
        assert_eq!(crate::support::single(&batches), 1);
        assert_eq!(update(&client, "INSERT INTO t (id) VALUES (4)").await, 1);
        let check = "SELECT count(*) FROM t WHERE (id = 3 AND name = '3') OR (id = 4 AND name IS NULL)";
        assert_eq!(number(&other, check).await, 2);
        // A statement does not see its own rows.
        assert_eq!(update(&client, "INSERT INTO t SELECT * FROM t").await, 4);
        assert_eq!(number(&other, "SELECT count(*) FROM t").await, 8);
        let from_many = "INSERT INTO t SELECT l_orderkey, l_comment FROM lineitem";
        assert_eq!(update(&client, from_many).await, 60_175);
        assert_eq!(number(&other, "SELECT count(*) FROM t").await, 60_183);
        assert_eq!(
            number(&other, "SELECT sum(id) FROM t").await,
            number(&other, "SELECT sum(l_orderkey) + 20 FROM lineitem").await
        );
        let nothing = "INSERT INTO t SELECT 1, 'x' WHERE false";
        let before = files(folder.path());
        assert_eq!(update(&client, nothing).await, 0);
        assert_eq!(files(folder.path()), before);
        assert!(!has_staging_folder(folder.path()));
    });
}

#[test]
fn partitions_become_hive_folders() {
    bounded(minutes(6), async {
        let cluster = three_workers().await;
        let client = cluster.client().await;
        let folder = TempDir::new().unwrap();
        let mut mismatches = Mismatches::default();
        for (format, extension) in FORMATS {
            let target = folder.path().join(extension);
            let shown = target.display();
            let copied = format!(
                "COPY (SELECT n_nationkey, n_name, n_regionkey, 'a/b %' || n_regionkey AS odd FROM nation) \
                 TO '{shown}' STORED AS {format} PARTITIONED BY (n_regionkey, odd)"
            );
            assert_eq!(update(&client, &copied).await, 25);
            assert!(target.join("n_regionkey=3").is_dir());
            update(
                &client,
                &format!(
                    "CREATE EXTERNAL TABLE parts_{extension} \
                     (n_nationkey BIGINT, n_name VARCHAR, n_regionkey BIGINT, odd VARCHAR) \
                     STORED AS {format} PARTITIONED BY (n_regionkey, odd) LOCATION '{shown}/'"
                ),
            )
            .await;
            let inserted = format!("INSERT INTO parts_{extension} VALUES (99, 'new', 7, 'x=y')");
            assert_eq!(update(&client, &inserted).await, 1);
            let outcome = compare_rows(
                &client,
                &format!("SELECT n_nationkey, n_name, n_regionkey, odd FROM parts_{extension}"),
                "SELECT CAST(n_nationkey AS BIGINT) AS n_nationkey, CAST(n_name AS VARCHAR) AS n_name, \
                 CAST(n_regionkey AS BIGINT) AS n_regionkey, 'a/b %' || n_regionkey AS odd FROM nation \
                 UNION ALL SELECT 99, 'new', 7, 'x=y'",
            )
            .await;
            mismatches.note(format, outcome);
            let null = format!("INSERT INTO parts_{extension} SELECT 1, 'a', NULL, 'b'");
            assert_eq!(update(&client, &null).await, 1);
            assert!(target.join("n_regionkey=__HIVE_DEFAULT_PARTITION__").is_dir());
            let nulls = format!("SELECT count(*) FROM parts_{extension} WHERE n_regionkey IS NULL AND odd = 'b'");
            assert_eq!(number(&client, &nulls).await, 1);
            let text = format!("INSERT INTO parts_{extension} SELECT 1, 'a', 3, '__HIVE_DEFAULT_PARTITION__'");
            let status = client.update(&text).await.expect_err("it would be read as NULL");
            assert!(status.message().contains("the folder of NULL"), "{status}");
        }
        mismatches.assert_none();
    });
}

#[test]
fn discovered_folder_table_accepts_inserts() {
    bounded(minutes(5), async {
        let data = TempDir::new().unwrap();
        let events = data.path().join("events/day=2024-01-01");
        std::fs::create_dir_all(&events).unwrap();
        std::fs::write(events.join("first.csv"), "id,what\n1,start\n").unwrap();
        let cluster = squadron_integration::cluster::cluster()
            .workers(2)
            .slots(1)
            .tiny_splits()
            .data(data.path())
            .start()
            .await;
        let client = cluster.client().await;
        let sql = "INSERT INTO events VALUES (2, 'stop', DATE '2024-01-02'), (3, 'start', DATE '2024-01-01')";
        assert_eq!(update(&client, sql).await, 2);
        let check = "SELECT count(*) FROM events WHERE what = 'start' AND day = DATE '2024-01-01'";
        assert_eq!(number(&client, check).await, 2);
        // A copy into the served folder creates a table.
        let target = data.path().join("summary.parquet");
        let copied = format!(
            "COPY (SELECT what, count(*) AS n FROM events GROUP BY what) TO '{}'",
            target.display()
        );
        assert_eq!(update(&client, &copied).await, 2);
        assert_eq!(number(&client, "SELECT sum(n) FROM summary").await, 3);
        // A second copy replaces the table in one step.
        assert_eq!(update(&client, &copied).await, 2);
        assert_eq!(number(&client, "SELECT sum(n) FROM summary").await, 3);
        assert!(!has_staging_folder(data.path()));
    });
}

#[test]
fn empty_copy_keeps_its_columns() {
    bounded(minutes(5), async {
        let cluster = three_workers().await;
        let client = cluster.client().await;
        let folder = TempDir::new().unwrap();
        for (name, location) in [("one", "one.parquet"), ("many", "many/")] {
            let location = format!("{}/{location}", folder.path().display());
            let copied = format!("COPY (SELECT * FROM region WHERE false) TO '{location}' STORED AS PARQUET");
            assert_eq!(update(&client, &copied).await, 0);
            let created = format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{location}'");
            update(&client, &created).await;
            let (schema, _) = client.query(&format!("SELECT * FROM {name}")).await.unwrap();
            assert_eq!(schema.fields().len(), 3);
        }
        assert_eq!(files(folder.path()).len(), 2);
    });
}
