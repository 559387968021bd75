//! The tables of the Star Schema Benchmark, made of those of TPC-H as its specification says: orders and their lines become one
//! table, nations and regions columns of customers and suppliers. Money is in whole cents.

use std::path::{Path, PathBuf};

use datafusion::dataframe::DataFrameWriteOptions;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use squadron_integration::tpch;

use crate::Result;
use crate::tables::{self, NewFolder, Tables};

/// The tables; the last one has the columns of all others.
pub(super) const NAMES: [&str; 6] = ["dates", "customer", "supplier", "part", "lineorder", "wide"];

/// The query that makes each table, of TPC-H's tables and those before it, which have other names while they are made.
const QUERIES: [&str; NAMES.len()] = [
    "SELECT CAST(to_char(day, '%Y%m%d') AS INT) AS d_datekey, CAST(extract(year FROM day) AS INT) AS d_year, \
     CAST(to_char(day, '%Y%m') AS INT) AS d_yearmonthnum, to_char(day, '%b%Y') AS d_yearmonth, \
     CAST((extract(doy FROM day) - 1) / 7 + 1 AS INT) AS d_weeknuminyear \
     FROM (SELECT arrow_cast(CAST(value + 8035 AS INT), 'Date32') AS day FROM range(2557))",
    "SELECT c_custkey, c_name, rpad(substr(n_name, 1, 9), 9) || (c_custkey % 10) AS c_city, n_name AS c_nation, \
     r_name AS c_region, c_mktsegment FROM customer, nation, region \
     WHERE c_nationkey = n_nationkey AND n_regionkey = r_regionkey",
    "SELECT s_suppkey, s_name, rpad(substr(n_name, 1, 9), 9) || (s_suppkey % 10) AS s_city, n_name AS s_nation, \
     r_name AS s_region FROM supplier, nation, region \
     WHERE s_nationkey = n_nationkey AND n_regionkey = r_regionkey",
    "SELECT p_partkey, p_name, 'MFGR#' || substr(p_brand, 7, 1) AS p_mfgr, 'MFGR#' || substr(p_brand, 7, 2) AS p_category, \
     'MFGR#' || substr(p_brand, 7, 2) || (p_partkey % 40 + 1) AS p_brand1, p_type, p_size, p_container FROM part",
    "SELECT l_orderkey AS lo_orderkey, l_linenumber AS lo_linenumber, o_custkey AS lo_custkey, l_partkey AS lo_partkey, \
     l_suppkey AS lo_suppkey, CAST(extract(year FROM o_orderdate) * 10000 + extract(month FROM o_orderdate) * 100 \
     + extract(day FROM o_orderdate) AS INT) AS lo_orderdate, o_orderpriority AS lo_orderpriority, \
     CAST(l_quantity AS INT) AS lo_quantity, CAST(l_extendedprice * 100 AS BIGINT) AS lo_extendedprice, \
     CAST(l_discount * 100 AS INT) AS lo_discount, CAST(l_extendedprice * (100 - l_discount * 100) AS BIGINT) AS lo_revenue, \
     CAST(ps_supplycost * 100 AS BIGINT) AS lo_supplycost, l_shipmode AS lo_shipmode \
     FROM lineitem, orders, partsupp WHERE l_orderkey = o_orderkey AND l_partkey = ps_partkey AND l_suppkey = ps_suppkey",
    "SELECT * FROM new_lineorder, new_dates, new_customer, new_supplier, new_part WHERE lo_orderdate = d_datekey \
     AND lo_custkey = c_custkey AND lo_suppkey = s_suppkey AND lo_partkey = p_partkey",
];

/// Makes sure that the tables are in the cache, and gives their folder.
pub(super) async fn ensure(scale: f64, cache: Option<&Path>) -> Result<PathBuf> {
    let folder = tables::cache_folder(cache)?.join(format!("ssb-v1-sf{scale}"));
    let Some(new) = NewFolder::unless_exists(&folder)? else {
        return Ok(folder);
    };
    let context = SessionContext::new();
    let tpch = Tables {
        folder: tables::ensure_tpch(scale, cache).await?,
        names: tpch::TABLES.map(str::to_owned).to_vec(),
    };
    for table in &tpch.names {
        let path = tpch.path(table).display().to_string();
        context
            .register_parquet(table, path, ParquetReadOptions::default())
            .await?;
    }
    for (table, query) in NAMES.into_iter().zip(QUERIES) {
        let path = format!("{}/", new.path().join(table).display());
        let rows = context.sql(query).await?;
        rows.write_parquet(&path, DataFrameWriteOptions::new(), None).await?;
        let name = format!("new_{table}");
        context
            .register_parquet(&name, &path, ParquetReadOptions::default())
            .await?;
    }
    new.complete()?;
    Ok(folder)
}
