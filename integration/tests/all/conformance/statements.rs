//! SQL statements: queries, their tickets, and updates.

use arrow::datatypes::Schema;
use arrow_flight::sql::{CommandStatementQuery, CommandStatementUpdate, DoPutUpdateResult, TicketStatementQuery};
use arrow_flight::{FlightDescriptor, FlightInfo, PutResult, SchemaResult};
use prost::Message;
use prost::bytes::Bytes;
use squadron_integration::client::ticket;
use tonic::Code;

use super::wire::{Request, command, only, pack, put_without_rows};
use super::world::{World, statement};
use super::{Entry, Rpc, check, example, served};

/// The refusal of statements in a transaction.
const NO_TRANSACTIONS: &str = "transactions are not supported; connect with autocommit";

pub(super) fn entries() -> Vec<Entry> {
    vec![
        served(
            "CommandStatementQuery",
            &[Rpc::GetFlightInfo, Rpc::PollFlightInfo, Rpc::GetSchema],
            "any statement; the query starts in GetFlightInfo or the first poll, DDL, INSERT and COPY run there, \
             exactly once",
        )
        .used_by("ODBC SQLExecDirect; ADBC low level, ExecuteSchema, `incremental`; C++, Go, Rust; flightsql-dbapi")
        .example(example!(pack(&statement("SELECT r_name FROM region"))))
        .check(check!(rows_match_their_schema))
        .check(check!(empty_results_have_the_schema))
        .check(check!(ddl_runs_once_in_get_flight_info))
        .check(check!(polls_lead_to_the_rows))
        .check(check!(ddl_by_poll_runs_once))
        .check(check!(get_schema_runs_nothing))
        .check(check!(errors_name_the_position))
        .check(check!(query_in_transaction_is_refused)),
        served(
            "TicketStatementQuery",
            &[Rpc::DoGet],
            "the schema at once, the rows as they come, once; the ticket is opaque, signed and expires",
        )
        .used_by("every driver, as the ticket of a FlightInfo")
        .example(|world| Box::pin(fresh_ticket(world)))
        .with_handle(|handle| {
            let statement_handle = Bytes::copy_from_slice(handle);
            pack(&TicketStatementQuery { statement_handle })
        })
        .owned()
        .check(check!(result_is_read_once)),
        served(
            "CommandStatementUpdate",
            &[Rpc::DoPut],
            "DDL, SET, INSERT and COPY, run exactly once, with the number of affected rows",
        )
        .used_by("ADBC `executescript` and `execute_update`; C++, Go, Rust")
        .example(example!(pack(&update("SET datafusion.explain.show_sizes = true"))))
        .check(check!(updates_run_once_and_count))
        .check(check!(update_in_transaction_is_refused)),
    ]
}

async fn fresh_ticket(world: &World) -> Vec<u8> {
    let info = world.info(&statement("SELECT r_name FROM region")).await;
    ticket(&info).ticket.to_vec()
}

pub(super) fn update(sql: &str) -> CommandStatementUpdate {
    CommandStatementUpdate {
        query: sql.into(),
        transaction_id: None,
    }
}

/// The count that a DoPut of an update answers.
pub(super) fn count_of(answer: &Vec<Vec<u8>>) -> i64 {
    let result: PutResult = only(answer);
    let result = DoPutUpdateResult::decode(result.app_metadata);
    result.expect("a count").record_count
}

async fn rows_match_their_schema(world: &World) {
    let query = statement("SELECT r_regionkey, r_name FROM region ORDER BY 1");
    let info: FlightInfo = world.info(&query).await;
    assert_eq!(info.flight_descriptor, Some(command(&query)));
    assert_eq!(info.app_metadata.len(), 36, "the query id");
    assert!(info.total_records == -1 || info.total_records == 5);
    assert!(info.endpoint[0].location.is_empty(), "fetched where it was asked");
    let batch = world.batch(&query).await;
    assert_eq!(batch.num_rows(), 5);
    assert_eq!(batch.schema().fields().len(), 2);
}

async fn empty_results_have_the_schema(world: &World) {
    for sql in [
        "SELECT l_orderkey, l_comment FROM lineitem WHERE false",
        "SELECT min(l_shipdate) AS first FROM lineitem WHERE l_orderkey < 0 GROUP BY l_linenumber",
        "SELECT * FROM lineitem LIMIT 0",
    ] {
        let (schema, batches) = world.rows(&statement(sql)).await;
        assert!(!schema.fields().is_empty(), "{sql}");
        assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 0, "{sql}");
    }
}

async fn ddl_runs_once_in_get_flight_info(world: &World) {
    let create = statement("CREATE VIEW conformance_once AS SELECT 1 AS one");
    let info = world.info(&create).await;
    // The view exists already, although the empty result was not fetched.
    assert_eq!(world.number("SELECT count(*) FROM conformance_once").await, 1);
    let (_, batches) = world.client.fetch(info).await.expect("an empty result");
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 0);
    // DoGet did not run it again: a second CREATE fails, and one DROP is enough.
    let again = world.refusal(Request::Info(command(&create))).await;
    assert!(again.message().contains("conformance_once"), "{again}");
    world.info(&statement("DROP VIEW conformance_once")).await;
    let gone = statement("SELECT * FROM conformance_once");
    let gone = world.refusal(Request::Info(command(&gone))).await;
    assert_eq!(gone.code(), Code::NotFound, "{gone}");
}

