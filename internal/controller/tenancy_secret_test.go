// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// forgedRecord replaces members of the record of the payment API's token.
func forgedRecord(t *testing.T, s *corev1.Secret, members map[string]any) {
	t.Helper()
	s.Annotations[v1alpha1.TokensAnnotation] = operator.ForgeRecord(t, s, func(r map[string]any) {
		maps.Copy(r["tokens"].(map[string]any)["payment-api"].(map[string]any), members)
	})
}

// forgedToken returns a token signed by the attacker's key that satisfies every check
// of the payment API until the year 9999, except for the signature.
func forgedToken(w *operator.World, t *testing.T, keyID string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: keyID}}, (&jose.SignerOptions{}).WithType("at+jwt"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(map[string]any{
		"iss": w.AS.Issuer(), "aud": operator.PaymentAPI, "sub": operator.CartID, "client_id": operator.CartID, "scope": "payments:write",
		"iat": time.Now().Unix(), "exp": eternal.Unix(),
	}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

var eternal = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// TestForgedRecordsAreNotBelieved has an attacker who can write the Secret, and
// nothing else. He writes a token together with a record that vouches for it, so that
// the operator presents it as one that it issued, or keeps it. The process that wrote
// the Secret knows better; one that has just started checks the token with the
// issuer's keys.
func TestForgedRecordsAreNotBelieved(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	pay := w.Cart()
	pay.Name = "pay"
	operator.Create(t, pay)
	op := operator.StartStepped(t)
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, cart)
	operator.IsReady(t, pay)
	others := operator.TokenIn(t, w.Shop, "pay-token", "payment-api")

	put := func(s *corev1.Secret, token string, members map[string]any) {
		s.Data["payment-api"] = []byte(token)
		members["value"] = refresh.HashValue(token)
		forgedRecord(t, s, members)
	}
	for name, tc := range map[string]struct {
		forge func(s *corev1.Secret, genuine, keyID string)
		// remembered: only the process that wrote the Secret can tell. After a restart, a
		// token that cannot be checked, or another good one, passes.
		remembered bool
	}{
		"an attacker's token that never expires": {forge: func(s *corev1.Secret, _, keyID string) {
			put(s, forgedToken(w, t, keyID), map[string]any{"expiresAt": eternal})
		}},
		"an attacker's token signed by the attacker's key": {forge: func(s *corev1.Secret, _, _ string) {
			put(s, forgedToken(w, t, "own"), map[string]any{"expiresAt": eternal, "keyID": "own"})
		}},
		"the genuine token recorded as never expiring": {forge: func(s *corev1.Secret, genuine, _ string) {
			put(s, genuine, map[string]any{"expiresAt": eternal})
		}},
		"the genuine token recorded as issued in the future": {forge: func(s *corev1.Secret, genuine, _ string) {
			put(s, genuine, map[string]any{"issuedAt": eternal.Add(-time.Hour)})
		}},
		"the genuine token under another key ID": {forge: func(s *corev1.Secret, genuine, _ string) {
			put(s, genuine, map[string]any{"keyID": "own"})
		}},
		"the genuine token recorded as unverifiable": {forge: func(s *corev1.Secret, genuine, _ string) {
			put(s, genuine, map[string]any{"opaque": true, "expiresAt": eternal})
		}},
		"the genuine token's claims without a signature": {forge: func(s *corev1.Secret, genuine, _ string) {
			put(s, genuine[:strings.LastIndexByte(genuine, '.')+1], map[string]any{})
		}},
		"a value that is not a token": {forge: func(s *corev1.Secret, _, _ string) {
			put(s, "token", map[string]any{"expiresAt": eternal})
		}},
		"a value that is not a token, recorded as unverifiable": {remembered: true, forge: func(s *corev1.Secret, _, _ string) {
			put(s, "token", map[string]any{"opaque": true, "expiresAt": eternal})
		}},
		"a genuine token of another client": {remembered: true, forge: func(s *corev1.Secret, _, keyID string) {
			put(s, others, map[string]any{"keyID": keyID})
		}},
		"the genuine token with other scopes": {remembered: true, forge: func(s *corev1.Secret, genuine, _ string) {
			put(s, genuine, map[string]any{"scopes": []string{"payments:all"}})
		}},
	} {
		for when, restart := range map[string]bool{"under way": false, "after a restart": true} {
			if restart && tc.remembered {
				continue
			}
			if !t.Run(name+", "+when, func(t *testing.T) {
				w.AS.ResetRequests()
				s := operator.TokensOf(t, cart)
				operator.Change(t, s, func(s *corev1.Secret) {
					tc.forge(s, string(s.Data["payment-api"]), cart.Status.Tokens[0].KeyID)
				})
				if restart {
					op.Stop()
					op = operator.StartStepped(w.T)
				}
				op.Settle(w.Payments, w.Shop)
				if err := operator.Intact(t, cart, "payment-api"); err != nil {
					t.Error(err)
				}
				token := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")
				if r := w.AS.TokenRequests(); len(r) != 1 || r[0].TokenHash != oidc.Hash(token) {
					t.Errorf("the forgery was believed; there were %d token requests", len(r))
				}
				operator.IsReady(t, cart)
				operator.HasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
				if at := cart.Status.ExpiresAt; at == nil || at.After(time.Now().Add(2*time.Hour)) {
					t.Errorf("the status says that the token expires at %v", at)
				}
			}) {
				return // the Secret is not as the next case expects it
			}
		}
	}
}

// TestForgeryGoesWithoutReplacement forges a token while the authorization server is
// down. The operator does not wait for the server to remove it.
func TestForgeryGoesWithoutReplacement(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	op := operator.StartStepped(t)
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, cart)
	w.AS.SetFault(oidc.Token, &oidc.Fault{Status: 503})
	s := operator.TokensOf(t, cart)
	operator.Change(t, s, func(s *corev1.Secret) {
		token := forgedToken(w, t, cart.Status.Tokens[0].KeyID)
		s.Data["payment-api"] = []byte(token)
		forgedRecord(t, s, map[string]any{"value": refresh.HashValue(token), "expiresAt": eternal})
	})
	op.Settle(w.Payments, w.Shop)
	operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTokenRequestFailed)
	if keys := operator.KeysIn(t, cart); len(keys) != 0 {
		t.Errorf("the Secret holds the keys %v", keys)
	}
	w.AS.ClearFaults()
	op.Advance(time.Minute)
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, cart)
}

