// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
)

// world is the setting of a scenario: a server, an operator, and the namespaces of a
// client, of the API it calls, and of the operator.
type world struct {
	*tenant
	t       *testing.T
	id      string // in the name of everything
	figures map[string]float64
	console *console // nil unless the server is a Logto

	kube    client.Client
	config  *rest.Config
	options controller.Options
	running *operator // nil while there is none

	shop, payments, system string

	lifetime v1alpha1.Duration // lifetime of access tokens, as the APIs declare it; "" for none
}

var worlds atomic.Int32 // made so far

// newWorld prepares a scenario, and cleans up when the test ends, also after a
// failure.
func newWorld(t *testing.T, s *subject) *world {
	t.Helper()
	w := &world{
		tenant: s.open(t), t: t, id: fmt.Sprintf("%s-%02d", runID, worlds.Add(1)), figures: map[string]float64{}, kube: kube, config: kubeConfig,
	}
	theSecrets.neverShow(w.clientSecret, w.initialToken)
	if w.endpoint != "" {
		w.console = newConsole(w.tenant)
	}
	w.shop, w.payments, w.system = "shop-"+w.id, "payments-"+w.id, "system-"+w.id
	w.options = operatorOptions(s.policy, w.system, w.shop, w.payments)
	t.Cleanup(func() { w.sweep(s) })
	t.Cleanup(w.end)
	w.furnish()
	return w
}

// furnish creates what a cluster has before anything is provisioned: the namespaces,
// the CA, and the credential for the server.
func (w *world) furnish() {
	w.t.Helper()
	for _, ns := range []string{w.shop, w.payments, w.system} {
		w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
	}
	if w.caPEM != "" {
		w.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "ca", Namespace: w.payments}, Data: map[string]string{v1alpha1.CABundleKey: w.caPEM}})
	}
	if s := w.credential(); s != nil {
		w.create(s)
	}
}

// credential is what the operator authenticates with at the server, nil if it needs nothing.
func (w *world) credential() *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "provisioning", Namespace: w.payments}}
	switch {
	case w.console != nil:
		s.StringData = map[string]string{v1alpha1.ClientIDKey: w.clientID, v1alpha1.ClientSecretKey: w.clientSecret}
	case w.initialToken != "":
		s.StringData = map[string]string{v1alpha1.InitialAccessTokenKey: w.initialToken}
	default:
		return nil
	}
	return s
}

// start starts the operator.
func (w *world) start() {
	w.t.Helper()
	op, err := startOperator(w.config, w.options)
	if err != nil {
		w.t.Fatal(err)
	}
	w.running = op
}

// kill ends the operator in the middle of whatever it does.
func (w *world) kill() {
	w.t.Helper()
	if w.running == nil {
		return
	}
	if err := w.running.kill(); err != nil {
		w.t.Errorf("the operator stopped: %v", err)
	}
	w.running = nil
}

// end deletes everything, as the operator's users would, and lets the operator clean up.
func (w *world) end() {
	if w.running == nil {
		w.start()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	for _, kinds := range [][]client.ObjectList{
		{&v1alpha1.M2MClientList{}}, {&v1alpha1.APIResourceList{}}, {&v1alpha1.AuthorizationServerList{}},
	} {
		for _, list := range kinds {
			w.deleteAll(ctx, list)
		}
	}
	w.kill()
}

// deleteAll deletes all objects of a kind, and waits until they are gone. It removes
// the finalizers of objects that stay, because nothing else would.
func (w *world) deleteAll(ctx context.Context, list client.ObjectList) {
	namespaces := []string{w.shop, w.payments}
	each := func(do func(client.Object) error) (left []string) {
		for _, ns := range namespaces {
			if err := w.kube.List(ctx, list, client.InNamespace(ns)); err != nil {
				w.t.Errorf("list a %T: %v", list, err)
				return nil
			}
			objects, _ := meta.ExtractList(list)
			for _, o := range objects {
				left = append(left, o.(client.Object).GetName())
				if err := do(o.(client.Object)); client.IgnoreNotFound(err) != nil {
					w.t.Errorf("delete %s: %v", o.(client.Object).GetName(), err)
				}
			}
		}
		return left
	}
	each(func(o client.Object) error { return w.kube.Delete(ctx, o) })
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if len(each(func(client.Object) error { return nil })) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
	stuck := each(func(o client.Object) error {
		before := o.DeepCopyObject().(client.Object)
		o.SetFinalizers(nil)
		return w.kube.Patch(ctx, o, client.MergeFrom(before))
	})
	w.t.Errorf("the operator does not let go of %q in a %T", stuck, list)
}

// sweep deletes whatever the scenario left at the server. There must be nothing.
func (w *world) sweep(s *subject) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var left []string
	var err error
	if w.console != nil {
		left, err = w.console.sweep(ctx, w.id)
	} else {
		left, err = w.sweepRegistrations(ctx)
	}
	report.addLeft(s.name, left)
	if err != nil {
		report.fail(err)
		w.t.Errorf("sweep the server: %v", err)
	}
	if len(left) > 0 {
		w.t.Errorf("left at the server, and swept: %s", strings.Join(left, "; "))
	}
}

