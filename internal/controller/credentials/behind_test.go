// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// TestACacheOfSecretsThatIsBehind looks for the credential that a status names. The cached Secret does
// not have it yet.
func TestACacheOfSecretsThatIsBehind(t *testing.T) {
	as := &v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "auth"}}
	srv := &rules.Server{Object: as, Spec: &as.Spec, Status: &as.Status}
	cart := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}}
	cart.Status.Provisioning.Server = record.ServerOf(srv)
	cart.Status.Provisioning.Credential.Name = "new"
	holding := func(names ...string) *fake.ClientBuilder {
		store := record.CredentialStore{Server: record.ServerOf(srv)}
		for _, name := range names {
			store.Credentials = append(store.Credentials, provision.Credential{Name: name, Stage: provision.Current, ClientID: "cart", Secret: provision.Sensitive("of " + name)})
		}
		content, err := json.Marshal(store)
		if err != nil {
			t.Fatal(err)
		}
		owner := types.NamespacedName{Namespace: "shop", Name: "cart"}
		return fake.NewClientBuilder().WithObjects(&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "operator", Name: record.CredentialSecretName(owner), Annotations: map[string]string{v1alpha1.OwnerAnnotation: owner.String()}},
			Data:       map[string][]byte{record.CredentialKey: content},
		})
	}
	for name, tc := range map[string]struct{ cached, live *fake.ClientBuilder }{
		"in time":     {holding("new"), fake.NewClientBuilder()}, // nothing is read past the cache
		"behind":      {holding("old"), holding("new")},
		"not there":   {fake.NewClientBuilder(), holding("new")},
		"still empty": {holding(), holding("new")},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Source{Config: Config{Client: tc.cached.Build(), Live: tc.live.Build(), OperatorNamespace: "operator"}}
			found, err := s.Registered(t.Context(), cart, srv)
			if err != nil || found == nil {
				t.Fatal(found, err)
			}
			if want := "registered/new/-62135596800"; found.Revision != want {
				t.Errorf("the credential is %q, want %q", found.Revision, want)
			}
		})
	}
}