async fn polls_lead_to_the_rows(world: &World) {
    let query = statement("SELECT l_linenumber, count(*) AS n FROM lineitem GROUP BY 1");
    let info = world.poll_to_end(command(&query)).await;
    assert_eq!(info.app_metadata.len(), 36, "the query id");
    let (_, batches) = world.client.fetch(info).await.expect("the rows");
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 7);
    let wrong = Request::Poll(command(&statement("SELECT * FROM regoin")));
    let status = world.refusal(wrong).await;
    assert_eq!(status.code(), Code::NotFound, "{status}");
}

async fn ddl_by_poll_runs_once(world: &World) {
    let create = command(&statement("CREATE VIEW conformance_poll AS SELECT 1 AS one"));
    world.poll_to_end(create.clone()).await;
    let again = world.refusal(Request::Poll(create)).await;
    assert!(again.message().contains("conformance_poll"), "{again}");
    world
        .poll_to_end(command(&statement("DROP VIEW conformance_poll")))
        .await;
    let gone = command(&statement("SELECT * FROM conformance_poll"));
    let gone = world.refusal(Request::Info(gone)).await;
    assert_eq!(gone.code(), Code::NotFound, "{gone}");
}

async fn get_schema_runs_nothing(world: &World) {
    let create = statement("CREATE VIEW conformance_never AS SELECT 1 AS one");
    let answer = world.send(Request::Schema(command(&create))).await;
    let answer: SchemaResult = only(&answer.expect("DDL has a schema"));
    let schema = Schema::try_from(&answer).expect("a schema");
    assert!(schema.fields().is_empty(), "{schema}");
    let absent = statement("SELECT * FROM conformance_never");
    let absent = world.refusal(Request::Info(command(&absent))).await;
    assert_eq!(absent.code(), Code::NotFound, "{absent}");
}

async fn errors_name_the_position(world: &World) {
    for (sql, code, words) in [
        ("SELEC 1", Code::InvalidArgument, "SELEC"),
        ("SELECT *\n  FROM region WHERE", Code::InvalidArgument, "Line: 2"),
        ("SELECT * FROM regoin", Code::NotFound, "region"),
        ("SELECT r_nmae FROM region", Code::InvalidArgument, "r_name"),
        ("SELECT 'a' + DATE '2024-01-01'", Code::InvalidArgument, ""),
        ("", Code::InvalidArgument, ""),
        ("SELECT 1; SELECT 2", Code::Unimplemented, ""),
    ] {
        for request in [
            Request::Info(command(&statement(sql))),
            Request::Schema(command(&statement(sql))),
        ] {
            let status = world.refusal(request).await;
            let code_is_right = status.code() == code || (sql.contains(';') && status.code() == Code::InvalidArgument);
            assert!(code_is_right, "{sql}: {status}");
            assert!(status.message().contains(words), "{sql}: {status}");
            assert!(!status.message().is_empty(), "{sql}");
        }
    }
}

async fn query_in_transaction_is_refused(world: &World) {
    let query = CommandStatementQuery {
        query: "SELECT 1".into(),
        transaction_id: Some(Bytes::from_static(b"t1")),
    };
    let status = world.refusal(Request::Info(command(&query))).await;
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
    assert!(status.message().contains(NO_TRANSACTIONS), "{status}");
    // Go's driver sends an empty one for "none".
    let query = CommandStatementQuery {
        transaction_id: Some(Bytes::new()),
        ..query
    };
    let batch = world.batch(&query).await;
    assert_eq!(batch.num_rows(), 1);
}

async fn result_is_read_once(world: &World) {
    let ticket = fresh_ticket(world).await;
    let first = world.send(Request::Get(ticket.clone())).await;
    assert!(!first.expect("the first time it is there").is_empty());
    let second = world.refusal(Request::Get(ticket)).await;
    assert_eq!(second.code(), Code::NotFound, "{second}");
}

async fn updates_run_once_and_count(world: &World) {
    let create = pack(&update("CREATE VIEW conformance_put AS SELECT 1 AS one"));
    // ADBC sends an Arrow stream without columns; C++ and Rust send only the command.
    let answer = world.send(Request::Put(put_without_rows(&create))).await;
    assert_eq!(count_of(&answer.expect("it runs")), 0);
    let status = world.refusal(Request::Put(put_without_rows(&create))).await;
    assert!(status.message().contains("conformance_put"), "{status}");
    let drop = FlightDescriptor::new_cmd(pack(&update("DROP VIEW conformance_put")));
    let drop = vec![arrow_flight::FlightData::new().with_descriptor(drop)];
    let answer = world.send(Request::Put(drop)).await;
    assert_eq!(count_of(&answer.expect("it runs")), 0);
    let gone = statement("SELECT * FROM conformance_put");
    let gone = world.refusal(Request::Info(command(&gone))).await;
    assert_eq!(gone.code(), Code::NotFound, "{gone}");
}

async fn update_in_transaction_is_refused(world: &World) {
    let mut command = update("CREATE VIEW conformance_transaction AS SELECT 1 AS one");
    command.transaction_id = Some(Bytes::from_static(b"t1"));
    let status = world.refusal(Request::Put(put_without_rows(&pack(&command)))).await;
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
    assert!(status.message().contains(NO_TRANSACTIONS), "{status}");
}
