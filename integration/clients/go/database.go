package main

import (
	"context"
	"database/sql"
	"strings"

	_ "github.com/apache/arrow-go/v18/arrow/flight/flightsql/driver"
)

// The driver of Go's own database package. The driver has no unsigned integers, large texts or nested types, and reads
// decimals as floats.
var databaseTests = []test{
	{"database/sql: query", databaseQuery},
	{"database/sql: parameters", databaseParameters},
	{"database/sql: exec", databaseExec},
	{"database/sql: every row", databaseEveryRow},
	{"database/sql: long statement", databaseLongStatement},
	{"database/sql: errors", databaseErrors},
}

func open(address string) *sql.DB {
	return must(sql.Open("flightsql", "flightsql://"+address+"?timeout=50s"))
}

func databaseQuery(ctx context.Context, address string) {
	database := open(address)
	defer database.Close()
	var name string
	var total float64
	var nothing sql.NullInt64
	row := database.QueryRowContext(ctx, "SELECT o_orderstatus, sum(o_totalprice), CAST(NULL AS BIGINT) FROM orders "+
		"GROUP BY o_orderstatus ORDER BY o_orderstatus LIMIT 1")
	succeeds(row.Scan(&name, &total, &nothing))
	equal("F", name)
	check(total > 1e6 && !nothing.Valid, "%v %v", total, nothing)
}

func databaseParameters(ctx context.Context, address string) {
	database := open(address)
	defer database.Close()
	statement := must(database.PrepareContext(ctx, "SELECT n_name FROM nation WHERE n_nationkey = ? AND n_name <> ?"))
	defer statement.Close()
	for key, expected := range map[int64]string{3: "CANADA", 6: "FRANCE"} {
		var name string
		succeeds(statement.QueryRowContext(ctx, key, "PERU").Scan(&name))
		equal(expected, name)
	}
}

func databaseExec(ctx context.Context, address string) {
	database := open(address)
	defer database.Close()
	must(database.ExecContext(ctx, "CREATE VIEW go_database_view AS SELECT r_name FROM region"))
	var count int64
	succeeds(database.QueryRowContext(ctx, "SELECT count(*) FROM go_database_view").Scan(&count))
	equal(5, count)
	must(database.ExecContext(ctx, "DROP VIEW go_database_view"))
}

func databaseLongStatement(ctx context.Context, address string) {
	database := open(address)
	defer database.Close()
	var length int64
	row := database.QueryRowContext(ctx, "SELECT length('"+strings.Repeat("x", 2_000_000)+"')")
	succeeds(row.Scan(&length))
	equal(2_000_000, length)
}

func databaseEveryRow(ctx context.Context, address string) {
	database := open(address)
	defer database.Close()
	rows := must(database.QueryContext(ctx, "SELECT l_orderkey, l_comment FROM lineitem"))
	defer rows.Close()
	count := 0
	for rows.Next() {
		var key int64
		var comment string
		succeeds(rows.Scan(&key, &comment))
		count++
	}
	succeeds(rows.Err())
	equal(60_175, count)
}

func databaseErrors(ctx context.Context, address string) {
	database := open(address)
	defer database.Close()
	_, err := database.QueryContext(ctx, "SELECT * FROM lineitems")
	refused(err, "lineitem")
	var large uint64
	err = database.QueryRowContext(ctx, "SELECT arrow_cast(1, 'UInt64')").Scan(&large)
	check(err != nil && strings.Contains(err.Error(), "not supported"), "the driver has learnt unsigned integers: %v", err)
}
