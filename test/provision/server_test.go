// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	gocmp "github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// grants are the scopes of a client, by the identifiers of the APIs.
type grants map[string][]string

// expected is what a scenario has at its server: exactly this, each once.
type expected struct {
	clients map[string]grants   // by name
	apis    map[string][]string // scopes by identifier; empty for a server with dynamic registration, which keeps none
}

// storyAtServer is what the server has of the story.
func (w *world) storyAtServer() expected {
	return expected{
		clients: map[string]grants{"cart": {w.identifier(paymentAPI): {w.write()}}},
		apis:    map[string][]string{w.identifier(paymentAPI): {w.read(), w.write()}},
	}
}

// atServer waits until the server has exactly what is expected, and at most one secret per client.
func (w *world) atServer(want expected) {
	w.t.Helper()
	eventually(w.t, func() error {
		if w.console == nil {
			return w.registrationsDiffer(want)
		}
		h, err := w.console.holdings(w.t.Context(), w.id)
		if err != nil {
			return err
		}
		return w.holdingsDiffer(h, want)
	})
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

func (w *world) holdingsDiffer(h holdings, want expected) error {
	apis := map[string][]string{}
	for _, r := range h.Resources {
		if _, twice := apis[r.Indicator]; twice {
			return fmt.Errorf("there are two API resources %q", r.Indicator)
		}
		apis[r.Indicator] = r.scopeNames()
	}
	wantAPIs := map[string][]string{}
	for identifier, scopes := range want.apis {
		wantAPIs[identifier] = sorted(scopes)
	}
	if diff := gocmp.Diff(wantAPIs, apis); diff != "" {
		return fmt.Errorf("the API resources (-want +got):\n%s", diff)
	}
	if len(h.Applications) != len(want.clients) || len(h.Roles) != len(want.clients) {
		return fmt.Errorf("there are %d applications and %d roles, want %d: %s", len(h.Applications), len(h.Roles), len(want.clients), h.describe())
	}
	var errs []error
	for name, granted := range want.clients {
		errs = append(errs, w.applicationDiffers(h, name, granted))
	}
	return errors.Join(errs...)
}

// application returns the only application of a client, and its only role.
func (w *world) application(h holdings, name string) (logtoApplication, logtoRole, error) {
	var found []logtoApplication
	for _, a := range h.Applications {
		if strings.HasPrefix(a.Name, w.shop+"/"+name+"@") {
			found = append(found, a)
		}
	}
	if len(found) != 1 {
		return logtoApplication{}, logtoRole{}, fmt.Errorf("there are %d applications of %s: %s", len(found), name, h.describe())
	}
	a := found[0]
	if len(a.Roles) != 1 {
		return a, logtoRole{}, fmt.Errorf("the application of %s has the roles %q", name, a.Roles)
	}
	i := slices.IndexFunc(h.Roles, func(r logtoRole) bool { return r.ID == a.Roles[0] })
	if i < 0 {
		return a, logtoRole{}, fmt.Errorf("the application of %s has another client's role %q", name, a.Roles)
	}
	return a, h.Roles[i], nil
}

func (w *world) applicationDiffers(h holdings, name string, granted grants) error {
	a, role, err := w.application(h, name)
	if err != nil {
		return err
	}
	wantScopes := map[string][]string{}
	for identifier, scopes := range granted {
		if len(scopes) > 0 {
			wantScopes[identifier] = sorted(scopes)
		}
	}
	if diff := gocmp.Diff(wantScopes, role.Scopes); diff != "" {
		return fmt.Errorf("the scopes of %s's role (-want +got):\n%s", name, diff)
	}
	if !slices.Equal(role.Applications, []string{a.ID}) || role.Type != "MachineToMachine" {
		return fmt.Errorf("%s's role of type %s is assigned to %q", name, role.Type, role.Applications)
	}
	if len(a.Secrets) != 1 || !strings.HasPrefix(a.Secrets[0], "m2m-operator-") {
		return fmt.Errorf("the application of %s has the secrets %q, want one of ours", name, a.Secrets)
	}
	return nil
}

// current returns a client's application and role at a Logto, of which there must be one each.
func (w *world) current(name string) (logtoApplication, logtoRole) {
	w.t.Helper()
	h, err := w.console.holdings(w.t.Context(), w.id)
	if err != nil {
		w.t.Fatal(err)
	}
	a, r, err := w.application(h, name)
	if err != nil {
		w.t.Fatal(err)
	}
	return a, r
}

// resource returns an API at a Logto, nil if there is none.
func (w *world) resource(api string) *logtoResource {
	w.t.Helper()
	h, err := w.console.holdings(w.t.Context(), w.id)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range h.Resources {
		if h.Resources[i].Indicator == w.identifier(api) {
			return &h.Resources[i]
		}
	}
	return nil
}

// do makes a request of the Management API, which must succeed.
func (w *world) do(method, path string, body, into any) {
	w.t.Helper()
	if _, err := w.console.call(w.t.Context(), method, path, body, into); err != nil {
		w.t.Fatal(err)
	}
}

// metadata is a client's metadata, in the form of a registration endpoint's answer.
type metadata map[string]any

func (m metadata) scopes() []string {
	text, _ := m["scope"].(string)
	return sorted(strings.Fields(text))
}

// manage makes a request about a registration, with its access token (RFC 7592).
func (w *world) manage(ctx context.Context, method string, c credential, body metadata) (metadata, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	if body == nil {
		encoded = nil
	}
	req, err := http.NewRequestWithContext(ctx, method, c.RegistrationURI, bytes.NewReader(encoded))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer "+c.RegistrationToken)
	resp, err := newHTTPClient(w.caPEM).Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 != 2 {
		return nil, &refusal{method, req.URL.Path, resp.StatusCode, ""}
	}
	var m metadata
	if method != http.MethodDelete {
		err = json.NewDecoder(resp.Body).Decode(&m)
	}
	return m, err
}

// registrationOf returns a client's only registration, in the operator's version and in the server's.
func (w *world) registrationOf(name string) (credential, metadata, error) {
	c := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: w.shop, Name: name}}
	_, all, err := w.credentials(c)
	if err != nil {
		return credential{}, nil, err
	}
	if len(all) != 1 {
		return credential{}, nil, fmt.Errorf("%s has %d credentials, want 1", name, len(all))
	}
	m, err := w.manage(w.t.Context(), http.MethodGet, all[0], nil)
	return all[0], m, err
}

