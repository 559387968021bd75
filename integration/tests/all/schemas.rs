//! Every statement has one schema, nullability and metadata included: in prepare, GetSchema, FlightInfo and the stream.
//!
//! [`traps`](crate::traps) checks the same for its queries.

use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
    ActionCreatePreparedSubstraitPlanRequest, Any, CommandPreparedStatementQuery, CommandStatementQuery,
    CommandStatementSubstraitPlan, ProstMessageExt, SubstraitPlan,
};
use arrow_flight::{Action, FlightDescriptor, IpcMessage};
use prost::Message;
use squadron_integration::client::{Client, Rows};
use squadron_integration::cluster::{ClusterBuilder, cluster};
use squadron_integration::compare::compare;
use squadron_integration::tpch::{QUERIES, query};
use tonic::Status;

use crate::substrait::plan_of;
use crate::support::{Mismatches, Reference, bounded, minutes};
use crate::tpch::register;

const SCALE_FACTOR: f64 = 0.01;

/// Results that are not computed, and results without rows.
const SPECIAL: [&str; 12] = [
    // Aggregates that are folded to literals which are never NULL, although their logical type may be.
    "SELECT count(*), min(l_orderkey), max(l_shipdate), min(l_comment) FROM lineitem",
    "SELECT count(l_comment) AS n, max(l_extendedprice) AS most FROM lineitem",
    "SELECT max(n_name) || '!' AS last, count(*) > 3 AS many FROM nation",
    "SELECT max(l_orderkey) FROM lineitem WHERE false",
    // Without rows.
    "SELECT * FROM lineitem WHERE l_orderkey < 0",
    "SELECT l_returnflag, count(*), avg(l_tax) FROM lineitem WHERE false GROUP BY l_returnflag",
    "SELECT n_name FROM nation ORDER BY n_name LIMIT 0",
    "SELECT n.n_name, r.r_name FROM nation n LEFT JOIN region r ON false WHERE n.n_nationkey = -1",
    // Types that are replaced for clients.
    "SELECT arrow_cast(l_shipmode, 'Dictionary(Int32, Utf8)') AS mode FROM lineitem LIMIT 5",
    "SELECT make_array(n_name) AS names, named_struct('a', n_name, 'b', 1) AS pair FROM nation",
    // Without tables.
    "SELECT 1 AS one, CAST(NULL AS BIGINT) AS none, now() AS now",
    "VALUES (1, 'a'), (NULL, 'b')",
];

/// A statement as SQL or as a Substrait plan.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    Sql(&'a str),
    Plan(&'a [u8]),
}

/// How the rows of a statement are requested: by the statement itself, or by the handle of the prepared statement.
#[derive(Clone, Copy)]
pub(crate) enum Route {
    Statement,
    Handle,
}

impl Source<'_> {
    fn to_command(self) -> Any {
        match self {
            Self::Sql(sql) => CommandStatementQuery {
                query: sql.into(),
                transaction_id: None,
            }
            .as_any(),
            Self::Plan(plan) => CommandStatementSubstraitPlan {
                plan: Some(substrait(plan)),
                transaction_id: None,
            }
            .as_any(),
        }
    }

    fn to_prepare_action(self) -> Action {
        let (name, body) = match self {
            Self::Sql(sql) => {
                let request = ActionCreatePreparedStatementRequest {
                    query: sql.into(),
                    transaction_id: None,
                };
                ("CreatePreparedStatement", request.as_any())
            }
            Self::Plan(plan) => {
                let request = ActionCreatePreparedSubstraitPlanRequest {
                    plan: Some(substrait(plan)),
                    transaction_id: None,
                };
                ("CreatePreparedSubstraitPlan", request.as_any())
            }
        };
        Action::new(name, body.encode_to_vec())
    }
}

fn substrait(plan: &[u8]) -> SubstraitPlan {
    SubstraitPlan {
        plan: plan.to_vec().into(),
        version: String::new(),
    }
}

/// Prepares a statement and gives what the server answers.
pub(crate) async fn prepare(
    client: &Client,
    source: Source<'_>,
) -> Result<ActionCreatePreparedStatementResult, Status> {
    let answer = client.flight().do_action(source.to_prepare_action()).await?;
    let answer = answer.into_inner().message().await?;
    let answer = answer.expect("preparing has one result");
    let answer = Any::decode(answer.body).expect("it is wrapped");
    let answer = answer.unpack().expect("it can be read");
    Ok(answer.expect("it is a prepared statement"))
}

fn descriptor(command: &Any) -> FlightDescriptor {
    FlightDescriptor::new_cmd(command.encode_to_vec())
}

