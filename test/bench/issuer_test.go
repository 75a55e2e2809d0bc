// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

func TestWhenTheKeysWereFetchedAfterARotation(t *testing.T) {
	server, err := oidc.Start(oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	fetch := func() string {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.JWKSURL(), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var keys strings.Builder
		if err := resp.Write(&keys); err != nil {
			t.Fatal(err)
		}
		return keys.String()
	}
	fetch()
	before := tallyOf(server)
	if before.JWKSRequests != 1 || before.FirstJWKS.IsZero() {
		t.Errorf("after a request the tally is %+v", before)
	}
	if err := carryOut(server, order{Rotate: true, Reset: true}); err != nil {
		t.Fatal(err)
	}
	rotated := tallyOf(server)
	if rotated.JWKSRequests != 0 || !rotated.FirstJWKS.IsZero() {
		t.Errorf("the rotation did not forget: %+v", rotated)
	}
	if rotated.KeyID == before.KeyID || rotated.KeyID == "" {
		t.Errorf("the key is %q, and was %q before the rotation", rotated.KeyID, before.KeyID)
	}
	if keys := fetch(); !strings.Contains(keys, rotated.KeyID) || !strings.Contains(keys, before.KeyID) {
		t.Errorf("what is published lacks %q or %q:\n%s", rotated.KeyID, before.KeyID, keys)
	}
	first := tallyOf(server).FirstJWKS
	fetch()
	last := tallyOf(server)
	if !first.After(before.FirstJWKS) || last.FirstJWKS != first || last.JWKSRequests != 2 {
		t.Errorf("the first request came at %v, and later at %v of %d", first, last.FirstJWKS, last.JWKSRequests)
	}
}

func TestTroublesAreOfOneFleetEach(t *testing.T) {
	server, err := oidc.Start(oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	server.SetResource(identifier, scope)
	ask := func(id string) (status int, retryAfter, body string) {
		form := url.Values{"grant_type": {"client_credentials"}, "resource": {identifier}, "scope": {scope}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.TokenURL(), strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.SetBasicAuth(id, secretOf(id))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		content, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.Header.Get("Retry-After"), string(content)
	}
	prefixes := []string{"good", "refused", "postponed", "garbled"}
	for _, prefix := range prefixes {
		if err := carryOut(server, order{Prefix: prefix, Clients: 2, Lifetime: time.Minute}); err != nil {
			t.Fatal(err)
		}
	}
	if err := carryOut(server, order{Reset: true, Troubles: []trouble{
		{Prefix: "refused", Status: http.StatusUnauthorized, Error: "invalid_client"},
		{Prefix: "postponed", Status: http.StatusTooManyRequests, RetryAfter: "600"},
		{Prefix: "garbled"},
	}}); err != nil {
		t.Fatal(err)
	}
	for prefix, want := range map[string]struct {
		status     int
		retryAfter string
		readable   bool
	}{"good": {200, "", true}, "refused": {401, "", true}, "postponed": {429, "600", false}, "garbled": {200, "", false}} {
		status, retryAfter, body := ask(prefix + "-1")
		if status != want.status || retryAfter != want.retryAfter || json.Valid([]byte(body)) != want.readable {
			t.Errorf("%s clients are answered %d with Retry-After %q and %q", prefix, status, retryAfter, body)
		}
	}
	tally := tallyOf(server)
	for _, prefix := range prefixes {
		if tally.Requests[prefix] != 1 {
			t.Errorf("%d requests of %s clients were counted, want 1", tally.Requests[prefix], prefix)
		}
	}
}
