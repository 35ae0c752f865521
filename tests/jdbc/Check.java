import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;

/**
 * Asks a server what JDBC programs ask, and prints one line for each answer: its name, a tab, its value. The test that starts it
 * knows what the values have to be.
 *
 * Arguments: the address as HOST:PORT, the schema and the name of a table with columns n (numbers from 0) and text ("row 0").
 */
public final class Check {
    private final Connection connection;
    private final String schema;
    private final String table;

    private Check(Connection connection, String schema, String table) {
        this.connection = connection;
        this.schema = schema;
        this.table = table;
    }

    public static void main(String[] arguments) throws Exception {
        String uri = "jdbc:arrow-flight-sql://" + arguments[0] + "?useEncryption=false&catalog=jetbridge";
        Connection connection = DriverManager.getConnection(uri);
        Check check = new Check(connection, arguments[1], arguments[2]);
        check.metadata();
        check.everySimpleQuestion();
        check.statements();
        check.prepared();
        check.refusals();
        tell("closed", check.close());
        // The driver's own threads would keep the program alive.
        System.exit(0);
    }

    /** The driver of this version closes a session that it opened twice, the second time on a closed channel. */
    private String close() {
        try {
            connection.close();
            return "yes";
        } catch (SQLException error) {
            return String.valueOf(error.getMessage()).contains("Channel shutdown invoked") ? "yes" : error.toString();
        }
    }

    private void metadata() throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        tell("product", metadata.getDatabaseProductName());
        tell("read only", metadata.isReadOnly());
        tell("transactions", metadata.supportsTransactions());
        tell("catalogs", column(metadata.getCatalogs(), "TABLE_CAT"));
        tell("schemas", column(metadata.getSchemas("jetbridge", schema), "TABLE_SCHEM"));
        tell("tables", column(metadata.getTables("jetbridge", schema, "%", new String[] {"TABLE"}), "TABLE_NAME"));
        tell("views", column(metadata.getTables("jetbridge", schema, "%", new String[] {"VIEW"}), "TABLE_NAME"));
        tell("columns", column(metadata.getColumns("jetbridge", schema, table, "%"), "COLUMN_NAME"));
        tell("column types", column(metadata.getColumns("jetbridge", schema, table, "%"), "TYPE_NAME"));
        tell("table types", column(metadata.getTableTypes(), "TABLE_TYPE"));
        tell("primary keys", column(metadata.getPrimaryKeys("jetbridge", schema, table), "COLUMN_NAME"));
        tell("imported keys", column(metadata.getImportedKeys("jetbridge", schema, table), "FKCOLUMN_NAME"));
        tell("exported keys", column(metadata.getExportedKeys("jetbridge", schema, table), "FKCOLUMN_NAME"));
        ResultSet crossed = metadata.getCrossReference("jetbridge", schema, table, "jetbridge", schema, table);
        tell("cross reference", column(crossed, "FKCOLUMN_NAME"));
    }

    /** Every question of DatabaseMetaData that has no argument and a plain answer: none may fail. */
    private void everySimpleQuestion() throws Exception {
        DatabaseMetaData metadata = connection.getMetaData();
        List<String> failed = new ArrayList<>();
        int asked = 0;
        for (Method method : DatabaseMetaData.class.getMethods()) {
            Class<?> type = method.getReturnType();
            boolean plain = type == boolean.class || type == int.class || type == long.class || type == String.class;
            if (method.getParameterCount() > 0 || !plain) {
                continue;
            }
            asked++;
            try {
                method.invoke(metadata);
            } catch (InvocationTargetException error) {
                failed.add(method.getName() + " (" + error.getCause() + ")");
            }
        }
        tell("simple questions", asked > 100 ? "many" : asked);
        tell("failed questions", failed);
    }

    private void statements() throws SQLException {
        try (Statement statement = connection.createStatement()) {
            List<String> found = new ArrayList<>();
            String sql = "select n, text from " + name() + " where n < 3 order by n desc";
            try (ResultSet rows = statement.executeQuery(sql)) {
                ResultSetMetaData described = rows.getMetaData();
                tell("column count", described.getColumnCount());
                tell("column names", described.getColumnName(1) + "," + described.getColumnName(2));
                while (rows.next()) {
                    found.add(rows.getLong("n") + "=" + rows.getString("text"));
                }
            }
            tell("rows", found);
            tell("count", single(statement.executeQuery("select count(*) from " + name())));
            tell("whole table", column(statement.executeQuery("select * from " + name()), "n").size());
        }
    }

    private void prepared() throws SQLException {
        String sql = "select text from " + name() + " where n = ? and text <> ?";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            tell("parameters", statement.getParameterMetaData().getParameterCount());
            for (long number : new long[] {4, 7}) {
                statement.setLong(1, number);
                statement.setString(2, "it's another");
                tell("prepared " + number, single(statement.executeQuery()));
            }
        }
    }

    private void refusals() throws SQLException {
        tell("bad sql", refusal("selec 1"));
        tell("no table", refusal("select * from no_such_table"));
        tell("insert", refusal("insert into " + name() + " values (1, 'x', 2)"));
        try (Statement statement = connection.createStatement()) {
            tell("after refusals", single(statement.executeQuery("select 1")));
        }
    }

    private String refusal(String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.executeQuery(sql).next();
            return "none";
        } catch (SQLException error) {
            return String.valueOf(error.getMessage()).replaceAll("\\s+", " ");
        }
    }

    private String name() {
        return "\"" + schema + "\".\"" + table + "\"";
    }

    private static List<String> column(ResultSet opened, String name) throws SQLException {
        List<String> found = new ArrayList<>();
        try (ResultSet rows = opened) {
            while (rows.next()) {
                found.add(rows.getString(name));
            }
        }
        return found;
    }

    private static String single(ResultSet opened) throws SQLException {
        try (ResultSet rows = opened) {
            return rows.next() ? rows.getString(1) : "nothing";
        }
    }

    private static void tell(String name, Object value) {
        System.out.println(name + "\t" + value);
    }
}