func (w *world) create(objects ...client.Object) {
	w.t.Helper()
	for _, o := range objects {
		if err := w.kube.Create(w.t.Context(), o); err != nil {
			w.t.Fatalf("create %T %q: %v", o, o.GetName(), err)
		}
	}
}

func (w *world) delete(objects ...client.Object) {
	w.t.Helper()
	for _, o := range objects {
		if err := w.kube.Delete(w.t.Context(), o); err != nil {
			w.t.Fatalf("delete %T %q: %v", o, o.GetName(), err)
		}
	}
}

// change updates an object, and tries again after a conflict.
func change[T client.Object](w *world, obj T, mutate func(T)) {
	w.t.Helper()
	eventually(w.t, func() error {
		if err := w.kube.Get(w.t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
			return err
		}
		mutate(obj)
		err := w.kube.Update(w.t.Context(), obj)
		if err != nil && !apierrors.IsConflict(err) {
			w.t.Fatal(err)
		}
		return err
	})
}

func (w *world) authServer() *v1alpha1.AuthorizationServer {
	as := &v1alpha1.AuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Name: "auth", Namespace: w.payments},
		Spec:       v1alpha1.AuthorizationServerSpec{Issuer: w.issuer, Provisioning: v1alpha1.Provisioning{ResyncInterval: "10s"}},
	}
	if w.caPEM != "" {
		as.Spec.CABundle.ConfigMapRef.Name = "ca"
	}
	if w.console != nil {
		as.Spec.Provisioning.Logto = v1alpha1.LogtoProvisioning{
			Endpoint: v1alpha1.EndpointURL(w.endpoint), CredentialsSecretRef: v1alpha1.SecretReference{Name: "provisioning"},
			ManagementAPI: v1alpha1.EndpointURL(w.managementAPI),
		}
		return as
	}
	as.Spec.AudienceParameter = w.audienceParameter
	as.Spec.Provisioning.DynamicRegistration.AuthenticationMethod = v1alpha1.ClientSecretBasic
	if w.initialToken != "" {
		as.Spec.Provisioning.DynamicRegistration.InitialAccessTokenSecretRef.Name = "provisioning"
	}
	return as
}

// The names of the APIs.
const (
	paymentAPI = "payment-api"
	orderAPI   = "order-api"
)

func (w *world) identifier(api string) string {
	if len(w.resources) > 0 {
		return w.resources[map[string]int{paymentAPI: 0, orderAPI: 1}[api]]
	}
	return "https://" + w.id + ".example.com/" + api
}

// api is an API with scopes, all of which are granted to the shop. It is deleted at the server with its object.
func (w *world) api(name string, scopes ...string) *v1alpha1.APIResource {
	a := &v1alpha1.APIResource{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.payments},
		Spec: v1alpha1.APIResourceSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Name: "auth"},
			Identifier:             v1alpha1.ResourceIdentifier(w.identifier(name)),
			Grants: []v1alpha1.Grant{{
				Clients: v1alpha1.GrantedClients{Namespaces: v1alpha1.NamespaceSelection{Names: []v1alpha1.NamespaceName{v1alpha1.NamespaceName(w.shop)}}},
			}},
			AccessTokenLifetime: w.lifetime, DeletionPolicy: v1alpha1.DeletionDelete,
		},
	}
	for _, s := range scopes {
		a.Spec.Scopes = append(a.Spec.Scopes, v1alpha1.Scope{Name: v1alpha1.ScopeName(s)})
		a.Spec.Grants[0].Scopes = append(a.Spec.Grants[0].Scopes, v1alpha1.ScopeName(s))
	}
	return a
}

// calls is a client that calls an API with scopes.
func (w *world) calls(name, api string, scopes ...string) *v1alpha1.M2MClient {
	return &v1alpha1.M2MClient{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.shop},
		Spec:       v1alpha1.M2MClientSpec{Access: []v1alpha1.Access{w.access(api, scopes...)}},
	}
}

func (w *world) access(api string, scopes ...string) v1alpha1.Access {
	a := v1alpha1.Access{APIResourceRef: v1alpha1.APIResourceReference{Name: v1alpha1.APIResourceName(api), Namespace: v1alpha1.NamespaceName(w.payments)}}
	for _, s := range scopes {
		a.Scopes = append(a.Scopes, v1alpha1.ScopeName(s))
	}
	return a
}

