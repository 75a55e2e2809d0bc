// SPDX-License-Identifier: Apache-2.0

package provision_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

var scopeNames = []string{"admin", "read", "refund", "write"}

// others is what other people have at the server: it stays as they leave it.
type others struct {
	application, role string
	applications      []string
	roles             []string
	resources         []string // identifiers
}

func (w *world) newUID() string {
	w.uids++
	return fmt.Sprintf("00000000-0000-4000-8000-%012d", w.uids)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// populate makes what other people have, and objects in one or two clusters that want something of the server.
func (w *world) populate() {
	s := w.server
	stranger := provision.Owner{Cluster: "north", Kind: "M2MClient", Namespace: "shop", Name: "client-0", UID: "n"}
	const legacy = "https://legacy.example.com"
	must(s.CreateResource("Legacy", legacy, 900, "read", "write"))
	w.others.application = s.CreateApplication("shop/client-0@east", "Made by hand")
	w.others.role = must(s.CreateRole("Legacy readers", "Made by hand"))
	check(s.GrantScope(w.others.role, legacy, "read"))
	check(s.AssignRole(w.others.role, w.others.application))
	// Another cluster's client of the same name, and things that look like ours.
	foreign := s.CreateApplication(stranger.DisplayName(), stranger.Mark())
	check(s.SetCustomData(foreign, map[string]any{"note": stranger.Mark()}))
	foreignRole := must(s.CreateRole(stranger.DisplayName(), stranger.Mark()))
	check(s.AssignRole(foreignRole, foreign))
	w.others.applications = []string{w.others.application, foreign}
	w.others.roles = []string{w.others.role, foreignRole}
	w.others.resources = []string{legacy}
	for i := range pick(w.rand, []int{0, 3, 20, 110}) { // some of them on further pages
		must(s.CreateResource("Theirs", fmt.Sprintf("https://theirs-%d.example.com", i), 0))
		if i%2 == 0 {
			w.others.applications = append(w.others.applications, s.CreateApplication(fmt.Sprintf("App %d", i), ""))
		} else {
			w.others.roles = append(w.others.roles, must(s.CreateRole(fmt.Sprintf("Role %d", i), "A role")))
		}
	}

	clusters := []string{"east", "west"}
	for i := range 1 + w.rand.IntN(3) {
		a := &apiOwner{stored: []byte("{}"), exists: true}
		a.want = provision.API{
			Owner: provision.Owner{
				Cluster: pick(w.rand, clusters), Kind: "APIResource", Namespace: "payments", Name: fmt.Sprintf("api-%d", i), UID: w.newUID(),
			},
			Identifier: fmt.Sprintf("https://api-%d.example.com", i),
		}
		w.changeScopes(a)
		switch w.rand.IntN(8) {
		case 0:
			a.theirs, a.want.Adopt = true, true
		case 1:
			a.theirs, a.want.Adopt, a.want.Observe, a.watching = true, true, true, true
		case 2:
			a.theirs, a.refused = true, true
		}
		if a.theirs {
			must(s.CreateResource("Theirs", a.want.Identifier, 1800, "read", "theirs"))
		}
		w.apis = append(w.apis, a)
	}
	for i := range 1 + w.rand.IntN(3) {
		c := &clientOwner{stored: []byte("{}"), exists: true, access: map[int][]string{}}
		c.owner = provision.Owner{
			Cluster: clusters[i%2], Kind: "M2MClient", Namespace: "shop", Name: fmt.Sprintf("client-%d", i/2), UID: w.newUID(),
		}
		c.rotation.Overlap = 10 * time.Minute
		if w.rand.IntN(5) == 0 {
			c.adopt = s.CreateApplication("Theirs", "Made by hand")
			must(s.AddSecret(c.adopt, "theirs", time.Time{}))
			check(s.AssignRole(w.others.role, c.adopt))
		}
		for j := range w.apis {
			w.changeAccess(c, j)
		}
		w.clients = append(w.clients, c)
	}
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// subset returns some of the names, sorted.
func (w *world) subset(names []string) (some []string) {
	for _, name := range names {
		if w.rand.IntN(2) == 0 {
			some = append(some, name)
		}
	}
	return some
}

// changeScopes declares other scopes, or describes them in another way.
func (w *world) changeScopes(a *apiOwner) {
	a.want.Scopes = nil
	for _, name := range w.subset(scopeNames) {
		a.want.Scopes = append(a.want.Scopes, provision.Scope{Name: name, Description: pick(w.rand, []string{"", "May " + name, "Will " + name})})
	}
	a.want.TokenLifetime = pick(w.rand, []time.Duration{0, 5 * time.Minute, time.Hour})
}

// changeAccess widens, narrows or withdraws what a client may do with an API.
func (w *world) changeAccess(c *clientOwner, api int) {
	delete(c.access, api)
	if w.rand.IntN(4) > 0 {
		c.access[api] = append([]string{}, w.subset(scopeNames)...)
	}
}

// meddle is somebody at the console, and says what they did. Some of it finds nothing to change.
func (w *world) meddle() string {
	all := w.server.Snapshot()
	if w.rand.IntN(3) == 0 {
		return w.meddleWithAPI(all)
	}
	c := pick(w.rand, w.clients)
	state := c.state()
	at := slices.IndexFunc(all.Applications, func(a logtotest.Application) bool { return a.ID == state.ID })
	if at < 0 {
		return "nobody"
	}
	app := all.Applications[at]
	var role *logtotest.Role
	if at := slices.IndexFunc(all.Roles, func(r logtotest.Role) bool { return r.ID == state.GrantID }); at >= 0 {
		role = &all.Roles[at]
	}
	who := c.owner.Cluster + "/" + c.owner.Name
	if w.rand.IntN(2) == 0 && role != nil {
		return w.meddleWithRole(who, app, *role)
	}
	return w.meddleWithApplication(who, c, app)
}

func (w *world) meddleWithAPI(all logtotest.Snapshot) string {
	a := pick(w.rand, w.apis)
	at := slices.IndexFunc(all.Resources, func(r logtotest.Resource) bool { return r.Indicator == a.want.Identifier })
	// What nobody but its maker may touch is left alone, and so is what the operator could not find any more.
	if at < 0 || a.theirs || a.state().ID != all.Resources[at].ID || a.state().Origin != provision.Created {
		return "nobody"
	}
	indicator, scopes := a.want.Identifier, all.Resources[at].Scopes
	what := []func() string{
		func() string {
			check(w.server.SetResourceTTL(indicator, 1234))
			return "changes the lifetime"
		},
		func() string {
			check(w.server.RenameResource(indicator, "Renamed"))
			return "renames it"
		},
		func() string {
			check(w.server.DeleteResource(indicator))
			return "deletes it"
		},
		func() string {
			_, _ = w.server.AddScope(indicator, "surplus", "Somebody's")
			return "adds a scope"
		},
	}
	if len(scopes) > 0 {
		name := pick(w.rand, scopes).Name
		what = append(what, func() string {
			check(w.server.RemoveScope(indicator, name))
			return "removes scope " + name
		})
	}
	if recorded := a.state().Scopes; len(recorded) > 0 {
		name := pick(w.rand, recorded)
		what = append(what, func() string {
			_ = w.server.DescribeScope(indicator, name, pick(w.rand, []string{"", "Described"}))
			return "describes scope " + name
		})
	}
	return "at " + a.want.Owner.Name + " somebody " + pick(w.rand, what)()
}

func (w *world) meddleWithRole(who string, app logtotest.Application, role logtotest.Role) string {
	s := w.server
	return "at the role of " + who + " somebody " + pick(w.rand, []func() string{
		func() string {
			for _, indicator := range slices.Sorted(maps.Keys(role.Scopes)) {
				check(s.RevokeScope(role.ID, indicator, pick(w.rand, role.Scopes[indicator])))
			}
			return "revokes scopes"
		},
		func() string {
			check(s.GrantScope(role.ID, "https://legacy.example.com", "write"))
			return "grants a foreign scope"
		},
		func() string {
			for _, a := range w.apis {
				for _, name := range scopeNames {
					_ = s.GrantScope(role.ID, a.want.Identifier, name)
				}
			}
			return "grants everything"
		},
		func() string {
			_ = s.UnassignRole(role.ID, app.ID)
			return "takes it away"
		},
		func() string {
			check(s.AssignRole(role.ID, w.others.application))
			return "assigns it to a foreign application"
		},
		func() string {
			check(s.RenameRole(role.ID, "Renamed "+role.ID))
			return "renames it"
		},
		func() string {
			check(s.DescribeRole(role.ID, "Described"))
			return "describes it"
		},
		func() string {
			check(s.DeleteRole(role.ID))
			return "deletes it"
		},
	})()
}

func (w *world) meddleWithApplication(who string, c *clientOwner, app logtotest.Application) string {
	s := w.server
	what := []func() string{
		func() string {
			check(s.RenameApplication(app.ID, "Renamed"))
			return "renames it"
		},
		func() string {
			check(s.DescribeApplication(app.ID, ""))
			return "empties the description"
		},
		func() string {
			check(s.ClearCustomData(app.ID))
			return "clears the custom data"
		},
		func() string {
			check(s.RenameApplication(app.ID, "Renamed"))
			check(s.DescribeApplication(app.ID, ""))
			check(s.ClearCustomData(app.ID))
			return "clears everything"
		},
		func() string {
			check(s.AssignRole(w.others.role, app.ID))
			return "assigns a foreign role"
		},
		func() string {
			_, _ = s.AddSecret(app.ID, "surplus", time.Time{})
			return "adds a secret"
		},
		func() string {
			_, _ = s.AddSecret(app.ID, fmt.Sprintf("%s%d", c.owner.CredentialPrefix(), 900+w.rand.IntN(3)), time.Time{})
			return "adds a secret with our prefix"
		},
		func() string {
			check(s.DeleteApplication(app.ID))
			return "deletes it"
		},
	}
	if c.adopt != "" {
		what = what[len(what)-2 : len(what)-1] // the rest is its owner's business
	}
	for _, name := range app.Secrets {
		if name != "theirs" && (c.adopt == "" || name != "Default secret") {
			what = append(what, func() string {
				check(s.DeleteSecret(app.ID, name))
				return "deletes secret " + name
			})
		}
	}
	return "at the application of " + who + " somebody " + pick(w.rand, what)()
}
