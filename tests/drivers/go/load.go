package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// load runs statements that pgx prepares and keeps, in a pool, until the standard input ends. One line of JSON: how many ran, and each error.
func load() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("LOAD_DSN"))
	if err != nil {
		panic(err)
	}
	var lock sync.Mutex
	var group sync.WaitGroup
	done, errors := 0, map[string]int{}
	over, stop := context.WithCancel(ctx)
	for range 3 {
		group.Add(1)
		go func() {
			defer group.Done()
			for over.Err() == nil {
				err := loadOnce(ctx, pool)
				lock.Lock()
				if err == nil {
					done++
				} else {
					errors[err.Error()]++
				}
				lock.Unlock()
				if err != nil {
					time.Sleep(10 * time.Millisecond)
				}
			}
		}()
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	stop()
	group.Wait()
	pool.Close()
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"done": done, "errors": errors})
}

func loadOnce(ctx context.Context, pool *pgxpool.Pool) error {
	var id int64
	var name string
	var phone, item, pan *string
	if err := pool.QueryRow(ctx, "select id, name, phone from people where id = $1", 3).Scan(&id, &name, &phone); err != nil {
		return fmt.Errorf("person: %w", err)
	}
	if err := pool.QueryRow(ctx, "select item from orders where id = $1", 3).Scan(&item); err != nil {
		return fmt.Errorf("item: %w", err)
	}
	if err := pool.QueryRow(ctx, "select pan from cards where person = $1", 3).Scan(&pan); err != nil {
		return fmt.Errorf("pan: %w", err)
	}
	if _, err := pool.Exec(ctx, "update people set seen = seen + 1 where id = $1", 6); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	return nil
}
