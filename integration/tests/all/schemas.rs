//! One logical schema, frozen: the same from prepare, GetSchema, FlightInfo and the stream, nullability and metadata included.
//!
//! The queries of [`traps`](crate::traps) are held to it too, where they run.

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
    // Folded to literals that are never NULL, where the logical schema says they may be.
    "SELECT count(*), min(l_orderkey), max(l_shipdate), min(l_comment) FROM lineitem",
    "SELECT count(l_comment) AS n, max(l_extendedprice) AS most FROM lineitem",
    "SELECT max(n_name) || '!' AS last, count(*) > 3 AS many FROM nation",
    "SELECT max(l_orderkey) FROM lineitem WHERE false",
    // Without rows.
    "SELECT * FROM lineitem WHERE l_orderkey < 0",
    "SELECT l_returnflag, count(*), avg(l_tax) FROM lineitem WHERE false GROUP BY l_returnflag",
    "SELECT n_name FROM nation ORDER BY n_name LIMIT 0",
    "SELECT n.n_name, r.r_name FROM nation n LEFT JOIN region r ON false WHERE n.n_nationkey = -1",
    // Types that clients do not see.
    "SELECT arrow_cast(l_shipmode, 'Dictionary(Int32, Utf8)') AS mode FROM lineitem LIMIT 5",
    "SELECT make_array(n_name) AS names, named_struct('a', n_name, 'b', 1) AS pair FROM nation",
    // Without tables.
    "SELECT 1 AS one, CAST(NULL AS BIGINT) AS none, now() AS now",
    "VALUES (1, 'a'), (NULL, 'b')",
];

/// A statement in one of its two languages.
#[derive(Clone, Copy)]
pub(crate) enum Asked<'a> {
    Sql(&'a str),
    Plan(&'a [u8]),
}

/// Which of the two ways to its rows a statement goes; all schemas are asked for either way.
#[derive(Clone, Copy)]
pub(crate) enum By {
    Statement,
    Handle,
}

impl Asked<'_> {
    fn command(self) -> Any {
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

    fn creation(self) -> Action {
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
pub(crate) async fn prepare(client: &Client, asked: Asked<'_>) -> Result<ActionCreatePreparedStatementResult, Status> {
    let answer = client.flight().do_action(asked.creation()).await?;
    let answer = answer.into_inner().message().await?;
    let answer = answer.expect("preparing has one result");
    let answer = Any::decode(answer.body).expect("it is wrapped");
    let answer = answer.unpack().expect("it can be read");
    Ok(answer.expect("it is a prepared statement"))
}

fn descriptor(command: &Any) -> FlightDescriptor {
    FlightDescriptor::new_cmd(command.encode_to_vec())
}

/// Runs `asked` and gives its rows, once its schema was the same in all places.
///
/// # Errors
/// What the server answers, or which places tell different schemas.
pub(crate) async fn same_everywhere(client: &Client, asked: Asked<'_>, by: By) -> Result<Rows, Status> {
    let mut flight = client.flight();
    let statement = asked.command();
    let told = flight.get_schema(descriptor(&statement)).await?;
    let told = Schema::try_from(&told.into_inner()).expect("GetSchema answers a schema");
    let prepared = prepare(client, asked).await?;
    let dataset = Schema::try_from(IpcMessage(prepared.dataset_schema)).expect("it is a schema");
    let handle = CommandPreparedStatementQuery {
        prepared_statement_handle: prepared.prepared_statement_handle.clone(),
    };
    let of_handle = flight.get_schema(descriptor(&handle.as_any())).await?;
    let of_handle = Schema::try_from(&of_handle.into_inner()).expect("GetSchema answers a schema");
    let command = match by {
        By::Statement => statement,
        By::Handle => handle.as_any(),
    };
    let info = flight.get_flight_info(descriptor(&command)).await?;
    // It holds the stream to its FlightInfo.
    let (streamed, batches) = client.fetch(info.into_inner()).await?;
    let close = ActionClosePreparedStatementRequest {
        prepared_statement_handle: prepared.prepared_statement_handle,
    };
    let close = Action::new("ClosePreparedStatement", close.as_any().encode_to_vec());
    flight.do_action(close).await?;
    for (place, schema) in [
        ("GetSchema", &told),
        ("the prepared statement", &dataset),
        ("GetSchema of the prepared statement", &of_handle),
    ] {
        if *schema != *streamed {
            let difference = format!("{place} says {schema:#?}\nDoGet says {streamed:#?}");
            return Err(Status::data_loss(difference));
        }
    }
    let rows = (streamed, batches);
    fits(&rows).map_err(Status::data_loss)?;
    Ok(rows)
}

/// Batches have the schema of their stream, and no NULL where it says that there is none.
fn fits((schema, batches): &Rows) -> Result<(), String> {
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
fn one_embedded_worker() {
    bounded(minutes(10), identical(cluster().slots(2)));
}

#[test]
fn two_workers() {
    bounded(minutes(10), identical(cluster().workers(2).slots(2)));
}

async fn identical(builder: ClusterBuilder) {
    let cluster = builder.tpch(SCALE_FACTOR).tiny_splits().start().await;
    let client = cluster.client().await;
    let reference = Reference::new();
    register(&reference).await;
    let mut queries: Vec<String> = SPECIAL.map(String::from).to_vec();
    queries.extend((1..=QUERIES).map(|number| query(number, SCALE_FACTOR)));
    let mut mismatches = Mismatches::default();
    for sql in &queries {
        for by in [By::Statement, By::Handle] {
            let outcome = same_everywhere(&client, Asked::Sql(sql), by).await;
            mismatches.note(sql, outcome.map(drop).map_err(|status| status.to_string()));
        }
    }
    for sql in &queries[SPECIAL.len()..] {
        let outcome = same_as_sql(&client, &reference, sql).await;
        mismatches.note(&format!("as a plan: {sql}"), outcome);
    }
    mismatches.assert_none();
}

/// As a Substrait plan: one schema in all places, with the rows of the reference.
async fn same_as_sql(client: &Client, reference: &Reference, sql: &str) -> Result<(), String> {
    let plan = plan_of(reference, sql).await;
    let asked = Asked::Plan(&plan);
    let rows = same_everywhere(client, asked, By::Statement).await;
    let rows = rows.map_err(|status| status.to_string())?;
    let expected = reference.run(sql).await.map_err(|error| error.to_string())?;
    let names = |schema: &SchemaRef| -> Vec<String> { schema.fields().iter().map(|it| it.name().clone()).collect() };
    if names(&rows.0) != names(&expected.rows.0) {
        return Err(format!("the columns are {:?}", names(&rows.0)));
    }
    compare(&expected.rows, &rows, &expected.order).map_err(|difference| difference.to_string())
}
