// SPDX-License-Identifier: Apache-2.0

package provision_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

// A world is a Logto, other people's things at it, the owners of APIs and clients in the clusters that share it, and
// the operator. Everything in it follows from its seed.
type world struct {
	rand    *rand.Rand
	now     time.Time
	server  *logtotest.Server
	wire    wire
	drivers map[string]provision.Driver // of the operator of each cluster, unless it was killed
	apis    []*apiOwner
	clients []*clientOwner
	others  others
	kinds   []int // what can happen
	trace   []string
	uids    int

	outages []string // who was left without a credential that works
	writes  int      // how often the operator changed something at the server
}

func newWorld(seed uint64) (*world, error) {
	w := &world{rand: rand.New(rand.NewPCG(seed, 4)), now: noon, drivers: map[string]provision.Driver{}}
	var err error
	w.server, err = logtotest.New(logtotest.WithSeed(seed), logtotest.WithClock(func() time.Time { return w.now }), logtotest.WithCheapKey())
	if err != nil {
		return nil, err
	}
	w.wire.server = w.server.Transport()
	return w, nil
}

func (w *world) tracef(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

// A wire is what is between the operator and everything that outlives it. The operator is killed at a boundary: before
// a request is sent, before its answer arrives, before a state is recorded, and after.
type wire struct {
	server   http.RoundTripper
	boundary int // how many there were
	killAt   int // 0 for never
	dead     bool
	requests []string
	sent     int // the number of the request that is under way, 0 while there is none
	count    int
}

// pass is one boundary.
func (w *wire) pass() error {
	if w.boundary++; w.boundary == w.killAt {
		w.dead = true
	}
	if w.dead {
		return errKilled
	}
	return nil
}

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := w.pass(); err != nil {
		return nil, err
	}
	w.requests = append(w.requests, r.Method+" "+r.URL.Path)
	w.count++
	w.sent = w.count
	answer, err := w.server.RoundTrip(r)
	w.sent = 0
	if dead := w.pass(); dead != nil {
		if err == nil {
			_ = answer.Body.Close()
		}
		return nil, dead
	}
	return answer, err
}

// record is the boundary between the operator and where a state lives.
func record(w *wire, stored *[]byte, state any) provision.Keep {
	return func(context.Context) error {
		if err := w.pass(); err != nil {
			return err
		}
		b, err := json.Marshal(state)
		if err != nil {
			return err
		}
		*stored = b
		return w.pass()
	}
}

// An apiOwner is an APIResource.
type apiOwner struct {
	want     provision.API
	theirs   bool // somebody else made the API
	refused  bool // and nobody allowed to take it over
	watching bool // it is only observed from beginning to end
	exists   bool // the Kubernetes object does
	deleting bool
	stored   []byte
}

func (a *apiOwner) state() (s provision.APIState) {
	if err := json.Unmarshal(a.stored, &s); err != nil {
		panic(err)
	}
	return s
}

// A clientOwner is an M2MClient. The scopes that it may have are by the index of the API in the world.
type clientOwner struct {
	owner    provision.Owner
	access   map[int][]string
	adopt    string
	rotation provision.Rotation
	leaked   []provision.Sensitive // the secrets that the request to rotate is to get rid of
	next     time.Time
	exists   bool
	deleting bool
	retain   bool
	retained bool // it does not exist, and what it had is left
	stored   []byte

	decoded provision.ClientState // what known returns, of
	from    []byte
}

func (c *clientOwner) state() (s provision.ClientState) {
	if err := json.Unmarshal(c.stored, &s); err != nil {
		panic(err)
	}
	return s
}

// known is state for those who only read it. It decodes what is stored once.
func (c *clientOwner) known() *provision.ClientState {
	if c.from == nil || !bytes.Equal(c.from, c.stored) {
		c.decoded, c.from = c.state(), c.stored
	}
	return &c.decoded
}

func (c *clientOwner) client(w *world) provision.Client {
	want := provision.Client{Owner: c.owner, Adopt: c.adopt, Retain: c.retain}
	for i, a := range w.apis {
		if id := a.state().ID; a.exists && !a.deleting && id != "" && c.access[i] != nil {
			want.Access = append(want.Access, provision.Access{Resource: a.want.Identifier, ResourceID: id, Scopes: c.access[i]})
		}
	}
	return want
}

// operator returns the driver of the operator that runs in the owner's cluster, after starting it. What one remembers
// of the server, the other may have changed.
func (w *world) operator(o provision.Owner) provision.Driver {
	if w.drivers[o.Cluster] == nil {
		w.drivers[o.Cluster] = newDriver(w)
	}
	return w.drivers[o.Cluster]
}

// after is what follows a call that the operator made.
func (w *world) after(what string, o provision.Owner, drift []provision.Drift, err error) {
	for _, r := range w.wire.requests {
		if !strings.HasPrefix(r, http.MethodGet) && !strings.HasSuffix(r, "/oidc/token") {
			w.writes++
		}
	}
	w.tracef("%s %s/%s: %d requests, drift %q, error %v, killed %t", what, o.Cluster, o.Name, len(w.wire.requests), drift, err, w.wire.dead)
	for _, r := range w.wire.requests {
		w.tracef("    %s", r)
	}
	w.wire.requests = nil
	if w.wire.dead {
		w.wire.dead, w.wire.killAt, w.drivers[o.Cluster] = false, 0, nil
	}
}