// TestSecretNameOfAnother creates a client that names a Secret which it must not write: its own
// credentials', another client's tokens', any other.
func TestSecretNameOfAnother(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	thief := w.Cart()
	thief.Name = "thief"
	op := operator.Start(t)
	operator.IsReady(t, cart)
	op.Stop()
	other := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.Shop, Name: "tls", Labels: map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}},
		Type:       corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": {}, "tls.key": {}},
	}
	operator.Create(t, other)
	operator.Start(t)
	w.AS.ResetRequests()
	for _, name := range []string{"cart-credentials", "cart-token", "tls"} {
		t.Run(name, func(t *testing.T) {
			victim := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.Shop, Name: name}}
			if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(victim), victim); err != nil {
				t.Fatal(err)
			}
			c := thief.DeepCopy()
			c.Spec.Secret.Name = v1alpha1.ObjectName(name)
			operator.Create(t, c)
			operator.HasCondition(t, c, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonSecretNotOwned)
			operator.ComesToRest(t, c)
			unchanged(t, victim)
			operator.Remove(t, c)
			operator.Eventually(t, func() error {
				if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(c), c.DeepCopy()); !apierrors.IsNotFound(err) {
					return fmt.Errorf("the client is still there: %w", err)
				}
				return nil
			})
			unchanged(t, victim)
		})
	}
	w.SawRequests(t, 0)
	operator.IsReady(t, cart)
}

func unchanged(t *testing.T, s *corev1.Secret) {
	t.Helper()
	var now corev1.Secret
	if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(s), &now); err != nil {
		t.Fatal(err)
	}
	if now.UID != s.UID || now.ResourceVersion != s.ResourceVersion {
		t.Errorf("Secret %q was changed", s.Name)
	}
}

