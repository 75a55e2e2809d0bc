// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"time"

	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/metrics"
	"github.com/m2m-operator/m2m-operator/internal/controller/servers"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/traffic"
)

// pacedSleep is the longest that a request sleeps before it asks again.
const pacedSleep = time.Second

// PacedTransport sends each request when its turn in the server's budget has
// come. Token requests take from the same budget: those that replace a token
// come first, and of the others the older ones.
type PacedTransport struct {
	base   http.RoundTripper
	Server *rules.Server
	rt     *provisioningRuntime
	A      *Administration
}

// pace returns a client for provisioning requests to a server. The time that
// a request waits for its turn does not count against its time limit.
func (a *Administration) pace(hc *http.Client, rt *provisioningRuntime, obj client.Object) *http.Client {
	return &http.Client{
		CheckRedirect: hc.CheckRedirect,
		Transport: &PacedTransport{
			base: hc.Transport, Server: rules.ServerOf(obj), rt: rt, A: a,
		},
	}
}

// RoundTrip implements http.RoundTripper.
func (t *PacedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
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
		t.Observe(0)
		return nil, err
	}
	t.Observe(resp.StatusCode)
	resp.Body = &timedBody{ReadCloser: resp.Body, cancel: cancel}
	return resp, nil
}

// Observe counts a request. The series of a server that is gone were deleted.
func (t *PacedTransport) Observe(status int) {
	if !t.A.Lives.IsGone(t.Server.Object) {
		metrics.ObserveProvisioning(t.Server.Key(), status)
	}
}

// wait returns when the request may be sent.
func (t *PacedTransport) wait(ctx context.Context) error {
	defer t.forgetIfGone()
	namespace, _ := ctx.Value(onBehalfOf{}).(string)
	t.rt.mu.Lock()
	t.rt.requests++
	number := strconv.FormatUint(t.rt.requests, 10)
	t.rt.mu.Unlock()
	n := traffic.Need{Asker: traffic.Asker{Tenant: namespace, Access: servers.Owner(t.Server.Object) + "/" + number}, Since: t.A.Clock.Now()}
	err := ctx.Err()
	for err == nil {
		var delay time.Duration
		if delay, err = t.A.Admission.Turn(ctx, t.Server, n); err != nil {
			break
		}
		if delay == 0 {
			return nil
		}
		err = sleep(ctx, t.A.Clock, min(delay, pacedSleep))
	}
	t.A.Admission.GiveUp(n)
	return err
}

// forgetIfGone forgets again who asked for a server that is gone: what it was left
// with is still removed.
func (t *PacedTransport) forgetIfGone() {
	if t.A.Lives.IsGone(t.Server.Object) {
		t.A.Admission.Forget(t.Server.Object)
		t.A.gate.Forget(servers.Owner(t.Server.Object))
	}
}

// onBehalfOf is the key of the namespace for whose object a request is made.
type onBehalfOf struct{}

// forNamespace has the requests that are made with a context take their turns among
// those of a namespace. A driver serves many at once.
func forNamespace(ctx context.Context, namespace string) context.Context {
	return context.WithValue(ctx, onBehalfOf{}, namespace)
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
