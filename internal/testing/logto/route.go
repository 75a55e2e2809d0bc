// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const requestLimit = 1 << 20 // bytes of a request body

// route is one operation of the server. A name in braces in its path matches one segment.
type route struct {
	method, path string
	handle       func(*Server, *call) answer
	query        []string // the parameters that the operation knows
	public       bool     // needs no bearer token
}

func (r *route) pattern() string { return r.method + " " + r.path }

var (
	paged    = []string{"page", "page_size"}
	searched = append(slices.Clone(paged), "search", "mode", "search.name", "mode.name", "isCaseSensitive")
)

func routes() []route {
	return []route{
		{method: "POST", path: "/oidc/token", handle: (*Server).serveToken, public: true},
		// for a client whose endpoint is the issuer
		{method: "POST", path: "/oidc/oidc/token", handle: (*Server).serveUnrecognized, public: true},
		{method: "GET", path: "/oidc/jwks", handle: (*Server).serveJWKS, public: true},
		{method: "GET", path: "/oidc/.well-known/openid-configuration", handle: (*Server).serveDiscovery, public: true},
		{method: "GET", path: "/oidc/.well-known/oauth-authorization-server", handle: (*Server).serveMetadata, public: true},
		{method: "GET", path: "/.well-known/oauth-authorization-server/oidc", handle: (*Server).serveNothing, public: true},
		{method: "GET", path: "/.well-known/openid-configuration/oidc", handle: (*Server).serveNothing, public: true},
		{method: "POST", path: "/api/configs/oidc/private-keys/rotate", handle: (*Server).rotateKeys},

		{method: "GET", path: "/api/resources", handle: (*Server).listResources,
			query: append(slices.Clone(searched), "includeScopes")},
		{method: "POST", path: "/api/resources", handle: (*Server).createResource},
		{method: "GET", path: "/api/resources/{id}", handle: (*Server).getResource},
		{method: "PATCH", path: "/api/resources/{id}", handle: (*Server).patchResource},
		{method: "DELETE", path: "/api/resources/{id}", handle: (*Server).deleteResource},
		{method: "GET", path: "/api/resources/{id}/scopes", handle: (*Server).listScopes, query: paged},
		{method: "POST", path: "/api/resources/{id}/scopes", handle: (*Server).createScope},
		{method: "PATCH", path: "/api/resources/{id}/scopes/{scopeId}", handle: (*Server).patchScope},
		{method: "DELETE", path: "/api/resources/{id}/scopes/{scopeId}", handle: (*Server).deleteScope},

		{method: "GET", path: "/api/applications", handle: (*Server).listApplications,
			query: append(slices.Clone(searched), "types")},
		{method: "POST", path: "/api/applications", handle: (*Server).createApplication},
		{method: "GET", path: "/api/applications/{id}", handle: (*Server).getApplication},
		{method: "PATCH", path: "/api/applications/{id}", handle: (*Server).patchApplication},
		{method: "DELETE", path: "/api/applications/{id}", handle: (*Server).deleteApplication},
		{method: "PATCH", path: "/api/applications/{id}/custom-data", handle: (*Server).patchCustomData},
		{method: "GET", path: "/api/applications/{id}/secrets", handle: (*Server).listSecrets},
		{method: "POST", path: "/api/applications/{id}/secrets", handle: (*Server).createSecret},
		{method: "DELETE", path: "/api/applications/{id}/secrets/{name}", handle: (*Server).deleteSecret},
		{method: "GET", path: "/api/applications/{id}/roles", handle: (*Server).listRolesOfApplication, query: searched},
		{method: "POST", path: "/api/applications/{id}/roles", handle: (*Server).addRolesToApplication},
		{method: "PUT", path: "/api/applications/{id}/roles", handle: (*Server).replaceRolesOfApplication},
		{method: "DELETE", path: "/api/applications/{id}/roles/{roleId}", handle: (*Server).removeRoleFromApplication},

		{method: "GET", path: "/api/roles", handle: (*Server).listRoles, query: append(slices.Clone(searched), "type")},
		{method: "POST", path: "/api/roles", handle: (*Server).createRole},
		{method: "GET", path: "/api/roles/{id}", handle: (*Server).getRole},
		{method: "PATCH", path: "/api/roles/{id}", handle: (*Server).patchRole},
		{method: "DELETE", path: "/api/roles/{id}", handle: (*Server).deleteRole},
		{method: "GET", path: "/api/roles/{id}/scopes", handle: (*Server).listScopesOfRole, query: paged},
		{method: "POST", path: "/api/roles/{id}/scopes", handle: (*Server).addScopesToRole},
		{method: "PUT", path: "/api/roles/{id}/scopes", handle: (*Server).methodNotAllowed},
		{method: "DELETE", path: "/api/roles/{id}/scopes/{scopeId}", handle: (*Server).removeScopeFromRole},
		{method: "GET", path: "/api/roles/{id}/applications", handle: (*Server).listApplicationsOfRole, query: paged},
		{method: "POST", path: "/api/roles/{id}/applications", handle: (*Server).addApplicationsToRole},
		{method: "DELETE", path: "/api/roles/{id}/applications/{applicationId}", handle: (*Server).removeApplicationFromRole},
	}
}

