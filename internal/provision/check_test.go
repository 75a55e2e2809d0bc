// SPDX-License-Identifier: Apache-2.0

package provision_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

// marked reports whether what is said about something carries the owner's mark.
func marked(o provision.Owner, about ...any) bool {
	text := fmt.Sprint(about...)
	return strings.Contains(text, o.ID()) ||
		strings.Contains(text, fmt.Sprintf("cluster:%s kind:%s name:%s namespace:%s ", o.Cluster, o.Kind, o.Name, o.Namespace))
}

// marks says what carries the owner's mark, or is what the state speaks of.
func (c *clientOwner) marks(all logtotest.Snapshot) (applications []logtotest.Application, roles []logtotest.Role) {
	id, state := c.owner.ID(), c.known()
	for _, a := range all.Applications {
		if strings.Contains(a.Name, id) || strings.Contains(a.Description, id) || len(a.CustomData) > 0 && marked(c.owner, a.CustomData) ||
			strings.Contains(strings.Join(a.Secrets, " "), id) || c.exists && a.ID == state.ID {
			applications = append(applications, a)
		}
	}
	for _, r := range all.Roles {
		if strings.Contains(r.Name, id) || strings.Contains(r.Description, id) || c.exists && r.ID == state.GrantID {
			roles = append(roles, r)
		}
	}
	return applications, roles
}

// never returns what must not be at any time, whatever fails: something that was made twice.
func (w *world) never() (wrong []string) {
	all := w.server.Snapshot()
	for _, c := range w.clients {
		who := c.owner.Cluster + "/" + c.owner.Name
		if applications, roles := c.marks(all); len(applications) > 1 || len(roles) > 1 {
			wrong = append(wrong, fmt.Sprintf("%s has %d applications and %d roles", who, len(applications), len(roles)))
		}
		if n := len(c.known().Credentials); n > 3 {
			wrong = append(wrong, fmt.Sprintf("%s has %d credentials", who, n))
		}
	}
	wrong = append(wrong, w.outages...)
	for _, what := range w.server.Violations() {
		wrong = append(wrong, "the server was asked what it does not know: "+what)
	}
	return wrong
}

// theirs returns what other people have, as they see it: without what the operator may add to it.
func (w *world) theirs() string {
	var kept logtotest.Snapshot
	all := w.server.Snapshot()
	for _, r := range all.Resources {
		at := slices.IndexFunc(w.apis, func(a *apiOwner) bool { return a.want.Identifier == r.Indicator })
		switch {
		case at < 0 || w.apis[at].watching || w.apis[at].refused:
			kept.Resources = append(kept.Resources, r)
		case w.apis[at].theirs: // taken over
			kept.Resources = append(kept.Resources, logtotest.Resource{ID: r.ID, Scopes: only(r.Scopes, "read", "theirs")})
		}
	}
	for _, a := range all.Applications {
		adopted := slices.ContainsFunc(w.clients, func(c *clientOwner) bool { return c.adopt == a.ID })
		switch {
		case adopted:
			a.CustomData, a.Description = nil, ""
			a.Secrets = intersection(a.Secrets, []string{"Default secret", "theirs", "surplus"})
			a.Secrets = slices.DeleteFunc(a.Secrets, func(s string) bool { return s == "surplus" })
		case !slices.Contains(w.others.applications, a.ID):
			continue
		}
		a.Roles = intersection(a.Roles, w.others.roles)
		kept.Applications = append(kept.Applications, a)
	}
	for _, r := range all.Roles {
		if slices.Contains(w.others.roles, r.ID) {
			r.Applications = slices.DeleteFunc(r.Applications, func(id string) bool {
				return !slices.ContainsFunc(kept.Applications, func(a logtotest.Application) bool { return a.ID == id })
			})
			kept.Roles = append(kept.Roles, r)
		}
	}
	b, err := json.MarshalIndent(kept, "", " ")
	if err != nil {
		panic(err)
	}
	return string(b)
}

// only returns the names that are among those wanted, without their descriptions.
func only(scopes []logtotest.Scope, wanted ...string) (some []logtotest.Scope) {
	for _, s := range scopes {
		if slices.Contains(wanted, s.Name) {
			some = append(some, logtotest.Scope{ID: s.ID, Name: s.Name})
		}
	}
	return some
}

