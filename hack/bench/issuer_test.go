// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/m2m-operator/m2m-operator/internal/oidctest"
)

func TestWhenTheKeysWereFetchedAfterARotation(t *testing.T) {
	server, err := oidctest.Start(oidctest.Options{})
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
