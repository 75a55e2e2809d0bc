// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// catalogLife is how long the catalog is believed.
const catalogLife = time.Minute

// catalog remembers which identifiers of the server belong to which API and scope, so that clients of the same API do
// not read the same lists. What it says is tried and, where it turns out wrong or lacks something, read again.
type catalog struct {
	turn chan struct{} // held while reading from the server

	mu        sync.Mutex
	reads     uint64 // counts what was read, and is its age beside the clock
	listed    read   // all resources
	resources map[string]knownResource
	scopes    map[string]knownScopes // by the resource's id
}

// read is when something was read.
type read struct {
	at time.Time
	n  uint64
}

type knownResource struct {
	read
	id string
}

type knownScopes struct {
	read
	ids map[string]string // by name
}

func newCatalog() catalog {
	return catalog{
		turn: make(chan struct{}, 1), resources: map[string]knownResource{}, scopes: map[string]knownScopes{},
	}
}

func (c *catalog) stamp(now time.Time) read {
	c.reads++
	return read{at: now, n: c.reads}
}

// put takes what was read or made of an API.
func (c *catalog) put(now time.Time, api resource, scopes []scope) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stamp := c.stamp(now)
	c.resources[api.Indicator] = knownResource{stamp, api.ID}
	c.scopes[api.ID] = newKnownScopes(stamp, scopes)
}

func newKnownScopes(stamp read, scopes []scope) knownScopes {
	known := knownScopes{stamp, map[string]string{}}
	for _, s := range scopes {
		known.ids[s.Name] = s.ID
	}
	return known
}

// forget drops what is known of an API.
func (c *catalog) forget(identifier string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.scopes, c.resources[identifier].id)
	delete(c.resources, identifier)
}

// lookup is one call's use of the catalog: nothing is read twice in it, unless it is told to distrust all.
type lookup struct {
	d     *Driver
	since uint64 // what was read later needs no second look
}

func (d *Driver) newLookup() lookup {
	d.catalog.mu.Lock()
	defer d.catalog.mu.Unlock()
	return lookup{d: d, since: d.catalog.reads}
}

// distrust makes the lookup read again what it needs.
func (l *lookup) distrust(access []provision.Access) {
	for _, a := range access {
		l.d.catalog.forget(a.Resource)
	}
	*l = l.d.newLookup()
}

// young reports whether something was read lately enough to be used, fresh whether in this call.
func (l *lookup) young(r read) bool {
	return r.n > 0 && l.d.now().Sub(r.at) < catalogLife
}

func (l *lookup) fresh(r read) bool { return r.n > l.since }

