// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"io"
	"net/http"
	"time"

	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/egress"
)

// lateTurn is how long a request waits whose turn has come while the budget is
// used up by those that took theirs late.
const lateTurn = 50 * time.Millisecond

// pacedTransport sends each request when the server's budget allows it. Token
// requests take from the same budget.
type pacedTransport struct {
	base   http.RoundTripper
	server serverKey
	rt     *serverRuntime
	budget v1alpha1.RequestBudget
	clock  clock.PassiveClock
}

// pace returns a client for provisioning requests to a server. The time that
// a request waits for its turn does not count against its time limit.
func (s *servers) pace(hc *http.Client, rt *serverRuntime, obj client.Object) *http.Client {
	return &http.Client{
		CheckRedirect: hc.CheckRedirect,
		Transport: &pacedTransport{
			base: hc.Transport, server: keyOfObject(obj), rt: rt, budget: specOf(obj).Requests, clock: s.clock,
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
	now := t.clock.Now()
	t.rt.mu.Lock()
	t.rt.setBudget(now, t.budget)
	delay := t.rt.limiter.ReserveN(now, 1).DelayFrom(now)
	t.rt.mu.Unlock()
	for {
		if err := sleep(ctx, t.clock, delay); err != nil {
			return err
		}
		t.rt.mu.Lock()
		ok := t.rt.sent.AllowN(t.clock.Now(), 1)
		t.rt.mu.Unlock()
		if ok {
			return nil
		}
		delay = lateTurn
	}
}

// sleep waits by a clock that can, such as the real one, and else by the real
// one.
func sleep(ctx context.Context, c clock.PassiveClock, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
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
