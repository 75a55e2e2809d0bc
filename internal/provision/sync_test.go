// SPDX-License-Identifier: Apache-2.0

package provision_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/provision"
)

var noon = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

// memory is a server with secrets and its driver in one. It counts requests, and at one of them the operator dies:
// before the server did it, or after.
type memory struct {
	secrets map[string]string // name → value
	issued  int
	life    time.Duration
	now     time.Time
	refuse  map[string]error // "issue", "revoke", "sync" or "probe" → error
	calls   []string
	steps   int
	killAt  int // 0 for never; the steps count from 1
	lost    bool
	most    int // the most secrets there ever were
}

var errKilled = errors.New("killed")

// step is a boundary at which the operator can die: do is what happens outside of it.
func (m *memory) step(what string, do func() error) error {
	m.steps++
	if m.steps == m.killAt && m.lost {
		return errKilled
	}
	m.calls = append(m.calls, what)
	err := do()
	m.most = max(m.most, len(m.secrets))
	if m.steps == m.killAt {
		return errKilled
	}
	return err
}

func (m *memory) Check(context.Context) error { return nil }
func (m *memory) SyncAPI(context.Context, provision.API, *provision.APIState, provision.Keep) ([]provision.Drift, error) {
	return nil, nil
}
func (m *memory) RemoveAPI(context.Context, provision.API, *provision.APIState, provision.Keep) error {
	return nil
}

func (m *memory) SyncClient(_ context.Context, want provision.Client, state *provision.ClientState, _ provision.Keep) ([]provision.Drift, error) {
	return nil, m.step("sync", func() error {
		if err := m.refuse["sync"]; err != nil {
			return err
		}
		state.ID, state.Access = "app", want.Access
		named := func(name string) bool {
			return slices.ContainsFunc(state.Credentials, func(c provision.Credential) bool { return c.Name == name })
		}
		for name := range m.secrets {
			if !named(name) {
				delete(m.secrets, name)
			}
		}
		state.Credentials = slices.DeleteFunc(state.Credentials, func(c provision.Credential) bool {
			return c.Stage != provision.Issuing && m.secrets[c.Name] == ""
		})
		return nil
	})
}

func (m *memory) RemoveClient(_ context.Context, _ provision.Client, state *provision.ClientState, _ provision.Keep) error {
	return m.step("remove", func() error {
		clear(m.secrets)
		return m.refuse["remove"]
	})
}

func (m *memory) Issue(_ context.Context, _ provision.Client, state *provision.ClientState, c *provision.Credential) error {
	return m.step("issue "+number(c.Name), func() error {
		if err := m.refuse["issue"]; err != nil {
			return err
		}
		if m.secrets[c.Name] == "" {
			if c.Attempted {
				m.calls = append(m.calls, "(again)")
			}
			m.issued++
			m.secrets[c.Name] = fmt.Sprintf("value %d", m.issued)
		}
		c.ClientID, c.Secret = "app", provision.Sensitive(m.secrets[c.Name])
		if m.life > 0 {
			c.ExpiresAt = m.now.Add(m.life)
		}
		return nil
	})
}

func (m *memory) Revoke(_ context.Context, _ provision.Client, _ *provision.ClientState, c *provision.Credential) error {
	return m.step("revoke "+number(c.Name), func() error {
		if err := m.refuse["revoke"]; err != nil {
			return err
		}
		delete(m.secrets, c.Name)
		return nil
	})
}

func (m *memory) probe(_ context.Context, _ *provision.ClientState, c *provision.Credential) error {
	return m.step("probe "+number(c.Name), func() error {
		if err := m.refuse["probe"]; err != nil {
			return err
		}
		if m.secrets[c.Name] != c.Secret.Reveal() {
			return &provision.Error{Kind: provision.Refused, Message: "no such secret"}
		}
		return nil
	})
}

// number is what comes behind the prefix of a credential's name, m2m-operator-ID-.
func number(name string) string { return strings.SplitN(name, "-", 4)[3] }

