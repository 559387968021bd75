import java.io.InputStream;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Properties;

/**
 * The Arrow Flight SQL JDBC driver logs in over TLS. Arguments: the server's address, the file of the certificate
 * authority, the password of `ann`, the token of `bot`.
 */
public final class AuthSuite {
    private interface Test {
        void run() throws Exception;
    }

    private static String url;
    private static String authority;
    private static String password;
    private static String token;

    public static void main(String[] arguments) {
        URI server = URI.create(arguments[0].replace("grpc+tls", "grpc"));
        url = "jdbc:arrow-flight-sql://localhost:" + server.getPort() + "/";
        authority = arguments[1];
        password = arguments[2];
        token = arguments[3];
        Map<String, Test> tests = new LinkedHashMap<>();
        tests.put("userAndPassword", AuthSuite::userAndPassword);
        tests.put("bearerToken", AuthSuite::bearerToken);
        tests.put("tokenAsPassword", AuthSuite::tokenAsPassword);
        tests.put("trustStore", AuthSuite::trustStore);
        tests.put("withoutVerification", AuthSuite::withoutVerification);
        tests.put("untrusted", AuthSuite::untrusted);
        tests.put("wrongPassword", AuthSuite::wrongPassword);
        tests.put("nobody", AuthSuite::nobody);
        tests.put("settingsLast", AuthSuite::settingsLast);
        tests.put("propertiesBecomeOptions", AuthSuite::propertiesBecomeOptions);
        tests.put("wrongPropertiesAreRefused", AuthSuite::wrongPropertiesAreRefused);
        int failed = 0;
        for (Map.Entry<String, Test> test : tests.entrySet()) {
            try {
                test.getValue().run();
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

    private static void userAndPassword() throws SQLException {
        equal("60175", one(ann(), "SELECT count(*) FROM lineitem"));
    }

    private static void bearerToken() throws SQLException {
        Properties properties = trusting();
        properties.put("token", token);
        equal("1", one(properties, "SELECT 1"));
    }

    private static void tokenAsPassword() throws SQLException {
        Properties properties = trusting();
        properties.put("user", "bot");
        properties.put("password", token);
        equal("1", one(properties, "SELECT 1"));
    }

    private static void trustStore() throws Exception {
        KeyStore store = KeyStore.getInstance("JKS");
        store.load(null, null);
        try (InputStream pem = Files.newInputStream(Path.of(authority))) {
            store.setCertificateEntry("authority", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        Path file = Files.createTempFile("squadron-trust", ".jks");
        try (var out = Files.newOutputStream(file)) {
            store.store(out, "changeit".toCharArray());
        }
        Properties properties = login("ann", password);
        properties.put("useSystemTrustStore", "false");
        properties.put("trustStore", file.toString());
        properties.put("trustStorePassword", "changeit");
        equal("1", one(properties, "SELECT 1"));
        Files.delete(file);
    }

    private static void withoutVerification() throws SQLException {
        Properties properties = login("ann", password);
        properties.put("disableCertificateVerification", "true");
        equal("1", one(properties, "SELECT 1"));
    }

    private static void untrusted() {
        refused(login("ann", password), "");
    }

    private static void wrongPassword() {
        Properties properties = trusting();
        properties.put("user", "ann");
        properties.put("password", "wrong");
        refused(properties, "password is wrong");
    }

    private static void nobody() {
        refused(trusting(), "log in");
    }

    private static void settingsLast() throws SQLException {
        try (Connection connection = DriverManager.getConnection(url, ann())) {
            try (Statement statement = connection.createStatement()) {
                statement.executeUpdate("SET squadron.priority = 7");
            }
            equal("7", one(connection, "SHOW squadron.priority"));
        }
        equal("0", one(ann(), "SHOW squadron.priority"));
    }

    private static void propertiesBecomeOptions() throws SQLException {
        Properties properties = ann();
        properties.put("squadron.query_timeout", "90s");
        properties.put("datafusion.execution.batch_size", "77");
        try (Connection connection = DriverManager.getConnection(url, properties)) {
            equal("90000ms", one(connection, "SHOW squadron.query_timeout"));
            equal("77", one(connection, "SHOW datafusion.execution.batch_size"));
        }
    }

    private static void wrongPropertiesAreRefused() {
        Properties properties = ann();
        properties.put("squadron.query_timeout", "soon");
        refused(properties, "squadron.query_timeout");
        properties = ann();
        properties.put("query_timeout", "90s");
        refused(properties, "did you mean squadron.query_timeout");
    }

    private static Properties ann() {
        Properties properties = trusting();
        properties.put("user", "ann");
        properties.put("password", password);
        return properties;
    }

    private static Properties login(String user, String secret) {
        Properties properties = new Properties();
        properties.put("user", user);
        properties.put("password", secret);
        return properties;
    }

    private static Properties trusting() {
        Properties properties = new Properties();
        properties.put("useSystemTrustStore", "false");
        properties.put("tlsRootCerts", authority);
        return properties;
    }

    private static String one(Properties properties, String sql) throws SQLException {
        try (Connection connection = DriverManager.getConnection(url, properties)) {
            return one(connection, sql);
        }
    }

    /** The last column of the one row. */
    private static String one(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery(sql)) {
            check(rows.next(), "no row");
            String value = rows.getString(rows.getMetaData().getColumnCount());
            check(!rows.next(), "a row too many");
            return value;
        }
    }

    /** Connecting or querying must fail, with `word` in some message of the chain. */
    private static void refused(Properties properties, String word) {
        try {
            one(properties, "SELECT 1");
        } catch (SQLException error) {
            StringBuilder said = new StringBuilder();
            for (Throwable cause = error; cause != null; cause = cause.getCause()) {
                said.append(cause.getMessage()).append('\n');
            }
            check(said.toString().contains(word), word + " is not in: " + said);
            return;
        }
        throw new AssertionError("nothing was refused");
    }

    private static void equal(Object expected, Object found) {
        check(expected.equals(found), "expected " + expected + ", found " + found);
    }

    private static void check(boolean holds, String why) {
        if (!holds) {
            throw new AssertionError(why);
        }
    }
}
