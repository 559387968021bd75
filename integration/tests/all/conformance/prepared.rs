//! Prepared statements: created by an action, bound by DoPut, run by GetFlightInfo or DoPut.

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::ipc::convert::try_schema_from_ipc_buffer;
use arrow_flight::PutResult;
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, Any, CommandPreparedStatementUpdate,
    DoPutPreparedStatementResult,
};
use futures::future::join_all;
use prost::Message;
use prost::bytes::Bytes;
use tonic::Code;

use super::statements::count_of;
use super::wire::{Request, act, command, only, pack, put_rows, put_without_rows};
use super::world::{World, integers, number_of, prepared_query};
use super::{Entry, Rpc, check, example, served};
use crate::session_messages::PreparedResult;

pub(super) fn entries() -> Vec<Entry> {
    vec![
        served(
            "ActionCreatePreparedStatementRequest",
            &[Rpc::DoAction],
            "a handle, the schemas of rows and parameters, `is_update`; `?` and `$n`",
        )
        .used_by("every Python `cursor.execute`; every JDBC statement; Go, C++, Rust")
        .example(example!(pack(&create("SELECT $1 + 1 AS next"))))
        .check(check!(prepare_returns_schemas_and_kind))
        .check(check!(both_kinds_of_placeholders_work))
        .check(check!(invalid_statements_are_not_prepared)),
        served(
            "ActionClosePreparedStatementRequest",
            &[Rpc::DoAction],
            "no result; the handle is gone, and closing it again is no error",
        )
        .used_by("every driver, when a statement is closed")
        .example(|world| Box::pin(async { close(&world.handle("SELECT 1").await) }))
        .check(check!(closed_statement_is_gone)),
        served(
            "CommandPreparedStatementQuery",
            &[Rpc::GetFlightInfo, Rpc::PollFlightInfo, Rpc::GetSchema],
            "runs the statement with what is bound; a handle can be used again and at the same time",
        )
        .used_by("every Python `cursor.execute`; every JDBC SELECT; `adbc_execute_partitions`")
        .example(|world| Box::pin(async { pack(&prepared_query(world.handle("SELECT 1 AS one").await)) }))
        .with_handle(|handle| pack(&prepared_query(handle.to_vec())))
        .owned()
        .check(check!(handle_can_be_reused))
        .check(check!(bound_statements_are_polled))
        .check(check!(parameters_must_be_bound)),
        served(
            "CommandPreparedStatementQuery",
            &[Rpc::DoPut],
            "binds parameters and answers a handle that stands for statement and parameters",
        )
        .used_by("parameters of every driver; `executemany`")
        .example(|world| Box::pin(async { pack(&prepared_query(world.handle("SELECT 1 AS one").await)) }))
        .with_handle(|handle| pack(&prepared_query(handle.to_vec())))
        .owned()
        .check(check!(bindings_do_not_mix))
        .check(check!(wrong_parameters_are_refused)),
        served(
            "CommandPreparedStatementUpdate",
            &[Rpc::DoPut],
            "runs DDL, SET, INSERT and COPY with the number of affected rows; no rows of parameters are no execution",
        )
        .used_by("JDBC updates and batches; Python `executemany`; Go, C++")
        .example(|world| {
            Box::pin(async {
                pack(&prepared_update(
                    world.handle("SET datafusion.explain.show_sizes = true").await,
                ))
            })
        })
        .with_handle(|handle| pack(&prepared_update(handle.to_vec())))
        .owned()
        .check(check!(prepared_update_runs_once)),
    ]
}

fn create(sql: &str) -> ActionCreatePreparedStatementRequest {
    ActionCreatePreparedStatementRequest {
        query: sql.into(),
        transaction_id: None,
    }
}

fn close(handle: &Bytes) -> Vec<u8> {
    pack(&ActionClosePreparedStatementRequest {
        prepared_statement_handle: handle.clone(),
    })
}

pub(super) fn prepared_update(handle: impl Into<Bytes>) -> CommandPreparedStatementUpdate {
    CommandPreparedStatementUpdate {
        prepared_statement_handle: handle.into(),
    }
}

