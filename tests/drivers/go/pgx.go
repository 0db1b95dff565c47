package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

func pgxConnect(ctx context.Context, more map[string]string) (*pgx.Conn, error) {
	return pgx.Connect(ctx, dsn(more))
}

func pgxFailure(err error) any {
	var found *pgconn.PgError
	if errors.As(err, &found) {
		return seen{found.Severity, found.Code, found.Message, found.Detail, found.Hint, found.Position, found.SchemaName,
			found.TableName, found.ColumnName, found.DataTypeName, found.ConstraintName, found.Where}
	}
	if err != nil {
		return err.Error()
	}
	return "no error"
}

// pgxRows gives all rows of a query; errors stand among them.
func pgxRows(rows pgx.Rows, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	all := seen{}
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return nil, err
		}
		all = append(all, fmt.Sprintf("%v", values))
	}
	rows.Close()
	return seen{all, rows.CommandTag().String()}, rows.Err()
}

func pgxOn(more map[string]string, body func(context.Context, *pgx.Conn) (any, error)) func(context.Context) (any, error) {
	return func(ctx context.Context) (any, error) {
		conn, err := pgxConnect(ctx, more)
		if err != nil {
			return nil, err
		}
		defer conn.Close(ctx)
		return body(ctx, conn)
	}
}

func pgxUndone(body func(context.Context, *pgx.Conn) (any, error)) func(context.Context) (any, error) {
	return pgxOn(nil, func(ctx context.Context, conn *pgx.Conn) (any, error) {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return nil, err
		}
		defer tx.Rollback(ctx)
		return body(ctx, conn)
	})
}

func pgxWho(ctx context.Context, conn *pgx.Conn) (any, error) {
	return pgxRows(conn.Query(ctx, "select current_user"))
}

// pgxFormats runs the query by the extended protocol and gives the values as they came.
func pgxFormats(format int16) func(context.Context, *pgx.Conn) (any, error) {
	return func(ctx context.Context, conn *pgx.Conn) (any, error) {
		result := conn.PgConn().ExecParams(ctx, "select "+strings.Join(columns, ", ")+" "+some, nil, nil, nil, []int16{format}).Read()
		if result.Err != nil {
			return nil, result.Err
		}
		all := seen{}
		for _, row := range result.Rows {
			var values []any
			for _, value := range row {
				if value == nil {
					values = append(values, nil)
				} else {
					values = append(values, hex.EncodeToString(value))
				}
			}
			all = append(all, values)
		}
		return all, nil
	}
}

func pgxValues() []any {
	return []any{"New", "13912345678", "6222020000000009", pgtype.Numeric{}, time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC),
		time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC), 0.5, 7, true, "00000000-0000-4000-8000-00000000ffff", []byte{0, 1, 255},
		map[string]any{"a": []any{1, nil}}, []string{"x", "é"}, "happy"}
}

func pgxWrite(ctx context.Context, conn *pgx.Conn) (any, error) {
	values := pgxValues()
	names := strings.Join(columns[1:len(values)+1], ", ")
	all := seen{}
	for _, step := range []struct {
		text   string
		values []any
	}{
		{fmt.Sprintf("insert into %s.people (id, %s) values (9100, %s) returning %s", schema, names, marks(len(values)), names), values},
		{fmt.Sprintf("update %s.people set card = $1, level = $2, credit = $4 where card = $3 returning card, level, credit", schema),
			[]any{"1", -3, "6222020000000009", "99.5"}},
		{fmt.Sprintf("delete from %s.people where card = $1 returning id, name", schema), []any{"1"}},
	} {
		found, err := pgxRows(conn.Query(ctx, step.text, step.values...))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", step.text, err)
		}
		all = append(all, found)
	}
	return all, nil
}

func pgxBatch(ctx context.Context, conn *pgx.Conn) (any, error) {
	batch := &pgx.Batch{}
	for i := range 30 {
		batch.Queue(fmt.Sprintf("insert into %s.people (id, name, card) values ($1, $2, $3) returning id, card", schema),
			9200+i, fmt.Sprintf("B%d", i), fmt.Sprintf("63%014d", i))
	}
	batch.Queue(fmt.Sprintf("select count(*) from %s.people where card = any($1)", schema), []string{"6300000000000001", "x"})
	sent := conn.SendBatch(ctx, batch)
	all := seen{}
	for range batch.Len() {
		found, err := pgxRows(sent.Query())
		if err != nil {
			return nil, err
		}
		all = append(all, found)
	}
	return all, sent.Close()
}

