// SPDX-License-Identifier: Apache-2.0

package gitops_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// place is one world of many beside each other: the namespaces of an API and of a client,
// and the parts of a story in the order in which a person would apply them.
type place struct {
	name           string // the order in which the parts are applied
	payments, shop string
	parts          [][]client.Object
	order          []int
	tokens         func() int // how many tokens were requested for it
}

// permutations returns all orders of n things. The first is the sorted one.
func permutations(n int) (all [][]int) {
	if n == 0 {
		return [][]int{nil}
	}
	for _, rest := range permutations(n - 1) {
		for at := len(rest); at >= 0; at-- {
			all = append(all, slices.Insert(slices.Clone(rest), at, n-1))
		}
	}
	return all
}

// ordersOf returns orders of n things, the sorted one first, so that each thing comes at least once after each
// set of the others: a quarter of all orders. M2M_ORDERS=all takes all of them.
func ordersOf(n int) (chosen [][]int) {
	if os.Getenv("M2M_ORDERS") == "all" {
		return permutations(n)
	}
	type arrival struct{ there, next int }
	met := map[arrival]bool{}
	for most := n; most > 0; most-- { // first those with the most arrivals that no other order had
		for _, order := range permutations(n) {
			there, fresh := 0, []arrival{}
			for _, next := range order {
				if a := (arrival{there, next}); !met[a] {
					fresh = append(fresh, a)
				}
				there |= 1 << next
			}
			if len(fresh) >= most {
				chosen = append(chosen, order)
				for _, a := range fresh {
					met[a] = true
				}
			}
		}
	}
	return chosen
}

// together is how many more places get all their parts at once.
const together = 12

// TestAnyOrderConverges applies the parts of the story in many orders or all of them, and lets the
// operator finish after each part. It also applies them all at once, as a tool without an order does.
// Every place must end in the same state, after no more tokens than the sorted order needs.
//
// It also collects the reasons for which anything was not ready on the way. The health checks
// for Argo CD and Flux must not take them for failures: see testdata/passing.yaml.
func TestAnyOrderConverges(t *testing.T) {
	passing := collectReasons(t)
	operator.CreateNamespace(t)
	provisioned, logto := provisionedPlaces(t)
	operator.Start(t)
	for _, part := range provisioned[0].parts { // the sorted order, to count what it costs
		operator.Create(t, part...)
		comesToRest(t)
	}
	operator.Eventually(t, func() error { return provisioned[0].ready(t) })
	cost := logto.Requests()
	logto.ResetRequests()

	places := slices.Concat(storyPlaces(t), provisioned)
	var ordered, atOnce []*place
	for _, p := range places {
		if p == provisioned[0] {
			continue
		}
		if p.order == nil {
			atOnce = append(atOnce, p)
		} else {
			ordered = append(ordered, p)
		}
	}
	for step := range 5 {
		each(ordered, func(p *place) {
			if step < len(p.order) {
				operator.Create(t, p.parts[p.order[step]]...)
			}
		})
		comesToRest(t)
	}
	each(atOnce, func(p *place) {
		each(p.parts, func(part []client.Object) { operator.Create(t, part...) })
	})
	comesToRest(t)

	want := map[int]string{} // by the number of parts
	for _, p := range places {
		operator.Eventually(t, func() error { return p.ready(t) })
		n := len(p.parts)
		got := p.end(t)
		if want[n] == "" {
			want[n] = got // of the sorted order
		}
		if diff := cmp.Diff(want[n], got); diff != "" {
			t.Errorf("order %s ends differently from the sorted one (-sorted +this):\n%s", p.name, diff)
		}
		if n := p.tokens(); n != 1 {
			t.Errorf("order %s: %d tokens were requested, want 1", p.name, n)
		}
	}
	for request, n := range logto.Requests() {
		if want := cost[request] * (len(provisioned) - 1); strings.HasPrefix(request, "POST") && n != want {
			t.Errorf("%d of %s, want %d: as many for each order as for the sorted one", n, request, want)
		}
	}
	compareReasons(t, passing())
}

// each calls a function for all elements, a few at a time.
func each[T any](all []T, do func(T)) {
	var group sync.WaitGroup
	turns := make(chan struct{}, 16)
	for _, one := range all {
		turns <- struct{}{}
		group.Go(func() {
			defer func() { <-turns }()
			do(one)
		})
	}
	group.Wait()
}

