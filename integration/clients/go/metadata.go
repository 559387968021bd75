package main

import (
	"context"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/flight/flightsql"
	"github.com/apache/arrow-go/v18/arrow/flight/flightsql/schema_ref"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

var metadataTests = []test{
	{"metadata has the schemas of the specification", metadataSchemas},
	{"catalogs and schemas", catalogs},
	{"tables by pattern", tables},
	{"columns with their metadata", columns},
	{"keys", keys},
	{"type info", typeInfo},
	{"server info", sqlInfo},
}

func column(read result, index int) []string {
	var values []string
	for _, row := range read.rows {
		values = append(values, row[index])
	}
	return values
}

// The specification does not define the metadata of fields.
func metadataSchemas(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	region := flightsql.TableRef{Table: "region"}
	for _, command := range []struct {
		info     *flight.FlightInfo
		expected *arrow.Schema
	}{
		{must(client.GetCatalogs(ctx)), schema_ref.Catalogs},
		{must(client.GetDBSchemas(ctx, &flightsql.GetDBSchemasOpts{})), schema_ref.DBSchemas},
		{must(client.GetTables(ctx, &flightsql.GetTablesOpts{})), schema_ref.Tables},
		{must(client.GetTables(ctx, &flightsql.GetTablesOpts{IncludeSchema: true})), schema_ref.TablesWithIncludedSchema},
		{must(client.GetTableTypes(ctx)), schema_ref.TableTypes},
		{must(client.GetPrimaryKeys(ctx, region)), schema_ref.PrimaryKeys},
		{must(client.GetImportedKeys(ctx, region)), schema_ref.ImportedKeys},
		{must(client.GetExportedKeys(ctx, region)), schema_ref.ExportedKeys},
		{must(client.GetCrossReference(ctx, region, region)), schema_ref.CrossReference},
		{must(client.GetXdbcTypeInfo(ctx, nil)), schema_ref.XdbcTypeInfo},
		{must(client.GetSqlInfo(ctx, nil)), schema_ref.SqlInfo},
	} {
		actual := fetch(ctx, client, command.info).schema
		equal(command.expected.NumFields(), actual.NumFields())
		for _, field := range command.expected.Fields() {
			// Fields are found by name, since arrow-go exchanges the last two columns of primary keys of FlightSql.proto.
			found := actual.Field(actual.FieldIndices(field.Name)[0])
			check(field.Nullable == found.Nullable, "%s: nullable is %v", field.Name, found.Nullable)
			check(arrow.TypeEqual(field.Type, found.Type) || field.Type.ID() == found.Type.ID() && arrow.IsNested(field.Type.ID()),
				"%s: %v is not %v", field.Name, found.Type, field.Type)
		}
	}
}

func catalogs(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	equal("[[datafusion]]", fetch(ctx, client, must(client.GetCatalogs(ctx))).rows)
	pattern := "pub%"
	schemas := fetch(ctx, client, must(client.GetDBSchemas(ctx, &flightsql.GetDBSchemasOpts{DbSchemaFilterPattern: &pattern})))
	equal("[[datafusion public]]", schemas.rows)
	nowhere := ""
	none := fetch(ctx, client, must(client.GetDBSchemas(ctx, &flightsql.GetDBSchemasOpts{Catalog: &nowhere})))
	equal(0, len(none.rows))
}

func tables(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	for pattern, expected := range map[string][]string{
		"n%":      {"nation"},
		"_ation":  {"nation"},
		"part%":   {"part", "partsupp"},
		`part\%`:  nil,
		"nothing": nil,
	} {
		found := fetch(ctx, client, must(client.GetTables(ctx, &flightsql.GetTablesOpts{TableNameFilterPattern: &pattern})))
		equal(expected, column(found, 2))
	}
	views := fetch(ctx, client, must(client.GetTables(ctx, &flightsql.GetTablesOpts{TableTypes: []string{"VIEW"}})))
	check(!slices.Contains(column(views, 2), "nation"), "a table among the views: %v", views.rows)
}

func columns(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	pattern := "lineitem"
	info := must(client.GetTables(ctx, &flightsql.GetTablesOpts{TableNameFilterPattern: &pattern, IncludeSchema: true}))
	reader := must(client.DoGet(ctx, info.Endpoint[0].Ticket))
	defer reader.Release()
	check(reader.Next(), "no table: %v", reader.Err())
	encoded := reader.RecordBatch().Column(4).(*array.Binary).Value(0)
	schema := must(flight.DeserializeSchema(encoded, memory.DefaultAllocator))
	described(schema.Field(schema.FieldIndices("l_extendedprice")[0]))
	described(query(ctx, client, "SELECT l_extendedprice FROM lineitem LIMIT 1").schema.Field(0))
}

func described(price arrow.Field) {
	metadata := flightsql.ColumnMetadata{Data: &price.Metadata}
	tableName, _ := metadata.TableName()
	equal("lineitem", tableName)
	precision, _ := metadata.Precision()
	equal(15, precision)
	scale, _ := metadata.Scale()
	equal(2, scale)
	typeName, _ := metadata.TypeName()
	equal("DECIMAL", typeName)
}

func keys(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	region := flightsql.TableRef{Table: "region"}
	for _, info := range []*flight.FlightInfo{
		must(client.GetPrimaryKeys(ctx, region)),
		must(client.GetImportedKeys(ctx, region)),
		must(client.GetExportedKeys(ctx, region)),
		must(client.GetCrossReference(ctx, region, flightsql.TableRef{Table: "nation"})),
	} {
		equal(0, len(fetch(ctx, client, info).rows))
	}
}

func typeInfo(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	all := fetch(ctx, client, must(client.GetXdbcTypeInfo(ctx, nil)))
	check(len(all.rows) > 20, "%d types", len(all.rows))
	number := int32(4)
	integers := fetch(ctx, client, must(client.GetXdbcTypeInfo(ctx, &number)))
	equal([]string{"INTEGER", "INTEGER UNSIGNED"}, column(integers, 0))
}

func sqlInfo(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	info := must(client.GetSqlInfo(ctx, []flightsql.SqlInfo{flightsql.SqlInfoFlightSqlServerName}))
	reader := must(client.DoGet(ctx, info.Endpoint[0].Ticket))
	defer reader.Release()
	check(reader.Next(), "no rows: %v", reader.Err())
	values := reader.RecordBatch().Column(1).(*array.DenseUnion)
	equal("Squadron", values.Field(values.ChildID(0)).(*array.String).Value(int(values.ValueOffset(0))))
}
