// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/payment"
)

func startServer(t *testing.T) *oidc.Server {
	t.Helper()
	server, err := oidc.Start(oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}

// signToken returns a token that the payment API accepts.
func signToken(t *testing.T, server *oidc.Server) string {
	t.Helper()
	token, err := server.SignToken(map[string]any{"aud": paymentIdentifier, "client_id": "cart", "scope": "payments:write"})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// bundleFiles returns a verification bundle for the server's tokens.
func bundleFiles(t *testing.T, server *oidc.Server) map[string][]byte {
	t.Helper()
	rules, err := json.Marshal(map[string]any{
		"issuer": server.Issuer(), "audience": paymentIdentifier, "algorithms": []string{"ES256"},
		"scopes": []map[string]any{{"name": "payments:write", "claims": []string{"scope", "scp"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(server.JWKSURL())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	keys, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"verification.json": rules, "jwks.json": keys}
}

// TestCartCallsPayment runs both processes as goroutines, with only files
// between them.
func TestCartCallsPayment(t *testing.T) {
	server := startServer(t)
	dir := t.TempDir()
	for mount, files := range map[string]map[string][]byte{
		"verify": bundleFiles(t, server), "token": {"payment-api": []byte(signToken(t, server))},
	} {
		if err := showFiles(filepath.Join(dir, mount), files); err != nil {
			t.Fatal(err)
		}
	}
	in, stop := io.Pipe()
	address, out := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- runPayment([]string{"-bundle", dir + "/verify"}, in, out) }()
	line := make([]byte, 100)
	n, err := address.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	url := strings.TrimSpace(string(line[:n]))

	cart := func(more ...string) (calls []payment.Call) {
		t.Helper()
		var report bytes.Buffer
		args := append([]string{"-url", url, "-interval", "1ms", "-token", dir + "/token/payment-api"}, more...)
		if err := runCart(args, eternity{}, &report); err != nil {
			t.Fatal(err)
		}
		decoder := json.NewDecoder(&report)
		for decoder.More() {
			var c payment.Call
			if err := decoder.Decode(&c); err != nil {
				t.Fatal(err)
			}
			calls = append(calls, c)
		}
		return calls
	}
	paid := payment.Call{Status: 200, Result: "paid", Detail: "for cart"}
	if diff := cmp.Diff([]payment.Call{paid, paid, paid}, cart("-count", "3")); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	token, err := os.ReadFile(dir + "/token/payment-api")
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{string(token) + "\n": "200 paid: for cart\n", "": "401 no token\n"} {
		var answer strings.Builder
		if err := runCall([]string{"-url", url}, strings.NewReader(in), &answer); err != nil || answer.String() != want {
			t.Errorf("one call: %q (%v), want %q", answer.String(), err, want)
		}
	}
	if err := os.Remove(dir + "/token/payment-api"); err != nil {
		t.Fatal(err)
	}
	if got := cart("-count", "1"); len(got) != 1 || got[0].Status != 0 || !strings.HasPrefix(got[0].Result, "there is no token") {
		t.Errorf("without a token: %v", got)
	}
	if err := stop.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("payment ended with: %v", err)
	}
	if got := cart("-count", "1"); got[0].Status != 0 {
		t.Errorf("payment goes on after its end: %v", got)
	}
}

// eternity is a standard input that never ends.
type eternity struct{}

func (eternity) Read([]byte) (int, error) { select {} }

func TestCartEndsWithItsInput(t *testing.T) {
	if err := runCart([]string{"-url", "http://127.0.0.1:1", "-token", "none"}, strings.NewReader(""), io.Discard); err != nil {
		t.Error(err)
	}
}
