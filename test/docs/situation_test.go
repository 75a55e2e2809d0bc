// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// story are the manifests of the README, by the names that situations use to
// change them. Words that begin with a dollar sign differ from situation to
// situation.
var story = map[string]string{
	"auth": `
apiVersion: m2m-operator.io/v1alpha1
kind: AuthorizationServer
metadata: {name: auth, namespace: $SHOP}
spec: {issuer: "$ISSUER"}
`,
	"payments-auth": `
apiVersion: m2m-operator.io/v1alpha1
kind: AuthorizationServer
metadata: {name: auth, namespace: $PAYMENTS}
spec: {issuer: "$ISSUER"}
`,
	"payment-api": `
apiVersion: m2m-operator.io/v1alpha1
kind: APIResource
metadata: {name: payment-api, namespace: $PAYMENTS}
spec:
  authorizationServerRef: {name: auth}
  identifier: https://payment.example.com/api
  scopes: [{name: "payments:read"}, {name: "payments:write"}]
  grants:
  - clients: {namespaces: {names: [$SHOP]}}
    scopes: ["payments:write"]
`,
	"cart": `
apiVersion: m2m-operator.io/v1alpha1
kind: M2MClient
metadata: {name: cart, namespace: $SHOP}
spec:
  authorizationServerRef: {name: auth}
  access:
  - apiResourceRef: {name: payment-api, namespace: $PAYMENTS}
    scopes: ["payments:write"]
  credentials:
    clientSecret: {secretRef: {name: cart-credentials}}
`,
	"cart-credentials": `
apiVersion: v1
kind: Secret
metadata: {name: cart-credentials, namespace: $SHOP}
stringData: {client-id: cart, client-secret: $SECRET}
`,
	"payment": `
apiVersion: v1
kind: Pod
metadata:
  name: payment
  namespace: $PAYMENTS
  annotations: {m2m-operator.io/verify: payment-api}
spec: {containers: [{name: payment, image: payment}]}
`,
}

// paymentHost is the payment API's host on the page and in the manifests. Each
// situation has another one: APIs of the same identifier look at each other
// whenever one of them changes.
const (
	paymentHost = "payment.example.com"
	paymentAPI  = "https://" + paymentHost + "/api"
)

// situation is a mistake that a condition reports: the story with changes.
type situation struct {
	// server changes how the authorization server behaves.
	server oidc.Options
	// prepare changes the authorization server once it runs.
	prepare func(*testing.T, *world)
	// set are JSON merge patches, in YAML, by the names of the story's
	// manifests.
	set map[string]string
	// later are more of these patches, applied once the client is ready.
	later map[string]string
	// without are the manifests that do not exist.
	without []string
	// also are more manifests, created before the story's.
	also string
	// accepted makes the story wait until the APIResource in also is accepted.
	accepted bool
	// after is called before the row is compared.
	after func(*testing.T, *world)
	// last is one more manifest, created after the story's.
	last string
	// strict runs the operator without the flags that allow HTTP and loopback
	// addresses.
	strict bool
	// provisioned tells another story, in which the operator creates API and
	// client at the server. If logto is set, the server is a Logto, which logto
	// changes.
	provisioned bool
	logto       func(*testing.T, *world, *logtotest.Server)
}

// world is one situation's authorization server and namespaces.
type world struct {
	id     string
	as     *oidc.Server
	base   string               // of the authorization server's URLs
	server types.NamespacedName // the AuthorizationServer that rows are about
	names  map[string]string    // placeholder → value
	made   *[]client.Object     // what all worlds have created
}

var worlds int