/// Binds one row and gives the handle of the answer.
async fn bind(world: &World, handle: &Bytes, rows: RecordBatch) -> Bytes {
    let messages = put_rows(&prepared_query(handle.clone()), rows).await;
    let answer = world.send(Request::Put(messages)).await;
    let answer: PutResult = only(&answer.expect("it is bound"));
    let answer = DoPutPreparedStatementResult::decode(answer.app_metadata);
    let handle = answer.expect("a result").prepared_statement_handle;
    handle.expect("a bind always answers a handle")
}

async fn prepare(world: &World, sql: &str) -> PreparedResult {
    let any: Any = act(&world.client, "CreatePreparedStatement", pack(&create(sql)))
        .await
        .expect("it is prepared");
    assert!(any.type_url.ends_with(".ActionCreatePreparedStatementResult"));
    PreparedResult::decode(any.value).expect("a result")
}

fn schema(bytes: &[u8]) -> Schema {
    try_schema_from_ipc_buffer(bytes).expect("an encapsulated schema")
}

async fn prepare_returns_schemas_and_kind(world: &World) {
    let query = prepare(
        world,
        "SELECT n_name, $1 + n_nationkey AS sum FROM nation WHERE n_name LIKE $2",
    )
    .await;
    assert!(!query.prepared_statement_handle.is_empty());
    assert_eq!(query.is_update, Some(false));
    let dataset = schema(&query.dataset_schema);
    let names: Vec<_> = dataset.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["n_name", "sum"]);
    let parameters = schema(&query.parameter_schema);
    let names: Vec<_> = parameters.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["$1", "$2"]);
    assert!(
        parameters.fields().iter().all(|field| field.is_nullable()),
        "{parameters}"
    );
    let ddl = prepare(world, "CREATE VIEW conformance_prepared AS SELECT 1 AS one").await;
    assert_eq!(ddl.is_update, Some(true));
    // Without `is_update`, JDBC treats a statement with an empty schema as an update.
    assert!(ddl.dataset_schema.is_empty() || schema(&ddl.dataset_schema).fields().is_empty());
    let info = world.send(Request::Info(command(&super::world::statement(
        "SELECT * FROM conformance_prepared",
    ))));
    let status = info.await.expect_err("preparing runs nothing");
    assert_eq!(status.code(), Code::NotFound, "{status}");
}

async fn both_kinds_of_placeholders_work(world: &World) {
    for (sql, expected) in [
        ("SELECT '?' AS mark, ? AS a, ? AS b /* ? */ -- ?", 2),
        ("SELECT $2 AS a, $1 AS b, $2 AS c", 2),
        ("SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12", 12),
        ("SELECT 1", 0),
    ] {
        let parameters = schema(&prepare(world, sql).await.parameter_schema);
        assert_eq!(parameters.fields().len(), expected, "{sql}");
        for (position, field) in parameters.fields().iter().enumerate() {
            assert_eq!(*field.name(), format!("${}", position + 1), "{sql}");
            assert_ne!(*field.data_type(), DataType::Null, "JDBC cannot bind to it: {sql}");
        }
    }
}

async fn invalid_statements_are_not_prepared(world: &World) {
    for (sql, code) in [
        ("SELEC ?", Code::InvalidArgument),
        ("SELECT * FROM nowhere WHERE x = ?", Code::NotFound),
        ("", Code::InvalidArgument),
    ] {
        let request = Request::Action("CreatePreparedStatement", pack(&create(sql)));
        let status = world.refusal(request).await;
        assert_eq!(status.code(), code, "{sql}: {status}");
    }
    let mut of_a_transaction = create("SELECT 1");
    of_a_transaction.transaction_id = Some(Bytes::from_static(b"t1"));
    let request = Request::Action("CreatePreparedStatement", pack(&of_a_transaction));
    let status = world.refusal(request).await;
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
}

async fn closed_statement_is_gone(world: &World) {
    let handle = world.handle("SELECT 1 AS one").await;
    for _ in 0..2 {
        let answer = world
            .send(Request::Action("ClosePreparedStatement", close(&handle)))
            .await;
        assert!(answer.expect("it closes").is_empty(), "closing has no result");
    }
    let run = command(&prepared_query(handle.clone()));
    for request in [
        Request::Info(run.clone()),
        Request::Schema(run.clone()),
        Request::Put(put_without_rows(&run.cmd)),
    ] {
        let status = world.refusal(request).await;
        assert_eq!(status.code(), Code::NotFound, "{status}");
        assert!(status.message().contains("prepare"), "it says what to do: {status}");
    }
}

