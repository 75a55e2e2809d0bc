// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// mount replaces the content of a directory with the files, as a kubelet does.
func mount(t *testing.T, dir, version string, files map[string]string) {
	t.Helper()
	data := filepath.Join(dir, "..", filepath.Base(dir)+version)
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(data, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_ = os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name))
	}
	link := filepath.Join(dir, "..data")
	if err := os.Symlink(data, link+"_tmp"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+"_tmp", link); err != nil {
		t.Fatal(err)
	}
}

func TestCartKeepsWhatItSaw(t *testing.T) {
	server, err := oidc.Start(oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	sign := func() string {
		token, err := server.SignToken(map[string]any{"aud": "x"})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	status := http.StatusOK
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(`{"result":"answered","detail":"so it is"}`))
	}))
	defer api.Close()

	dir := t.TempDir()
	c := &cart{url: api.URL, file: filepath.Join(dir, "payment-api")}
	start := time.Now()
	c.call(start) // no token yet
	first := sign()
	mount(t, dir, "1", map[string]string{"payment-api": first})
	c.saw(start)
	c.saw(start.Add(time.Second)) // another file has changed
	c.call(start.Add(time.Second))
	status = http.StatusUnauthorized
	c.call(start.Add(3 * time.Second))
	if _, err := server.RotateKey(); err != nil {
		t.Fatal(err)
	}
	second := sign()
	mount(t, dir, "2", map[string]string{"payment-api": second})
	c.saw(start.Add(4 * time.Second))

	var hashes []string
	for _, token := range c.tokens {
		hashes = append(hashes, token.Hash)
	}
	if diff := cmp.Diff([]string{oidc.Hash(first), oidc.Hash(second)}, hashes); diff != "" {
		t.Errorf("tokens (-want +got):\n%s", diff)
	}
	if got := c.tokens[1]; got.KeyID != server.KeyID() || !got.At.Equal(start.Add(4*time.Second)) || got.ExpiresAt.Sub(got.IssuedAt) != 5*time.Minute {
		t.Errorf("the second token is described as %+v", got)
	}
	if c.calls.Total != 3 || c.calls.Failed != 2 || c.calls.Longest != 2*time.Second {
		t.Errorf("calls: %+v", c.calls)
	}
	if got := c.calls.Failures[1]; got.Status != http.StatusUnauthorized || got.Detail != "so it is" || got.Token.Hash != oidc.Hash(first) {
		t.Errorf("the refused call is described as %+v", got)
	}
}

func TestPaymentKeepsItsBundles(t *testing.T) {
	dir := t.TempDir()
	p := &payment{dir: dir, answers: map[int]int{}}
	mount(t, dir, "1", map[string]string{"jwks.json": `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`})
	p.saw(time.Now())
	if len(p.bundles) != 1 || !cmp.Equal(p.bundles[0].KeyIDs, []string{"k1"}) {
		t.Errorf("bundles: %+v", p.bundles)
	}
	api := p.counted(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	api.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	if p.answers[http.StatusForbidden] != 1 {
		t.Errorf("answers: %v", p.answers)
	}
}

func TestInside(t *testing.T) {
	dir := t.TempDir()
	mount(t, dir, "1", map[string]string{"payment-api": "x"})
	t.Setenv("M2M_TOKEN_DIR", dir)
	got := inside()
	if got.Env["M2M_TOKEN_DIR"] != dir || len(got.Files) != 1 || got.Files[0].Mode != "-rw-------" || got.Files[0].Error != "" {
		t.Errorf("inside: %+v", got)
	}
}
