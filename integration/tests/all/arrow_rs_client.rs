//! Every method of arrow-rs's own Flight SQL client, `FlightSqlServiceClient`.
//!
//! The client keeps its defaults: it decodes at most 4 MiB a message, and ignores fields that it does not know.

use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::{ArrowFlightData, FlightSqlServiceClient, arrow_data_from_flight_data};
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
    CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetTables, CommandGetXdbcTypeInfo, CommandStatementIngest,
    CommandStatementUpdate, DoPutUpdateResult, EndTransaction, ProstMessageExt, SqlInfo,
};
use arrow_flight::{Action, FlightData, FlightDescriptor, FlightInfo};
use futures::{TryStreamExt, stream};
use prost::Message;
use prost::bytes::Bytes;
use squadron_integration::client::status;
use squadron_integration::cluster::Cluster;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::support::{bounded, minutes, two_workers};

type Client = FlightSqlServiceClient<Channel>;

async fn start() -> (Cluster, Client) {
    let cluster = two_workers().start().await;
    let channel = cluster.client().await.channel();
    (cluster, FlightSqlServiceClient::new(channel))
}

/// Reads the rows of all endpoints of a FlightInfo.
async fn rows(client: &mut Client, info: FlightInfo) -> Vec<RecordBatch> {
    let schema = info.clone().try_decode_schema().expect("a schema");
    let mut batches = Vec::new();
    for endpoint in info.endpoint {
        let ticket = endpoint.ticket.expect("an endpoint has a ticket");
        let mut stream = client.do_get(ticket).await.expect("the ticket is good");
        let found: Vec<_> = (&mut stream).try_collect().await.expect("its rows come");
        assert_eq!(**stream.schema().expect("a stream tells its schema"), schema);
        batches.extend(found);
    }
    batches
}

async fn count(client: &mut Client, info: FlightInfo) -> usize {
    let batches = rows(client, info).await;
    batches.iter().map(RecordBatch::num_rows).sum()
}

async fn number(client: &mut Client, info: FlightInfo) -> i64 {
    let batches = rows(client, info).await;
    let batch = batches.iter().find(|batch| batch.num_rows() > 0);
    let batch = batch.expect("a row");
    batch.column(0).as_primitive::<Int64Type>().value(0)
}

fn assert_refused<T>(outcome: Result<T, FlightError>, code: Code, words: &str) {
    let Err(error) = outcome else {
        panic!("answered, not refused with {words:?}");
    };
    let status: Status = status(error);
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(words), "{status}");
}

fn parameters(values: &[i64]) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("$1", DataType::Int64, true)]);
    let values = Int64Array::from(values.to_vec());
    RecordBatch::try_new(schema.into(), vec![Arc::new(values)]).expect("one column")
}

#[test]
fn statements_and_updates_run() {
    bounded(minutes(5), async {
        let (_cluster, mut client) = start().await;
        let info = client.execute("SELECT count(*) FROM lineitem".into(), None).await;
        assert_eq!(number(&mut client, info.expect("it starts")).await, 60_175);
        let info = client.execute("SELECT * FROM lineitem".into(), None).await;
        assert_eq!(count(&mut client, info.expect("it starts")).await, 60_175);
        let created = client
            .execute_update("CREATE VIEW arrow_rs AS SELECT 1 AS one".into(), None)
            .await;
        assert_eq!(created.expect("DDL runs"), 0);
        let again = client
            .execute_update("CREATE VIEW arrow_rs AS SELECT 1 AS one".into(), None)
            .await;
        assert!(again.is_err(), "it had run once");
        let dropped = client.execute_update("DROP VIEW arrow_rs".into(), None).await;
        assert_eq!(dropped.expect("DDL runs"), 0);
        assert_refused(
            client.execute("SELEC 1".into(), None).await,
            Code::InvalidArgument,
            "SELEC",
        );
        let missing = client.execute("SELECT * FROM regoin".into(), None).await;
        assert_refused(missing, Code::NotFound, "region");
        client.close().await.expect("closing does nothing");
    });
}

#[test]
fn prepared_statements_bind_and_run() {
    bounded(minutes(5), async {
        let (_cluster, mut client) = start().await;
        let sql = "SELECT count(*) AS n FROM nation WHERE n_regionkey = $1";
        let mut query = client.prepare(sql.into(), None).await.expect("it is prepared");
        let dataset = query.dataset_schema().expect("a schema");
        assert_eq!(dataset.field(0).name(), "n");
        let expected = query.parameter_schema().expect("a schema");
        assert_eq!(*expected.field(0).data_type(), DataType::Int64);
        for key in 0..5 {
            query.set_parameters(parameters(&[key])).expect("they fit");
            let info = query.execute().await.expect("it runs");
            assert_eq!(number(&mut client, info).await, 5);
        }
        query.close().await.expect("it closes");

        let create = "CREATE VIEW arrow_rs_prepared AS SELECT 1 AS one";
        let mut create = client.prepare(create.into(), None).await.expect("it is prepared");
        assert_eq!(create.execute_update().await.expect("it runs"), 0);
        assert!(create.execute_update().await.is_err(), "it had run once");
        create.close().await.expect("it closes");
        let dropped = client.execute_update("DROP VIEW arrow_rs_prepared".into(), None).await;
        assert_eq!(dropped.expect("it was there"), 0);
    });
}

