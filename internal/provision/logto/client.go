// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/logto/management"
)

// machineToMachine is the type of the applications and roles that the operator manages.
const machineToMachine = "MachineToMachine"

// application holds the members that the operator needs. The body may also carry a secret, which is never decoded.
type application struct {
	ID          string          `json:"id"`
	Name        string          `json:"name"`
	Type        string          `json:"type"`
	Description string          `json:"description"`
	CustomData  json.RawMessage `json:"customData"`
}

func (a application) Key() string { return a.ID }

func (a application) path() string { return "/applications/" + url.PathEscape(a.ID) }

// customMember is the member of an application's custom data that names its owner.
const customMember = "m2m-operator"

// customOwner returns the owner in the application's custom data, the zero value if there is none.
func (a application) customOwner() provision.Owner {
	var members map[string]json.RawMessage
	var owner provision.Owner
	if json.Unmarshal(a.CustomData, &members) == nil && json.Unmarshal(members[customMember], &owner) != nil {
		return provision.Owner{}
	}
	return owner
}

// marks returns the IDs of the owners that the application is marked with.
func (a application) marks() []string {
	var ids []string
	if id := provision.MarkIn(a.Description); id != "" {
		ids = append(ids, id)
	}
	if owner := a.customOwner(); owner != (provision.Owner{}) {
		ids = append(ids, owner.ID())
	}
	return ids
}

// ownedBy reports whether an application is marked with the owner and no other.
func (a application) ownedBy(o provision.Owner) bool {
	ids := a.marks()
	return len(ids) > 0 && !a.foreignTo(o)
}

// foreignTo reports whether an application is marked with another owner.
func (a application) foreignTo(o provision.Owner) bool {
	return slices.ContainsFunc(a.marks(), func(id string) bool { return id != o.ID() })
}

type role struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Type        string `json:"type"`
	Description string `json:"description"`
}

func (r role) Key() string { return r.ID }

func (r role) path() string { return "/roles/" + url.PathEscape(r.ID) }

// description returns the description of the owner's application and role: the mark, and words for people.
func description(o provision.Owner) string {
	text := o.Mark() + " M2MClient " + o.Namespace + "/" + o.Name
	return strings.TrimSpace(text[:min(len(text), provision.MaxName)])
}

// marked returns the query for everything with the owner's tag in its name or description. A tag has neither _ nor %.
func marked(o provision.Owner) url.Values {
	return url.Values{"search": {"%" + o.Tag() + "%"}, "isCaseSensitive": {"true"}}
}

// The purposes of requests, as errors state them.
const (
	readingApplication      = "read the application"
	readingApplications     = "read the applications"
	readingRole             = "read the role"
	readingRoleApplications = "read the role's applications"
	readingRoles            = "read the roles"
)

// SyncClient implements provision.Driver.
func (d *Driver) SyncClient(ctx context.Context, want provision.Client, state *provision.ClientState, keep provision.Keep) ([]provision.Drift, error) {
	if slices.ContainsFunc(want.Access, func(a provision.Access) bool { return d.logto.Reserved(a.Resource) }) {
		return nil, forbidden(managementAPIForbidden)
	}
	if want.Adopt == d.clientID {
		return nil, forbidden("the application that is to be adopted is the operator's own, which may do everything at the server")
	}
	s := d.newClientSync(want, state, keep)
	for _, step := range []func(context.Context) error{
		s.syncApplication, s.syncRole, s.removeRoles, s.syncGrants, s.assign, s.syncSecrets,
	} {
		if err := step(ctx); err != nil {
			return s.drift, err
		}
	}
	state.Creating = false
	return s.drift, nil
}

// clientSync is the state of one call for a client.
type clientSync struct {
	d     *Driver
	want  provision.Client
	state *provision.ClientState
	keep  provision.Keep
	drift []provision.Drift

	creating bool                  // an earlier call may have created something unrecorded
	began    provision.ClientState // the identifiers and the access in the state at the start
	known    map[string]string     // the ids of the APIs looked up, by identifier

	app        application
	appCreated bool // by this call, so it has no roles yet

	role        role
	roleCreated bool   // by this call, so it has no scopes and no applications yet
	roles       []role // the roles of the application
	tagged      []role // the roles that the first search for the owner's tag found
	searched    bool
}

