//! `squadron-bench ssb`: the 13 queries of the Star Schema Benchmark, as `tpch` measures its 22; over a star, or over one wide
//! table of all its columns.

mod queries;
mod tables;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::suite::{self, Suite, SuiteArgs};
use crate::tables::Tables;
use crate::{JsonArgs, Result, Verdict};

/// How many queries there are.
const QUERIES: u8 = 13;

/// `squadron-bench ssb`.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct SsbArgs {
    /// Scale of the TPC-H tables of which the star is made: 1 has 6 million rows.
    #[arg(long, value_name = "SCALE", default_value_t = 1.0)]
    sf: f64,
    /// The tables that are queried.
    #[arg(long, value_name = "TABLES", default_value = "star")]
    tables: Shape,
    /// Only these queries [default: all 13].
    #[arg(long, value_name = "1,3,..", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=13))]
    queries: Vec<u8>,
    #[command(flatten)]
    #[serde(flatten)]
    suite: SuiteArgs,
    #[command(flatten)]
    #[serde(skip)]
    json: JsonArgs,
}

/// What the queries read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Shape {
    /// A large table, and four that it is joined with.
    Star,
    /// One table of all their columns.
    Wide,
}

pub(super) async fn run(args: &SsbArgs) -> Result<Verdict> {
    let folder = tables::ensure(args.sf, args.suite.cache_dir()).await?;
    let chosen = suite::chosen(&args.queries, QUERIES);
    let text = match args.tables {
        Shape::Star => queries::over_star,
        Shape::Wide => queries::over_wide_table,
    };
    let suite = Suite {
        name: "ssb",
        arguments: vec!["--data".to_owned(), folder.display().to_string()],
        queries: chosen.iter().map(|query| (*query, text(*query))).collect(),
        tables: Tables {
            folder,
            names: tables::NAMES.map(str::to_owned).to_vec(),
        },
    };
    let options = SsbArgs {
        suite: args.suite.with_defaults(),
        queries: chosen,
        ..args.clone()
    };
    suite::run(&suite, &args.suite, &args.json, options).await
}
