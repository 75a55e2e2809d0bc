// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/pace"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

// loop compares the objects of one kind with their servers when that is due, and
// removes there what a deleted or moved object leaves.
type loop struct {
	Config

	kind     string
	remover  *remover
	Wishes   *wishes
	requests *pace.Requests[types.NamespacedName] // of people who want an object compared now
}

func newLoop(c Config, kind string) loop {
	w := newWishes(c.Clock)
	return loop{Config: c, kind: kind, remover: newRemover(c, w), Wishes: w, requests: pace.NewRequests[types.NamespacedName]()}
}

// Compare requests a comparison of an object with its server, at most once per
// interval.
func (l *loop) Compare(o client.Object) { l.Wishes.compare(o) }

// subject is one object in one pass of the loop: what differs from kind to kind.
type subject interface {
	object() client.Object
	record() *v1alpha1.ProvisioningRecord // in the object's status

	// find returns the server that the object belongs to, and where it was
	// provisioned so far. Without a server it returns when to look again.
	find(ctx context.Context) (srv *rules.Server, at v1alpha1.ProvisioningServer, after time.Duration, err error)
	// hold adds the finalizer, before anything is created at the server.
	hold(ctx context.Context, srv *rules.Server) error
	// declare works out what the server should have. It returns false for nothing yet.
	declare(ctx context.Context, srv *rules.Server) (bool, error)
	// plan adds to a plan what was declared and what asks for a comparison.
	plan(*provision.Plan)

	// isCurrent reports whether what was read of the object is what the API server has now.
	isCurrent(context.Context) (bool, error)
	// drive makes the server have what was declared, and returns what it had to put
	// back.
	drive(ctx context.Context, d provision.Driver, keep provision.Keep, now time.Time) ([]provision.Drift, error)
	// keep puts the state into the status, which the loop then writes. What no status
	// may show, keep writes itself first.
	keep(context.Context) error
	// done is called when all is written. It tells what happened, and returns how long
	// the object rests.
	done(next provision.Plan, now time.Time) time.Duration

	// remove removes the object from where it was provisioned, or returns how long to
	// wait for that.
	remove(context.Context) (time.Duration, error)
	// reset empties the part of the status that record belongs to.
	reset()
}

// comparison is what a subject is compared with.
type comparison struct {
	server  *rules.Server
	driver  provision.Driver
	version string        // of the configuration that the driver was made from
	request string        // that the comparison handles
	later   time.Duration // how long a newer one has to wait, zero for none
	plan    provision.Plan
	now     time.Time
}

// behindWait is when a pass looks again whose cache is behind.
const behindWait = time.Second

// pass handles one object: wanted is false if it should have nothing at its server.
func (l *loop) pass(ctx context.Context, s subject, wanted bool) (ctrl.Result, error) {
	step := l.sync
	if !wanted {
		step = l.finish
	}
	after, err := step(ctx, s)
	return ctrl.Result{RequeueAfter: after}, client.IgnoreNotFound(err)
}

func (l *loop) sync(ctx context.Context, s subject) (time.Duration, error) {
	srv, at, after, err := s.find(ctx)
	if srv == nil || err != nil {
		return after, err
	}
	if rules.Driver(srv.Spec) == "" || !srv.Object.GetDeletionTimestamp().IsZero() {
		return 0, nil // nothing can be said, and nothing is taken away
	}
	if at.Name != "" && !record.IsAt(at, srv) {
		if after, err := l.moveAway(ctx, s); after > 0 || err != nil {
			return after, err
		}
	}
	if err := s.hold(ctx, srv); err != nil {
		return 0, err
	}
	driver, version, unusable, err := l.Servers.driver(ctx, srv.Object)
	if unusable != nil || err != nil {
		return 0, err // the server's own condition says so, and its change wakes this
	}
	if declared, err := s.declare(ctx, srv); !declared || err != nil {
		return 0, err
	}
	c := comparison{server: srv, driver: driver, version: version, now: l.Clock.Now()}
	l.request(s, &c)
	c.plan = l.plan(s, c)
	if wait := c.plan.Wait(c.now); wait > 0 {
		return refresh.Soonest(time.Millisecond, wait, c.later), l.observe(ctx, s, c.plan)
	}
	if current, err := s.isCurrent(ctx); !current || err != nil {
		return behindWait, err
	}
	exit, wait, busy := l.Servers.enter(srv.Object, s.object(), l.Wishes.wake)
	if busy != nil {
		return wait, nil
	}
	return l.apply(ctx, s, c, exit)
}

// request puts into a comparison the request that it handles, and how long a newer one has
// to wait.
func (l *loop) request(s subject, c *comparison) {
	name := client.ObjectKeyFromObject(s.object())
	c.request, c.later = l.requests.Current(name, v1alpha1.RefreshRequest(s.object()), s.record().LastHandledRefreshAt, c.now)
}

