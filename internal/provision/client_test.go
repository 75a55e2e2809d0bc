// SPDX-License-Identifier: Apache-2.0

package provision_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// The operator dies at every boundary of a story with everything in it, and goes on from what it had recorded.
func TestSyncClientKilledAnywhere(t *testing.T) {
	story := func(o *operator) (killed bool) {
		until := func(call func() error) {
			o.t.Helper()
			for range 5 {
				err := call()
				if err == nil {
					return
				}
				if !errors.Is(err, errKilled) {
					o.t.Fatal(err)
				}
				killed = true
			}
			o.t.Fatal("killed again and again")
		}
		sync := func() { o.t.Helper(); until(func() error { _, err := o.sync(); return err }) }
		sync()
		o.rotation.Request = "a"
		sync()
		o.rotation.Request = "b"
		sync()
		o.rotation.Request = "c"
		sync()
		sync()
		if s := o.state(); s.Current() == nil || s.Rotation != "c" || len(s.Credentials) > 3 {
			o.t.Errorf("state %+v", s)
		}
		o.after(10 * time.Minute)
		sync()
		if s := o.state(); len(s.Credentials) != 1 || s.Current() == nil || len(o.server.secrets) != 1 ||
			o.server.secrets[s.Current().Name] != s.Current().Secret.Reveal() {
			o.t.Errorf("state %+v, secrets %v", s, o.server.secrets)
		}
		if o.server.most > 3 {
			o.t.Errorf("%d secrets at once", o.server.most)
		}
		until(func() error {
			state := o.state()
			return provision.RemoveClient(context.Background(), o.server, o.want, state, o.keep(state))
		})
		if diff := cmp.Diff(&provision.ClientState{}, o.state()); diff != "" {
			o.t.Errorf("state after removal (-want +got):\n%s", diff)
		}
		return killed
	}
	whole := newOperator(t)
	story(whole)
	if whole.server.issued != 4 {
		t.Errorf("%d secrets issued, want 4", whole.server.issued)
	}
	for n := 1; n <= whole.server.steps; n++ {
		for _, lost := range []bool{true, false} {
			t.Run(fmt.Sprintf("step %d lost %t", n, lost), func(t *testing.T) {
				o := newOperator(t)
				o.server.killAt, o.server.lost = n, lost
				if !story(o) {
					t.Error("was not killed")
				}
				if o.server.issued != 4 {
					t.Errorf("%d secrets issued, want 4", o.server.issued)
				}
			})
		}
	}
}

func TestRemoveClient(t *testing.T) {
	o := newOperator(t)
	o.mustSync("issue 1", "probe 1")
	state := o.state()
	state.LeftBehind = []string{"a registration"}
	o.server.refuse["remove"] = unavailable
	if err := provision.RemoveClient(context.Background(), o.server, o.want, state, o.keep(state)); !errors.Is(err, unavailable) {
		t.Errorf("error %v", err)
	}
	if state.ID == "" {
		t.Error("forgot what was not removed")
	}
	clear(o.server.refuse)
	if err := provision.RemoveClient(context.Background(), o.server, o.want, state, o.keep(state)); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(&provision.ClientState{LeftBehind: []string{"a registration"}}, o.state()); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
}

func TestRotateAt(t *testing.T) {
	state := &provision.ClientState{}
	if at := provision.RotateAt(state, provision.Rotation{Every: time.Hour}); !at.IsZero() {
		t.Errorf("without a credential: %s", at)
	}
	state.Credentials = []provision.Credential{
		{Stage: provision.Retiring, IssuedAt: noon.Add(-time.Hour)},
		{Stage: provision.Current, IssuedAt: noon},
	}
	if at := provision.RotateAt(state, provision.Rotation{}); !at.IsZero() {
		t.Errorf("without rotation: %s", at)
	}
	if at := provision.RotateAt(state, provision.Rotation{Every: time.Hour}); !at.Equal(noon.Add(time.Hour)) {
		t.Errorf("with rotation: %s", at)
	}
}
