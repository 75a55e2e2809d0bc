// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/recorder"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/metrics"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

const (
	// DefaultDeletionTimeout is how long a deleted object is held at most until what
	// was provisioned for it is removed, if no other time is configured.
	DefaultDeletionTimeout = 5 * time.Minute

	// maxMoving bounds the objects that wait for a server while they move to another one.
	// Nobody reports those that are deleted meanwhile.
	maxMoving = 1 << 16

	// maxLeftBehind is the bound of status.leftBehind.
	maxLeftBehind = 64
)

// removal is an attempt to remove at a server what a deleted object has there.
type removal struct {
	kind   string // of the object
	object client.Object
	owner  provision.Owner // of what is there
	server v1alpha1.ProvisioningServer
	what   string // what is there, for whoever has to clean up by hand
	must   bool   // nothing waits for it, and it is not given up while its server is there
	remove func(context.Context, provision.Driver, provision.Owner) error
}

// keepNothing is a provision.Keep for removals: a second attempt finds what the first
// one left.
func keepNothing(context.Context) error { return nil }

// remover removes, waits a bounded time for a server that does not let it, and
// then says what was left behind.
type remover struct {
	client  client.Client
	servers *Administration
	timeout time.Duration
	wake    chan<- event.GenericEvent
	since   *lru.Cache // from the UID of an object that is not deleted to when it was first tried
	events  recorder.EventRecorder
}

func newRemover(c Config, w *wishes) *remover {
	return &remover{since: lru.New(maxMoving), client: c.Client, servers: c.Servers, timeout: c.DeletionTimeout, wake: w.wake, events: c.Events}
}

// run returns zero when the object can be let go, else how long to wait.
func (r *remover) run(ctx context.Context, rm removal, now time.Time) (time.Duration, error) {
	key := record.KeyOf(rm.server)
	obj := key.Object()
	err := r.client.Get(ctx, client.ObjectKeyFromObject(obj), obj)
	if client.IgnoreNotFound(err) != nil {
		return 0, fmt.Errorf("get %s: %w", key, err)
	}
	exists := err == nil && record.SpecOf(obj).Issuer == rm.server.Issuer
	var driver provision.Driver
	why := &rules.Problem{Reason: v1alpha1.ReasonAuthorizationServerNotFound, Message: fmt.Sprintf("%s %q no longer exists", key.Kind, key.Name)}
	if exists && rules.Driver(record.SpecOf(obj)) != rm.server.Driver {
		why = &rules.Problem{Reason: v1alpha1.ReasonProvisioningNotConfigured, Message: fmt.Sprintf("%s %q is no longer provisioned by %s", key.Kind, key.Name, rm.server.Driver)}
	} else if exists {
		if driver, _, why, err = r.servers.driver(ctx, obj); err != nil {
			return 0, err
		}
	}
	if driver == nil {
		driver = r.servers.lastDriver(rm.server)
	}
	if driver == nil && exists && rm.server.Driver == v1alpha1.DriverDynamicRegistration {
		if driver, err = r.servers.unregistrar(ctx, obj); err != nil {
			return 0, err
		}
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
		return 0, rm.remove(ctx, driver, rm.owner)
	}
	exit, wait, busy := r.servers.enter(obj, rm.object, r.wake)
	switch {
	case busy != nil && busy.Reason == v1alpha1.ReasonWaitingForBudget:
		return wait, nil
	case busy != nil:
		return 0, &provision.Error{Kind: provision.Unavailable, Message: busy.Message}
	}
	err = rm.remove(ctx, driver, rm.owner)
	exit(ctx, err)
	return 0, err
}

// giveUp says that something remains: in an event of the object, in a metric,
// and in the status of the server, where it can be read later.
func (r *remover) giveUp(ctx context.Context, rm removal, obj client.Object, exists bool, why *rules.Problem, now time.Time) error {
	r.events.Eventf(rm.object, nil, corev1.EventTypeWarning, v1alpha1.ReasonLeftBehind, "Provision", "Gave up removing what was provisioned at %s %q: %s. Left behind: %s",
		rm.server.Kind, rm.server.Name, why.Message, rm.what)
	metrics.ObserveLeftBehind(rm.kind)
	log.FromContext(ctx).Info("Left behind what was provisioned", "server", record.KeyOf(rm.server).String(), "what", rm.what, "reason", why.Reason)
	if !exists {
		return nil
	}
	return r.record(ctx, obj, leftBehind(rm.kind, rm.object, rm.what, now))
}

func leftBehind(kind string, o client.Object, what string, now time.Time) v1alpha1.LeftBehind {
	return v1alpha1.LeftBehind{
		Kind: kind, Namespace: v1alpha1.NamespaceName(o.GetNamespace()), Name: v1alpha1.ObjectName(o.GetName()),
		What: text.CutRunes(what, 1024), Since: record.Time(now),
	}
}

// list writes into a server's status what may remain there of an object that
// goes, and whose own status goes with it.
func (r *remover) list(ctx context.Context, kind string, o client.Object, at v1alpha1.ProvisioningServer, lines []string, now time.Time) error {
	if len(lines) == 0 {
		return nil
	}
	obj := record.KeyOf(at).Object()
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
		if !slices.ContainsFunc(record.StatusOf(obj).LeftBehind, listed) { // by a pass that was cut off
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
	status := record.StatusOf(obj)
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
		return "perhaps an object whose creation was not confirmed"
	}
	return strings.Join(known, ", ")
}
