// SPDX-License-Identifier: Apache-2.0

package gitops_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

const states = "testdata/states"

// gallery collects the states of objects. Each is a file in testdata/states, which the
// module test/gitops/health judges with the health checks for Argo CD and Flux.
type gallery struct {
	t     *testing.T
	w     *operator.World
	names []string
}

// shows fails unless kstatus computes a status for an object as it is now, and the object
// is the one in the file of that state. UPDATE_GOLDEN=1 writes the file.
func (g *gallery) shows(state string, obj client.Object, want status.Status) {
	g.t.Helper()
	u := untyped(g.t, obj)
	name := strings.ToLower(u.GetKind()) + "-" + state
	g.names = append(g.names, name+".yaml")
	result, err := status.Compute(u)
	if err != nil {
		g.t.Fatal(err)
	}
	if result.Status != want {
		g.t.Errorf("%s: kstatus says %s (%s), want %s", name, result.Status, result.Message, want)
	}
	got := g.normal(u)
	file := filepath.Join(states, name+".yaml")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			g.t.Fatal(err)
		}
	}
	there, err := os.ReadFile(file)
	if err != nil {
		g.t.Fatalf("%v: run the test with UPDATE_GOLDEN=1", err)
	}
	// What a message says may be put better without a new state.
	if diff := cmp.Diff(wordless(g.t, string(there)), wordless(g.t, got)); diff != "" {
		g.t.Errorf("%s is not what the API server has (-file +server); run the test with UPDATE_GOLDEN=1 and look at what changed:\n%s", file, diff)
	}
}

// wordless parses an object in YAML and leaves out its messages.
func wordless(t *testing.T, text string) any {
	t.Helper()
	var o map[string]any
	if err := yaml.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	forget(o, "message")
	return o
}

// untyped reads an object with everything that the API server has of it.
func untyped(t *testing.T, obj client.Object) *unstructured.Unstructured {
	t.Helper()
	gvk, err := apiutil.GVKForObject(obj, operator.Kube.Scheme())
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(gvk)
	if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(obj), u); err != nil {
		t.Fatal(err)
	}
	return u
}

// What differs from run to run.
var (
	moment    = regexp.MustCompile(`"?(?:20\d\d|2100)-\d\d-\d\dT\d\d:\d\d:\d\dZ"?`)
	untilTime = regexp.MustCompile(`until (\d{4}-\d\d-\d\d )?\d\d:\d\d UTC`)
	random    = []string{"uid", "resourceVersion", "managedFields", "kid", "keyID", "keyThumbprint", "thumbprint", "publicKey", "terms", "attempts", "inputs"}
)

// normal returns an object as YAML, without what differs from run to run.
func (g *gallery) normal(u *unstructured.Unstructured) string {
	g.t.Helper()
	u = u.DeepCopy()
	forget(u.Object, random...)
	b, err := yaml.Marshal(u.Object)
	if err != nil {
		g.t.Fatal(err)
	}
	text := strings.NewReplacer(g.w.AS.Issuer(), "https://auth.example.com", g.w.Shop, "shop", g.w.Payments, "payments").Replace(string(b))
	text = moment.ReplaceAllString(text, `"2026-01-01T12:00:00Z"`)
	return untilTime.ReplaceAllString(text, "until 12:00 UTC")
}

// forget deletes members of these names from a value and everything in it.
func forget(value any, names ...string) {
	switch v := value.(type) {
	case map[string]any:
		for _, name := range names {
			delete(v, name)
		}
		for _, member := range v {
			forget(member, names...)
		}
	case []any:
		for _, member := range v {
			forget(member, names...)
		}
	}
}

// TestEveryState leads an object of each kind through its life, and compares what kstatus
// makes of it with what somebody waits for who has applied it: it is current only once the
// operator has seen it as it is and it works. It is never Failed, which would end the wait
// of Flux at once, although what is missing may be applied a moment later.
func TestEveryState(t *testing.T) {
	op := operator.StartStepped(t)
	g := &gallery{t: t, w: operator.NewWorld(t, func(o *oidc.Options) { o.Now = op.Clock.Now })}
	g.ofServers(op)
	g.ofAPIs(op)
	g.ofClients(op)
	g.ofRunning(op)

	entries, err := os.ReadDir(states)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, e := range entries {
		files = append(files, e.Name())
	}
	slices.Sort(g.names)
	if diff := cmp.Diff(g.names, files); diff != "" {
		t.Errorf("the states and their files (-states +files):\n%s", diff)
	}
}

func (g *gallery) settle(op *operator.Operator) { g.t.Helper(); op.Settle(g.w.Payments, g.w.Shop) }