// read, write and refund are the scopes, in the server's spelling.
func (w *world) read() string   { return w.scopes[0] }
func (w *world) write() string  { return w.scopes[1] }
func (w *world) refund() string { return w.scopes[2] }

// story starts the operator, and makes cart call the payment API with the scope to
// write, of the scopes to read and to write.
func (w *world) story() (*v1alpha1.AuthorizationServer, *v1alpha1.APIResource, *v1alpha1.M2MClient) {
	w.t.Helper()
	as, api, cart := w.authServer(), w.api(paymentAPI, w.read(), w.write()), w.calls("cart", paymentAPI, w.write())
	w.start()
	w.create(as, api, cart)
	w.isReady(cart, api, as)
	return as, api, cart
}

// hasCondition waits until an object has a condition of a status and reason.
func (w *world) hasCondition(obj client.Object, conditionType string, status metav1.ConditionStatus, reason string) metav1.Condition {
	w.t.Helper()
	var found metav1.Condition
	eventually(w.t, func() error {
		if err := w.kube.Get(w.t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
			return err
		}
		c := meta.FindStatusCondition(conditionsOf(obj), conditionType)
		if c == nil || c.ObservedGeneration != obj.GetGeneration() {
			return fmt.Errorf("%T %q has no current condition %s: %+v", obj, obj.GetName(), conditionType, conditionsOf(obj))
		}
		if c.Status != status || c.Reason != reason {
			return fmt.Errorf("%s of %q is %s, %s: %s; want %s, %s", conditionType, obj.GetName(), c.Status, c.Reason, c.Message, status, reason)
		}
		found = *c
		return nil
	})
	return found
}

func conditionsOf(obj client.Object) []metav1.Condition {
	switch o := obj.(type) {
	case *v1alpha1.AuthorizationServer:
		return o.Status.Conditions
	case *v1alpha1.APIResource:
		return o.Status.Conditions
	case *v1alpha1.M2MClient:
		return o.Status.Conditions
	}
	return nil
}

func (w *world) isReady(objects ...client.Object) {
	w.t.Helper()
	for _, o := range objects {
		w.hasCondition(o, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady)
	}
}

// isGone waits until objects no longer exist.
func (w *world) isGone(objects ...client.Object) {
	w.t.Helper()
	for _, obj := range objects {
		eventually(w.t, func() error {
			err := w.kube.Get(w.t.Context(), client.ObjectKeyFromObject(obj), obj)
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("%T %q still exists, with the finalizers %q: %w", obj, obj.GetName(), obj.GetFinalizers(), err)
		})
	}
}

// told waits until an event of an object has a reason and contains one of the texts.
func (w *world) told(obj client.Object, reason string, texts ...string) {
	w.t.Helper()
	eventually(w.t, func() error {
		notes, err := w.events(obj, reason)
		for _, note := range notes {
			for _, text := range texts {
				if strings.Contains(strings.ToLower(note), strings.ToLower(text)) {
					return nil
				}
			}
		}
		return fmt.Errorf("no event %s with one of %q among %q: %w", reason, texts, notes, err)
	})
}

// events returns the messages of an object's events with a reason.
func (w *world) events(obj client.Object, reason string) (notes []string, err error) {
	var events eventsv1.EventList
	err = w.kube.List(w.t.Context(), &events, client.InNamespace(obj.GetNamespace()))
	for _, e := range events.Items {
		if e.Regarding.UID == obj.GetUID() && e.Reason == reason {
			notes = append(notes, e.Note)
		}
	}
	return notes, err
}

// credentials returns what the operator keeps of a client's secrets, nil if it keeps nothing.
func (w *world) credentials(c client.Object) (*corev1.Secret, []credential, error) {
	var all corev1.SecretList
	if err := w.kube.List(w.t.Context(), &all, client.InNamespace(w.system)); err != nil {
		return nil, nil, err
	}
	for i := range all.Items {
		s := &all.Items[i]
		if s.Annotations[v1alpha1.OwnerAnnotation] == client.ObjectKeyFromObject(c).String() {
			found, err := credentialsIn(s)
			return s, found, err
		}
	}
	return nil, nil, nil
}

// requests returns how many requests the operator has made to the administration of the scenario's server.
func (w *world) requests() (n int) {
	w.t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "m2m_provisioning_requests_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "server" && l.GetValue() == "AuthorizationServer/"+w.payments+"/auth" {
					n += int(m.GetCounter().GetValue())
				}
			}
		}
	}
	return n
}

// measure records how long something takes, and how many requests.
func (w *world) measure(name string, f func()) {
	w.t.Helper()
	start, before := time.Now(), w.requests()
	f()
	w.figures[name+"_seconds"] = inSeconds(time.Since(start))
	if n := w.requests() - before; n >= 0 { // the counter starts at zero once the AuthorizationServer is gone
		w.figures[name+"_requests"] = float64(n)
	}
}
