// SPDX-License-Identifier: Apache-2.0

package registration_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// has is a credential as the server made it.
func has(stage provision.Stage, changes ...func(*provision.Credential)) provision.Credential {
	c := provision.Credential{
		Name: named("1"), Stage: stage, Attempted: true, ClientID: "client-1", Secret: "hush-1", IssuedAt: noon,
		RegistrationURI: uri, RegistrationToken: "rat-hush-1",
	}
	for _, change := range changes {
		change(&c)
	}
	return c
}

func unmanaged(c *provision.Credential) { c.RegistrationURI, c.RegistrationToken = "", "" }

func second(c *provision.Credential) { c.Name, c.ClientID = named("2"), "client-2" }

func retireAt(at time.Time) func(*provision.Credential) {
	return func(c *provision.Credential) { c.RetireAt = at }
}

func withSecret(s string) func(*provision.Credential) {
	return func(c *provision.Credential) { c.Secret = provision.Sensitive(s) }
}

func withToken(s string) func(*provision.Credential) {
	return func(c *provision.Credential) { c.RegistrationToken = provision.Sensitive(s) }
}

// registered is an answer that describes client-1; more is members of JSON, each with a comma before.
func registered(scope, more string) reply {
	return reply{status: 200, body: `{"client_id":"client-1","client_name":"MARK","grant_types":["client_credentials"],` +
		`"token_endpoint_auth_method":"client_secret_basic","scope":"` + scope + `"` + more + `}`}
}

// issuing is the credential that replaces a registration.
func issuing(n string) provision.Credential {
	return provision.Credential{Name: named(n), Stage: provision.Issuing}
}

const (
	get    = "GET " + uri + " Bearer rat-hush-1"
	put    = "PUT " + uri + " Bearer rat-hush-1"
	remove = "DELETE " + uri + " Bearer rat-hush-1"
)

var (
	rw      = []provision.Access{access(payment, "read", "write")}
	current = []provision.Credential{has(provision.Current)}
	may     = `Client "client-1" may still exist at the server, which `
	missing = []provision.Drift{"The client's registration was missing"}
)

