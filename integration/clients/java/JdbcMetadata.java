package suite;

import static suite.Checks.check;
import static suite.Checks.equal;
import static suite.Checks.known;
import static suite.Checks.strings;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;

/** DatabaseMetaData, which DBeaver and Tableau read before they show anything. */
final class JdbcMetadata {
    private JdbcMetadata() {
    }

    static void addTo(Map<String, Checks.Test> tests) {
        tests.put("every property is answered", JdbcMetadata::everyProperty);
        tests.put("names of the server", JdbcMetadata::names);
        tests.put("identifiers", JdbcMetadata::identifiers);
        tests.put("functions", JdbcMetadata::functions);
        tests.put("grammar", JdbcMetadata::grammar);
        tests.put("transactions", JdbcMetadata::transactions);
        tests.put("result sets", JdbcMetadata::resultSets);
        tests.put("limits", JdbcMetadata::limits);
        tests.put("conversions", JdbcMetadata::conversions);
        tests.put("getCatalogs", JdbcMetadata::getCatalogs);
        tests.put("getSchemas", JdbcMetadata::getSchemas);
        tests.put("getTableTypes", JdbcMetadata::getTableTypes);
        tests.put("getTables", JdbcMetadata::getTables);
        tests.put("getTables by type", JdbcMetadata::getTablesByType);
        tests.put("getColumns", JdbcMetadata::getColumns);
        tests.put("getColumns of all types", JdbcMetadata::getColumnsOfAllTypes);
        tests.put("getTypeInfo", JdbcMetadata::getTypeInfo);
        tests.put("getPrimaryKeys", JdbcMetadata::getPrimaryKeys);
        tests.put("foreign keys", JdbcMetadata::foreignKeys);
    }

    /** A missing key of SqlInfo, or one of another type, causes a null pointer or a failed cast in one of these. */
    private static void everyProperty(Connection connection) throws Exception {
        // The connection has no login.
        Set<String> unknown = Set.of("getUserName");
        DatabaseMetaData metadata = connection.getMetaData();
        Set<String> failed = new TreeSet<>();
        int answered = 0;
        for (Method method : DatabaseMetaData.class.getMethods()) {
            boolean isProperty = method.getParameterCount() == 0 && !ResultSet.class.equals(method.getReturnType());
            if (!isProperty || unknown.contains(method.getName())) {
                continue;
            }
            try {
                Object answer = method.invoke(metadata);
                if (answer == null && !"getRowIdLifetime".equals(method.getName())) {
                    failed.add(method.getName() + " is null");
                }
                answered++;
            } catch (InvocationTargetException error) {
                failed.add(method.getName() + ": " + error.getCause());
            }
        }
        equal(Set.of(), failed);
        check(answered > 120, answered + " properties");
    }

    private static void names(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        equal("Squadron", metadata.getDatabaseProductName());
        check(metadata.getDatabaseProductVersion().matches("\\d+\\.\\d+\\.\\d+.*"), metadata.getDatabaseProductVersion());
        equal("schema", metadata.getSchemaTerm());
        equal("catalog", metadata.getCatalogTerm());
        equal("procedure", metadata.getProcedureTerm());
        check(metadata.isCatalogAtStart(), "catalog.schema.table");
        check(!metadata.isReadOnly(), "tables can be made");
        check(metadata.allTablesAreSelectable(), "all tables can be read");
    }

    private static void identifiers(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        equal("\"", metadata.getIdentifierQuoteString());
        equal("\\", metadata.getSearchStringEscape());
        equal("", metadata.getExtraNameCharacters());
        known("storesUpperCaseIdentifiers", () -> check(!metadata.storesUpperCaseIdentifiers(), "it is lower case"));
        known("storesLowerCaseIdentifiers", () -> check(metadata.storesLowerCaseIdentifiers(), "it is"));
        known("nullsAreSortedHigh", () -> check(metadata.nullsAreSortedHigh(), "NULL comes last"));
        check(!metadata.nullsAreSortedLow(), "and not first");
    }

    private static void functions(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        for (String[] wanted : new String[][] {
                {metadata.getNumericFunctions(), "ABS", "CEIL", "POWER"},
                {metadata.getStringFunctions(), "CONCAT", "SUBSTR", "REGEXP_REPLACE", "MD5"},
                {metadata.getSystemFunctions(), "COALESCE", "NULLIF", "ARRAY_LENGTH"},
                {metadata.getTimeDateFunctions(), "DATE_TRUNC", "NOW", "TO_TIMESTAMP"},
                {metadata.getSQLKeywords(), "EXPLAIN", "EXTERNAL", "LIMIT"}}) {
            List<String> found = List.of(wanted[0].split(",\\s*"));
            for (int index = 1; index < wanted.length; index++) {
                check(found.contains(wanted[index]), wanted[index] + " is not in " + found);
            }
        }
    }