// TestForgedStatusDeletesNothing: an attacker writes another Secret's name into a client's
// status, so that the operator deletes it as the client's former one.
func TestForgedStatusDeletesNothing(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	pay := w.Cart()
	pay.Name = "pay"
	operator.Create(t, pay)
	op := operator.StartStepped(t)
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, cart)
	operator.IsReady(t, pay)
	for _, name := range []string{"cart-credentials", "pay-token"} {
		victim := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.Shop, Name: name}}
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(victim), victim); err != nil {
			t.Fatal(err)
		}
		before := cart.DeepCopy()
		cart.Status.SecretName = v1alpha1.ObjectName(name)
		if err := operator.Kube.Status().Patch(t.Context(), cart, client.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
		op.Settle(w.Payments, w.Shop)
		operator.IsReady(t, cart)
		if cart.Status.SecretName != "cart-token" {
			t.Errorf("the status names Secret %q", cart.Status.SecretName)
		}
		unchanged(t, victim)
	}
}

// TestTemplatesReachForNothingElse writes templates that try to reach more than the
// client's tokens. The message says what is wrong, and the tokens do not wait.
func TestTemplatesReachForNothingElse(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	operator.Start(t)
	operator.IsReady(t, cart)
	w.SawRequests(t, 1)
	token := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")
	for name, template := range map[string]string{
		"another token":        `{{ token "pay" }}`,
		"another client's":     `{{ token "pay/payment-api" }}`,
		"a computed key":       `{{ $k := "payment-api" }}{{ token $k }}`,
		"the environment":      `{{ env "KUBERNETES_SERVICE_HOST" }}`,
		"a file":               `{{ readFile "/var/run/secrets/kubernetes.io/serviceaccount/token" }}`,
		"the cluster":          `{{ lookup "v1" "Secret" "kube-system" "" }}`,
		"a field":              `{{ .Credentials.ClientSecret }}`,
		"all data":             `{{ . }}`,
		"the root":             `{{ $ }}`,
		"a method":             `{{ (token "payment-api").String }}`,
		"a function of Go":     `{{ printf "%p" (token "payment-api") }}`,
		"a call":               `{{ call (token "payment-api") }}`,
		"another template":     `{{ template "template" }}`,
		"a definition":         `{{ define "x" }}{{ end }}`,
		"an endless loop":      `{{ range 1000000000 }}x{{ end }}`,
		"what does not parse":  `{{ token "payment-api"`,
		"an action of no kind": `{{ break }}`,
	} {
		t.Run(name, func(t *testing.T) {
			operator.Change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Secret.Template = map[string]string{"file": template} })
			for _, condition := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionFresh} {
				c := operator.HasCondition(t, cart, condition, metav1.ConditionFalse, v1alpha1.ReasonInvalidTemplate)
				if !strings.Contains(c.Message, `"file"`) || strings.Contains(c.Message, token) {
					t.Errorf("the message is %q", c.Message)
				}
			}
			if diff := cmp.Diff([]string{"payment-api"}, operator.KeysIn(t, cart)); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
		})
	}
	// A new client with such a template gets its tokens, too.
	late := w.Cart()
	late.Name = "late"
	late.Spec.Secret.Template = map[string]string{"file": `{{ env "HOME" }}`}
	operator.Create(t, late)
	operator.HasCondition(t, late, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonInvalidTemplate)
	if operator.TokenIn(t, w.Shop, "late-token", "payment-api") == "" {
		t.Error("the token waits for the template")
	}
	operator.Change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Secret.Template = nil })
	operator.IsReady(t, cart)
	if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") != token {
		t.Error("the token was replaced")
	}
}

