import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import javax.sql.XAConnection;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;

/** The checks by pgjdbc, with HikariCP as its pool. The target comes by the environment; a line of JSON for each check: check, ok, detail. */
public final class Checks {
    static final String S = System.getenv("TARGET_SCHEMA");
    static final boolean CLERK = System.getenv("TARGET_USER").equals("clerk");
    static final String COLUMNS = "id, name, phone, card, credit, born, seen, score, level, active, ref, photo, prefs, tags, mood, "
        + (CLERK ? "essay, " : "") + "note";
    static final String SOME = " from " + S + ".people where id in (1, 2, 3, 20) order by id";

    interface Body { Object run(Connection connection) throws Exception; }
    interface Check { Object run() throws Exception; }

    static String url() {
        return "jdbc:postgresql://" + System.getenv("TARGET_HOST") + ":" + System.getenv("TARGET_PORT") + "/" + System.getenv("TARGET_DATABASE");
    }

    static Properties properties(String... more) {
        Properties found = new Properties();
        found.setProperty("user", System.getenv("TARGET_USER"));
        found.setProperty("password", System.getenv("TARGET_PASSWORD"));
        found.setProperty("sslmode", "verify-full");
        found.setProperty("sslrootcert", System.getenv("TARGET_ROOT"));
        found.setProperty("connectTimeout", "20");
        found.setProperty("socketTimeout", "40");
        for (int i = 0; i < more.length; i += 2) found.setProperty(more[i], more[i + 1]);
        return found;
    }

    static Connection connect(String... more) throws SQLException {
        return DriverManager.getConnection(url(), properties(more));
    }

    static Check on(Body body, String... more) {
        return () -> {
            try (Connection connection = connect(more)) {
                return body.run(connection);
            }
        };
    }

    static Check undone(Body body, String... more) {
        return on(connection -> {
            connection.setAutoCommit(false);
            try {
                return body.run(connection);
            } finally {
                connection.rollback();
            }
        }, more);
    }

    static Object shown(Object value) throws SQLException {
        if (value instanceof byte[] bytes) return HexFormat.of().formatHex(bytes);
        if (value instanceof java.sql.Array array) return Arrays.toString((Object[]) array.getArray());
        return value == null ? null : value.getClass().getSimpleName() + " " + value;
    }

    static List<Object> rows(ResultSet found) throws SQLException {
        List<Object> all = new ArrayList<>();
        int count = found.getMetaData().getColumnCount();
        while (found.next()) {
            List<Object> row = new ArrayList<>();
            for (int i = 1; i <= count; i++) row.add(shown(found.getObject(i)));
            all.add(row);
        }
        found.close();
        return all;
    }

