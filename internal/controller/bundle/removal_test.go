// SPDX-License-Identifier: Apache-2.0

package bundle_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/authserver"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// refuseUpdates makes the API server refuse updates in a namespace that violate an
// expression, until the test ends.
func refuseUpdates(t *testing.T, namespace, resource, expression string) {
	t.Helper()
	name := fmt.Sprintf("refuse-%s-%s-%d", resource, namespace, time.Now().UnixNano())
	const probed = "probe-of-a-policy"
	policy := &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}},
				ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Update},
					Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{resource}},
				}}},
			},
			Validations: []admissionv1.Validation{{
				Expression: fmt.Sprintf("object.metadata.name != '%s' && (%s)", probed, expression), Message: "not in this cluster",
			}},
		},
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}},
	}
	operator.Create(t, policy, binding)
	t.Cleanup(func() {
		for _, o := range []client.Object{binding, policy} {
			if err := operator.Kube.Delete(context.Background(), o); err != nil {
				t.Error(err)
			}
		}
	})
	var probe client.Object = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: probed}}
	if resource == "secrets" {
		probe = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: probed}}
	}
	operator.Create(t, probe)
	operator.Eventually(t, func() error {
		probe.SetAnnotations(map[string]string{"probe": fmt.Sprint(time.Now().UnixNano())})
		if err := operator.Kube.Update(t.Context(), probe, client.DryRunAll); !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) {
			return fmt.Errorf("the policy is not in force yet: %w", errors.Join(err))
		}
		return nil
	})
	if err := operator.Kube.Delete(t.Context(), probe); err != nil {
		t.Fatal(err)
	}
}

// adding makes a key set contain one more key.
func adding(key any) *oidc.Fault {
	return &oidc.Fault{Rewrite: func(m map[string]any) { m["keys"] = append(slices.Clone(m["keys"].([]any)), key) }}
}

// revokeOne rotates the server's key and revokes the former one. It returns
// both.
func revokeOne(s *operator.Stage) (old, kid string) {
	s.T.Helper()
	old = s.AS.KeyID()
	kid, err := s.AS.RotateKey()
	if err != nil {
		s.T.Fatal(err)
	}
	revokeKeys(s, old)
	return old, kid
}

// revokeKeys revokes a key after the next fetch of the keys is due.
func revokeKeys(s *operator.Stage, kid string) {
	s.T.Helper()
	s.Op.Advance(authserver.DefaultKeyRefreshInterval)
	s.SetServers(operator.Revoke(kid))
	for range 3 { // each pass tries a refused write again
		s.Op.Round(s.Payments, s.Shop)
	}
}

// TestAnOddKeyKeepsNothing: a server publishes a key whose ID no YAML can hold, or
// that would forge lines of a message. The operator takes over its other keys, reports
// what it left out, and removes a revoked key.
func TestAnOddKeyKeepsNothing(t *testing.T) {
	op := operator.StartStepped(t)
	for name, kid := range map[string]string{
		"a delete character": "odd\x7f", "a line break": "odd\nReady: True", "an escape sequence": "odd\x1b[2J", "too long": strings.Repeat("odd", 60),
	} {
		t.Run(name, func(t *testing.T) {
			s := operator.NewStage(t, op)
			s.Verifies()
			s.AS.AddFault(oidc.JWKS, adding(operator.OddKey(t, kid)))
			op.Advance(authserver.DefaultKeyRefreshInterval)
			s.Settle()
			server := s.Server(s.Payments)
			c := operator.HasCondition(t, server, v1alpha1.ConditionKeysFresh, metav1.ConditionTrue, v1alpha1.ReasonKeysFetched)
			if !strings.Contains(c.Message, "left out") || !strings.Contains(c.Message, "odd") {
				t.Errorf("the message %q does not name what was left out", c.Message)
			}
			if strings.ContainsFunc(c.Message, func(r rune) bool { return r < ' ' || r == '\x7f' }) || len(c.Message) > 300 {
				t.Errorf("the message is %q", c.Message)
			}
			operator.IsReady(t, server)
			_, now := revokeOne(s)
			if diff := cmp.Diff([]string{now}, operator.BundledKeys(t, s.Bundle())); diff != "" {
				t.Errorf("keys in the bundle (-want +got):\n%s", diff)
			}
			for _, file := range operator.BundleFiles {
				if s.Bundle().Data[file] == "" {
					t.Errorf("the bundle has no %s", file)
				}
			}
		})
	}
}

// holdGatewayConf adds an extra file that shows the keys to the bundle.
func holdGatewayConf(s *operator.Stage, template string) {
	s.T.Helper()
	operator.Change(s.T, s.API, func(a *v1alpha1.APIResource) {
		a.Spec.Verification.Files = []v1alpha1.VerificationFile{{Name: "gateway.conf", Template: template}}
	})
	operator.FromCache(s.T, s.Op, s.API)
	s.Settle()
}

// TestABrokenTemplateKeepsNoKey: the owner's template fails when a key is revoked. The
// operator distributes the rest of the bundle, and removes the file, which may show
// the key.
func TestABrokenTemplateKeepsNoKey(t *testing.T) {
	s := operator.NewStage(t, operator.StartStepped(t))
	s.Verifies()
	holdGatewayConf(s, "keys {{ .JWKS }}")
	holdGatewayConf(s, "{{ .Nothing }}")
	if s.Bundle().Data["gateway.conf"] == "" {
		t.Error("a mistake of the owner removed the file")
	}
	old, kid := revokeOne(s)
	if diff := cmp.Diff([]string{kid}, operator.BundledKeys(t, s.Bundle())); diff != "" {
		t.Errorf("keys in the bundle (-want +got):\n%s", diff)
	}
	for file, content := range s.Bundle().Data {
		if strings.Contains(content, old) {
			t.Errorf("%s shows the revoked key", file)
		}
	}
	c := operator.HasCondition(t, s.API, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonInvalidTemplate)
	if !strings.Contains(c.Message, "gateway.conf") {
		t.Errorf("the message %q does not name the file", c.Message)
	}
}

