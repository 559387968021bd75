//! Statements as text and as Substrait plans: planned, and the first rows read.

use arrow_flight::sql::{CommandStatementQuery, CommandStatementSubstraitPlan, ProstMessageExt, SubstraitPlan};
use arrow_flight::{FlightDescriptor, FlightInfo};
use datafusion::prelude::{CsvReadOptions, SessionContext};
use datafusion_substrait::logical_plan::producer::to_substrait_plan;
use futures::StreamExt;
use prost::Message;
use tonic::Status;

use super::judge_status;
use super::server::Server;
use crate::client::Client;
use crate::tpch;

/// Statements with these words write files, or leave things behind that change what the next input means.
const LEFT_OUT: [&str; 6] = ["COPY", "LOCATION", "EXTERNAL", "CREATE", "INTO", "DROP"];

/// How many batches of a result are read; an endless one ends then.
const BATCHES: usize = 3;

/// Whether running `bytes` would leave something behind.
pub(super) fn leaves_traces(bytes: &[u8]) -> bool {
    let upper = bytes.to_ascii_uppercase();
    let holds = |word: &str| upper.windows(word.len()).any(|window| window == word.as_bytes());
    LEFT_OUT.iter().any(|word| holds(word))
}

pub(super) fn judge_sql(bytes: &[u8]) -> Result<(), String> {
    let Ok(sql) = str::from_utf8(bytes) else {
        return Ok(());
    };
    if leaves_traces(bytes) {
        return Ok(());
    }
    let command = CommandStatementQuery {
        query: sql.to_owned(),
        transaction_id: None,
    };
    judge_command(command.as_any().encode_to_vec())
}

pub(super) fn judge_substrait(bytes: &[u8]) -> Result<(), String> {
    let command = CommandStatementSubstraitPlan {
        plan: Some(SubstraitPlan {
            plan: bytes.to_vec().into(),
            version: String::new(),
        }),
        transaction_id: None,
    };
    judge_command(command.as_any().encode_to_vec())
}

fn judge_command(command: Vec<u8>) -> Result<(), String> {
    let server = Server::get();
    let client = server.client();
    server.run(async move {
        let outcome = first_rows(&client, FlightDescriptor::new_cmd(command)).await;
        judge_status("the statement", outcome)
    })
}

async fn first_rows(client: &Client, descriptor: FlightDescriptor) -> Result<(), Status> {
    let info = client.flight().get_flight_info(descriptor).await?.into_inner();
    read(client, info).await
}

/// Reads the first rows of every endpoint.
pub(super) async fn read(client: &Client, info: FlightInfo) -> Result<(), Status> {
    for endpoint in info.endpoint {
        let Some(ticket) = endpoint.ticket else { continue };
        let mut batches = client.flight().do_get(ticket).await?.into_inner().take(BATCHES);
        while let Some(batch) = batches.next().await {
            batch?;
        }
    }
    Ok(())
}

pub(super) fn sql_seeds() -> Vec<Vec<u8>> {
    let tpch = (1..=tpch::QUERIES).map(|number| tpch::query(number, 1.0));
    let own = STATEMENTS.iter().map(ToString::to_string);
    tpch.chain(own).map(String::into_bytes).collect()
}

pub(super) fn substrait_seeds() -> Vec<Vec<u8>> {
    let server = Server::get();
    let path = server.folder().join("data/t.csv");
    let plans = async {
        let context = SessionContext::new();
        let path = path.to_str().expect("temporary folders have plain names");
        let registered = context.register_csv("t", path, CsvReadOptions::new()).await;
        registered.expect("the table can be read");
        let mut plans = Vec::new();
        for sql in STATEMENTS {
            // Not everything has a Substrait plan.
            let Ok(plan) = context.state().create_logical_plan(sql).await else {
                continue;
            };
            if let Ok(plan) = to_substrait_plan(&plan, &context.state()) {
                plans.push(plan.encode_to_vec());
            }
        }
        plans
    };
    server.runtime().block_on(plans)
}

/// One for each kind of expression and clause.
const STATEMENTS: [&str; 30] = [
    "SELECT 1",
    "SELECT n, x * 2 AS y FROM t WHERE n BETWEEN 1 AND 2 OR s LIKE 'o%' ORDER BY y DESC NULLS LAST LIMIT 2 OFFSET 1",
    "SELECT s, count(*), sum(x), avg(DISTINCT n) FILTER (WHERE n > 1) FROM t GROUP BY s HAVING count(*) > 0",
    "SELECT a.n, b.s FROM t a LEFT JOIN t b ON a.n = b.n + 1 AND a.x < b.x",
    "SELECT n FROM t WHERE n IN (SELECT n FROM t WHERE s IS NOT NULL) AND NOT EXISTS (SELECT 1 FROM t u WHERE u.n > t.n)",
    "SELECT n, sum(n) OVER (PARTITION BY s ORDER BY n ROWS BETWEEN 1 PRECEDING AND CURRENT ROW), lag(n, 1, 0) OVER w FROM t WINDOW w AS (ORDER BY n)",
    "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 10) SELECT * FROM r",
    "SELECT * FROM t UNION ALL SELECT * FROM t EXCEPT SELECT * FROM t WHERE n = 1 INTERSECT SELECT * FROM t",
    "SELECT GROUPING(s), s, n, max(x) FROM t GROUP BY GROUPING SETS ((s), (n), ()), CUBE(s, n)",
    "SELECT CASE n WHEN 1 THEN 'a' WHEN 2 THEN NULL ELSE s END, CAST(x AS decimal(10, 2)), n::text || s FROM t",
    "SELECT date_trunc('month', at), extract(year FROM d), d + INTERVAL '1 month 3 days', at AT TIME ZONE 'Europe/Zurich' FROM t",
    "SELECT repeat(s, n), lpad(s, 10, 'xy'), substr(s, 2, 1), regexp_replace(s, '(.)o', '\\1'), split_part(s, 'w', 1), overlay(s placing 'X' from 1) FROM t",
    "SELECT [1, 2, n], array_concat([n], [1]), range(1, 10, 3), unnest([1, 2]), make_array(s)[1], struct(n, s).c0, map(['a'], [n]) FROM t",
    "SELECT * FROM (VALUES (1, 'a'), (2, NULL)) AS v(k, w) CROSS JOIN LATERAL (SELECT * FROM t WHERE t.n = v.k) l",
    "SELECT DISTINCT ON (s) s, n FROM t ORDER BY s, n",
    "EXPLAIN ANALYZE VERBOSE SELECT count(*) FROM t",
    "EXPLAIN FORMAT TREE SELECT * FROM t JOIN t u USING (n)",
    "SELECT sum(v) FROM generate_series(1, 100, 7) AS g(v)",
    "PREPARE p(int) AS SELECT $1 + n FROM t",
    "SHOW TABLES",
    "SHOW ALL",
    "SET squadron.priority = '5'",
    "DESCRIBE t",
    "SELECT * FROM information_schema.columns",
    "SELECT * FROM system.queries",
    "KILL '01234567-89ab-cdef-0123-456789abcdef'",
    "SELECT 1e400, 0x1F, U&'\\0041', E'\\n', $$x$$, 'it''s', \"n\", 1.5e-3, -9223372036854775808, DATE '0000-00-00' FROM t",
    "SELECT n FROM t QUALIFY row_number() OVER (ORDER BY n) = 1",
    "SELECT approx_percentile_cont(x, 0.5), array_agg(n ORDER BY n DESC), string_agg(s, ','), corr(x, n), bit_xor(n), first_value(s) FROM t",
    "VALUES (1), (2)",
];
