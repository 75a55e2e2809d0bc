// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// situation is the initial state of a drift.
type situation struct {
	app  logtoApplication
	role logtoRole
	api  *logtoResource
}

// drifted says how a drift is reported.
type drifted struct {
	ofAPI bool     // by the APIResource, else by the M2MClient
	says  []string // one of these
	// sameApplication reports whether the application stays the same.
	sameApplication bool
}

// drift makes a change at the server. The next comparison puts it back and reports it.
func drift(change func(*world, situation) drifted) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		w.lifetime = "20m"
		_, api, cart := w.story()
		w.atServer(w.storyAtServer())
		now := situation{api: w.resource(paymentAPI)}
		now.app, now.role = w.current("cart")
		var want drifted
		w.measure("put_back", func() {
			want = change(w, now)
			if want.ofAPI {
				w.told(api, v1alpha1.ReasonDriftCorrected, want.says...)
			} else {
				w.told(cart, v1alpha1.ReasonDriftCorrected, want.says...)
			}
			w.atServer(w.storyAtServer())
		})
		// By the next comparison, or by the one after it if the API was compared after the client.
		if took := w.figures["put_back_seconds"]; took > 30 {
			t.Errorf("it was put back after %.1f s; the operator compares every 10 s", took)
		}
		w.isReady(cart, api)
		w.hasToken(cart, paymentAPI, w.write())
		after, _ := w.current("cart")
		if want.sameApplication && (after.ID != now.app.ID || after.Name != now.app.Name) {
			t.Errorf("the application is now %s %q, not %s %q", after.ID, after.Name, now.app.ID, now.app.Name)
		}
		if ttl := w.resource(paymentAPI).TTL; ttl != now.api.TTL {
			t.Errorf("the API's tokens live for %d s, not %d", ttl, now.api.TTL)
		}
		// The application works: it gets a new token.
		w.takesAnew(cart)
	}
}

// takesAnew deletes a client's token, and waits for another one.
func (w *world) takesAnew(cart *v1alpha1.M2MClient) {
	w.t.Helper()
	s := w.tokenSecret(cart)
	before, err := w.token(cart.Name, paymentAPI)
	if err != nil {
		w.t.Fatal(err)
	}
	w.delete(s)
	eventually(w.t, func() error {
		if token, err := w.token(cart.Name, paymentAPI); err != nil || token == "" || token == before {
			return fmt.Errorf("there is no new token: %w", err)
		}
		return nil
	})
	w.isReady(cart)
}

func (r *logtoResource) scope(name string) logtoScope {
	for _, s := range r.Scopes {
		if s.Name == name {
			return s
		}
	}
	return logtoScope{}
}

func driftScopeRemoved(w *world, s situation) drifted {
	w.do(http.MethodDelete, "/resources/"+s.api.ID+"/scopes/"+s.api.scope(w.write()).ID, nil, nil)
	return drifted{ofAPI: true, says: []string{w.write()}, sameApplication: true}
}

func driftScopeRevoked(w *world, s situation) drifted {
	w.do(http.MethodDelete, "/roles/"+s.role.ID+"/scopes/"+s.api.scope(w.write()).ID, nil, nil)
	return drifted{says: []string{w.write()}, sameApplication: true}
}

func driftScopeGranted(w *world, s situation) drifted {
	w.do(http.MethodPost, "/roles/"+s.role.ID+"/scopes", map[string]any{"scopeIds": []string{s.api.scope(w.read()).ID}}, nil)
	return drifted{says: []string{w.read()}, sameApplication: true}
}

func driftRoleUnassigned(w *world, s situation) drifted {
	w.do(http.MethodDelete, "/roles/"+s.role.ID+"/applications/"+s.app.ID, nil, nil)
	return drifted{says: []string{"role"}, sameApplication: true}
}

func driftRoleDeleted(w *world, s situation) drifted {
	w.do(http.MethodDelete, "/roles/"+s.role.ID, nil, nil)
	return drifted{says: []string{"role"}, sameApplication: true}
}

func driftSecretDeleted(w *world, s situation) drifted {
	w.do(http.MethodDelete, "/applications/"+s.app.ID+"/secrets/"+url.PathEscape(s.app.Secrets[0]), nil, nil)
	return drifted{says: []string{"secret"}, sameApplication: true}
}

func driftSecretAdded(w *world, s situation) drifted {
	w.do(http.MethodPost, "/applications/"+s.app.ID+"/secrets", map[string]any{"name": "by hand"}, nil)
	return drifted{says: []string{"secret"}, sameApplication: true}
}

func driftRenamed(w *world, s situation) drifted {
	w.do(http.MethodPatch, "/applications/"+s.app.ID, map[string]any{"name": "renamed, " + w.id}, nil)
	return drifted{says: []string{"renamed"}, sameApplication: true}
}

func driftApplicationDeleted(w *world, s situation) drifted {
	w.do(http.MethodDelete, "/applications/"+s.app.ID, nil, nil)
	return drifted{says: []string{"application", "client"}}
}

func driftLifetime(w *world, s situation) drifted {
	w.do(http.MethodPatch, "/resources/"+s.api.ID, map[string]any{"accessTokenTtl": s.api.TTL + 60}, nil)
	return drifted{ofAPI: true, says: []string{"lifetime"}, sameApplication: true}
}

func driftResourceDeleted(w *world, s situation) drifted {
	w.do(http.MethodDelete, "/resources/"+s.api.ID, nil, nil)
	return drifted{ofAPI: true, says: []string{"API", "resource"}, sameApplication: true}
}