// table holds the routes by method and number of segments.
var table = func() map[string][]*route {
	t := map[string][]*route{}
	for _, r := range routes() {
		key := r.method + strconv.Itoa(strings.Count(r.path, "/"))
		t[key] = append(t[key], &r)
	}
	return t
}()

// find returns the route of a request, and the values of the names in braces.
func find(r *http.Request) (*route, map[string]string) {
	path := r.URL.EscapedPath()
	segments := strings.Split(path, "/")
next:
	for _, candidate := range table[r.Method+strconv.Itoa(len(segments)-1)] {
		values := map[string]string{}
		for i, want := range strings.Split(candidate.path, "/") {
			value, err := url.PathUnescape(segments[i])
			if name, ok := strings.CutPrefix(want, "{"); ok && err == nil && value != "" {
				values[strings.TrimSuffix(name, "}")] = value
			} else if segments[i] != want {
				continue next
			}
		}
		return candidate, values
	}
	return nil, nil
}

// call is one request in progress.
type call struct {
	*http.Request
	path  map[string]string
	query url.Values
	raw   []byte
	body  map[string]any // what [call.decode] found
	fault Fault
}

// the answer: a value sent as JSON, or a text
type answer struct {
	status int
	value  any
	text   string
	header http.Header
	breach string // why the request is a violation
}

func reply(status int, value any) answer { return answer{status: status, value: value} }

func plain(status int) answer { return answer{status: status, text: http.StatusText(status)} }

// fail answers with an error of the Management API. Its message is localised, so no client may depend on it.
func fail(status int, code string) answer {
	return reply(status, map[string]any{"code": code, "message": "Das hat nicht geklappt."})
}

func invalidInput(details string) answer {
	return reply(http.StatusBadRequest, map[string]any{
		"code": "guard.invalid_input", "message": "Die Eingabe ist falsch.", "details": details,
	})
}

func notFound(code string) answer { return fail(http.StatusNotFound, code) }

// breach answers a request that this server does not know how to answer.
func breach(format string, args ...any) answer {
	return answer{status: http.StatusNotImplemented, breach: fmt.Sprintf(format, args...)}
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	route, values := find(r)
	pattern := "unknown"
	if route != nil {
		pattern = route.pattern()
	}
	fault := s.meet(r, pattern)
	if !fault.wait(r.Context()) {
		panic(http.ErrAbortHandler)
	}
	if fault.replaces() && !fault.Apply {
		fault.answer().send(w, fault)
		return
	}
	a := s.serve(r, route, values, fault)
	if a.breach != "" {
		s.record.violate(r.Method + " " + pattern + " " + r.URL.Path + ": " + a.breach)
		a.text = "this double does not answer: " + a.breach
	}
	if fault.replaces() {
		a = fault.answer()
	}
	a.send(w, fault)
}

