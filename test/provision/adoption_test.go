// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

func (w *world) tokenSecret(c *v1alpha1.M2MClient) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: c.Name + "-token"}}
}

// changeRegistration renames a registration, and gives it another scope. It returns false if that would replace
// the registration access token, which the operator then could not know.
func (w *world) changeRegistration(c credential, _ metadata) bool {
	return w.registration != nil && w.registration.ChangeRegisteredClient(c.ClientID, func(r *oidc.RegisteredClient) {
		r.Name, r.Scopes = "renamed, "+w.id, []string{w.read()}
	})
}

// testAdoptAPI uses an API that exists at the server. The operator refuses it until
// the server's owner lists it, keeps what is not declared, and leaves the API there
// when its object is deleted.
func testAdoptAPI(t *testing.T, w *world) {
	as, api, cart := w.authServer(), w.api(paymentAPI, w.read(), w.write()), w.calls("cart", paymentAPI, w.write())
	const admin = "payments:admin"
	var made logtoResource
	w.do(http.MethodPost, "/resources", map[string]any{"name": "Payments", "indicator": w.identifier(paymentAPI), "accessTokenTtl": 900}, &made)
	for _, name := range []string{w.write(), admin} {
		w.do(http.MethodPost, "/resources/"+made.ID+"/scopes", map[string]any{"name": name, "description": "As it was"}, nil)
	}
	before := w.resource(paymentAPI)
	w.start()
	w.create(as, api, cart)
	c := w.hasCondition(api, v1alpha1.ConditionProvisioned, metav1.ConditionFalse, v1alpha1.ReasonExistsAtServer)
	if !strings.Contains(c.Message, "adoption") {
		t.Errorf("the condition does not say who can allow it: %s", c.Message)
	}
	w.hasCondition(cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonExistsAtServer)
	if diff := cmp.Diff(before, w.resource(paymentAPI)); diff != "" {
		t.Errorf("the API was changed nevertheless (-before +after):\n%s", diff)
	}

	w.measure("adoption", func() {
		change(w, as, func(a *v1alpha1.AuthorizationServer) {
			a.Spec.Provisioning.Adoption.APIResources = []v1alpha1.AdoptedAPIResource{{Identifier: api.Spec.Identifier, Namespace: v1alpha1.NamespaceName(w.payments)}}
		})
		w.hasCondition(api, v1alpha1.ConditionProvisioned, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
		w.isReady(cart)
	})
	w.hasToken(cart, paymentAPI, w.write())
	adopted := w.resource(paymentAPI)
	if diff := cmp.Diff(sorted([]string{admin, w.read(), w.write()}), adopted.scopeNames()); diff != "" || adopted.Name != "Payments" || adopted.TTL != 900 {
		t.Errorf("the adopted API %q with tokens of %d s has other scopes (-want +got):\n%s", adopted.Name, adopted.TTL, diff)
	}
	w.delete(cart, api)
	w.isGone(cart, api)
	left := w.resource(paymentAPI)
	if left == nil || left.Name != "Payments" {
		t.Fatalf("the adopted API is gone, or another: %+v", left)
	}
	if diff := cmp.Diff(before.scopeNames(), left.scopeNames()); diff != "" {
		t.Errorf("the scopes of the API that stays (-before +after):\n%s", diff)
	}
	w.do(http.MethodDelete, "/resources/"+made.ID, nil, nil)
	w.clean(cart)
}

// testAdoptApplication makes a client take over an application that has a secret and a role of its own.
func testAdoptApplication(t *testing.T, w *world) {
	as, api, cart := w.authServer(), w.api(paymentAPI, w.read(), w.write()), w.calls("cart", paymentAPI, w.write())
	adopt := func(id string) {
		as.Spec.Provisioning.Adoption.Clients = []v1alpha1.AdoptedClient{{
			ClientID: v1alpha1.ClientID(id), Namespace: v1alpha1.NamespaceName(w.shop), Name: "cart",
		}}
	}
	adopt("no-such-application")
	w.start()
	w.create(as, api, cart)
	w.hasCondition(cart, v1alpha1.ConditionProvisioned, metav1.ConditionFalse, v1alpha1.ReasonAdoptedNotFound)

	var app logtoApplication
	w.do(http.MethodPost, "/applications", map[string]any{
		"name": "Cart, " + w.id, "type": "MachineToMachine", "description": "Made by hand", "customData": map[string]any{"team": "shop"},
	}, &app)
	var role logtoRole
	w.do(http.MethodPost, "/roles", map[string]any{"name": "Cart's, " + w.id, "description": "Made by hand", "type": "MachineToMachine"}, &role)
	w.do(http.MethodPost, "/applications/"+app.ID+"/roles", map[string]any{"roleIds": []string{role.ID}}, nil)
	// The secrets of the application before it is taken over.
	h, err := w.console.holdings(t.Context(), w.id)
	if err != nil || len(h.Applications) != 1 {
		t.Fatalf("the application made by hand is not the only one: %s %v", h.describe(), err)
	}
	before := h.Applications[0]

	w.measure("adoption", func() {
		change(w, as, func(a *v1alpha1.AuthorizationServer) {
			adopt(app.ID)
			a.Spec.Provisioning.Adoption.Clients = as.Spec.Provisioning.Adoption.Clients
			a.Spec.Provisioning.Adoption.Clients[0].ClientID = v1alpha1.ClientID(app.ID)
		})
		w.isReady(cart)
	})
	if id := string(cart.Status.Provisioning.ClientID); id != app.ID || cart.Status.Provisioning.Origin != "Adopted" {
		t.Errorf("the client is %s, %s, want the adopted %s", id, cart.Status.Provisioning.Origin, app.ID)
	}
	w.hasToken(cart, paymentAPI, w.write())
	find := func() logtoApplication {
		t.Helper()
		h, err := w.console.holdings(t.Context(), w.id)
		if err != nil || len(h.Applications) != 1 {
			t.Fatalf("there is not one application: %s %v", h.describe(), err)
		}
		return h.Applications[0]
	}
	adopted := find()
	for _, s := range before.Secrets {
		if !slices.Contains(adopted.Secrets, s) {
			t.Errorf("the adopted application has lost the secret %q", s)
		}
	}
	if len(adopted.Roles) != 2 || !slices.Contains(adopted.Roles, role.ID) || adopted.CustomData["team"] != "shop" {
		t.Errorf("the adopted application has the roles %q and the data %v", adopted.Roles, adopted.CustomData)
	}
	w.delete(cart, api)
	w.isGone(cart, api)
	if diff := cmp.Diff(before, find()); diff != "" {
		t.Errorf("the application that stays (-before +after):\n%s", diff)
	}
	w.do(http.MethodDelete, "/applications/"+app.ID, nil, nil)
	w.do(http.MethodDelete, "/roles/"+role.ID, nil, nil)
	w.clean(cart)
}

// testManagementAPI declares the server's own administration as an API. The API server refuses identifiers that look
// like one; the driver refuses the one that it uses itself, whatever it looks like.
func testManagementAPI(t *testing.T, w *world) {
	as := w.authServer()
	w.start()
	w.create(as)
	w.hasCondition(as, v1alpha1.ConditionProvisioningReady, metav1.ConditionTrue, v1alpha1.ReasonProvisioningReady)
	for _, identifier := range []string{w.managementAPI, strings.ToUpper(w.managementAPI[:8]) + w.managementAPI[8:], w.managementAPI + "/"} {
		api := w.api(paymentAPI, w.write())
		api.Spec.Identifier, api.Spec.DeletionPolicy = v1alpha1.ResourceIdentifier(identifier), v1alpha1.DeletionRetain
		if err := w.kube.Create(t.Context(), api); err == nil {
			// Not of the usual form, but the driver knows it.
			w.hasCondition(api, v1alpha1.ConditionProvisioned, metav1.ConditionFalse, v1alpha1.ReasonProvisioningForbidden)
			w.delete(api)
			w.isGone(api)
		} else if !apierrors.IsInvalid(err) {
			t.Errorf("an APIResource for %s: %v", identifier, err)
		}
	}
	cart := w.calls("cart", paymentAPI, "all")
	cart.Spec.Access = []v1alpha1.Access{{Resource: v1alpha1.ResourceIdentifier(w.managementAPI), Key: "api", Scopes: []v1alpha1.ScopeName{"all"}}}
	if err := w.kube.Create(t.Context(), cart); err == nil {
		w.hasCondition(cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonNotGranted)
	} else if !apierrors.IsInvalid(err) {
		t.Errorf("an M2MClient for the Management API: %v", err)
	}
}
