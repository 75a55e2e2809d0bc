// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"cmp"
	"slices"
	"time"
)

const (
	machineToMachine = "MachineToMachine"
	user             = "User"
	defaultSecret    = "Default secret"
	managementRole   = "Logto Management API access"
	defaultTTL       = 3600
)

type state struct {
	resources     map[string]*resource
	scopes        map[string]*scope
	applications  map[string]*application
	roles         map[string]*role
	organizations map[string]map[string]bool // application ids by organization
	created       int                        // number of rows ever created
	secrets       []string                   // every value ever created
}

// row has what all rows have. An update moves a row to another place in an unordered
// list.
type row struct {
	id       string
	sequence int
	updates  int
	created  time.Time
	builtin  bool // every Logto has it from the start
}

type resource struct {
	row
	name, indicator string
	ttl             int
}

type scope struct {
	row
	resource, name string
	description    *string
}

type application struct {
	row
	name        string
	description *string
	customData  map[string]any
	secret      string // the secret in the application's body
	secrets     []*secret
	roles       map[string]bool
}

type secret struct {
	row
	name, value string
	expires     time.Time // zero: never
}

type role struct {
	row
	name, description, kind string
	scopes                  map[string]bool
}

func newState() state {
	return state{
		resources: map[string]*resource{}, scopes: map[string]*scope{}, applications: map[string]*application{},
		roles: map[string]*role{}, organizations: map[string]map[string]bool{},
	}
}

func (s *Server) newRow() row {
	s.state.created++
	return row{id: s.opaque(lowercase, 21), sequence: s.state.created, created: s.now()}
}

const (
	lowercase    = "abcdefghijklmnopqrstuvwxyz0123456789"
	alphanumeric = lowercase + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

func (s *Server) opaque(alphabet string, length int) string {
	b := make([]byte, length)
	for i := range b {
		b[i] = alphabet[s.rand.IntN(len(alphabet))]
	}
	return string(b)
}

func (s *Server) secretValue() string {
	value := s.opts.secretPrefix + s.opaque(alphanumeric, max(16, 32-len(s.opts.secretPrefix)))
	s.state.secrets = append(s.state.secrets, value)
	return value
}

func (s *Server) insertResource(name, indicator string, ttl int) *resource {
	r := &resource{row: s.newRow(), name: name, indicator: indicator, ttl: ttl}
	s.state.resources[r.id] = r
	return r
}

func (s *Server) insertScope(resourceID, name string, description *string) *scope {
	c := &scope{row: s.newRow(), resource: resourceID, name: name, description: description}
	s.state.scopes[c.id] = c
	return c
}

func (s *Server) insertApplication(name string) *application {
	a := &application{row: s.newRow(), name: name, customData: map[string]any{}, roles: map[string]bool{}}
	a.secret = s.secretValue()
	s.state.applications[a.id] = a
	s.insertSecret(a, defaultSecret, time.Time{})
	return a
}

func (s *Server) insertSecret(a *application, name string, expires time.Time) *secret {
	c := &secret{row: s.newRow(), name: name, value: s.secretValue(), expires: expires}
	a.secrets = append(a.secrets, c)
	return c
}

func (s *Server) insertRole(name, description, kind string) *role {
	r := &role{row: s.newRow(), name: name, description: description, kind: kind, scopes: map[string]bool{}}
	s.state.roles[r.id] = r
	return r
}

func (s *Server) dropResource(r *resource) {
	for _, c := range s.scopesOf(r.id) {
		s.dropScope(c)
	}
	delete(s.state.resources, r.id)
}

func (s *Server) dropScope(c *scope) {
	for _, r := range s.state.roles {
		delete(r.scopes, c.id)
	}
	delete(s.state.scopes, c.id)
}

func (s *Server) dropRole(r *role) {
	for _, a := range s.state.applications {
		delete(a.roles, r.id)
	}
	delete(s.state.roles, r.id)
}

func (s *Server) dropApplication(a *application) {
	for _, members := range s.state.organizations {
		delete(members, a.id)
	}
	delete(s.state.applications, a.id)
}

func (s *Server) resourceAt(indicator string) *resource {
	for _, r := range s.state.resources {
		if r.indicator == indicator {
			return r
		}
	}
	return nil
}

func (s *Server) scopesOf(resourceID string) []*scope {
	return unordered(s, s.state.scopes, func(c *scope) bool { return c.resource == resourceID })
}

func (s *Server) scopeOf(resourceID, name string) *scope {
	for _, c := range s.state.scopes {
		if c.resource == resourceID && c.name == name {
			return c
		}
	}
	return nil
}

func (s *Server) roleNamed(name string) *role {
	for _, r := range s.state.roles {
		if r.name == name {
			return r
		}
	}
	return nil
}

func (a *application) secretNamed(name string) *secret {
	for _, c := range a.secrets {
		if c.name == name {
			return c
		}
	}
	return nil
}

func (r *row) key() *row { return r }

type keyed interface{ key() *row }

// unordered lists the wanted rows in an arbitrary order, as a table read without an ORDER BY does. The order
// depends on the seed and stays the same until something changes; an update moves a row.
func unordered[T keyed](s *Server, rows map[string]T, want func(T) bool) []T {
	var list []T
	for _, r := range rows {
		if want(r) {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b T) int { return cmp.Compare(s.place(a.key()), s.place(b.key())) })
	return list
}

// place mixes the bits of its arguments (the finaliser of MurmurHash3).
func (s *Server) place(r *row) uint64 {
	h := s.opts.seed*0x9e3779b97f4a7c15 + uint64(r.sequence)<<20 + uint64(r.updates)
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
