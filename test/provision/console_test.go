// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// console is a small client of Logto's Management API that shares no code with the operator's. The tests use it to
// look at the server, and to change things behind the operator's back.
type console struct {
	*tenant
	http *http.Client

	mu      sync.Mutex
	token   string
	expires time.Time
}

// newHTTPClient trusts a tenant's CA, and keeps no idle connections.
func newHTTPClient(caPEM string) *http.Client {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	if caPEM != "" {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM([]byte(caPEM))
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

func newConsole(t *tenant) *console { return &console{tenant: t, http: newHTTPClient(t.caPEM)} }

// refusal is an answer that is not a success. It keeps only the code of the body.
type refusal struct {
	method, path string
	status       int
	code         string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%s %s: %d %s", r.method, r.path, r.status, r.code)
}

func answered(err error, status int) bool {
	var r *refusal
	return errors.As(err, &r) && r.status == status
}

func (c *console) bearer(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Now().Before(c.expires) {
		return c.token, nil
	}
	form := url.Values{"grant_type": {"client_credentials"}, "resource": {c.managementAPI}, "scope": {"all"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint+"/oidc/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(c.clientID, c.clientSecret)
	var got struct {
		Token   string `json:"access_token"`
		Expires int    `json:"expires_in"`
	}
	if _, err := c.send(req, &got); err != nil {
		return "", err
	}
	theSecrets.neverShow(got.Token)
	c.token, c.expires = got.Token, time.Now().Add(time.Duration(got.Expires)*time.Second/2)
	return c.token, nil
}

func (c *console) send(req *http.Request, into any) (header http.Header, err error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		var said struct{ Code string }
		_ = json.Unmarshal(body, &said) // some answers are plain text
		return nil, &refusal{req.Method, req.URL.Path, resp.StatusCode, said.Code}
	}
	if into != nil {
		if err := json.Unmarshal(body, into); err != nil {
			return nil, fmt.Errorf("%s %s: the answer is not what was expected", req.Method, req.URL.Path)
		}
	}
	return resp.Header, nil
}

// call makes a request to the Management API. body and into may be nil.
func (c *console) call(ctx context.Context, method, path string, body, into any) (http.Header, error) {
	token, err := c.bearer(ctx)
	if err != nil {
		return nil, fmt.Errorf("a token of the Management API: %w", err)
	}
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.endpoint+"/api"+path, content)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return c.send(req, into)
}

// listed returns a whole list, page by page. The lists have no order: entries that change in the meantime may move.
func listed[T any](ctx context.Context, c *console, path string) (all []T, err error) {
	for page := 1; ; page++ {
		var some []T
		header, err := c.call(ctx, http.MethodGet, fmt.Sprintf("%s?page=%d&page_size=100", path, page), nil, &some)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		if total, err := strconv.Atoi(header.Get("Total-Number")); err != nil || len(all) >= total || len(some) == 0 {
			return all, err
		}
	}
}

type logtoApplication struct {
	ID          string         `json:"id"`
	Name        string         `json:"name"`
	Description string         `json:"description"`
	CustomData  map[string]any `json:"customData"`
	Secrets     []string       `json:"-"` // their names
	Roles       []string       `json:"-"` // their IDs
}

type logtoRole struct {
	ID           string              `json:"id"`
	Name         string              `json:"name"`
	Description  string              `json:"description"`
	Type         string              `json:"type"`
	Scopes       map[string][]string `json:"-"` // names, by the resource's indicator
	Applications []string            `json:"-"` // their IDs
}

type logtoResource struct {
	ID        string       `json:"id"`
	Name      string       `json:"name"`
	Indicator string       `json:"indicator"`
	TTL       int          `json:"accessTokenTtl"`
	Scopes    []logtoScope `json:"-"`
}

type logtoScope struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	ResourceID  string `json:"resourceId"`
	Description string `json:"description"`
}

func (r logtoResource) scopeNames() []string {
	names := []string{}
	for _, s := range r.Scopes {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return names
}

// holdings are the objects at a Logto that carry an ID, and the roles of such applications.
type holdings struct {
	Applications []logtoApplication
	Roles        []logtoRole
	Resources    []logtoResource
}

func (h holdings) describe() (all []string) {
	for _, a := range h.Applications {
		all = append(all, fmt.Sprintf("application %s %q", a.ID, a.Name))
	}
	for _, r := range h.Roles {
		all = append(all, fmt.Sprintf("role %s %q", r.ID, r.Name))
	}
	for _, r := range h.Resources {
		all = append(all, fmt.Sprintf("API resource %s %q", r.ID, r.Indicator))
	}
	return all
}

// holdings finds everything that carries an ID.
func (c *console) holdings(ctx context.Context, id string) (h holdings, err error) {
	carries := func(texts ...string) bool {
		return slices.ContainsFunc(texts, func(t string) bool { return strings.Contains(t, id) })
	}
	apps, err := listed[logtoApplication](ctx, c, "/applications")
	if err != nil {
		return h, err
	}
	for _, a := range apps {
		data, _ := json.Marshal(a.CustomData)
		if carries(a.Name, a.Description, string(data)) {
			h.Applications = append(h.Applications, a)
		}
	}
	roles, err := listed[logtoRole](ctx, c, "/roles")
	if err != nil {
		return h, err
	}
	for _, r := range roles {
		if carries(r.Name, r.Description) {
			h.Roles = append(h.Roles, r)
		}
	}
	resources, err := listed[logtoResource](ctx, c, "/resources")
	if err != nil {
		return h, err
	}
	for _, r := range resources {
		if carries(r.Name, r.Indicator) {
			h.Resources = append(h.Resources, r)
		}
	}
	return h, c.complete(ctx, &h)
}

// complete adds what the lists do not contain. If an object is gone in the meantime, that is an error: look again.
func (c *console) complete(ctx context.Context, h *holdings) error {
	indicators := map[string]string{}
	for i := range h.Resources {
		r := &h.Resources[i]
		indicators[r.ID] = r.Indicator
		var err error
		if r.Scopes, err = listed[logtoScope](ctx, c, "/resources/"+r.ID+"/scopes"); err != nil {
			return err
		}
	}
	for i := range h.Applications {
		a := &h.Applications[i]
		var found []struct{ Name, Value string }
		if _, err := c.call(ctx, http.MethodGet, "/applications/"+a.ID+"/secrets", nil, &found); err != nil {
			return err
		}
		for _, s := range found {
			a.Secrets = append(a.Secrets, s.Name)
			theSecrets.neverShow(s.Value)
		}
		slices.Sort(a.Secrets)
		roles, err := listed[logtoRole](ctx, c, "/applications/"+a.ID+"/roles")
		if err != nil {
			return err
		}
		for _, r := range roles {
			a.Roles = append(a.Roles, r.ID)
		}
	}
	for i := range h.Roles {
		r := &h.Roles[i]
		scopes, err := listed[logtoScope](ctx, c, "/roles/"+r.ID+"/scopes")
		if err != nil {
			return err
		}
		r.Scopes = map[string][]string{}
		for _, s := range scopes {
			at := cmp.Or(indicators[s.ResourceID], s.ResourceID)
			r.Scopes[at] = append(r.Scopes[at], s.Name)
		}
		for _, names := range r.Scopes {
			slices.Sort(names)
		}
		apps, err := listed[logtoApplication](ctx, c, "/roles/"+r.ID+"/applications")
		if err != nil {
			return err
		}
		for _, a := range apps {
			r.Applications = append(r.Applications, a.ID)
		}
	}
	return nil
}

// sweep deletes everything that carries an ID, and returns what it deleted.
func (c *console) sweep(ctx context.Context, id string) (found []string, err error) {
	h, err := c.holdings(ctx, id)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, a := range h.Applications {
		paths = append(paths, "/applications/"+a.ID)
	}
	for _, r := range h.Roles {
		paths = append(paths, "/roles/"+r.ID)
	}
	for _, r := range h.Resources {
		paths = append(paths, "/resources/"+r.ID)
	}
	var errs []error
	for _, path := range paths {
		if _, err := c.call(ctx, http.MethodDelete, path, nil, nil); err != nil && !answered(err, http.StatusNotFound) {
			errs = append(errs, err)
		}
	}
	return h.describe(), errors.Join(errs...)
}
