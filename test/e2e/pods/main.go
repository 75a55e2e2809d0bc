// SPDX-License-Identifier: Apache-2.0

// The programs that the end-to-end suite runs as pods, in one binary: the
// authorization server, the two services of the story, a scraper of metrics, and
// two that only look around or idle. They report what they have seen at a port of
// their own, which the suite reaches through the API server.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	roles := map[string]func(context.Context, []string) error{
		"authserver": runAuthServer, "payment": runPayment, "cart": runCart, "scraper": runScraper, "look": runLook, "idle": runIdle,
	}
	if len(os.Args) < 2 || roles[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: pods authserver|payment|cart|scraper|look|idle [FLAG...]")
		os.Exit(2)
	}
	// Process 1 has no default for these signals.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := roles[os.Args[1]](ctx, os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// runLook succeeds if its container has files of ours and can read them.
func runLook(context.Context, []string) error {
	found := inside().Files
	if len(found) == 0 {
		return errors.New("there is nothing")
	}
	for _, f := range found {
		if f.Error != "" {
			return errors.New(f.Error)
		}
	}
	return nil
}

func runIdle(ctx context.Context, _ []string) error {
	<-ctx.Done()
	return nil
}

// serve answers at the given ports until the program is to end.
func serve(ctx context.Context, handlers map[int]http.Handler) error {
	failed := make(chan error, len(handlers))
	for port, handler := range handlers {
		server := &http.Server{Addr: fmt.Sprintf(":%d", port), Handler: handler, ReadHeaderTimeout: 5 * time.Second}
		go func() { failed <- server.ListenAndServe() }()
		defer server.Close()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// report is what the suite asks of any program; a program can add to it.
func report() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthy", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /inside", func(w http.ResponseWriter, _ *http.Request) { answer(w, inside(), nil) })
	return mux
}

func answer(w http.ResponseWriter, body any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}

// order carries out an order of the suite: JSON in, JSON out.
func order[T any](carryOut func(T) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var what T
		if err := json.NewDecoder(r.Body).Decode(&what); err != nil {
			http.Error(w, errors.Join(errors.New("read the order"), err).Error(), http.StatusBadRequest)
			return
		}
		body, err := carryOut(what)
		answer(w, body, err)
	}
}
