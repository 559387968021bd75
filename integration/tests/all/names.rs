//! Names that people read: types in metadata, SHOW, the statements that make tables again, and what was probably meant.

use std::fs;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use squadron_integration::client::Client;
use squadron_integration::cluster::{Cluster, cluster};
use tempfile::TempDir;
use tonic::Code;

use crate::support::{bounded, failure_of, minutes};

/// All values of an answer as text, row by row.
async fn rows(client: &Client, sql: &str) -> Vec<Vec<String>> {
    let (_, batches) = client
        .query(sql)
        .await
        .unwrap_or_else(|status| panic!("{sql}: {status}"));
    batches.iter().flat_map(texts).collect()
}

fn texts(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::new().with_null("NULL");
    let columns = batch.columns().iter();
    let columns: Vec<_> = columns
        .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
        .collect();
    let row = |row| columns.iter().map(|column| column.value(row).to_string()).collect();
    (0..batch.num_rows()).map(row).collect()
}

/// One column of an answer.
async fn column(client: &Client, sql: &str, index: usize) -> Vec<String> {
    let rows = rows(client, sql).await;
    rows.into_iter().map(|row| row[index].clone()).collect()
}

async fn start(folder: &TempDir) -> (Cluster, Client) {
    let cluster = cluster().data(folder.path()).start().await;
    let client = cluster.client().await;
    (cluster, client)
}

/// A folder with the table `goods`.
fn goods() -> TempDir {
    let folder = TempDir::with_prefix("squadron-names-").unwrap();
    fs::write(
        folder.path().join("goods.csv"),
        "id,name,price,day\n1,ant,1.5,2024-01-01\n2,bee,2.5,2024-01-02\n",
    )
    .unwrap();
    folder
}

/// A view with a column of many types, and their names.
const TYPED: &str = "CREATE VIEW typed AS SELECT true AS a, 1::int AS b, 2 AS c, 1.5 AS d, 1::decimal(15, 2) AS e, 'x' AS f, \
    DATE '2024-01-01' AS g, TIMESTAMP '2024-01-01 00:00:00' AS h, now() AS i, [1] AS j, struct(1 AS x, 'y' AS y) AS k, \
    X'00' AS l, TIME '01:00:00' AS m, INTERVAL '1 day' AS n, arrow_cast('x', 'Dictionary(Int32, Utf8)') AS o, 1::real AS p";
const NAMES: [&str; 16] = [
    "boolean",
    "integer",
    "bigint",
    "double precision",
    "decimal(15,2)",
    "text",
    "date",
    "timestamp without time zone",
    "timestamp with time zone",
    "bigint[]",
    "struct(x bigint, y text)",
    "bytea",
    "time without time zone",
    "interval",
    "text",
    "real",
];

#[test]
fn metadata_names_types_of_sql() {
    bounded(minutes(2), async {
        let folder = goods();
        let (_cluster, client) = start(&folder).await;
        rows(&client, TYPED).await;
        assert_eq!(column(&client, "DESCRIBE typed", 1).await, NAMES);
        assert_eq!(column(&client, "DESCRIBE SELECT * FROM typed", 1).await, NAMES);
        let listed = rows(
            &client,
            "SELECT data_type, ordinal_position, numeric_precision, numeric_scale FROM information_schema.columns \
             WHERE table_name = 'typed' ORDER BY ordinal_position",
        )
        .await;
        let positions: Vec<_> = listed.iter().map(|row| row[1].clone()).collect();
        let expected: Vec<_> = (1..=NAMES.len()).map(|position| position.to_string()).collect();
        assert_eq!(positions, expected);
        for (row, name) in listed.iter().zip(NAMES) {
            match name {
                "decimal(15,2)" => assert_eq!(row, &["numeric", "5", "15", "2"]),
                name => assert_eq!(row[0], name),
            }
        }
        // A view that reads the metadata reads the same.
        rows(
            &client,
            "CREATE VIEW listing AS SELECT * FROM information_schema.columns",
        )
        .await;
        let of_view = "SELECT data_type FROM listing WHERE table_name = 'goods' ORDER BY ordinal_position";
        assert_eq!(
            column(&client, of_view, 0).await,
            ["bigint", "text", "double precision", "date"]
        );
        let drop = failure_of(&client, "DROP SCHEMA information_schema").await;
        assert!(drop.message().contains("the server's own"), "{drop}");
    });
}

