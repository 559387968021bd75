package suite;

import static suite.Checks.check;
import static suite.Checks.equal;
import static suite.Checks.known;
import static suite.Checks.raises;
import static suite.Checks.strings;

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;

/** Statements, their results, limits and ends. */
final class JdbcStatements {
    private JdbcStatements() {
    }

    static void addTo(Map<String, Checks.Test> tests) {
        tests.put("executeQuery", JdbcStatements::executeQuery);
        tests.put("everyRow", JdbcStatements::everyRow);
        tests.put("emptyResult", JdbcStatements::emptyResult);
        tests.put("aggregate", JdbcStatements::aggregate);
        tests.put("ddlRunsExactlyOnce", JdbcStatements::ddlRunsExactlyOnce);
        tests.put("twoOpenResults", JdbcStatements::twoOpenResults);
        tests.put("errors", JdbcStatements::errors);
        tests.put("closedEarly", JdbcStatements::closedEarly);
        tests.put("userAndPassword", JdbcStatements::userAndPassword);
        tests.put("resultSetMetaData", JdbcStatements::resultSetMetaData);
        tests.put("maxRows", JdbcStatements::maxRows);
        tests.put("fetchSize", JdbcStatements::fetchSize);
        tests.put("queryTimeout", JdbcStatements::queryTimeout);
        tests.put("cancel", JdbcStatements::cancel);
        tests.put("bigCell", JdbcStatements::bigCell);
        tests.put("bigStatement", JdbcStatements::bigStatement);
        tests.put("updateCounts", JdbcStatements::updateCounts);
        tests.put("autoCommit", JdbcStatements::autoCommit);
        tests.put("catalogInTheUrl", JdbcStatements::catalogInTheUrl);
    }

