// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// catchUp waits until the caches have everything that was written so far. Other runs write to the
// operator's namespace meanwhile.
func (r *run) catchUp() {
	r.t.Helper()
	for _, op := range r.instances() {
		if r.ctx.Err() != nil {
			return
		}
		if op == r.shard {
			r.shardCatchesUp()
		} else {
			op.CatchUp(r.all()...)
		}
		if r.lag.of("secrets") {
			continue
		}
		operator.Eventually(r.t, func() error {
			want, err := r.credentials(operator.Kube)
			if err != nil {
				return err
			}
			got, err := r.credentials(op.Client)
			if err != nil || !maps.Equal(want, got) {
				return fmt.Errorf("the cache has the credentials %v, not %v: %w", got, want, err)
			}
			return nil
		})
	}
}

// shardCatchesUp does that for an instance that caches only its own clients.
func (r *run) shardCatchesUp() {
	r.t.Helper()
	agrees := func(resource string, list client.ObjectList, opts ...client.ListOption) {
		r.t.Helper()
		if !r.lag.of(resource) {
			r.shard.Agrees(r.shard.Client, list, opts...)
		}
	}
	for _, ns := range []string{r.shop, r.payments} {
		in := client.InNamespace(ns)
		agrees("authorizationservers", &v1alpha1.AuthorizationServerList{}, in)
		agrees("apiresources", &v1alpha1.APIResourceList{}, in)
		agrees("m2mclients", &v1alpha1.M2MClientList{}, in, client.MatchingLabels{v1alpha1.ShardLabel: "a"})
		agrees("secrets", &corev1.SecretList{}, in, client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
	}
}

// credentials returns the versions of the run's Secrets in the operator's namespace.
func (r *run) credentials(from client.Reader) (map[string]string, error) {
	var secrets corev1.SecretList
	err := from.List(context.Background(), &secrets, client.InNamespace(operator.Namespace), client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
	versions := map[string]string{}
	for i := range secrets.Items {
		of, _, _ := strings.Cut(secrets.Items[i].Annotations[v1alpha1.OwnerAnnotation], "/")
		if slices.Contains(r.all(), of) {
			versions[secrets.Items[i].Name] = secrets.Items[i].ResourceVersion
		}
	}
	return versions, err
}

// round reconciles everything once, in the order in which things depend on each other.
func (r *run) round() {
	r.t.Helper()
	op := r.main
	r.each("server", op, &v1alpha1.AuthorizationServerList{}, op.AuthorizationServers[0].Reconcile)
	r.reconcileClusterServers(op)
	for _, api := range r.apis(op) {
		r.distribute(op, api)
	}
	r.each("provisioning of API", op, &v1alpha1.APIResourceList{}, op.APIProvisioning.Reconcile)
	for _, op := range r.instances() {
		of := ""
		if op == r.shard {
			of = "shard's "
			r.each("endpoints", op, &v1alpha1.AuthorizationServerList{}, op.Endpoints[0].Reconcile)
		}
		r.each(of+"provisioning of client", op, &v1alpha1.M2MClientList{}, op.ClientProvisioning.Reconcile)
		r.each(of+"client", op, &v1alpha1.M2MClientList{}, op.M2MClients.Reconcile)
		r.await(op, &v1alpha1.M2MClientList{})
	}
	if r.sharded {
		r.each("sharded client", op, &v1alpha1.M2MClientList{}, op.ShardedClients.Reconcile)
	}
	r.each("pod", op, watch.VerifierLists()[0], op.Pods.Reconcile)
}

// apis returns the APIs that there are or were: the event of its deletion leads to an API's bundles, too.
func (r *run) apis(op *operator.Operator) []types.NamespacedName {
	r.t.Helper()
	for _, api := range r.names("API", op, &v1alpha1.APIResourceList{}) {
		if !slices.Contains(r.known, api) {
			r.known = append(r.known, api)
		}
	}
	slices.SortFunc(r.known, func(a, b types.NamespacedName) int { return cmp.Compare(a.String(), b.String()) })
	return r.known
}

// distribute reconciles an API with its bundles and policies.
func (r *run) distribute(op *operator.Operator, api types.NamespacedName) {
	r.t.Helper()
	bundles := op.Bundles.Bundles(r.ctx, api)
	slices.SortFunc(bundles, func(a, b verification.Request) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	for _, b := range bundles {
		r.visit("bundle of "+b.API.String(), types.NamespacedName{Namespace: b.Namespace}, func(ctx context.Context) (ctrl.Result, error) { return op.Bundles.Reconcile(ctx, b) })
	}
	req := ctrl.Request{NamespacedName: api}
	r.visit("enforcement", api, func(ctx context.Context) (ctrl.Result, error) { return op.Enforcement.Reconcile(ctx, req) })
	r.await(op, &corev1.ConfigMapList{})
	r.visit("API", api, func(ctx context.Context) (ctrl.Result, error) { return op.APIResources.Reconcile(ctx, req) })
}

// await waits until the cache has an instance's own writes, which its lists do not wait for.
func (r *run) await(op *operator.Operator, list client.ObjectList) {
	if r.ctx.Err() == nil && r.lag == nil {
		_ = op.Client.List(r.ctx, list)
	}
}

// each reconciles every object of a kind, by name.
func (r *run) each(controller string, op *operator.Operator, list client.ObjectList, reconcile func(context.Context, ctrl.Request) (ctrl.Result, error)) {
	r.t.Helper()
	for _, n := range r.names(controller, op, list) {
		r.visit(controller, n, func(ctx context.Context) (ctrl.Result, error) { return reconcile(ctx, ctrl.Request{NamespacedName: n}) })
	}
}

// names returns the names of the objects of a kind that the operator knows, in order. A list waits for the
// operator's own writes, unless a watch lags behind.
func (r *run) names(controller string, op *operator.Operator, list client.ObjectList) (names []types.NamespacedName) {
	r.t.Helper()
	for _, ns := range r.all() {
		opts := []client.ListOption{client.InNamespace(ns)}
		if r.lag != nil {
			opts = append(opts, client.DisableReadYourWritesConsistency)
		}
		if err := op.Client.List(r.ctx, list, opts...); err != nil {
			if r.ctx.Err() != nil {
				return nil
			}
			r.t.Fatal(err)
		}
		objects, err := meta.ExtractList(list)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, o := range objects {
			names = append(names, client.ObjectKeyFromObject(o.(client.Object)))
		}
	}
	for what, f := range r.failures { // the queue tries again although the object may be gone
		if name, ok := strings.CutPrefix(what, controller+" "); ok && f.name.String() == name && !slices.Contains(names, f.name) {
			names = append(names, f.name)
		}
	}
	slices.SortFunc(names, func(a, b types.NamespacedName) int { return cmp.Compare(a.String(), b.String()) })
	return names
}