async fn handle_can_be_reused(world: &World) {
    let handle = world.handle("SELECT count(*) AS n FROM nation").await;
    for _ in 0..3 {
        assert_eq!(number_of(&world.batch(&prepared_query(handle.clone())).await), 25);
    }
    let query = prepared_query(handle);
    let at_once = (0..4).map(|_| world.batch(&query));
    for batch in join_all(at_once).await {
        assert_eq!(number_of(&batch), 25);
    }
}

async fn bound_statements_are_polled(world: &World) {
    let handle = world.handle("SELECT CAST($1 AS BIGINT) + 1 AS next").await;
    let handle = bind(world, &handle, integers(&[41])).await;
    let info = world.poll_to_end(command(&prepared_query(handle))).await;
    let (_, batches) = world.client.fetch(info).await.expect("the rows");
    assert_eq!(number_of(&batches[0]), 42);
}

async fn parameters_must_be_bound(world: &World) {
    let handle = world.handle("SELECT $1 + 1 AS next").await;
    let status = world.refusal(Request::Info(command(&prepared_query(handle)))).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("parameter"), "{status}");
}

async fn bindings_do_not_mix(world: &World) {
    let handle = world.handle("SELECT CAST($1 AS BIGINT) * 2 AS twice").await;
    let mut bound = Vec::new();
    for value in [1, 20, 300] {
        let answered = bind(world, &handle, integers(&[value])).await;
        assert!(!answered.is_empty());
        bound.push((value, answered));
    }
    for (value, handle) in bound.iter().rev() {
        let batch = world.batch(&prepared_query(handle.clone())).await;
        assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(0), value * 2);
    }
    // Some drivers ignore the answered handle: the statement's own handle stands for the last rows bound.
    let batch = world.batch(&prepared_query(handle)).await;
    assert_eq!(number_of(&batch), 600);
}

async fn wrong_parameters_are_refused(world: &World) {
    let handle = world
        .handle("SELECT CAST($1 AS BIGINT) + CAST($2 AS BIGINT) AS sum")
        .await;
    let messages = put_rows(&prepared_query(handle), integers(&[1])).await;
    let status = world.refusal(Request::Put(messages)).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("2 parameters but 1"), "{status}");

    let handle = world.handle("SELECT CAST($1 AS BIGINT) + 1 AS next").await;
    let field = Field::new("$1", DataType::Utf8, true);
    let text = std::sync::Arc::new(StringArray::from(vec!["no number"]));
    let text = RecordBatch::try_new(Schema::new(vec![field]).into(), vec![text]).unwrap();
    let messages = put_rows(&prepared_query(handle.clone()), text).await;
    let outcome = match world.send(Request::Put(messages)).await {
        Err(status) => Err(status),
        Ok(_) => match world
            .client
            .flight()
            .get_flight_info(command(&prepared_query(handle)))
            .await
        {
            Err(status) => Err(status),
            Ok(info) => world.client.fetch(info.into_inner()).await,
        },
    };
    let status = outcome.expect_err("a text that is no number");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("no number"), "{status}");
}

async fn prepared_update_runs_once(world: &World) {
    let create = world.handle("CREATE VIEW conformance_update AS SELECT 1 AS one").await;
    let put = pack(&prepared_update(create.clone()));
    let answer = world.send(Request::Put(put_without_rows(&put))).await;
    assert_eq!(count_of(&answer.expect("it runs")), 0);
    assert_eq!(world.number("SELECT count(*) FROM conformance_update").await, 1);
    let again = world.refusal(Request::Put(put_without_rows(&put))).await;
    assert!(again.message().contains("conformance_update"), "{again}");
    let drop = world.handle("DROP VIEW conformance_update").await;
    let drop = pack(&prepared_update(drop));
    let answer = world.send(Request::Put(put_without_rows(&drop))).await;
    assert_eq!(count_of(&answer.expect("it runs")), 0);
}