// operator calls SyncClient. It keeps its state as JSON, and reads it again for each call.
type operator struct {
	t        *testing.T
	server   *memory
	stored   []byte
	want     provision.Client
	rotation provision.Rotation
	next     time.Time
}

func newOperator(t *testing.T) *operator {
	return &operator{
		t:      t,
		server: &memory{secrets: map[string]string{}, refuse: map[string]error{}, now: noon},
		stored: []byte("{}"),
		want: provision.Client{
			Owner:  provision.Owner{Cluster: "c1", Kind: "M2MClient", Namespace: "shop", Name: "cart", UID: "u1"},
			Access: []provision.Access{{Resource: "https://payment.example.com", Scopes: []string{"read"}}},
		},
		rotation: provision.Rotation{Overlap: 10 * time.Minute},
	}
}

func (o *operator) state() *provision.ClientState {
	o.t.Helper()
	var state provision.ClientState
	if err := json.Unmarshal(o.stored, &state); err != nil {
		o.t.Fatal(err)
	}
	return &state
}

func (o *operator) keep(state *provision.ClientState) provision.Keep {
	return func(context.Context) error {
		return o.server.step("keep", func() (err error) {
			if err := o.server.refuse["keep"]; err != nil {
				return err
			}
			o.stored, err = json.Marshal(state)
			return err
		})
	}
}

// sync is one call, with what was asked of the server in it.
func (o *operator) sync() ([]string, error) {
	o.t.Helper()
	o.server.calls = nil
	state := o.state()
	_, next, err := provision.SyncClient(context.Background(), o.server, o.want, state, o.rotation, o.keep(state), o.server.probe, o.server.now)
	o.next = next
	return slices.DeleteFunc(o.server.calls, func(s string) bool { return s == "keep" || s == "sync" }), err
}

func (o *operator) mustSync(want ...string) {
	o.t.Helper()
	got, err := o.sync()
	if err != nil {
		o.t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Join(want, ", "), strings.Join(got, ", ")); diff != "" {
		o.t.Fatalf("requests (-want +got):\n%s", diff)
	}
}

func (o *operator) mustFail(want ...string) {
	o.t.Helper()
	got, err := o.sync()
	if err == nil {
		o.t.Fatal("no error")
	}
	if diff := cmp.Diff(strings.Join(want, ", "), strings.Join(got, ", ")); diff != "" {
		o.t.Fatalf("requests (-want +got):\n%s", diff)
	}
}

// has checks the stages of the credentials, and that the server has exactly those.
func (o *operator) has(want string) {
	o.t.Helper()
	var stages, names []string
	for _, c := range o.state().Credentials {
		stages = append(stages, number(c.Name)+" "+string(c.Stage))
		if o.server.secrets[c.Name] != "" {
			names = append(names, c.Name)
		} else if c.Stage != provision.Issuing {
			o.t.Errorf("the server lacks %s", c.Name)
		}
	}
	if diff := cmp.Diff(want, strings.Join(stages, ", ")); diff != "" {
		o.t.Errorf("credentials (-want +got):\n%s", diff)
	}
	if len(names) != len(o.server.secrets) {
		o.t.Errorf("the server has %d secrets, the state %d of them", len(o.server.secrets), len(names))
	}
}

func (o *operator) nextIs(want time.Time) {
	o.t.Helper()
	if !o.next.Equal(want) {
		o.t.Errorf("next step at %s, want %s", o.next, want)
	}
	if again := provision.NextStep(o.want, o.state(), o.rotation); !again.Equal(want) {
		o.t.Errorf("next step by the state at %s, want %s", again, want)
	}
}

func (o *operator) after(d time.Duration) { o.server.now = o.server.now.Add(d) }

var (
	refused     = &provision.Error{Kind: provision.Refused, Message: "refused"}
	unavailable = &provision.Error{Kind: provision.Unavailable, Message: "unavailable"}
)

