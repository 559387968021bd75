package suite;

import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;

/** Helpers of all tests. */
final class Checks {
    /** A test over a connection of its own. */
    interface Test {
        void run(Connection connection) throws Exception;
    }

    /** Something that may fail. */
    interface Work {
        void run() throws SQLException;
    }

    private Checks() {
    }

    /** One column of a result, read to its end. */
    static List<String> strings(ResultSet rows, String column) throws SQLException {
        try (rows) {
            List<String> values = new ArrayList<>();
            while (rows.next()) {
                values.add(rows.getString(column));
            }
            return values;
        }
    }

    /** Checks that `work` fails with an error that contains `word`. */
    static void raises(Work work, String word) {
        try {
            work.run();
        } catch (SQLException error) {
            check(describe(error).contains(word), "\"" + word + "\" is not in: " + describe(error));
            return;
        }
        throw new AssertionError("no error, where one was due about " + word);
    }

    static String describe(Throwable error) {
        StringBuilder text = new StringBuilder();
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            text.append(cause.getMessage()).append("; ");
        }
        return text.toString();
    }

    static void equal(Object expected, Object actual) {
        check(Objects.equals(expected, actual), "expected " + expected + ", got " + actual);
    }

    static void check(boolean holds, String otherwise) {
        if (!holds) {
            throw new AssertionError(otherwise);
        }
    }

    /**
     * Pins a limitation of the driver: fails when a newer driver has overcome it, so that the test can be tightened.
     */
    static void known(String lack, Work work) {
        try {
            work.run();
        } catch (Exception | AssertionError expected) {
            return;
        }
        throw new AssertionError("the driver has learnt it, drop this: " + lack);
    }
}
