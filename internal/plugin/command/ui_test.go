// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/command"
	"github.com/m2m-operator/m2m-operator/internal/plugin/tree"
	"github.com/m2m-operator/m2m-operator/internal/plugin/web"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// served is a running kubectl m2m ui.
type served struct {
	t       *testing.T
	address string
	stop    func()
	ended   chan error
}

// serve starts kubectl m2m ui and waits for the address that it prints.
func serve(t *testing.T, now time.Time, args ...string) *served {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	out, in := io.Pipe()
	c := command.New(genericiooptions.IOStreams{In: strings.NewReader(""), Out: in, ErrOut: in}, func() time.Time { return now })
	c.SetArgs(append([]string{"--kubeconfig", kubeconfig(t), "ui"}, args...))
	s := &served{t: t, stop: stop, ended: make(chan error, 1)}
	go func() {
		s.ended <- c.ExecuteContext(ctx)
		_ = in.Close()
	}()
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("it printed no address: %v, %v", err, <-s.ended)
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	s.address = strings.TrimSpace(line)
	t.Cleanup(stop)
	return s
}

// get asks the site, and fails if the answer shows anything that looks like a secret or a token.
func (s *served) get(path string) (status int, body string) {
	s.t.Helper()
	answer, err := http.Get(s.address + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	hidesSecrets(s.t, answerOf(string(b)))
	return answer.StatusCode, string(b)
}

func answerOf(out string) answer { return answer{out: out} }

// state returns the state of an object on the page.
func (s *served) state(id string) tree.State {
	s.t.Helper()
	_, body := s.get("model.json")
	var m web.Model
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		s.t.Fatalf("%v: %s", err, body)
	}
	for _, o := range m.Objects {
		if o.ID == id {
			return o.State
		}
	}
	return ""
}

// TestUI serves the page while something changes, to an administrator and to somebody who may
// read one namespace, and writes it as a file.
func TestUI(t *testing.T) {
	op := operator.StartStepped(t)
	st := operator.NewStage(t, op)
	cart := "M2MClient/" + st.Shop + "/cart"
	s := serve(t, op.Clock.Now(), "-n", st.Shop)
	if !strings.HasPrefix(s.address, "http://127.0.0.1:") {
		t.Fatalf("the address is %s", s.address)
	}
	if status, page := s.get(""); status != http.StatusOK || !strings.Contains(page, `src="page.js"`) {
		t.Errorf("status %d: %s", status, page)
	}
	if got := s.state(cart); got != tree.Ready {
		t.Errorf("cart is %q", got)
	}
	if status, y := s.get("yaml?id=" + cart); status != http.StatusOK || !strings.Contains(y, "kind: M2MClient") {
		t.Errorf("status %d: %s", status, y)
	}

	operator.Change(t, st.API, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
	st.Settle()
	for deadline := time.Now().Add(20 * time.Second); s.state(cart) != tree.Failing; time.Sleep(web.Interval / 4) {
		if time.Now().After(deadline) {
			t.Fatal("the change does not show")
		}
	}

	file := run(t, op.Clock.Now(), "access", "-A", "-o", "html")
	file.ends(t, 0)
	says(t, file.out, "<!doctype html>", `"id":"`+cart+`"`, "NotGranted")

	s.stop()
	select {
	case err := <-s.ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
	if _, err := http.Get(s.address); err == nil {
		t.Error("it still answers")
	}

	reader(t, "dora", st.Shop)
	s = serve(t, op.Clock.Now(), "-n", st.Shop, "--as", "dora")
	if _, body := s.get("model.json"); !strings.Contains(body, `list apiresources.m2m-operator.io in namespace \"`+st.Payments+`\"`) {
		t.Errorf("it does not say which right is missing: %s", body)
	}
	says(t, runCompletion(t, op.Clock.Now(), "__complete", "access", "--output", "").out, "html")
	says(t, runCompletion(t, op.Clock.Now(), "__complete", "ui", "--address", "").out, "::1")
	for _, wrong := range []string{"0.0.0.0", "192.0.2.1", "example.com"} {
		a := run(t, op.Clock.Now(), "ui", "--address", wrong)
		a.ends(t, 2)
		says(t, a.message, "is not a loopback address")
	}
}