func (d *Driver) newClientSync(want provision.Client, state *provision.ClientState, keep provision.Keep) *clientSync {
	return &clientSync{
		d: d, want: want, state: state, keep: keep, creating: state.Creating, known: map[string]string{},
		began: provision.ClientState{ID: state.ID, GrantID: state.GrantID, Access: slices.Clone(state.Access)},
	}
}

func (s *clientSync) changed(format string, args ...any) {
	s.drift = append(s.drift, provision.Driftf(format, args...))
}

// settled reports whether an earlier call left the application and its role together. Then any difference now is
// somebody else's change.
func (s *clientSync) settled() bool {
	return !s.creating && s.began.ID == s.app.ID && s.began.GrantID == s.role.ID
}

// announce records that the call may create something from now on.
func (s *clientSync) announce(ctx context.Context) error {
	if s.state.Creating {
		return nil
	}
	s.state.Creating = true
	return s.keep(ctx)
}

func (s *clientSync) syncApplication(ctx context.Context) error {
	if s.want.Adopt != "" {
		return s.adopt(ctx)
	}
	if s.state.Origin == provision.Adopted {
		if err := s.leave(ctx); err != nil {
			return err
		}
	}
	mine, err := s.findApplications(ctx)
	if err != nil {
		return err
	}
	if len(mine) == 0 {
		if err := s.createApplication(ctx); err != nil {
			return err
		}
	} else {
		s.app = mine[0]
	}
	if s.state.ID != s.app.ID || s.state.Origin != provision.Created {
		s.state.ID, s.state.Origin = s.app.ID, provision.Created
		if err := s.keep(ctx); err != nil {
			return err
		}
	}
	for _, extra := range mine[min(1, len(mine)):] { // made by requests whose answers were lost
		if err := s.d.logto.Delete(ctx, "delete a second application of the client", extra.path()); err != nil {
			return err
		}
	}
	return s.restoreApplication(ctx)
}

// findApplications returns the applications of the owner, the one to keep first.
func (s *clientSync) findApplications(ctx context.Context) ([]application, error) {
	all, err := management.List[application](ctx, s.d.logto, readingApplications, "/applications", marked(s.want.Owner))
	if err != nil {
		return nil, err
	}
	mine := s.ownApplications(all)
	if s.state.ID != "" && !slices.ContainsFunc(mine, func(a application) bool { return a.ID == s.state.ID }) {
		// It was renamed, lost its marks, or is gone.
		app, err := management.Get[application](ctx, s.d.logto, readingApplication, application{ID: s.state.ID}.path())
		switch {
		case err != nil:
			return nil, err
		case app != nil && app.foreignTo(s.want.Owner):
			return nil, &provision.Error{Kind: provision.Conflict, Message: "the recorded application is marked as belonging to another M2MClient"}
		case app != nil:
			mine = append(mine, *app)
		default:
			s.changed("The application was missing")
		}
	}
	if s.state.ID == "" && len(mine) == 0 { // somebody may have changed name and description while nothing was recorded
		if mine, err = s.applicationsByCustomData(ctx); err != nil {
			return nil, err
		}
	}
	rank := func(a application) string {
		if a.ID == s.state.ID {
			return ""
		}
		return a.ID
	}
	slices.SortFunc(mine, func(a, b application) int { return cmp.Compare(rank(a), rank(b)) })
	return mine, nil
}

// applicationsByCustomData returns the owner's applications that only their custom data identifies. There is no search
// for that. It reads all applications if one may just have been made, and otherwise those with the owner's role,
// because all would be too many to read for each new client.
func (s *clientSync) applicationsByCustomData(ctx context.Context) ([]application, error) {
	path, doing := "/applications", readingApplications
	if !s.creating {
		roles, err := s.rolesByTag(ctx)
		if err != nil || len(roles) == 0 {
			return nil, err
		}
		path, doing = roles[0].path()+"/applications", readingRoleApplications
	}
	all, err := management.List[application](ctx, s.d.logto, doing, path, nil)
	return s.ownApplications(all), err
}

