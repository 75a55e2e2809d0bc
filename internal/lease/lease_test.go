// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
)

// TestNew makes locks without any request to the API server.
func TestNew(t *testing.T) {
	sound := Config{Namespace: "m2m-operator-system", Name: "m2m-operator", Duration: 15 * time.Second, RenewDeadline: 10 * time.Second}
	for name, tc := range map[string]struct {
		rest  rest.Config
		lease Config
		want  string // in the error
	}{
		"sound":                     {rest.Config{Host: "127.0.0.1"}, sound, ""},
		"no client for events":      {rest.Config{Host: "127.0.0.1", TLSClientConfig: rest.TLSClientConfig{CAFile: "nowhere"}}, sound, "events of the leader election"},
		"no name of a Lease object": {rest.Config{Host: "127.0.0.1"}, Config{Namespace: sound.Namespace}, "lock of the leader election"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := New(&tc.rest, runtime.NewScheme(), tc.lease)
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("error %v, want one about the %s", err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, want := l.Describe(), "m2m-operator-system/m2m-operator"; got != want || l.duration != tc.lease.Duration {
				t.Errorf("the lease %s lasts %s; want %s, %s", got, l.duration, want, tc.lease.Duration)
			}
		})
	}
}

// lock is a lock that takes a while for each write.
type lock struct {
	resourcelock.Interface
	record resourcelock.LeaderElectionRecord
	takes  time.Duration
	err    error
}

func (l *lock) Create(_ context.Context, r resourcelock.LeaderElectionRecord) error {
	time.Sleep(l.takes)
	if l.err == nil {
		l.record = r
	}
	return l.err
}

func (l *lock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.Create(ctx, r)
}

var mine, nobody = resourcelock.LeaderElectionRecord{HolderIdentity: "me"}, resourcelock.LeaderElectionRecord{}

// TestALeaseEnds lets an instance lead, and ends that in each possible way.
func TestALeaseEnds(t *testing.T) {
	for name, tc := range map[string]struct {
		do    func(*Lease, *lock) error
		err   error
		ended bool
	}{
		"never led": {do: func(*Lease, *lock) error { time.Sleep(time.Hour); return nil }},
		"got the lease": {do: func(l *Lease, _ *lock) error {
			err := l.Create(t.Context(), mine)
			time.Sleep(9 * time.Second)
			return err
		}},
		"took it over": {do: func(l *Lease, _ *lock) error {
			err := l.Update(t.Context(), mine)
			time.Sleep(9 * time.Second)
			return err
		}},
		"did not get it": {do: func(l *Lease, o *lock) error { o.err = errLost; return l.Create(t.Context(), mine) }, err: errLost},
		"stopped for longer": {do: func(l *Lease, _ *lock) error {
			err := l.Create(t.Context(), mine)
			time.Sleep(10 * time.Second)
			return err
		}, ended: true},
		"slow answer": {do: func(l *Lease, o *lock) error {
			o.takes = 4 * time.Second
			err := l.Create(t.Context(), mine)
			time.Sleep(6 * time.Second)
			return err
		}, ended: true},
		"renewed": {do: func(l *Lease, _ *lock) error {
			err := l.Create(t.Context(), mine)
			time.Sleep(9 * time.Second)
			err = errors.Join(err, l.Update(t.Context(), mine))
			time.Sleep(9 * time.Second)
			return err
		}},
		"failed to renew": {do: func(l *Lease, o *lock) error {
			err := l.Create(t.Context(), mine)
			time.Sleep(9 * time.Second)
			o.err = errLost
			if errors.Is(l.Update(t.Context(), mine), errLost) {
				time.Sleep(time.Second)
			}
			return err
		}, ended: true},
		"released": {do: func(l *Lease, _ *lock) error {
			return errors.Join(l.Create(t.Context(), mine), l.Update(t.Context(), nobody))
		}, ended: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &lock{}
				l := &Lease{Interface: o, duration: 10 * time.Second, clock: clock.RealClock{}}
				if err := tc.do(l, o); !errors.Is(err, tc.err) {
					t.Fatalf("error %v, want %v", err, tc.err)
				}
				if err := l.Err(); errors.Is(err, ErrEnded) != tc.ended {
					t.Errorf("Err() = %v, want an end: %t", err, tc.ended)
				}
			})
		})
	}
}

var errLost = errors.New("somebody else was first")

// TestALeaseThatEndedIsNotReleased lets the elector give up a lease that another instance has taken.
func TestALeaseThatEndedIsNotReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &lock{}
		l := &Lease{Interface: o, duration: 10 * time.Second, clock: clock.RealClock{}}
		if err := l.Create(t.Context(), mine); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		o.record.HolderIdentity = "another"
		if err := l.Update(t.Context(), nobody); !errors.Is(err, ErrEnded) {
			t.Errorf("error %v, want %v", err, ErrEnded)
		}
		if o.record.HolderIdentity != "another" {
			t.Errorf("the lease of another instance is %q's", o.record.HolderIdentity)
		}
	})
}

// body is a request's body.
type body struct {
	strings.Reader
	closed bool
}

func (b *body) Close() error { b.closed = true; return nil }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// TestGuard sends requests before and after the end of a lease.
func TestGuard(t *testing.T) {
	for _, ended := range []bool{false, true} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			now, sent := clocktesting.NewFakePassiveClock(time.Unix(0, 0)), 0
			l := &Lease{duration: time.Second, clock: now, end: now.Now().Add(time.Second)}
			if ended {
				now.SetTime(l.end)
			}
			next := roundTripper(func(*http.Request) (*http.Response, error) { sent++; return &http.Response{Body: http.NoBody}, nil })
			b := &body{}
			req, err := http.NewRequestWithContext(t.Context(), method, "http://127.0.0.1", b)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := l.Guard(next).RoundTrip(req)
			if err == nil {
				_ = resp.Body.Close()
			}
			refused := ended && method != http.MethodGet
			if (sent == 0) != refused || errors.Is(err, ErrEnded) != refused || b.closed != refused {
				t.Errorf("%s, lease ended %t: sent %d, error %v, body closed %t", method, ended, sent, err, b.closed)
			}
		}
	}
}
