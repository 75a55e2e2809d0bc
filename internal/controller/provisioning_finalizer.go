// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/recorder"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

const (
	defaultDeletionTimeout = 5 * time.Minute

	// serverGrace is how long a deleted server waits for the deletion of what
	// was provisioned at it: whoever deletes everything deletes it in any order.
	serverGrace = 30 * time.Second

	// maxMoving is how many objects that move to another server may wait for the one
	// that they leave. Of those that went meanwhile nobody tells.
	maxMoving = 1 << 16

	// maxLeftBehind is the bound of status.leftBehind.
	maxLeftBehind = 64
)

// hold puts the finalizer on an object before something of it exists at its
// server.
func hold(ctx context.Context, c client.Client, o client.Object) error {
	return setFinalizer(ctx, c, o, true)
}

// holdServer keeps the server that something is made at.
func holdServer(ctx context.Context, c client.Client, s *rules.Server) error {
	return hold(ctx, c, s.Object.DeepCopyObject().(client.Object))
}

// release lets an object go.
func release(ctx context.Context, c client.Client, o client.Object) error {
	return client.IgnoreNotFound(setFinalizer(ctx, c, o, false))
}

func setFinalizer(ctx context.Context, c client.Client, o client.Object, on bool) error {
	before := o.DeepCopyObject().(client.Object)
	changed := false
	if on {
		changed = controllerutil.AddFinalizer(o, v1alpha1.ProvisioningFinalizer)
	} else {
		changed = controllerutil.RemoveFinalizer(o, v1alpha1.ProvisioningFinalizer)
	}
	if !changed {
		return nil
	}
	// The list is replaced as a whole: another's finalizer must not be lost.
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if isCut(before) {
		patch = finalizerPatch(before, on)
	}
	if err := c.Patch(ctx, o, patch); err != nil {
		return fmt.Errorf("change the finalizers of %q: %w", client.ObjectKeyFromObject(o), err)
	}
	return nil
}

// finalizerPatch adds the finalizer to a list that the cache has left out, or removes
// it from there.
func finalizerPatch(cached client.Object, on bool) client.Patch {
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value string `json:"value,omitempty"`
	}
	const list = "/metadata/finalizers/"
	operations := []operation{{"replace", "/metadata/resourceVersion", cached.GetResourceVersion()}}
	if on {
		operations = append(operations, operation{"add", list + "-", v1alpha1.ProvisioningFinalizer})
	} else {
		at := list + cached.GetAnnotations()[cutMark]
		operations = append(operations, operation{"test", at, v1alpha1.ProvisioningFinalizer}, operation{Op: "remove", Path: at})
	}
	encoded, err := json.Marshal(operations)
	if err != nil {
		panic(err) // strings only
	}
	return client.RawPatch(types.JSONPatchType, encoded)
}

// removal is an attempt to remove at a server what a deleted object has there.
type removal struct {
	kind   string // of the object
	object client.Object
	server v1alpha1.ProvisioningServer
	what   string // what is there, for whoever has to clean up by hand
	must   bool   // nothing waits for it, and it is not given up while its server is there
	remove func(context.Context, provision.Driver) error
}

// remover removes, waits a bounded time for a server that does not let it, and
// then says what was left behind.
type remover struct {
	client  client.Client
	servers *administration
	timeout time.Duration
	wake    chan<- event.GenericEvent
	since   *lru.Cache // from the UID of an object that is not deleted to when it was first tried
	events  recorder.EventRecorder
}

func newRemover(c provisionerConfig, w *wishes) *remover {
	return &remover{since: lru.New(maxMoving), client: c.client, servers: c.servers, timeout: c.deletionTimeout, wake: w.wake, events: c.events}
}