// resource returns the id of the API that a wants, "" if the server has none.
func (l *lookup) resource(ctx context.Context, a provision.Access) (string, error) {
	c := &l.d.catalog
	c.mu.Lock()
	known := c.resources[a.Resource]
	listed := c.listed
	c.mu.Unlock()
	fits := known.id != "" && (a.ResourceID == "" || a.ResourceID == known.id)
	switch {
	case fits && l.young(known.read):
		return known.id, nil
	case l.fresh(known.read) || a.ResourceID == "" && l.fresh(listed):
		return "", nil
	}
	if a.ResourceID != "" {
		api, err := get[resource](ctx, l.d, readingAPI, resource{ID: a.ResourceID}.path())
		if err != nil || api == nil || api.Indicator != a.Resource {
			return "", err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.resources[a.Resource] = knownResource{c.stamp(l.d.now()), api.ID}
		return api.ID, nil
	}
	all, err := list[resource](ctx, l.d, "read the APIs", "/resources", nil)
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listed = c.stamp(l.d.now())
	c.resources = map[string]knownResource{}
	for _, r := range all {
		c.resources[r.Indicator] = knownResource{c.listed, r.ID}
	}
	return c.resources[a.Resource].id, nil
}

// scope returns the id of a scope of an API, "" if it has none of that name.
func (l *lookup) scope(ctx context.Context, resourceID, name string) (string, error) {
	c := &l.d.catalog
	c.mu.Lock()
	known := c.scopes[resourceID]
	c.mu.Unlock()
	if id := known.ids[name]; id != "" && l.young(known.read) {
		return id, nil
	}
	if l.fresh(known.read) {
		return "", nil
	}
	all, err := list[scope](ctx, l.d, readingScopes, resource{ID: resourceID}.path()+"/scopes", nil)
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.scopes[resourceID] = newKnownScopes(c.stamp(l.d.now()), all)
	return c.scopes[resourceID].ids[name], nil
}

// grant is a scope of an API, as a role has it.
type grant struct{ resource, scope string }

// grants are what a role has: the scope's and the resource's ids.
type grants map[grant]struct{ scopeID, resourceID string }

// access returns what of want.Access the role has. An API that the server knows and that nothing is granted of is in it
// without scopes.
func (s *clientSync) access(has grants) []provision.Access {
	var all []provision.Access
	for _, a := range s.want.Access {
		got := provision.Access{Resource: a.Resource, ResourceID: s.known[a.Resource]}
		for _, name := range a.Scopes {
			if ids, ok := has[grant{a.Resource, name}]; ok {
				got.ResourceID, got.Scopes = ids.resourceID, append(got.Scopes, name)
			}
		}
		slices.Sort(got.Scopes)
		if got.ResourceID != "" {
			all = append(all, got)
		}
	}
	slices.SortFunc(all, func(a, b provision.Access) int { return cmp.Compare(a.Resource, b.Resource) })
	return all
}

// grantTries bounds how often the scopes of a role are read and put right in one call.
const grantTries = 3

// syncGrants makes the role's scopes those of want.Access that the server knows. What is too much goes first, so that a
// grant that was withdrawn leaves the server even where another one cannot be given.
func (s *clientSync) syncGrants(ctx context.Context) error {
	if s.roleCreated {
		s.state.Access = nil
	}
	look := s.d.newLookup()
	fresh := s.roleCreated
	for try := 1; ; try++ {
		has := grants{}
		if !fresh {
			var err error
			if has, err = s.readGrants(ctx); err != nil {
				return err
			}
		}
		fresh = false
		if err := s.withdraw(ctx, has); err != nil {
			return err
		}
		err := s.give(ctx, has, &look)
		if err == nil {
			s.state.Access = s.access(has)
			return nil
		}
		// A scope was there already, or is gone, or a race was lost: only looking again tells.
		if try == grantTries || !disputed(err) && !gone(err) {
			return err
		}
		look.distrust(s.want.Access)
	}
}

func (s *clientSync) readGrants(ctx context.Context) (grants, error) {
	r := request{doing: "read the role's scopes"}
	all, err := list[scope](ctx, s.d, r.doing, s.rolePath()+"/scopes", nil)
	if err != nil {
		return nil, err
	}
	has := grants{}
	for _, c := range all {
		if c.Resource == nil || c.Resource.Indicator == "" {
			return nil, r.failed(provision.Unavailable, "the answer does not say of which API they are")
		}
		has[grant{c.Resource.Indicator, c.Name}] = struct{ scopeID, resourceID string }{c.ID, c.Resource.ID}
	}
	return has, nil
}

// wanted reports whether a grant is wanted, of that very API.
func (s *clientSync) wanted(g grant, resourceID string) bool {
	return slices.ContainsFunc(s.want.Access, func(a provision.Access) bool {
		return a.Resource == g.resource && (a.ResourceID == "" || a.ResourceID == resourceID) && slices.Contains(a.Scopes, g.scope)
	})
}

// had reports whether the last complete call left a grant to this role.
func (s *clientSync) had(g grant) bool {
	return s.settled() && slices.ContainsFunc(s.began.Access, func(a provision.Access) bool {
		return a.Resource == g.resource && slices.Contains(a.Scopes, g.scope)
	})
}

// announceLess records the access without what is about to be withdrawn, so that nobody asks for a token with it
// meanwhile. Until the call is complete, what the server has beside it was not changed by somebody.
func (s *clientSync) announceLess(ctx context.Context) error {
	var less []provision.Access
	goes := false
	for _, a := range s.state.Access {
		kept := slices.DeleteFunc(slices.Clone(a.Scopes), func(name string) bool { return !s.wanted(grant{a.Resource, name}, a.ResourceID) })
		goes = goes || len(kept) < len(a.Scopes)
		less = append(less, provision.Access{Resource: a.Resource, ResourceID: a.ResourceID, Scopes: kept})
	}
	if !goes {
		return nil
	}
	s.state.Access, s.state.Creating = less, true
	return s.keep(ctx)
}

func (s *clientSync) withdraw(ctx context.Context, has grants) error {
	if err := s.announceLess(ctx); err != nil {
		return err
	}
	for _, g := range has.sorted() {
		ids := has[g]
		if s.wanted(g, ids.resourceID) {
			continue
		}
		if err := s.d.remove(ctx, "withdraw a scope from the role", s.rolePath()+"/scopes/"+url.PathEscape(ids.scopeID)); err != nil {
			return err
		}
		if !s.had(g) && s.settled() {
			s.changed("Scope %q of API %q had been granted", g.scope, g.resource)
		}
		delete(has, g)
	}
	s.state.Access = s.access(has)
	return nil
}

func (s *clientSync) give(ctx context.Context, has grants, look *lookup) error {
	add, err := s.missing(ctx, has, look)
	if err != nil || len(add) == 0 {
		return err
	}
	var scopeIDs []string
	for _, g := range add.sorted() {
		scopeIDs = append(scopeIDs, add[g].scopeID)
	}
	if _, err := s.d.call(ctx, request{doing: "grant scopes to the role", method: http.MethodPost, path: s.rolePath() + "/scopes",
		body: map[string]any{"scopeIds": scopeIDs}}, nil); err != nil {
		return err
	}
	for _, g := range add.sorted() {
		has[g] = add[g]
		if s.had(g) {
			s.changed("Scope %q of API %q was not granted", g.scope, g.resource)
		}
	}
	return nil
}

// missing returns the grants that are wanted, not there, and known to the server.
func (s *clientSync) missing(ctx context.Context, has grants, look *lookup) (grants, error) {
	add := grants{}
	var incomplete []provision.Access
	for _, a := range s.want.Access {
		lacks := func(name string) bool { _, ok := has[grant{a.Resource, name}]; return !ok }
		if len(a.Scopes) > 0 && !slices.ContainsFunc(a.Scopes, lacks) {
			continue
		}
		incomplete = append(incomplete, a)
		// What the role should still have and has not, somebody changed: the scope may be another one by now.
		if slices.ContainsFunc(a.Scopes, func(name string) bool { return lacks(name) && s.had(grant{a.Resource, name}) }) {
			s.d.catalog.forget(a.Resource)
		}
	}
	if len(incomplete) == 0 {
		return add, nil
	}
	select { // one reads, the others find what it read
	case s.d.catalog.turn <- struct{}{}:
		defer func() { <-s.d.catalog.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for _, a := range incomplete {
		if err := s.resolve(ctx, a, has, look, add); err != nil {
			return nil, err
		}
	}
	return add, nil
}

func (s *clientSync) resolve(ctx context.Context, a provision.Access, has grants, look *lookup, add grants) error {
	resourceID, err := look.resource(ctx, a)
	if err != nil {
		return err
	}
	s.known[a.Resource] = resourceID
	if resourceID == "" {
		return nil
	}
	for _, name := range a.Scopes {
		g := grant{a.Resource, name}
		if _, ok := has[g]; ok {
			continue
		}
		id, err := look.scope(ctx, resourceID, name)
		if err != nil {
			return err
		}
		if id != "" {
			add[g] = struct{ scopeID, resourceID string }{id, resourceID}
		}
	}
	return nil
}

func (g grants) sorted() []grant {
	var all []grant
	for has := range g {
		all = append(all, has)
	}
	slices.SortFunc(all, func(a, b grant) int {
		return cmp.Or(cmp.Compare(a.resource, b.resource), cmp.Compare(a.scope, b.scope))
	})
	return all
}
