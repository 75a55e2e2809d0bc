// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"time"

	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/egress"
)

// pacedSleep is the longest that a request sleeps before it asks again.
const pacedSleep = time.Second

// pacedTransport sends each request when its turn in the server's budget has
// come. Token requests take from the same budget: those that replace a token
// come first, and of the others the older ones.
type pacedTransport struct {
	base    http.RoundTripper
	server  serverKey
	budget  v1alpha1.RequestBudget
	rt      *serverRuntime
	servers *servers
}

// pace returns a client for provisioning requests to a server. The time that
// a request waits for its turn does not count against its time limit.
func (s *servers) pace(hc *http.Client, rt *serverRuntime, obj client.Object) *http.Client {
	return &http.Client{
		CheckRedirect: hc.CheckRedirect,
		Transport: &pacedTransport{
			base: hc.Transport, server: keyOfObject(obj), budget: specOf(obj).Requests, rt: rt, servers: s,
		},
	}
}

// RoundTrip implements http.RoundTripper.
func (t *pacedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.wait(req.Context()); err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	ctx, cancel := context.WithTimeout(req.Context(), egress.Timeout)
	resp, err := t.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel()
		observeProvisioning(t.server, 0)
		return nil, err
	}
	observeProvisioning(t.server, resp.StatusCode)
	resp.Body = &timedBody{ReadCloser: resp.Body, cancel: cancel}
	return resp, nil
}

// wait returns when the request may be sent.
func (t *pacedTransport) wait(ctx context.Context) error {
	t.rt.mu.Lock()
	t.rt.requests++
	n := need{asker: asker{access: strconv.FormatUint(t.rt.requests, 10)}, since: t.servers.clock.Now()}
	t.rt.mu.Unlock()
	err := ctx.Err()
	for err == nil {
		delay := t.turn(n)
		if delay == 0 {
			return nil
		}
		err = sleep(ctx, t.servers.clock, delay)
	}
	t.rt.mu.Lock()
	defer t.rt.mu.Unlock()
	t.rt.turns.leave(n)
	return err
}

// turn takes from the budget, or returns how long to wait.
func (t *pacedTransport) turn(n need) (wait time.Duration) {
	limit, burst := t.servers.budget(t.budget)
	now := t.servers.clock.Now()
	t.rt.mu.Lock()
	defer t.rt.mu.Unlock()
	t.rt.turns.setBudget(now, limit, burst)
	at, ahead := t.rt.turns.ask(now, n)
	if t.rt.inFlight >= t.servers.inFlightMax {
		ahead = 0 // token requests wait for each other; what they cannot use is free
	}
	if wait = t.rt.turns.until(now, ahead); wait == 0 {
		t.rt.turns.take(now, at)
		return 0
	}
	wait = min(wait, pacedSleep)
	t.rt.turns.tell(at, now.Add(wait))
	return wait
}

// sleep waits by a clock that can, such as the real one, and else by the real
// one.
func sleep(ctx context.Context, c clock.PassiveClock, d time.Duration) error {
	waits, ok := c.(clock.Clock)
	if !ok {
		waits = clock.RealClock{}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-waits.After(d):
		return nil
	}
}

// timedBody ends a request's time limit with its body.
type timedBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (b *timedBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
