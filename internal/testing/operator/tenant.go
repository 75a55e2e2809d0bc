// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

// Tenant is the setting of a provisioning test: a Logto, and the namespaces of an API
// and a client. The server has no objects at first.
type Tenant struct {
	T              *testing.T
	Logto          *logtotest.Server
	Shop, Payments string
}

// Namespace is the operator's own namespace.
const Namespace = "m2m-operator-system"

// NewTenant starts a Logto and creates the namespaces.
func NewTenant(t *testing.T) *Tenant {
	t.Helper()
	l, err := logtotest.Start(logtotest.WithHTTP(), logtotest.WithSecretPrefix(Sentinel))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	t.Cleanup(func() {
		if v := l.Violations(); len(v) > 0 {
			t.Errorf("Logto would not have understood:\n%s", strings.Join(v, "\n"))
		}
	})
	CreateNamespace(t)
	w := &Tenant{T: t, Logto: l, Shop: NewNamespace(t, "shop", nil), Payments: NewNamespace(t, "payments", nil)}
	t.Cleanup(func() { LetGo(t, w.Shop, w.Payments) })
	return w
}

// CreateNamespace creates the operator's own namespace, unless it exists.
func CreateNamespace(t *testing.T) {
	t.Helper()
	system := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace}}
	if err := Kube.Create(t.Context(), system); client.IgnoreAlreadyExists(err) != nil {
		t.Fatal(err)
	}
}

// LetGo removes the finalizers that no operator will remove, and the credentials that
// the operator would keep for a while.
func LetGo(t *testing.T, namespaces ...string) {
	t.Helper()
	ctx := context.Background()
	var secrets corev1.SecretList
	if err := Kube.List(ctx, &secrets, client.InNamespace(Namespace)); err != nil {
		t.Error(err)
	}
	for i := range secrets.Items {
		of, _, _ := strings.Cut(secrets.Items[i].Annotations[v1alpha1.OwnerAnnotation], "/")
		if !slices.Contains(namespaces, of) {
			continue
		}
		if err := Kube.Delete(ctx, &secrets.Items[i]); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	}
	for _, ns := range namespaces {
		for _, list := range []client.ObjectList{&v1alpha1.M2MClientList{}, &v1alpha1.APIResourceList{}, &v1alpha1.AuthorizationServerList{}} {
			if err := Kube.List(ctx, list, client.InNamespace(ns)); err != nil {
				t.Error(err)
			}
			for _, o := range objectsOf(list) {
				before := o.DeepCopyObject().(client.Object)
				o.SetFinalizers(nil)
				if err := Kube.Patch(ctx, o, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
					t.Error(err)
				}
			}
		}
	}
}

func objectsOf(list client.ObjectList) []client.Object {
	var all []client.Object
	switch l := list.(type) {
	case *v1alpha1.M2MClientList:
		for i := range l.Items {
			all = append(all, &l.Items[i])
		}
	case *v1alpha1.APIResourceList:
		for i := range l.Items {
			all = append(all, &l.Items[i])
		}
	case *v1alpha1.AuthorizationServerList:
		for i := range l.Items {
			all = append(all, &l.Items[i])
		}
	}
	return all
}

// Management returns the Secret with the operator's own application at the Logto.
func (w *Tenant) Management() *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "logto-management", Namespace: w.Payments},
		StringData: map[string]string{v1alpha1.ClientIDKey: w.Logto.ManagementClientID(), v1alpha1.ClientSecretKey: w.Logto.ManagementClientSecret()},
	}
}

// Server returns the tenant's server in the API's namespace.
func (w *Tenant) Server() *v1alpha1.AuthorizationServer {
	return &v1alpha1.AuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Name: "logto", Namespace: w.Payments},
		Spec: v1alpha1.AuthorizationServerSpec{
			Issuer: w.Logto.Issuer(),
			Provisioning: v1alpha1.Provisioning{
				ResyncInterval: "10s",
				Logto: v1alpha1.LogtoProvisioning{
					Endpoint: v1alpha1.EndpointURL(w.Logto.Endpoint()), CredentialsSecretRef: v1alpha1.SecretReference{Name: "logto-management"},
				},
			},
		},
	}
}

// ClusterServer returns the tenant's server for the whole cluster. Its credential is
// in the operator's namespace.
func (w *Tenant) ClusterServer(allowed ...string) (*v1alpha1.ClusterAuthorizationServer, *corev1.Secret) {
	w.T.Helper()
	secret := w.Management()
	secret.Name, secret.Namespace = "management-"+w.Payments, Namespace
	cluster := &v1alpha1.ClusterAuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Name: "logto-" + w.Payments},
		Spec:       v1alpha1.ClusterAuthorizationServerSpec{AuthorizationServerSpec: w.Server().Spec},
	}
	cluster.Spec.Provisioning.Logto.CredentialsSecretRef.Name = v1alpha1.ObjectName(secret.Name)
	for _, ns := range allowed {
		cluster.Spec.AllowedNamespaces.Names = append(cluster.Spec.AllowedNamespaces.Names, v1alpha1.NamespaceName(ns))
	}
	w.T.Cleanup(func() {
		ctx := context.Background()
		if Kube.Get(ctx, client.ObjectKeyFromObject(cluster), cluster) == nil {
			before := cluster.DeepCopy()
			cluster.Finalizers = nil
			_ = Kube.Patch(ctx, cluster, client.MergeFrom(before))
			_ = Kube.Delete(ctx, cluster)
		}
		_ = Kube.Delete(ctx, secret)
	})
	return cluster, secret
}