func TestSyncClientCredentials(t *testing.T) {
	for name, story := range map[string]func(*operator){
		"a credential is issued, tried, and then left alone": func(o *operator) {
			o.mustSync("issue 1", "probe 1")
			o.has("1 Current")
			o.nextIs(time.Time{})
			o.mustSync()
			if got := o.state(); got.ID != "app" || got.Current().Secret != "value 1" || !got.Current().IssuedAt.Equal(noon) {
				o.t.Errorf("state %+v", got)
			}
		},
		"rotation by age: the old one retires, and is revoked after the overlap": func(o *operator) {
			o.rotation.Every = time.Hour
			o.mustSync("issue 1", "probe 1")
			o.nextIs(noon.Add(time.Hour))
			o.after(time.Hour - time.Second)
			o.mustSync()
			o.after(time.Second)
			o.mustSync("issue 2", "probe 2")
			o.has("1 Retiring, 2 Current")
			o.nextIs(noon.Add(time.Hour + 10*time.Minute))
			o.after(10 * time.Minute)
			o.mustSync("revoke 1")
			o.has("2 Current")
			o.nextIs(noon.Add(2 * time.Hour))
		},
		"without an overlap the old one goes at once, but only after the new one is recorded": func(o *operator) {
			o.mustSync("issue 1", "probe 1")
			o.rotation = provision.Rotation{Request: "now"}
			o.mustSync("issue 2", "probe 2", "revoke 1")
			o.has("2 Current")
		},
		"a request is answered once, also after it was withdrawn and made again": func(o *operator) {
			o.rotation.Request = "before the first"
			o.mustSync("issue 1", "probe 1")
			o.mustSync()
			o.rotation.Request = "now"
			o.mustSync("issue 2", "probe 2")
			o.rotation.Request = ""
			o.mustSync()
			o.rotation.Every = time.Hour
			o.after(time.Hour)
			o.mustSync("revoke 1", "issue 3", "probe 3")
			o.rotation.Request = "now"
			o.mustSync()
			o.rotation.Request = "again"
			o.mustSync("issue 4", "probe 4")
		},
		"a request while a new one waits to be tried replaces that one": func(o *operator) {
			o.mustSync("issue 1", "probe 1")
			o.server.refuse["probe"] = unavailable
			o.rotation.Request = "first"
			o.mustFail("issue 2", "probe 2")
			o.has("1 Current, 2 Pending")
			o.rotation.Request = "second"
			delete(o.server.refuse, "probe")
			o.mustSync("revoke 2", "issue 3", "probe 3")
			o.has("1 Retiring, 3 Current")
			o.mustSync()
		},
		"a request while a new one is not issued yet is answered by that one": func(o *operator) {
			o.mustSync("issue 1", "probe 1")
			o.server.refuse["issue"] = unavailable
			o.rotation.Request = "first"
			o.mustFail("issue 2")
			o.has("1 Current, 2 Issuing")
			o.rotation.Request = "second"
			delete(o.server.refuse, "issue")
			o.mustSync("issue 2", "(again)", "probe 2")
			o.has("1 Retiring, 2 Current")
			o.mustSync()
		},
		"what was refused was not made: the next attempt is the first": func(o *operator) {
			o.server.refuse["issue"] = refused
			o.mustFail("issue 1")
			delete(o.server.refuse, "issue")
			o.mustSync("issue 1", "probe 1")
		},
		"a new one that vanished before it was tried does not count as the answer": func(o *operator) {
			o.mustSync("issue 1", "probe 1")
			o.server.refuse["probe"] = unavailable
			o.rotation.Request = "now"
			o.mustFail("issue 2", "probe 2")
			clear(o.server.refuse)
			delete(o.server.secrets, o.state().Credentials[1].Name)
			o.mustSync("issue 3", "probe 3")
			o.has("1 Retiring, 3 Current")
		},
		"a new one that is refused is tried for an hour, and then another one is made": func(o *operator) {
			o.mustSync("issue 1", "probe 1")
			o.server.refuse["probe"] = refused
			o.rotation.Request = "now"
			o.mustFail("issue 2", "probe 2")
			o.after(time.Hour - time.Second)
			o.mustFail("probe 2")
			o.has("1 Current, 2 Pending")
			o.after(time.Second)
			o.mustFail("probe 2")
			o.has("1 Current, 2 Retiring")
			o.mustFail("revoke 2", "issue 3", "probe 3")
			delete(o.server.refuse, "probe")
			o.mustSync("probe 3")
			o.has("1 Retiring, 3 Current")
		},
		"a token endpoint that is down is no reason to make another one": func(o *operator) {
			o.server.refuse["probe"] = unavailable
			o.mustFail("issue 1", "probe 1")
			o.after(48 * time.Hour)
			o.mustFail("probe 1")
			o.has("1 Pending")
		},
		"a current one that vanished is replaced although its predecessor still retires": func(o *operator) {
			o.mustSync("issue 1", "probe 1")
			o.rotation.Request = "now"
			o.mustSync("issue 2", "probe 2")
			delete(o.server.secrets, o.state().Current().Name)
			o.mustSync("issue 3", "probe 3")
			o.has("1 Retiring, 3 Current")
			o.after(10 * time.Minute)
			o.mustSync("revoke 1")
		},
		"at most three are alive": func(o *operator) {
			o.mustSync("issue 1", "probe 1")
			for _, r := range []string{"a", "b"} {
				o.rotation.Request = r
				if _, err := o.sync(); err != nil {
					o.t.Fatal(err)
				}
			}
			o.has("1 Retiring, 2 Retiring, 3 Current")
			o.rotation.Request = "c"
			o.mustSync("revoke 1", "issue 4", "probe 4")
			o.has("2 Retiring, 3 Retiring, 4 Current")
			o.rotation.Request = "d"
			o.server.refuse["revoke"] = refused
			o.mustFail("revoke 2")
			o.has("2 Retiring, 3 Retiring, 4 Current")
			if o.server.most != 3 {
				o.t.Errorf("%d secrets at once", o.server.most)
			}
		},
		"an overlap longer than the age does not pile them up": func(o *operator) {
			o.rotation = provision.Rotation{Every: time.Minute, Overlap: time.Hour}
			for range 20 {
				if _, err := o.sync(); err != nil {
					o.t.Fatal(err)
				}
				o.after(time.Minute)
			}
			o.has("18 Retiring, 19 Retiring, 20 Current")
			if o.server.most != 3 {
				o.t.Errorf("%d secrets at once", o.server.most)
			}
		},
		"one that cannot be revoked stops rotation, not a client without any": func(o *operator) {
			o.mustSync("issue 1", "probe 1")
			o.rotation.Request = "a"
			o.mustSync("issue 2", "probe 2")
			o.after(10 * time.Minute)
			o.server.refuse["revoke"] = refused
			o.rotation.Request = "b"
			o.mustFail("revoke 1")
			o.has("1 Retiring, 2 Current")
			delete(o.server.secrets, o.state().Current().Name)
			o.mustFail("revoke 1", "issue 3", "probe 3")
			o.has("1 Retiring, 3 Current")
			clear(o.server.refuse)
			o.mustSync("revoke 1")
		},
		"one is revoked in time although its successor's successor fails": func(o *operator) {
			o.mustSync("issue 1", "probe 1")
			o.rotation.Request = "a"
			o.mustSync("issue 2", "probe 2")
			o.rotation.Request = "b"
			o.server.refuse["issue"] = unavailable
			o.mustFail("issue 3")
			o.after(10 * time.Minute)
			o.mustFail("revoke 1", "issue 3")
			o.has("2 Current, 3 Issuing")
		},
		"expiry comes before rotation": func(o *operator) {
			o.server.life = 8 * time.Hour
			o.rotation.Every = 24 * time.Hour
			o.mustSync("issue 1", "probe 1")
			o.nextIs(noon.Add(6 * time.Hour))
			o.after(6 * time.Hour)
			o.mustSync("issue 2", "probe 2")
		},
		"a long life is ended a day before": func(o *operator) {
			o.server.life = 365 * 24 * time.Hour
			o.mustSync("issue 1", "probe 1")
			o.nextIs(noon.Add(364 * 24 * time.Hour))
		},
		"what expires at birth is replaced each minute, no sooner": func(o *operator) {
			o.server.life = time.Nanosecond
			o.mustSync("issue 1", "probe 1")
			o.nextIs(noon.Add(time.Minute))
			o.after(time.Minute - time.Second)
			o.mustSync()
			o.after(time.Second)
			o.mustSync("issue 2", "probe 2")
		},
		"a new one that expires before it could be tried is replaced": func(o *operator) {
			o.server.life = 4 * time.Hour
			o.server.refuse["probe"] = unavailable
			o.mustFail("issue 1", "probe 1")
			o.after(3 * time.Hour)
			o.mustFail("revoke 1", "issue 2", "probe 2")
			o.has("2 Pending")
		},
		"a client without access gets none": func(o *operator) {
			o.want.Access = nil
			o.rotation.Request = "now"
			o.mustSync()
			o.nextIs(time.Time{})
			o.has("")
		},
		"without access nothing is rotated, what is due is revoked, and it goes on when access returns": func(o *operator) {
			access := o.want.Access
			o.mustSync("issue 1", "probe 1")
			o.rotation = provision.Rotation{Every: time.Hour, Overlap: 10 * time.Minute}
			o.after(time.Hour)
			o.mustSync("issue 2", "probe 2")
			o.want.Access = nil
			o.mustSync()
			o.nextIs(noon.Add(70 * time.Minute))
			o.after(2 * time.Hour)
			o.mustSync("revoke 1")
			o.nextIs(time.Time{})
			o.want.Access = access
			o.mustSync("issue 3", "probe 3")
		},
		"one that is being made when access goes waits for its return": func(o *operator) {
			access := o.want.Access
			o.server.refuse["issue"] = unavailable
			o.mustFail("issue 1")
			o.want.Access = nil
			o.mustSync()
			o.has("1 Issuing")
			o.nextIs(time.Time{})
			clear(o.server.refuse)
			o.want.Access = access
			o.mustSync("issue 1", "(again)", "probe 1")
		},
		"one that waits to be tried when access goes is not replaced either": func(o *operator) {
			access := o.want.Access
			o.server.life = 8 * time.Hour
			o.server.refuse["probe"] = unavailable
			o.mustFail("issue 1", "probe 1")
			o.want.Access = nil
			o.mustSync()
			o.has("1 Pending")
			o.nextIs(time.Time{})
			clear(o.server.refuse)
			o.want.Access = access
			o.mustSync("probe 1")
			o.nextIs(noon.Add(6 * time.Hour))
		},
		"an error of the driver ends the call before the credentials": func(o *operator) {
			o.server.refuse["sync"] = unavailable
			o.mustFail()
		},
	} {
		t.Run(name, func(t *testing.T) { story(newOperator(t)) })
	}
}

