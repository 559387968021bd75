package suite;

import static suite.Checks.check;
import static suite.Checks.equal;
import static suite.Checks.raises;
import static suite.Checks.strings;

import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.Date;
import java.sql.ParameterMetaData;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Timestamp;
import java.sql.Types;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** Prepared statements and what can be bound to them. */
final class JdbcParameters {
    private interface Binding {
        void to(PreparedStatement statement) throws SQLException;
    }

    private JdbcParameters() {
    }

    static void addTo(Map<String, Checks.Test> tests) {
        tests.put("preparedStatement", JdbcParameters::preparedStatement);
        tests.put("preparedStatementIsReused", JdbcParameters::preparedStatementIsReused);
        tests.put("parameterMetaData", JdbcParameters::parameterMetaData);
        tests.put("numbers are bound", JdbcParameters::numbers);
        tests.put("texts and bytes are bound", JdbcParameters::texts);
        tests.put("dates and times are bound", JdbcParameters::times);
        tests.put("nulls are bound", JdbcParameters::nulls);
        tests.put("objects are bound", JdbcParameters::objects);
        tests.put("moreThanTenParameters", JdbcParameters::moreThanTen);
        tests.put("aMissingParameterIsAnError", JdbcParameters::missing);
        tests.put("preparedMetaData", JdbcParameters::preparedMetaData);
        tests.put("questionMarksInTextAreText", JdbcParameters::questionMarks);
    }

