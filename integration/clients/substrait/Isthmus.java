import io.substrait.isthmus.SqlToSubstrait;
import io.substrait.isthmus.sql.SubstraitCreateStatementParser;
import io.substrait.plan.PlanProtoConverter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;

/** Makes a Substrait plan of each file of SQL in a folder: DEFINITIONS QUERIES PLANS. */
public final class Isthmus {
    public static void main(String[] arguments) throws Exception {
        List<String> tables = Arrays.stream(Files.readString(Path.of(arguments[0])).split(";"))
                .filter(statement -> !statement.isBlank())
                .toList();
        var catalog = SubstraitCreateStatementParser.processCreateStatementsToCatalog(tables);
        Path plans = Path.of(arguments[2]);
        try (var queries = Files.newDirectoryStream(Path.of(arguments[1]), "*.sql")) {
            for (Path query : queries) {
                String name = query.getFileName().toString().replace(".sql", ".plan");
                var plan = new SqlToSubstrait().convert(Files.readString(query), catalog);
                byte[] bytes = new PlanProtoConverter().toProto(plan).toByteArray();
                Files.write(plans.resolve(name), bytes);
            }
        }
    }
}
