import java.math.BigDecimal;
import java.net.URI;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;

/**
 * The Arrow Flight SQL JDBC driver against a server with TPC-H tables of scale 0.01. Run as one source file with the
 * driver's jar on the class path; the server's grpc:// address is the only argument.
 */
public final class JdbcSuite {
    private interface Test {
        void run(Connection connection) throws Exception;
    }

    private interface Work {
        void run() throws SQLException;
    }

    private static String url;

    public static void main(String[] arguments) {
        URI server = URI.create(arguments[0]);
        url = "jdbc:arrow-flight-sql://" + server.getHost() + ":" + server.getPort() + "/?useEncryption=false";
        Map<String, Test> tests = new LinkedHashMap<>();
        tests.put("executeQuery", JdbcSuite::executeQuery);
        tests.put("everyRow", JdbcSuite::everyRow);
        tests.put("types", JdbcSuite::types);
        tests.put("emptyResult", JdbcSuite::emptyResult);
        tests.put("aggregate", JdbcSuite::aggregate);
        tests.put("getTables", JdbcSuite::getTables);
        tests.put("getColumns", JdbcSuite::getColumns);
        tests.put("catalogsAndSchemas", JdbcSuite::catalogsAndSchemas);
        tests.put("sqlInfo", JdbcSuite::sqlInfo);
        tests.put("preparedStatement", JdbcSuite::preparedStatement);
        tests.put("preparedStatementIsReused", JdbcSuite::preparedStatementIsReused);
        tests.put("ddlRunsExactlyOnce", JdbcSuite::ddlRunsExactlyOnce);
        tests.put("twoOpenResults", JdbcSuite::twoOpenResults);
        tests.put("errors", JdbcSuite::errors);
        tests.put("closedEarly", JdbcSuite::closedEarly);
        tests.put("userAndPassword", JdbcSuite::userAndPassword);
        int failed = 0;
        for (Map.Entry<String, Test> test : tests.entrySet()) {
            try (Connection connection = DriverManager.getConnection(url)) {
                test.getValue().run(connection);
                System.out.println("ok     " + test.getKey());
            } catch (Throwable error) {
                failed++;
                System.out.println("FAILED " + test.getKey());
                error.printStackTrace(System.out);
            }
        }
        System.out.println((tests.size() - failed) + " passed, " + failed + " failed");
        // Threads of the driver may outlive its connections.
        System.exit(failed == 0 ? 0 : 1);
    }

    private static void executeQuery(Connection connection) throws SQLException {
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

    private static void everyRow(Connection connection) throws SQLException {
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

    private static void types(Connection connection) throws SQLException {
        String sql = "SELECT l_orderkey, l_extendedprice, l_shipdate, l_comment, CAST(NULL AS BIGINT), true, 1.5::double, "
                + "TIMESTAMP '2024-01-02 03:04:05' FROM lineitem ORDER BY l_orderkey, l_linenumber LIMIT 1";
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery(sql)) {
            ResultSetMetaData columns = rows.getMetaData();
            equal(Types.BIGINT, columns.getColumnType(1));
            equal(Types.DECIMAL, columns.getColumnType(2));
            equal(Types.DATE, columns.getColumnType(3));
            equal(Types.VARCHAR, columns.getColumnType(4));
            check(rows.next(), "no row");
            equal(1L, rows.getLong(1));
            equal(new BigDecimal("24710.35"), rows.getBigDecimal(2));
            equal(Date.valueOf("1996-03-13").toString(), rows.getDate(3).toString());
            rows.getLong(5);
            check(rows.wasNull(), "NULL is not NULL");
            equal(true, rows.getBoolean(6));
            equal(1.5, rows.getDouble(7));
            check(rows.getTimestamp(8) != null, "no timestamp");
            check(!rows.next(), "a row too many");
        }
    }

    private static void emptyResult(Connection connection) throws SQLException {
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

    private static void aggregate(Connection connection) throws SQLException {
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

    private static void getTables(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        List<String> names = strings(metadata.getTables(null, null, null, null), "TABLE_NAME");
        check(names.contains("lineitem") && names.contains("region"), "tables: " + names);
        equal(List.of("region"), strings(metadata.getTables(null, "public", "reg%", null), "TABLE_NAME"));
        equal(List.of(), strings(metadata.getTables(null, null, "nothing_of_this_name", null), "TABLE_NAME"));
        check(!strings(metadata.getTableTypes(), "TABLE_TYPE").isEmpty(), "no table types");
    }

    private static void getColumns(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        equal(List.of("n_nationkey", "n_name", "n_regionkey", "n_comment"),
                strings(metadata.getColumns(null, null, "nation", null), "COLUMN_NAME"));
        try (ResultSet columns = metadata.getColumns(null, "public", "lineitem", "l_extendedprice")) {
            check(columns.next(), "no such column");
            equal(Types.DECIMAL, columns.getInt("DATA_TYPE"));
            equal(15, columns.getInt("COLUMN_SIZE"));
            equal(2, columns.getInt("DECIMAL_DIGITS"));
            check(!columns.next(), "a column too many");
        }
    }

    private static void catalogsAndSchemas(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        check(!strings(metadata.getCatalogs(), "TABLE_CAT").isEmpty(), "no catalogs");
        List<String> schemas = strings(metadata.getSchemas(), "TABLE_SCHEM");
        check(schemas.contains("public"), "schemas: " + schemas);
        // Asked for by tools even where there are none.
        strings(metadata.getPrimaryKeys(null, "public", "region"), "COLUMN_NAME");
        strings(metadata.getImportedKeys(null, "public", "region"), "PKTABLE_NAME");
        strings(metadata.getExportedKeys(null, "public", "region"), "PKTABLE_NAME");
    }

    /** DBeaver and Tableau ask for all of it; a missing key is a null pointer there. */
    private static void sqlInfo(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        check(metadata.getDatabaseProductName().toLowerCase().contains("squadron"), metadata.getDatabaseProductName());
        check(!metadata.getDatabaseProductVersion().isEmpty(), "no version");
        equal("\"", metadata.getIdentifierQuoteString());
        check(metadata.getSQLKeywords() != null, "no keywords");
        check(metadata.getNumericFunctions() != null, "no numeric functions");
        check(metadata.getStringFunctions() != null, "no string functions");
        check(metadata.getSystemFunctions() != null, "no system functions");
        check(metadata.getTimeDateFunctions() != null, "no time functions");
        metadata.isReadOnly();
        metadata.supportsTransactions();
        metadata.supportsGroupBy();
        metadata.supportsOuterJoins();
        metadata.supportsFullOuterJoins();
        metadata.supportsUnion();
        metadata.supportsUnionAll();
        metadata.supportsConvert();
        metadata.supportsConvert(Types.INTEGER, Types.VARCHAR);
        metadata.supportsANSI92EntryLevelSQL();
        metadata.supportsMixedCaseIdentifiers();
        metadata.storesLowerCaseIdentifiers();
        metadata.nullsAreSortedHigh();
        metadata.getDefaultTransactionIsolation();
        metadata.supportsTransactionIsolationLevel(Connection.TRANSACTION_NONE);
        metadata.getMaxColumnNameLength();
        metadata.getMaxStatementLength();
        metadata.getMaxConnections();
        metadata.getMaxRowSize();
        metadata.getSchemaTerm();
        metadata.getCatalogTerm();
        metadata.getProcedureTerm();
        metadata.supportsSubqueriesInExists();
        metadata.supportsCorrelatedSubqueries();
        metadata.supportsBatchUpdates();
        metadata.supportsResultSetType(ResultSet.TYPE_FORWARD_ONLY);
    }

    private static void preparedStatement(Connection connection) throws SQLException {
        String sql = "SELECT n_name FROM nation WHERE n_nationkey = ? OR n_name = ? ORDER BY n_name";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            equal(2, statement.getParameterMetaData().getParameterCount());
            statement.setLong(1, 3);
            statement.setString(2, "FRANCE");
            equal(List.of("CANADA", "FRANCE"), strings(statement.executeQuery(), "n_name"));
        }
    }

    private static void preparedStatementIsReused(Connection connection) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("SELECT count(*) AS n FROM nation WHERE n_regionkey = ?")) {
            for (long key = 0; key < 6; key++) {
                statement.setLong(1, key);
                equal(List.of(key < 5 ? "5" : "0"), strings(statement.executeQuery(), "n"));
            }
        }
    }

