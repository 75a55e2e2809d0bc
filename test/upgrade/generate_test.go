// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// The upgraded operator starts a while after the data, when nothing is due, and runs until
// everything has been compared with the servers again.
const (
	later    = time.Minute
	compared = 20 * time.Minute
)

// steady makes what an operator writes independent of the cluster.
func steady(o *controller.Options) { o.ClusterID = "frozen" }

// TestGenerate writes the data of today's operator to the directory that
// M2M_UPGRADE_DATA names below testdata: make upgrade-data.
func TestGenerate(t *testing.T) {
	version := os.Getenv("M2M_UPGRADE_DATA")
	if version == "" {
		t.Skip("M2M_UPGRADE_DATA names no version to generate the data of")
	}
	op := operator.StartStepped(t, steady)
	auth, logto := start(t, op)
	wire := &recorder{to: map[string]http.RoundTripper{authHost: auth.Transport(), logtoHost: logto.Transport()}, all: answers{}}
	servers.lead(wire)
	defer servers.lead(nil)

	create(t, auth, logto)
	// The caches see what was created at different times.
	operator.Eventually(t, func() error {
		op.Settle(namespaces...)
		return notReady(t, of(t))
	})
	op.Stop()
	now := op.Clock.Now()

	// Another operator asks what every operator asks at its start.
	again := operator.StartStepped(t, steady)
	again.Clock.SetTime(now.Add(later))
	again.Settle(namespaces...)
	if writes := again.Requests.Writes(); len(writes) > 0 {
		t.Fatalf("after a restart, the operator writes %s", told(writes))
	}
	d := &data{At: now.UTC(), Servers: wire.all, Objects: of(t)}
	// What it asks when it compares everything with the servers.
	again.Clock.SetTime(now.Add(compared))
	again.Settle(namespaces...)
	again.Stop()
	d.save(t, filepath.Join("testdata", version))
}

// start starts the authorization servers, which know the payment API and the cart.
func start(t *testing.T, op *operator.Operator) (*oidc.Server, *logtotest.Server) {
	t.Helper()
	auth, err := oidc.Start(oidc.Options{
		URL: "http://" + authHost, TokenLifetime: time.Hour, Now: op.Clock.Now, DynamicRegistration: &oidc.DynamicRegistration{InitialAccessToken: operator.Sentinel + "-initial"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(auth.Close)
	auth.SetResource(operator.PaymentAPI, "payments:read", "payments:write")
	if err := auth.SetClient(oidc.Client{
		ID: operator.CartID, Secret: operator.Sentinel + "-cart", Method: oidc.SecretBasic,
		Scopes: map[string][]string{operator.PaymentAPI: {"payments:write"}},
	}); err != nil {
		t.Fatal(err)
	}
	logto, err := logtotest.Start(logtotest.WithHTTP(), logtotest.WithEndpoint("http://"+logtoHost), logtotest.WithClock(op.Clock.Now), logtotest.WithSecretPrefix(operator.Sentinel))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(logto.Close)
	return auth, logto
}

// create creates the users' objects: a client with credentials of its own, one that is
// registered, one that is provisioned, and pods that verify.
func create(t *testing.T, auth *oidc.Server, logto *logtotest.Server) {
	t.Helper()
	for _, n := range namespaces {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n}}
		if err := operator.Kube.Create(t.Context(), ns); client.IgnoreAlreadyExists(err) != nil {
			t.Fatal(err)
		}
	}
	w := &operator.World{T: t, AS: auth, Shop: "shop", Payments: "payments"}
	tenant := &operator.Tenant{T: t, Logto: logto, Shop: "shop", Payments: "payments"}
	provisioning := tenant.Server()
	provisioning.Spec.Provisioning.ResyncInterval = "" // the default
	orders := tenant.API()
	orders.Name, orders.Spec.Identifier = "orders-api", "https://orders.example.com/api"
	checkout := tenant.Cart()
	checkout.Name, checkout.Spec.Access[0].APIResourceRef.Name = "checkout", "orders-api"
	registering := w.Server("shop")
	registering.Name = "registering"
	registering.Spec.Provisioning.DynamicRegistration = v1alpha1.DynamicRegistrationProvisioning{
		InitialAccessTokenSecretRef: v1alpha1.SecretKeyReference{Name: "registration"},
	}
	list := w.API()
	list.Namespace, list.Name, list.Spec.Identifier, list.Spec.AuthorizationServerRef.Name = "shop", "list-api", "https://list.example.com/api", "registering"
	wishlist := tenant.Cart()
	wishlist.Name, wishlist.Spec.Access[0].APIResourceRef = "wishlist", v1alpha1.APIResourceReference{Name: "list-api"}
	company := &v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: "company"}, Spec: v1alpha1.ClusterAuthorizationServerSpec{
		AuthorizationServerSpec: v1alpha1.AuthorizationServerSpec{Issuer: auth.Issuer()},
		AllowedNamespaces:       operator.NamesOf("shop", "payments"),
	}}
	deployment := operator.VerifyWith("payments", "payment", "payment-api")
	operator.Create(t,
		w.Server("payments"), w.Server("shop"), w.API(), w.Secret("cart-credentials", operator.CartID, operator.Sentinel+"-cart"), w.Cart(),
		tenant.Management(), provisioning, orders, checkout,
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "registration"}, StringData: map[string]string{v1alpha1.InitialAccessTokenKey: operator.Sentinel + "-initial"}},
		registering, list, wishlist, company, deployment, podOf(deployment))
}

// podOf returns a pod of a Deployment.
func podOf(d *appsv1.Deployment) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: *d.Spec.Template.ObjectMeta.DeepCopy(), Spec: *d.Spec.Template.Spec.DeepCopy()}
	pod.Namespace, pod.Name = d.Namespace, d.Name+"-1"
	pod.Annotations = map[string]string{v1alpha1.VerifyAnnotation: "payment-api"}
	return pod
}
