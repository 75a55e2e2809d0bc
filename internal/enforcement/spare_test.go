// SPDX-License-Identifier: Apache-2.0

package enforcement

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestStage(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	since := func(d time.Duration) time.Time { return now.Add(-d) }
	for name, tc := range map[string]struct {
		present, next string
		held          [2]Held
		want          [2]string
		wait          time.Duration
	}{
		"nothing is there yet":                   {"a", "a", [2]Held{}, [2]string{"a", "a"}, 0},
		"nothing changes":                        {"b", "b", [2]Held{{"a", since(0)}, {"b", since(0)}}, [2]string{"a", "b"}, 0},
		"one place holds nothing of use":         {"b", "b", [2]Held{{}, {"b", since(0)}}, [2]string{"b", "b"}, 0},
		"the keys are nowhere":                   {"b", "b", [2]Held{{"x", since(0)}, {"y", since(0)}}, [2]string{"x", "b"}, 0},
		"a change, and the places are empty":     {"a", "b", [2]Held{}, [2]string{"b", "b"}, time.Minute},
		"a change of keys that both places hold": {"a", "b", [2]Held{{"a", since(time.Hour)}, {"a", since(time.Hour)}}, [2]string{"a", "b"}, time.Minute},
		"the second change":                      {"b", "c", [2]Held{{"a", since(time.Hour)}, {"b", since(time.Hour)}}, [2]string{"c", "b"}, time.Minute},
		"the third change":                       {"c", "d", [2]Held{{"c", since(time.Hour)}, {"b", since(time.Hour)}}, [2]string{"c", "d"}, time.Minute},
		"the next keys wait":                     {"a", "b", [2]Held{{"a", since(time.Hour)}, {"b", since(20 * time.Second)}}, [2]string{"a", "b"}, 40 * time.Second},
		"the present keys came late":             {"a", "b", [2]Held{{"b", since(time.Hour)}, {"a", since(50 * time.Second)}}, [2]string{"b", "a"}, 10 * time.Second},
		"the next keys have waited":              {"a", "b", [2]Held{{"a", since(time.Hour)}, {"b", since(time.Minute)}}, [2]string{"a", "b"}, 0},
		"a change, and the keys are nowhere":     {"a", "b", [2]Held{{"x", since(0)}, {"y", since(0)}}, [2]string{"x", "b"}, time.Minute},
		"the present keys are nowhere":           {"a", "b", [2]Held{{"x", since(time.Hour)}, {"b", since(20 * time.Second)}}, [2]string{"x", "b"}, 40 * time.Second},
		"other keys instead, while some wait":    {"a", "c", [2]Held{{"a", since(time.Hour)}, {"b", since(time.Hour)}}, [2]string{"a", "c"}, time.Minute},
		"back to the present keys":               {"a", "a", [2]Held{{"a", since(time.Hour)}, {"b", since(time.Second)}}, [2]string{"a", "b"}, 0},
		"another clock is ahead":                 {"a", "b", [2]Held{{"a", since(time.Hour)}, {"b", since(-time.Hour)}}, [2]string{"a", "b"}, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			got, ready := Stage(tc.present, tc.next, tc.held, now, time.Minute)
			if wait := max(0, ready.Sub(now)); got != tc.want || wait != tc.wait {
				t.Errorf("the places hold %q and the keys wait %s; want %q, %s", got, wait, tc.want, tc.wait)
			}
		})
	}
}

// TestSpare: a place has the provider of the entry's own policy, to the letter, because
// Envoy Gateway makes a name of it.
func TestSpare(t *testing.T) {
	e := entry(EnvoyGateway)
	e.Spares = []Target{{Group: gatewayGroup, Kind: "HTTPRoute", Name: "spare", Section: "one"}, {Group: gatewayGroup, Kind: "HTTPRoute", Name: "spare", Section: "two"}}
	p, err := Open(payment(), e)
	if err != nil {
		t.Fatal(err)
	}
	keys := keysIn(t, p.Objects[0])
	golden(t, "envoy-gateway-spare.yaml", []*unstructured.Unstructured{Spare(payment(), e, 0, keys), Spare(payment(), e, 1, keys)})
	provider := func(o *unstructured.Unstructured) map[string]any {
		list, _, _ := unstructured.NestedSlice(o.Object, "spec", "jwt", "providers")
		one := list[0].(map[string]any)
		delete(one, "localJWKS")
		return one
	}
	if diff := cmp.Diff(provider(p.Objects[1]), provider(Spare(payment(), e, 1, keys))); diff != "" {
		t.Errorf("providers (-own +spare):\n%s", diff)
	}
	for name, want := range map[string]bool{
		"m2m.payment-api.public.spare-1": true, "m2m.payment-api.public.spare-2": true, "m2m.payment-api.public": true,
		"m2m.payment-api.public.spare-3": false, "m2m.payment-api..spare-1": false, "m2m.payment-api.public.x.spare-1": false,
	} {
		if got := IsObjectName("payment-api", name); got != want {
			t.Errorf("%s is a name of the API's policies: %t", name, got)
		}
	}
}
