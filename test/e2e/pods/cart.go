// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	paymenttest "github.com/m2m-operator/m2m-operator/internal/testing/payment"
	"github.com/m2m-operator/m2m-operator/test/e2e/wire"
)

// failuresKept bounds the memory for a long series of failures.
const failuresKept = 1000

// cart calls the payment API with the token in its file, and keeps the outcome
// of the calls and the tokens that it saw.
type cart struct {
	url, file string

	mu     sync.Mutex
	calls  wire.Calls
	last   time.Time // start of the latest call
	tokens []wire.Token
}

func runCart(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("cart", flag.ContinueOnError)
	url := flags.String("url", "", "the payment API; empty: only watch the token")
	key := flags.String("key", "payment-api", "the token's file")
	interval := flags.Duration("interval", 50*time.Millisecond, "from one call to the next")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir := os.Getenv(v1alpha1.TokenDirVariable)
	c := &cart{url: *url, file: filepath.Join(dir, *key)}
	go watch(ctx, dir, c.saw)
	if *url != "" {
		go c.keepCalling(ctx, *interval)
	}
	mux := report()
	mux.HandleFunc("GET /tokens", func(w http.ResponseWriter, _ *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		answer(w, c.tokens, nil)
	})
	mux.HandleFunc("GET /calls", func(w http.ResponseWriter, _ *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		answer(w, c.calls, nil)
	})
	// The calls so far, after which they are counted from zero.
	mux.HandleFunc("POST /calls", func(w http.ResponseWriter, _ *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		answer(w, c.calls, nil)
		c.calls, c.last = wire.Calls{}, time.Time{}
	})
	return serve(ctx, map[int]http.Handler{wire.ReportPort: mux})
}

// keepCalling makes a call at every interval, whether or not the previous one
// has been answered. It makes up for calls that it misses while the machine is
// busy.
func (c *cart) keepCalling(ctx context.Context, interval time.Duration) {
	next := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case at := <-timer.C:
			go c.call(at)
		}
		next = next.Add(interval)
		timer.Reset(time.Until(next))
	}
}

func (c *cart) call(at time.Time) {
	token, err := paymenttest.Token(c.file)
	call := paymenttest.Call{}
	if err != nil {
		call.Result = "there is no token: " + err.Error()
	} else {
		call = paymenttest.Request(http.MethodPost, c.url, token)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls.Total++
	if !c.last.IsZero() {
		c.calls.Longest = max(c.calls.Longest, at.Sub(c.last))
	}
	c.last = at
	if call.Status == http.StatusOK {
		return
	}
	c.calls.Failed++
	if len(c.calls.Failures) < failuresKept {
		c.calls.Failures = append(c.calls.Failures, wire.Failure{At: at, Call: call, Token: describe(token, at)})
	}
}

// saw records the token that the file holds from now on.
func (c *cart) saw(at time.Time) {
	token, err := paymenttest.Token(c.file)
	if err != nil {
		return // it was withdrawn, or only another file is new
	}
	seen := describe(token, at)
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.tokens); n == 0 || c.tokens[n-1].Hash != seen.Hash {
		c.tokens = append(c.tokens, seen)
	}
}

// describe returns what may be known of a token.
func describe(token string, at time.Time) wire.Token {
	seen := wire.Token{At: at, Hash: oidc.Hash(token)}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256, jose.RS256})
	if err != nil {
		return seen
	}
	var claims jwt.Claims
	if err := parsed.UnsafeClaimsWithoutVerification(&claims); err != nil {
		return seen
	}
	seen.KeyID = parsed.Headers[0].KeyID
	seen.IssuedAt, seen.ExpiresAt = claims.IssuedAt.Time(), claims.Expiry.Time()
	return seen
}
