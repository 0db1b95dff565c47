// Package main runs the checks by Go's drivers: `drivers pgx` and `drivers pq`; `drivers load` is pgx for tests/faults/test_rollover.py. The target comes by the environment; each check's result goes
// out as one line of JSON: check, ok, detail.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

var (
	schema  = os.Getenv("TARGET_SCHEMA")
	clerk   = os.Getenv("TARGET_USER") == "clerk"
	columns = columnsSeen()
	some    = fmt.Sprintf("from %s.people where id in (1, 2, 3, 20) order by id", schema)
)

// A row of a result, or any other observation.
type seen = []any

type check struct {
	name string
	run  func(ctx context.Context) (any, error)
}

type failing struct{ name, text string }

func columnsSeen() []string {
	all := "id, name, phone, card, credit, born, seen, score, level, active, ref, photo, prefs, tags, mood, "
	if clerk {
		all += "essay, "
	}
	return strings.Split(all+"note", ", ")
}

func failures() []failing {
	into := "insert into " + schema + ".people "
	return []failing{
		{"syntax", "selec 1"},
		{"no_column", "select id, nosuch from " + schema + ".people"},
		{"not_null", into + "(id, name) values (9001, null)"},
		{"key", into + "(id, name) values (1, 'Again')"},
		{"unique", into + "(id, name, card) values (9001, 'Again', '6200000000000001')"},
		{"check", into + "(id, name, note) values (9001, 'Long', repeat('x', 300))"},
		{"foreign", "insert into " + schema + ".orders (id, person, amount) values (9001, 999999, 1)"},
		{"too_long", into + "(id, name, card) values (9001, 'Long', '12345678901234567890')"},
		{"bad_date", into + "(id, name, born) values (9001, 'Bad', 'no date')"},
		{"division", "select 1 / 0"},
		{"own", "do $$ begin raise exception 'own words' using errcode = 'P0042', detail = 'a detail', hint = 'a hint'," +
			" column = 'c', table = 't', constraint = 'k', datatype = 'd', schema = 's'; end $$"},
	}
}

// dsn is a connection string in words; `more` goes before the usual.
func dsn(more map[string]string) string {
	words := map[string]string{
		"host": os.Getenv("TARGET_HOST"), "port": os.Getenv("TARGET_PORT"), "dbname": os.Getenv("TARGET_DATABASE"),
		"user": os.Getenv("TARGET_USER"), "password": os.Getenv("TARGET_PASSWORD"), "sslmode": "verify-full",
		"sslrootcert": os.Getenv("TARGET_ROOT"), "connect_timeout": "20",
	}
	for word, value := range more {
		words[word] = value
	}
	var parts []string
	for word, value := range words {
		if value != "" {
			parts = append(parts, fmt.Sprintf("%s='%s'", word, value))
		}
	}
	return strings.Join(parts, " ")
}

func marks(count int) string {
	var all []string
	for i := 1; i <= count; i++ {
		all = append(all, fmt.Sprintf("$%d", i))
	}
	return strings.Join(all, ", ")
}

func report(checks []check) {
	for _, c := range checks {
		ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		detail, err := c.run(ctx)
		cancel()
		line := map[string]any{"check": c.name, "ok": err == nil, "detail": detail}
		if err != nil {
			line["detail"] = err.Error()
		}
		out, err := json.Marshal(line)
		if err != nil {
			out, _ = json.Marshal(map[string]any{"check": c.name, "ok": false, "detail": err.Error()})
		}
		fmt.Println(string(out))
	}
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "load" {
		load()
	} else if len(os.Args) > 1 && os.Args[1] == "pq" {
		report(pqChecks())
	} else {
		report(pgxChecks())
	}
}
