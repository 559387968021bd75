//! Plans that are used again: for equal statements over the same files, and for nothing else.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::dataframe::DataFrameWriteOptions;
use datafusion::prelude::SessionContext;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use squadron_integration::client::Client;
use squadron_integration::cluster::{Cluster, cluster};
use tempfile::TempDir;

use crate::support::{bounded, minutes};

const REUSED: &str = "reused=true";

/// Folders of Parquet files with the columns `k` and `x`, and what is in them.
struct Folders {
    folder: TempDir,
    /// By folder and number of the file: its rows and the value of `x` in all of them.
    files: BTreeMap<(&'static str, i64), (i64, i64)>,
    /// When the next file was written, long ago: plans over files that have just changed are not kept.
    time: SystemTime,
}

/// Of a folder above, and of one in which it is the only folder, so that its own entry never changes.
const PLACES: [&str; 3] = ["flat", "deep/day=1", "other"];

impl Folders {
    async fn new() -> Self {
        let mut folders = Self {
            folder: TempDir::with_prefix("squadron-plans-").unwrap(),
            files: BTreeMap::new(),
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000),
        };
        for (place, x) in PLACES.into_iter().zip(1..) {
            folders.write(place, 0, 10, x).await;
        }
        folders
    }

    fn path(&self, place: &str) -> PathBuf {
        self.folder.path().join(place)
    }

    async fn write(&mut self, place: &'static str, file: i64, rows: i64, x: i64) {
        let written = self.folder.path().join("written.parquet");
        write_file(&written, &format!("SELECT {file} AS k, {x} AS x FROM range({rows})")).await;
        self.time += Duration::from_secs(1);
        File::options()
            .append(true)
            .open(&written)
            .unwrap()
            .set_modified(self.time)
            .unwrap();
        fs::create_dir_all(self.path(place)).unwrap();
        fs::rename(written, self.path(place).join(format!("part-{file}.parquet"))).unwrap();
        self.files.insert((place, file), (rows, x));
    }

    fn remove(&mut self, place: &'static str, file: i64) {
        fs::remove_file(self.path(place).join(format!("part-{file}.parquet"))).unwrap();
        self.files.remove(&(place, file));
    }

    /// The rows and the sum of `x` in the files of a folder from a number on.
    fn sums(&self, place: &str, from: i64) -> (i64, i64) {
        let files = self
            .files
            .iter()
            .filter(|((of, file), _)| *of == place && *file >= from);
        files.fold((0, 0), |(rows, sum), (_, (more, x))| (rows + more, sum + more * x))
    }

    async fn serve(&self, workers: usize) -> Cluster {
        let builder = match workers {
            1 => cluster().slots(2),
            workers => cluster().workers(workers).slots(1).tiny_splits(),
        };
        ["flat", "deep", "other"]
            .into_iter()
            .fold(builder, |builder, table| {
                builder.data(format!("{table}={}", self.path(table).display()))
            })
            .start()
            .await
    }
}

async fn write_file(path: &Path, rows: &str) {
    let frame = SessionContext::new().sql(rows).await.unwrap();
    let options = DataFrameWriteOptions::new().with_single_file_output(true);
    frame
        .write_parquet(path.to_str().unwrap(), options, None)
        .await
        .unwrap();
}

/// The numbers of the only row, NULL as 0.
async fn numbers(client: &Client, sql: &str) -> (i64, i64) {
    let (_, batches) = client
        .query(sql)
        .await
        .unwrap_or_else(|status| panic!("{sql}: {status}"));
    let batch = batches.iter().find(|batch| batch.num_rows() == 1).unwrap();
    let number = |column: usize| batch.column(column).as_primitive::<Int64Type>().value(0);
    (number(0), number(1))
}

fn reused(cluster: &mut Cluster) -> usize {
    cluster.server().log().matches(REUSED).count()
}