// testObserve has an API that the operator only observes: it reports what differs, and changes
// nothing.
func testObserve(t *testing.T, w *world) {
	as, api := w.authServer(), w.api(paymentAPI, w.read(), w.write())
	api.Spec.ManagementPolicy, api.Spec.AccessTokenLifetime = v1alpha1.ManagementObserve, "20m"
	as.Spec.Provisioning.Adoption.APIResources = []v1alpha1.AdoptedAPIResource{{Identifier: api.Spec.Identifier, Namespace: v1alpha1.NamespaceName(w.payments)}}
	var made logtoResource
	w.do(http.MethodPost, "/resources", map[string]any{"name": "Payments", "indicator": w.identifier(paymentAPI), "accessTokenTtl": 900}, &made)
	w.do(http.MethodPost, "/resources/"+made.ID+"/scopes", map[string]any{"name": w.write(), "description": "Pay"}, nil)
	before := w.resource(paymentAPI)
	cart := w.calls("cart", paymentAPI, w.write())
	w.start()
	w.create(as, api, cart)
	c := w.hasCondition(api, v1alpha1.ConditionProvisioned, metav1.ConditionFalse, v1alpha1.ReasonDrifted)
	if !strings.Contains(c.Message, w.read()) {
		t.Errorf("the condition does not say that a scope is missing: %s", c.Message)
	}
	w.isReady(cart, api) // what exists can be used
	w.hasToken(cart, paymentAPI, w.write())
	eventually(t, func() error { return w.comparedAgain(cart, api) })
	if diff := cmp.Diff(before, w.resource(paymentAPI)); diff != "" {
		t.Errorf("the observed API was changed (-before +after):\n%s", diff)
	}

	w.do(http.MethodPost, "/resources/"+made.ID+"/scopes", map[string]any{"name": w.read(), "description": "See"}, nil)
	w.do(http.MethodPatch, "/resources/"+made.ID, map[string]any{"accessTokenTtl": 1200}, nil)
	w.hasCondition(api, v1alpha1.ConditionProvisioned, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
	w.delete(cart, api)
	w.isGone(cart, api)
	if w.resource(paymentAPI) == nil {
		t.Fatal("the observed API was deleted")
	}
	w.do(http.MethodDelete, "/resources/"+made.ID, nil, nil)
	w.clean(cart)
}

func testLifetime(t *testing.T, w *world) {
	w.lifetime = "17m"
	as, api, cart := w.authServer(), w.api(paymentAPI, w.read(), w.write()), w.calls("cart", paymentAPI, w.write())
	w.start()
	w.create(as, api, cart)
	w.isReady(cart, api, as)
	if _, c := w.hasToken(cart, paymentAPI, w.write()); c.lifetime != 17*time.Minute {
		t.Errorf("the token lives for %s, want 17m", c.lifetime)
	}
	change(w, api, func(a *v1alpha1.APIResource) { a.Spec.AccessTokenLifetime = "23m" })
	eventually(t, func() error {
		if r := w.resource(paymentAPI); r == nil || r.TTL != 23*60 {
			return fmt.Errorf("the API is %+v", r)
		}
		return nil
	})
	w.takesAnew(cart)
	if _, c := w.hasToken(cart, paymentAPI, w.write()); c.lifetime != 23*time.Minute {
		t.Errorf("the next token lives for %s, want 23m", c.lifetime)
	}
}

// testRegistrationDeleted deletes the registration at the server. The operator
// registers the client again.
func testRegistrationDeleted(t *testing.T, w *world) {
	_, _, cart := w.story()
	old, _, err := w.registrationOf("cart")
	if err != nil {
		t.Fatal(err)
	}
	w.measure("put_back", func() {
		if _, err := w.manage(t.Context(), http.MethodDelete, old, nil); err != nil {
			t.Fatal(err)
		}
		w.told(cart, v1alpha1.ReasonDriftCorrected, "registration was missing")
	})
	w.isReady(cart)
	w.atServer(w.storyAtServer())
	now, _, err := w.registrationOf("cart")
	if err != nil || now.ClientID == old.ClientID {
		t.Errorf("the client is still %s: %v", now.ClientID, err)
	}
	w.hasToken(cart, paymentAPI, w.write())
	w.takesAnew(cart)
}

// testRegistrationChanged changes the registration's scopes and name. The operator
// puts both back. If an update returns another registration access token, only the
// operator may make one; the test then changes the server's state itself.
func testRegistrationChanged(t *testing.T, w *world) {
	_, _, cart := w.story()
	w.atServer(w.storyAtServer())
	old, m, err := w.registrationOf("cart")
	if err != nil {
		t.Fatal(err)
	}
	name := m["client_name"]
	w.measure("put_back", func() {
		if !w.changeRegistration(old, m) {
			w.figures["not_possible_from_outside"] = 1
			return
		}
		w.told(cart, v1alpha1.ReasonDriftCorrected, w.read(), "renamed")
	})
	w.isReady(cart)
	w.atServer(w.storyAtServer())
	now, m, err := w.registrationOf("cart")
	if err != nil || now.ClientID != old.ClientID || m["client_name"] != name {
		t.Errorf("the client is %s %q, not %s %q: %v", now.ClientID, m["client_name"], old.ClientID, name, err)
	}
	w.hasToken(cart, paymentAPI, w.write())
}