// plan returns when to compare an object, by what its status holds now. A request is one
// of the things that an attempt depends on: after a failure, a new one is handled at once.
func (l *loop) plan(s subject, c comparison) provision.Plan {
	p := planOf(s.record(), s.object().GetUID(), c.server)
	p.Requested = l.Wishes.Wanted(client.ObjectKeyFromObject(s.object())) || c.request != s.record().LastHandledRefreshAt
	s.plan(&p)
	p.Tries = provision.Hash(p.Wants, c.version)
	if c.request != "" {
		p.Tries = provision.Hash(p.Tries, c.request)
	}
	return p
}

// observe notes that a changed spec asks nothing else of the server.
func (l *loop) observe(ctx context.Context, s subject, plan provision.Plan) error {
	if !plan.Agrees() {
		return nil
	}
	before := copyOf(s.object())
	s.record().ObservedGeneration = before.GetGeneration()
	return l.write(ctx, before, s.object())
}

// apply makes the server have what is declared, and records how it went.
func (l *loop) apply(ctx context.Context, s subject, c comparison, exit func(context.Context, error)) (time.Duration, error) {
	keep := l.keeper(s, c.server)
	drift, failure := s.drive(ctx, c.driver, keep, c.now)
	exit(ctx, failure)
	if failure != nil && provision.KindOf(failure) == "" {
		return 0, failure
	}
	if len(drift) > 0 {
		l.Servers.drifted(c.server, len(drift))
		l.Events.Eventf(s.object(), nil, corev1.EventTypeWarning, v1alpha1.ReasonDriftCorrected, "Provision",
			"Put back at %s %q: %s", c.server.Key().Kind, c.server.Key().Name, strings.Join(record.StringsOf(drift), "; "))
	}
	st := s.record()
	st.LastHandledRefreshAt = c.request
	if failure != nil {
		st.Failure = failureAfter(c.plan, st.Failure, c.now, failure)
	} else {
		st.Failure, st.SyncedAt, st.Inputs, st.ObservedGeneration = v1alpha1.TokenFailure{}, record.Time(c.now), c.plan.Wants, s.object().GetGeneration()
	}
	if err := keep(ctx); err != nil {
		return 0, err
	}
	if failure == nil {
		l.Wishes.granted(client.ObjectKeyFromObject(s.object()))
	}
	return refresh.Soonest(time.Millisecond, max(time.Millisecond, s.done(l.plan(s, c), c.now)), c.later), nil
}

// keeper returns what a driver calls to have the state persisted before it goes on.
func (l *loop) keeper(s subject, srv *rules.Server) provision.Keep {
	written := copyOf(s.object())
	return func(ctx context.Context) error {
		s.record().Server = record.ServerOf(srv)
		if err := s.keep(ctx); err != nil {
			return err
		}
		if err := l.write(ctx, written, s.object()); err != nil {
			return err
		}
		written = copyOf(s.object())
		return nil
	}
}

// write writes the status of an object if it differs from what was there before.
func (l *loop) write(ctx context.Context, before, o client.Object) error {
	if equality.Semantic.DeepEqual(before, o) {
		return nil
	}
	return l.Client.Status().Patch(ctx, o, client.MergeFrom(before))
}

// finish removes what an object has at its server, and lets the object go.
func (l *loop) finish(ctx context.Context, s subject) (time.Duration, error) {
	l.forget(client.ObjectKeyFromObject(s.object()))
	if !controllerutil.ContainsFinalizer(s.object(), v1alpha1.ProvisioningFinalizer) {
		return 0, nil
	}
	if after, err := s.remove(ctx); after > 0 || err != nil {
		return after, err
	}
	return 0, write.Release(ctx, l.Client, s.object())
}

// moveAway removes an object from a server that it no longer belongs to.
func (l *loop) moveAway(ctx context.Context, s subject) (time.Duration, error) {
	if after, err := s.remove(ctx); after > 0 || err != nil {
		return after, err
	}
	return 0, l.reset(ctx, s)
}

// reset writes that an object has nothing at any server.
func (l *loop) reset(ctx context.Context, s subject) error {
	before := copyOf(s.object())
	s.reset()
	return l.write(ctx, before, s.object())
}

// removeAs runs a removal of what belongs to an object.
func (l *loop) removeAs(ctx context.Context, o client.Object, rm removal) (time.Duration, error) {
	owner, err := l.Servers.owner(ctx, l.kind, o)
	if err != nil {
		return 0, err
	}
	rm.kind, rm.object, rm.owner = l.kind, o, owner
	return l.remover.run(ctx, rm, l.Clock.Now())
}

// forget drops what is remembered of an object.
func (l *loop) forget(name types.NamespacedName) {
	l.Wishes.forget(name)
	l.requests.Forget(name)
}

func copyOf(o client.Object) client.Object { return o.DeepCopyObject().(client.Object) }