// comesToRest waits until the operator has nothing to do for a while.
func comesToRest(t *testing.T) {
	t.Helper()
	idle := 0
	// Reading all metrics takes a while, so do it rarely.
	kubetest.Every(t, 100*time.Millisecond, time.Minute, func() error {
		if err := operator.Idle(t, operator.EveryController...); err != nil {
			idle = 0
			return err
		}
		if idle++; idle < 4 { // an event may be on its way
			return fmt.Errorf("idle %d times", idle)
		}
		return nil
	})
}

// storyPlaces returns a place for each order of the story at a server that only issues
// tokens. All have one server, and each has its own API and application.
func storyPlaces(t *testing.T) (places []*place) {
	t.Helper()
	as, err := oidc.Start(oidc.Options{TokenLifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(as.Close)
	orders := append(ordersOf(5), make([][]int, together)...)
	for i, order := range orders {
		w := &operator.World{T: t, AS: as, Shop: fmt.Sprintf("shop-o%d", i), Payments: fmt.Sprintf("payments-o%d", i)}
		identifier, id, secret := fmt.Sprintf("https://payment-%d.example.com/api", i), fmt.Sprintf("cart-%d", i), operator.NewSecret()
		as.SetResource(identifier, "payments:read", "payments:write")
		err := as.SetClient(oidc.Client{ID: id, Secret: secret, Method: oidc.SecretBasic, Scopes: map[string][]string{identifier: {"payments:write"}}})
		if err != nil {
			t.Fatal(err)
		}
		api := w.API()
		api.Spec.Identifier = v1alpha1.ResourceIdentifier(identifier)
		places = append(places, &place{
			name: fmt.Sprint("of the story ", order), payments: w.Payments, shop: w.Shop, order: order,
			parts: [][]client.Object{
				{w.Server(w.Payments), w.Server(w.Shop)},
				{api},
				{w.Secret("cart-credentials", id, secret)},
				{w.Cart()},
				{operator.AnnotatedPod(w.Payments, "payment", v1alpha1.VerifyAnnotation, "payment-api")},
			},
			tokens: func() int { return w.RequestsOf(id) },
		})
	}
	createNamespaces(t, places)
	return places
}

// provisionedPlaces returns a place for each order of the story at a Logto, where the
// operator registers everything.
func provisionedPlaces(t *testing.T) (places []*place, logto *logtotest.Server) {
	t.Helper()
	logto, err := logtotest.Start(logtotest.WithHTTP(), logtotest.WithSecretPrefix(operator.Sentinel))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(logto.Close)
	for i, order := range append(ordersOf(4), make([][]int, together/3)...) {
		w := &operator.Tenant{T: t, Logto: logto, Shop: fmt.Sprintf("shop-p%d", i), Payments: fmt.Sprintf("payments-p%d", i)}
		server := w.Server()
		server.Spec.Provisioning.ResyncInterval = "1h"
		places = append(places, &place{
			name: fmt.Sprint("of the provisioned story ", order), payments: w.Payments, shop: w.Shop, order: order,
			parts:  [][]client.Object{{w.Management()}, {server}, {w.API()}, {w.Cart()}},
			tokens: func() int { return 1 }, // Logto's are counted together
		})
	}
	createNamespaces(t, places)
	return places, logto
}

func createNamespaces(t *testing.T, places []*place) {
	t.Helper()
	each(places, func(p *place) {
		for _, ns := range []string{p.payments, p.shop} {
			operator.Create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
		}
	})
}

// lists are the kinds whose end states are compared.
func lists() []client.ObjectList {
	return []client.ObjectList{
		&v1alpha1.AuthorizationServerList{}, &v1alpha1.APIResourceList{}, &v1alpha1.M2MClientList{},
		&corev1.SecretList{}, &corev1.ConfigMapList{}, &corev1.PodList{},
	}
}

// ready returns an error while an object of a place is not ready.
func (p *place) ready(t *testing.T) error {
	t.Helper()
	for _, ns := range []string{p.payments, p.shop} {
		for _, list := range lists()[:3] {
			if err := operator.Kube.List(t.Context(), list, client.InNamespace(ns)); err != nil {
				return err
			}
			err := meta.EachListItem(list, func(o runtime.Object) error {
				obj := o.(client.Object)
				if !operator.ConditionIs(obj, v1alpha1.ConditionReady, metav1.ConditionTrue) {
					return fmt.Errorf("order %s: %T %s/%s: %+v", p.name, obj, ns, obj.GetName(), operator.ConditionsOf(obj))
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// What differs between places: numbers in names, hashes, and everything that is random.
var (
	numbered       = regexp.MustCompile(`(payment|payments|shop|cart)-(?:[op])?\d+`)
	credentialName = regexp.MustCompile(`m2m-operator-[a-z0-9]{16}-1`)
	personal       = append(slices.Clone(random), "applicationID", "clientID", "roleID", "grantID", "ownerReferences", "resourceID", "id")
)

// end returns the state of a place, without what differs between places.
func (p *place) end(t *testing.T) string {
	t.Helper()
	var all []string
	for _, ns := range []string{p.payments, p.shop} {
		for _, list := range lists() {
			if err := operator.Kube.List(t.Context(), list, client.InNamespace(ns)); err != nil {
				t.Fatal(err)
			}
			err := meta.EachListItem(list, func(o runtime.Object) error {
				all = append(all, ended(t, o))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return strings.Join(all, "---\n")
}

func ended(t *testing.T, o runtime.Object) string {
	t.Helper()
	switch x := o.(type) {
	case *corev1.Secret: // its data is random: the names count
		for k := range x.Data {
			x.Data[k] = []byte("…")
		}
		keysOnly(x.Annotations)
	case *corev1.ConfigMap:
		keysOnly(x.Data)
		keysOnly(x.Annotations)
	}
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	forget(v, personal...)
	inOrder(v)
	out, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	text := credentialName.ReplaceAllString(moment.ReplaceAllString(string(out), "a time"), "m2m-operator-…")
	return fmt.Sprintf("# %T\n%s", o, numbered.ReplaceAllString(text, "$1"))
}

// inOrder sorts the conditions of an object, which are in the order of their first writing.
func inOrder(o map[string]any) {
	status, _ := o["status"].(map[string]any)
	conditions, _ := status["conditions"].([]any)
	slices.SortFunc(conditions, func(a, b any) int {
		return strings.Compare(fmt.Sprint(a.(map[string]any)["type"]), fmt.Sprint(b.(map[string]any)["type"]))
	})
}

func keysOnly(m map[string]string) {
	for k := range m {
		m[k] = "…"
	}
}

// passingFile lists the reasons for which objects are not ready while others are applied.
const passingFile = "testdata/passing.yaml"

// collectReasons watches all objects, and returns the reasons for which one of them was not
// ready, by kind.
func collectReasons(t *testing.T) (seen func() map[string][]string) {
	t.Helper()
	watcher, err := client.NewWithWatch(operator.RESTConfig, client.Options{Scheme: controller.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	reasons := map[string]map[string]bool{}
	note := func(obj client.Object) {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range operator.ConditionsOf(obj) {
			if c.Type == v1alpha1.ConditionReady && c.Status == metav1.ConditionFalse {
				kind := strings.TrimPrefix(fmt.Sprintf("%T", obj), "*v1alpha1.")
				if reasons[kind] == nil {
					reasons[kind] = map[string]bool{}
				}
				reasons[kind][c.Reason] = true
			}
		}
	}
	for _, list := range lists()[:3] {
		w, err := watcher.Watch(t.Context(), list)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
		go func() {
			for event := range w.ResultChan() {
				if obj, ok := event.Object.(client.Object); ok && event.Type != watch.Deleted {
					note(obj)
				}
			}
		}()
	}
	return func() map[string][]string {
		mu.Lock()
		defer mu.Unlock()
		sorted := map[string][]string{}
		for kind, of := range reasons {
			sorted[kind] = slices.Sorted(maps.Keys(of))
		}
		return sorted
	}
}

// compareReasons fails if a reason is not in the file. A reason in the file need not occur
// each time: some depend on who is quicker.
func compareReasons(t *testing.T, seen map[string][]string) {
	t.Helper()
	file := filepath.FromSlash(passingFile)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		b, err := yaml.Marshal(seen)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var known map[string][]string
	if err := yaml.Unmarshal(b, &known); err != nil {
		t.Fatal(err)
	}
	for kind, reasons := range seen {
		for _, r := range reasons {
			if !slices.Contains(known[kind], r) {
				t.Errorf("a %s was not ready because of %s while the others were applied: add it to %s, so that no tool takes it for a failure", kind, r, passingFile)
			}
		}
	}
}