func TestSyncClient(t *testing.T) {
	for name, tc := range map[string]struct {
		credentials []provision.Credential
		before      []provision.Access // default: rw
		want        []provision.Access // default: rw
		uncertain   bool               // before
		answers     []reply

		asked      []string
		after      []provision.Credential // default: as before
		access     []provision.Access     // default: as wanted
		drift      []provision.Drift
		leftBehind []string
		err        *provision.Error
		creating   bool // after
	}{
		"no credential yet": {before: []provision.Access{}},
		"one being issued":  {credentials: []provision.Credential{issuing("1")}},
		"all in order":      {credentials: current, answers: []reply{registered("write read", "")}, asked: []string{get}},
		"a replaced one is left alone": {
			credentials: []provision.Credential{has(provision.Retiring, second, retireAt(noon.Add(time.Hour))), has(provision.Current)},
			answers:     []reply{registered("read write", "")}, asked: []string{get},
		},
		"a replaced one is not left with what was withdrawn": {
			credentials: []provision.Credential{has(provision.Retiring, second, retireAt(noon.Add(time.Hour))), has(provision.Current)},
			want:        []provision.Access{access(payment, "read")},
			answers:     []reply{registered("read write", ""), registered("read", "")}, asked: []string{get, put},
			after: []provision.Credential{has(provision.Retiring, second, retireAt(noon)), has(provision.Current)},
		},
		"the server replaces secret and token when it is asked": {
			credentials: current, answers: []reply{registered("read write", `,"client_secret":"hush-2","registration_access_token":"rat-hush-2"`)},
			asked: []string{get}, after: []provision.Credential{has(provision.Current, withSecret("hush-2"), withToken("rat-hush-2"))},
		},
		"a scope more is wanted": {
			credentials: current, before: []provision.Access{access(payment, "read")},
			answers: []reply{registered("read", ""), registered("read write", `,"client_secret":"hush-2","registration_access_token":"rat-hush-2"`)},
			asked:   []string{get, put}, after: []provision.Credential{has(provision.Current, withSecret("hush-2"), withToken("rat-hush-2"))},
		},
		"scopes are changed at the console": {
			credentials: current, answers: []reply{registered("root read", ""), registered("read write", "")}, asked: []string{get, put},
			drift: []provision.Drift{`Scope "write" was missing`, `Scope "root" had been added`},
		},
		"scopes are gone from the answer": {
			credentials: current, answers: []reply{{status: 200, body: `{"client_id":"client-1"}`}, registered("read write", "")},
			asked: []string{get, put}, drift: []provision.Drift{`Scope "read" was missing`, `Scope "write" was missing`},
		},
		"the authentication method is changed in Git": {
			credentials: current, answers: []reply{registered("read write", `,"token_endpoint_auth_method":"client_secret_post"`), registered("read write", "")},
			asked: []string{get, put},
		},
		"grant types are added at the console": {
			credentials: current, answers: []reply{registered("read write", `,"grant_types":["client_credentials","authorization_code"]`), registered("read write", "")},
			asked: []string{get, put}, drift: []provision.Drift{"The client's grant types had been changed"},
		},
		"a server that always adds and leaves out scopes": {
			credentials: current, answers: []reply{registered("openid read", ""), registered("openid read", "")}, asked: []string{get, put},
			access: []provision.Access{access(payment, "read")},
		},

		"401, which is how the standard says that it is gone": {
			credentials: current, answers: []reply{{status: 401}}, asked: []string{get}, after: []provision.Credential{}, drift: missing,
		},
		"404 from the server": {
			credentials: current, answers: []reply{{status: 404, body: "{}"}}, asked: []string{get}, after: []provision.Credential{}, drift: missing,
		},
		"404 from a proxy": {
			credentials: current, answers: []reply{{status: 404, body: "404 page not found"}}, asked: []string{get},
			err: &provision.Error{Kind: provision.Unavailable, Status: 404, Message: "the server did not show a registration: it answered with status 404"},
		},
		"400 for a client that is unknown": {
			credentials: current, answers: []reply{{status: 400, body: `{"error":"invalid_request"}`}}, asked: []string{get}, after: []provision.Credential{}, drift: missing,
		},
		"400 for a client that cannot be read": {
			credentials: current, answers: []reply{{status: 400, body: `{"error":"invalid_client_metadata"}`}}, asked: []string{get}, after: []provision.Credential{}, drift: missing,
			leftBehind: []string{may + "no longer takes its registration access token"},
		},
		"403 from the server": {
			credentials: current, answers: []reply{{status: 403, body: `{"error":"access_denied"}`}}, asked: []string{get}, after: []provision.Credential{}, drift: missing,
			leftBehind: []string{may + "no longer takes its registration access token"},
		},
		"403 from a proxy": {
			credentials: current, answers: []reply{{status: 403, body: "RBAC: access denied"}}, asked: []string{get},
			err: &provision.Error{Kind: provision.Unavailable, Status: 403, Message: "the server did not show a registration: it answered with status 403"},
		},
		"503 in JSON": {
			credentials: current, answers: []reply{{status: 503, body: "{}", header: map[string]string{"Retry-After": "5"}}}, asked: []string{get},
			err: &provision.Error{Kind: provision.Unavailable, Status: 503, RetryAfter: 5 * time.Second, Message: "the server did not show a registration: it answered with status 503"},
		},
		"404 in a list": {
			credentials: current, answers: []reply{{status: 404, body: "[]"}}, asked: []string{get},
			err: &provision.Error{Kind: provision.Unavailable, Status: 404, Message: "the server did not show a registration: it answered with status 404"},
		},
		"404 and null": {
			credentials: current, answers: []reply{{status: 404, body: "null"}}, asked: []string{get},
			err: &provision.Error{Kind: provision.Unavailable, Status: 404, Message: "the server did not show a registration: it answered with status 404"},
		},
		"another client in the answer": {
			credentials: current, answers: []reply{{status: 200, body: `{"client_id":"client-2","client_secret":"hush-3"}`}}, asked: []string{get},
			err: &provision.Error{Kind: provision.Unavailable, Status: 200, Message: "the server's answer is not a valid registration"},
		},
		"one of two is gone": {
			credentials: []provision.Credential{has(provision.Current), has(provision.Pending, second, unmanaged)},
			answers:     []reply{{status: 401}}, asked: []string{get}, after: []provision.Credential{has(provision.Pending, second, unmanaged)}, drift: missing,
		},

		"an update that is refused": {
			credentials: current, before: []provision.Access{access(payment, "read")}, access: []provision.Access{access(payment, "read")},
			answers: []reply{registered("read", ""), {status: 400, body: `{"error":"invalid_client_metadata","error_description":"Not for hush-1 with rat-hush-1"}`}}, asked: []string{get, put},
			err: &provision.Error{Kind: provision.Refused, Status: 400, Code: "invalid_client_metadata", Message: "the server refused to update a registration (invalid_client_metadata): Not for [redacted] with [redacted]"},
		},
		"an update whose answer is lost": {
			credentials: current, before: []provision.Access{access(payment, "read")}, access: []provision.Access{access(payment, "read")},
			answers: []reply{registered("read", ""), {err: errors.New("reset")}}, asked: []string{get, put}, creating: true,
			err: &provision.Error{Kind: provision.Unavailable, Message: "the registration endpoint gave no complete answer: connection failed"},
		},
		"after that the server tells the secret": {
			credentials: current, uncertain: true, answers: []reply{registered("read write", `,"client_secret":"hush-2"`)}, asked: []string{get},
			after: []provision.Credential{has(provision.Current, withSecret("hush-2"))},
		},
		"after that the server does not tell the secret": {
			credentials: current, uncertain: true, answers: []reply{registered("read write", ""), registered("read write", `,"client_secret":"hush-2"`)},
			asked: []string{get, put}, after: []provision.Credential{has(provision.Current, withSecret("hush-2"))},
		},
		"after that the token is no longer taken": {
			credentials: current, uncertain: true, answers: []reply{{status: 401}}, asked: []string{get}, after: []provision.Credential{},
			leftBehind: []string{may + "no longer takes its registration access token"},
		},

		"a server without updates where less is wanted": {
			credentials: current, want: []provision.Access{access(payment, "read")},
			answers: []reply{registered("read write", ""), {status: 405}}, asked: []string{get, put},
			after: []provision.Credential{has(provision.Current), issuing("2")},
		},
		"a server without updates where the console changed something": {
			credentials: current, answers: []reply{registered("read", ""), {status: 404}}, asked: []string{get, put},
			drift: []provision.Drift{`Scope "write" was missing`},
		},
		"a server that redirects updates": {
			credentials: current, before: []provision.Access{access(payment, "read")},
			answers: []reply{registered("read", ""), {status: 307}}, asked: []string{get, put},
			after: []provision.Credential{has(provision.Current), issuing("2")},
		},
		"a registration that no longer has a token":   {credentials: []provision.Credential{has(provision.Current, withToken(""))}},
		"an audience that the driver does not manage": {credentials: current, answers: []reply{registered("read write", `,"audience":["https://x"]`)}, asked: []string{get}},
		"a name that was changed at the console": {
			credentials: current, answers: []reply{registered("read write", `,"client_name":"cart"`), registered("read write", "")},
			asked: []string{get, put}, drift: []provision.Drift{"The client had been renamed"},
		},
		"a server without management": {credentials: []provision.Credential{has(provision.Current, unmanaged)}},
		"a server without management where more is wanted": {
			credentials: []provision.Credential{has(provision.Current, unmanaged)}, before: []provision.Access{access(payment, "read")},
			after: []provision.Credential{has(provision.Current, unmanaged), issuing("2")},
		},
		"a server without management where more is wanted than the one that was to be tried has": {
			credentials: []provision.Credential{has(provision.Pending, unmanaged)}, before: []provision.Access{access(payment, "read")},
			after: []provision.Credential{has(provision.Pending, unmanaged, func(c *provision.Credential) { c.Stage, c.RetireAt = provision.Retiring, noon }), issuing("2")},
		},
		"a server without management where one is being issued anyway": {
			credentials: []provision.Credential{has(provision.Current, unmanaged), issuing("2")}, before: []provision.Access{access(payment, "read")},
		},
		"a registration at a host that the endpoint has left": {
			credentials: []provision.Credential{has(provision.Current, func(c *provision.Credential) { c.RegistrationURI = "https://former.example.com/reg/1" })},
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, s := scripted(t, tc.answers...)
			or := func(a, b []provision.Access) []provision.Access {
				if a == nil {
					return b
				}
				return a
			}
			want := provision.Client{Owner: cart, Access: or(tc.want, rw)}
			state := &provision.ClientState{
				Access: or(tc.before, rw), Creating: tc.uncertain, Sequence: 1, Credentials: append([]provision.Credential{}, tc.credentials...),
			}
			if len(tc.credentials) > 0 && tc.credentials[0].ClientID != "" {
				state.ID, state.Origin = tc.credentials[0].ClientID, provision.Created
			}
			var last []byte
			keeps := 0
			keep := func(context.Context) (err error) {
				keeps++
				last, err = json.Marshal(state)
				return err
			}
			drift, err := d.SyncClient(t.Context(), want, state, keep)
			if tc.err != nil {
				wantError(t, err, tc.err)
			} else if err != nil {
				t.Fatal(err)
			}
			if tc.after == nil {
				tc.after = append([]provision.Credential{}, tc.credentials...)
			}
			wantKeeps := 0 // before an update, after its refusal, and for what an answer brings
			for _, asked := range tc.asked {
				if asked == put {
					wantKeeps++
				}
			}
			if tc.err != nil && tc.err.Kind == provision.Refused {
				wantKeeps++
			}
			for _, a := range tc.answers {
				if a.status == 200 && strings.Contains(a.body, "hush-2") {
					wantKeeps++
				}
			}
			for what, diff := range map[string]string{
				"requests":    cmp.Diff(tc.asked, s.asked),
				"credentials": cmp.Diff(tc.after, state.Credentials),
				"access":      cmp.Diff(or(tc.access, want.Access), state.Access),
				"drift":       cmp.Diff(tc.drift, drift),
				"left behind": cmp.Diff(tc.leftBehind, state.LeftBehind),
				"creating":    cmp.Diff(tc.creating, state.Creating),
				"keeps":       cmp.Diff(wantKeeps, keeps),
			} {
				if diff != "" {
					t.Errorf("%s (-want +got):\n%s", what, diff)
				}
			}
			id := ""
			for _, c := range tc.after {
				if c.ClientID != "" {
					id = c.ClientID // only where one was dropped does it matter which
				}
			}
			if len(tc.after) < len(tc.credentials) && state.ID != id {
				t.Errorf("the state's ID is %q, not %q", state.ID, id)
			}
			if tc.creating { // which must outlive the process
				kept := &provision.ClientState{}
				if err := json.Unmarshal(last, kept); err != nil || !kept.Creating {
					t.Errorf("kept was %s (%v)", last, err)
				}
			}
		})
	}
}