func pgxPipeline(ctx context.Context, conn *pgx.Conn) (any, error) {
	pipe := conn.PgConn().StartPipeline(ctx)
	ask := "select card from " + schema + ".people where id = $1"
	for _, id := range []string{"1", "2"} {
		pipe.SendQueryParams(ask, [][]byte{[]byte(id)}, nil, nil, nil)
	}
	if err := pipe.Sync(); err != nil {
		return nil, err
	}
	pipe.SendPrepare("one", ask, nil)
	pipe.SendQueryPrepared("one", [][]byte{[]byte("3")}, nil, []int16{1})
	pipe.SendQueryParams("select nosuch from "+schema+".people", nil, nil, nil, nil)
	pipe.SendQueryParams(ask, [][]byte{[]byte("4")}, nil, nil, nil)
	if err := pipe.Sync(); err != nil {
		return nil, err
	}
	all := seen{}
	for {
		found, err := pipe.GetResults()
		if err != nil {
			all = append(all, pgxFailure(err))
			continue
		}
		switch part := found.(type) {
		case *pgconn.ResultReader:
			result := part.Read()
			all = append(all, fmt.Sprintf("%q %v", result.Rows, pgxFailure(result.Err)))
		case *pgconn.StatementDescription:
			all = append(all, fmt.Sprintf("%v", part.ParamOIDs))
		case *pgconn.PipelineSync:
			all = append(all, "sync")
		case nil:
			return all, pipe.Close()
		}
	}
}

func pgxCursor(ctx context.Context, conn *pgx.Conn) (any, error) {
	all := seen{}
	_, err := conn.Exec(ctx, "declare c scroll cursor for select id, name, card, level from "+schema+".people order by id")
	if err != nil {
		return nil, err
	}
	for _, text := range []string{"fetch 3 from c", "fetch absolute 50 from c", "fetch backward 2 from c", "move first in c", "close c"} {
		found, err := pgxRows(conn.Query(ctx, text))
		if err != nil {
			return nil, err
		}
		all = append(all, found)
	}
	return all, nil
}

func pgxCopyOut(ctx context.Context, conn *pgx.Conn) (any, error) {
	all := seen{}
	for _, form := range []string{"text", "csv", "binary"} {
		var out bytes.Buffer
		tag, err := conn.PgConn().CopyTo(ctx, &out, "copy (select id, name, phone, card, credit, born, note from "+schema+
			".people order by id) to stdout (format "+form+")")
		if err != nil {
			return nil, err
		}
		all = append(all, tag.String(), hex.EncodeToString(out.Bytes()))
	}
	return all, nil
}

func pgxCopyIn(ctx context.Context, conn *pgx.Conn) (any, error) {
	var rows [][]any
	for i := range 100 {
		rows = append(rows, []any{9300 + i, fmt.Sprintf("C%d", i), fmt.Sprintf("64%014d", i), time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), i, []byte{0, byte(i)}})
	}
	names := []string{"id", "name", "card", "born", "level", "photo"}
	count, err := conn.CopyFrom(ctx, pgx.Identifier{schema, "people"}, names, pgx.CopyFromRows(rows))
	if err != nil {
		return nil, err
	}
	found, err := pgxRows(conn.Query(ctx, "select "+strings.Join(names, ", ")+" from "+schema+".people where id >= 9300 order by id"))
	if err != nil {
		return nil, err
	}
	bad := strings.NewReader("9800\tbad\tnever\n")
	_, err = conn.PgConn().CopyFrom(ctx, bad, "copy "+schema+".people (id, name, born) from stdin")
	return seen{count, found, pgxFailure(err)}, nil
}

func pgxNotify(ctx context.Context, conn *pgx.Conn) (any, error) {
	if _, err := conn.Exec(ctx, "listen news"); err != nil {
		return nil, err
	}
	other, err := pgxConnect(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer other.Close(ctx)
	if _, err = other.Exec(ctx, "select pg_notify('news', $1)", "é"); err != nil {
		return nil, err
	}
	found, err := conn.WaitForNotification(ctx)
	if err != nil {
		return nil, err
	}
	return seen{found.Channel, found.Payload}, nil
}

func pgxNotice(ctx context.Context) (any, error) {
	all := seen{}
	config, err := pgx.ParseConfig(dsn(nil))
	if err != nil {
		return nil, err
	}
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { all = append(all, n.Severity, n.Code, n.Message, n.Hint) }
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "do $$ begin raise notice 'n %', 1 using hint = 'h'; raise warning 'w'; end $$")
	return all, err
}

func pgxCancel(ctx context.Context, conn *pgx.Conn) (any, error) {
	all := seen{}
	for _, text := range []string{"select pg_sleep(60)", "select name, card, pg_sleep(60) from " + schema + ".people"} {
		found, err := pgxCancelled(ctx, conn, text)
		if err != nil {
			return nil, err
		}
		all = append(all, found)
	}
	return all, nil
}