#[test]
fn show_lists_what_is_asked_for() {
    bounded(minutes(2), async {
        let folder = goods();
        fs::write(folder.path().join("Gold.csv"), "a,b\n1,2\n").unwrap();
        let (_cluster, client) = start(&folder).await;
        rows(&client, "CREATE VIEW cheap AS SELECT * FROM goods WHERE price < 2").await;
        rows(&client, "CREATE SCHEMA more").await;
        rows(&client, "CREATE VIEW more.gone AS SELECT 1 AS one").await;
        for (sql, index, expected) in [
            ("SHOW TABLES", 2, vec!["gone", "Gold", "cheap", "goods"]),
            ("SHOW TABLES LIKE 'go%'", 2, vec!["gone", "Gold", "goods"]),
            ("SHOW TABLES FROM public LIKE 'GO%'", 2, vec!["Gold", "goods"]),
            ("SHOW FULL TABLES IN more", 2, vec!["gone"]),
            ("SHOW TABLES FROM datafusion.more", 2, vec!["gone"]),
            ("SHOW TABLES WHERE table_type = 'VIEW'", 2, vec!["gone", "cheap"]),
            ("SHOW TABLES FROM system LIKE 'w%'", 2, vec!["workers"]),
            ("SHOW VIEWS", 2, vec!["gone", "cheap"]),
            ("SHOW COLUMNS FROM goods", 3, vec!["id", "name", "price", "day"]),
            (
                "SHOW COLUMNS FROM goods",
                4,
                vec!["bigint", "text", "double precision", "date"],
            ),
            ("SHOW FULL COLUMNS FROM goods LIKE '%a%'", 3, vec!["name", "day"]),
            ("SHOW COLUMNS FROM gold", 3, vec!["a", "b"]),
            ("SHOW COLUMNS FROM gone FROM more", 3, vec!["one"]),
            (
                "SHOW SCHEMAS",
                1,
                vec!["information_schema", "more", "public", "system"],
            ),
            ("SHOW SCHEMAS LIKE 'p%'", 1, vec!["public"]),
            ("SHOW DATABASES", 0, vec!["datafusion"]),
            ("SHOW FUNCTIONS LIKE 'upp%'", 0, vec!["upper"]),
            ("SHOW FUNCTIONS LIKE 'COALESCE'", 0, vec!["coalesce"]),
        ] {
            assert_eq!(column(&client, sql, index).await, expected, "{sql}");
        }
        for (sql, says) in [
            (
                "SHOW TABLES FROM publik",
                "there is no schema publik; did you mean public?",
            ),
            (
                "SHOW COLUMNS FROM goodz",
                "table 'goodz' not found; did you mean 'goods'?",
            ),
            ("SHOW COLUMNS", "SHOW COLUMNS FROM table"),
        ] {
            let status = failure_of(&client, sql).await;
            assert!(status.message().contains(says), "{sql}: {status}");
        }
    });
}

#[test]
fn shown_statements_make_the_same_tables() {
    bounded(minutes(3), async {
        let folder = goods();
        let data = folder.path();
        for (name, text) in [
            ("odd's name.tsv", "a\tb\n1\tx\n"),
            ("objects.json", "[{\"a\": 1}, {\"a\": 2}]"),
            ("parts/year=2024/x.csv", "a;b\n1;2\n"),
            ("parts/year=2025/y.csv", "a;b\n3;4\n"),
            ("folder/x.tsv", "a\tb\n1\tx\n"),
            ("folder/y.txt", "this is no table\n"),
        ] {
            fs::create_dir_all(data.join(name).parent().unwrap()).unwrap();
            fs::write(data.join(name), text).unwrap();
        }
        let (_cluster, client) = start(&folder).await;
        let declared = format!(
            "CREATE EXTERNAL TABLE declared (id INT NOT NULL, name VARCHAR, price DECIMAL(9, 2), day DATE) STORED AS CSV \
             LOCATION '{}' OPTIONS ('has_header' 'true')",
            data.join("goods.csv").display()
        );
        rows(&client, &format!("{declared};")).await;
        rows(
            &client,
            "CREATE VIEW cheap AS SELECT id, 'it''s' AS t FROM goods WHERE price < 2",
        )
        .await;
        let tables = ["goods", "odd_s_name", "objects", "parts", "folder", "declared", "cheap"];
        for table in tables {
            let shown = rows(&client, &format!("SHOW CREATE TABLE {table}")).await;
            let [row] = shown.as_slice() else {
                panic!("{table}: {shown:?}")
            };
            assert_eq!(row[..3], ["datafusion", "public", table]);
            let statement = &row[3];
            assert!(statement.starts_with("CREATE "), "{statement}");
            let read = format!("SELECT * FROM {table} ORDER BY 1");
            let types = format!(
                "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = '{table}' ORDER BY ordinal_position"
            );
            let (described, before) = (rows(&client, &types).await, rows(&client, &read).await);
            assert!(!before.is_empty() && !described.is_empty(), "{table}");
            let kind = if table == "cheap" { "VIEW" } else { "TABLE" };
            rows(&client, &format!("DROP {kind} {table}")).await;
            rows(&client, statement).await;
            assert_eq!(rows(&client, &types).await, described, "{statement}");
            assert_eq!(rows(&client, &read).await, before, "{statement}");
        }
        assert_eq!(column(&client, "SHOW CREATE TABLE declared", 3).await, [declared]);
        let own = failure_of(&client, "SHOW CREATE TABLE system.queries").await;
        assert!(own.message().contains("the server's own"), "{own}");
    });
}

