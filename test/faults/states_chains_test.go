// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// How many chains there are, of how many acts.
const (
	chains     = 60
	chainSteps = 30
)

// TestChains goes from state to state at random, also while things are under way, and takes everything back.
func TestChains(t *testing.T) {
	newFigures(t)
	all, seed, n := newPlaces(t, 3), stateSeed(t), chains
	if isShort() {
		n = 1
	}
	settings := scenes()
	for i := range n {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		o := newTour(t, all, settings[random.IntN(len(settings))])
		acts := o.atRandom(o.scene.of(fields(t)), random)
		start, wrongs := time.Now(), o.alone(acts)
		shared().add("states of "+o.scene.name, "chain", len(wrongs) > 0, time.Since(start))
		if len(wrongs) > 0 {
			o.judge(acts, wrongs)
			t.Errorf("it was chain %d of M2M_FAULTS_SEED=%d", i, seed)
		}
	}
}

// regressions are chains that have led to something wrong.
var regressions = []struct {
	name, scene string
	acts        []act
}{
	{"a token for a resource becomes one for an APIResource", "own credentials", []act{
		{do: "set", on: "M2MClient $shop/cart", path: "spec.access", value: `[{"resource":"https://payment.example.com/api","key":"payment-api","scopes":["payments:write"]}]`},
		{do: "restart"},
	}},
	{"a restart changes no policy with paths", "own credentials", []act{
		{do: "set", on: "APIResource $payments/payment-api", path: "spec.enforcement", value: `[{"name":"public","rules":[{"name":"all","paths":[{"type":"Exact","value":"/a"}]}],"envoyGateway":{"targetRefs":[{"kind":"HTTPRoute","name":"payment"}]}}]`},
		{do: "restart"},
	}},
	{"a replaced secret stays for longer than this takes", "registration", []act{
		{do: "set", on: "M2MClient $shop/cart", path: "spec.credentialRotation", value: `{"every":"720h","overlap":"1h"}`, hurry: true},
		{do: "annotate", on: "M2MClient $shop/cart", path: v1alpha1.RotateCredentialAnnotation, value: "b", hurry: true},
	}},
	{"a server registers no clients any more", "registration", []act{
		{do: "set", on: "AuthorizationServer $payments/auth", path: "spec.provisioning", value: "null"},
		{do: "restart"},
	}},
	{"the namespaces of the API and of the client are deleted and made again", "own credentials", []act{
		{do: "raze", on: "$payments"},
		{do: "raze", on: "$more", hurry: true},
		{do: "raze", on: "$shop"},
	}},
	{"the namespaces of a registered client and its API are deleted and made again", "registration", []act{
		{do: "raze", on: "$shop"},
		{do: "raze", on: "$payments", hurry: true},
	}},
	{"what stays registered for deleted clients is registered as it was", "registration", []act{
		{do: "set", on: "M2MClient $shop/cart", path: "spec.deletionPolicy", value: `"Retain"`},
		{do: "set", on: "AuthorizationServer $payments/auth", path: "spec.provisioning.dynamicRegistration", value: `{"authenticationMethod":"Post"}`},
		{do: "raze", on: "$shop", hurry: true},
		{do: "recreate", on: "M2MClient $shop/cart"},
	}},
	{"a client that is deleted while the initial access token cannot be read goes when it can be", "registration", []act{
		{do: "set", on: "AuthorizationServer $payments/auth", path: "spec.provisioning.dynamicRegistration.initialAccessTokenSecretRef.key", value: `"a"`, hurry: true},
		{do: "restart"},
		{do: "recreate", on: "M2MClient $shop/cart"},
	}},
	{"a client whose finalizer was removed by hand is made again", "registration", []act{
		{do: "remove", on: "AuthorizationServer $payments/auth", hurry: true},
		{do: "restart"},
		{do: "raze", on: "$shop", hurry: true},
	}},
	{"a token whose API is named by a claim from now on outlives a restart", "own credentials", []act{
		{do: "set", on: "APIResource $payments/payment-api", path: "spec.verification.audience", value: `{"claim":"roles","values":["a"]}`},
		{do: "restart"},
	}},
	{"objects of the operator that somebody makes immutable", "own credentials", []act{
		{do: "freeze", on: "Secret"},
		{do: "freeze", on: "ConfigMap"},
	}},
	{"objects of the operator that somebody changes in all ways", "own credentials", []act{
		{do: "freeze", on: "Secret"},
		{do: "freeze", on: "ConfigMap"},
		{do: "edit", on: "Secret", value: "Z2FyYmFnZQ=="},
		{do: "edit", on: "ConfigMap", value: "garbage", hurry: true},
		{do: "forge", on: "ConfigMap", path: v1alpha1.APIResourceAnnotation, value: "$more/private-api"},
		{do: "forge", on: "Secret", path: v1alpha1.OwnerAnnotation, value: "$more/cart"},
		{do: "recreate", on: "M2MClient $shop/cart"},
		{do: "delete", on: "Secret"},
	}},
}

