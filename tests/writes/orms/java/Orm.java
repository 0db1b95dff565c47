// Whole objects saved by Hibernate: where to in the environment; prints a JSON object for each case.

import jakarta.persistence.Column;
import jakarta.persistence.Entity;
import jakarta.persistence.Id;
import jakarta.persistence.LockModeType;
import jakarta.persistence.Table;
import jakarta.persistence.Version;
import java.math.BigDecimal;
import java.sql.SQLException;
import java.time.LocalDate;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.hibernate.Session;
import org.hibernate.SessionFactory;
import org.hibernate.annotations.DynamicUpdate;
import org.hibernate.annotations.OptimisticLockType;
import org.hibernate.annotations.OptimisticLocking;
import org.hibernate.cfg.Configuration;

public class Orm {
    @Entity(name = "Client")
    @Table(name = "clients")
    public static class Client {
        @Id public Long id;
        public String name;
        public String phone;
        public String email;
        @Column(name = "birth_date") public LocalDate birthDate;
        public BigDecimal income;
        public String notes;
        public String pan;
        @Column(name = "expires_on") public LocalDate expiresOn;
        public BigDecimal credit;
        public String city;
        @Version public int version;

        List<Object> protectedOnes() {
            return java.util.Arrays.asList(name, phone, email, birthDate, income, notes, pan, expiresOn, credit);
        }
    }

    // Optimistic locking by the columns' own values, of those that changed.
    @Entity(name = "Dirty")
    @Table(name = "clients")
    @DynamicUpdate
    @OptimisticLocking(type = OptimisticLockType.DIRTY)
    public static class Dirty {
        @Id public Long id;
        public String name;
        public String pan;
        public String city;
    }

    interface Work {
        void run(Session session, String city, long row) throws Exception;
    }

    static Client load(Session session, String city, long row) {
        Client found = session.find(Client.class, row);
        found.city = city;
        return found;
    }

    static List<Client> several(Session session, String city, long row) {
        List<Client> found = session.createQuery("from Client where id between :a and :b order by id", Client.class)
                .setParameter("a", row).setParameter("b", row + 3).list();
        found.forEach(each -> each.city = city);
        return found;
    }

    static void same(Object found, Object wanted) {
        if (!Objects.equals(found, wanted)) {
            throw new AssertionError(found + " is not " + wanted);
        }
    }

    static Map<String, Work> cases() {
        Map<String, Work> cases = new LinkedHashMap<>();
        cases.put("save", (s, city, row) -> load(s, city, row));
        cases.put("save_many", (s, city, row) -> several(s, city, row));
        cases.put("save_twice", (s, city, row) -> {
            Client found = load(s, "first", row);
            s.flush();
            found.city = city;
            s.flush();
            same(found.version, 2);
        });
        cases.put("refresh", (s, city, row) -> {
            Client found = load(s, city, row);
            List<Object> before = found.protectedOnes();
            s.flush();
            s.refresh(found);
            same(found.protectedOnes(), before);
            same(found.city, city);
        });
        cases.put("merge", (s, city, row) -> {
            Client found = load(s, city, row);
            s.detach(found);
            s.merge(found);
        });
        cases.put("locked", (s, city, row) -> s.find(Client.class, row, LockModeType.PESSIMISTIC_WRITE).city = city);
        cases.put("forced_version", (s, city, row) -> {
            Client found = s.find(Client.class, row, LockModeType.PESSIMISTIC_FORCE_INCREMENT);
            found.city = city;
        });
        cases.put("dirty", (s, city, row) -> s.find(Dirty.class, row).city = city);
        cases.put("stateless", (s, city, row) -> {
            Client found = load(s, city, row);
            s.detach(found);
            try (var stateless = s.getSessionFactory().openStatelessSession()) {
                stateless.beginTransaction();
                stateless.update(found);
                stateless.getTransaction().commit();
            }
        });
        cases.put("stateless_batch", (s, city, row) -> {
            List<Client> found = several(s, city, row);
            s.clear();
            try (var stateless = s.getSessionFactory().openStatelessSession()) {
                stateless.beginTransaction();
                stateless.updateMultiple(found);
                stateless.getTransaction().commit();
            }
        });
        cases.put("upsert", (s, city, row) -> {
            Client found = load(s, city, row);
            s.detach(found);
            try (var stateless = s.getSessionFactory().openStatelessSession()) {
                stateless.beginTransaction();
                stateless.upsert(found);
                stateless.getTransaction().commit();
            }
        });
        cases.put("new_phone", (s, city, row) -> load(s, city, row).phone = "13811119999");
        cases.put("new_pan", (s, city, row) -> load(s, city, row).pan = "4929000011119999");
        cases.put("new_credit_of_one", (s, city, row) -> several(s, city, row).get(2).credit = new BigDecimal("77.00"));
        return cases;
    }

    static SessionFactory factory(String batch) {
        Map<String, String> env = System.getenv();
        String url = "jdbc:postgresql://127.0.0.1:" + env.get("ORM_PORT") + "/" + env.get("ORM_DATABASE") + "?sslmode=disable";
        return new Configuration()
                .addAnnotatedClass(Client.class)
                .addAnnotatedClass(Dirty.class)
                .setProperty("hibernate.connection.url", url)
                .setProperty("hibernate.connection.username", env.get("ORM_USER"))
                .setProperty("hibernate.jdbc.batch_size", batch)
                .buildSessionFactory();
    }

    static String told(Throwable raised) {
        StringBuilder text = new StringBuilder();
        for (Throwable each = raised; each != null; each = each.getCause()) {
            text.append(each).append("; ");
            if (each instanceof SQLException sql && sql.getNextException() != null) {
                text.append(sql.getNextException()).append("; ");
            }
        }
        return text.toString();
    }

    static String quoted(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            out.append(c == '"' || c == '\\' ? "\\" + c : c < ' ' ? " " : String.valueOf(c));
        }
        return out.append('"').toString();
    }

    public static void main(String[] arguments) {
        long row = Long.parseLong(System.getenv("ORM_BASE"));
        for (String batch : new String[] {"0", "10"}) {
            try (SessionFactory factory = factory(batch)) {
                for (Map.Entry<String, Work> entry : cases().entrySet()) {
                    String city = entry.getKey() + " batch " + batch;
                    String error = null;
                    long at = row;
                    try {
                        factory.inTransaction(session -> {
                            try {
                                entry.getValue().run(session, city, at);
                            } catch (RuntimeException raised) {
                                throw raised;
                            } catch (Exception raised) {
                                throw new RuntimeException(raised);
                            }
                        });
                    } catch (Throwable raised) {
                        error = told(raised);
                    }
                    System.out.println("{\"case\": " + quoted(city) + ", \"row\": " + row + ", \"error\": "
                            + (error == null ? "null" : quoted(error)) + "}");
                    row += 10;
                }
            }
        }
    }
}
