// SPDX-License-Identifier: Apache-2.0

package local

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestReplaceStrings(t *testing.T) {
	o := &unstructured.Unstructured{Object: map[string]any{
		"a": "x", "n": int64(1), "list": []any{"axb", map[string]any{"deep": "x"}}, "x": "name",
	}}
	ReplaceStrings(o.Object, strings.NewReplacer("x", `"y: z`))
	want := map[string]any{"a": `"y: z`, "n": int64(1), "list": []any{`a"y: zb`, map[string]any{"deep": `"y: z`}}, "x": "name"}
	if diff := cmp.Diff(want, o.Object); diff != "" {
		t.Errorf("object (-want +got):\n%s", diff)
	}
}

func TestProcesses(t *testing.T) {
	t.Run("one that ends with its input", func(t *testing.T) {
		p, err := Start("cat", os.Stderr, true, "cat")
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Running(); err != nil {
			t.Error(err)
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		if p.Running() == nil {
			t.Error("it is said to run on")
		}
	})
	t.Run("one that is told to end", func(t *testing.T) {
		p, err := Start("sleep", os.Stderr, false, "sleep", "60")
		if err != nil {
			t.Fatal(err)
		}
		started := time.Now()
		if err := p.Stop(); err != nil || time.Since(started) > 9*time.Second {
			t.Errorf("stopped after %s: %v", time.Since(started), err)
		}
	})
	t.Run("one that ends by itself", func(t *testing.T) {
		p, err := Start("false", os.Stderr, false, "false")
		if err != nil {
			t.Fatal(err)
		}
		<-p.ended
		if err := p.Running(); err == nil || !strings.Contains(err.Error(), "exit status 1") {
			t.Errorf("got %v, want its exit status", err)
		}
	})
	t.Run("one that does not exist", func(t *testing.T) {
		if _, err := Start("none", os.Stderr, true, "/does/not/exist"); err == nil {
			t.Error("it was started")
		}
	})
}