    static List<Object> asked(Connection connection, String text, Object... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(text)) {
            for (int i = 0; i < values.length; i++) statement.setObject(i + 1, values[i]);
            return rows(statement.executeQuery());
        }
    }

    static Object failure(Check run) throws Exception {
        try {
            run.run();
        } catch (PSQLException e) {
            ServerErrorMessage m = e.getServerErrorMessage();
            if (m == null) return Arrays.asList(e.getSQLState(), e.getMessage().replaceAll(":\\d+", ""));
            return Arrays.asList(m.getSeverity(), m.getSQLState(), m.getMessage(), m.getDetail(), m.getHint(), m.getPosition(), m.getSchema(),
                m.getTable(), m.getColumn(), m.getDatatype(), m.getConstraint(), m.getWhere());
        } catch (SQLException e) {
            return Arrays.asList(e.getClass().getSimpleName(), e.getSQLState());
        }
        return "no error";
    }

    static Object who(Connection connection) throws SQLException {
        return asked(connection, "select current_user");
    }

    static Object typed(Connection connection) throws SQLException {
        List<Object> all = new ArrayList<>();
        try (PreparedStatement statement = connection.prepareStatement("select " + COLUMNS + SOME)) {
            for (int i = 0; i < 4; i++) all.add(rows(statement.executeQuery()));
        }
        return all;
    }

    /** A Statement's text goes as it is in this mode, as the server is asked to confirm; a PreparedStatement's is taken apart. */
    static Object simple(Connection connection) throws SQLException {
        List<Object> all = new ArrayList<>();
        all.add(typed(connection));
        try (Statement statement = connection.createStatement()) {
            boolean found = statement.execute("select name, card from " + S + ".people where id = 3; select position(';' in current_query()) > 0 as together;"
                + " select count(*) from " + S + ".people where born is null");
            for (; found || statement.getUpdateCount() != -1; found = statement.getMoreResults()) {
                all.add(found ? rows(statement.getResultSet()) : statement.getUpdateCount());
            }
        }
        return all;
    }

    static Object prepared(Connection connection) throws SQLException {
        List<Object> all = new ArrayList<>();
        try (PreparedStatement statement = connection.prepareStatement("select name, card, credit, born from " + S + ".people where id = ?")) {
            for (long id : new long[] {1, 2, 3, 20, 4, 5, 6, 7}) {
                statement.setLong(1, id);
                all.add(rows(statement.executeQuery()));
            }
            all.add(statement.getParameterMetaData().getParameterTypeName(1));
        }
        if (!CLERK) return all;
        try (PreparedStatement statement = connection.prepareStatement("select id from " + S + ".people where card = ? and credit = ?")) {
            for (int i = 1; i < 8; i++) {
                statement.setString(1, String.format("62000000000%05d", i));
                statement.setBigDecimal(2, new BigDecimal(i * 37 + ".50"));
                all.add(rows(statement.executeQuery()));
            }
        }
        all.add(asked(connection, "select id from " + S + ".people where card = any(?) order by id",
            connection.createArrayOf("varchar", new String[] {"6200000000000001", "6200000000000009"})));
        return all;
    }

    static Object describe(Connection connection) throws SQLException {
        List<Object> all = new ArrayList<>();
        try (PreparedStatement statement = connection.prepareStatement("select " + COLUMNS + ", 1 as one from " + S + ".people where id < ?")) {
            ResultSetMetaData meta = statement.getMetaData();
            for (int i = 1; i <= meta.getColumnCount(); i++) {
                String kind = meta.getColumnTypeName(i).replaceAll(".*mood\"?$", "mood");
                // pgjdbc asks the catalog about the column that the description names; for those who see masks that is the view's.
                kind = kind.equals("bigserial") ? "int8" : kind;
                all.add(Arrays.asList(meta.getColumnLabel(i), kind, meta.getColumnType(i), meta.getPrecision(i), meta.getScale(i),
                    meta.getColumnDisplaySize(i), meta.getColumnClassName(i)));
            }
        }
        return all;
    }

    static Object write(Connection connection) throws SQLException {
        List<Object> all = new ArrayList<>();
        String names = "name, phone, card, credit, born, seen, score, level, active, ref, photo, prefs, tags, mood";
        try (PreparedStatement statement = connection.prepareStatement(
            "insert into " + S + ".people (id, " + names + ") values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?::jsonb, ?, ?::" + S + ".mood) returning " + names)) {
            for (int i = 0; i < 7; i++) {
                int at = 0;
                statement.setLong(++at, 9100 + i);
                statement.setString(++at, "New");
                statement.setString(++at, "13912345678");
                statement.setString(++at, "622202000000000" + i);
                statement.setBigDecimal(++at, new BigDecimal("12.34"));
                statement.setDate(++at, Date.valueOf("1999-12-31"));
                statement.setTimestamp(++at, Timestamp.valueOf("2024-05-06 07:08:09"));
                statement.setDouble(++at, 0.5);
                if (i == 3) statement.setNull(++at, Types.INTEGER); else statement.setInt(++at, 7);
                statement.setBoolean(++at, true);
                statement.setObject(++at, java.util.UUID.fromString("00000000-0000-4000-8000-00000000ffff"));
                statement.setBytes(++at, new byte[] {0, 1, -1});
                statement.setString(++at, "{\"a\": [1, null]}");
                statement.setArray(++at, connection.createArrayOf("text", new String[] {"x", null, "é"}));
                statement.setString(++at, "happy");
                all.add(rows(statement.executeQuery()));
            }
        }
        try (PreparedStatement statement = connection.prepareStatement("update " + S + ".people set card = ?, level = ? where card = ?")) {
            statement.setString(1, "1");
            statement.setInt(2, -3);
            statement.setString(3, "6222020000000000");
            all.add(statement.executeUpdate());
        }
        try (PreparedStatement statement = connection.prepareStatement(
            "insert into " + S + ".people (name, card) values (?, ?)", Statement.RETURN_GENERATED_KEYS)) {
            statement.setString(1, "Keyed");
            statement.setString(2, "77");
            statement.executeUpdate();
            ResultSet keys = statement.getGeneratedKeys();
            keys.next();
            all.add(keys.getLong("id") >= 5000);
            all.add(keys.getString("card"));
        }
        return all;
    }

    static Object batch(Connection connection) throws SQLException {
        List<Object> all = new ArrayList<>();
        try (PreparedStatement statement = connection.prepareStatement("insert into " + S + ".people (id, name, card) values (?, ?, ?)")) {
            for (int i = 0; i < 100; i++) {
                statement.setLong(1, 9200 + i);
                statement.setString(2, "B" + i);
                statement.setString(3, String.format("63%014d", i));
                statement.addBatch();
            }
            all.add(Arrays.toString(statement.executeBatch()));
        }
        all.add(asked(connection, "select id, name, card from " + S + ".people where id >= 9200 and id < 9300 order by id"));
        try (Statement statement = connection.createStatement()) {
            statement.addBatch("update " + S + ".people set card = 'one' where id = 9200");
            statement.addBatch("update " + S + ".people set card = 'two' where id = 9201");
            all.add(Arrays.toString(statement.executeBatch()));
        }
        all.add(asked(connection, "select card from " + S + ".people where id in (9200, 9201) order by id"));
        return all;
    }

    static Object cursor(Connection connection) throws SQLException {
        List<Object> all = new ArrayList<>();
        try (PreparedStatement statement = connection.prepareStatement("select id, name, card, credit from " + S + ".people where id <= ? order by id")) {
            statement.setFetchSize(7);
            for (int i = 0; i < 7; i++) {
                statement.setLong(1, 30);
                all.add(rows(statement.executeQuery()));
            }
        }
        try (Statement statement = connection.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_READ_ONLY)) {
            ResultSet found = statement.executeQuery("select id, card from " + S + ".people order by id");
            found.absolute(50);
            all.add(found.getString(2));
            found.previous();
            all.add(found.getString(2));
        }
        return all;
    }

    static Object copyOut(Connection connection) throws Exception {
        CopyManager copies = connection.unwrap(PGConnection.class).getCopyAPI();
        List<Object> all = new ArrayList<>();
        for (String form : new String[] {"text", "csv, header", "binary"}) {
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            all.add(copies.copyOut("copy (select id, name, phone, card, credit, born, note from " + S
                + ".people order by id) to stdout (format " + form + ")", out));
            all.add(HexFormat.of().formatHex(out.toByteArray()));
        }
        return all;
    }

    static Object copyIn(Connection connection) throws Exception {
        CopyManager copies = connection.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder lines = new StringBuilder();
        for (int i = 0; i < 200; i++) lines.append(9300 + i).append("\tC\t").append(String.format("64%014d", i)).append("\t2000-01-01\n");
        List<Object> all = new ArrayList<>();
        all.add(copies.copyIn("copy " + S + ".people (id, name, card, born) from stdin", new StringReader(lines.toString())));
        all.add(asked(connection, "select id, card, born from " + S + ".people where id >= 9300 order by id"));
        all.add(failure(() -> copies.copyIn("copy " + S + ".people (id, name, born) from stdin",
            new ByteArrayInputStream("9800\tbad\tnever\n".getBytes(StandardCharsets.UTF_8)))));
        return all;
    }

    static Object notified(Connection connection) throws SQLException {
        connection.createStatement().execute("listen news");
        try (Connection other = connect()) {
            asked(other, "select pg_notify('news', ?)", "é");
        }
        var got = connection.unwrap(PGConnection.class).getNotifications(20000);
        return Arrays.asList(got[0].getName(), got[0].getParameter());
    }

    static Object notices(Connection connection) throws SQLException {
        List<Object> all = new ArrayList<>();
        try (Statement statement = connection.createStatement()) {
            statement.execute("do $$ begin raise notice 'n %', 1 using hint = 'h'; raise warning 'w'; end $$");
            for (var w = statement.getWarnings(); w != null; w = w.getNextWarning()) all.add(Arrays.asList(w.getSQLState(), w.getMessage()));
        }
        return all;
    }

    static Object cancel(Connection connection) throws Exception {
        return Arrays.asList(cancelled(connection, "select pg_sleep(60)"),
            cancelled(connection, "select name, card, pg_sleep(60) from " + S + ".people"));
    }

    static Object cancelled(Connection connection, String text) throws Exception {
        try (Statement statement = connection.createStatement()) {
            int pid = connection.unwrap(PGConnection.class).getBackendPID();
            Thread thread = new Thread(() -> {
                try (Connection watch = connect()) {
                    while (asked(watch, "select 1 from pg_stat_activity where pid = ? and wait_event = 'PgSleep'", pid).isEmpty()) Thread.onSpinWait();
                    statement.cancel();
                } catch (SQLException e) {
                    throw new IllegalStateException(e);
                }
            });
            thread.start();
            Object failed = failure(() -> statement.execute(text));
            thread.join();
            return Arrays.asList(failed, asked(connection, "select name from " + S + ".people where id = 1"));
        }
    }

    static Object largeObject(Connection connection) throws Exception {
        LargeObjectManager objects = connection.unwrap(PGConnection.class).getLargeObjectAPI();
        long oid = objects.createLO(LargeObjectManager.READWRITE);
        LargeObject object = objects.open(oid, LargeObjectManager.READWRITE);
        byte[] data = new byte[1 << 20];
        Arrays.fill(data, (byte) 7);
        object.write(data);
        object.seek64(10, LargeObject.SEEK_SET);
        byte[] part = object.read(3);
        long size = object.size64();
        object.truncate64(100);
        long after = object.size64();
        object.close();
        objects.delete(oid);
        return Arrays.asList(shown(part), size, after);
    }

    static Object big(Connection connection) throws SQLException {
        String text = "漢字 and some more, ".repeat(150000);
        try (PreparedStatement statement = connection.prepareStatement("insert into " + S + ".people (id, name, essay) values (9500, ?, ?)")) {
            statement.setString(1, text);
            statement.setString(2, text);
            statement.executeUpdate();
        }
        ResultSet found = connection.createStatement().executeQuery("select name, essay from " + S + ".people where id = 9500");
        found.next();
        return Arrays.asList(found.getString(1).equals(text), found.getString(2).equals(text));
    }

    static Object errors(Connection connection) throws Exception {
        String into = "insert into " + S + ".people ";
        String[] failing = {
            "selec 1", "select id, nosuch from " + S + ".people", into + "(id, name) values (9001, null)", into + "(id, name) values (1, 'Again')",
            into + "(id, name, card) values (9001, 'Again', '6200000000000001')", into + "(id, name, note) values (9001, 'Long', repeat('x', 300))",
            "insert into " + S + ".orders (id, person, amount) values (9001, 999999, 1)",
            into + "(id, name, card) values (9001, 'Long', '12345678901234567890')", into + "(id, name, born) values (9001, 'Bad', 'no date')",
            "select 1 / 0", "do $$ begin raise exception 'own words' using errcode = 'P0042', detail = 'a detail', hint = 'a hint',"
                + " column = 'c', table = 't', constraint = 'k', datatype = 'd', schema = 's'; end $$",
        };
        List<Object> all = new ArrayList<>();
        for (String text : failing) all.add(failure(() -> connection.createStatement().execute(text)));
        return all;
    }

    static Object transaction(Connection connection) throws Exception {
        List<Object> all = new ArrayList<>();
        all.add(asked(connection, "select card from " + S + ".people where id = 2"));
        Savepoint savepoint = connection.setSavepoint();
        all.add(failure(() -> asked(connection, "select nosuch from " + S + ".people")));
        all.add(failure(() -> asked(connection, "select name from " + S + ".people")));
        connection.rollback(savepoint);
        all.add(asked(connection, "select card from " + S + ".people where id = 3"));
        all.add(failure(() -> asked(connection, "select 1 / (id - id) from " + S + ".people")));
        connection.rollback();
        connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        connection.setReadOnly(true);
        all.add(asked(connection, "select phone, current_setting('transaction_isolation') from " + S + ".people where id = 3"));
        return all;
    }

    static Object twoPhase() throws Exception {
        var source = new org.postgresql.xa.PGXADataSource();
        source.setURL(url());
        source.setUser(System.getenv("TARGET_USER"));
        source.setPassword(System.getenv("TARGET_PASSWORD"));
        source.setSslMode("require");
        XAConnection connection = source.getXAConnection();
        var resource = connection.getXAResource();
        byte[] name = System.getenv("TARGET").getBytes(StandardCharsets.UTF_8);
        var xid = new javax.transaction.xa.Xid() {
            public int getFormatId() { return 1; }
            public byte[] getGlobalTransactionId() { return name; }
            public byte[] getBranchQualifier() { return new byte[] {1}; }
        };
        resource.start(xid, javax.transaction.xa.XAResource.TMNOFLAGS);
        connection.getConnection().createStatement().execute("insert into " + S + ".people (id, name, card) values (9600, 'Two', '65')");
        resource.end(xid, javax.transaction.xa.XAResource.TMSUCCESS);
        resource.prepare(xid);
        resource.commit(xid, false);
        Object gone = asked(connection.getConnection(), "delete from " + S + ".people where card = '65' returning name");
        connection.close();
        return gone;
    }

    static Object pool() throws Exception {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl(url());
        config.setDataSourceProperties(properties());
        config.setMaximumPoolSize(3);
        List<Object> all = new ArrayList<>();
        try (HikariDataSource source = new HikariDataSource(config)) {
            var threads = Executors.newFixedThreadPool(6);
            List<Future<Object>> found = new ArrayList<>();
            for (int i = 1; i <= 20; i++) {
                int id = i;
                found.add(threads.submit(() -> {
                    try (Connection connection = source.getConnection()) {
                        connection.setAutoCommit(id % 2 == 0);
                        return asked(connection, "select name, card from " + S + ".people where id = ?", (long) id);
                    }
                }));
            }
            for (Future<Object> one : found) all.add(one.get(40, TimeUnit.SECONDS));
            threads.shutdown();
        }
        all.add(keptAfterRefusal());
        return all;
    }

    /** HikariCP throws connections away by SQLSTATE. The EXPLAIN is done directly and refused by pgveil; nothing else may differ. */
    static Object keptAfterRefusal() throws Exception {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl(url());
        config.setDataSourceProperties(properties());
        config.setMaximumPoolSize(1);
        List<Object> all = new ArrayList<>();
        try (HikariDataSource source = new HikariDataSource(config)) {
            int first;
            try (Connection connection = source.getConnection()) {
                first = connection.unwrap(org.postgresql.PGConnection.class).getBackendPID();
                connection.setAutoCommit(false);
                var before = connection.setSavepoint();
                try {
                    asked(connection, "explain select max(card) from " + S + ".people");
                } catch (SQLException refused) {
                    if (!List.of("0AP01", "42501").contains(refused.getSQLState())) throw refused;
                }
                connection.rollback(before);
                all.add(asked(connection, "select 1"));
                connection.commit();
            }
            try (Connection connection = source.getConnection()) {
                all.add(connection.unwrap(org.postgresql.PGConnection.class).getBackendPID() == first);
            }
        }
        return all;
    }

    /** What pgjdbc asks of the catalog. The types of sealed columns are the domain's there. */
    static Object introspection(Connection connection) throws SQLException {
        List<Object> all = new ArrayList<>();
        var meta = connection.getMetaData();
        for (ResultSet found : List.of(meta.getTables(null, S, "%", new String[] {"TABLE"}), meta.getPrimaryKeys(null, S, "people"),
            meta.getImportedKeys(null, S, "orders"), meta.getColumns(null, S, "people", "%"))) {
            List<Object> names = new ArrayList<>();
            while (found.next()) {
                names.add(found.getString("TABLE_NAME".equals(found.getMetaData().getColumnName(3)) ? 3 : 7));
                names.add(found.getString(4));
                if (found.getMetaData().getColumnCount() < 20) continue;
                // Of getColumns: type, size, digits, null, default, auto-increment.
                for (int column : new int[] {6, 7, 9, 11, 13, 18, 23}) names.add(found.getString(column));
            }
            all.add(names);
        }
        try (var asked = connection.createStatement(); ResultSet rows = asked.executeQuery("select id, name, phone, card, credit from " + S + ".people where id = 1")) {
            var described = rows.getMetaData();
            for (int column = 1; column <= described.getColumnCount(); column++) {
                all.add(List.of(described.getSchemaName(column), described.getTableName(column), described.getColumnTypeName(column),
                    described.getPrecision(column), described.getScale(column), described.isAutoIncrement(column), described.isNullable(column)));
            }
        }
        all.add(meta.getDatabaseProductVersion());
        return all;
    }

    /** pgjdbc's ways to send a query, and what it does about errors in transactions. */
    static Object modes() throws Exception {
        Map<String, Object> all = new LinkedHashMap<>();
        for (String mode : new String[] {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"}) {
            for (String autosave : new String[] {"never", "always", "conservative"}) {
                try (Connection connection = connect("preferQueryMode", mode, "autosave", autosave, "prepareThreshold", "2", "binaryTransfer", "true")) {
                    connection.setAutoCommit(false);
                    List<Object> seen = new ArrayList<>();
                    for (int i = 0; i < 3; i++) {
                        seen.add(asked(connection, "select id, name, phone, card, credit, born, level, active from " + S + ".people where id = ?", 4L));
                        seen.add(failure(() -> asked(connection, "select nosuch from " + S + ".people")));
                        if (autosave.equals("never")) connection.rollback();
                        if (CLERK) seen.add(failure(() -> asked(connection, "select id from " + S + ".people where card = ?", "6200000000000004")));
                        connection.rollback();
                    }
                    all.put(mode + " " + autosave, seen);
                }
            }
        }
        return all;
    }

    static String json(Object value) {
        if (value == null) return "null";
        if (value instanceof Number || value instanceof Boolean) return value.toString();
        if (value instanceof List<?> list) return list.stream().map(Checks::json).collect(java.util.stream.Collectors.joining(", ", "[", "]"));
        if (value instanceof Map<?, ?> map) {
            return map.entrySet().stream().map(e -> json(e.getKey()) + ": " + json(e.getValue())).collect(java.util.stream.Collectors.joining(", ", "{", "}"));
        }
        StringBuilder out = new StringBuilder("\"");
        for (char c : value.toString().toCharArray()) {
            if (c == '"' || c == '\\') out.append('\\').append(c);
            else if (c < 32 || c > 126) out.append(String.format("\\u%04x", (int) c));
            else out.append(c);
        }
        return out.append('"').toString();
    }

    public static void main(String[] arguments) {
        java.util.TimeZone.setDefault(java.util.TimeZone.getTimeZone("UTC"));
        boolean direct = !System.getenv("TARGET_DIRECT_TLS").isEmpty();
        String other = System.getenv("TARGET_ROOT").replace("authority.crt", "other.crt");
        Map<String, Check> checks = new LinkedHashMap<>();
        checks.put("tls_off", on(Checks::who, "sslmode", "disable"));
        checks.put("tls_require", on(Checks::who, "sslmode", "require"));
        checks.put("tls_verify_full", on(Checks::who));
        checks.put("tls_wrong_authority", () -> failure(on(Checks::who, "sslrootcert", other)));
        checks.put("tls_direct", on(Checks::who, "sslNegotiation", direct ? "direct" : "postgres"));
        checks.put("scram", () -> failure(on(Checks::who, "password", "wrong")));
        checks.put("channel_binding", on(Checks::who, "channelBinding", "require"));
        checks.put("simple", on(Checks::simple, "preferQueryMode", "simple"));
        checks.put("prepared", on(Checks::prepared));
        checks.put("text", on(Checks::typed, "binaryTransfer", "false"));
        checks.put("binary", on(Checks::typed, "binaryTransfer", "true", "prepareThreshold", "-1"));
        checks.put("describe", on(Checks::describe));
        checks.put("write", undone(Checks::write));
        checks.put("batch", undone(Checks::batch, "reWriteBatchedInserts", "true"));
        checks.put("pipeline", undone(Checks::batch));
        checks.put("cursor", undone(Checks::cursor));
        checks.put("copy_out", on(Checks::copyOut));
        checks.put("copy_in", undone(Checks::copyIn));
        checks.put("notify", on(Checks::notified));
        checks.put("notice", on(Checks::notices));
        checks.put("cancel", on(Checks::cancel));
        checks.put("large_object", undone(Checks::largeObject));
        checks.put("big", undone(Checks::big));
        checks.put("errors", on(Checks::errors));
        checks.put("transaction", undone(Checks::transaction));
        checks.put("two_phase", Checks::twoPhase);
        checks.put("pool", Checks::pool);
        checks.put("introspection", on(Checks::introspection));
        checks.put("modes", Checks::modes);
        for (Map.Entry<String, Check> check : checks.entrySet()) {
            if (!CLERK && List.of("write", "batch", "pipeline", "copy_in", "big", "errors", "two_phase", "large_object").contains(check.getKey())) continue;
            Map<String, Object> line = new LinkedHashMap<>();
            line.put("check", check.getKey());
            try {
                line.put("detail", check.getValue().run());
                line.put("ok", true);
            } catch (Exception | AssertionError e) {
                line.put("detail", e.toString());
                line.put("ok", false);
            }
            System.out.println(json(line));
        }
        System.exit(0);
    }
}