    private static void grammar(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        check(metadata.supportsGroupBy() && metadata.supportsGroupByUnrelated(), "GROUP BY");
        check(metadata.supportsOrderByUnrelated() && metadata.supportsExpressionsInOrderBy(), "ORDER BY");
        check(metadata.supportsOuterJoins() && metadata.supportsFullOuterJoins(), "outer joins");
        check(metadata.supportsLimitedOuterJoins(), "limited outer joins");
        check(metadata.supportsUnion() && metadata.supportsUnionAll(), "UNION");
        check(metadata.supportsSubqueriesInExists() && metadata.supportsSubqueriesInIns(), "subqueries");
        check(metadata.supportsSubqueriesInComparisons() && metadata.supportsCorrelatedSubqueries(), "subqueries");
        check(metadata.supportsLikeEscapeClause() && metadata.supportsColumnAliasing(), "LIKE ESCAPE, aliases");
        check(metadata.supportsTableCorrelationNames() && metadata.supportsNonNullableColumns(), "tables");
        check(metadata.supportsCoreSQLGrammar() && metadata.supportsMinimumSQLGrammar(), "grammar");
        check(metadata.supportsANSI92EntryLevelSQL(), "SQL-92");
        check(!metadata.supportsStoredProcedures() && !metadata.supportsSelectForUpdate(), "there are none");
        check(metadata.nullPlusNonNullIsNull(), "NULL + 1 is NULL");
    }

    private static void transactions(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        check(!metadata.supportsTransactions(), "there are none yet");
        equal(Connection.TRANSACTION_NONE, metadata.getDefaultTransactionIsolation());
        check(!metadata.supportsTransactionIsolationLevel(Connection.TRANSACTION_SERIALIZABLE), "no isolation");
        check(!metadata.supportsSavepoints(), "no savepoints");
        check(!metadata.dataDefinitionCausesTransactionCommit(), "nothing to commit");
    }

    private static void resultSets(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        check(metadata.supportsResultSetType(ResultSet.TYPE_FORWARD_ONLY), "forwards");
        check(!metadata.supportsResultSetType(ResultSet.TYPE_SCROLL_SENSITIVE), "never back");
        check(metadata.supportsResultSetConcurrency(ResultSet.TYPE_FORWARD_ONLY, ResultSet.CONCUR_READ_ONLY), "to read");
        check(!metadata.supportsResultSetConcurrency(ResultSet.TYPE_FORWARD_ONLY, ResultSet.CONCUR_UPDATABLE), "only");
    }

    /** Zero means no limit, or an unknown one. */
    private static void limits(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        equal(0, metadata.getMaxColumnNameLength());
        equal(0, metadata.getMaxTableNameLength());
        equal(0, metadata.getMaxSchemaNameLength());
        equal(0, metadata.getMaxCatalogNameLength());
        equal(0, metadata.getMaxStatementLength());
        equal(0, metadata.getMaxColumnsInSelect());
        equal(0, metadata.getMaxTablesInSelect());
        equal(0, metadata.getMaxConnections());
        equal(0, metadata.getMaxRowSize());
        equal(0, metadata.getMaxUserNameLength());
    }

    private static void conversions(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        check(metadata.supportsConvert(), "CAST");
        check(metadata.supportsConvert(Types.INTEGER, Types.VARCHAR), "numbers to text");
        check(metadata.supportsConvert(Types.VARCHAR, Types.TIMESTAMP), "text to timestamps");
        check(metadata.supportsConvert(Types.BIGINT, Types.DECIMAL), "integers to decimals");
        check(!metadata.supportsConvert(Types.BIT, Types.DATE), "no flags to dates");
    }

    private static void getCatalogs(Connection connection) throws SQLException {
        equal(List.of("datafusion"), strings(connection.getMetaData().getCatalogs(), "TABLE_CAT"));
    }

    private static void getSchemas(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        List<String> all = strings(metadata.getSchemas(), "TABLE_SCHEM");
        check(all.containsAll(List.of("information_schema", "public")), "schemas: " + all);
        check(all.equals(all.stream().sorted().toList()), "in order: " + all);
        equal(List.of("public"), strings(metadata.getSchemas("datafusion", "pub%"), "TABLE_SCHEM"));
        equal(List.of(), strings(metadata.getSchemas("nowhere", null), "TABLE_SCHEM"));
    }

    private static void getTableTypes(Connection connection) throws SQLException {
        List<String> types = strings(connection.getMetaData().getTableTypes(), "TABLE_TYPE");
        check(types.containsAll(List.of("SYSTEM TABLE", "TABLE", "VIEW")), "types: " + types);
    }

    private static void getTables(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        List<String> names = strings(metadata.getTables(null, null, null, null), "TABLE_NAME");
        check(names.contains("lineitem") && names.contains("region"), "tables: " + names);
        equal(List.of("region"), strings(metadata.getTables(null, "public", "reg%", null), "TABLE_NAME"));
        equal(List.of("part", "partsupp"), strings(metadata.getTables("datafusion", null, "part%", null), "TABLE_NAME"));
        equal(List.of("nation"), strings(metadata.getTables(null, null, "_ation", null), "TABLE_NAME"));
        equal(List.of(), strings(metadata.getTables(null, null, "\\_ation", null), "TABLE_NAME"));
        equal(List.of(), strings(metadata.getTables("nowhere", null, null, null), "TABLE_NAME"));
        equal(List.of(), strings(metadata.getTables(null, null, "nothing_of_this_name", null), "TABLE_NAME"));
    }