/// Runs a statement and gives its rows, after checking that its schema is the same in all answers.
///
/// # Errors
/// The status of the server, or the answers whose schemas differ.
pub(crate) async fn query_checking_schemas(client: &Client, source: Source<'_>, route: Route) -> Result<Rows, Status> {
    let mut flight = client.flight();
    let statement = source.to_command();
    let of_statement = flight.get_schema(descriptor(&statement)).await?;
    let of_statement = Schema::try_from(&of_statement.into_inner()).expect("GetSchema answers a schema");
    let prepared = prepare(client, source).await?;
    let dataset = Schema::try_from(IpcMessage(prepared.dataset_schema)).expect("it is a schema");
    let handle = CommandPreparedStatementQuery {
        prepared_statement_handle: prepared.prepared_statement_handle.clone(),
    };
    let of_handle = flight.get_schema(descriptor(&handle.as_any())).await?;
    let of_handle = Schema::try_from(&of_handle.into_inner()).expect("GetSchema answers a schema");
    let command = match route {
        Route::Statement => statement,
        Route::Handle => handle.as_any(),
    };
    let info = flight.get_flight_info(descriptor(&command)).await?;
    // `fetch` compares the stream with its FlightInfo.
    let (streamed, batches) = client.fetch(info.into_inner()).await?;
    let close = ActionClosePreparedStatementRequest {
        prepared_statement_handle: prepared.prepared_statement_handle,
    };
    let close = Action::new("ClosePreparedStatement", close.as_any().encode_to_vec());
    flight.do_action(close).await?;
    for (place, schema) in [
        ("GetSchema", &of_statement),
        ("the prepared statement", &dataset),
        ("GetSchema of the prepared statement", &of_handle),
    ] {
        if *schema != *streamed {
            let difference = format!("{place} says {schema:#?}\nDoGet says {streamed:#?}");
            return Err(Status::data_loss(difference));
        }
    }
    let rows = (streamed, batches);
    check_batches(&rows).map_err(Status::data_loss)?;
    Ok(rows)
}

/// Checks that batches have the schema of their stream, and no NULL in columns that are not nullable.
fn check_batches((schema, batches): &Rows) -> Result<(), String> {
    for batch in batches {
        if batch.schema_ref() != schema {
            return Err(format!("a batch has a schema of its own: {:#?}", batch.schema()));
        }
        for (field, column) in schema.fields().iter().zip(batch.columns()) {
            if !field.is_nullable() && column.logical_null_count() > 0 {
                return Err(format!("{} is never NULL, and is", field.name()));
            }
        }
    }
    Ok(())
}

#[test]
fn schemas_agree_on_embedded_worker() {
    bounded(minutes(10), assert_schemas_agree(cluster().slots(2)));
}

#[test]
fn schemas_agree_on_two_workers() {
    bounded(minutes(10), assert_schemas_agree(cluster().workers(2).slots(2)));
}

async fn assert_schemas_agree(builder: ClusterBuilder) {
    let cluster = builder.tpch(SCALE_FACTOR).tiny_splits().start().await;
    let client = cluster.client().await;
    let reference = Reference::new();
    register(&reference).await;
    let mut queries: Vec<String> = SPECIAL.map(String::from).to_vec();
    queries.extend((1..=QUERIES).map(|number| query(number, SCALE_FACTOR)));
    let mut mismatches = Mismatches::default();
    for sql in &queries {
        for route in [Route::Statement, Route::Handle] {
            let outcome = query_checking_schemas(&client, Source::Sql(sql), route).await;
            mismatches.note(sql, outcome.map(drop).map_err(|status| status.to_string()));
        }
    }
    for sql in &queries[SPECIAL.len()..] {
        let outcome = compare_plan_with_sql(&client, &reference, sql).await;
        mismatches.note(&format!("as a plan: {sql}"), outcome);
    }
    mismatches.assert_none();
}

/// Runs `sql` as a Substrait plan: it has one schema everywhere, and the rows of the reference.
async fn compare_plan_with_sql(client: &Client, reference: &Reference, sql: &str) -> Result<(), String> {
    let plan = plan_of(reference, sql).await;
    let rows = query_checking_schemas(client, Source::Plan(&plan), Route::Statement).await;
    let rows = rows.map_err(|status| status.to_string())?;
    let expected = reference.run(sql).await.map_err(|error| error.to_string())?;
    let names = |schema: &SchemaRef| -> Vec<String> { schema.fields().iter().map(|it| it.name().clone()).collect() };
    if names(&rows.0) != names(&expected.rows.0) {
        return Err(format!("the columns are {:?}", names(&rows.0)));
    }
    compare(&expected.rows, &rows, &expected.order).map_err(|difference| difference.to_string())
}