#[test]
fn metadata_methods_return_their_rows() {
    bounded(minutes(5), async {
        let (_cluster, mut client) = start().await;
        let info = client.get_catalogs().await.expect("catalogs");
        assert!(count(&mut client, info).await >= 1);
        let info = client.get_db_schemas(CommandGetDbSchemas::default()).await;
        assert!(count(&mut client, info.expect("schemas")).await >= 1);
        let tables = CommandGetTables {
            table_name_filter_pattern: Some("part%".into()),
            include_schema: true,
            ..Default::default()
        };
        let info = client.get_tables(tables).await.expect("tables");
        assert_eq!(count(&mut client, info).await, 2);
        let info = client.get_table_types().await.expect("table types");
        assert!(count(&mut client, info).await >= 2);
        let info = client.get_sql_info(vec![SqlInfo::FlightSqlServerName]).await;
        assert_eq!(count(&mut client, info.expect("SqlInfo")).await, 1);
        let info = client
            .get_xdbc_type_info(CommandGetXdbcTypeInfo { data_type: None })
            .await;
        assert!(count(&mut client, info.expect("types")).await > 10);

        let table = || "nation".to_owned();
        let primary = CommandGetPrimaryKeys {
            table: table(),
            ..Default::default()
        };
        let exported = CommandGetExportedKeys {
            table: table(),
            ..Default::default()
        };
        let imported = CommandGetImportedKeys {
            table: table(),
            ..Default::default()
        };
        let crossed = CommandGetCrossReference {
            pk_table: "region".into(),
            fk_table: table(),
            ..Default::default()
        };
        for info in [
            client.get_primary_keys(primary).await,
            client.get_exported_keys(exported).await,
            client.get_imported_keys(imported).await,
            client.get_cross_reference(crossed).await,
        ] {
            assert_eq!(count(&mut client, info.expect("keys")).await, 0);
        }
    });
}

#[test]
fn client_sends_token_and_headers() {
    bounded(minutes(5), async {
        let (_cluster, mut client) = start().await;
        assert_eq!(client.token(), None);
        let payload = client.handshake("someone", "secret").await.expect("everyone may");
        let token = client.token().cloned().expect("the handshake sets it");
        assert_eq!(payload, token.as_bytes());
        client.set_header("x-request-source", "suite");
        let info = client.execute("SELECT 1".into(), None).await.expect("with the token");
        assert_eq!(number(&mut client, info).await, 1);
        client.clear_token();
        client.set_token(token);
        let mut copy = client.clone();
        let info = copy.execute("SELECT 2".into(), None).await.expect("and again");
        assert_eq!(number(&mut copy, info).await, 2);
        client.clear_token();
        assert_eq!(client.token(), None);
    });
}

#[test]
fn raw_flight_calls_are_served() {
    bounded(minutes(5), async {
        let (_cluster, client) = start().await;
        let mut client = FlightSqlServiceClient::new_from_inner(client.into_inner());
        let update = CommandStatementUpdate {
            query: "SET datafusion.explain.show_sizes = true".into(),
            transaction_id: None,
        };
        let command = FlightDescriptor::new_cmd(update.as_any().encode_to_vec());
        let message = FlightData::new().with_descriptor(command);
        let mut answer = client.do_put(stream::iter([message])).await.expect("it runs");
        let answer = answer.message().await.expect("no error").expect("an answer");
        let answer = DoPutUpdateResult::decode(answer.app_metadata).expect("a count");
        assert_eq!(answer.record_count, 0);

        let close = ActionClosePreparedStatementRequest {
            prepared_statement_handle: Bytes::from_static(b"closed long ago"),
        };
        let action = Action::new("ClosePreparedStatement", close.as_any().encode_to_vec());
        let mut answer = client.do_action(action).await.expect("closing twice is no error");
        assert!(answer.message().await.expect("no error").is_none());

        // The messages themselves, decoded one by one.
        let info = client
            .execute("SELECT 5 AS five".into(), None)
            .await
            .expect("it starts");
        let schema = Arc::new(info.clone().try_decode_schema().expect("a schema"));
        let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
        let inner: &mut FlightServiceClient<Channel> = client.inner_mut();
        let messages = inner.do_get(ticket).await.expect("it streams").into_inner();
        let messages: Vec<FlightData> = messages.try_collect().await.expect("all of it");
        let mut numbers = Vec::new();
        for message in messages {
            match arrow_data_from_flight_data(message, &schema).expect("it can be read") {
                ArrowFlightData::Schema(sent) => assert_eq!(sent, *schema),
                ArrowFlightData::RecordBatch(batch) => {
                    numbers.extend(batch.column(0).as_primitive::<Int64Type>().values().to_vec());
                }
            }
        }
        assert_eq!(numbers, [5]);
        let _: &FlightServiceClient<Channel> = client.inner();
    });
}

#[test]
fn transactions_and_ingestion_are_refused() {
    bounded(minutes(5), async {
        let (_cluster, mut client) = start().await;
        assert_refused(client.begin_transaction().await, Code::Unimplemented, "autocommit");
        let end = client
            .end_transaction(Bytes::from_static(b"t1"), EndTransaction::Commit)
            .await;
        assert_refused(end, Code::Unimplemented, "autocommit");
        let transaction = Some(Bytes::from_static(b"t1"));
        let query = client.execute("SELECT 1".into(), transaction.clone()).await;
        assert_refused(query, Code::Unimplemented, "autocommit");
        let prepared = client.prepare("SELECT 1".into(), transaction).await;
        assert_refused(prepared.map(drop), Code::Unimplemented, "autocommit");
        let ingest = CommandStatementIngest {
            table: "arrow_rs_table".into(),
            ..Default::default()
        };
        let rows = stream::iter([Ok(parameters(&[1, 2]))]);
        let ingested = client.execute_ingest(ingest, rows).await;
        assert_refused(ingested, Code::Unimplemented, "CREATE EXTERNAL TABLE");
    });
}
