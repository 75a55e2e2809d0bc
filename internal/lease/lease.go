// SPDX-License-Identifier: Apache-2.0

// Package lease keeps an instance from acting once its time as the leader has run out. A
// leader that was stopped for a while, by its node or by SIGSTOP, goes on where it was and
// takes a moment to notice that another instance leads. In that moment the two would replace
// each other's tokens as fast as the server issues them.
package lease

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/leaderelection"
	"sigs.k8s.io/controller-runtime/pkg/recorder"
)

// ErrEnded is the error of what an instance must not do because its lease has ended.
var ErrEnded = errors.New("this instance's lease has ended: another one may lead")

// Config configures New.
type Config struct {
	// Namespace and Name are those of the Lease object.
	Namespace, Name string
	// Duration is how long the others wait after they last saw the leader renew its lease.
	Duration time.Duration
	// RenewDeadline is how long the leader tries to renew its lease.
	RenewDeadline time.Duration
}

// Lease is the lock of a leader election, and remembers how long this instance leads at
// least. It is safe for concurrent use.
type Lease struct {
	resourcelock.Interface

	duration time.Duration
	clock    clock.PassiveClock

	mu  sync.Mutex
	end time.Time // zero: this instance has never led
}

// New returns a lease that is kept in a Lease object.
func New(config *rest.Config, scheme *runtime.Scheme, c Config) (*Lease, error) {
	core, err := corev1client.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client for the events of the leader election: %w", err)
	}
	lock, err := leaderelection.NewResourceLock(config, eventsOf{core, scheme}, leaderelection.Options{
		LeaderElection: true, LeaderElectionNamespace: c.Namespace, LeaderElectionID: c.Name, RenewDeadline: c.RenewDeadline,
	})
	if err != nil {
		return nil, fmt.Errorf("make the lock of the leader election: %w", err)
	}
	return &Lease{Interface: lock, duration: c.Duration, clock: clock.RealClock{}}, nil
}

// Create implements resourcelock.Interface.
func (l *Lease) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.write(ctx, r, l.Interface.Create)
}

// Update implements resourcelock.Interface. An instance whose lease has ended does not release
// it, because the elector releases the lease of whoever has it by then.
func (l *Lease) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	if r.HolderIdentity == "" {
		if err := l.Err(); err != nil {
			return err
		}
	}
	return l.write(ctx, r, l.Interface.Update)
}

// write writes a record. The lease runs from the moment before, because nobody who waits for
// its end can have seen the record earlier.
func (l *Lease) write(ctx context.Context, r resourcelock.LeaderElectionRecord, do func(context.Context, resourcelock.LeaderElectionRecord) error) error {
	end := l.clock.Now()
	if err := do(ctx, r); err != nil {
		return err
	}
	if r.HolderIdentity != "" {
		end = end.Add(l.duration)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = end
	return nil
}

// Err returns ErrEnded once this instance has led and its lease has ended, otherwise nil.
func (l *Lease) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end.IsZero() || l.clock.Now().Before(l.end) {
		return nil
	}
	return ErrEnded
}

// Guard returns a transport that sends requests that change something only while Err returns nil.
func (l *Lease) Guard(next http.RoundTripper) http.RoundTripper {
	return guard{l, next}
}

type guard struct {
	lease *Lease
	next  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodGet {
		return g.next.RoundTrip(req)
	}
	if err := g.lease.Err(); err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // a RoundTripper closes the body, on errors too
		}
		return nil, err
	}
	return g.next.RoundTrip(req)
}

// WrappedRoundTripper returns the transport below, as client-go expects of a wrapper.
func (g guard) WrappedRoundTripper() http.RoundTripper { return g.next }

// eventsOf makes the recorder of a lock's events.
type eventsOf struct {
	core   corev1client.EventsGetter
	scheme *runtime.Scheme
}

// GetEventRecorderFor implements recorder.Provider.
func (e eventsOf) GetEventRecorderFor(name string) record.EventRecorder {
	b := record.NewBroadcaster()
	b.StartRecordingToSink(&corev1client.EventSinkImpl{Interface: e.core.Events("")})
	return b.NewRecorder(e.scheme, corev1.EventSource{Component: name})
}

// GetEventRecorder implements recorder.Provider. A lock does not call it.
func (eventsOf) GetEventRecorder(string) recorder.EventRecorder { return nil }
