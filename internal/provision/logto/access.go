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
	"github.com/m2m-operator/m2m-operator/internal/provision/logto/management"
)

// catalogLife is how long an entry of the catalog is trusted.
const catalogLife = time.Minute

// catalog remembers which identifiers of the server belong to which API and scope, so that clients of the same API do
// not each read the same lists. If an entry turns out wrong or is missing, the driver reads again.
type catalog struct {
	turn chan struct{} // held while reading from the server

	mu        sync.Mutex
	reads     uint64 // counts the reads, and dates them besides the clock
	listed    read   // all resources
	resources map[string]knownResource
	scopes    map[string]knownScopes // by the resource's id
}

// read is the time of a read.
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

// put stores what was read or created of an API.
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

// forget drops what is known about an API.
func (c *catalog) forget(identifier string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.scopes, c.resources[identifier].id)
	delete(c.resources, identifier)
}

// lookup is one call's use of the catalog. It reads nothing twice, unless it is told to distrust everything.
type lookup struct {
	d     *Driver
	since uint64 // reads after this one are not repeated
}

func (d *Driver) newLookup() lookup {
	d.catalog.mu.Lock()
	defer d.catalog.mu.Unlock()
	return lookup{d: d, since: d.catalog.reads}
}

// distrust makes the lookup read everything again.
func (l *lookup) distrust(access []provision.Access) {
	for _, a := range access {
		l.d.catalog.forget(a.Resource)
	}
	*l = l.d.newLookup()
}

// trusted reports whether a read may be used: it is recent, or fresh.
func (l *lookup) trusted(r read) bool {
	return l.fresh(r) || l.d.now().Sub(r.at) < catalogLife
}

// fresh reports whether a read was made since the lookup began, however long that took.
func (l *lookup) fresh(r read) bool { return r.n > l.since }

// resource returns the id of the API that a names, "" if the server has none.
func (l *lookup) resource(ctx context.Context, a provision.Access) (string, error) {
	c := &l.d.catalog
	c.mu.Lock()
	known := c.resources[a.Resource]
	listed := c.listed
	c.mu.Unlock()
	fits := a.ResourceID == "" || a.ResourceID == known.id
	switch {
	case fits && l.trusted(known.read):
		return known.id, nil
	case l.fresh(known.read) || a.ResourceID == "" && l.fresh(listed):
		return "", nil
	}
	if a.ResourceID != "" {
		api, err := management.Get[resource](ctx, l.d.logto, readingAPI, resource{ID: a.ResourceID}.path())
		if err != nil || api == nil || api.Indicator != a.Resource {
			return "", err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.resources[a.Resource] = knownResource{c.stamp(l.d.now()), api.ID}
		return api.ID, nil
	}
	all, err := management.List[resource](ctx, l.d.logto, "read the APIs", "/resources", nil)
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

// scope returns the id of an API's scope, "" if there is none of that name.
func (l *lookup) scope(ctx context.Context, resourceID, name string) (string, error) {
	c := &l.d.catalog
	c.mu.Lock()
	known := c.scopes[resourceID]
	c.mu.Unlock()
	if id := known.ids[name]; id != "" && l.trusted(known.read) {
		return id, nil
	}
	if l.fresh(known.read) {
		return "", nil
	}
	all, err := management.List[scope](ctx, l.d.logto, readingScopes, resource{ID: resourceID}.path()+"/scopes", nil)
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.scopes[resourceID] = newKnownScopes(c.stamp(l.d.now()), all)
	return c.scopes[resourceID].ids[name], nil
}

// grant is a scope of an API in a role.
type grant struct{ resource, scope string }

// grants are a role's: the ids of scope and resource.
type grants map[grant]struct{ scopeID, resourceID string }

// access returns the part of want.Access that the role has. It includes an API that the server knows without scopes if
// the role has none of them.
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

// grantTries bounds how often one call reads the scopes of a role and puts them right.
const grantTries = 3

// syncGrants gives the role the scopes of want.Access that the server knows. It removes grants first, so that a
// withdrawn grant leaves the server even if another one cannot be added.
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
		// A scope was already there, or is gone, or a race was lost. Only looking again tells.
		if try == grantTries || !management.Disputed(err) && !management.Gone(err) {
			return err
		}
		look.distrust(s.want.Access)
	}
}

func (s *clientSync) readGrants(ctx context.Context) (grants, error) {
	r := management.Request{Doing: "read the role's scopes"}
	all, err := management.List[scope](ctx, s.d.logto, r.Doing, s.rolePath()+"/scopes", nil)
	if err != nil {
		return nil, err
	}
	has := grants{}
	for _, c := range all {
		if c.Resource == nil || c.Resource.Indicator == "" {
			return nil, r.Failed(provision.Unavailable, "the answer does not name the API of each scope")
		}
		has[grant{c.Resource.Indicator, c.Name}] = struct{ scopeID, resourceID string }{c.ID, c.Resource.ID}
	}
	return has, nil
}

// wanted reports whether want.Access has the grant, of this very API.
func (s *clientSync) wanted(g grant, resourceID string) bool {
	return slices.ContainsFunc(s.want.Access, func(a provision.Access) bool {
		return a.Resource == g.resource && (a.ResourceID == "" || a.ResourceID == resourceID) && slices.Contains(a.Scopes, g.scope)
	})
}

// had reports whether the last complete call left the grant in this role.
func (s *clientSync) had(g grant) bool {
	return s.settled() && slices.ContainsFunc(s.began.Access, func(a provision.Access) bool {
		return a.Resource == g.resource && slices.Contains(a.Scopes, g.scope)
	})
}

// announceLess records the access without the grants about to be withdrawn, so that nobody asks for a token with them
// meanwhile. Until the call is complete, more access at the server does not count as drift.
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
		if err := s.d.logto.Delete(ctx, "withdraw a scope from the role", s.rolePath()+"/scopes/"+url.PathEscape(ids.scopeID)); err != nil {
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
	if err := s.d.logto.Call(ctx, management.Request{Doing: "grant scopes to the role", Method: http.MethodPost, Path: s.rolePath() + "/scopes",
		Body: map[string]any{"scopeIds": scopeIDs}}, nil); err != nil {
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

// missing returns the grants that are wanted and known to the server, but not in the role.
func (s *clientSync) missing(ctx context.Context, has grants, look *lookup) (grants, error) {
	add := grants{}
	var incomplete []provision.Access
	for _, a := range s.want.Access {
		lacks := func(name string) bool { _, ok := has[grant{a.Resource, name}]; return !ok }
		if len(a.Scopes) > 0 && !slices.ContainsFunc(a.Scopes, lacks) {
			continue
		}
		incomplete = append(incomplete, a)
		// Somebody removed a grant that the role should still have. The scope may be another one by now.
		if slices.ContainsFunc(a.Scopes, func(name string) bool { return lacks(name) && s.had(grant{a.Resource, name}) }) {
			s.d.catalog.forget(a.Resource)
		}
	}
	if len(incomplete) == 0 {
		return add, nil
	}
	select { // one caller reads, the others use its result
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
