//! Tables from statements, and state that sessions share.

use squadron_proto::FailureKind;

use super::*;

#[tokio::test]
async fn sessions_share_external_tables_and_views() {
    let folder = tempfile::tempdir().unwrap();
    write_parquet(&folder.path().join("x/a.parquet"), &rows());
    let catalog = Catalog::open(&CatalogOptions::default(), Arc::new(RuntimeEnv::default()))
        .await
        .unwrap();
    let location = folder.path().join("x/");
    let create = format!("EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'", location.display());
    query(&catalog, &format!("CREATE {create}")).await.unwrap();
    query(&catalog, "CREATE VIEW v AS SELECT a + 1 AS c FROM t")
        .await
        .unwrap();
    assert_eq!(cell(&catalog, "SELECT sum(c) FROM v").await, "9");
    assert!(
        query(&catalog, &format!("CREATE {create}"))
            .await
            .unwrap_err()
            .contains("already exists")
    );
    query(
        &catalog,
        &create.replacen("EXTERNAL TABLE", "CREATE EXTERNAL TABLE IF NOT EXISTS", 1),
    )
    .await
    .unwrap();
    let missing = "CREATE OR REPLACE EXTERNAL TABLE t STORED AS PARQUET LOCATION '/no/such/folder/'";
    assert!(query(&catalog, missing).await.unwrap_err().contains("/no/such/folder"));
    assert_eq!(
        cell(&catalog, "SELECT count(*) FROM t").await,
        "3",
        "a failed replacement leaves the old table"
    );
    query(&catalog, "CREATE OR REPLACE VIEW v AS SELECT a + 2 AS c FROM t")
        .await
        .unwrap();
    assert_eq!(cell(&catalog, "SELECT sum(c) FROM v").await, "12");
    assert!(query(&catalog, "DROP TABLE v").await.unwrap_err().contains("DROP VIEW"));
    query(&catalog, "DROP VIEW v").await.unwrap();
    query(&catalog, "DROP TABLE t").await.unwrap();
    assert!(
        query(&catalog, "DROP TABLE t")
            .await
            .unwrap_err()
            .contains("no table t")
    );
    query(&catalog, "DROP TABLE IF EXISTS t").await.unwrap();
}

#[tokio::test]
async fn dropped_file_table_stays_dropped() {
    let folder = tempfile::tempdir().unwrap();
    write_text(&folder.path().join("t.csv"), "a\n1\n");
    let catalog = open(folder.path()).await;
    query(&catalog, "DROP TABLE t").await.unwrap();
    catalog.refresh().await;
    assert!(
        query(&catalog, "SELECT * FROM t")
            .await
            .unwrap_err()
            .contains("not found")
    );
    assert!(folder.path().join("t.csv").exists(), "the file itself is the user's");
    query(&catalog, "CREATE VIEW t AS SELECT 7 AS a").await.unwrap();
    assert_eq!(cell(&catalog, "SELECT a FROM t").await, "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_creates_succeed_once() {
    let folder = tempfile::tempdir().unwrap();
    write_parquet(&folder.path().join("x/a.parquet"), &rows());
    let catalog = Catalog::open(&CatalogOptions::default(), Arc::new(RuntimeEnv::default()))
        .await
        .unwrap();
    let create = format!(
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}/x/'",
        folder.path().display()
    );
    let replace = create.replacen("CREATE", "CREATE OR REPLACE", 1);
    let outcomes = futures::future::join_all((0..16).map(|_| {
        let (catalog, create) = (catalog.clone(), create.clone());
        async move { query(&catalog, &create).await.is_ok() }
    }))
    .await;
    assert_eq!(outcomes.iter().filter(|succeeded| **succeeded).count(), 1);
    let mixed = futures::future::join_all((0..32).map(|number| {
        let (catalog, replace) = (catalog.clone(), replace.clone());
        async move {
            match number % 2 {
                0 => query(&catalog, &replace).await.map(drop),
                _ => query(&catalog, "SELECT count(*) FROM t").await.map(drop),
            }
        }
    }))
    .await;
    for outcome in mixed {
        outcome.unwrap();
    }
    let drops = futures::future::join_all((0..8).map(|_| query(&catalog, "DROP TABLE t"))).await;
    assert_eq!(drops.iter().filter(|outcome| outcome.is_ok()).count(), 1);
}