#[test]
fn plan_of_a_statement_that_comes_again_is_used_again() {
    bounded(minutes(5), async {
        let folders = Folders::new().await;
        for workers in [1, 2] {
            let mut cluster = folders.serve(workers).await;
            let (one, other) = (cluster.client().await, cluster.client().await);
            let sql = "SELECT count(*), sum(a.x + b.x) FROM flat a JOIN deep b ON a.k = b.k";
            for round in 0..4 {
                assert_eq!(
                    numbers([&one, &other][round % 2], sql).await,
                    (100, 300),
                    "{workers} workers"
                );
            }
            // A server that is its own worker need not encode plans: it does so when a statement comes a second time.
            let expected = if workers == 1 { 2 } else { 3 };
            assert_eq!(reused(&mut cluster), expected, "{workers} workers");

            // What another literal, a setting of the session, the time, the tables of the server, or no table is part of.
            let other_literal = "SELECT count(*), sum(a.x + b.x + 1) FROM flat a JOIN deep b ON a.k = b.k";
            assert_eq!(numbers(&one, other_literal).await, (100, 400));
            for sql in [
                "SELECT count(*), sum(x) FROM flat WHERE now() > TIMESTAMP '2020-01-01'",
                "SELECT count(*), sum(x) FROM flat WHERE random() >= 0",
                "SELECT count(*), sum(tasks) FROM system.queries",
                "SELECT 1, 2",
                "EXPLAIN SELECT sum(x) FROM flat",
            ] {
                for _ in 0..4 {
                    one.query(sql).await.unwrap();
                }
            }
            one.update("SET squadron.plan_cache = off").await.unwrap();
            for _ in 0..4 {
                assert_eq!(numbers(&one, sql).await, (100, 300));
            }
            assert_eq!(reused(&mut cluster), expected, "{workers} workers");
        }
    });
}

/// What happens between queries, and the queries, in random order: each sees the files as they are.
#[test]
fn changes_are_seen_by_statements_that_came_before() {
    const STEPS: usize = 400;
    bounded(minutes(15), async {
        for (workers, seed) in [(1, 1), (2, 2)] {
            let mut folders = Folders::new().await;
            let mut cluster = folders.serve(workers).await;
            let clients = [cluster.client().await, cluster.client().await];
            let mut random = StdRng::seed_from_u64(seed);
            let mut external = "flat";
            let mut least = 0;
            define(&clients[0], &folders, external, least).await;
            for step in 0..STEPS {
                let client = &clients[random.random_range(0..2)];
                let place = PLACES[random.random_range(0..3)];
                let file = random.random_range(0..4);
                match random.random_range(0..24) {
                    0 => {
                        folders
                            .write(place, file, random.random_range(1..9), random.random_range(1..9))
                            .await
                    }
                    // Another value in as many rows: most often the same bytes.
                    1 => {
                        let rows = folders.files.get(&(place, 0)).map_or(5, |(rows, _)| *rows);
                        folders.write(place, 0, rows, random.random_range(1..9)).await;
                    }
                    2 if file > 0 && folders.files.contains_key(&(place, file)) => folders.remove(place, file),
                    3 => {
                        (external, least) = (place, file);
                        define(client, &folders, external, least).await;
                    }
                    _ => {
                        let (table, expected) = match random.random_range(0..5) {
                            0 => ("flat", folders.sums("flat", 0)),
                            1 => ("deep", folders.sums("deep/day=1", 0)),
                            2 => ("external", folders.sums(external, 0)),
                            3 => ("from_least", folders.sums(external, least)),
                            _ => ("(SELECT * FROM deep WHERE k >= 1)", folders.sums("deep/day=1", 1)),
                        };
                        let sql = format!("SELECT count(*), coalesce(sum(x), 0) FROM {table} WHERE x > 0");
                        let found = numbers(client, &sql).await;
                        assert_eq!(found, expected, "{workers} workers, step {step}: {sql}");
                    }
                }
            }
            assert!(
                reused(&mut cluster) > STEPS / 10,
                "{} were reused",
                reused(&mut cluster)
            );
        }
    });
}

/// A table by statement, and a view over it.
async fn define(client: &Client, folders: &Folders, place: &str, least: i64) {
    let location = folders.path(place).display().to_string();
    let table = format!("CREATE OR REPLACE EXTERNAL TABLE external STORED AS PARQUET LOCATION '{location}/'");
    client.update(&table).await.unwrap();
    let view = format!("CREATE OR REPLACE VIEW from_least AS SELECT * FROM external WHERE k >= {least}");
    client.update(&view).await.unwrap();
}
