//! `squadron-bench tpcds`: the 99 queries of TPC-DS, as `tpch` measures its 22. DuckDB's extension generates tables and texts.

use std::fs;

use clap::Args;
use serde::Serialize;

use crate::suite::{self, Suite, SuiteArgs};
use crate::tables::Tables;
use crate::{JsonArgs, Result, Verdict, tables};

/// How many queries there are.
const QUERIES: u8 = 99;

/// `squadron-bench tpcds`.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct TpcdsArgs {
    /// Scale of the tables: 1 is 1 GB of raw data.
    #[arg(long, value_name = "SCALE", default_value_t = 1.0)]
    sf: f64,
    /// Only these queries [default: all 99].
    #[arg(long, value_name = "1,3,..", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=99))]
    queries: Vec<u8>,
    #[command(flatten)]
    #[serde(flatten)]
    suite: SuiteArgs,
    #[command(flatten)]
    #[serde(skip)]
    json: JsonArgs,
}

pub(super) async fn run(args: &TpcdsArgs) -> Result<Verdict> {
    let folder = tables::cache_folder(args.suite.cache_dir())?.join(format!("tpcds-v1-sf{}", args.sf));
    args.suite.python().ensure_tpcds(args.sf, &folder).await?;
    let chosen = suite::chosen(&args.queries, QUERIES);
    let texts = folder.join("queries");
    let text = |query: &u8| Ok((*query, fs::read_to_string(texts.join(format!("q{query:02}.sql")))?));
    let suite = Suite {
        name: "tpcds",
        arguments: vec!["--data".to_owned(), folder.display().to_string()],
        queries: chosen.iter().map(text).collect::<Result<_>>()?,
        tables: Tables::below(folder)?,
    };
    let options = TpcdsArgs {
        suite: args.suite.with_defaults(),
        queries: chosen,
        ..args.clone()
    };
    suite::run(&suite, &args.suite, &args.json, options).await
}
