// Command mongodb-standin answers MongoDB's wire protocol over a PostgreSQL database.
//
// It is the test runner's last resort where there is no `mongod`: FerretDB v1 embedded as a
// library. What it can and cannot do is written down in docs/testing.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:27017", "`address` to accept MongoDB clients on")
	postgres := flag.String("postgresql-url", "", "`URL` of the PostgreSQL database that keeps the documents")
	verbose := flag.Bool("verbose", false, "log more than warnings")
	flag.Parse()

	if err := run(*listen, *postgres, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "mongodb-standin:", err)
		os.Exit(1)
	}
}

func run(listen, postgres string, verbose bool) error {
	if postgres == "" {
		return fmt.Errorf("-postgresql-url is required")
	}

	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}

	server, err := ferretdb.New(&ferretdb.Config{
		Listener:      ferretdb.ListenerConfig{TCP: listen},
		Logger:        slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
		Handler:       "postgresql",
		PostgreSQLURL: postgres,
	})
	if err != nil {
		return err
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	return server.Run(ctx)
}
