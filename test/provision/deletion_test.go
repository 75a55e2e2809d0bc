// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// clean waits until nothing of the scenario is at the server, and the operator keeps
// nothing of the client.
func (w *world) clean(cart *v1alpha1.M2MClient) {
	w.t.Helper()
	w.atServer(expected{})
	eventually(w.t, func() error {
		if s, _, err := w.credentials(cart); err != nil || s != nil {
			return fmt.Errorf("the Secret with the client's credentials is still there: %w", err)
		}
		return nil
	})
}

func testAPIDeletedFirst(_ *testing.T, w *world) {
	_, api, cart := w.story()
	w.delete(api)
	w.isGone(api)
	w.hasCondition(cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonAPIResourceNotFound)
	w.delete(cart)
	w.isGone(cart)
	w.clean(cart)
}

func testServerDeletedToo(_ *testing.T, w *world) {
	as, api, cart := w.story()
	w.measure("deletion", func() {
		w.delete(as, cart, api) // the server first
		w.isGone(cart, api, as)
	})
	w.clean(cart)
}

// testAllDeletedAtOnce deletes everything in two namespaces, including the Secrets, as the deletion of the namespaces
// would.
func testAllDeletedAtOnce(_ *testing.T, w *world) {
	as, api, cart := w.story()
	w.measure("deletion", func() {
		if s := w.credential(); s != nil {
			w.delete(s)
		}
		w.delete(as, api, cart)
		w.isGone(cart, api, as)
	})
	w.clean(cart)
}

// testCredentialDeletedFirst deletes the operator's credential for the server first.
// What the operator remembers is sufficient to clean up.
func testCredentialDeletedFirst(_ *testing.T, w *world) {
	as, api, cart := w.story()
	if s := w.credential(); s != nil {
		w.delete(s)
		w.hasCondition(as, v1alpha1.ConditionProvisioningReady, metav1.ConditionFalse, v1alpha1.ReasonCredentialsNotFound)
	}
	w.delete(cart, api)
	w.isGone(cart, api)
	w.clean(cart)
}

// testOwnSecretDeletedFirst deletes the Secret with the client's own secret together with the client.
func testOwnSecretDeletedFirst(t *testing.T, w *world) {
	_, api, cart := w.story()
	s, _, err := w.credentials(cart)
	if err != nil || s == nil {
		t.Fatalf("there is no Secret with the client's credentials: %v", err)
	}
	w.delete(s, cart, api) // the operator deletes it with the client
	w.isGone(cart, api)
	w.clean(cart)
}

// testLetGo deletes the client when the operator cannot remove anything, and has no
// credential in memory. The operator lets go after its time limit, and reports what it
// leaves behind.
func testLetGo(_ *testing.T, w *world) {
	w.options.DeletionTimeout = 5 * time.Second
	_, api, cart := w.story()
	app, role := w.current("cart")
	w.kill()
	w.delete(w.credential())
	w.start()
	w.measure("deletion", func() {
		w.delete(cart)
		w.isGone(cart)
	})
	w.told(cart, v1alpha1.ReasonLeftBehind, app.ID)
	w.do(http.MethodDelete, "/applications/"+app.ID, nil, nil)
	w.do(http.MethodDelete, "/roles/"+role.ID, nil, nil)
	w.create(w.credential())
	w.delete(api)
	w.isGone(api)
	w.clean(cart)
}

// testRetain: the API and the application, without our secret, stay if the objects say
// so.
func testRetain(t *testing.T, w *world) {
	as, api, cart := w.authServer(), w.api(paymentAPI, w.read(), w.write()), w.calls("cart", paymentAPI, w.write())
	api.Spec.DeletionPolicy, cart.Spec.DeletionPolicy = v1alpha1.DeletionRetain, v1alpha1.DeletionRetain
	w.start()
	w.create(as, api, cart)
	w.isReady(cart, api, as)
	app, role := w.current("cart")
	w.delete(cart, api)
	w.isGone(cart, api)
	h, err := w.console.holdings(t.Context(), w.id)
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Applications) != 1 || h.Applications[0].ID != app.ID || len(h.Applications[0].Secrets) != 0 {
		t.Errorf("the retained application should be there, without secrets: %+v", h.Applications)
	}
	if len(h.Roles) != 1 || h.Roles[0].ID != role.ID || len(h.Resources) != 1 {
		t.Errorf("the role and the API should be there: %s", h.describe())
	}

	// The next objects of these names take them over again. No garbage collector deletes the token's Secret here.
	w.delete(w.tokenSecret(cart))
	api, cart = w.api(paymentAPI, w.read(), w.write()), w.calls("cart", paymentAPI, w.write())
	for _, o := range []client.Object{api, cart} {
		w.create(o)
	}
	w.isReady(cart, api)
	w.atServer(w.storyAtServer())
	if again, _ := w.current("cart"); again.ID != app.ID {
		t.Error("there is another application now")
	}
	w.delete(cart, api)
	w.isGone(cart, api)
	w.clean(cart)
}
