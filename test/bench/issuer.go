// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	identifier = "https://api.bench.example.com" // of the API that every client calls
	scope      = "bench:call"
)

// order tells an issuer process what to do. Its members are independent of each other.
type order struct {
	// Clients registers this many clients, Prefix-0 and so on. Their tokens live
	// for Lifetime plus a part of Spread that grows from the first client to the
	// last.
	Prefix           string
	Clients          int
	Lifetime, Spread time.Duration

	Down     bool          // answer 503 from now on; otherwise work again
	Delay    time.Duration // of each token request
	Troubles []trouble     // for some clients, from now on
	Rotate   bool          // sign with a new key, and publish the old one too
	Reset    bool          // forget what was counted
}

// trouble is the answer to the clients Prefix-0 and so on instead of a token.
type trouble struct {
	Prefix     string
	Status     int    // zero: an answer that cannot be parsed
	Error      string // error code of a refusal
	RetryAfter string
}

func (t trouble) fault() *oidc.Fault {
	f := &oidc.Fault{Status: t.Status, Malformed: t.Status == 0, Match: func(r *http.Request) bool {
		id, _, _ := r.BasicAuth()
		return fleetOf(id) == t.Prefix
	}}
	if t.Error != "" {
		f.Body = fmt.Sprintf("{%q:%q}", "error", t.Error)
	}
	if t.RetryAfter != "" {
		f.Header = http.Header{"Retry-After": {t.RetryAfter}}
	}
	return f
}

// fleetOf returns the prefix of a client's id.
func fleetOf(id string) string {
	last := strings.LastIndexByte(id, '-')
	return id[:max(0, last)]
}

// tally is what an issuer process has counted since it was told to forget.
type tally struct {
	TokenRequests int // requests that arrived
	JWKSRequests  int
	FirstJWKS     time.Time // when the first of these arrived, zero for none
	Issued        int       // tokens issued
	Clients       int       // clients that got one
	Most          int       // most tokens that one client got
	Twice         int       // tokens issued within two seconds of the same client's previous one

	Requests map[string]int // token requests, by the prefix of the client's id

	// PeakSecond and PeakTen are the most token requests within 1 and 10 seconds.
	PeakSecond, PeakTen int

	// KeyID is the ID of the key that signs now; forgetting does not affect it.
	KeyID string
}

// runIssuer is the authorization server as a process. It prints its issuer and
// the address for orders, and ends when its standard input ends.
func runIssuer(_ []string, in io.Reader, out io.Writer) error {
	server, err := oidc.Start(oidc.Options{RecordLimit: 1_000_000})
	if err != nil {
		return err
	}
	defer server.Close()
	server.SetResource(identifier, scope)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	control := &http.Server{Handler: controlOf(server), ReadHeaderTimeout: 5 * time.Second}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		_ = control.Close()
	}()
	if _, err := fmt.Fprintf(out, "%s http://%s\n", server.Issuer(), listener.Addr()); err != nil {
		return err
	}
	if err := control.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func controlOf(server *oidc.Server) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		var o order
		if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if err := carryOut(server, o); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(tallyOf(server))
	})
	return mux
}

func carryOut(server *oidc.Server, o order) error {
	for i := range o.Clients {
		id := fmt.Sprintf("%s-%d", o.Prefix, i)
		if err := server.SetClient(oidc.Client{
			ID: id, Secret: secretOf(id), Scopes: map[string][]string{identifier: {scope}},
			TokenLifetime: o.Lifetime + o.Spread*time.Duration(i)/time.Duration(o.Clients),
		}); err != nil {
			return err
		}
	}
	var token, all *oidc.Fault
	if o.Down {
		all = &oidc.Fault{Status: http.StatusServiceUnavailable, Body: "{}"}
		token = all
	} else if o.Delay > 0 {
		token = &oidc.Fault{Delay: o.Delay}
	}
	server.SetFault(oidc.Token, token)
	for _, t := range o.Troubles {
		server.AddFault(oidc.Token, t.fault())
	}
	server.SetFault(oidc.Discovery, all)
	server.SetFault(oidc.JWKS, all)
	if o.Rotate {
		if _, err := server.RotateKey(); err != nil {
			return err
		}
	}
	if o.Reset { // last, so that everything counted later has met with the whole order
		server.ResetRequests()
	}
	return nil
}

// secretOf returns the client secret of one of the benchmark's clients.
func secretOf(id string) string { return "secret-of-" + id }

func tallyOf(server *oidc.Server) tally {
	requests := server.TokenRequests()
	t := tally{
		TokenRequests: server.Count(oidc.Token), JWKSRequests: server.Count(oidc.JWKS),
		FirstJWKS: server.FirstJWKSRequest(), KeyID: server.KeyID(),
		Requests: map[string]int{},
	}
	last, issued := map[string]time.Time{}, map[string]int{}
	at := make([]time.Time, 0, len(requests))
	for _, r := range requests {
		at = append(at, r.At)
		t.Requests[fleetOf(r.ClientID)]++
		if r.Status != http.StatusOK {
			continue
		}
		t.Issued++
		if before, ok := last[r.ClientID]; ok && r.At.Sub(before) < 2*time.Second {
			t.Twice++
		}
		last[r.ClientID] = r.At
		issued[r.ClientID]++
		t.Most = max(t.Most, issued[r.ClientID])
	}
	t.Clients = len(issued)
	slices.SortFunc(at, time.Time.Compare)
	t.PeakSecond, t.PeakTen = peak(at, time.Second), peak(at, 10*time.Second)
	return t
}

// peak returns how many of the sorted moments lie at most within any window.
func peak(at []time.Time, window time.Duration) (most int) {
	first := 0
	for i := range at {
		for at[i].Sub(at[first]) >= window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// issuer is an issuer process, seen from the driver.
type issuer struct {
	process *local.Process
	url     string // the issuer identifier
	control string // address for orders
}

func startIssuer() (*issuer, error) {
	p, err := local.StartSelf("issuer")
	if err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(p.Stdout).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the issuer does not say where it listens: %w", err), p.Running(), p.Stop())
	}
	url, control, _ := strings.Cut(strings.TrimSpace(line), " ")
	return &issuer{process: p, url: url, control: control}, nil
}

var controlClient = &http.Client{Timeout: time.Minute}

// tell sends an order.
func (i *issuer) tell(ctx context.Context, o order) error {
	body, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return i.call(ctx, http.MethodPost, bytes.NewReader(body), nil)
}

// counted returns the counts.
func (i *issuer) counted(ctx context.Context) (t tally, err error) {
	err = i.call(ctx, http.MethodGet, nil, &t)
	return t, err
}

func (i *issuer) call(ctx context.Context, method string, body io.Reader, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, i.control, body)
	if err != nil {
		return err
	}
	resp, err := controlClient.Do(req)
	if err != nil {
		return fmt.Errorf("speak to the issuer: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("the issuer answers %d: %s", resp.StatusCode, said)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
