//! Substrait plans, and bulk ingestion.

use std::collections::HashMap;

use arrow_flight::sql::{
    ActionCreatePreparedSubstraitPlanRequest, CommandStatementIngest, CommandStatementSubstraitPlan, SubstraitPlan,
    TableDefinitionOptions, TableExistsOption, TableNotExistOption,
};
use datafusion::logical_expr::{LogicalPlanBuilder, lit};
use datafusion::prelude::SessionContext;
use datafusion_substrait::logical_plan::producer::to_substrait_plan;
use prost::Message;
use tonic::Code;

use super::wire::{Request, pack, put_rows};
use super::world::{World, integers, statement};
use super::{Entry, Rpc, check, example, refused, served};
use crate::schemas::{Route, Source, query_checking_schemas};

pub(super) fn entries() -> Vec<Entry> {
    vec![
        served(
            "CommandStatementSubstraitPlan",
            &[Rpc::GetFlightInfo, Rpc::PollFlightInfo, Rpc::GetSchema, Rpc::DoPut],
            "a plan in the binary form of protobuf; as an update it is run to its end",
        )
        .used_by("ADBC `set_substrait_plan`; Go, C++, Java")
        .example(example!(pack(&plan())))
        .check(check!(plan_returns_its_rows)),
        served(
            "ActionCreatePreparedSubstraitPlanRequest",
            &[Rpc::DoAction],
            "a plan with its parameters, answered as CreatePreparedStatement is",
        )
        .used_by("Python `cursor.execute(bytes)`; Go, C++")
        .example(example!(pack(&ActionCreatePreparedSubstraitPlanRequest {
            plan: plan().plan,
            transaction_id: None,
        })))
        .check(check!(prepared_plan_returns_its_rows)),
        refused(
            "CommandStatementIngest",
            &[Rpc::DoPut],
            "bulk ingestion is not supported yet; CREATE EXTERNAL TABLE makes a table of files",
        )
        .used_by("ADBC `adbc_ingest`; pandas and Polars `to_sql`, `write_database`")
        .example(example!(pack(&ingest())))
        .check(check!(ingestion_with_rows_is_refused)),
    ]
}

/// A plan of one row.
fn plan() -> CommandStatementSubstraitPlan {
    let rows = LogicalPlanBuilder::values(vec![vec![lit(1_i64)]]);
    let rows = rows.and_then(LogicalPlanBuilder::build).expect("it is a plan");
    let state = SessionContext::new().state();
    let bytes = to_substrait_plan(&rows, &state).expect("it is a Substrait plan");
    let plan = SubstraitPlan {
        plan: bytes.encode_to_vec().into(),
        version: String::new(),
    };
    CommandStatementSubstraitPlan {
        plan: Some(plan),
        transaction_id: None,
    }
}

async fn plan_returns_its_rows(world: &World) {
    assert_eq!(world.batch(&plan()).await.num_rows(), 1);
}

async fn prepared_plan_returns_its_rows(world: &World) {
    let bytes = plan().plan.expect("it has one").plan;
    let (schema, batches) = query_checking_schemas(&world.client, Source::Plan(&bytes), Route::Handle)
        .await
        .expect("it runs by its handle");
    assert_eq!(schema.fields().len(), 1);
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 1);
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
    let status = world.refusal(Request::Info(super::wire::command(&table))).await;
    assert_eq!(status.code(), Code::NotFound, "nothing was made: {status}");
}