func newWorld(t *testing.T, id string, s situation, made *[]client.Object) *world {
	t.Helper()
	worlds++
	if s.server.TokenLifetime == 0 {
		s.server.TokenLifetime = time.Hour
	}
	as, err := oidc.Start(s.server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(as.Close)
	w := &world{id: id, as: as, made: made, names: map[string]string{
		paymentHost: fmt.Sprintf("payment-%d.example.com", worlds),
		"$SHOP":     fmt.Sprintf("shop-%d", worlds), "$PAYMENTS": fmt.Sprintf("payments-%d", worlds),
		"$CLUSTER": fmt.Sprintf("company-%d", worlds), "$ISSUER": as.Issuer(), "$SECRET": "correct-horse",
		"$CA": strings.ReplaceAll(string(as.CAPEM()), "\n", `\n`),
	}}
	w.server = types.NamespacedName{Namespace: w.names["$SHOP"], Name: "auth"}
	as.SetResource(w.fill(paymentAPI), "payments:read", "payments:write")
	w.setClient(t, oidc.Client{Secret: "correct-horse"})
	w.base = strings.TrimSuffix(as.TokenURL(), "/token")
	told := story
	if s.provisioned || s.logto != nil {
		told = provisionedStory
		w.server = types.NamespacedName{Namespace: w.names["$PAYMENTS"], Name: "auth"}
		w.names["$PROVISIONING"] = "dynamicRegistration: {authenticationMethod: Basic}"
	}
	if s.logto != nil {
		w.startLogto(t, s.logto)
	}
	if s.prepare != nil {
		s.prepare(t, w)
	}
	for _, ns := range []string{"$SHOP", "$PAYMENTS"} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.names[ns]}}
		if err := kube.Create(t.Context(), namespace); err != nil {
			t.Fatal(err)
		}
	}
	for manifest := range strings.SplitSeq(s.also, "\n---\n") {
		if strings.TrimSpace(manifest) != "" {
			w.create(t, patched(t, w.fill(manifest), ""))
		}
	}
	for s.accepted && !strings.Contains(w.conditionOf(t, "APIResource", "Accepted", types.NamespacedName{Namespace: w.names["$SHOP"], Name: "payment-api"}), "Accepted=True") {
		time.Sleep(10 * time.Millisecond)
	}
	for _, name := range slices.Sorted(maps.Keys(told)) {
		if !slices.Contains(s.without, name) {
			w.create(t, patched(t, w.fill(told[name]), w.fill(s.set[name])))
		}
	}
	if s.last != "" {
		w.create(t, patched(t, w.fill(s.last), ""))
	}
	return w
}

func (w *world) create(t *testing.T, obj *unstructured.Unstructured) {
	t.Helper()
	if err := kube.Create(t.Context(), obj, client.FieldValidation("Strict")); err != nil {
		t.Fatalf("%s: create %s %q: %v", w.id, obj.GetKind(), obj.GetName(), err)
	}
	*w.made = append(*w.made, obj)
}

// remove deletes objects when the operator has stopped, which would have much to
// say about each. Nobody works off their finalizers any more.
func remove(t *testing.T, objects []client.Object) {
	t.Helper()
	for _, obj := range objects {
		err := kube.Delete(context.Background(), obj, client.GracePeriodSeconds(0))
		if err == nil && slices.Contains(reconciled, obj.GetObjectKind().GroupVersionKind().Kind) {
			err = kube.Patch(context.Background(), obj, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))
		}
		if client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	}
}

// reconciled are the kinds to which the operator gives finalizers.
var reconciled = []string{"AuthorizationServer", "ClusterAuthorizationServer", "APIResource", "M2MClient"}

// fill puts values into a manifest.
func (w *world) fill(manifest string) string {
	for placeholder, value := range w.names {
		manifest = strings.ReplaceAll(manifest, placeholder, value)
	}
	return manifest
}

// plain removes from a message what differs from run to run, so that it reads
// like the documentation.
func (w *world) plain(message string) string {
	return strings.NewReplacer(
		w.base, "https://auth.example.com", strings.Replace(w.base, "http:", "https:", 1), "https://auth.example.com",
		w.names[paymentHost], paymentHost, w.names["$SHOP"], "shop", w.names["$PAYMENTS"], "payments", w.names["$CLUSTER"], "company",
		cmp.Or(w.names["$APP"], anApplication), anApplication,
	).Replace(message)
}

// setClient registers the cart's application with all scopes of the payment
// API, unless c says otherwise.
func (w *world) setClient(t *testing.T, c oidc.Client) {
	t.Helper()
	c.ID = "cart"
	if c.Scopes == nil {
		c.Scopes = map[string][]string{paymentAPI: {"payments:read", "payments:write"}}
	}
	scopes := map[string][]string{}
	for identifier, names := range c.Scopes {
		scopes[w.fill(identifier)] = names
	}
	c.Scopes = scopes
	if err := w.as.SetClient(c); err != nil {
		t.Fatal(err)
	}
}

// serverDown closes a situation's server and keeps its port. Another situation's
// server on that port would be mistaken for it, issuer and all.
func serverDown(t *testing.T, w *world) {
	t.Helper()
	address, err := netip.ParseAddrPort(strings.TrimPrefix(w.as.Issuer(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	w.as.Close()
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(socket) })
	// Bound but not listening: connections are refused.
	if err := syscall.Bind(socket, &syscall.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}); err != nil {
		t.Fatal(err)
	}
}

