// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/traffic"
)

// secretsThere is an API server that has Secrets, and counts the reads.
type secretsThere struct {
	client.Reader
	all   map[types.NamespacedName]*corev1.Secret
	reads int
}

func (s *secretsThere) Get(_ context.Context, name types.NamespacedName, o client.Object, _ ...client.GetOption) error {
	s.reads++
	there, ok := s.all[name]
	if !ok {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name.Name)
	}
	there.DeepCopyInto(o.(*corev1.Secret))
	return nil
}

// nothing is a cache of the operator's own objects without any.
type nothing struct{ client.Reader }

func (nothing) Get(_ context.Context, name types.NamespacedName, _ client.Object, _ ...client.GetOption) error {
	return apierrors.NewNotFound(schema.GroupResource{}, name.Name)
}

// foreignFixture are foreign objects that a test makes and changes.
type foreignFixture struct {
	*foreignObjects
	there   *secretsThere
	store   *identityStore
	version int
}

func newForeignFixture(most int) *foreignFixture {
	there := &secretsThere{all: map[types.NamespacedName]*corev1.Secret{}}
	f := &foreignObjects{own: nothing{}, live: there, contents: newContentCache(most)}
	synced := make(chan struct{})
	close(synced)
	f.secrets = &identities{kind: "Secret", synced: synced, of: map[string]map[string]identity{}}
	f.secrets.changed = func(n types.NamespacedName) { f.contents.drop(foreignKey{"Secret", n}) }
	return &foreignFixture{foreignObjects: f, there: there, store: &identityStore{all: f.secrets}}
}

func (f *foreignFixture) set(name string, data map[string][]byte) types.NamespacedName {
	f.version++
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: name, UID: "e95a721c-3a61-48cf-8e00-7ac6b23b9cc6", ResourceVersion: fmt.Sprint(f.version)}, Data: data}
	f.there.all[client.ObjectKeyFromObject(s)] = s
	if err := f.store.Add(partial("Secret", s.ObjectMeta)); err != nil {
		panic(err)
	}
	return client.ObjectKeyFromObject(s)
}

func (f *foreignFixture) remove(name types.NamespacedName) {
	gone := f.there.all[name]
	delete(f.there.all, name)
	if err := f.store.Delete(partial("Secret", gone.ObjectMeta)); err != nil {
		panic(err)
	}
}

// check compares what is counted with what is there.
func (f *foreignFixture) check(t *testing.T) {
	t.Helper()
	if f.contents.bytes < 0 || f.contents.bytes > f.contents.most || f.contents.kept.Len() == 0 && f.contents.bytes != 0 {
		t.Errorf("%d objects count as %d of %d bytes", f.contents.kept.Len(), f.contents.bytes, f.contents.most)
	}
}

// TestForeignContentsAreForgotten makes and deletes Secrets of 1 MB over and over, and
// looks each up: nothing of them stays in memory.
func TestForeignContentsAreForgotten(t *testing.T) {
	f := newForeignFixture(maxContents)
	for i := range 200 {
		name := f.set(fmt.Sprintf("filled-%d", i), map[string][]byte{"client-secret": []byte("s"), "filled": bytes.Repeat([]byte("x"), 1<<20)})
		o, err := f.get(t.Context(), "Secret", name, maxCredential, "client-secret")
		if err != nil || string(o.data["client-secret"]) != "s" {
			t.Fatal(o, err)
		}
		if f.contents.bytes > 4096 {
			t.Fatalf("%d bytes of it are kept", f.contents.bytes)
		}
		f.remove(name)
		if o, err := f.get(t.Context(), "Secret", name, maxCredential, "client-secret"); o != nil || err != nil {
			t.Fatalf("what is gone is %+v, %v", o, err)
		}
	}
	f.check(t)
	if f.contents.kept.Len() != 0 {
		t.Errorf("%d objects that are gone are kept", f.contents.kept.Len())
	}
}

