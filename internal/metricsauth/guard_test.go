// SPDX-License-Identifier: Apache-2.0

package metricsauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	clocktesting "k8s.io/utils/clock/testing"
)

// reviewer knows three tokens: one is allowed, one is not, and one makes it fail.
type reviewer struct{ tokens, accesses int }

func (r *reviewer) Authenticate(_ context.Context, token string) (*authenticationv1.UserInfo, error) {
	r.tokens++
	switch token {
	case "scraper", "stranger":
		return &authenticationv1.UserInfo{Username: token}, nil
	case "bad-time":
		return nil, errors.New("no answer")
	}
	return nil, nil
}

func (r *reviewer) Authorize(_ context.Context, user *authenticationv1.UserInfo, verb, path string) (bool, error) {
	r.accesses++
	return user.Username == "scraper" && verb == "get" && path == "/metrics", nil
}

// world is a guard with a handler behind it.
type world struct {
	reviewer reviewer
	clock    *clocktesting.FakeClock
	handler  http.Handler
}

func newWorld() *world {
	w := &world{clock: clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))}
	w.handler = New(&w.reviewer, w.clock).Around(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("m2m_")) }))
	return w
}

func (w *world) get(t *testing.T, from, authorization string) int {
	t.Helper()
	req := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	req.RemoteAddr = from + ":1234"
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, req)
	if served := strings.Contains(rec.Body.String(), "m2m_"); served != (rec.Code == http.StatusOK) {
		t.Errorf("status %d, served: %v", rec.Code, served)
	}
	return rec.Code
}

func TestWhoMayScrape(t *testing.T) {
	for name, tc := range map[string]struct {
		authorization string
		want          int
	}{
		"nobody":                {"", http.StatusUnauthorized},
		"a password":            {"Basic c2NyYXBlcg==", http.StatusUnauthorized},
		"an empty token":        {"Bearer  ", http.StatusUnauthorized},
		"a token that is none":  {"Bearer none", http.StatusUnauthorized},
		"a token too long":      {"Bearer " + strings.Repeat("x", maxToken+1), http.StatusUnauthorized},
		"who may not":           {"Bearer stranger", http.StatusForbidden},
		"who may":               {"Bearer scraper", http.StatusOK},
		"in lower case":         {"bearer scraper", http.StatusOK},
		"while nobody can tell": {"Bearer bad-time", http.StatusInternalServerError},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			for range 2 { // from the cache, too
				if got := w.get(t, "10.0.0.1", tc.authorization); got != tc.want {
					t.Errorf("answered %d, want %d", got, tc.want)
				}
			}
			if tc.want != http.StatusInternalServerError && w.reviewer.tokens > 1 {
				t.Errorf("%d reviews of the same token", w.reviewer.tokens)
			}
		})
	}
}

// TestJunkTokens: 6,000 tokens in a minute cost few reviews. They keep out neither a scraper
// that was allowed before nor a new one at another address.
func TestJunkTokens(t *testing.T) {
	w := newWorld()
	if got := w.get(t, "10.0.0.1", "Bearer scraper"); got != http.StatusOK {
		t.Fatalf("the scraper is answered %d", got)
	}
	w.reviewer = reviewer{}
	for i := range 6000 {
		w.get(t, "10.0.0.2", fmt.Sprint("Bearer junk-", i))
		w.clock.Step(10 * time.Millisecond)
		if i%500 == 0 {
			if got := w.get(t, "10.0.0.1", "Bearer scraper"); got != http.StatusOK {
				t.Errorf("the scraper is answered %d", got)
			}
		}
	}
	if got := w.get(t, "10.0.0.3", "Bearer stranger"); got != http.StatusForbidden {
		t.Errorf("another is answered %d", got)
	}
	if n := w.reviewer.tokens; n > 60+burst+2 {
		t.Errorf("%d reviews in a minute", n)
	}
}

// TestJunkTokensFromEverywhere: the number of addresses makes no difference.
func TestJunkTokensFromEverywhere(t *testing.T) {
	w := newWorld()
	for i := range 6000 {
		w.get(t, fmt.Sprintf("10.0.%d.%d", i%200, i%7), fmt.Sprint("Bearer junk-", i))
		w.clock.Step(10 * time.Millisecond)
	}
	if n := w.reviewer.tokens; n > 60*perSecond+bursts {
		t.Errorf("%d reviews in a minute", n)
	}
}

// TestAnswersAge: an allowed token is reviewed again, and refused once it is revoked.
func TestAnswersAge(t *testing.T) {
	w := newWorld()
	w.get(t, "10.0.0.1", "Bearer scraper")
	w.get(t, "10.0.0.1", "Bearer none")
	w.clock.Step(reviewAgain - time.Second)
	w.get(t, "10.0.0.1", "Bearer scraper")
	w.get(t, "10.0.0.1", "Bearer none")
	if w.reviewer.tokens != 2 {
		t.Errorf("%d reviews, want 2", w.reviewer.tokens)
	}
	w.clock.Step(2 * time.Second)
	w.get(t, "10.0.0.1", "Bearer scraper")
	w.get(t, "10.0.0.1", "Bearer none")
	if w.reviewer.tokens != 4 {
		t.Errorf("%d reviews, want 4", w.reviewer.tokens)
	}
}