#[test]
fn errors_of_inserts_name_columns() {
    bounded(minutes(2), async {
        let folder = goods();
        let (_cluster, client) = start(&folder).await;
        let target = TempDir::with_prefix("squadron-insert-").unwrap();
        let create = format!(
            "CREATE EXTERNAL TABLE target (id INT NOT NULL, price DECIMAL(5, 2)) STORED AS PARQUET LOCATION '{}/'",
            target.path().display()
        );
        rows(&client, &create).await;
        for (sql, says) in [
            (
                "INSERT INTO target VALUES (1, 1), (NULL, 2)",
                "the column id takes no nulls, and row 2 of VALUES has one",
            ),
            (
                "INSERT INTO target (price, id) VALUES (1, NULL)",
                "the column id takes no nulls, and row 1 of VALUES has one",
            ),
            ("INSERT INTO target VALUES (1, 99999)", "a decimal of precision 5"),
            ("INSERT INTO target (id, price) SELECT 1", "another number of columns"),
        ] {
            let status = failure_of(&client, sql).await;
            assert_eq!(status.code(), Code::InvalidArgument, "{sql}: {status}");
            assert!(status.message().contains(says), "{sql}: {status}");
        }
    });
}

#[test]
fn unknown_names_suggest_the_nearest_each_time() {
    bounded(minutes(2), async {
        let folder = goods();
        let (_cluster, client) = start(&folder).await;
        for (sql, code, says) in [
            (
                "SELECT uper(name) FROM goods",
                Code::InvalidArgument,
                "there is no function uper at Line: 1, Column: 8; did you mean upper?",
            ),
            (
                "SELECT row_numbr() OVER (ORDER BY id) FROM goods",
                Code::InvalidArgument,
                "did you mean row_number?",
            ),
            (
                "SELECT zzqqj(1)",
                Code::InvalidArgument,
                "there is no function zzqqj at Line: 1, Column: 8; SHOW FUNCTIONS lists those there are",
            ),
            (
                "SELECT * FROM rnge(1, 3)",
                Code::InvalidArgument,
                "there is no function rnge; did you mean range?",
            ),
            ("SELECT * FROM gods", Code::NotFound, "did you mean 'goods'?"),
            (
                "SELECT pric FROM goods",
                Code::InvalidArgument,
                "column pric not found at Line: 1, Column: 8; did you mean price?",
            ),
            (
                "SELECT g.pric FROM goods g",
                Code::InvalidArgument,
                "column g.pric not found at Line: 1, Column: 8; did you mean price?",
            ),
            (
                "SELECT quite_other FROM goods",
                Code::InvalidArgument,
                "column quite_other not found at Line: 1, Column: 8; there are day, id, name, price",
            ),
            (
                "SELECT good.id FROM goods",
                Code::InvalidArgument,
                "column good.id not found: FROM has no good at Line: 1, Column: 8; did you mean goods?",
            ),
        ] {
            let first = failure_of(&client, sql).await;
            assert_eq!(first.code(), code, "{sql}: {first}");
            assert!(first.message().contains(says), "{sql}: {first}");
            for _ in 0..3 {
                let again = failure_of(&client, sql).await;
                assert_eq!(
                    again.message().split(" (query ").next(),
                    first.message().split(" (query ").next()
                );
            }
        }
    });
}