    static void preparedStatement(Connection connection) throws SQLException {
        String sql = "SELECT n_name FROM nation WHERE n_nationkey = ? OR n_name = ? ORDER BY n_name";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            equal(2, statement.getParameterMetaData().getParameterCount());
            statement.setLong(1, 3);
            statement.setString(2, "FRANCE");
            equal(List.of("CANADA", "FRANCE"), strings(statement.executeQuery(), "n_name"));
        }
    }

    static void preparedStatementIsReused(Connection connection) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("SELECT count(*) AS n FROM nation WHERE n_regionkey = ?")) {
            for (long key = 0; key < 6; key++) {
                statement.setLong(1, key);
                equal(List.of(key < 5 ? "5" : "0"), strings(statement.executeQuery(), "n"));
            }
        }
    }

    private static void parameterMetaData(Connection connection) throws SQLException {
        String sql = "SELECT * FROM lineitem WHERE l_orderkey = ? AND l_comment = ? AND l_extendedprice > ? AND l_shipdate < ?";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            ParameterMetaData parameters = statement.getParameterMetaData();
            equal(4, parameters.getParameterCount());
            equal(Types.BIGINT, parameters.getParameterType(1));
            equal(Types.VARCHAR, parameters.getParameterType(2));
            equal(Types.DECIMAL, parameters.getParameterType(3));
            equal(Types.DATE, parameters.getParameterType(4));
        }
    }

    /** The rows of the table of all types whose value is the one that is bound. */
    private static void finds(Connection connection, String column, Binding binding, Integer... expected) throws SQLException {
        String sql = "SELECT id FROM types WHERE \"" + column + "\" = ? ORDER BY id";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            binding.to(statement);
            List<Integer> found = new ArrayList<>();
            try (ResultSet rows = statement.executeQuery()) {
                while (rows.next()) {
                    found.add(rows.getInt(1));
                }
            } catch (SQLException error) {
                throw new AssertionError(column + ": " + Checks.describe(error), error);
            }
            check(List.of(expected).equals(found), column + ": expected " + List.of(expected) + ", got " + found);
        }
    }

    private static void numbers(Connection connection) throws SQLException {
        finds(connection, "boolean", s -> s.setBoolean(1, true), 1, 3);
        finds(connection, "int8", s -> s.setByte(1, Byte.MIN_VALUE), 0);
        finds(connection, "int16", s -> s.setShort(1, Short.MAX_VALUE), 1);
        finds(connection, "int32", s -> s.setInt(1, Integer.MIN_VALUE), 0);
        finds(connection, "int64", s -> s.setLong(1, Long.MAX_VALUE), 1);
        finds(connection, "uint32", s -> s.setLong(1, 4_294_967_295L), 1);
        finds(connection, "float32", s -> s.setFloat(1, 0.25f), 4, 5);
        finds(connection, "float64", s -> s.setDouble(1, 0.25), 4, 5);
        finds(connection, "decimal128", s -> s.setBigDecimal(1, new BigDecimal("0.0000000150")), 4, 5);
    }

    private static void texts(Connection connection) throws SQLException {
        finds(connection, "utf8", s -> s.setString(1, ""), 0);
        finds(connection, "utf8", s -> s.setString(1, "same"), 4, 5);
        finds(connection, "utf8", s -> s.setString(1, "\u0000\ud83e\udd80 ü\n\"'"), 3);
        finds(connection, "large_utf8", s -> s.setString(1, "same"), 4, 5);
        finds(connection, "utf8_view", s -> s.setString(1, "same"), 4, 5);
        finds(connection, "dictionary_int8", s -> s.setString(1, "same"), 4, 5);
        finds(connection, "binary", s -> s.setBytes(1, new byte[] {0, (byte) 0xff, (byte) 0xfe}), 3);
    }

    private static void times(Connection connection) throws SQLException {
        finds(connection, "date32", s -> s.setDate(1, Date.valueOf("2024-02-29")), 4, 5);
        finds(connection, "timestamp_ms", s -> s.setTimestamp(1, Timestamp.valueOf("2024-02-29 12:34:56.789")), 4, 5);
    }

    private static void nulls(Connection connection) throws SQLException {
        for (String column : List.of("boolean", "int64", "float64", "decimal128", "utf8", "date32", "timestamp_us")) {
            finds(connection, column, s -> s.setNull(1, Types.NULL));
        }
        finds(connection, "utf8", s -> s.setString(1, null));
    }

    private static void objects(Connection connection) throws SQLException {
        finds(connection, "int64", s -> s.setObject(1, 7L), 4, 5);
        finds(connection, "utf8", s -> s.setObject(1, "same"), 4, 5);
        finds(connection, "boolean", s -> s.setObject(1, false), 0, 4, 5);
        finds(connection, "float64", s -> s.setObject(1, 0.25), 4, 5);
    }

    private static void moreThanTen(Connection connection) throws SQLException {
        // With the second and the twelfth parameter exchanged, the query would find another nation.
        String sql = "SELECT n_name FROM nation WHERE n_nationkey IN (" + "?, ".repeat(10) + "?) AND n_nationkey > ? "
                + "AND n_name <> ?";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            equal(13, statement.getParameterMetaData().getParameterCount());
            for (int index = 1; index <= 11; index++) {
                statement.setLong(index, index - 1);
            }
            statement.setLong(12, 8);
            statement.setString(13, "IRAN");
            equal(List.of("INDONESIA"), strings(statement.executeQuery(), "n_name"));
        }
    }

    private static void missing(Connection connection) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("SELECT n_name FROM nation WHERE n_nationkey = ?")) {
            raises(() -> strings(statement.executeQuery(), "n_name"), "");
            statement.setLong(1, 3);
            equal(List.of("CANADA"), strings(statement.executeQuery(), "n_name"));
        }
    }

    private static void preparedMetaData(Connection connection) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("SELECT n_name, n_nationkey FROM nation")) {
            equal(2, statement.getMetaData().getColumnCount());
            equal("n_nationkey", statement.getMetaData().getColumnName(2));
            equal(Types.VARCHAR, statement.getMetaData().getColumnType(1));
        }
    }

    private static void questionMarks(Connection connection) throws SQLException {
        String sql = "SELECT '? -- ?' AS \"a?\" /* ? */ WHERE ? = 1 -- ?";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            equal(1, statement.getParameterMetaData().getParameterCount());
            statement.setLong(1, 1);
            equal(List.of("? -- ?"), strings(statement.executeQuery(), "a?"));
        }
    }
}