func (s *Server) serve(r *http.Request, route *route, values map[string]string, fault Fault) answer {
	if route == nil {
		return breach("no such method and path")
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, requestLimit+1))
	if err != nil {
		panic(http.ErrAbortHandler) // the client has disconnected
	}
	if len(raw) > requestLimit {
		return breach("the body is larger than %d bytes", requestLimit)
	}
	c := &call{Request: r, path: values, raw: raw, fault: fault}
	if c.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		return breach("the query cannot be parsed")
	}
	for name, value := range c.query {
		if !slices.Contains(route.query, name) || len(value) != 1 {
			return breach("query parameter %q", name)
		}
	}
	if (r.Method == http.MethodGet || r.Method == http.MethodDelete) && len(raw) > 0 {
		return breach("%s with a body", r.Method)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return plain(http.StatusInternalServerError)
	}
	s.keys.tick(s.now())
	if !route.public {
		if refused := s.authorize(r); refused != nil {
			return *refused
		}
	}
	return route.handle(s, c)
}

func (a answer) send(w http.ResponseWriter, f Fault) {
	if f.Drop {
		panic(http.ErrAbortHandler)
	}
	body := []byte(a.text)
	contentType := "text/plain; charset=utf-8"
	if a.value != nil {
		body, _ = json.Marshal(a.value) // of generated values
		contentType = "application/json; charset=utf-8"
	}
	maps.Copy(w.Header(), a.header)
	if len(body) > 0 && w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", contentType)
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(body)
}

func (s *Server) methodNotAllowed(*call) answer { return plain(http.StatusMethodNotAllowed) }

// field is a member of a JSON body.
type field struct {
	name     string
	kind     kind
	required bool
	most     int // characters of a text
}

type kind int

const (
	text     kind = iota
	nullable      // a text or null
	enum          // MachineToMachine or User
	integer
	instant // milliseconds since 1970, or null
	object
	texts   // texts, at least one
	maybe   // texts, or none
	ignored // anything
)

// members are the fields of a body that is a JSON object.
func (c *call) members() (map[string]any, *answer) {
	if t, _, err := mime.ParseMediaType(c.Header.Get("Content-Type")); err != nil || t != "application/json" {
		a := breach("content type %q", t)
		return nil, &a
	}
	decoder := json.NewDecoder(bytes.NewReader(c.raw))
	decoder.UseNumber()
	var members map[string]any
	if err := decoder.Decode(&members); err != nil || members == nil || decoder.More() {
		a := breach("the body is not a JSON object")
		return nil, &a
	}
	return members, nil
}

// decode reads the body, a JSON object with no other members than these, into c.body.
func (c *call) decode(fields ...field) *answer {
	members, refused := c.members()
	if refused != nil {
		return refused
	}
	c.body = map[string]any{}
	for _, f := range fields {
		value, given := members[f.name]
		delete(members, f.name)
		if !given && !f.required {
			continue
		}
		parsed, ok := f.parse(value)
		if !ok {
			a := invalidInput(f.name)
			return &a
		}
		if f.kind != ignored {
			c.body[f.name] = parsed
		}
	}
	for name := range members {
		a := breach("body member %q", name)
		return &a
	}
	return nil
}

