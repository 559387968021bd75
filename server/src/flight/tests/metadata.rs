//! Metadata commands.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn metadata_rows_match_announced_schemas() {
    let mut client = connect().await;
    let mut infos = vec![
        client.get_catalogs().await.unwrap(),
        client.get_table_types().await.unwrap(),
        client.get_sql_info(Vec::new()).await.unwrap(),
    ];
    infos.push(client.get_db_schemas(CommandGetDbSchemas::default()).await.unwrap());
    for include_schema in [false, true] {
        let request = CommandGetTables {
            include_schema,
            ..Default::default()
        };
        infos.push(client.get_tables(request).await.unwrap());
    }
    let xdbc = CommandGetXdbcTypeInfo { data_type: None };
    infos.push(client.get_xdbc_type_info(xdbc).await.unwrap());
    for info in &infos {
        let (_, batches) = fetch(&mut client, info).await;
        assert!(batches.iter().any(|batch| batch.num_rows() > 0));
    }
    let keys = [
        client.get_primary_keys(CommandGetPrimaryKeys::default()).await.unwrap(),
        client
            .get_exported_keys(CommandGetExportedKeys::default())
            .await
            .unwrap(),
        client
            .get_imported_keys(CommandGetImportedKeys::default())
            .await
            .unwrap(),
        client
            .get_cross_reference(CommandGetCrossReference::default())
            .await
            .unwrap(),
    ];
    for info in &keys {
        let (schema, batches) = fetch(&mut client, info).await;
        assert!(schema.fields().len() >= 6);
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    }
    for info in infos.iter().chain(&keys) {
        let descriptor = info.flight_descriptor.clone().unwrap();
        let schema: SchemaResult = raw(&mut client).get_schema(descriptor).await.unwrap().into_inner();
        assert_eq!(schema.schema, info.schema);
    }
}