// TestConditions makes every mistake of the page that a condition reports, and
// compares the condition's message with the page.
func TestConditions(t *testing.T) {
	documented := map[string]row{}
	var ids []string
	for _, heading := range []string{"## Authorization servers", "## APIs", "## Clients", "## Provisioning"} {
		for _, r := range rowsOf(t, errorsPage, heading) {
			documented[r.id], ids = r, append(ids, r.id)
		}
	}
	maps.Copy(situations, provisioningSituations)
	// Istio's kinds are not installed.
	if _, err := envtest.InstallCRDs(restConfig, envtest.CRDInstallOptions{CRDs: kubetest.GatewayKinds()[:1]}); err != nil {
		t.Fatal(err)
	}
	sameSet(t, "mistake", ids, slices.Collect(maps.Keys(situations)))

	for name, strict := range map[string]bool{"with the flags for development": false, "without flags": true} {
		t.Run(name, func(t *testing.T) {
			o := controller.Options{Egress: egress.Policy{AllowHTTP: true, AllowLoopback: true}}
			if strict {
				o.Egress = egress.Policy{}
			}
			if !strict {
				o.Enforcement = []controller.Gateway{enforcement.EnvoyGateway, enforcement.Istio}
			}
			var made []client.Object
			t.Cleanup(func() { remove(t, made) })
			startOperator(t, o)
			// All at once, so that they take no longer than the slowest.
			all := map[string]*world{}
			for _, id := range ids {
				if s, ok := situations[id]; ok && s.strict == strict {
					all[id] = newWorld(t, id, s, &made)
				}
			}
			for _, id := range ids {
				if w, ok := all[id]; ok {
					t.Run(id, func(t *testing.T) {
						w.change(t, situations[id].later)
						if after := situations[id].after; after != nil {
							after(t, w)
						}
						w.expect(t, documented[id])
					})
				}
			}
		})
	}
}

// change patches objects of the story when its client is ready.
func (w *world) change(t *testing.T, patches map[string]string) {
	t.Helper()
	for name, patch := range patches {
		w.awaitCondition(t, "M2MClient", "Ready", "M2MClient Ready=True Ready: Every access has a token that works")
		obj := patched(t, w.fill(story[name]), "")
		encoded, err := json.Marshal(parse(t, w.fill(patch)))
		if err != nil {
			t.Fatal(err)
		}
		if err := kube.Patch(t.Context(), obj, client.RawPatch(types.MergePatchType, encoded)); err != nil {
			t.Fatal(err)
		}
	}
}

// expect waits for the condition of a row. Its cells are the mistake, the
// condition as `Kind Type=Status Reason`, and its message.
func (w *world) expect(t *testing.T, r row) {
	t.Helper()
	if len(r.cells) != 3 {
		t.Fatalf("the row has %d cells, want 4", len(r.cells)+1)
	}
	want := code(r.cells[1]) + ": " + code(r.cells[2])
	words := strings.Fields(code(r.cells[1]))
	if len(words) != 3 {
		t.Fatalf("%q is not a kind, a type with its status, and a reason", r.cells[1])
	}
	conditionType, _, _ := strings.Cut(words[1], "=")
	w.awaitCondition(t, words[0], conditionType, want)
}

// awaitCondition waits until a condition has the wanted content.
func (w *world) awaitCondition(t *testing.T, kind, conditionType, want string) {
	t.Helper()
	var got string
	deadline := time.Now().Add(30 * time.Second)
	for {
		got = w.condition(t, kind, conditionType)
		if says(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the condition says\n  %s\nthe page says\n  %s", got, want)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// condition returns a condition of the story's object of a kind, in the form of
// a row.
func (w *world) condition(t *testing.T, kind, conditionType string) string {
	t.Helper()
	name := map[string]types.NamespacedName{
		"AuthorizationServer": w.server,
		"APIResource":         {Namespace: w.names["$PAYMENTS"], Name: "payment-api"},
		"M2MClient":           {Namespace: w.names["$SHOP"], Name: "cart"},
	}[kind]
	return w.conditionOf(t, kind, conditionType, name)
}

func (w *world) conditionOf(t *testing.T, kind, conditionType string, name types.NamespacedName) string {
	t.Helper()
	obj := &unstructured.Unstructured{}
	obj.SetAPIVersion("m2m-operator.io/v1alpha1")
	obj.SetKind(kind)
	if err := kube.Get(t.Context(), name, obj); err != nil {
		t.Fatal(err)
	}
	var status struct {
		Conditions []metav1.Condition `json:"conditions"`
	}
	if err := decode(obj.Object["status"], &status); err != nil {
		t.Fatal(err)
	}
	c := meta.FindStatusCondition(status.Conditions, conditionType)
	if c == nil || c.ObservedGeneration != obj.GetGeneration() {
		return "nothing yet"
	}
	return fmt.Sprintf("%s %s=%s %s: %s", kind, c.Type, c.Status, c.Reason, w.plain(c.Message))
}

// says compares with the page, where an ellipsis stands for the rest.
func says(got, want string) bool {
	if start, cut := strings.CutSuffix(want, "…"); cut {
		return strings.HasPrefix(got, start)
	}
	return got == want
}
