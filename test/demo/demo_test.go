// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/test/local"
)

func TestDecodedTokenHasNoSignature(t *testing.T) {
	server := startServer(t)
	token := signToken(t, server)
	header, claims, err := decodeToken(token)
	if err != nil {
		t.Fatal(err)
	}
	shown := indented(header) + indented(claims)
	for _, part := range strings.Split(token, ".") {
		if strings.Contains(shown, part) {
			t.Errorf("what is shown contains a part of the token as it is:\n%s", shown)
		}
	}
	if claims["client_id"] != "cart" || header["typ"] != "at+jwt" || tokenKeyID(token) != server.KeyID() {
		t.Errorf("decoded %v and %v", header, claims)
	}
	for _, bad := range []string{"", "opaque", "a.b", "e30.!.c2ln", "e30.W10.c2ln"} {
		if _, _, err := decodeToken(bad); err == nil || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("decodeToken(%q) says %v", bad, err)
		}
	}
}

// TestManifestsFitTheDemo checks that the manifests contain everything that the
// demo replaces or relies on.
func TestManifestsFitTheDemo(t *testing.T) {
	var all strings.Builder
	kinds := map[string]int{}
	for _, file := range storyFiles {
		content, err := os.ReadFile(filepath.Join("..", "..", file))
		if err != nil {
			t.Fatal(err)
		}
		objects, err := local.ObjectsOf(content)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, o := range objects {
			kinds[o.GetKind()]++
			b, err := yaml.Marshal(o.Object)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(b)
		}
	}
	want := map[string]int{"Namespace": 2, "AuthorizationServer": 1, "APIResource": 1, "Secret": 1, "M2MClient": 2, "Deployment": 2}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("objects of the story (-want +got):\n%s", diff)
	}
	for _, text := range []string{sampleIssuer, sampleToken, paymentIdentifier, "refreshInterval", v1alpha1.ClientAnnotation + ": cart", v1alpha1.VerifyAnnotation + ": payment-api"} {
		if !strings.Contains(all.String(), text) {
			t.Errorf("no manifest of the story contains %q", text)
		}
	}
}

func TestCallsAreCounted(t *testing.T) {
	c := newCalls()
	last := c.read(strings.NewReader(`{"status":200,"result":"paid"}` + "\n" + `{"status":200,"result":"paid"}` + "\n"))
	if c.total.Load() != 2 || c.check() != nil || last.Status != 200 {
		t.Errorf("2 good calls: counted %d, %v", c.total.Load(), c.check())
	}
	c.read(strings.NewReader(`{"status":401,"result":"invalid_token"}` + "\n" + `{"result":"no answer"}` + "\nnonsense\n"))
	err := c.check()
	if err == nil || !strings.Contains(err.Error(), "3 of 5 calls failed: 401 invalid_token; 0 no answer; 0 a report that is not JSON") {
		t.Errorf("3 bad calls: %v", err)
	}
}

func TestTokensAreCounted(t *testing.T) {
	var l tokenLog
	for _, token := range []string{"", "a", "a", "", "a", "b", "b"} {
		l.saw(token)
	}
	if l.count() != 2 {
		t.Errorf("counted %d tokens, want 2", l.count())
	}
}

func TestFailureIsExplained(t *testing.T) {
	var out strings.Builder
	d := newDemo()
	d.out, d.color = &out, false
	d.cleanups = nil
	order := ""
	d.onCleanUp(func() error { order += "first "; return nil })
	d.onCleanUp(func() error { order += "second "; return nil })
	d.explain(os.ErrDeadlineExceeded)
	if err := d.cleanUp(); err != nil || order != "second first " {
		t.Errorf("cleaned up in the order %q: %v", order, err)
	}
	if want := "\nThe demo failed\n" + os.ErrDeadlineExceeded.Error() + "\n"; out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
}

func TestOutputIsPlainText(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	c := newConsole(file)
	c.title("A step")
	c.say("something with %d", 1)
	c.block("a\n\nb\n")
	content, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	want := "\n 1  A step\n    0.0 s  something with 1\n           a\n\n           b\n"
	if diff := cmp.Diff(want, string(content)); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
	c.color = true
	if got := c.bold("x"); got != "\x1b[1mx\x1b[0m" {
		t.Errorf("on a terminal: %q", got)
	}
}