// TestForeignContentsAreBounded looks up more than is kept: what was not asked for the
// longest is read again, the rest is not.
func TestForeignContentsAreBounded(t *testing.T) {
	f := newForeignFixture(1 << 20)
	lookUp := func(name types.NamespacedName) (reads int) {
		t.Helper()
		before := f.there.reads
		o, err := f.get(t.Context(), "Secret", name, maxCredential, "key")
		if err != nil || len(o.data["key"]) != 40<<10 {
			t.Fatal(o, err)
		}
		f.check(t)
		return f.there.reads - before
	}
	secret := func(i int) types.NamespacedName {
		return f.set(fmt.Sprintf("s-%d", i), map[string][]byte{"key": bytes.Repeat([]byte("x"), 40<<10)})
	}
	often := secret(0)
	lookUp(often)
	for i := range 100 {
		if lookUp(secret(i+1)) != 1 || lookUp(often) != 0 {
			t.Fatalf("after %d others", i)
		}
	}
	if n := f.contents.kept.Len(); n < 20 || n > 26 {
		t.Errorf("%d Secrets of 40 KiB are kept in 1 MiB", n)
	}
	if lookUp(types.NamespacedName{Namespace: "shop", Name: "s-1"}) != 1 || lookUp(types.NamespacedName{Namespace: "shop", Name: "s-100"}) != 0 {
		t.Error("not the oldest are forgotten")
	}
}

// TestForeignContents looks up keys of a Secret.
func TestForeignContents(t *testing.T) {
	f := newForeignFixture(maxContents)
	long := bytes.Repeat([]byte("x"), maxCredential+1)
	name := f.set("credentials", map[string][]byte{"id": []byte("1"), "secret": []byte("s"), "empty": nil, "long": long})
	looksUp := func(reads, most int, want map[string][]byte, tooLong []string, keys ...string) {
		t.Helper()
		before := f.there.reads
		o, err := f.get(t.Context(), "Secret", name, most, keys...)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, o.data); diff != "" {
			t.Errorf("%v (-want +got):\n%s", keys, diff)
		}
		if diff := cmp.Diff(tooLong, o.tooLong); diff != "" {
			t.Errorf("too long of %v (-want +got):\n%s", keys, diff)
		}
		if f.there.reads-before != reads {
			t.Errorf("%v cost %d reads, want %d", keys, f.there.reads-before, reads)
		}
	}
	id := map[string][]byte{"id": []byte("1")}
	both := map[string][]byte{"id": []byte("1"), "secret": []byte("s")}
	none := map[string][]byte{}
	looksUp(1, maxCredential, id, nil, "id", "absent")
	looksUp(0, maxCredential, id, nil, "absent", "id")
	looksUp(1, maxCredential, both, nil, "id", "secret", "empty") // another key
	looksUp(0, maxCredential, both, nil, "id", "secret", "absent", "empty")
	looksUp(1, maxCredential, none, []string{"long"}, "long")
	looksUp(0, maxCredential, id, []string{"long"}, "id", "long")
	if f.contents.bytes > 4096 {
		t.Errorf("%d bytes are kept of what is too long", f.contents.bytes)
	}
	looksUp(1, maxCABundle, map[string][]byte{"long": long}, nil, "long") // more is asked for
	looksUp(0, maxCABundle, map[string][]byte{"long": long}, nil, "long")
	looksUp(0, maxCredential, none, []string{"long"}, "long")
	f.set("credentials", map[string][]byte{"id": []byte("2")})
	looksUp(1, maxCredential, map[string][]byte{"id": []byte("2")}, nil, "id", "secret")
	f.check(t)
}

// newAdministrationFixture returns what provisions at servers, without an API server.
func newAdministrationFixture(f *foreignObjects) *administration {
	l, c := newLives(), clock.RealClock{}
	return newAdministration(administrationConfig{
		lives: l, connections: newConnections(l, egress.Policy{}, f, ""), endpoints: newEndpoints(l), admission: newAdmission(l, nil, c, 20, 1, 100),
		foreign: f, clock: c, wakes: newWakeServers(), workers: 20,
	})
}

