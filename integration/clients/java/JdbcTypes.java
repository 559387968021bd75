package suite;

import static suite.Checks.check;
import static suite.Checks.equal;
import static suite.Checks.known;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.sql.Array;
import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

/**
 * Values of every type, from the table with one column of each type: the two ends of the range, NULL, a value between,
 * and one value twice.
 */
final class JdbcTypes {
    private JdbcTypes() {
    }

    static void addTo(Map<String, Checks.Test> tests) {
        tests.put("every type can be read", JdbcTypes::everyType);
        tests.put("integers", JdbcTypes::integers);
        tests.put("unsigned integers", JdbcTypes::unsigned);
        tests.put("floats", JdbcTypes::floats);
        tests.put("decimals", JdbcTypes::decimals);
        tests.put("booleans and NULL", JdbcTypes::booleans);
        tests.put("texts", JdbcTypes::texts);
        tests.put("bytes", JdbcTypes::bytes);
        tests.put("dates", JdbcTypes::dates);
        tests.put("times", JdbcTypes::times);
        tests.put("naive timestamps", JdbcTypes::naiveTimestamps);
        tests.put("zoned timestamps", JdbcTypes::zonedTimestamps);
        tests.put("intervals and durations", JdbcTypes::intervals);
        tests.put("arrays", JdbcTypes::arrays);
        tests.put("structs and maps", JdbcTypes::structs);
        tests.put("encoded columns", JdbcTypes::encoded);
        tests.put("unions", JdbcTypes::unions);
    }

    private interface Getter {
        Object of(ResultSet rows, int column) throws SQLException;
    }