func (w *world) registrationsDiffer(want expected) error {
	var errs []error
	known := map[string]bool{}
	for name, granted := range want.clients {
		c, m, err := w.registrationOf(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		known[c.ClientID] = true
		var scopes []string
		for _, more := range granted {
			scopes = append(scopes, more...)
		}
		if diff := gocmp.Diff(slices.Compact(sorted(scopes)), m.scopes()); diff != "" {
			errs = append(errs, fmt.Errorf("the scopes of %s's registration (-want +got):\n%s", name, diff))
		}
	}
	if len(known) != len(want.clients) {
		errs = append(errs, fmt.Errorf("%d clients have %d registrations", len(want.clients), len(known)))
	}
	if w.registration == nil {
		return errors.Join(errs...)
	}
	// The server's own list must have no more than these, except those whose answers
	// never arrived and which the operator reports.
	lost, err := w.toldAsLost()
	for _, r := range w.registration.RegisteredClients() {
		if !known[r.ID] && !slices.ContainsFunc(lost, func(line string) bool { return strings.Contains(line, r.Name) }) {
			errs = append(errs, fmt.Errorf("the server has one more client, %s; reported as lost are %q", r.Name, lost))
		}
	}
	return errors.Join(append(errs, err)...)
}

// toldAsLost returns what may be left at the server according to the clients' statuses.
func (w *world) toldAsLost() (lost []string, err error) {
	var list v1alpha1.M2MClientList
	err = w.kube.List(w.t.Context(), &list)
	for _, c := range list.Items {
		if c.Namespace == w.shop {
			lost = append(lost, c.Status.Provisioning.LeftBehind...)
		}
	}
	return lost, err
}

// sweepRegistrations deletes all registrations that still exist.
func (w *world) sweepRegistrations(ctx context.Context) (left []string, err error) {
	var errs []error
	for _, c := range theSecrets.registrationsOf(w.shop) {
		_, err := w.manage(ctx, http.MethodGet, c, nil)
		var r *refusal
		if errors.As(err, &r) && r.status/100 == 4 {
			continue // some answer 401, some 404, some 400
		}
		if err == nil {
			left = append(left, "client "+c.ClientID)
			_, err = w.manage(ctx, http.MethodDelete, c, nil)
		}
		errs = append(errs, err)
	}
	return left, errors.Join(errs...)
}
