package suite;

import static suite.Checks.check;
import static suite.Checks.equal;
import static suite.Checks.raises;

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.util.Map;
import java.util.Set;

/** The tables of the schema system, and KILL. */
final class JdbcSystem {
    /** The endless query that is killed. */
    private static final String ENDLESS = "SELECT a.l_comment, b.l_comment FROM lineitem a CROSS JOIN lineitem b";

    private JdbcSystem() {
    }

    static void addTo(Map<String, Checks.Test> tests) {
        tests.put("systemTables", JdbcSystem::systemTables);
        tests.put("systemTypes", JdbcSystem::systemTypes);
        tests.put("systemValues", JdbcSystem::systemValues);
        tests.put("killQuery", JdbcSystem::killQuery);
        tests.put("killSession", JdbcSystem::killSession);
    }

    static void systemTables(Connection connection) throws SQLException {
        String[] tables = {"queries", "stages", "tasks", "workers", "sessions", "groups", "settings", "tables", "columns"};
        for (String table : tables) {
            try (Statement statement = connection.createStatement();
                    ResultSet rows = statement.executeQuery("SELECT * FROM system." + table)) {
                int columns = rows.getMetaData().getColumnCount();
                int count = 0;
                while (rows.next()) {
                    for (int column = 1; column <= columns; column++) {
                        // As text: the driver gives no objects of zoned timestamps.
                        rows.getString(column);
                    }
                    count++;
                }
                boolean mayBeEmpty = Set.of("stages", "tasks", "columns").contains(table);
                check(mayBeEmpty || count > 0, "system." + table + " is empty");
            }
            try (ResultSet found = connection.getMetaData().getTables(null, "system", table, null)) {
                check(found.next(), "system." + table + " is not listed");
            }
        }
    }

    static void systemTypes(Connection connection) throws SQLException {
        String sql = "SELECT state, held_slots, elapsed_ms, progress, created_at FROM system.queries";
        int[] expected = {Types.VARCHAR, Types.BIGINT, Types.DOUBLE, Types.DOUBLE, Types.TIMESTAMP_WITH_TIMEZONE};
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            ResultSetMetaData columns = rows.getMetaData();
            for (int column = 1; column <= expected.length; column++) {
                equal(columns.getColumnLabel(column) + " " + expected[column - 1],
                        columns.getColumnLabel(column) + " " + columns.getColumnType(column));
            }
        }
    }

    static void systemValues(Connection connection) throws SQLException {
        String sql = "SELECT state, created_at, ended_at, statement FROM system.queries WHERE state = 'planning' AND "
                + "statement LIKE '%itself%'";
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            check(rows.next(), "a statement sees itself");
            equal("planning", rows.getString(1));
            Timestamp created = rows.getTimestamp(2);
            long age = System.currentTimeMillis() - created.getTime();
            check(Math.abs(age) < 600_000, "created " + age + " ms ago");
            check(rows.getTimestamp(3) == null, "it has ended");
            equal(sql, rows.getString(4));
        }
    }

    static void killQuery(Connection connection) throws SQLException {
        kills(connection, "QUERY", "query_id");
        try (Statement killer = connection.createStatement()) {
            String nobody = "00000000-0000-7000-8000-000000000000";
            raises(() -> killer.executeUpdate("KILL QUERY '" + nobody + "'"), nobody);
        }
    }

    static void killSession(Connection connection) throws SQLException {
        kills(connection, "SESSION", "session_id");
    }

    private static void kills(Connection connection, String what, String name) throws SQLException {
        String tag = "jdbc-" + name;
        try (Connection other = DriverManager.getConnection(JdbcSuite.url);
                Statement victim = other.createStatement();
                Statement killer = connection.createStatement()) {
            victim.executeUpdate("SET squadron.tag = '" + tag + "'");
            ResultSet rows = victim.executeQuery(ENDLESS);
            check(rows.next(), "it has rows");
            String find = "SELECT " + name + " FROM system.queries WHERE tag = '" + tag
                    + "' AND state IN ('running', 'delivering')";
            String id;
            try (ResultSet found = killer.executeQuery(find)) {
                check(found.next(), "the query is seen");
                id = found.getString(1);
                check(!found.next(), "one query is seen");
            }
            equal(0, Math.max(0, killer.executeUpdate("KILL " + what + " '" + id + "'")));
            String end = endOf(rows);
            check(end.contains("killed"), "the client hears: " + end);
        }
    }

    /** The error that ends an endless result; the driver passes errors of the stream through unchanged. */
    private static String endOf(ResultSet rows) {
        try {
            while (rows.next()) {
                // Until the query is killed.
            }
            return "the rows ended";
        } catch (SQLException | RuntimeException error) {
            return Checks.describe(error);
        }
    }
}
