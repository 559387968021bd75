//! Tables on a real S3 server, read and written by remote workers.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use squadron_integration::client::Client;
use squadron_integration::cluster::cluster;
use squadron_integration::compare::compare;
use squadron_integration::process::Process;
use squadron_integration::tpch::TABLES;
use tempfile::TempDir;
use tokio::time::sleep;
use tonic::Code;

use crate::drivers::python_environment;
use crate::support::{Reference, bounded, minutes, two_workers};
use crate::tpch::{register, tpch_path};

const KEY: &str = "squadron";
const SECRET: &str = "squadron-secret";
const BUCKET: &str = "tables";

/// SeaweedFS: master, volume, filer and S3 gateway in one process.
struct S3 {
    endpoint: String,
    server: Process,
    _folder: TempDir,
}

impl S3 {
    /// Starts the server on ports that were free a moment before; tries other ports when one was taken meanwhile.
    async fn start(weed: &Path) -> Self {
        let mut why = String::new();
        for _ in 0..5 {
            let mut s3 = Self::launch(weed);
            match s3.wait_until_ready().await {
                Ok(()) => return s3,
                Err(error) => why = error,
            }
        }
        panic!("the S3 server does not start: {why}");
    }

    fn launch(weed: &Path) -> Self {
        let folder = TempDir::with_prefix("squadron-s3-").unwrap();
        let ports = free_ports(8);
        // The server ends when its standard input closes, like the other children, so that no orphan outlives a killed
        // test.
        let mut command = Command::new("sh");
        command.args(["-c", "\"$@\" & cat > /dev/null; kill -9 $!", "sh"]);
        command.arg(weed);
        command.args(["server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=4"]);
        command.args(["-master.telemetry=false", "-master.volumeSizeLimitMB=64"]);
        command.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
        // By default it refuses objects when a hundredth of the disk is left, which is gigabytes.
        command.arg("-volume.minFreeSpace=50MiB");
        command.arg(format!("-dir={}", folder.path().display()));
        let flags = [
            "s3.port",
            "s3.port.grpc",
            "master.port",
            "master.port.grpc",
            "filer.port",
            "filer.port.grpc",
            "volume.port",
            "volume.port.grpc",
        ];
        command.args(flags.iter().zip(&ports).map(|(flag, port)| format!("-{flag}={port}")));
        command.envs([("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)]);
        Self {
            endpoint: format!("http://127.0.0.1:{}", ports[0]),
            server: Process::start("s3", command, folder.path().join("s3.log")),
            _folder: folder,
        }
    }

    /// Waits until the server takes an object, which also makes the bucket.
    async fn wait_until_ready(&mut self) -> Result<(), String> {
        let store = self.store();
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let put = store
                .put(&ObjectPath::from("ready"), PutPayload::from_static(b"ready"))
                .await;
            let Err(error) = put else { return Ok(()) };
            if !self.server.is_running() || Instant::now() > end {
                return Err(format!("{error}\n{}", self.server.log()));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        let retries = object_store::RetryConfig {
            max_retries: 0,
            ..Default::default()
        };
        let store = AmazonS3Builder::new()
            .with_endpoint(&self.endpoint)
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_bucket_name(BUCKET)
            .with_access_key_id(KEY)
            .with_secret_access_key(SECRET)
            .with_retry(retries)
            .build();
        Arc::new(store.expect("all is given"))
    }

    async fn upload(&self, file: &Path, object: &str) {
        let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let put = self
            .store()
            .put(&ObjectPath::from(object), PutPayload::from(bytes))
            .await;
        put.unwrap_or_else(|error| panic!("{object}: {error}"));
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.server.close_stdin();
        let end = Instant::now() + Duration::from_secs(10);
        while self.server.is_running() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Ports that are free now.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect()
}

#[test]
#[cfg_attr(
    not(has_python),
    ignore = "skipped: the S3 server is a Python wheel, and there is no python3 with venv"
)]
fn remote_workers_read_s3_tables() {
    let weed = python_environment().join("bin/weed");
    bounded(minutes(6), async move {
        let s3 = S3::start(&weed).await;
        for table in TABLES {
            s3.upload(&tpch_path(table), &format!("tpch/{table}.parquet")).await;
        }
        // A folder of several files is one table.
        for part in 0..3 {
            s3.upload(&tpch_path("nation"), &format!("nations/part-{part}.parquet"))
                .await;
        }
        let reference = Reference::new();
        register(&reference).await;

        let cluster = cluster()
            .workers(2)
            .slots(2)
            .tiny_splits()
            .data(format!("lineitem=s3://{BUCKET}/tpch/lineitem.parquet"))
            .variable("AWS_ENDPOINT", &s3.endpoint)
            .variable("AWS_ALLOW_HTTP", "true")
            .variable("AWS_REGION", "us-east-1")
            .variable("AWS_ACCESS_KEY_ID", KEY)
            .variable("AWS_SECRET_ACCESS_KEY", SECRET)
            .start()
            .await;
        let client = cluster.client().await;
        for (table, location) in [("orders", "tpch/orders.parquet"), ("nations", "nations/")] {
            define(
                &client,
                &format!("CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION 's3://{BUCKET}/{location}'"),
            )
            .await;
        }
        assert_same(
            &client,
            &reference,
            "SELECT l_returnflag, count(*), sum(l_quantity) FROM lineitem GROUP BY l_returnflag",
        )
        .await;
        assert_same(
            &client,
            &reference,
            "SELECT o_orderpriority, count(*) FROM orders JOIN lineitem ON o_orderkey = l_orderkey WHERE l_tax > 0.05 \
             GROUP BY o_orderpriority",
        )
        .await;
        let (_, batches) = client.query("SELECT count(*) AS n FROM nations").await.expect("rows");
        let shown = arrow::util::pretty::pretty_format_batches(&batches)
            .expect("text")
            .to_string();
        assert!(shown.contains("75"), "{shown}");

        let missing = format!("CREATE EXTERNAL TABLE gone STORED AS PARQUET LOCATION 's3://{BUCKET}/gone.parquet'");
        let status = client.update(&missing).await.expect_err("there is no such object");
        assert!(
            matches!(status.code(), Code::NotFound | Code::InvalidArgument),
            "{status}"
        );
        assert!(status.message().contains("gone.parquet"), "{status}");
        assert!(!status.message().contains(SECRET), "a secret is shown: {status}");
    });
}

/// Options of a table reach the workers, whose environment has no credentials, and are printed nowhere.
#[test]
#[cfg_attr(
    not(has_python),
    ignore = "skipped: the S3 server is a Python wheel, and there is no python3 with venv"
)]
fn table_secrets_reach_only_workers() {
    let weed = python_environment().join("bin/weed");
    bounded(minutes(6), async move {
        let s3 = S3::start(&weed).await;
        s3.upload(&tpch_path("orders"), "orders.parquet").await;
        let mut cluster = cluster().workers(2).slots(1).tiny_splits().start().await;
        let client = cluster.client().await;
        define(
            &client,
            &format!(
                "CREATE EXTERNAL TABLE orders STORED AS PARQUET LOCATION 's3://{BUCKET}/orders.parquet' OPTIONS (\
                 'aws.endpoint' '{}', 'aws.allow_http' 'true', 'aws.region' 'us-east-1', \
                 'aws.access_key_id' '{KEY}', 'aws.secret_access_key' '{SECRET}')",
                s3.endpoint
            ),
        )
        .await;
        let (_, batches) = client
            .query("SELECT o_orderpriority, count(*) FROM orders GROUP BY o_orderpriority")
            .await
            .expect("the workers know how to read it");
        assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 5);
        let (_, batches) = client
            .query("EXPLAIN VERBOSE SELECT * FROM orders")
            .await
            .expect("rows");
        let plan = arrow::util::pretty::pretty_format_batches(&batches)
            .expect("text")
            .to_string();
        assert!(!plan.contains(SECRET), "EXPLAIN shows a secret");
        let logs = [cluster.server().log(), cluster.worker(0).log(), cluster.worker(1).log()];
        assert!(logs.iter().all(|log| !log.contains(SECRET)), "a log shows a secret");
    });
}