func (f field) parse(value any) (parsed any, ok bool) {
	switch f.kind {
	case ignored:
		return nil, true
	case nullable:
		if value == nil {
			return (*string)(nil), true
		}
		t, ok := value.(string)
		return &t, ok
	case text:
		t, ok := value.(string)
		return t, ok && t != "" && (f.most == 0 || len([]rune(t)) <= f.most)
	case enum:
		return value, value == machineToMachine || value == user
	case integer:
		n, ok := value.(json.Number)
		i, err := strconv.Atoi(n.String())
		return i, ok && err == nil
	case instant:
		if value == nil {
			return time.Time{}, true
		}
		n, ok := value.(json.Number)
		ms, err := n.Int64()
		return time.UnixMilli(ms), ok && err == nil
	case object:
		o, ok := value.(map[string]any)
		return o, ok
	default:
		list, ok := value.([]any)
		all := make([]string, 0, len(list))
		for _, item := range list {
			t, isText := item.(string)
			ok = ok && isText && t != ""
			all = append(all, t)
		}
		return all, ok && (f.kind == maybe || len(all) > 0)
	}
}

// paging cuts a list to the page that the request asks for. Some lists may be read whole, without parameters.
func paging[T any](c *call, list []T, optional bool, show func(T) any) answer {
	header := http.Header{}
	shown := []any{}
	if !optional || c.query.Has("page") || c.query.Has("page_size") {
		page, size := 1, 20
		for name, to := range map[string]*int{"page": &page, "page_size": &size} {
			if !c.query.Has(name) {
				continue
			}
			n, err := strconv.Atoi(c.query.Get(name))
			if err != nil || n < 1 || name == "page_size" && n > 100 {
				return fail(http.StatusBadRequest, "guard.invalid_pagination")
			}
			*to = n
		}
		header.Set("Total-Number", strconv.Itoa(len(list)))
		start := min((page-1)*size, len(list))
		list = list[start:min(start+size, len(list))]
	}
	for _, item := range list {
		shown = append(shown, show(item))
	}
	return answer{status: http.StatusOK, value: shown, header: header}
}

// matcher returns the filter for search and search.name, their modes and
// isCaseSensitive. One of the searches has to match. The one without a field covers
// id, name and description.
func (c *call) matcher() (func(id, name, description string) bool, *answer) {
	fold := strings.ToLower
	switch sensitive := c.query.Get("isCaseSensitive"); sensitive {
	case "true":
		fold = func(s string) string { return s }
	case "", "false":
	default:
		a := breach("isCaseSensitive %q", sensitive)
		return nil, &a
	}
	searches := map[string]func(text string) bool{}
	for _, field := range []string{"", ".name"} {
		want, mode := c.query.Get("search"+field), c.query.Get("mode"+field)
		var refused answer
		switch {
		case !c.query.Has("search" + field):
			if mode == "" {
				continue
			}
			refused = breach("mode%s without search%s", field, field)
		case want == "":
			refused = fail(http.StatusBadRequest, "request.invalid_input")
		case mode == "exact":
			searches[field] = func(text string) bool { return fold(text) == fold(want) }
			continue
		case mode == "" || mode == "like":
			searches[field] = func(text string) bool { return like([]rune(fold(text)), []rune(fold(want))) }
			continue
		default:
			refused = breach("mode%s %q", field, mode)
		}
		return nil, &refused
	}
	return func(id, name, description string) bool {
		byName, anywhere := searches[".name"], searches[""]
		return len(searches) == 0 || byName != nil && byName(name) ||
			anywhere != nil && slices.ContainsFunc([]string{id, name, description}, anywhere)
	}, nil
}

// like implements SQL's LIKE: _ stands for any character, % for any number of them, and a backslash makes either
// literal.
func like(text, pattern []rune) bool {
	if len(pattern) == 0 {
		return len(text) == 0
	}
	switch {
	case pattern[0] == '%':
		return like(text, pattern[1:]) || len(text) > 0 && like(text[1:], pattern)
	case pattern[0] == '\\' && len(pattern) > 1:
		pattern = pattern[1:]
	case pattern[0] == '_' && len(text) > 0:
		return like(text[1:], pattern[1:])
	}
	return len(text) > 0 && text[0] == pattern[0] && like(text[1:], pattern[1:])
}