// TestRegressions walks through these.
func TestRegressions(t *testing.T) {
	all := newPlaces(t, 3)
	for _, reg := range regressions {
		t.Run(reg.name, func(t *testing.T) {
			settings := scenes()
			o := newTour(t, all, settings[slices.IndexFunc(settings, func(s *scene) bool { return s.name == reg.scene })])
			for _, wrong := range o.alone(reg.acts) {
				t.Error(wrong)
			}
		})
	}
}

// forgeries are annotations of the operator, and what somebody may write into them.
var forgeries = map[string][]string{
	v1alpha1.OwnerAnnotation:       {"", "$more/cart", "nonsense"},
	v1alpha1.TokensAnnotation:      {"", "{}", "nonsense", `{"tokens":{"payment-api":{"expiresAt":"2199-01-01T00:00:00Z"}}}`},
	v1alpha1.ContentsAnnotation:    {"", "{}", "nonsense"},
	v1alpha1.KeyIDsAnnotation:      {"", "other", "$kid,other"},
	v1alpha1.APIResourceAnnotation: {"", "$more/private-api", "nonsense"},
	v1alpha1.PromptSinceAnnotation: {"", "2199-01-01T00:00:00Z", "nonsense"},
	v1alpha1.MetadataAnnotation:    {"", `{"labels":["a"]}`, "nonsense"},
}

// atRandom returns a chain of all that can happen.
func (o *tour) atRandom(all []field, random *rand.Rand) (acts []act) {
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	manifests := slices.Sorted(maps.Keys(o.base))
	written := []string{"Secret", "ConfigMap"}
	for len(acts) < chainSteps {
		a := act{hurry: random.IntN(3) == 0}
		switch random.IntN(13) {
		case 0:
			a = act{do: "restart"}
		case 1:
			a.do, a.on = "remove", pick(manifests...)
		case 2:
			a.do, a.on = "recreate", pick(manifests...)
		case 3:
			a.do, a.on = pick("freeze", "replace", "delete"), pick(written...)
		case 4:
			a.do, a.on, a.value = "edit", pick(written...), pick("", "Z2FyYmFnZQ==")
		case 5:
			a.do, a.on, a.value = "relabel", pick(written...), "somebody"
		case 6, 7:
			a.do, a.on, a.path = "forge", pick(written...), pick(slices.Sorted(maps.Keys(forgeries))...)
			a.value = pick(forgeries[a.path]...)
		case 8:
			a.do, a.on = "unlock", pick(manifests...)
		case 9:
			a.do, a.on, a.value = "annotate", "M2MClient $shop/cart", pick("a", "b", "c")
			a.path = pick(v1alpha1.RefreshRequestedAnnotation, v1alpha1.RotateCredentialAnnotation)
		case 10:
			a.do, a.on = "raze", pick("$shop", "$payments", "$more")
		default:
			f := all[random.IntN(len(all))]
			values := f.valid()
			if len(values) == 0 {
				continue
			}
			a.do, a.on, a.path, a.value = "set", o.scene.target(f), f.path, pick(values...)
		}
		acts = append(acts, a)
	}
	return acts
}
