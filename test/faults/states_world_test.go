// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// git is what somebody wants: manifests by kind, namespace and name, in which variables stand for what
// differs between two runs.
type git map[string]map[string]any

// parse reads the manifests of a scene.
func parse(t *testing.T, s *scene) git {
	t.Helper()
	g := git{}
	d := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(s.manifests), 4096)
	for {
		var o map[string]any
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return g
		}
		if err != nil {
			t.Fatal(err)
		}
		u := unstructured.Unstructured{Object: o}
		u.SetAPIVersion("v1")
		if u.GetKind() != "Secret" && u.GetKind() != "Pod" && u.GetKind() != "ConfigMap" {
			u.SetAPIVersion(v1alpha1.GroupVersion.String())
		}
		g[strings.Trim(fmt.Sprintf("%s %s/%s", u.GetKind(), u.GetNamespace(), u.GetName()), "/")] = u.Object
	}
}

// copy returns a copy that can be changed.
func (g git) copy() git {
	out := git{}
	for k, o := range g {
		out[k] = (&unstructured.Unstructured{Object: o}).DeepCopy().Object
	}
	return out
}

func (g git) text() string {
	b, err := json.Marshal(g)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// world is a run of a scene.
type world struct {
	*run
	scene   *scene
	values  *strings.Replacer
	want    git            // what is in Git now
	applied map[string]any // what was applied last, with values
	// stuck are objects of the former state that are still being deleted.
	stuck []string
}

// newWorld returns a world with an operator, and without objects.
func newWorld(t *testing.T, p *place, s *scene) *world {
	t.Helper()
	w := &world{run: newRun(t, p, s.scenario), scene: s, want: git{}, applied: map[string]any{}}
	w.log.decide() // the changes here do so
	names := []string{"$shop", w.shop, "$payments", w.payments, "$more", w.more[0]}
	values := s.prepare(w.run)
	for _, k := range slices.Sorted(maps.Keys(values)) {
		names = append(names, k, values[k])
	}
	w.values = strings.NewReplacer(names...)
	w.start()
	return w
}

// render replaces the variables of a manifest.
func (w *world) render(v any) any {
	switch v := v.(type) {
	case string:
		return w.values.Replace(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = w.render(v[i])
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for k := range v {
			out[w.values.Replace(k)] = w.render(v[k])
		}
		return out
	}
	return v
}

// apply makes the cluster have what is in Git. It returns what the API server says to a manifest that it refuses.
func (w *world) apply(g git) error {
	w.t.Helper()
	w.stuck = nil
	var refused error
	for _, key := range slices.Sorted(maps.Keys(w.applied)) {
		if g[key] == nil {
			u := &unstructured.Unstructured{Object: w.applied[key].(map[string]any)}
			w.retain(u)
			if err := operator.Kube.Delete(w.t.Context(), u.DeepCopy(), client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
				w.t.Fatal(err)
			}
			delete(w.applied, key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(g)) {
		manifest := w.render(g[key]).(map[string]any)
		if fmt.Sprint(w.applied[key]) == fmt.Sprint(manifest) {
			continue
		}
		switch err := w.put(manifest); {
		case errors.Is(err, errTerminates):
			w.stuck = append(w.stuck, key)
		case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
			refused = errors.Join(refused, fmt.Errorf("%s: %w", key, err))
		case err != nil:
			w.t.Fatalf("%s: %v", key, err)
		default:
			w.applied[key] = manifest
		}
	}
	if refused == nil {
		w.want = g
	}
	return refused
}

// retain notes what stays registered for a client that is about to be deleted, because its deletionPolicy says so.
func (w *world) retain(u *unstructured.Unstructured) {
	if policy, _, _ := unstructured.NestedString(u.Object, "spec", "deletionPolicy"); u.GetKind() == "M2MClient" && policy == string(v1alpha1.DeletionRetain) {
		w.stays(u)
	}
}

// stays notes that what is registered for a client stays.
func (w *world) stays(u *unstructured.Unstructured) {
	if w.AS == nil {
		return
	}
	for _, c := range w.AS.RegisteredClients() {
		if strings.HasPrefix(c.Name, u.GetNamespace()+"/"+u.GetName()+"@") {
			w.retained[c.ID] = true
		}
	}
}

// errTerminates is why an object cannot be created again yet.
var errTerminates = errors.New("the former object is still being deleted")

// put creates or changes one object.
func (w *world) put(manifest map[string]any) error {
	for {
		want := (&unstructured.Unstructured{Object: manifest}).DeepCopy()
		live := &unstructured.Unstructured{}
		live.SetGroupVersionKind(want.GroupVersionKind())
		err := operator.Kube.Get(w.t.Context(), client.ObjectKeyFromObject(want), live)
		if apierrors.IsNotFound(err) {
			return operator.Kube.Create(w.t.Context(), want)
		}
		if err != nil {
			return err
		}
		if live.GetDeletionTimestamp() != nil {
			return errTerminates
		}
		live.SetAnnotations(want.GetAnnotations())
		live.SetLabels(want.GetLabels())
		for _, field := range []string{"spec", "stringData"} {
			if v, ok := want.Object[field]; ok && live.GetKind() != "Pod" {
				live.Object[field] = v
			}
		}
		if err = operator.Kube.Update(w.t.Context(), live); !apierrors.IsConflict(err) {
			return err
		}
	}
}

// rest lets the operator do all that it has to, and objects be created again that had to go first. One whose server
// cannot be administered stays for as long as the operator waits for that.
func (w *world) rest() {
	w.t.Helper()
	w.settle(patience)
	if w.collect() || w.scene.registers {
		w.settle(patience) // together, that is longer than a replaced secret stays
	}
	for range 5 {
		if len(w.stuck) == 0 {
			return
		}
		if err := w.apply(w.want); err != nil {
			w.t.Fatal(err)
		}
		w.settle(patience)
	}
	if !w.unmanageable() {
		w.log.breach("%v are never deleted", w.stuck)
	}
}

// unmanageable reports whether a server's own administration does not work now.
func (w *world) unmanageable() bool {
	w.t.Helper()
	return slices.ContainsFunc(w.unknowns(), func(u string) bool { return strings.HasPrefix(u, "AuthorizationServer ") })
}

// collect deletes what belongs to an object that is gone, as Kubernetes' garbage collector does. It reports whether
// there was anything.
func (w *world) collect() (found bool) {
	w.t.Helper()
	all := w.objects()
	for _, u := range all {
		owner := metav1.GetControllerOf(u)
		if owner == nil || slices.ContainsFunc(all, func(o *unstructured.Unstructured) bool { return o.GetUID() == owner.UID }) {
			continue
		}
		found = true
		if err := operator.Kube.Delete(w.t.Context(), u); client.IgnoreNotFound(err) != nil {
			w.t.Fatal(err)
		}
	}
	return found
}

// afresh returns the end of a run that gets all manifests at once.
func afresh(t *testing.T, all places, s *scene, g git) (end ending) {
	t.Helper()
	within(t, all, s, func(w *world) {
		if err := w.apply(g); err != nil {
			t.Fatal(err)
		}
		w.rest()
		end = ending{w.end(), w.unknowns()}
	})
	return end
}

// within does something in a world, and cleans up.
func within(t *testing.T, all places, s *scene, do func(*world)) {
	t.Helper()
	p := <-all
	defer func() { all <- p }()
	w := newWorld(t, p, s)
	defer w.clean()
	defer w.stop()
	do(w)
}

// reconcileClusterServers reconciles the cluster-wide servers that have the run's name.
func (r *run) reconcileClusterServers(op *operator.Operator) {
	r.t.Helper()
	var list v1alpha1.ClusterAuthorizationServerList
	if err := op.Client.List(r.ctx, &list); err != nil {
		if r.ctx.Err() != nil {
			return
		}
		r.t.Fatal(err)
	}
	for i := range list.Items {
		if name := (types.NamespacedName{Name: list.Items[i].Name}); strings.HasSuffix(name.Name, "-"+r.shop) {
			r.visit("cluster-wide server", name, func(ctx context.Context) (ctrl.Result, error) {
				return op.AuthorizationServers[1].Reconcile(ctx, ctrl.Request{NamespacedName: name})
			})
		}
	}
}
