package suite;

import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Arrays;
import java.util.Properties;
import java.util.stream.Stream;

/**
 * Writes through the Arrow Flight SQL JDBC driver: affected rows of statements, of prepared statements and of batches.
 * Run with the driver's jar on the class path; the server's grpc:// address is the only argument.
 */
public final class JdbcWrites {
    private static int checks;

    public static void main(String[] arguments) throws Exception {
        Path folder = Files.createTempDirectory("squadron-jdbc-");
        Properties properties = new Properties();
        properties.setProperty("useEncryption", "false");
        String url = arguments[0].replaceFirst("^grpc", "jdbc:arrow-flight-sql");
        try (Connection connection = DriverManager.getConnection(url, properties)) {
            define(connection, folder);
            statements(connection);
            prepared(connection);
            batch(connection, folder);
            refusals(connection);
        } finally {
            try (Stream<Path> paths = Files.walk(folder)) {
                for (Path path : paths.sorted((a, b) -> b.compareTo(a)).toList()) {
                    Files.delete(path);
                }
            }
        }
        System.out.println(checks + " checks passed");
        // Threads of the driver may outlive its connections.
        System.exit(0);
    }

    private static void define(Connection connection, Path folder) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            String sql = "CREATE EXTERNAL TABLE jdbc_t (id BIGINT, name VARCHAR, price DOUBLE) STORED AS PARQUET LOCATION '" + folder + "/'";
            equal(0, statement.executeUpdate(sql));
        }
    }

    private static void statements(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            equal(2, statement.executeUpdate("INSERT INTO jdbc_t VALUES (1, 'one', 1.5), (2, NULL, NULL)"));
            equal(0, statement.executeUpdate("INSERT INTO jdbc_t SELECT 3, 'x', 0 WHERE false"));
            equal(false, statement.execute("INSERT INTO jdbc_t VALUES (3, 'three', 3)"));
            equal(1, statement.getUpdateCount());
        }
        equal(3L, count(connection));
    }

    private static void prepared(Connection connection) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("INSERT INTO jdbc_t VALUES (?, ?, ?)")) {
            equal(3, statement.getParameterMetaData().getParameterCount());
            for (long id = 10; id < 13; id++) {
                statement.setLong(1, id);
                statement.setString(2, "prepared " + id);
                statement.setDouble(3, id / 2.0);
                equal(1, statement.executeUpdate());
            }
        }
        equal(6L, count(connection));
    }

    /** The driver sends all rows at once and gives their sum. */
    private static void batch(Connection connection, Path folder) throws Exception {
        long before = files(folder);
        try (PreparedStatement statement = connection.prepareStatement("INSERT INTO jdbc_t VALUES (?, ?, ?)")) {
            for (long id = 100; id < 1100; id++) {
                statement.setLong(1, id);
                statement.setString(2, "batch");
                statement.setDouble(3, 1.0);
                statement.addBatch();
            }
            equal(1000, Arrays.stream(statement.executeBatch()).sum());
        }
        equal(1006L, count(connection));
        equal(before + 1, files(folder));
    }

    private static void refusals(Connection connection) throws SQLException {
        for (String sql : new String[] {"UPDATE jdbc_t SET id = 1", "DELETE FROM jdbc_t", "CREATE TABLE jdbc_made (a INT)"}) {
            try (Statement statement = connection.createStatement()) {
                statement.executeUpdate(sql);
                throw new AssertionError(sql + " succeeded");
            } catch (SQLException expected) {
                equal(true, expected.getMessage().contains("not supported"));
            }
        }
        equal(1006L, count(connection));
    }

    private static long count(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery("SELECT count(*) FROM jdbc_t")) {
            rows.next();
            return rows.getLong(1);
        }
    }

    private static long files(Path folder) throws Exception {
        try (Stream<Path> paths = Files.walk(folder)) {
            return paths.filter(path -> path.toString().endsWith(".parquet")).count();
        }
    }

    private static void equal(Object expected, Object actual) {
        checks++;
        if (!expected.equals(actual)) {
            throw new AssertionError("expected " + expected + " but got " + actual);
        }
    }
}