func (s *clientSync) ownApplications(all []application) []application {
	var mine []application
	for _, a := range all {
		if a.ownedBy(s.want.Owner) && a.Type == machineToMachine && a.ID != s.d.clientID {
			mine = append(mine, a)
		}
	}
	return mine
}

func (s *clientSync) createApplication(ctx context.Context) error {
	if s.state.ID != "" { // it is gone, and the mark finds the next one
		s.state.ID, s.state.Origin, s.state.Creating = "", "", false
	}
	if err := s.announce(ctx); err != nil {
		return err
	}
	made, err := management.Create[application](ctx, s.d.logto, "create the application", "/applications", map[string]any{
		"name": s.want.Owner.DisplayName(), "type": machineToMachine, "description": description(s.want.Owner),
		"customData": map[string]any{customMember: s.want.Owner},
	})
	if err != nil {
		return err
	}
	s.app, s.appCreated = application{ID: made.ID}, true
	return nil
}

// restoreApplication puts back the application's name and marks.
func (s *clientSync) restoreApplication(ctx context.Context) error {
	if s.appCreated {
		return nil
	}
	owner := s.want.Owner
	body := map[string]any{}
	var found []provision.Drift
	if s.app.Name != owner.DisplayName() {
		body["name"] = owner.DisplayName()
		found = append(found, provision.Driftf("The application had been renamed"))
	}
	custom := s.app.customOwner()
	lost := !owner.Owns(s.app.Description) || custom.ID() != owner.ID()
	// An object of the same name takes over what an earlier one left, and marks it anew. That is not drift.
	if !owner.Owns(s.app.Description) || !strings.Contains(s.app.Description, owner.Mark()) {
		body["description"] = description(owner)
	}
	if len(body) > 0 {
		if err := s.d.logto.Patch(ctx, "change the application", s.app.path(), body); err != nil {
			return err
		}
	}
	if custom != owner {
		// The server merges this, so the data of others stays.
		if err := s.d.logto.Patch(ctx, "mark the application", s.app.path()+"/custom-data", map[string]any{customMember: owner}); err != nil {
			return err
		}
	}
	if lost {
		found = append(found, provision.Driftf("The application had lost the mark of its owner"))
	}
	s.drift = append(s.drift, found...)
	return nil
}

// adopt takes over the application that want names. Its name and its maker stay as they are.
func (s *clientSync) adopt(ctx context.Context) error {
	// The server's owner names another application. Give back the one taken over, whatever becomes of the other.
	if s.state.Origin == provision.Adopted && s.state.ID != s.want.Adopt {
		if err := s.leave(ctx); err != nil {
			return err
		}
	}
	app, err := management.Get[application](ctx, s.d.logto, readingApplication, application{ID: s.want.Adopt}.path())
	switch {
	case err != nil:
		return err
	case app == nil:
		if s.state.ID == s.want.Adopt {
			s.dropCredentials(func(*provision.Credential) bool { return true })
		}
		return &provision.Error{Kind: provision.NotFound, Message: fmt.Sprintf("application %q, which is to be adopted, does not exist at the server", s.want.Adopt)}
	case app.Type != machineToMachine:
		return &provision.Error{Kind: provision.Refused, Message: fmt.Sprintf("application %q, which is to be adopted, is not of type machine-to-machine", s.want.Adopt)}
	case app.foreignTo(s.want.Owner):
		return &provision.Error{Kind: provision.Conflict, Message: fmt.Sprintf("application %q, which is to be adopted, is marked as belonging to another M2MClient", s.want.Adopt)}
	}
	// First give up what the client was before: another application, or one that may have been created.
	if s.state.ID != "" && s.state.ID != app.ID || s.state.Origin == "" && s.state.Creating {
		if err := s.leave(ctx); err != nil {
			return err
		}
	}
	s.app = *app
	if s.state.ID == app.ID && s.state.Origin == provision.Adopted {
		return nil
	}
	s.state.ID, s.state.Origin = app.ID, provision.Adopted
	return s.keep(ctx)
}

// leave gives up the client's former application, because it becomes another one.
func (s *clientSync) leave(ctx context.Context) error {
	err := s.removeAll(ctx)
	s.creating, s.began = false, provision.ClientState{}
	return err
}

func (s *clientSync) rolePath() string { return s.role.path() }
