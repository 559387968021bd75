//! Substrait plans, and bulk ingestion.

use std::collections::HashMap;

use arrow_flight::sql::{
    ActionCreatePreparedSubstraitPlanRequest, CommandStatementIngest,
    CommandStatementSubstraitPlan, SubstraitPlan, TableDefinitionOptions, TableExistsOption,
    TableNotExistOption,
};
use prost::bytes::Bytes;
use tonic::Code;

use super::wire::{Request, packed, put_rows};
use super::world::{World, integers, statement};
use super::{Entry, Rpc, check, example, refused};

const NO_SUBSTRAIT: &str = "Substrait is not supported yet; send SQL";

pub(super) fn entries() -> Vec<Entry> {
    vec![
        refused(
            "CommandStatementSubstraitPlan",
            &[Rpc::GetFlightInfo, Rpc::GetSchema, Rpc::DoPut],
            NO_SUBSTRAIT,
        )
        .used_by("ADBC `set_substrait_plan`; Go, C++, Java")
        .example(example!(packed(&plan()))),
        refused(
            "CommandStatementSubstraitPlan",
            &[Rpc::PollFlightInfo],
            "PollFlightInfo is not served yet; use GetFlightInfo, which answers at once",
        )
        .used_by("Go")
        .example(example!(packed(&plan()))),
        refused(
            "ActionCreatePreparedSubstraitPlanRequest",
            &[Rpc::DoAction],
            "Substrait plans are not supported yet; send SQL",
        )
        .used_by("Python `cursor.execute(bytes)`; Go, C++")
        .example(example!(packed(
            &ActionCreatePreparedSubstraitPlanRequest {
                plan: plan().plan,
                transaction_id: None,
            }
        ))),
        refused(
            "CommandStatementIngest",
            &[Rpc::DoPut],
            "bulk ingestion is not supported yet; CREATE EXTERNAL TABLE makes a table of files",
        )
        .used_by("ADBC `adbc_ingest`; pandas and Polars `to_sql`, `write_database`")
        .example(example!(packed(&ingest())))
        .check(check!(ingestion_with_rows_is_refused)),
    ]
}

/// A plan of nothing: well-formed as a message, without a relation.
fn plan() -> CommandStatementSubstraitPlan {
    let plan = SubstraitPlan {
        plan: Bytes::new(),
        version: String::new(),
    };
    CommandStatementSubstraitPlan {
        plan: Some(plan),
        transaction_id: None,
    }
}

fn ingest() -> CommandStatementIngest {
    CommandStatementIngest {
        table_definition_options: Some(TableDefinitionOptions {
            if_not_exist: TableNotExistOption::Create.into(),
            if_exists: TableExistsOption::Append.into(),
        }),
        table: "conformance_ingest".into(),
        schema: None,
        catalog: None,
        temporary: false,
        transaction_id: None,
        options: HashMap::new(),
    }
}

async fn ingestion_with_rows_is_refused(world: &World) {
    let messages = put_rows(&ingest(), integers(&[1, 2, 3])).await;
    let status = world.refusal(Request::Put(messages)).await;
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
    let table = statement("SELECT * FROM conformance_ingest");
    let status = world
        .refusal(Request::Info(super::wire::command(&table)))
        .await;
    assert_eq!(status.code(), Code::NotFound, "nothing was made: {status}");
}
