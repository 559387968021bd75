package suite;

import java.net.URI;
import java.sql.Connection;
import java.sql.DriverManager;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * Flight SQL through JDBC against a running server: the calls of DBeaver, Tableau and plain programs.
 *
 * <pre>java -cp DRIVER.jar:CLASSES suite.JdbcSuite grpc://HOST:PORT</pre>
 *
 * The server has the TPC-H tables of scale 0.01 and the table of all types. Prints one line a test, closes with the
 * counts, and exits with 1 when one failed.
 */
public final class JdbcSuite {
    static String url;

    private JdbcSuite() {
    }

    public static void main(String[] arguments) {
        URI server = URI.create(arguments[0]);
        url = "jdbc:arrow-flight-sql://" + server.getHost() + ":" + server.getPort() + "/?useEncryption=false";
        Map<String, Checks.Test> tests = new LinkedHashMap<>();
        JdbcStatements.addTo(tests);
        JdbcParameters.addTo(tests);
        JdbcMetadata.addTo(tests);
        JdbcTypes.addTo(tests);
        JdbcSystem.addTo(tests);
        int failed = 0;
        for (Map.Entry<String, Checks.Test> test : tests.entrySet()) {
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
}
