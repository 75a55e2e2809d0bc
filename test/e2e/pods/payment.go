// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	paymenttest "github.com/m2m-operator/m2m-operator/internal/testing/payment"
	"github.com/m2m-operator/m2m-operator/test/e2e/wire"
)

// payment is the payment API. All it knows is in the mounted bundle; it records
// the bundle's changes for the suite.
type payment struct {
	dir string

	mu      sync.Mutex
	bundles []wire.Bundle
	answers map[int]int // by status
}

func runPayment(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("payment", flag.ContinueOnError)
	api := flags.String("api", "payment-api", "the bundle's directory")
	if err := flags.Parse(args); err != nil {
		return err
	}
	p := &payment{dir: filepath.Join(os.Getenv(v1alpha1.VerifyDirVariable), *api), answers: map[int]int{}}
	go watch(ctx, p.dir, p.saw)
	mux := report()
	mux.HandleFunc("GET /bundles", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		answer(w, p.bundles, nil)
	})
	mux.HandleFunc("GET /answers", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		answer(w, p.answers, nil)
	})
	payments := paymenttest.API(&paymenttest.Verifier{Dir: p.dir, Now: time.Now})
	return serve(ctx, map[int]http.Handler{wire.ServicePort: p.counted(payments), wire.ReportPort: mux})
}

// saw records the bundle that is mounted from now on.
func (p *payment) saw(at time.Time) {
	content, err := os.ReadFile(filepath.Join(p.dir, "jwks.json"))
	if err != nil {
		return
	}
	var set jose.JSONWebKeySet
	if json.Unmarshal(content, &set) != nil {
		return
	}
	seen := wire.Bundle{At: at}
	for _, key := range set.Keys {
		seen.KeyIDs = append(seen.KeyIDs, key.KeyID)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bundles = append(p.bundles, seen)
}

// counted counts the answers.
func (p *payment) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		noted := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(noted, r)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.answers[noted.status]++
	})
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}
