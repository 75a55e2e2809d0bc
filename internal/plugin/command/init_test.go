// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// objectsIn reads the objects of a YAML text.
func objectsIn(t *testing.T, text string) (all []*unstructured.Unstructured) {
	t.Helper()
	d := yaml.NewYAMLOrJSONDecoder(bytes.NewBufferString(text), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := d.Decode(o); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if o.Object != nil {
			all = append(all, o)
		}
	}
}

// TestInit begins with an authorization server: what init writes applies as it is, says what
// to fill in, and works once that is done.
func TestInit(t *testing.T) {
	w := operator.NewWorld(t)
	op := operator.StartStepped(t)
	args := []string{"init", "-n", w.Shop, "--identifier", operator.PaymentAPI, "--scope", "payments:write", "--client", "cart"}
	a := run(t, op.Clock.Now(), append(args, "--issuer", w.AS.Issuer())...)
	a.ends(t, 1)
	says(t, a.message, "--allow-insecure-http")
	args = append(args, "--allow-insecure-http", "--allow-loopback")
	a = run(t, op.Clock.Now(), append(args, "--issuer", w.AS.Issuer()+"/else")...)
	a.ends(t, 1)
	says(t, a.message, "--issuer")

	a = run(t, op.Clock.Now(), append(args, "--issuer", w.AS.Issuer())...)
	a.ends(t, 0)
	says(t, a.err, "Found an authorization server at "+w.AS.Issuer(), "signing keys       1 at ", "audienceParameter  Resource")
	for _, o := range objectsIn(t, a.out) {
		if err := operator.Kube.Create(t.Context(), o); err != nil {
			t.Fatalf("create %s: %v", o.GetKind(), err)
		}
	}
	op.Settle(w.Shop)
	cart := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: w.Shop, Name: "cart"}}
	operator.Says(t, cart, v1alpha1.ConditionReady, v1alpha1.ReasonCredentialsNotFound, `Secret "cart-credentials"`)
	w.SawRequests(t, 0)

	secret := operator.NewSecret()
	w.SetClient(operator.CartID, secret)
	operator.Change(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.Shop, Name: "cart-credentials"}}, func(s *corev1.Secret) {
		s.StringData = map[string]string{v1alpha1.ClientIDKey: operator.CartID, v1alpha1.ClientSecretKey: secret}
	})
	op.Settle(w.Shop)
	operator.IsReady(t, cart)
}

// TestInitForLogto finds out that the operator can register clients itself.
func TestInitForLogto(t *testing.T) {
	w := operator.NewTenant(t)
	op := operator.StartStepped(t)
	file := filepath.Join(t.TempDir(), "first.yaml")
	args := []string{
		"init", "-n", w.Shop, "--issuer", w.Logto.Issuer(), "--identifier", "https://payment.example.com/api", "--scope", "a,b",
		"--allow-insecure-http", "--allow-loopback", "-o", file,
	}
	a := run(t, op.Clock.Now(), args...)
	a.ends(t, 0)
	says(t, a.err, "Found Logto at ")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	says(t, string(text), "provisioning:\n    logto:", `name: "payment-api"`, `scopes: ["a", "b"]`)
	if strings.Contains(string(text), "\n  credentials:") {
		t.Error("the client has credentials of its own, which nobody registered")
	}
	for _, o := range objectsIn(t, string(text)) {
		if err := operator.Kube.Create(t.Context(), o, client.DryRunAll); err != nil {
			t.Errorf("create %s: %v", o.GetKind(), err)
		}
	}
	a = run(t, op.Clock.Now(), args...)
	a.ends(t, 1)
	says(t, a.message, "file exists")
}

// TestInitAsksNobody: without a terminal, what is missing is an error.
func TestInitAsksNobody(t *testing.T) {
	op := operator.StartStepped(t)
	for want, args := range map[string][]string{
		"set --issuer: standard input is no terminal":     {"init"},
		"set --identifier: standard input is no terminal": {"init", "--issuer", "https://auth.example.com"},
		"--client":    {"init", "--issuer", "https://auth.example.com", "--identifier", "x", "--client", "No_Name"},
		"--namespace": {"init", "--issuer", "https://auth.example.com", "--identifier", "x", "-n", "No_Name"},
		"--ca-file":   {"init", "--issuer", "https://auth.example.com", "--identifier", "x", "--ca-file", "/dev/null"},
	} {
		a := run(t, op.Clock.Now(), args...)
		a.ends(t, 2)
		says(t, a.message, want)
	}
}