func (g *gallery) ofServers(op *operator.Operator) {
	t, w := g.t, g.w
	cluster := &v1alpha1.ClusterAuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Name: "company"},
		Spec: v1alpha1.ClusterAuthorizationServerSpec{
			AuthorizationServerSpec: v1alpha1.AuthorizationServerSpec{Issuer: w.AS.Issuer()}, AllowedNamespaces: operator.NamesOf(w.Shop, w.Payments),
		},
	}
	t.Cleanup(func() {
		if err := operator.Kube.Delete(context.Background(), cluster); err != nil {
			t.Error(err)
		}
	})
	server := w.Server(w.Payments)
	operator.Create(t, server, cluster)
	g.shows("new", server, status.InProgressStatus)
	g.shows("new", cluster, status.InProgressStatus)

	w.AS.SetFault(oidc.Discovery, operator.Answer(http.StatusServiceUnavailable, ""))
	g.settle(op)
	g.shows("unreachable", server, status.InProgressStatus)

	w.AS.ClearFaults()
	op.Advance(time.Hour)
	g.settle(op)
	g.shows("ready", server, status.CurrentStatus)
	g.shows("ready", cluster, status.CurrentStatus)

	w.AS.SetFault(oidc.JWKS, operator.Answer(http.StatusServiceUnavailable, ""))
	op.Advance(time.Hour)
	g.settle(op)
	g.shows("keys-stale", server, status.CurrentStatus) // the last good keys are in use

	w.AS.ClearFaults()
	op.Advance(time.Hour)
	g.settle(op)
	operator.Change(t, server, func(a *v1alpha1.AuthorizationServer) { a.Spec.JWKS.Retention = "1h" })
	g.shows("changed", server, status.InProgressStatus)
	g.settle(op)
}

func (g *gallery) ofAPIs(op *operator.Operator) {
	t, w := g.t, g.w
	lonely := w.API()
	lonely.Name, lonely.Spec.AuthorizationServerRef.Name = "lonely-api", "elsewhere"
	operator.Create(t, lonely)
	g.settle(op)
	g.shows("server-missing", lonely, status.InProgressStatus)
	operator.Remove(t, lonely)

	api := w.API()
	api.Spec.Grants = nil
	operator.Create(t, api)
	g.shows("new", api, status.InProgressStatus)
	g.settle(op)
	g.shows("ready", api, status.CurrentStatus)

	copied := w.API()
	copied.Name = "copied-api"
	op.Advance(time.Minute)
	operator.Create(t, copied)
	g.settle(op)
	g.shows("claimed", copied, status.InProgressStatus)
	operator.Remove(t, copied)

	operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Verification.ClockSkew = "10s" })
	g.shows("changed", api, status.InProgressStatus)
	g.settle(op)
}

// ofClients makes a client whose parts are applied one by one, in the worst order.
func (g *gallery) ofClients(op *operator.Operator) {
	t, w := g.t, g.w
	cart := w.Cart()
	cart.Spec.Access[0].APIResourceRef.Name = "missing-api"
	operator.Create(t, cart)
	g.shows("new", cart, status.InProgressStatus)
	g.settle(op)
	g.shows("api-missing", cart, status.InProgressStatus)

	operator.Change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Access[0].APIResourceRef.Name = "payment-api" })
	g.settle(op)
	g.shows("server-missing", cart, status.InProgressStatus)

	operator.Create(t, w.Server(w.Shop))
	g.settle(op)
	g.shows("not-granted", cart, status.InProgressStatus)

	api := w.API()
	operator.Change(t, api, func(a *v1alpha1.APIResource) {
		a.Spec.Grants = w.API().Spec.Grants
		a.Spec.Grants[0].Scopes = []v1alpha1.ScopeName{"payments:read"}
	})
	g.settle(op)
	g.shows("scope-not-granted", cart, status.InProgressStatus)

	operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants = w.API().Spec.Grants })
	g.settle(op)
	g.shows("credentials-missing", cart, status.InProgressStatus)

	secret := w.Secret("cart-credentials", operator.CartID, operator.NewSecret())
	operator.Create(t, secret)
	g.settle(op)
	g.shows("credentials-refused", cart, status.InProgressStatus)

	right := operator.NewSecret()
	w.SetClient(operator.CartID, right)
	w.AS.SetFault(oidc.Token, &oidc.Fault{Claims: operator.Member("aud", "https://other.example.com")})
	operator.Change(t, secret, func(s *corev1.Secret) { s.StringData = map[string]string{v1alpha1.ClientSecretKey: right} })
	g.settle(op)
	g.shows("not-verified", cart, status.InProgressStatus)

	w.AS.ClearFaults()
	op.Advance(time.Hour)
	g.settle(op)
	g.shows("ready", cart, status.CurrentStatus)
	operator.Change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Refresh.AtPercent = 50 })
	g.shows("changed", cart, status.InProgressStatus)
	operator.Remove(t, cart)
}

// ofRunning makes a client that worked.
func (g *gallery) ofRunning(op *operator.Operator) {
	t := g.t
	s := operator.NewStage(t, op)
	g.w = s.World
	s.AS.SetFault(oidc.Token, operator.Answer(http.StatusServiceUnavailable, ""))
	s.Due()
	s.Settle()
	g.shows("not-refreshed", s.Cart, status.CurrentStatus) // the token still works
	s.Until(s.Status().ExpiresAt.Time)
	g.shows("expired", s.Cart, status.InProgressStatus)
	s.AS.ClearFaults()

	// Objects that wait for their dependents, as when Argo CD deletes.
	for _, obj := range []client.Object{s.Server(s.Shop), s.API, s.Cart} {
		if err := operator.Kube.Delete(t.Context(), obj, client.PropagationPolicy(metav1.DeletePropagationForeground)); err != nil {
			t.Fatal(err)
		}
		g.shows("deleting", obj, status.TerminatingStatus)
		before := obj.DeepCopyObject().(client.Object)
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(obj), before); err != nil {
			t.Fatal(err)
		}
		after := before.DeepCopyObject().(client.Object)
		after.SetFinalizers(nil)
		if err := operator.Kube.Patch(t.Context(), after, client.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
	}
}