    private static void ddlRunsExactlyOnce(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            // A second run would fail, and a lazy one would leave no view.
            statement.executeUpdate("CREATE VIEW jdbc_view AS SELECT r_name FROM region");
            equal(5, strings(statement.executeQuery("SELECT r_name FROM jdbc_view"), "r_name").size());
            raises(() -> statement.executeUpdate("CREATE VIEW jdbc_view AS SELECT 1"), "jdbc_view");
            check(!statement.execute("DROP VIEW jdbc_view"), "DDL gives no rows");
            raises(() -> statement.executeQuery("SELECT * FROM jdbc_view"), "jdbc_view");
        }
    }

    private static void twoOpenResults(Connection connection) throws SQLException {
        try (Statement one = connection.createStatement();
                Statement two = connection.createStatement();
                ResultSet unread = one.executeQuery("SELECT * FROM lineitem");
                ResultSet read = two.executeQuery("SELECT count(*) AS n FROM nation")) {
            equal(List.of("25"), strings(read, "n"));
            check(unread.next(), "the first has rows still");
        }
    }

    private static void errors(Connection connection) throws SQLException {
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

    private static void closedEarly(Connection connection) throws SQLException {
        String endless = "SELECT a.l_comment, b.l_comment FROM lineitem a CROSS JOIN lineitem b";
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(endless)) {
            check(rows.next(), "it has rows");
        }
        try (Statement statement = connection.createStatement()) {
            equal(List.of("1"), strings(statement.executeQuery("SELECT 1 AS one"), "one"));
        }
    }

    private static void userAndPassword(Connection unused) throws SQLException {
        Properties properties = new Properties();
        properties.put("user", "someone");
        properties.put("password", "secret");
        // Properties that the driver does not know travel as headers.
        properties.put("applicationName", "suite");
        try (Connection connection = DriverManager.getConnection(url, properties);
                Statement statement = connection.createStatement()) {
            equal(List.of("1"), strings(statement.executeQuery("SELECT 1 AS one"), "one"));
        }
    }

    private static List<String> strings(ResultSet rows, String column) throws SQLException {
        try (rows) {
            List<String> values = new ArrayList<>();
            while (rows.next()) {
                values.add(rows.getString(column));
            }
            return values;
        }
    }

    private static void raises(Work work, String word) {
        try {
            work.run();
        } catch (SQLException error) {
            check(describe(error).contains(word), "\"" + word + "\" is not in: " + describe(error));
            return;
        }
        throw new AssertionError("no error, where one was due about " + word);
    }

    private static String describe(Throwable error) {
        StringBuilder text = new StringBuilder();
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            text.append(cause.getMessage()).append("; ");
        }
        return text.toString();
    }

    private static void equal(Object expected, Object actual) {
        check(expected.equals(actual), "expected " + expected + ", got " + actual);
    }

    private static void check(boolean holds, String otherwise) {
        if (!holds) {
            throw new AssertionError(otherwise);
        }
    }
}