func pgxCancelled(ctx context.Context, conn *pgx.Conn, text string) (any, error) {
	pid := conn.PgConn().PID()
	failed := make(chan error, 1)
	go func() {
		watch, err := pgxConnect(ctx, nil)
		if err != nil {
			failed <- err
			return
		}
		defer watch.Close(ctx)
		for count := 0; count == 0 && err == nil; {
			err = watch.QueryRow(ctx, "select count(*) from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'", pid).Scan(&count)
		}
		if err == nil {
			err = conn.PgConn().CancelRequest(ctx)
		}
		failed <- err
	}()
	_, err := conn.Exec(ctx, text)
	if broken := <-failed; broken != nil {
		return nil, broken
	}
	after, again := pgxRows(conn.Query(ctx, "select name from "+schema+".people where id = 1"))
	return seen{pgxFailure(err), after}, again
}

func pgxLargeObject(ctx context.Context, conn *pgx.Conn) (any, error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback(ctx)
	objects := tx.LargeObjects()
	oid, err := objects.Create(ctx, 0)
	if err != nil {
		return nil, err
	}
	object, err := objects.Open(ctx, oid, pgx.LargeObjectModeRead|pgx.LargeObjectModeWrite)
	if err != nil {
		return nil, err
	}
	data := bytes.Repeat([]byte("x\x00y"), 400000)
	written, err := object.Write(data)
	if err != nil {
		return nil, err
	}
	if _, err = object.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	read, err := io.ReadAll(object)
	if err != nil {
		return nil, err
	}
	return seen{written, bytes.Equal(read, data)}, objects.Unlink(ctx, oid)
}

func pgxBig(ctx context.Context, conn *pgx.Conn) (any, error) {
	text := strings.Repeat("漢字 and some more, ", 150000)
	if _, err := conn.Exec(ctx, "insert into "+schema+".people (id, name, essay) values (9500, $1, $2)", text, text); err != nil {
		return nil, err
	}
	var name, essay string
	err := conn.QueryRow(ctx, "select name, essay from "+schema+".people where id = 9500").Scan(&name, &essay)
	return seen{name == text, essay == text}, err
}

func pgxErrors(ctx context.Context, conn *pgx.Conn) (any, error) {
	all := map[string]any{}
	for _, f := range failures() {
		_, err := conn.Exec(ctx, f.text)
		all[f.name] = pgxFailure(err)
		_, err = conn.Exec(ctx, f.text, pgx.QueryExecModeSimpleProtocol)
		all[f.name+" simple"] = pgxFailure(err)
	}
	return all, nil
}

func pgxTransaction(ctx context.Context, conn *pgx.Conn) (any, error) {
	all := seen{}
	ask := func(text string) {
		found, err := pgxRows(conn.Query(ctx, text))
		all = append(all, found, pgxFailure(err), string(conn.PgConn().TxStatus()))
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, err
	}
	ask("select card from " + schema + ".people where id = 2")
	inner, err := tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	ask("select nosuch from " + schema + ".people")
	ask("select name from " + schema + ".people where id = 2")
	if err = inner.Rollback(ctx); err != nil {
		return nil, err
	}
	ask("select card from " + schema + ".people where id = 3")
	ask("select 1 / (id - id) from " + schema + ".people")
	all = append(all, fmt.Sprint(tx.Commit(ctx)))
	ask("select phone from " + schema + ".people where id = 3")
	return all, nil
}

func pgxPool(ctx context.Context) (any, error) {
	pool, err := pgxpool.New(ctx, dsn(map[string]string{"pool_max_conns": "3"}))
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	found := make([]any, 20)
	done := make(chan error)
	for i := range found {
		go func() {
			var err error
			found[i], err = pgxRows(pool.Query(ctx, "select name, card from "+schema+".people where id = $1", i+1))
			done <- err
		}()
	}
	for range found {
		if failed := <-done; failed != nil {
			err = failed
		}
	}
	return found, err
}

// pgxModes runs the same queries in each of pgx's ways.
func pgxModes(ctx context.Context) (any, error) {
	all := map[string]any{}
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		conn, err := pgxConnect(ctx, map[string]string{"default_query_exec_mode": mode})
		if err != nil {
			return nil, err
		}
		var found []any
		for _, id := range []int{1, 2, 20, 2} {
			rows, err := pgxRows(conn.Query(ctx, "select id, name, phone, card, credit, born, seen, score, level, active, tags from "+schema+".people where id = $1", id))
			found = append(found, rows, pgxFailure(err))
		}
		if clerk {
			for _, card := range []string{"6200000000000004", "none"} {
				rows, err := pgxRows(conn.Query(ctx, "select id, level from "+schema+".people where card = $1", card))
				found = append(found, rows, pgxFailure(err))
			}
			_, err = conn.Exec(ctx, "update "+schema+".people set level = $1, born = $2 where card = $3", 1, time.Date(2000, 1, 2, 0, 0, 0, 0, time.UTC), "none")
			found = append(found, pgxFailure(err))
		}
		all[mode] = found
		conn.Close(ctx)
	}
	return all, nil
}