func TestUpdateSendsAllThatTheServerHas(t *testing.T) {
	d, s := scripted(t, reply{status: 200, body: `{"client_id":"client-1","client_name":"renamed","grant_types":["implicit"],"contacts":["a@b"],
		"jwks":null,"redirect_uris":["https://x"],"application_type":"web","scope":"read","client_secret":"hush-1","client_secret_expires_at":0,
		"client_id_issued_at":7,"registration_access_token":"rat-hush-1","registration_client_uri":"` + uri + `"}`}, registered("read write", ""))
	state := &provision.ClientState{Access: rw, Credentials: append([]provision.Credential{}, current...)}
	if _, err := d.SyncClient(t.Context(), wants("read", "write"), state, kept); err != nil {
		t.Fatal(err)
	}
	want := `{"application_type":"web","client_id":"client-1","client_name":"` + name + `","contacts":["a@b"],"grant_types":["client_credentials"],` +
		`"redirect_uris":[],"response_types":[],"scope":"read write","token_endpoint_auth_method":"client_secret_basic"}`
	if diff := cmp.Diff(want, s.bodies[1]); diff != "" {
		t.Error(diff)
	}
}

func TestWhatAnAnswerBringsIsKeptBeforeTheNextRequest(t *testing.T) {
	d, s := scripted(t, registered("read", `,"registration_access_token":"rat-hush-2"`))
	state := &provision.ClientState{Access: rw, Credentials: append([]provision.Credential{}, current...)}
	full := errors.New("no space")
	_, err := d.SyncClient(t.Context(), wants("read", "write"), state, func(context.Context) error { return full })
	if !errors.Is(err, full) || provision.KindOf(err) != "" {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff([]string{get}, s.asked); diff != "" {
		t.Error(diff)
	}
}

func TestAdoptionIsRefused(t *testing.T) {
	d, _ := scripted(t)
	want := wants("read")
	want.Adopt = "client-1"
	refused := &provision.Error{
		Kind: provision.Refused, Message: "dynamic registration cannot take over an existing client; remove it from spec.provisioning.adoption.clients",
	}
	_, err := d.SyncClient(t.Context(), want, &provision.ClientState{}, kept)
	wantError(t, err, refused)
	wantError(t, d.Issue(t.Context(), want, &provision.ClientState{}, &provision.Credential{}), refused)
}

func TestRevoke(t *testing.T) {
	const (
		lost   = "no longer takes its registration access token"
		cannot = "does not allow deleting it"
	)
	for name, tc := range map[string]struct {
		credential provision.Credential
		uncertain  bool
		answer     *reply
		left       string
		err        bool
	}{
		"deleted":        {answer: &reply{status: 204}},
		"deleted before": {answer: &reply{status: 401}},
		"deleted before, and a server's own word for it":    {answer: &reply{status: 404, body: "{}"}},
		"its token was replaced in an answer that was lost": {uncertain: true, answer: &reply{status: 401}, left: may + lost},
		"a token without the right":                         {answer: &reply{status: 403, body: "{}"}, left: may + lost},
		"a server that does not delete":                     {answer: &reply{status: 405}, left: may + cannot},
		"a server that does nothing of it":                  {answer: &reply{status: 501}, left: may + cannot},
		"a proxy that knows no such path":                   {answer: &reply{status: 404, body: "<html>"}, left: may + cannot},
		"a redirect":                                        {answer: &reply{status: 302}, left: may + cannot},
		"a server that is down":                             {answer: &reply{status: 503}, err: true},
		"no answer":                                         {answer: &reply{err: errors.New("reset")}, err: true},
		"no management":                                     {credential: has(provision.Retiring, unmanaged), left: may + cannot},
		"never issued":                                      {credential: issuing("1")},
		"perhaps issued": {
			credential: provision.Credential{Name: named("1"), Stage: provision.Issuing, Attempted: true},
			left:       `A client that was registered as "` + "shop/cart@c1 (m2m-operator:" + cart.ID() + `) 1" may exist at the server; its answer was lost`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var answers []reply
			var asked []string
			if tc.answer != nil {
				answers, asked = []reply{*tc.answer}, []string{remove}
				tc.credential = has(provision.Retiring)
			}
			d, s := scripted(t, answers...)
			state := &provision.ClientState{Creating: tc.uncertain}
			err := d.Revoke(t.Context(), wants("read"), state, &tc.credential)
			if (err != nil) != tc.err || tc.err && provision.KindOf(err) != provision.Unavailable {
				t.Errorf("got the error %v", err)
			}
			var left []string
			if tc.left != "" {
				left = []string{tc.left}
			}
			if diff := cmp.Diff(left, state.LeftBehind); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(asked, s.asked); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRemoveClient(t *testing.T) {
	two := func() *provision.ClientState {
		return &provision.ClientState{ID: "client-1", Origin: provision.Created, Access: rw, Credentials: []provision.Credential{has(provision.Retiring, second), has(provision.Current)}}
	}
	t.Run("retained", func(t *testing.T) {
		d, _ := scripted(t)
		state := two()
		if err := d.RemoveClient(t.Context(), provision.Client{Owner: cart, Retain: true}, state, kept); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&provision.ClientState{}, state); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("the server fails at the second", func(t *testing.T) {
		d, _ := scripted(t, reply{status: 204}, reply{status: 500})
		state := two()
		if err := d.RemoveClient(t.Context(), provision.Client{Owner: cart}, state, kept); provision.KindOf(err) != provision.Unavailable {
			t.Errorf("got %v", err)
		}
		if diff := cmp.Diff(current, state.Credentials); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("a client without access goes, even where it should be retained when deleted", func(t *testing.T) {
		d, s := scripted(t, reply{status: 204}, reply{status: 204})
		state := two()
		if _, err := d.SyncClient(t.Context(), provision.Client{Owner: cart, Retain: true}, state, kept); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&provision.ClientState{Credentials: []provision.Credential{}}, state); diff != "" || len(s.asked) != 2 {
			t.Errorf("asked %q\n%s", s.asked, diff)
		}
	})
}
