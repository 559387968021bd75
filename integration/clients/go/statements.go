package main

import (
	"bytes"
	"context"
	"io"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/flight/flightsql"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

var statementTests = []test{
	{"execute", execute},
	{"statement of two megabytes", longStatement},
	{"every row arrives", everyRow},
	{"schemas are the same everywhere", sameSchemas},
	{"an empty result has its schema", emptyResult},
	{"prepared statement with parameters", prepared},
	{"more than ten parameters", manyParameters},
	{"prepared statements tell queries from updates", isUpdate},
	{"updates run once", update},
	{"errors name what is wrong", errors},
	{"types", types},
	{"a large cell is the client's to refuse", largeCell},
	{"cancel", cancel},
	{"a stream that is dropped", dropped},
	{"poll", poll},
	{"session options", sessionOptions},
	{"transactions are refused", transactions},
}

func connect(ctx context.Context, address string, options ...grpc.DialOption) *flightsql.Client {
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
	return must(flightsql.NewClientCtx(ctx, address, nil, nil, options...))
}

// A result that was read to its end.
type result struct {
	schema *arrow.Schema
	rows   [][]string
}

func fetch(ctx context.Context, client *flightsql.Client, info *flight.FlightInfo) result {
	var read result
	for _, endpoint := range info.Endpoint {
		reader := must(client.DoGet(ctx, endpoint.Ticket))
		read.schema = reader.Schema()
		for reader.Next() {
			read.rows = append(read.rows, rowsOf(reader.RecordBatch())...)
		}
		err := reader.Err()
		reader.Release()
		succeeds(err)
	}
	promised := must(flight.DeserializeSchema(info.Schema, memory.DefaultAllocator))
	sameSchema(promised, read.schema)
	return read
}

func rowsOf(batch arrow.RecordBatch) [][]string {
	rows := make([][]string, batch.NumRows())
	for row := range rows {
		for _, column := range batch.Columns() {
			rows[row] = append(rows[row], column.ValueStr(row))
		}
	}
	return rows
}

func sameSchema(expected, actual *arrow.Schema) {
	check(expected.Equal(actual), "two schemas:\n%v\n%v", expected, actual)
	for index, field := range expected.Fields() {
		check(field.Equal(actual.Field(index)), "two fields: %v, %v", field, actual.Field(index))
		check(field.Metadata.Equal(actual.Field(index).Metadata), "two metadata of %s", field.Name)
	}
}

func query(ctx context.Context, client *flightsql.Client, sql string) result {
	return fetch(ctx, client, must(client.Execute(ctx, sql)))
}

func execute(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	names := query(ctx, client, "SELECT r_regionkey, r_name FROM region ORDER BY r_regionkey")
	equal("[[0 AFRICA] [1 AMERICA] [2 ASIA] [3 EUROPE] [4 MIDDLE EAST]]", names.rows)
}

func longStatement(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	length := query(ctx, client, "SELECT length('"+strings.Repeat("x", 2_000_000)+"')")
	equal("[[2000000]]", length.rows)
}

func everyRow(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	equal(60_175, len(query(ctx, client, "SELECT l_orderkey, l_comment FROM lineitem").rows))
}

func sameSchemas(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	sql := "SELECT min(o_orderdate), o_orderstatus, sum(o_totalprice) FROM orders GROUP BY o_orderstatus"
	told := must(client.GetExecuteSchema(ctx, sql))
	statement := must(client.Prepare(ctx, sql))
	defer statement.Close(ctx)
	again := must(statement.GetSchema(ctx))
	check(bytes.Equal(told.Schema, again.Schema), "GetSchema of the statement and of the prepared one differ")
	streamed := query(ctx, client, sql).schema
	sameSchema(must(flight.DeserializeSchema(told.Schema, memory.DefaultAllocator)), streamed)
	sameSchema(statement.DatasetSchema(), streamed)
}

func emptyResult(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	nothing := query(ctx, client, "SELECT l_orderkey, l_comment FROM lineitem WHERE l_quantity < 0")
	equal(0, len(nothing.rows))
	equal(2, nothing.schema.NumFields())
}

func prepared(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	statement := must(client.Prepare(ctx, "SELECT n_name FROM nation WHERE n_nationkey = ? OR n_name = ? ORDER BY 1"))
	defer statement.Close(ctx)
	equal(2, statement.ParameterSchema().NumFields())
	for _, bound := range []struct {
		number   int64
		name     string
		expected string
	}{{3, "FRANCE", "[[CANADA] [FRANCE]]"}, {-1, "PERU", "[[PERU]]"}} {
		parameters := array.NewRecordBuilder(memory.DefaultAllocator, statement.ParameterSchema())
		parameters.Field(0).(*array.Int64Builder).Append(bound.number)
		parameters.Field(1).(*array.StringBuilder).Append(bound.name)
		batch := parameters.NewRecordBatch()
		statement.SetParameters(batch)
		batch.Release()
		parameters.Release()
		equal(bound.expected, fetch(ctx, client, must(statement.Execute(ctx))).rows)
	}
}

func manyParameters(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	// With the second and the twelfth parameter exchanged, the query would find another nation.
	sql := "SELECT n_name FROM nation WHERE n_nationkey IN (" + strings.Repeat("?, ", 10) + "?) AND n_nationkey > ?"
	statement := must(client.Prepare(ctx, sql))
	defer statement.Close(ctx)
	equal(12, statement.ParameterSchema().NumFields())
	parameters := array.NewRecordBuilder(memory.DefaultAllocator, statement.ParameterSchema())
	defer parameters.Release()
	for index := range 11 {
		parameters.Field(index).(*array.Int64Builder).Append(int64(index))
	}
	parameters.Field(11).(*array.Int64Builder).Append(9)
	batch := parameters.NewRecordBatch()
	defer batch.Release()
	statement.SetParameters(batch)
	equal("[[IRAN]]", fetch(ctx, client, must(statement.Execute(ctx))).rows)
}

func isUpdate(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	for sql, expected := range map[string]bool{"SELECT 1": false, "CREATE VIEW go_unused AS SELECT 1": true} {
		statement := must(client.Prepare(ctx, sql))
		updates, told := statement.IsUpdate()
		check(told, "%s: nothing is told", sql)
		equal(expected, updates)
		succeeds(statement.Close(ctx))
	}
}

func update(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	must(client.ExecuteUpdate(ctx, "CREATE VIEW go_view AS SELECT r_name FROM region"))
	equal(5, len(query(ctx, client, "SELECT * FROM go_view").rows))
	_, err := client.ExecuteUpdate(ctx, "CREATE VIEW go_view AS SELECT 1")
	refused(err, "go_view")
	must(client.ExecuteUpdate(ctx, "DROP VIEW go_view"))
}

func errors(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	_, err := client.Execute(ctx, "SELEC 1")
	refused(err, "SELEC")
	equal(codes.InvalidArgument, status.Code(err))
	_, err = client.Execute(ctx, "SELECT * FROM lineitems")
	refused(err, "lineitem")
	equal(codes.NotFound, status.Code(err))
	equal("[[1]]", query(ctx, client, "SELECT 1").rows)
}

func types(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	var differing []string
	for expression, expected := range map[string]string{
		"arrow_cast('18446744073709551615', 'UInt64')":                       "18446744073709551615",
		"arrow_cast(1.5, 'Float16')":                                         "1.5",
		"arrow_cast('12345.67', 'Decimal32(7, 2)')":                          "12345.67",
		"arrow_cast('-1.50', 'Decimal256(76, 2)')":                           "-1.5",
		"arrow_cast('x', 'Dictionary(Int32, Utf8)')":                         "x",
		"arrow_cast('a rather long text', 'Utf8View')":                       "a rather long text",
		"arrow_cast([1, 2], 'ListView(Int64)')":                              "[1,2]",
		"arrow_cast(NULL, 'Timestamp(Nanosecond, None)')":                    "(null)",
		"arrow_cast('2024-02-29T12:00:00.5', 'Timestamp(Nanosecond, None)')": "2024-02-29T12:00:00.5",
		"struct(1 AS a, 'b' AS c)":                                           `{"a":1,"c":"b"}`,
		"MAP {'a': 1}":                                                       `[{"key":"a","value":1}]`,
	} {
		rows := query(ctx, client, "SELECT "+expression).rows
		equal(1, len(rows))
		if strings.TrimSuffix(rows[0][0], "Z") != expected {
			differing = append(differing, expression+" is "+rows[0][0])
		}
	}
	check(len(differing) == 0, "%s", strings.Join(differing, "; "))
}

// gRPC in Go takes messages of at most 4 MiB by default.
func largeCell(ctx context.Context, address string) {
	const sql = "SELECT repeat('x', 6000000) AS cell"
	client := connect(ctx, address)
	defer client.Close()
	reader, err := client.DoGet(ctx, must(client.Execute(ctx, sql)).Endpoint[0].Ticket)
	if err == nil {
		for reader.Next() {
		}
		err = reader.Err()
		reader.Release()
	}
	refused(err, "larger than max")
	large := connect(ctx, address, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	defer large.Close()
	equal(6_000_000, len(query(ctx, large, sql).rows[0][0]))
}

func cancel(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	info := must(client.Execute(ctx, "SELECT a.l_comment, b.l_comment FROM lineitem a CROSS JOIN lineitem b"))
	answer := must(client.CancelFlightInfo(ctx, &flight.CancelFlightInfoRequest{Info: info}))
	check(answer.Status == flight.CancelStatusCancelled || answer.Status == flight.CancelStatusCancelling,
		"not cancelled: %v", answer.Status)
	reader, err := client.DoGet(ctx, info.Endpoint[0].Ticket)
	if err == nil {
		_, err = reader.Read()
		reader.Release()
	}
	check(err != nil && err != io.EOF, "a cancelled query has rows")
}

func dropped(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	streaming, stop := context.WithCancel(ctx)
	info := must(client.Execute(ctx, "SELECT a.l_comment, b.l_comment FROM lineitem a CROSS JOIN lineitem b"))
	reader := must(client.DoGet(streaming, info.Endpoint[0].Ticket))
	check(reader.Next(), "it has rows: %v", reader.Err())
	stop()
	reader.Release()
	equal("[[1]]", query(ctx, client, "SELECT 1").rows)
}

func poll(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	const sql = "SELECT n_name FROM nation WHERE n_nationkey = 3"
	answer, err := client.ExecutePoll(ctx, sql, nil)
	if status.Code(err) == codes.Unimplemented {
		// The refusal names the alternative.
		refused(err, "GetFlightInfo")
		return
	}
	succeeds(err)
	for answer.FlightDescriptor != nil {
		check(answer.GetProgress() >= 0 && answer.GetProgress() <= 1, "progress is %v", answer.GetProgress())
		answer = must(client.ExecutePoll(ctx, sql, answer.FlightDescriptor))
	}
	equal("[[CANADA]]", fetch(ctx, client, answer.Info).rows)
}

// Sessions are identified by cookie or token; the middleware keeps cookies.
func sessionOptions(ctx context.Context, address string) {
	middleware := []flight.ClientMiddleware{flight.NewClientCookieMiddleware()}
	credentials := grpc.WithTransportCredentials(insecure.NewCredentials())
	client := must(flightsql.NewClientCtx(ctx, address, nil, middleware, credentials))
	defer client.Close()
	const name = "datafusion.execution.batch_size"
	options := must(flight.NewSessionOptionValues(map[string]any{name: int64(77), "no_such_option": "x"}))
	set := must(client.SetSessionOptions(ctx, &flight.SetSessionOptionsRequest{SessionOptions: options}))
	equal(1, len(set.Errors))
	check(set.Errors["no_such_option"] != nil, "the wrong option is refused: %v", set.Errors)
	got := must(client.GetSessionOptions(ctx, &flight.GetSessionOptionsRequest{}))
	equal("77", got.SessionOptions[name].GetStringValue())
	must(client.CloseSession(ctx, &flight.CloseSessionRequest{}))
}

func transactions(ctx context.Context, address string) {
	client := connect(ctx, address)
	defer client.Close()
	_, err := client.BeginTransaction(ctx)
	refused(err, "transactions")
	equal(codes.Unimplemented, status.Code(err))
}
