import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.InputStream;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;

/** Statements that the server prepares from their first use on, in HikariCP's pool, until the standard input ends. One line of JSON. */
public final class Load {
    static volatile boolean over;

    static void query(Connection connection, String text) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(text)) {
            statement.setLong(1, 3);
            try (ResultSet rows = statement.executeQuery()) {
                if (!rows.next()) throw new SQLException("no row: " + text);
            }
        }
    }

    static void once(HikariDataSource pool) throws SQLException {
        try (Connection connection = pool.getConnection()) {
            query(connection, "select id, name, phone from people where id = ?");
            query(connection, "select item from orders where id = ?");
            query(connection, "select pan from cards where person = ?");
            try (PreparedStatement statement = connection.prepareStatement("update people set seen = seen + 1 where id = ?")) {
                statement.setLong(1, 8);
                statement.executeUpdate();
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl(System.getenv("LOAD_JDBC"));
        config.addDataSourceProperty("prepareThreshold", "1");
        config.setMaximumPoolSize(3);
        AtomicInteger done = new AtomicInteger();
        Map<String, Integer> errors = new ConcurrentHashMap<>();
        List<Thread> threads = new ArrayList<>();
        try (HikariDataSource pool = new HikariDataSource(config)) {
            for (int i = 0; i < 3; i++) {
                Thread thread = new Thread(() -> {
                    while (!over) {
                        try {
                            once(pool);
                            done.incrementAndGet();
                        } catch (SQLException error) {
                            errors.merge(error.getSQLState() + " " + error.getMessage(), 1, Integer::sum);
                        }
                    }
                });
                thread.start();
                threads.add(thread);
            }
            InputStream in = System.in;
            while (in.read() >= 0) { }
            over = true;
            for (Thread thread : threads) thread.join();
        }
        StringBuilder said = new StringBuilder();
        errors.forEach((text, count) -> said.append(said.length() == 0 ? "" : ", ")
            .append('"').append(text.replace("\\", "").replace("\"", "'").replace("\n", " ")).append("\": ").append(count));
        System.out.println("{\"done\": " + done.get() + ", \"errors\": {" + said + "}}");
    }
}