/// Workers write objects, which appear only under their final names; a failed write leaves none.
#[test]
#[cfg_attr(
    not(has_python),
    ignore = "skipped: the S3 server is a Python wheel, and there is no python3 with venv"
)]
fn remote_workers_write_to_s3() {
    let weed = python_environment().join("bin/weed");
    bounded(minutes(6), async move {
        let s3 = S3::start(&weed).await;
        let cluster = two_workers().start().await;
        let client = cluster.client().await;
        let options = format!(
            "OPTIONS ('aws.endpoint' '{}', 'aws.allow_http' 'true', 'aws.region' 'us-east-1', \
             'aws.access_key_id' '{KEY}', 'aws.secret_access_key' '{SECRET}')",
            s3.endpoint
        );
        let copy = format!(
            "COPY (SELECT DISTINCT o_orderkey, o_orderstatus FROM orders) TO 's3://{BUCKET}/written/' \
             STORED AS PARQUET PARTITIONED BY (o_orderstatus) {options}"
        );
        assert_eq!(client.update(&copy).await.expect("it is written"), 15_000);
        define(
            &client,
            &format!(
                "CREATE EXTERNAL TABLE written (o_orderkey BIGINT, o_orderstatus VARCHAR) STORED AS PARQUET \
                 PARTITIONED BY (o_orderstatus) LOCATION 's3://{BUCKET}/written/' {options}"
            ),
        )
        .await;
        let insert = "INSERT INTO written VALUES (-1, 'X'), (-2, 'F')";
        assert_eq!(client.update(insert).await.expect("it is inserted"), 2);
        let bad = "INSERT INTO written SELECT 1 / (o_orderkey - 7), 'F' FROM orders";
        client.update(bad).await.expect_err("a division by zero");
        let (_, batches) = client
            .query("SELECT count(*), count(DISTINCT o_orderstatus), min(o_orderkey) FROM written")
            .await
            .expect("rows");
        let shown = arrow::util::pretty::pretty_format_batches(&batches)
            .expect("text")
            .to_string();
        assert!(
            shown.contains("| 15002 ") && shown.contains("| 4 ") && shown.contains("| -2 "),
            "{shown}"
        );
        let staged = async || {
            let listed = s3
                .store()
                .list(Some(&ObjectPath::from("written")))
                .try_collect::<Vec<_>>();
            let mut objects = listed.await.expect("the bucket is listed").into_iter();
            objects.any(|object| object.location.as_ref().contains("_squadron"))
        };
        let end = Instant::now() + Duration::from_secs(60);
        while staged().await {
            assert!(Instant::now() < end, "unpublished objects are left");
            sleep(Duration::from_millis(100)).await;
        }
    });
}

async fn define(client: &Client, sql: &str) {
    client
        .update(sql)
        .await
        .unwrap_or_else(|status| panic!("{sql}: {status}"));
}

/// Compares the rows of `sql` with those of the reference.
async fn assert_same(client: &Client, reference: &Reference, sql: &str) {
    let expected = reference.run(sql).await.expect("the reference answers");
    let rows = client
        .query(sql)
        .await
        .unwrap_or_else(|status| panic!("{sql}: {status}"));
    compare(&expected.rows, &rows, &[]).unwrap_or_else(|difference| panic!("{sql}: {difference}"));
}