// TestTooLongCredentialsAreTold looks for a client's credentials in what is too long.
func TestTooLongCredentialsAreTold(t *testing.T) {
	f := newForeignFixture(maxContents)
	name := f.set("credentials", map[string][]byte{v1alpha1.ClientIDKey: []byte("cart"), v1alpha1.ClientSecretKey: bytes.Repeat([]byte("x"), maxCredential+1)})
	s := newAdministrationFixture(f.foreignObjects)
	r := &M2MClientReconciler{clientConfig: clientConfig{foreign: f.foreignObjects}}
	_, _, bad, err := r.readCredential(t.Context(), name, credentialKeys{content: v1alpha1.ClientSecretKey, id: v1alpha1.ClientIDKey})
	if err != nil || bad == nil || bad.Reason != v1alpha1.ReasonCredentialsInvalid || !strings.Contains(bad.Message, "65536") {
		t.Errorf("%+v, %v", bad, err)
	}
	ca := f.set("ca", map[string][]byte{v1alpha1.CABundleKey: bytes.Repeat([]byte("x"), maxCABundle+1)})
	auth := &v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Namespace: ca.Namespace}}
	auth.Spec.CABundle.SecretRef.Name = v1alpha1.ObjectName(ca.Name)
	auth.Spec.Provisioning.Logto = v1alpha1.LogtoProvisioning{Endpoint: "https://logto.example.com"}
	auth.Spec.Provisioning.Logto.CredentialsSecretRef.Name = v1alpha1.ObjectName(name.Name)
	if _, _, bad, err := s.connections.caBundle(t.Context(), auth); err != nil || bad == nil || bad.Reason != v1alpha1.ReasonCABundleInvalid || !strings.Contains(bad.Message, "262144") {
		t.Errorf("%+v, %v", bad, err)
	}
	if _, _, bad, err := s.provisioningSecret(t.Context(), auth); err != nil || bad == nil || bad.Reason != v1alpha1.ReasonCredentialsInvalid || !strings.Contains(bad.Message, "65536") {
		t.Errorf("%+v, %v", bad, err)
	}
}

// TestServersThatAreGoneAreForgotten makes authorization servers with a driver and
// deletes them over and over. What is left behind at the last of them can still be
// removed.
func TestServersThatAreGoneAreForgotten(t *testing.T) {
	s := newAdministrationFixture(newForeignFixture(maxContents).foreignObjects)
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
			s.lives.forget(rules.ServerKeyOf(auth(i)))
		}
	}
	if len(s.of.of) != 1 || len(s.connections.to.of) != 1 || s.drivers.Len() > maxDrivers {
		t.Errorf("of %d servers there are %d states, %d connections and %d drivers", last+1, len(s.of.of), len(s.connections.to.of), s.drivers.Len())
	}
	if driverOf(0) == nil || driverOf(last) == nil || driverOf(1) != nil {
		t.Errorf("there are drivers of the one that exists: %t, of the last: %t, of the one that is long gone: %t",
			driverOf(0) != nil, driverOf(last) != nil, driverOf(1) != nil)
	}
}

// TestServersStayForgotten looks up a server that is gone, as a pass does that began
// before: nothing is kept of it, nor is that of a new one of its name lost.
func TestServersStayForgotten(t *testing.T) {
	s := newAdministrationFixture(newForeignFixture(maxContents).foreignObjects)
	auth := func(uid types.UID) *v1alpha1.AuthorizationServer {
		return &v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "auth", UID: uid}}
	}
	passBegan := func() {
		t.Helper()
		if hc, _, bad, err := s.connections.httpClient(t.Context(), auth("1")); hc == nil || bad != nil || err != nil {
			t.Fatal(hc, bad, err)
		}
	}
	passBegan()
	s.lives.forget(rules.ServerKeyOf(auth("1")))
	passBegan()
	if len(s.connections.to.of) != 0 {
		t.Errorf("there is %+v of what is gone", s.connections.to.of)
	}
	srv := &rules.Server{Object: auth("1")}
	if ticket, wait, bad, err := s.admission.admit(t.Context(), srv, traffic.Need{}); ticket != nil || wait == 0 || bad == nil || !bad.Unknown || err != nil {
		t.Errorf("a request to it is let through: %v, %v, %+v, %v", ticket, wait, bad, err)
	}
	// Something may still be removed at it. Its series are deleted.
	s.drifted(srv, 1)
	(&pacedTransport{server: srv, a: s}).observe(200)
	if sum, series := metricOf(t, "m2m_provisioning_requests_total", map[string]string{"server": srv.Key().String()}); series > 0 {
		t.Errorf("%v requests to it are counted", sum)
	}
	if _, series := metricOf(t, "m2m_provisioning_drift_total", map[string]string{"server": srv.Key().String()}); series > 0 {
		t.Error("its drift is counted")
	}
	is := s.of.get(auth("2"))
	passBegan()
	if s.of.find(rules.ServerKeyOf(auth("1"))) != is {
		t.Error("the new one of its name has lost what was kept of it")
	}
	after := s.of.get(auth("3")) // the deletion of the second was missed
	s.of.get(auth("2"))
	if s.of.find(rules.ServerKeyOf(auth("1"))) != after {
		t.Error("the third one has lost what was kept of it")
	}
}

// TestObjectsThatMoveAreForgotten begins to move ever more objects that go before they
// have moved.
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
		t.Errorf("the last one begins anew at %s", got)
	}
}
