//! `squadron-bench tpch`: checks that the 22 results are exact, and times each query beside other engines.

use clap::{Args, ValueEnum};
use serde::Serialize;
use squadron_integration::tpch;

use crate::suite::{self, Suite, SuiteArgs};
use crate::tables::Tables;
use crate::{JsonArgs, Result, Verdict, tables};

/// `squadron-bench tpch`.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct TpchArgs {
    /// Scale of the tables: 1 is 1 GB of raw data.
    #[arg(long, value_name = "SCALE", default_value_t = 1.0)]
    sf: f64,
    /// Who writes the files that all engines read.
    #[arg(long, value_name = "WRITER", default_value = "squadron")]
    files: Writer,
    /// Only these queries [default: all 22].
    #[arg(long, value_name = "1,3,..", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=22))]
    queries: Vec<u8>,
    #[command(flatten)]
    #[serde(flatten)]
    suite: SuiteArgs,
    #[command(flatten)]
    #[serde(skip)]
    json: JsonArgs,
}

/// Who writes the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Writer {
    /// `squadron serve --tpch`.
    Squadron,
    /// DuckDB, with row groups of 65,536 rows.
    Duckdb,
}

pub(super) async fn run(args: &TpchArgs) -> Result<Verdict> {
    let cache = args.suite.cache_dir();
    let own = Tables {
        folder: tables::ensure_tpch(args.sf, cache).await?,
        names: tpch::TABLES.map(str::to_owned).to_vec(),
    };
    let (tables, arguments) = match args.files {
        Writer::Squadron => (own, ["--tpch".to_owned(), args.sf.to_string()]),
        Writer::Duckdb => {
            let folder = tables::cache_folder(cache)?.join(format!("tpch-duckdb-v1-sf{}", args.sf));
            args.suite.python().ensure_copied(&own, &folder).await?;
            let arguments = ["--data".to_owned(), folder.display().to_string()];
            (Tables { folder, ..own }, arguments)
        }
    };
    let queries = suite::chosen(&args.queries, tpch::QUERIES);
    let suite = Suite {
        name: "tpch",
        tables,
        arguments: arguments.to_vec(),
        queries: queries
            .iter()
            .map(|query| (*query, tpch::query(*query, args.sf)))
            .collect(),
    };
    let options = TpchArgs {
        suite: args.suite.with_defaults(),
        queries,
        ..args.clone()
    };
    suite::run(&suite, &args.suite, &args.json, options).await
}