    private static void getTablesByType(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        try (Statement statement = connection.createStatement()) {
            statement.executeUpdate("CREATE VIEW jdbc_listed AS SELECT r_name FROM region");
            equal(List.of("jdbc_listed"),
                    strings(metadata.getTables(null, null, "jdbc_listed", new String[] {"VIEW"}), "TABLE_NAME"));
            equal(List.of(), strings(metadata.getTables(null, null, "jdbc_listed", new String[] {"TABLE"}), "TABLE_NAME"));
            equal(List.of("VIEW"), strings(metadata.getTables(null, null, "jdbc_listed", null), "TABLE_TYPE"));
            statement.executeUpdate("DROP VIEW jdbc_listed");
            equal(List.of(), strings(metadata.getTables(null, null, "jdbc_listed", null), "TABLE_NAME"));
        }
        List<String> system = strings(metadata.getTables(null, null, null, new String[] {"SYSTEM TABLE"}), "TABLE_SCHEM");
        equal(Set.of("information_schema", "system"), Set.copyOf(system));
    }

    private static void getColumns(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        equal(List.of("n_nationkey", "n_name", "n_regionkey", "n_comment"),
                strings(metadata.getColumns(null, null, "nation", null), "COLUMN_NAME"));
        equal(List.of("n_name"), strings(metadata.getColumns(null, null, "nation", "%name"), "COLUMN_NAME"));
        try (ResultSet columns = metadata.getColumns(null, "public", "lineitem", "l_extendedprice")) {
            check(columns.next(), "no such column");
            equal("datafusion", columns.getString("TABLE_CAT"));
            equal("public", columns.getString("TABLE_SCHEM"));
            equal("lineitem", columns.getString("TABLE_NAME"));
            equal(Types.DECIMAL, columns.getInt("DATA_TYPE"));
            equal("DECIMAL", columns.getString("TYPE_NAME"));
            equal(15, columns.getInt("COLUMN_SIZE"));
            equal(2, columns.getInt("DECIMAL_DIGITS"));
            equal(6, columns.getInt("ORDINAL_POSITION"));
            check(List.of("YES", "NO").contains(columns.getString("IS_NULLABLE")), columns.getString("IS_NULLABLE"));
            equal("NO", columns.getString("IS_AUTOINCREMENT"));
            check(!columns.next(), "a column too many");
        }
    }

    /** The metadata of the table and the metadata of a query give each column the same type. */
    private static void getColumnsOfAllTypes(Connection connection) throws SQLException {
        List<String> differing = new ArrayList<>();
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery("SELECT * FROM types");
                ResultSet columns = connection.getMetaData().getColumns(null, null, "types", null)) {
            ResultSetMetaData queried = rows.getMetaData();
            for (int index = 1; columns.next(); index++) {
                equal(queried.getColumnName(index), columns.getString("COLUMN_NAME"));
                if (queried.getColumnType(index) != columns.getInt("DATA_TYPE")) {
                    differing.add(queried.getColumnName(index));
                }
            }
        }
        equal(List.of(), differing);
    }

    private static void getTypeInfo(Connection connection) throws SQLException {
        List<String> names = strings(connection.getMetaData().getTypeInfo(), "TYPE_NAME");
        known("getTypeInfo: it does not ask the server", () -> check(names.contains("BIGINT"), "types: " + names));
    }

    private static void getPrimaryKeys(Connection connection) throws Exception {
        equal(List.of(), strings(connection.getMetaData().getPrimaryKeys(null, "public", "region"), "COLUMN_NAME"));
        Path file = Files.createTempFile("squadron-keys", ".csv");
        Files.writeString(file, "1,2,3\n");
        try (Statement statement = connection.createStatement()) {
            statement.executeUpdate("CREATE EXTERNAL TABLE jdbc_keyed (a INT, b INT NOT NULL, c INT NOT NULL, "
                    + "PRIMARY KEY (c, b)) STORED AS CSV LOCATION '" + file + "'");
            ResultSet keys = connection.getMetaData().getPrimaryKeys(null, null, "jdbc_keyed");
            equal(List.of("c", "b"), strings(keys, "COLUMN_NAME"));
            statement.executeUpdate("DROP TABLE jdbc_keyed");
        } finally {
            Files.delete(file);
        }
    }

    private static void foreignKeys(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        equal(List.of(), strings(metadata.getImportedKeys(null, "public", "nation"), "PKTABLE_NAME"));
        equal(List.of(), strings(metadata.getExportedKeys(null, "public", "region"), "PKTABLE_NAME"));
        ResultSet cross = metadata.getCrossReference(null, "public", "region", null, "public", "nation");
        equal(List.of(), strings(cross, "PKTABLE_NAME"));
    }
}
