// SPDX-License-Identifier: Apache-2.0

package m2mclient_test

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/recorder"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// reminders records the events about clients that last, and passes on all.
type reminders struct {
	recorder.EventRecorder
	reasons []string
}

// Eventf records an event.
func (r *reminders) Eventf(regarding, related runtime.Object, eventType, reason, action, note string, args ...any) {
	if action == "Remind" {
		r.reasons = append(r.reasons, reason)
	}
	r.EventRecorder.Eventf(regarding, related, eventType, reason, action, note, args...)
}

// TestAFailingRefreshIsTold lets a refresh fail for hours, over a restart in the middle.
func TestAFailingRefreshIsTold(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	told := &reminders{EventRecorder: op.M2MClients.Events}
	op.M2MClients.Events = told
	lines := func(what string) (n int) {
		for line := range strings.SplitSeq(operator.Logs.String(), "\n") {
			if strings.Contains(line, what) && strings.Contains(line, `"namespace":"`+s.Shop+`"`) && strings.Contains(line, `"name":"cart"`) {
				n++
			}
		}
		return n
	}
	s.AS.SetFault(oidc.Token, operator.Answer(400, `{"error":"invalid_scope"}`))
	s.Due()
	s.Settle()
	if n := lines("Began to fail"); n != 1 {
		t.Errorf("%d lines say that the client began to fail, want 1", n)
	}
	s.Until(op.Clock.Now().Add(3 * time.Hour))
	// The transition time is the API machinery's own, before the clock of the test: the moments
	// after 10 and 30 minutes may be over. Each hour, there is one.
	if n := len(told.reasons); n < 3 || n > 5 {
		t.Errorf("%d reminders in three hours: %q", n, told.reasons)
	}
	for _, reason := range told.reasons {
		if reason != v1alpha1.ReasonTokenRequestRefused {
			t.Errorf("a reminder of %s", reason)
		}
	}

	// A restart tells nothing by itself.
	op.Stop()
	next := operator.StartStepped(t, func(o *controller.Options) { o.Clock = clocktesting.NewFakePassiveClock(op.Clock.Now()) })
	next.Clock.SetTime(op.Clock.Now())
	again := &reminders{EventRecorder: next.M2MClients.Events}
	next.M2MClients.Events = again
	began := lines("Began to fail")
	next.Settle(s.Payments, s.Shop)
	if len(again.reasons) != 0 || lines("Began to fail") != began {
		t.Errorf("a restart told of a failure that lasts: %q", again.reasons)
	}

	s.AS.ClearFaults()
	s.Op = next
	request(t, s.Cart, "1")
	s.Settle()
	if n := lines("Recovered"); n != 1 {
		t.Errorf("%d lines say that the client recovered, want 1", n)
	}
}