// run returns zero when the object can be let go, else how long to wait.
func (r *remover) run(ctx context.Context, rm removal, now time.Time) (time.Duration, error) {
	key := keyOfProvisioning(rm.server)
	obj := key.Object()
	err := r.client.Get(ctx, client.ObjectKeyFromObject(obj), obj)
	if client.IgnoreNotFound(err) != nil {
		return 0, fmt.Errorf("get %s: %w", key, err)
	}
	exists := err == nil && specOf(obj).Issuer == rm.server.Issuer
	var driver provision.Driver
	why := &rules.Problem{Reason: v1alpha1.ReasonAuthorizationServerNotFound, Message: fmt.Sprintf("%s %q does not exist any more", key.Kind, key.Name)}
	if exists && driverOf(specOf(obj)) != rm.server.Driver {
		why = &rules.Problem{Reason: v1alpha1.ReasonProvisioningNotConfigured, Message: fmt.Sprintf("%s %q is not provisioned by %s any more", key.Kind, key.Name, rm.server.Driver)}
	} else if exists {
		if driver, _, why, err = r.servers.driver(ctx, obj); err != nil {
			return 0, err
		}
	}
	if driver == nil {
		driver = r.servers.lastDriver(rm.server)
	}
	if driver != nil {
		queued, err := r.attempt(ctx, rm, obj, exists, driver)
		if queued > 0 {
			return queued, nil // others are served first: that is no reason to give up
		}
		if err == nil {
			r.since.Remove(rm.object.GetUID())
			return 0, nil
		}
		var e *provision.Error
		if ctx.Err() != nil || !errors.As(err, &e) {
			return 0, err
		}
		why = provisioningProblem(err)
	}
	retry := refresh.Between(string(rm.object.GetUID()), 4*time.Second, 8*time.Second)
	if rm.must && exists && why.Reason != v1alpha1.ReasonProvisioningNotConfigured {
		log.FromContext(ctx).V(1).Info("Waits to withdraw what was provisioned", "reason", why.Reason)
		return retry, nil
	}
	if waited := now.Sub(r.begun(rm.object, now)); waited < r.timeout {
		log.FromContext(ctx).V(1).Info("Waits to remove what was provisioned", "reason", why.Reason)
		return min(retry, r.timeout-waited), nil
	}
	r.since.Remove(rm.object.GetUID())
	return 0, r.giveUp(ctx, rm, obj, exists, why, now)
}

// begun returns since when an object waits: its deletion, or for one that moves
// to another server the first attempt of this process.
func (r *remover) begun(o client.Object, now time.Time) time.Time {
	if deleted := o.GetDeletionTimestamp(); deleted != nil {
		return deleted.Time
	}
	if first, ok := r.since.Get(o.GetUID()); ok {
		return first.(time.Time)
	}
	r.since.Add(o.GetUID(), now)
	return now
}

// attempt removes, or returns how long to wait for its turn.
func (r *remover) attempt(ctx context.Context, rm removal, obj client.Object, exists bool, driver provision.Driver) (queued time.Duration, err error) {
	if !exists {
		return 0, rm.remove(ctx, driver)
	}
	leave, wait, busy := r.servers.enter(obj, rm.object, r.wake)
	switch {
	case busy != nil && busy.Reason == v1alpha1.ReasonWaitingForBudget:
		return wait, nil
	case busy != nil:
		return 0, &provision.Error{Kind: provision.Unavailable, Message: busy.Message}
	}
	err = rm.remove(ctx, driver)
	leave(ctx, err)
	return 0, err
}

// giveUp says that something remains: in an event of the object, in a metric,
// and in the status of the server, where it can be read later.
func (r *remover) giveUp(ctx context.Context, rm removal, obj client.Object, exists bool, why *rules.Problem, now time.Time) error {
	r.events.Eventf(rm.object, nil, corev1.EventTypeWarning, v1alpha1.ReasonLeftBehind, "Provision", "Gave up removing what was provisioned at %s %q: %s. Left behind: %s",
		rm.server.Kind, rm.server.Name, why.Message, rm.what)
	observeLeftBehind(rm.kind)
	log.FromContext(ctx).Info("Left behind what was provisioned", "server", keyOfProvisioning(rm.server).String(), "what", rm.what, "reason", why.Reason)
	if !exists {
		return nil
	}
	return r.record(ctx, obj, leftBehind(rm.kind, rm.object, rm.what, now))
}