// syncAPI is what the operator does for an APIResource that is there to stay.
func (w *world) syncAPI(a *apiOwner) ([]provision.Drift, error) {
	state := a.state()
	keep := record(&w.wire, &a.stored, &state)
	drift, err := w.operator(a.want.Owner).SyncAPI(context.Background(), a.want, &state, keep)
	// After an error the state is written with the failure, or is not because that fails too.
	if err == nil || w.rand.IntN(2) == 0 {
		err = errors.Join(err, keep(context.Background()))
	}
	w.after("sync", a.want.Owner, drift, err)
	return drift, err
}

func (w *world) syncClient(c *clientOwner) ([]provision.Drift, error) {
	worked := w.works(c)
	state := c.state()
	keep := record(&w.wire, &c.stored, &state)
	drift, next, err := provision.SyncClient(context.Background(), w.operator(c.owner), c.client(w), &state, c.rotation, keep, w.probe, w.now)
	if c.next = next; err != nil && w.rand.IntN(2) == 0 {
		err = errors.Join(err, keep(context.Background()))
	}
	w.after("sync", c.owner, drift, err)
	if worked && !w.works(c) {
		w.outages = append(w.outages, c.owner.Cluster+"/"+c.owner.Name+" has no credential that works any more")
	}
	return drift, err
}

// works reports whether the credential that is recorded as in use is one of the server's.
func (w *world) works(c *clientOwner) bool {
	current := c.known().Current()
	return current != nil && w.server.SecretValue(current.ClientID, current.Name) == current.Secret.Reveal()
}

func (w *world) removeAPI(a *apiOwner) error {
	state := a.state()
	err := w.operator(a.want.Owner).RemoveAPI(context.Background(), a.want, &state, record(&w.wire, &a.stored, &state))
	w.after("remove", a.want.Owner, nil, err)
	if err == nil {
		a.exists, a.deleting, a.stored = false, false, []byte("{}")
	}
	return err
}

func (w *world) removeClient(c *clientOwner) error {
	state := c.state()
	err := provision.RemoveClient(context.Background(), w.operator(c.owner), c.client(w), &state, record(&w.wire, &c.stored, &state))
	w.after("remove", c.owner, nil, err)
	if err == nil {
		c.exists, c.deleting, c.retained, c.stored = false, false, c.retain, []byte("{}")
	}
	return err
}

// reconcile is a pass over one object, whatever it needs.
func (w *world) reconcileAPI(a *apiOwner) ([]provision.Drift, error) {
	switch {
	case !a.exists:
		return nil, nil
	case a.deleting:
		return nil, w.removeAPI(a)
	}
	return w.syncAPI(a)
}

func (w *world) reconcileClient(c *clientOwner) ([]provision.Drift, error) {
	switch {
	case !c.exists:
		return nil, nil
	case c.deleting:
		return nil, w.removeClient(c)
	}
	return w.syncClient(c)
}

// probe implements provision.Probe.
func (w *world) probe(ctx context.Context, state *provision.ClientState, c *provision.Credential) error {
	_, err := w.token(ctx, &w.wire, c.ClientID, c.Secret.Reveal(), state.Access[0].Resource, state.Access[0].Scopes)
	return err
}

// token asks for a token and returns its scopes.
func (w *world) token(ctx context.Context, via http.RoundTripper, id, secret, resource string, scopes []string) ([]string, error) {
	form := url.Values{"grant_type": {"client_credentials"}, "resource": {resource}, "scope": {strings.Join(scopes, " ")}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.server.TokenURL(), strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	answer, err := via.RoundTrip(r)
	if err != nil {
		return nil, &provision.Error{Kind: provision.Unavailable, Message: "no answer"}
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	switch {
	case err != nil || answer.StatusCode >= 500 || answer.StatusCode == http.StatusTooManyRequests:
		return nil, &provision.Error{Kind: provision.Unavailable, Message: "no token", Status: answer.StatusCode}
	case answer.StatusCode != http.StatusOK:
		return nil, &provision.Error{Kind: provision.Refused, Message: "no token: " + string(body), Status: answer.StatusCode}
	}
	var token struct {
		AccessToken string `json:"access_token"`
	}
	var claims struct {
		Audience string `json:"aud"`
		Scope    string `json:"scope"`
	}
	if err := json.Unmarshal(body, &token); err != nil {
		return nil, err
	}
	parts := strings.Split(token.AccessToken, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("not a JWT: %d parts", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return nil, err
	}
	if claims.Audience != resource {
		return nil, fmt.Errorf("token for %q", claims.Audience)
	}
	got := strings.Fields(claims.Scope)
	slices.Sort(got)
	return got, nil
}