func pgxDescribe(ctx context.Context, conn *pgx.Conn) (any, error) {
	found, err := conn.Prepare(ctx, "described", "select "+strings.Join(columns, ", ")+", 1 as one from "+schema+".people where id = $1")
	if err != nil {
		return nil, err
	}
	all := seen{found.ParamOIDs}
	for _, f := range found.Fields {
		oid := f.DataTypeOID
		if oid >= 16384 {
			oid = 16384
		}
		all = append(all, seen{f.Name, oid, f.DataTypeSize, f.TypeModifier, f.Format})
	}
	return all, nil
}

// pgxIntrospection loads a type of the database's own, by what pgx asks of the catalog.
func pgxIntrospection(ctx context.Context, conn *pgx.Conn) (any, error) {
	for _, name := range []string{schema + ".mood", schema + "._mood"} {
		kind, err := conn.LoadType(ctx, name)
		if err != nil {
			return nil, err
		}
		conn.TypeMap().RegisterType(kind)
	}
	return pgxRows(conn.Query(ctx, "select id, mood from "+schema+".people where $1::"+schema+".mood = 'sad' and id < 9 order by id", "sad"))
}

func pgxChecks() []check {
	direct := map[string]string{}
	if os.Getenv("TARGET_DIRECT_TLS") != "" {
		direct["sslnegotiation"] = "direct"
	}
	failure := func(more map[string]string) func(context.Context) (any, error) {
		return func(ctx context.Context) (any, error) {
			conn, err := pgxConnect(ctx, more)
			if err == nil {
				conn.Close(ctx)
				return "no error", nil
			}
			words := err.Error()
			return words[strings.LastIndex(words, ": ")+2:], nil
		}
	}
	other := strings.Replace(os.Getenv("TARGET_ROOT"), "authority.crt", "other.crt", 1)
	prepared := func(ctx context.Context, conn *pgx.Conn) (any, error) {
		all := seen{}
		if _, err := conn.Prepare(ctx, "person", "select name, card, credit, born from "+schema+".people where id = $1"); err != nil {
			return nil, err
		}
		for _, id := range []int{1, 2, 3, 20} {
			found, err := pgxRows(conn.Query(ctx, "person", id))
			if err != nil {
				return nil, err
			}
			all = append(all, found)
		}
		return all, conn.Deallocate(ctx, "person")
	}
	simple := func(ctx context.Context, conn *pgx.Conn) (any, error) {
		found, err := conn.PgConn().Exec(ctx, "select 1; select name, card from "+schema+".people where id = 3; select 2").ReadAll()
		all := seen{}
		for _, result := range found {
			all = append(all, fmt.Sprintf("%q %s", result.Rows, result.CommandTag))
		}
		return all, err
	}
	return []check{
		{"tls_off", pgxOn(map[string]string{"sslmode": "disable"}, pgxWho)},
		{"tls_require", pgxOn(map[string]string{"sslmode": "require", "sslrootcert": ""}, pgxWho)},
		{"tls_verify_full", pgxOn(nil, pgxWho)},
		{"tls_wrong_authority", failure(map[string]string{"sslrootcert": other})},
		{"tls_direct", pgxOn(direct, pgxWho)},
		{"scram", failure(map[string]string{"password": "wrong"})},
		{"channel_binding", pgxOn(map[string]string{"channel_binding": "require"}, pgxWho)},
		{"simple", pgxOn(nil, simple)},
		{"prepared", pgxOn(nil, prepared)},
		{"text", pgxOn(nil, pgxFormats(0))},
		{"binary", pgxOn(nil, pgxFormats(1))},
		{"describe", pgxOn(nil, pgxDescribe)},
		{"write", pgxUndone(pgxWrite)},
		{"batch", pgxUndone(pgxBatch)},
		{"pipeline", pgxOn(nil, pgxPipeline)},
		{"cursor", pgxUndone(pgxCursor)},
		{"copy_out", pgxOn(nil, pgxCopyOut)},
		{"copy_in", pgxUndone(pgxCopyIn)},
		{"notify", pgxOn(nil, pgxNotify)},
		{"notice", pgxNotice},
		{"cancel", pgxOn(nil, pgxCancel)},
		{"large_object", pgxOn(nil, pgxLargeObject)},
		{"big", pgxUndone(pgxBig)},
		{"errors", pgxOn(nil, pgxErrors)},
		{"transaction", pgxOn(nil, pgxTransaction)},
		{"pool", pgxPool},
		{"introspection", pgxOn(nil, pgxIntrospection)},
		{"modes", pgxModes},
	}
}