func intersection(a, b []string) (both []string) {
	for _, s := range a {
		if slices.Contains(b, s) {
			both = append(both, s)
		}
	}
	return both
}

// rest returns what is not as it must be once nothing is left to do.
func (w *world) rest() (wrong []string) {
	all := w.server.Snapshot()
	for _, a := range w.apis {
		for _, what := range w.restOfAPI(a, all) {
			wrong = append(wrong, a.want.Owner.Name+": "+what)
		}
	}
	for _, c := range w.clients {
		for _, what := range w.restOfClient(c, all) {
			wrong = append(wrong, c.owner.Cluster+"/"+c.owner.Name+": "+what)
		}
	}
	return append(wrong, w.never()...)
}

func (w *world) restOfAPI(a *apiOwner, all logtotest.Snapshot) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	at := slices.IndexFunc(all.Resources, func(r logtotest.Resource) bool { return r.Indicator == a.want.Identifier })
	if !a.exists || a.refused {
		if at >= 0 && (!a.theirs || marked(a.want.Owner, all.Resources[at])) {
			bad("is still there: %+v", all.Resources[at])
		}
		return wrong
	}
	if at < 0 {
		bad("is not there")
		return wrong
	}
	r, state := all.Resources[at], a.state()
	if state.ID != r.ID {
		bad("has the identifier %q, recorded is %q", r.ID, state.ID)
	}
	if want := a.want.Owner.Owns; !a.theirs && !want(r.Name) {
		bad("is named %q", r.Name)
	}
	if want := a.origin(); state.Origin != want {
		bad("is recorded as %s, want %s", state.Origin, want)
	}
	if a.watching {
		return wrong
	}
	if want := a.want.TokenLifetime; want > 0 && r.AccessTokenTTL != int(want.Seconds()) {
		bad("tokens live %d s, want %s", r.AccessTokenTTL, want)
	}
	has, want := map[string]string{}, map[string]string{}
	for _, s := range r.Scopes {
		has[s.Name] = s.Description
	}
	before := []string{"surplus"} // what others add stays
	if a.theirs {
		before = []string{"read", "theirs"}
	}
	for _, name := range before {
		if description, ok := has[name]; ok || a.theirs {
			want[name] = description
		}
	}
	var names []string
	for _, s := range a.want.Scopes {
		names = append(names, s.Name)
		if a.theirs && s.Name == "read" {
			continue // it was there before
		}
		if want[s.Name] = s.Description; strings.HasPrefix(has[s.Name], s.Description) && (s.Description != "" || strings.HasPrefix(has[s.Name], "[")) {
			want[s.Name] = has[s.Name] // with the mark behind it
		}
	}
	if diff := cmp.Diff(want, has); diff != "" {
		bad("scopes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(names, state.Scopes); diff != "" {
		bad("recorded scopes (-want +got):\n%s", diff)
	}
	return wrong
}

func (a *apiOwner) origin() provision.Origin {
	switch {
	case a.watching:
		return provision.Observed
	case a.theirs:
		return provision.Adopted
	}
	return provision.Created
}

// grants is what a client is to have at the server: what it may have of what there is.
func (w *world) grants(c *clientOwner, all logtotest.Snapshot) map[string][]string {
	grants := map[string][]string{}
	for i, a := range w.apis {
		for _, r := range all.Resources {
			if r.Indicator != a.want.Identifier || !a.exists || a.refused || c.access[i] == nil {
				continue
			}
			var names []string
			for _, s := range r.Scopes {
				names = append(names, s.Name)
			}
			grants[r.Indicator] = intersection(c.access[i], names)
		}
	}
	return grants
}