// API returns the payment API, which grants everything to the shop.
func (w *Tenant) API() *v1alpha1.APIResource {
	return &v1alpha1.APIResource{
		ObjectMeta: metav1.ObjectMeta{Name: "payment-api", Namespace: w.Payments},
		Spec: v1alpha1.APIResourceSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Name: "logto"},
			Identifier:             v1alpha1.ResourceIdentifier("https://payment." + w.Payments + ".example.com/api"),
			Scopes:                 []v1alpha1.Scope{{Name: "payments:read"}, {Name: "payments:write", Description: "Create and refund payments"}},
			Grants: []v1alpha1.Grant{{
				Clients: v1alpha1.GrantedClients{Namespaces: v1alpha1.NamespaceSelection{Names: []v1alpha1.NamespaceName{v1alpha1.NamespaceName(w.Shop)}}},
				Scopes:  []v1alpha1.ScopeName{"payments:read", "payments:write"},
			}},
			DeletionPolicy: v1alpha1.DeletionDelete,
		},
	}
}

// Cart returns a client that calls the payment API.
func (w *Tenant) Cart() *v1alpha1.M2MClient {
	return &v1alpha1.M2MClient{
		ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: w.Shop},
		Spec: v1alpha1.M2MClientSpec{Access: []v1alpha1.Access{{
			APIResourceRef: v1alpha1.APIResourceReference{Name: "payment-api", Namespace: v1alpha1.NamespaceName(w.Payments)},
			Scopes:         []v1alpha1.ScopeName{"payments:write"},
		}}},
	}
}

// Story creates all of them.
func (w *Tenant) Story() (*v1alpha1.AuthorizationServer, *v1alpha1.APIResource, *v1alpha1.M2MClient) {
	w.T.Helper()
	as, api, cart := w.Server(), w.API(), w.Cart()
	Create(w.T, w.Management(), as, api, cart)
	return as, api, cart
}

// Granted waits until Logto has exactly one application of the client, with one role,
// with exactly these scopes.
func (w *Tenant) Granted(api *v1alpha1.APIResource, scopes ...string) (app logtotest.Application, role logtotest.Role) {
	w.T.Helper()
	Eventually(w.T, func() error {
		s := w.Logto.Snapshot()
		var apps []logtotest.Application
		for _, a := range s.Applications {
			if strings.Contains(a.Name, w.Shop+"/cart") {
				apps = append(apps, a)
			}
		}
		if len(apps) != 1 || len(apps[0].Roles) != 1 {
			return fmt.Errorf("the cart has %d applications: %+v", len(apps), apps)
		}
		app = apps[0]
		i := slices.IndexFunc(s.Roles, func(r logtotest.Role) bool { return slices.Contains(r.Applications, app.ID) })
		if i < 0 {
			return fmt.Errorf("cart has no role")
		}
		role = s.Roles[i]
		want := map[string][]string{string(api.Spec.Identifier): scopes}
		if len(scopes) == 0 {
			want = nil
		}
		if diff := cmp.Diff(want, role.Scopes); diff != "" {
			return fmt.Errorf("the role's scopes (-want +got):\n%s", diff)
		}
		return nil
	})
	return app, role
}

// ApplicationsOf counts the applications at the server that carry a name.
func (w *Tenant) ApplicationsOf(name string) int {
	n := 0
	for _, a := range w.Logto.Snapshot().Applications {
		if strings.Contains(a.Name, name) {
			n++
		}
	}
	return n
}

// HasNoToken waits until a client's Secret has no token for the payment API.
func (w *Tenant) HasNoToken(secret string) {
	w.T.Helper()
	Eventually(w.T, func() error {
		if TokenIn(w.T, w.Shop, secret, "payment-api") != "" {
			return fmt.Errorf("the token is still in Secret %q", secret)
		}
		return nil
	})
}

// ProvisionedIs waits until the condition Provisioned of an object has a status and a reason.
func ProvisionedIs(t *testing.T, obj client.Object, status metav1.ConditionStatus, reason string) metav1.Condition {
	t.Helper()
	return HasCondition(t, obj, v1alpha1.ConditionProvisioned, status, reason)
}

// Told waits for an event of an object with a reason and a text in its note.
func Told(t *testing.T, obj client.Object, reason, text string) {
	t.Helper()
	Eventually(t, func() error {
		var events eventsv1.EventList
		if err := Kube.List(t.Context(), &events, client.InNamespace(obj.GetNamespace())); err != nil {
			return err
		}
		var notes []string
		for _, e := range events.Items {
			if e.Regarding.UID == obj.GetUID() {
				notes = append(notes, e.Reason+": "+e.Note)
				if e.Reason == reason && strings.Contains(e.Note, text) {
					return nil
				}
			}
		}
		return fmt.Errorf("no event %s with %q among %q", reason, text, notes)
	})
}