    static void executeQuery(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery("SELECT r_regionkey, r_name FROM region ORDER BY r_regionkey")) {
            ResultSetMetaData columns = rows.getMetaData();
            equal(2, columns.getColumnCount());
            equal("r_name", columns.getColumnLabel(2));
            List<String> names = new ArrayList<>();
            while (rows.next()) {
                equal((long) names.size(), rows.getLong("r_regionkey"));
                names.add(rows.getString(2));
            }
            equal(List.of("AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST"), names);
        }
    }

    static void everyRow(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery("SELECT l_orderkey, l_comment FROM lineitem")) {
            int count = 0;
            while (rows.next()) {
                check(rows.getString(2) != null, "a comment is missing");
                count++;
            }
            equal(60_175, count);
        }
    }

    static void emptyResult(Connection connection) throws SQLException {
        String sql = "SELECT l_orderkey, l_comment FROM lineitem WHERE false";
        try (PreparedStatement statement = connection.prepareStatement(sql); ResultSet rows = statement.executeQuery()) {
            equal(2, rows.getMetaData().getColumnCount());
            check(!rows.next(), "a row of nothing");
        }
        // Columns are not counted here: driver 18.3 names each twice when a plain statement has no rows.
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            check(!rows.next(), "a row of nothing");
        }
    }

    static void aggregate(Connection connection) throws SQLException {
        String sql = "SELECT l_returnflag, count(*) FROM lineitem GROUP BY l_returnflag ORDER BY 1";
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            long sum = 0;
            StringBuilder flags = new StringBuilder();
            while (rows.next()) {
                flags.append(rows.getString(1));
                sum += rows.getLong(2);
            }
            equal("ANR", flags.toString());
            equal(60_175L, sum);
        }
    }

    static void ddlRunsExactlyOnce(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            // A second run would fail, and a lazy one would leave no view.
            statement.executeUpdate("CREATE VIEW jdbc_view AS SELECT r_name FROM region");
            equal(5, strings(statement.executeQuery("SELECT r_name FROM jdbc_view"), "r_name").size());
            raises(() -> statement.executeUpdate("CREATE VIEW jdbc_view AS SELECT 1"), "jdbc_view");
            check(!statement.execute("DROP VIEW jdbc_view"), "DDL gives no rows");
            raises(() -> statement.executeQuery("SELECT * FROM jdbc_view"), "jdbc_view");
        }
    }

    static void twoOpenResults(Connection connection) throws SQLException {
        try (Statement one = connection.createStatement();
                Statement two = connection.createStatement();
                ResultSet unread = one.executeQuery("SELECT * FROM lineitem");
                ResultSet read = two.executeQuery("SELECT count(*) AS n FROM nation")) {
            equal(List.of("25"), strings(read, "n"));
            check(unread.next(), "the first has rows still");
        }
    }

    static void errors(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            raises(() -> statement.executeQuery("SELEC 1"), "SELEC");
            raises(() -> statement.executeQuery("SELECT * FROM lineitems"), "lineitem");
            raises(() -> {
                ResultSet rows = statement.executeQuery("SELECT 1 / (r_regionkey - r_regionkey) FROM region");
                while (rows.next()) {
                    rows.getLong(1);
                }
            }, "zero");
            equal(List.of("1"), strings(statement.executeQuery("SELECT 1 AS one"), "one"));
        }
    }

    static void closedEarly(Connection connection) throws SQLException {
        String endless = "SELECT a.l_comment, b.l_comment FROM lineitem a CROSS JOIN lineitem b";
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(endless)) {
            check(rows.next(), "it has rows");
        }
        try (Statement statement = connection.createStatement()) {
            equal(List.of("1"), strings(statement.executeQuery("SELECT 1 AS one"), "one"));
        }
    }

    static void userAndPassword(Connection unused) throws SQLException {
        Properties properties = new Properties();
        properties.put("user", "someone");
        properties.put("password", "secret");
        // Properties that the driver does not know travel as headers.
        properties.put("applicationName", "suite");
        try (Connection connection = DriverManager.getConnection(JdbcSuite.url, properties);
                Statement statement = connection.createStatement()) {
            equal(List.of("1"), strings(statement.executeQuery("SELECT 1 AS one"), "one"));
        }
    }

    /** The driver prepares plain statements too, so that the schema is known before there are rows. */
    static void resultSetMetaData(Connection connection) throws SQLException {
        String sql = "SELECT l_orderkey, l_extendedprice AS price, l_comment, count(*) OVER () AS n FROM lineitem LIMIT 1";
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            ResultSetMetaData columns = rows.getMetaData();
            equal(4, columns.getColumnCount());
            equal("price", columns.getColumnLabel(2));
            equal("price", columns.getColumnName(2));
            equal("lineitem", columns.getTableName(1));
            equal(Types.DECIMAL, columns.getColumnType(2));
            equal(15, columns.getPrecision(2));
            equal(2, columns.getScale(2));
            equal(19, columns.getPrecision(1));
            equal(0, columns.getScale(1));
            check(columns.isCaseSensitive(3), "text is case sensitive");
            check(!columns.isCaseSensitive(1), "numbers are not");
            check(columns.isSearchable(1), "every column can be searched");
            check(!columns.isAutoIncrement(1), "nothing counts itself up");
            known("ResultSetMetaData.isNullable", () -> equal(ResultSetMetaData.columnNoNulls, 1 - columns.isNullable(4)));
        }
    }

    static void maxRows(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.setMaxRows(7);
            equal(7, statement.getMaxRows());
            equal(7, strings(statement.executeQuery("SELECT l_orderkey FROM lineitem"), "l_orderkey").size());
            statement.setMaxRows(0);
            equal(25, strings(statement.executeQuery("SELECT n_name FROM nation"), "n_name").size());
        }
    }

    static void fetchSize(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(10);
            equal(25, strings(statement.executeQuery("SELECT n_name FROM nation"), "n_name").size());
        }
    }

    /** The driver waits no longer than the timeout for the first batch, and cancels the query. */
    static void queryTimeout(Connection connection) throws SQLException {
        String slow = "SELECT count(*) AS n FROM lineitem a CROSS JOIN lineitem b CROSS JOIN nation c "
                + "WHERE a.l_comment < b.l_comment";
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            equal(1, statement.getQueryTimeout());
            raises(() -> strings(statement.executeQuery(slow), "n"), "");
        }
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(60);
            equal(List.of("1"), strings(statement.executeQuery("SELECT 1 AS one"), "one"));
        }
    }

    static void cancel(Connection connection) throws Exception {
        String endless = "SELECT a.l_comment, b.l_comment FROM lineitem a CROSS JOIN lineitem b";
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(endless)) {
            check(rows.next(), "it has rows");
            Thread canceller = new Thread(() -> {
                try {
                    statement.cancel();
                } catch (SQLException error) {
                    throw new AssertionError(error);
                }
            });
            canceller.start();
            canceller.join();
            raises(() -> {
                while (rows.next()) {
                    rows.getString(1);
                }
            }, "cancel");
        }
        try (Statement statement = connection.createStatement()) {
            equal(List.of("1"), strings(statement.executeQuery("SELECT 1 AS one"), "one"));
        }
    }

    static void bigCell(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery("SELECT repeat('x', 20000000) AS cell")) {
            check(rows.next(), "no row");
            equal(20_000_000, rows.getString(1).length());
        }
    }

    static void bigStatement(Connection connection) throws SQLException {
        String sql = "SELECT length('" + "x".repeat(2_000_000) + "') AS length";
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery(sql)) {
            check(rows.next(), "no row");
            equal(2_000_000, rows.getInt(1));
        }
    }

    static void updateCounts(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            check(statement.execute("SELECT 1 AS one"), "a query has rows");
            equal(-1, statement.getUpdateCount());
            equal(List.of("1"), strings(statement.getResultSet(), "one"));
            check(!statement.execute("CREATE VIEW jdbc_counted AS SELECT 1"), "DDL has none");
            equal(0, statement.executeUpdate("DROP VIEW jdbc_counted"));
        }
    }

    /** Every statement is committed at once; there is nothing to roll back. */
    static void autoCommit(Connection connection) throws SQLException {
        check(connection.getAutoCommit(), "every statement stands alone");
        try (Statement statement = connection.createStatement()) {
            equal(List.of("1"), strings(statement.executeQuery("SELECT 1 AS one"), "one"));
        }
        check(connection.isValid(5), "the connection is alive");
        check(!connection.isClosed(), "and open");
    }

    static void catalogInTheUrl(Connection unused) throws SQLException {
        Connection connection = DriverManager.getConnection(JdbcSuite.url + "&catalog=datafusion");
        try (Statement statement = connection.createStatement()) {
            equal(List.of("5"), strings(statement.executeQuery("SELECT count(*) AS n FROM region"), "n"));
        }
        known("closing a connection with a catalog: it closes its channel, then its session", connection::close);
    }
}
