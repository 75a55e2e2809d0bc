// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/provision"
)

func clientOf(namespace string, i int) *v1alpha1.M2MClient {
	return &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(namespace, i))}}
}

// TestFailuresOfOneNamespaceStopNobodyElsesProvisioning: if the administration answers
// with 500 to the objects of a namespace, only objects of that namespace wait.
func TestFailuresOfOneNamespaceStopNobodyElsesProvisioning(t *testing.T) {
	s, wake := newAdministrationFixture(nil), make(chan event.GenericEvent, 100)
	platform := clusterAt("idp", "https://idp", "https://idp/token", 100)
	failed := &provision.Error{Kind: provision.Unavailable, Status: 500}
	for i := range 10 {
		if exit, _, busy := s.enter(&platform, clientOf("evil", i), wake); busy == nil {
			exit(context.Background(), failed)
		}
	}
	if _, wait, busy := s.enter(&platform, clientOf("evil", 10), wake); busy == nil || busy.Reason != v1alpha1.ReasonAuthorizationServerUnavailable || wait <= 0 {
		t.Errorf("after ten failures another object of the namespace waits %s: %v", wait, busy)
	}
	exit, _, busy := s.enter(&platform, clientOf("good", 0), wake)
	if busy != nil {
		t.Fatalf("an object of another namespace waits: %s", busy.Message)
	}
	exit(context.Background(), nil)
}

// TestNamespacesAreProvisionedInTurn: an object that comes last is woken second if all
// others belong to one other namespace.
func TestNamespacesAreProvisionedInTurn(t *testing.T) {
	s, wake := newAdministrationFixture(nil), make(chan event.GenericEvent, 100)
	platform := clusterAt("idp", "https://idp", "https://idp/token", 2) // one at a time
	exit, _, busy := s.enter(&platform, clientOf("evil", 0), wake)
	if busy != nil {
		t.Fatal(busy.Message)
	}
	for i := range 50 {
		if _, _, busy := s.enter(&platform, clientOf("evil", i+1), wake); busy == nil {
			t.Fatal("two are provisioned at a time")
		}
	}
	if _, _, busy := s.enter(&platform, clientOf("good", 0), wake); busy == nil {
		t.Fatal("two are provisioned at a time")
	}
	exit(context.Background(), nil)
	first, second := <-wake, <-wake
	if first.Object.GetNamespace() != "good" && second.Object.GetNamespace() != "good" {
		t.Errorf("%s and %s of one namespace are woken", first.Object.GetName(), second.Object.GetName())
	}
}

// clusterAt returns a ClusterAuthorizationServer with a discovered token endpoint.
func clusterAt(name, issuer, token string, perSecond int32) v1alpha1.ClusterAuthorizationServer {
	c := v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}
	c.Spec.Issuer, c.Spec.Requests.PerSecond = issuer, perSecond
	c.Status.Endpoints.Token = v1alpha1.EndpointURL(token)
	return c
}