func leftBehind(kind string, o client.Object, what string, now time.Time) v1alpha1.LeftBehind {
	return v1alpha1.LeftBehind{
		Kind: kind, Namespace: v1alpha1.NamespaceName(o.GetNamespace()), Name: v1alpha1.ObjectName(o.GetName()),
		What: truncate(what, 1024), Since: timeOf(now),
	}
}

// list writes into a server's status what may remain there of an object that
// goes, and whose own status goes with it.
func (r *remover) list(ctx context.Context, kind string, o client.Object, at v1alpha1.ProvisioningServer, lines []string, now time.Time) error {
	if len(lines) == 0 {
		return nil
	}
	obj := keyOfProvisioning(at).Object()
	if err := r.client.Get(ctx, client.ObjectKeyFromObject(obj), obj); err != nil {
		return client.IgnoreNotFound(err)
	}
	var all []v1alpha1.LeftBehind
	for _, l := range lines {
		left := leftBehind(kind, o, l, now)
		listed := func(other v1alpha1.LeftBehind) bool {
			other.Since = left.Since
			return other == left
		}
		if !slices.ContainsFunc(statusOf(obj).LeftBehind, listed) { // by a pass that was cut off
			all = append(all, left)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return r.record(ctx, obj, all...)
}

func (r *remover) record(ctx context.Context, obj client.Object, left ...v1alpha1.LeftBehind) error {
	before := obj.DeepCopyObject().(client.Object)
	status := statusOf(obj)
	status.LeftBehind = append(status.LeftBehind, left...)
	status.LeftBehind = status.LeftBehind[max(0, len(status.LeftBehind)-maxLeftBehind):]
	err := r.client.Status().Patch(ctx, obj, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// describe lists what is there, with the server's identifiers.
func describe(parts ...string) string {
	var known []string
	for i := 0; i+1 < len(parts); i += 2 {
		if parts[i+1] != "" {
			known = append(known, parts[i]+" "+parts[i+1])
		}
	}
	if len(known) == 0 {
		return "perhaps what was being created"
	}
	return strings.Join(known, ", ")
}

// release lets a deleted server go when nothing of what was provisioned at it
// waits to be removed any more. What is not being deleted itself keeps it for a
// moment only.
func (r *AuthorizationServerReconciler) release(ctx context.Context, obj client.Object) (time.Duration, error) {
	if !controllerutil.ContainsFinalizer(obj, v1alpha1.ProvisioningFinalizer) {
		return 0, nil
	}
	held, deleting, err := r.provisionedAt(ctx, rules.ServerKeyOf(obj))
	if err != nil {
		return 0, err
	}
	waited := r.clock.Now().Sub(obj.GetDeletionTimestamp().Time)
	// Those who are deleted give up by themselves after their own time.
	if deleting || held && waited < serverGrace {
		return 2 * time.Second, nil
	}
	return 0, release(ctx, r.client, obj)
}

// provisionedAt reports whether something is held that was provisioned at a server,
// and whether some of it is being deleted.
func (r *AuthorizationServerReconciler) provisionedAt(ctx context.Context, key rules.ServerKey) (held, deleting bool, err error) {
	var apis v1alpha1.APIResourceList
	var clients v1alpha1.M2MClientList
	for _, list := range []client.ObjectList{&apis, &clients} {
		if err := r.client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return false, false, fmt.Errorf("list what was provisioned at %s: %w", key, err)
		}
	}
	note := func(o client.Object, at v1alpha1.ProvisioningServer) {
		if controllerutil.ContainsFinalizer(o, v1alpha1.ProvisioningFinalizer) && keyOfProvisioning(at) == key {
			held = true
			deleting = deleting || !o.GetDeletionTimestamp().IsZero()
		}
	}
	for i := range apis.Items {
		note(&apis.Items[i], apis.Items[i].Status.Provisioning.Server)
	}
	for i := range clients.Items {
		note(&clients.Items[i], clients.Items[i].Status.Provisioning.Server)
	}
	return held, deleting, nil
}
