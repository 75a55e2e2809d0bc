// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"bytes"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/egress"
)

// TestATooLongCABundleIsTold: the problem says that a CA bundle is too long.
func TestATooLongCABundleIsTold(t *testing.T) {
	ca := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "ca"}, Data: map[string][]byte{v1alpha1.CABundleKey: bytes.Repeat([]byte("x"), foreign.MaxCABundle+1)}}
	c := NewConnections(NewLives(), egress.Policy{}, foreign.Of(fake.NewClientBuilder().WithObjects(ca).Build()), "")
	auth := &v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Namespace: ca.Namespace}}
	auth.Spec.CABundle.SecretRef.Name = v1alpha1.ObjectName(ca.Name)
	if _, _, bad, err := c.caBundle(t.Context(), auth); err != nil || bad == nil || bad.Reason != v1alpha1.ReasonCABundleInvalid || !strings.Contains(bad.Message, "262144") {
		t.Errorf("%+v, %v", bad, err)
	}
}

// TestAMissingKeyOfACABundleIsTold: the message names the keys that are there, but not those of the
// operator's namespace, because everybody may read the condition of a cluster's server.
func TestAMissingKeyOfACABundleIsTold(t *testing.T) {
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "ca"}, Data: map[string]string{"bundle.pem": "x", "other.pem": "y"}}
	ofOperator := config.DeepCopy()
	ofOperator.Namespace = "system"
	c := NewConnections(NewLives(), egress.Policy{}, foreign.Of(fake.NewClientBuilder().WithObjects(config, ofOperator).Build()), "system")
	for name, tc := range map[string]struct {
		server client.Object
		bundle v1alpha1.ObjectName
		want   string
	}{
		"of a namespace":               {&v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "auth"}}, "ca", `key "ca.crt" of ConfigMap "ca" in namespace "shop", it has bundle.pem, other.pem`},
		"of a namespace, of no object": {&v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "auth"}}, "none", `key "ca.crt" of ConfigMap "none" in namespace "shop"`},
		"of the operator":              {&v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: "company"}}, "ca", `key "ca.crt" of ConfigMap "ca" in namespace "system"`},
	} {
		t.Run(name, func(t *testing.T) {
			record.SpecOf(tc.server).CABundle.ConfigMapRef.Name = tc.bundle
			_, _, p, err := c.HTTPClient(t.Context(), tc.server)
			if err != nil || p == nil || p.Message != "The CA bundle does not exist: "+tc.want {
				t.Errorf("got %+v, %v, want %s", p, err, tc.want)
			}
		})
	}
}
