package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/lib/pq"
)

func pqFailure(err error) any {
	var found *pq.Error
	if errors.As(err, &found) {
		return seen{found.Severity, string(found.Code), found.Message, found.Detail, found.Hint, found.Position, found.Schema, found.Table,
			found.Column, found.DataTypeName, found.Constraint, found.Where}
	}
	if err != nil {
		return err.Error()
	}
	return "no error"
}

func pqRows(rows *sql.Rows, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	all := seen{}
	for rows.Next() {
		values, places := make([]any, len(names)), make([]any, len(names))
		for i := range values {
			places[i] = &values[i]
		}
		if err := rows.Scan(places...); err != nil {
			return nil, err
		}
		all = append(all, fmt.Sprintf("%v", values))
	}
	return all, rows.Err()
}

func pqOn(more map[string]string, body func(context.Context, *sql.DB) (any, error)) func(context.Context) (any, error) {
	return func(ctx context.Context) (any, error) {
		db, err := sql.Open("postgres", dsn(more))
		if err != nil {
			return nil, err
		}
		defer db.Close()
		return body(ctx, db)
	}
}

func pqUndone(body func(context.Context, *sql.Tx) (any, error)) func(context.Context) (any, error) {
	return pqOn(nil, func(ctx context.Context, db *sql.DB) (any, error) {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return nil, err
		}
		defer tx.Rollback()
		return body(ctx, tx)
	})
}

func pqWho(ctx context.Context, db *sql.DB) (any, error) {
	return pqRows(db.QueryContext(ctx, "select current_user"))
}

func pqTyped(ctx context.Context, db *sql.DB) (any, error) {
	return pqRows(db.QueryContext(ctx, "select "+strings.Join(columns, ", ")+" from "+schema+".people where id = any($1) order by id",
		pq.Array([]int64{1, 2, 3, 20})))
}

func pqPrepared(ctx context.Context, db *sql.DB) (any, error) {
	statement, err := db.PrepareContext(ctx, "select name, card, credit, born from "+schema+".people where id = $1")
	if err != nil {
		return nil, err
	}
	defer statement.Close()
	all := seen{}
	for _, id := range []int{1, 2, 3, 20} {
		found, err := pqRows(statement.QueryContext(ctx, id))
		if err != nil {
			return nil, err
		}
		all = append(all, found)
	}
	return all, nil
}

func pqDescribe(ctx context.Context, db *sql.DB) (any, error) {
	rows, err := db.QueryContext(ctx, "select "+strings.Join(columns, ", ")+" from "+schema+".people where id < $1", 0)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	kinds, err := rows.ColumnTypes()
	if err != nil {
		return nil, err
	}
	all := seen{}
	for _, kind := range kinds {
		length, _ := kind.Length()
		precision, scale, _ := kind.DecimalSize()
		all = append(all, seen{kind.Name(), kind.DatabaseTypeName(), fmt.Sprint(kind.ScanType()), length, precision, scale})
	}
	return all, nil
}

func pqWrite(ctx context.Context, tx *sql.Tx) (any, error) {
	values := []any{"New", "13912345678", "6222020000000009", "12.34", time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC),
		time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC), 0.5, 7, true, "00000000-0000-4000-8000-00000000ffff", []byte{0, 1, 255},
		`{"a": [1, null]}`, pq.Array([]string{"x", "é"}), "happy"}
	names := strings.Join(columns[1:len(values)+1], ", ")
	all := seen{}
	for _, step := range []struct {
		text   string
		values []any
	}{
		{fmt.Sprintf("insert into %s.people (id, %s) values (9100, %s) returning %s", schema, names, marks(len(values)), names), values},
		{fmt.Sprintf("update %s.people set card = $1, level = $2 where card = $3 returning card, level", schema), []any{"1", -3, values[2]}},
		{fmt.Sprintf("delete from %s.people where card = $1 returning id, name", schema), []any{"1"}},
	} {
		found, err := pqRows(tx.QueryContext(ctx, step.text, step.values...))
		if err != nil {
			return nil, err
		}
		all = append(all, found)
	}
	return all, nil
}

func pqCopyIn(ctx context.Context, tx *sql.Tx) (any, error) {
	statement, err := tx.PrepareContext(ctx, pq.CopyInSchema(schema, "people", "id", "name", "card", "born", "photo"))
	if err != nil {
		return nil, err
	}
	for i := range 100 {
		if _, err = statement.ExecContext(ctx, 9300+i, fmt.Sprintf("C%d\t\\", i), fmt.Sprintf("64%014d", i), nil, []byte{0, byte(i)}); err != nil {
			return nil, err
		}
	}
	if _, err = statement.ExecContext(ctx); err != nil {
		return nil, err
	}
	if err = statement.Close(); err != nil {
		return nil, err
	}
	return pqRows(tx.QueryContext(ctx, "select id, name, card, born, photo from "+schema+".people where id >= 9300 order by id"))
}

