// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
	"github.com/m2m-operator/m2m-operator/internal/controller/servers"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/traffic"
)

// newAdministrationFixture returns an Administration without an API server.
func newAdministrationFixture(f *foreign.Objects) *Administration {
	l, c := servers.NewLives(), clock.RealClock{}
	return NewAdministration(AdministrationConfig{
		Lives: l, Connections: servers.NewConnections(l, egress.Policy{}, f, ""), Endpoints: servers.NewEndpoints(l), Admission: servers.NewAdmission(l, nil, c, 20, 1, 100),
		Foreign: f, Clock: c, Wakes: servers.NewWakes(), Workers: 20,
	})
}

// TestServersThatAreGoneAreForgotten creates and deletes authorization servers with a
// driver over and over. Objects at the last of them can still be removed.
func TestServersThatAreGoneAreForgotten(t *testing.T) {
	s := newAdministrationFixture(&foreign.Objects{})
	auth := func(i int) *v1alpha1.AuthorizationServer {
		a := &v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("auth-%d", i), UID: types.UID(fmt.Sprint(i))}}
		a.Spec.Provisioning.DynamicRegistration.Endpoint = "https://auth.example.com/register"
		return a
	}
	driverOf := func(i int) provision.Driver {
		key := rules.ServerKeyOf(auth(i))
		return s.lastDriver(v1alpha1.ProvisioningServer{
			Kind: key.Kind, Namespace: v1alpha1.NamespaceName(key.Namespace), Name: v1alpha1.ObjectName(key.Name), Driver: v1alpha1.DriverDynamicRegistration})
	}
	const last = 500
	for i := range last + 1 {
		if d, _, bad, err := s.driver(t.Context(), auth(i)); d == nil || bad != nil || err != nil {
			t.Fatal(d, bad, err)
		}
		if i > 0 { // the first one stays
			s.Lives.Forget(rules.ServerKeyOf(auth(i)))
		}
	}
	if s.of.Len() != 1 || s.Connections.To.Len() != 1 || s.drivers.Len() > maxDrivers {
		t.Errorf("of %d servers there are %d states, %d connections and %d drivers", last+1, s.of.Len(), s.Connections.To.Len(), s.drivers.Len())
	}
	if driverOf(0) == nil || driverOf(last) == nil || driverOf(1) != nil {
		t.Errorf("drivers exist for the present server: %t, for the last: %t, for one that is long gone: %t",
			driverOf(0) != nil, driverOf(last) != nil, driverOf(1) != nil)
	}
}

// TestServersStayForgotten looks up a deleted server, as a pass does that began
// earlier. Nothing of it is kept, and the state of a new server of the same name
// stays.
func TestServersStayForgotten(t *testing.T) {
	s := newAdministrationFixture(&foreign.Objects{})
	auth := func(uid types.UID) *v1alpha1.AuthorizationServer {
		return &v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "auth", UID: uid}}
	}
	passBegan := func() {
		t.Helper()
		if hc, _, bad, err := s.Connections.HTTPClient(t.Context(), auth("1")); hc == nil || bad != nil || err != nil {
			t.Fatal(hc, bad, err)
		}
	}
	passBegan()
	s.Lives.Forget(rules.ServerKeyOf(auth("1")))
	passBegan()
	if s.Connections.To.Len() != 0 {
		t.Errorf("%d connections of the deleted server are kept", s.Connections.To.Len())
	}
	srv := &rules.Server{Object: auth("1")}
	if ticket, wait, bad, err := s.Admission.Admit(t.Context(), srv, traffic.Need{}); ticket != nil || wait == 0 || bad == nil || !bad.Unknown || err != nil {
		t.Errorf("a request to it is let through: %v, %v, %+v, %v", ticket, wait, bad, err)
	}
	// Something may still be removed at it. Its metrics are deleted.
	s.drifted(srv, 1)
	(&pacedTransport{server: srv, a: s}).observe(200)
	if sum, series := kubetest.Metric(t, "m2m_provisioning_requests_total", map[string]string{"server": srv.Key().String()}); series > 0 {
		t.Errorf("%v requests to it are counted", sum)
	}
	if _, series := kubetest.Metric(t, "m2m_provisioning_drift_total", map[string]string{"server": srv.Key().String()}); series > 0 {
		t.Error("its drift is counted")
	}
	is := s.of.Get(auth("2"))
	passBegan()
	if s.of.Find(rules.ServerKeyOf(auth("1"))) != is {
		t.Error("the new server of its name has lost its state")
	}
	after := s.of.Get(auth("3")) // the deletion of the second was missed
	s.of.Get(auth("2"))
	if s.of.Find(rules.ServerKeyOf(auth("1"))) != after {
		t.Error("the third server has lost its state")
	}
}

// TestObjectsThatMoveAreForgotten begins to move ever more objects, which are deleted
// before the move ends.
func TestObjectsThatMoveAreForgotten(t *testing.T) {
	r, now := &remover{since: lru.New(maxMoving)}, time.Unix(0, 0)
	cart := func(uid int) *v1alpha1.M2MClient {
		return &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{UID: types.UID(fmt.Sprint(uid))}}
	}
	for i := range 2 * maxMoving {
		r.begun(cart(i), now)
	}
	if r.since.Len() > maxMoving {
		t.Errorf("%d are kept", r.since.Len())
	}
	if got := r.begun(cart(2*maxMoving-1), now.Add(time.Hour)); got != now {
		t.Errorf("the last one starts again at %s", got)
	}
}

// TestATooLongProvisioningCredentialIsTold reads a credential from a value that is too
// long.
func TestATooLongProvisioningCredentialIsTold(t *testing.T) {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "credentials"}, Data: map[string][]byte{
		v1alpha1.ClientIDKey: []byte("cart"), v1alpha1.ClientSecretKey: bytes.Repeat([]byte("x"), foreign.MaxCredential+1)}}
	s := newAdministrationFixture(foreign.Of(fake.NewClientBuilder().WithObjects(secret).Build()))
	auth := &v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Namespace: secret.Namespace}}
	auth.Spec.Provisioning.Logto = v1alpha1.LogtoProvisioning{Endpoint: "https://logto.example.com"}
	auth.Spec.Provisioning.Logto.CredentialsSecretRef.Name = v1alpha1.ObjectName(secret.Name)
	if _, _, bad, err := s.provisioningSecret(t.Context(), auth); err != nil || bad == nil || bad.Reason != v1alpha1.ReasonCredentialsInvalid || !strings.Contains(bad.Message, "65536") {
		t.Errorf("%+v, %v", bad, err)
	}
}