// TestARefusedBundleKeepsNoKey: the API server refuses the bundle when a key is
// revoked. The operator writes a smaller one or deletes it.
func TestARefusedBundleKeepsNoKey(t *testing.T) {
	for name, tc := range map[string]struct {
		expression string
		deleted    bool
	}{
		"for the owner's file": {expression: "!('gateway.conf' in object.data)"},
		"for a new key":        {expression: "!object.data['jwks.json'].contains('$NEW')"},
		"whatever it contains": {expression: "!object.metadata.name.startsWith('m2m-verify')", deleted: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := operator.NewStage(t, operator.StartStepped(t))
			s.Verifies()
			holdGatewayConf(s, "keys {{ .JWKS }}")
			old := s.AS.KeyID()
			kid, err := s.AS.RotateKey()
			if err != nil {
				t.Fatal(err)
			}
			refuseUpdates(t, s.Payments, "configmaps", strings.ReplaceAll(tc.expression, "$NEW", kid))
			revokeKeys(s, old)
			bundle := s.Bundle()
			if bundle == nil {
				if !tc.deleted {
					t.Fatal("the bundle was deleted")
				}
				return
			}
			if slices.Contains(operator.BundledKeys(t, bundle), old) {
				t.Error("the revoked key is in the bundle")
			}
			for file, content := range bundle.Data {
				if strings.Contains(content, old) {
					t.Errorf("%s shows the revoked key", file)
				}
			}
			operator.Eventually(t, func() error {
				for _, note := range notesOf(t, s.Payments, v1alpha1.ReasonBundleRefused) {
					if strings.Contains(note, "not in this cluster") {
						return nil
					}
				}
				return errors.New("no event reports it")
			})
		})
	}
}

// notesOf returns the notes of a namespace's events with a reason.
func notesOf(t *testing.T, namespace, reason string) (notes []string) {
	t.Helper()
	var list eventsv1.EventList
	if err := operator.Kube.List(t.Context(), &list, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Items {
		if e.Reason == reason {
			notes = append(notes, e.Note)
		}
	}
	return notes
}

// TestARefusedSecretKeepsNoToken: an access is withdrawn while the API server refuses
// the Secret in its new form. The operator removes the token all the same.
func TestARefusedSecretKeepsNoToken(t *testing.T) {
	for name, tc := range map[string]struct {
		expression string
		deleted    bool
	}{
		"for a label that came with the withdrawal": {expression: "!has(object.metadata.labels) || !('tier' in object.metadata.labels)"},
		"for a file that came with the withdrawal":  {expression: "!('more' in object.data)"},
		"whatever it contains":                      {expression: "!object.metadata.name.startsWith('cart-token')", deleted: true},
	} {
		t.Run(name, func(t *testing.T) {
			op := operator.StartStepped(t)
			s := operator.NewStage(t, op)
			refunds := s.World.API()
			refunds.Name, refunds.Spec.Identifier = "refund-api", "https://refund.example.com/api"
			s.AS.SetResource(string(refunds.Spec.Identifier), "payments:write")
			err := s.AS.SetClient(oidc.Client{
				ID: operator.CartID, Secret: s.Credential(), Method: oidc.SecretBasic,
				Scopes: map[string][]string{operator.PaymentAPI: {"payments:write"}, string(refunds.Spec.Identifier): {"payments:write"}},
			})
			if err != nil {
				t.Fatal(err)
			}
			operator.Create(t, refunds)
			operator.Change(t, s.Cart, func(c *v1alpha1.M2MClient) {
				c.Spec.Access = append(c.Spec.Access, v1alpha1.Access{
					APIResourceRef: v1alpha1.APIResourceReference{Name: "refund-api", Namespace: v1alpha1.NamespaceName(s.Payments)},
					Scopes:         []v1alpha1.ScopeName{"payments:write"},
				})
				c.Spec.Secret.Template = map[string]string{"both": `{{ token "payment-api" }} {{ token "refund-api" }}`}
			})
			operator.FromCache(t, op, s.Cart)
			s.Settle()
			operator.IsReady(t, s.Cart)
			withdrawn, stays := s.Token(), operator.TokenIn(t, s.Shop, "cart-token", "refund-api")

			refuseUpdates(t, s.Shop, "secrets", tc.expression)
			operator.Change(t, s.Cart, func(c *v1alpha1.M2MClient) {
				c.Spec.Secret.Labels = map[string]string{"tier": "gold"}
				c.Spec.Secret.Template = map[string]string{"both": `now {{ token "refund-api" }}`, "more": "x"}
			})
			operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
			operator.FromCache(t, op, s.Cart)
			operator.FromCache(t, op, s.API)
			op.Round(s.Payments, s.Shop)

			var secret corev1.Secret
			err = operator.Kube.Get(t.Context(), types.NamespacedName{Namespace: s.Shop, Name: "cart-token"}, &secret)
			if tc.deleted {
				if !apierrors.IsNotFound(err) {
					t.Errorf("the Secret is there (%v)", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for file, content := range secret.Data {
				if strings.Contains(string(content), withdrawn) {
					t.Errorf("the withdrawn token is in %s", file)
				}
			}
			if string(secret.Data["refund-api"]) != stays {
				t.Error("the token that is still granted was removed, too")
			}
			if strings.Contains(secret.Annotations[v1alpha1.TokensAnnotation], "payment-api") {
				t.Error("the record mentions the withdrawn token")
			}
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonNotGranted)
		})
	}
}