func pqNotify(ctx context.Context, db *sql.DB) (any, error) {
	listener := pq.NewListener(dsn(nil), time.Second, time.Second, nil)
	defer listener.Close()
	if err := listener.Listen("news"); err != nil {
		return nil, err
	}
	if _, err := db.ExecContext(ctx, "select pg_notify('news', $1)", "é"); err != nil {
		return nil, err
	}
	select {
	case got := <-listener.Notify:
		return seen{got.Channel, got.Extra}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func pqCancel(ctx context.Context, db *sql.DB) (any, error) {
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := db.ExecContext(short, "select pg_sleep(60)")
	after, again := pqRows(db.QueryContext(ctx, "select name from "+schema+".people where id = 1"))
	return seen{fmt.Sprint(err), after}, again
}

func pqErrors(ctx context.Context, db *sql.DB) (any, error) {
	all := map[string]any{}
	for _, f := range failures() {
		_, err := db.ExecContext(ctx, f.text)
		all[f.name] = pqFailure(err)
		if f.name == "too_long" {
			continue // pgveil seals constants when a statement is prepared, and so finds then what the server finds when it runs
		}
		_, err = db.PrepareContext(ctx, f.text)
		all[f.name+" prepared"] = pqFailure(err)
	}
	return all, nil
}

func pqTransaction(ctx context.Context, db *sql.DB) (any, error) {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true})
	if err != nil {
		return nil, err
	}
	all := seen{}
	ask := func(text string) {
		found, err := pqRows(tx.QueryContext(ctx, text))
		all = append(all, found, pqFailure(err))
	}
	ask("select card from " + schema + ".people where id = 2")
	ask("savepoint a")
	ask("select nosuch from " + schema + ".people")
	ask("select name from " + schema + ".people where id = 2")
	ask("rollback to a")
	ask("select card from " + schema + ".people where id = 3")
	ask("select 1 / (id - id) from " + schema + ".people")
	all = append(all, fmt.Sprint(tx.Commit()))
	found, err := pqRows(db.QueryContext(ctx, "select phone from "+schema+".people where id = 3"))
	return append(all, found), err
}

func pqBig(ctx context.Context, tx *sql.Tx) (any, error) {
	text := strings.Repeat("漢字 and some more, ", 150000)
	if _, err := tx.ExecContext(ctx, "insert into "+schema+".people (id, name, essay) values (9500, $1, $2)", text, text); err != nil {
		return nil, err
	}
	var name, essay string
	err := tx.QueryRowContext(ctx, "select name, essay from "+schema+".people where id = 9500").Scan(&name, &essay)
	return seen{name == text, essay == text}, err
}

func pqPool(ctx context.Context, db *sql.DB) (any, error) {
	db.SetMaxOpenConns(3)
	found := make([]any, 20)
	done := make(chan error)
	for i := range found {
		go func() {
			var err error
			found[i], err = pqRows(db.QueryContext(ctx, "select name, card from "+schema+".people where id = $1", i+1))
			done <- err
		}()
	}
	var err error
	for range found {
		if failed := <-done; failed != nil {
			err = failed
		}
	}
	return found, err
}

func pqSimple(ctx context.Context, db *sql.DB) (any, error) {
	rows, err := db.QueryContext(ctx, "select 1; select name from "+schema+".people where id = 3")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := seen{}
	for {
		for rows.Next() {
			var value string
			if err := rows.Scan(&value); err != nil {
				return nil, err
			}
			all = append(all, value)
		}
		if !rows.NextResultSet() {
			return all, rows.Err()
		}
	}
}

func pqModes(ctx context.Context) (any, error) {
	return pqOn(map[string]string{"binary_parameters": "yes"}, func(ctx context.Context, db *sql.DB) (any, error) {
		found, err := pqTyped(ctx, db)
		if err != nil || !clerk {
			return found, err
		}
		by, err := pqRows(db.QueryContext(ctx, "select id from "+schema+".people where card = $1 or photo is null order by id", "6200000000000004"))
		return seen{found, by}, err
	})(ctx)
}

func pqChecks() []check {
	failure := func(more map[string]string) func(context.Context) (any, error) {
		return func(ctx context.Context) (any, error) {
			_, err := pqOn(more, pqWho)(ctx)
			return pqFailure(err), nil
		}
	}
	other := strings.Replace(os.Getenv("TARGET_ROOT"), "authority.crt", "other.crt", 1)
	return []check{
		{"tls_off", pqOn(map[string]string{"sslmode": "disable"}, pqWho)},
		{"tls_require", pqOn(map[string]string{"sslmode": "require", "sslrootcert": ""}, pqWho)},
		{"tls_verify_full", pqOn(nil, pqWho)},
		{"tls_wrong_authority", failure(map[string]string{"sslrootcert": other})},
		{"scram", failure(map[string]string{"password": "wrong"})},
		{"simple", pqOn(nil, pqSimple)},
		{"prepared", pqOn(nil, pqPrepared)},
		{"text", pqOn(nil, pqTyped)},
		{"describe", pqOn(nil, pqDescribe)},
		{"write", pqUndone(pqWrite)},
		{"copy_in", pqUndone(pqCopyIn)},
		{"notify", pqOn(nil, pqNotify)},
		{"cancel", pqOn(nil, pqCancel)},
		{"big", pqUndone(pqBig)},
		{"errors", pqOn(nil, pqErrors)},
		{"transaction", pqOn(nil, pqTransaction)},
		{"pool", pqOn(nil, pqPool)},
		{"modes", pqModes},
	}
}
