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

// pacedTransport sends each request when its turn in the server's budget has
// come. Token requests take from the same budget: those that replace a token
// come first, and of the others the older ones.
type pacedTransport struct {
	base   http.RoundTripper
	server *rules.Server
	rt     *provisioningRuntime
	a      *Administration
}

// pace returns a client for provisioning requests to a server. The time that
// a request waits for its turn does not count against its time limit.
func (a *Administration) pace(hc *http.Client, rt *provisioningRuntime, obj client.Object) *http.Client {
	return &http.Client{
		CheckRedirect: hc.CheckRedirect,
		Transport: &pacedTransport{
			base: hc.Transport, server: rules.ServerOf(obj), rt: rt, a: a,
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
		t.observe(0)
		return nil, err
	}
	t.observe(resp.StatusCode)
	resp.Body = &timedBody{ReadCloser: resp.Body, cancel: cancel}
	return resp, nil
}

// observe counts a request. The series of a server that is gone were deleted.
func (t *pacedTransport) observe(status int) {
	if !t.a.Lives.IsGone(t.server.Object) {
		metrics.ObserveProvisioning(t.server.Key(), status)
	}
}

// wait returns when the request may be sent.
func (t *pacedTransport) wait(ctx context.Context) error {
	defer t.forgetIfGone()
	namespace, _ := ctx.Value(onBehalfOf{}).(string)
	t.rt.mu.Lock()
	t.rt.requests++
	number := strconv.FormatUint(t.rt.requests, 10)
	t.rt.mu.Unlock()
	n := traffic.Need{Asker: traffic.Asker{Tenant: namespace, Access: servers.Owner(t.server.Object) + "/" + number}, Since: t.a.Clock.Now()}
	err := ctx.Err()
	for err == nil {
		var delay time.Duration
		if delay, err = t.a.Admission.Turn(ctx, t.server, n); err != nil {
			break
		}
		if delay == 0 {
			return nil
		}
		err = sleep(ctx, t.a.Clock, min(delay, pacedSleep))
	}
	t.a.Admission.GiveUp(n)
	return err
}

// forgetIfGone forgets again who asked for a server that is gone: what it was left
// with is still removed.
func (t *pacedTransport) forgetIfGone() {
	if t.a.Lives.IsGone(t.server.Object) {
		t.a.Admission.Forget(t.server.Object)
		t.a.gate.Forget(servers.Owner(t.server.Object))
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