func (w *world) restOfClient(c *clientOwner, all logtotest.Snapshot) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	apps, roles := c.marks(all)
	state := c.known()
	switch {
	case !c.exists && !c.retained && len(apps)+len(roles) > 0:
		bad("is still there: %+v %+v", apps, roles)
	case !c.exists && len(apps) > 0 && c.adopt == "" && len(apps[0].Secrets) > 0: // how much was retained, the console decided
		bad("still has secrets: %+v", apps)
	}
	if !c.exists {
		return wrong
	}
	grants := w.grants(c, all)
	scopes := map[string][]string{}
	for resource, names := range grants {
		if len(names) > 0 {
			scopes[resource] = names
		}
	}
	if len(apps) != 1 || len(roles) > 1 || len(roles) == 0 && len(scopes) > 0 {
		bad("has %d applications and %d roles", len(apps), len(roles))
		return wrong
	}
	app := apps[0]
	if app.ID != state.ID || c.adopt != "" && app.ID != c.adopt {
		bad("has the application %q, recorded is %q", app.ID, state.ID)
	}
	if c.adopt == "" && app.Name != c.owner.DisplayName() {
		bad("is named %q", app.Name)
	}
	wantRoles, wantSecrets := []string(nil), []string(nil)
	if c.adopt != "" {
		wantRoles, wantSecrets = append(wantRoles, w.others.role), intersection(app.Secrets, []string{"Default secret", "theirs", "surplus"})
	}
	for _, r := range roles {
		wantRoles = append(wantRoles, r.ID)
		if r.ID != state.GrantID {
			bad("has the role %q, recorded is %q", r.ID, state.GrantID)
		}
		if diff := cmp.Diff(scopes, r.Scopes); diff != "" && len(scopes)+len(r.Scopes) > 0 {
			bad("scopes of the role (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{app.ID}, r.Applications); diff != "" {
			bad("applications of the role (-want +got):\n%s", diff)
		}
	}
	slices.Sort(wantRoles)
	if diff := cmp.Diff(wantRoles, app.Roles); diff != "" {
		bad("roles of the application (-want +got):\n%s", diff)
	}
	for _, k := range state.Credentials {
		if k.Stage == provision.Issuing && !slices.Contains(app.Secrets, k.Name) && len(grants) == 0 {
			continue // access went before it was made
		}
		wantSecrets = append(wantSecrets, k.Name)
		if k.Stage == provision.Issuing && len(grants) == 0 {
			continue
		}
		if k.ClientID != app.ID || k.Secret.Reveal() != w.server.SecretValue(app.ID, k.Name) {
			bad("credential %s is not the server's", k.Name)
		}
	}
	slices.Sort(wantSecrets)
	if diff := cmp.Diff(wantSecrets, app.Secrets); diff != "" {
		bad("secrets (-want +got):\n%s", diff)
	}
	return append(wrong, w.restOfAccess(c, state, grants)...)
}

// restOfAccess asks for tokens: what the state says must be what they carry.
func (w *world) restOfAccess(c *clientOwner, state *provision.ClientState, grants map[string][]string) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	recorded := map[string][]string{}
	for _, a := range state.Access {
		recorded[a.Resource] = a.Scopes
	}
	if len(recorded) != len(grants) {
		bad("recorded access to %d APIs, want %d", len(recorded), len(grants))
	}
	current := state.Current()
	if current == nil {
		if len(grants) > 0 {
			bad("has no credential in use")
		}
		return wrong
	}
	if c.rotation.Request != "" && len(grants) > 0 && state.Rotation != c.rotation.Request {
		bad("did not answer the request to rotate")
	}
	if len(grants) > 0 && slices.Contains(c.leaked, current.Secret) {
		bad("still uses what was to be replaced")
	}
	for _, a := range w.apis {
		want, known := grants[a.want.Identifier]
		if got := recorded[a.want.Identifier]; !slices.Equal(want, got) {
			bad("recorded scopes %q of %s, want %q", got, a.want.Identifier, want)
		}
		if !known && c.adopt != "" {
			continue
		}
		got, err := w.token(context.Background(), w.server.Transport(), current.ClientID, current.Secret.Reveal(), a.want.Identifier,
			append([]string{"theirs", "surplus"}, scopeNames...))
		if known && err != nil {
			bad("token for %s: %v", a.want.Identifier, err)
		}
		if err == nil && !slices.Equal(want, got) {
			bad("token for %s has the scopes %q, want %q", a.want.Identifier, got, want)
		}
	}
	return wrong
}