// The server grants nothing of what is wanted, for example because the API does not exist yet. Then there is nothing to
// try the secret with, and nothing to do until that changes.
func TestSyncClientWithoutGrant(t *testing.T) {
	o := newOperator(t)
	o.mustSync("issue 1", "probe 1")
	o.rotation.Every = time.Hour
	o.after(time.Hour)
	grants := &blind{memory: o.server}
	state := o.state()
	for range 2 {
		_, next, err := provision.SyncClient(context.Background(), grants, o.want, state, o.rotation, o.keep(state), o.server.probe, o.server.now)
		if err != nil || !next.IsZero() {
			t.Fatalf("next %s, err %v", next, err)
		}
	}
	o.has("1 Current, 2 Pending")
	o.mustSync("probe 2")
	o.has("1 Retiring, 2 Current")
}

// blind grants nothing.
type blind struct{ *memory }

func (b *blind) SyncClient(ctx context.Context, want provision.Client, state *provision.ClientState, keep provision.Keep) ([]provision.Drift, error) {
	drift, err := b.memory.SyncClient(ctx, want, state, keep)
	state.Access = nil
	return drift, err
}

func TestSyncClientKeepFails(t *testing.T) {
	o := newOperator(t)
	full := errors.New("disk full")
	o.server.refuse["keep"] = full
	if _, err := o.sync(); !errors.Is(err, full) {
		t.Errorf("error %v, want the one of keep", err)
	}
	if len(o.server.secrets) != 0 {
		t.Error("issued what could not be recorded")
	}
}