    /** The values of a column as a getter gives them. */
    private static List<Object> read(Connection connection, String column, int type, Getter getter) throws SQLException {
        String sql = "SELECT \"" + column + "\" FROM types ORDER BY id";
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            check(rows.getMetaData().getColumnType(1) == type, column + " is " + rows.getMetaData().getColumnTypeName(1));
            List<Object> values = new ArrayList<>();
            while (rows.next()) {
                Object value = getter.of(rows, 1);
                values.add(rows.wasNull() ? null : value);
            }
            return values;
        }
    }

    private static void values(Connection connection, String column, int type, Getter getter, Object least, Object greatest,
            Object between, Object twice) throws SQLException {
        List<Object> values = read(connection, column, type, getter);
        List<Object> expected = Arrays.asList(least, greatest, null, between, twice, twice);
        check(expected.equals(values), column + ": expected " + expected + ", got " + values);
    }

    /** No type makes the driver refuse a whole result. */
    private static void everyType(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery("SELECT * FROM types")) {
            int columns = rows.getMetaData().getColumnCount();
            check(columns > 60, columns + " columns");
            List<String> failed = new ArrayList<>();
            int count = 0;
            for (; rows.next(); count++) {
                for (int column = 1; column <= columns; column++) {
                    try {
                        rows.getString(column);
                    } catch (SQLException | RuntimeException error) {
                        failed.add(rows.getMetaData().getColumnName(column) + ": " + error);
                    }
                }
            }
            equal(List.of(), failed);
            equal(6, count);
        }
    }

    private static void integers(Connection connection) throws SQLException {
        values(connection, "int8", Types.TINYINT, ResultSet::getByte, Byte.MIN_VALUE, Byte.MAX_VALUE, (byte) 0, (byte) 7);
        values(connection, "int16", Types.SMALLINT, ResultSet::getShort, Short.MIN_VALUE, Short.MAX_VALUE, (short) 0, (short) 7);
        values(connection, "int32", Types.INTEGER, ResultSet::getInt, Integer.MIN_VALUE, Integer.MAX_VALUE, 0, 7);
        values(connection, "int64", Types.BIGINT, ResultSet::getLong, Long.MIN_VALUE, Long.MAX_VALUE, 0L, 7L);
        values(connection, "int64", Types.BIGINT, ResultSet::getObject, Long.MIN_VALUE, Long.MAX_VALUE, 0L, 7L);
    }

    private static void unsigned(Connection connection) throws SQLException {
        known("unsigned integers in wider ones",
                () -> values(connection, "uint8", Types.TINYINT, ResultSet::getInt, 0, 255, 1, 7));
        values(connection, "uint64", Types.BIGINT, ResultSet::getString, "0", "18446744073709551615", "1", "7");
        known("unsigned integers as objects", () -> {
            List<Object> objects = read(connection, "uint64", Types.BIGINT, ResultSet::getObject);
            equal(new BigInteger("18446744073709551615").toString(), objects.get(1).toString());
        });
    }

    private static void floats(Connection connection) throws SQLException {
        values(connection, "float16", Types.FLOAT, ResultSet::getFloat, -65504f, 65504f, Float.NEGATIVE_INFINITY, 0.5f);
        values(connection, "float32", Types.FLOAT, ResultSet::getFloat, -Float.MAX_VALUE, Float.MAX_VALUE,
                Float.POSITIVE_INFINITY, 0.25f);
        values(connection, "float64", Types.DOUBLE, ResultSet::getDouble, -Double.MAX_VALUE, Double.MAX_VALUE, Double.NaN, 0.25);
    }

    private static void decimal(Connection connection, String column, int precision, int scale) throws SQLException {
        BigDecimal most = new BigDecimal(new BigInteger("9".repeat(precision)), scale);
        values(connection, column, Types.DECIMAL, ResultSet::getBigDecimal, most.negate(), most,
                new BigDecimal(BigInteger.ZERO, scale), new BigDecimal(BigInteger.valueOf(150), scale));
    }

    private static void decimals(Connection connection) throws SQLException {
        decimal(connection, "decimal32", 9, 2);
        decimal(connection, "decimal64", 18, 6);
        decimal(connection, "decimal128", 38, 10);
        decimal(connection, "decimal256", 76, 38);
    }

    private static void booleans(Connection connection) throws SQLException {
        values(connection, "boolean", Types.BOOLEAN, ResultSet::getBoolean, false, true, true, false);
        equal(Arrays.asList(null, null, null, null, null, null),
                read(connection, "null_", Types.NULL, ResultSet::getObject));
    }

    private static void texts(Connection connection) throws SQLException {
        String odd = "\u0000\ud83e\udd80 ü\n\"'";
        String longer = "a text that is longer than the sixteen bytes of a view";
        values(connection, "utf8", Types.VARCHAR, ResultSet::getString, "", longer, odd, "same");
        values(connection, "utf8_view", Types.VARCHAR, ResultSet::getString, "", longer, odd, "same");
        values(connection, "large_utf8", Types.LONGVARCHAR, ResultSet::getString, "", longer, odd, "same");
    }

    private static void bytes(Connection connection) throws SQLException {
        Getter shown = (rows, column) -> Arrays.toString(rows.getBytes(column));
        byte[] sevens = new byte[50];
        Arrays.fill(sevens, (byte) 7);
        for (Map.Entry<String, Integer> column : Map.of("binary", Types.VARBINARY, "binary_view", Types.VARBINARY,
                "large_binary", Types.LONGVARBINARY).entrySet()) {
            values(connection, column.getKey(), column.getValue(), shown, "[]", Arrays.toString(sevens), "[0, -1, -2]",
                    Arrays.toString("same".getBytes()));
        }
        values(connection, "fixed_size_binary", Types.BINARY, shown, "[0, 0, 0]", "[-1, -1, -1]", "[1, 2, 3]", "[5, 5, 5]");
    }

    private static void dates(Connection connection) throws SQLException {
        Getter later = (rows, column) -> rows.getDate(column) == null ? null : rows.getDate(column).toString();
        for (String column : List.of("date32", "date64")) {
            List<Object> dates = read(connection, column, Types.DATE, later);
            equal(null, dates.get(2));
            equal("1970-01-01", dates.get(3));
            equal(LocalDate.of(2024, 2, 29).toString(), dates.get(4));
        }
    }

    /** The driver's times have milliseconds. */
    private static void times(Connection connection) throws SQLException {
        values(connection, "time32_s", Types.TIME, ResultSet::getString, "00:00:00", "23:59:59", "00:00:01", "12:34:56");
        values(connection, "time32_ms", Types.TIME, ResultSet::getString, "00:00:00", "23:59:59.999", "00:00:00.001", "12:34:56.789");
        known("microseconds of a time", () -> values(connection, "time64_us", Types.TIME, ResultSet::getString, "00:00:00",
                "23:59:59.999999", "00:00:00.000001", "12:34:56.789012"));
        equal("12:34:56.789", read(connection, "time64_us", Types.TIME, ResultSet::getString).get(4));
        equal("12:34:56.789", read(connection, "time64_ns", Types.TIME, ResultSet::getString).get(4));
    }

    /** Timestamps without a zone: the driver gives the stored wall clock time. */
    private static void naiveTimestamps(Connection connection) throws SQLException {
        String[] fractions = {"", ".789", ".789012", ".789012345"};
        String[] units = {"s", "ms", "us", "ns"};
        for (int index = 0; index < units.length; index++) {
            String column = "timestamp_" + units[index];
            Object leap = read(connection, column, Types.TIMESTAMP, ResultSet::getTimestamp).get(4);
            equal(Timestamp.valueOf("2024-02-29 12:34:56" + fractions[index]), leap);
            equal(null, read(connection, column, Types.TIMESTAMP, ResultSet::getTimestamp).get(2));
        }
    }

    /** Timestamps with a zone: the driver converts them to its own zone. */
    private static void zonedTimestamps(Connection connection) throws SQLException {
        for (String zone : List.of("utc", "berlin", "offset")) {
            String column = "timestamp_us_" + zone;
            List<Object> moments = read(connection, column, Types.TIMESTAMP_WITH_TIMEZONE, ResultSet::getTimestamp);
            check(moments.get(4) != null, column + " has no value");
            equal(null, moments.get(2));
        }
        known("zoned timestamps as objects", () -> {
            Object moment = read(connection, "timestamp_us_utc", Types.TIMESTAMP_WITH_TIMEZONE, ResultSet::getObject).get(4);
            check(moment != null, "no object");
        });
    }

    private static void intervals(Connection connection) throws SQLException {
        values(connection, "interval_ym", Types.JAVA_OBJECT, ResultSet::getString, "-001-02", "+100-00", "+000-00", "+001-02");
        values(connection, "interval_mdn", Types.JAVA_OBJECT, ResultSet::getString, "P-1M-2DT-0.000000003S",
                "P1200M31DT18M19.511627776S", "P0D", "P1M2DT0.000000003S");
        values(connection, "duration_s", Types.JAVA_OBJECT, ResultSet::getString, "PT-24H", "PT8760H", "PT0S", "PT5S");
        values(connection, "duration_ms", Types.JAVA_OBJECT, ResultSet::getString, "PT-1M-26.4S", "PT8H45M36S", "PT0S", "PT0.005S");
    }

    private static void arrays(Connection connection) throws SQLException {
        Getter elements = (rows, column) -> {
            Array array = rows.getArray(column);
            return array == null ? null : Arrays.toString((Object[]) array.getArray());
        };
        equal("[[], [2147483647], null, [null, 0], [7], [7]]", read(connection, "list", Types.ARRAY, elements).toString());
        for (String column : List.of("list_of_views", "large_list", "list_view")) {
            List<Object> arrays = read(connection, column, Types.ARRAY, elements);
            equal("[]", arrays.get(0));
            equal(null, arrays.get(2));
            equal("[same]", arrays.get(4));
        }
        Getter text = ResultSet::getString;
        equal("[7]", read(connection, "large_list_view", Types.ARRAY, text).get(4));
        equal("[-2147483648,2147483647]", read(connection, "fixed_size_list", Types.ARRAY, text).get(0));
    }

    private static void structs(Connection connection) throws SQLException {
        List<Object> structs = read(connection, "struct", Types.JAVA_OBJECT, ResultSet::getString);
        check(structs.get(4).toString().startsWith("{\"number\":7,\"text\":\"same\""), structs.toString());
        equal(null, structs.get(2));
        List<Object> maps = read(connection, "map", Types.JAVA_OBJECT, ResultSet::getString);
        equal("{}", maps.get(0));
        equal("{\"d\":\"same\"}", maps.get(4));
    }

    private static void encoded(Connection connection) throws SQLException {
        for (String column : List.of("dictionary_int8", "dictionary_uint32", "runs_int16")) {
            List<Object> texts = read(connection, column, Types.VARCHAR, ResultSet::getString);
            equal("same", texts.get(5));
            equal(null, texts.get(2));
        }
        values(connection, "runs_int32", Types.BIGINT, ResultSet::getLong, Long.MIN_VALUE, Long.MAX_VALUE, 0L, 7L);
        values(connection, "dictionary_int64", Types.BIGINT, ResultSet::getLong, Long.MIN_VALUE, Long.MAX_VALUE, 0L, 7L);
    }

    private static void unions(Connection connection) throws SQLException {
        for (String column : List.of("union_dense", "union_sparse")) {
            List<Object> members = read(connection, column, Types.JAVA_OBJECT, ResultSet::getString);
            equal("-2147483648", members.get(0));
            equal("same", members.get(4));
        }
    }
}
