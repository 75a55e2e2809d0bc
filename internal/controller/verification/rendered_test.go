// SPDX-License-Identifier: Apache-2.0

package verification

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/internal/render"
)

// TestABundleIsRenderedOnce asks for the files of a bundle again and again. They are the
// rendered ones, even after a caller has changed the map that it got.
func TestABundleIsRenderedOnce(t *testing.T) {
	r := NewRendered()
	api := types.NamespacedName{Namespace: "payments", Name: "payment-api"}
	bundle := render.Bundle{Name: api.Name, Namespace: api.Namespace, Issuer: "https://auth.example.com", Audience: "https://payment.example.com", ClockSkewSeconds: 30}
	same := func(b render.Bundle, extra map[string]string) map[string]string {
		t.Helper()
		want, wantErr := render.Verification(b, extra)
		got, err := r.Files(api, b, extra)
		if (err == nil) != (wantErr == nil) {
			t.Errorf("got the error %v, want %v", err, wantErr)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("files (-want +got):\n%s", diff)
		}
		return got
	}
	first := same(bundle, nil)
	first["audience"] = "changed"
	same(bundle, nil)
	other := bundle
	other.Audience = "https://other.example.com"
	same(other, nil)
	same(other, map[string]string{"extra": "{{ .Audience }}"})
	same(other, map[string]string{"extra": "{{ .None"})
	same(other, map[string]string{"extra": "{{ .None"})
	if len(r.last) != 1 {
		t.Errorf("%d bundles of one API are kept", len(r.last))
	}
	r.last[api].files = map[string]string{"kept": "x"}
	if got, err := r.Files(api, other, map[string]string{"extra": "{{ .None"}); err == nil || got["kept"] != "x" {
		t.Errorf("it was rendered again: %v, %v", got, err)
	}
	r.Forget(api)
	if len(r.last) != 0 || r.size != 0 {
		t.Error("a deleted API is remembered")
	}
}

// TestRenderedBundlesAreBounded renders large bundles for ever more APIs.
func TestRenderedBundlesAreBounded(t *testing.T) {
	r := NewRendered()
	extra := map[string]string{}
	for i := range 4 {
		extra[fmt.Sprintf("file-%d", i)] = `{{ $x := "` + strings.Repeat("a", 3000) + `" }}` + strings.Repeat("{{ $x }}", 40)
	}
	for i := range 100 {
		api := types.NamespacedName{Namespace: "payments", Name: fmt.Sprintf("api-%d", i)}
		b := render.Bundle{Name: api.Name, Namespace: api.Namespace, Issuer: "https://auth.example.com", Audience: "https://payment.example.com"}
		files, err := r.Files(api, b, extra)
		if err != nil || len(files) < 8 {
			t.Fatalf("%d files, %v", len(files), err)
		}
		size := 0
		for _, kept := range r.last {
			size += 512
			for name, content := range kept.files {
				size += len(name) + len(content)
			}
		}
		if size != r.size || size > renderedMax {
			t.Fatalf("%d bytes are kept and %d counted after %d APIs", size, r.size, i+1)
		}
	}
	if len(r.last) < 10 {
		t.Errorf("only %d are kept", len(r.last))
	}
}

// TestRenderingHoldsUpNobodyElse asks for one API's bundle while another's is being rendered.
func TestRenderingHoldsUpNobodyElse(t *testing.T) {
	r := NewRendered()
	slow, quick := types.NamespacedName{Namespace: "shop", Name: "slow"}, types.NamespacedName{Namespace: "payments", Name: "quick"}
	rendering := r.of(slow)
	rendering.mu.Lock()
	defer rendering.mu.Unlock()
	done := make(chan error)
	go func() {
		_, err := r.Files(quick, render.Bundle{Name: "quick", Issuer: "https://auth.example.com", Audience: "a"}, nil)
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for another API's bundle")
	}
}
