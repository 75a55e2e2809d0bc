// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/internal/render"
)

// TestABundleIsRenderedOnce asks for the files of a bundle again and again: they are
// those that rendering gives, also when somebody has changed what was handed out.
func TestABundleIsRenderedOnce(t *testing.T) {
	r := newRenderedBundles()
	api := types.NamespacedName{Namespace: "payments", Name: "payment-api"}
	bundle := render.Bundle{Name: api.Name, Namespace: api.Namespace, Issuer: "https://auth.example.com", Audience: "https://payment.example.com", ClockSkewSeconds: 30}
	same := func(b render.Bundle, extra map[string]string) map[string]string {
		t.Helper()
		want, wantErr := render.Verification(b, extra)
		got, err := r.files(api, b, extra)
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
	r.last[api] = renderedBundle{from: r.last[api].from, files: map[string]string{"kept": "x"}}
	if got, err := r.files(api, other, map[string]string{"extra": "{{ .None"}); err != nil || got["kept"] != "x" {
		t.Errorf("it was rendered once more: %v, %v", got, err)
	}
	r.forget(api)
	if len(r.last) != 0 {
		t.Error("an API that is gone is remembered")
	}
}