#[tokio::test]
async fn plans_and_errors_hide_store_options() {
    let catalog = Catalog::open(&CatalogOptions::default(), Arc::new(RuntimeEnv::default()))
        .await
        .unwrap();
    // A port where nothing listens: the statement fails, which is all that this test needs.
    let create = "CREATE EXTERNAL TABLE t (a INT) STORED AS CSV LOCATION 's3://bucket/x.csv' OPTIONS (\
        'aws.endpoint' 'http://127.0.0.1:9', 'aws.access_key_id' 'AKIA', 'aws.secret_access_key' 'hush')";
    let context = catalog.session_context();
    let plan = context.state().create_logical_plan(create).await.unwrap();
    assert!(!plan.display_indent().to_string().contains("hush"));
    query(&catalog, &format!("EXPLAIN {create}")).await.map_or_else(
        |sentence| assert!(!sentence.contains("hush")),
        |shown| assert!(!shown.contains("hush")),
    );
    let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(statement)) = plan else {
        panic!();
    };
    assert!(!statement.definition.clone().unwrap_or_default().contains("hush"));
    let sentence = query(&catalog, &create.replace("aws.endpoint", "aws.end_point"))
        .await
        .unwrap_err();
    assert!(
        sentence.contains("aws.end_point") && !sentence.contains("hush"),
        "{sentence}"
    );
    assert!(
        catalog.object_store_specs().is_empty(),
        "a refused option makes no store"
    );
}

#[tokio::test]
async fn schema_and_settings_are_per_session() {
    let folder = tempfile::tempdir().unwrap();
    write_text(&folder.path().join("t.csv"), "a,b\n1,x\n");
    let catalog = open(folder.path()).await;
    assert_eq!(
        cell(
            &catalog,
            "SELECT count(*) FROM information_schema.columns WHERE table_name = 't'"
        )
        .await,
        "2"
    );
    assert!(query(&catalog, "SHOW TABLES").await.unwrap().contains("| t "));
    let one = catalog.session_context();
    catalog
        .set_option(&one, "datafusion.execution.batch_size", Some("17"))
        .unwrap();
    let other = catalog.session_context();
    assert_eq!(one.copied_config().batch_size(), 17);
    assert_ne!(other.copied_config().batch_size(), 17);
    let refused = catalog.set_option(&one, "no.such.key", Some("1"));
    assert_eq!(
        refused.err().map(|wrong| Failure::from(wrong).kind),
        Some(FailureKind::Invalid)
    );
}

#[tokio::test]
async fn session_context_is_cheap() {
    let catalog = Catalog::open(&CatalogOptions::default(), Arc::new(RuntimeEnv::default()))
        .await
        .unwrap();
    let registered = std::time::Instant::now();
    std::hint::black_box(SessionContext::new());
    let registered = registered.elapsed();
    let cloned = std::time::Instant::now();
    for _ in 0..10 {
        std::hint::black_box(catalog.session_context());
    }
    let cloned = cloned.elapsed();
    assert!(
        cloned < registered * 10,
        "ten clones {cloned:?}, one registration {registered:?}"
    );
}

#[tokio::test]
async fn tpch_tables_come_from_cache() {
    let cache = tempfile::tempdir().unwrap();
    let options = CatalogOptions {
        tpch: Some(tpch::Tpch {
            scale: 0.001,
            cache_dir: cache.path().to_path_buf(),
            program: None,
        }),
        strict: true,
        ..CatalogOptions::default()
    };
    let catalog = Catalog::open(&options, Arc::new(RuntimeEnv::default())).await.unwrap();
    let again = Catalog::open(&options, Arc::new(RuntimeEnv::default())).await.unwrap();
    assert_eq!(tables(&catalog).await.len(), 8);
    assert_eq!(cell(&catalog, "SELECT count(*) FROM orders").await, "1500");
    assert_eq!(
        cell(&again, "SELECT count(*) FROM lineitem").await,
        cell(&catalog, "SELECT count(*) FROM lineitem").await
    );
    let table = catalog.session_context().table("lineitem").await.unwrap();
    assert!(table.schema().fields().iter().all(|field| !field.is_nullable()));
}