// TestNamesWithAPathAreRefused checks that the API server refuses names that lead out
// of a namespace or a directory.
func TestNamesWithAPathAreRefused(t *testing.T) {
	w := operator.NewWorld(t)
	clientWith := func(edit func(*v1alpha1.M2MClient, string)) func(string) client.Object {
		return func(name string) client.Object {
			c := w.Cart()
			edit(c, name)
			return c
		}
	}
	for where, with := range map[string]func(string) client.Object{
		"access.key": clientWith(func(c *v1alpha1.M2MClient, n string) { c.Spec.Access[0].Key = v1alpha1.AccessKey(n) }),
		"access.apiResourceRef.name": clientWith(func(c *v1alpha1.M2MClient, n string) {
			c.Spec.Access[0].APIResourceRef.Name = v1alpha1.APIResourceName(n)
		}),
		"access.apiResourceRef.namespace": clientWith(func(c *v1alpha1.M2MClient, n string) {
			c.Spec.Access[0].APIResourceRef.Namespace = v1alpha1.NamespaceName(n)
		}),
		"authorizationServerRef.name": clientWith(func(c *v1alpha1.M2MClient, n string) {
			c.Spec.AuthorizationServerRef.Name = v1alpha1.ObjectName(n)
		}),
		"clientSecret.secretRef.name": clientWith(func(c *v1alpha1.M2MClient, n string) {
			c.Spec.Credentials.ClientSecret.SecretRef.Name = v1alpha1.ObjectName(n)
		}),
		"clientSecret.secretRef.key": clientWith(func(c *v1alpha1.M2MClient, n string) {
			c.Spec.Credentials.ClientSecret.SecretRef.Key = v1alpha1.FileName(n)
		}),
		"privateKeyJWT.secretRef.name": clientWith(func(c *v1alpha1.M2MClient, n string) {
			c.Spec.Credentials = v1alpha1.ClientCredentials{PrivateKeyJWT: v1alpha1.PrivateKeyJWTCredentials{
				SecretRef: v1alpha1.SecretKeyReference{Name: v1alpha1.ObjectName(n)},
			}}
		}),
		"serviceAccount.name": clientWith(func(c *v1alpha1.M2MClient, n string) {
			c.Spec.Credentials = v1alpha1.ClientCredentials{ServiceAccount: v1alpha1.ServiceAccountCredentials{Name: v1alpha1.ObjectName(n)}}
		}),
		"secret.name":     clientWith(func(c *v1alpha1.M2MClient, n string) { c.Spec.Secret.Name = v1alpha1.ObjectName(n) }),
		"secret.template": clientWith(func(c *v1alpha1.M2MClient, n string) { c.Spec.Secret.Template = map[string]string{n: "text"} }),
		"verification.files.name": func(n string) client.Object {
			api := w.API()
			api.Spec.Verification.Files = []v1alpha1.VerificationFile{{Name: n, Template: "text"}}
			return api
		},
		"caBundle.secretRef.name": func(n string) client.Object {
			s := w.Server(w.Shop)
			s.Spec.CABundle.SecretRef.Name = v1alpha1.ObjectName(n)
			return s
		},
	} {
		t.Run(where, func(t *testing.T) {
			for _, name := range []string{w.Payments + "/cart-credentials", "../cart-credentials", "..", "/etc/passwd", `a\b`, "a b", "a\x00b", "a\nb", "ａ"} {
				err := operator.Kube.Create(t.Context(), with(name))
				if !apierrors.IsInvalid(err) {
					t.Errorf("%q: %v", name, err)
				}
			}
		})
	}
	// No other field can name an object of another namespace.
	for _, field := range []string{"authorizationServerRef", "credentials.clientSecret.secretRef"} {
		u := map[string]any{
			"apiVersion": v1alpha1.GroupVersion.String(), "kind": "M2MClient", "metadata": map[string]any{"namespace": w.Shop, "name": "cart"},
			"spec": map[string]any{
				"authorizationServerRef": map[string]any{"name": "auth"},
				"access":                 []any{map[string]any{"resource": operator.PaymentAPI, "key": "payment"}},
				"credentials":            map[string]any{"clientSecret": map[string]any{"secretRef": map[string]any{"name": "cart-credentials"}}},
			},
		}
		o := &unstructured.Unstructured{Object: u}
		if err := unstructured.SetNestedField(u, w.Payments, append([]string{"spec"}, append(strings.Split(field, "."), "namespace")...)...); err != nil {
			t.Fatal(err)
		}
		err := operator.Kube.Create(t.Context(), o, client.FieldValidation(metav1.FieldValidationStrict))
		if err == nil || !strings.Contains(err.Error(), "unknown field") {
			t.Errorf("%s.namespace: %v", field, err)
		}
	}
}
