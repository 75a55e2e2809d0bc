// SPDX-License-Identifier: Apache-2.0

package m2mclient_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// register sets the cart application's credentials at the server.
func register(w *operator.World, c oidc.Client) {
	w.T.Helper()
	c.ID = operator.CartID
	if c.Scopes == nil {
		c.Scopes = map[string][]string{operator.PaymentAPI: {"payments:read", "payments:write"}}
	}
	if err := w.AS.SetClient(c); err != nil {
		w.T.Fatal(err)
	}
}

func TestClientSecrets(t *testing.T) {
	op := operator.StartStepped(t)
	plain, special := operator.NewSecret(), operator.Sentinel+`+/%& :=?#"'\<>{}|^~`+"`$end"
	fromSecret := func(secret string) map[string]string {
		return map[string]string{v1alpha1.ClientIDKey: operator.CartID, v1alpha1.ClientSecretKey: secret}
	}
	ref := v1alpha1.SecretKeyReference{Name: "cart-credentials"}
	for name, tc := range map[string]struct {
		method, secret string // at the server
		spec           v1alpha1.ClientSecretCredentials
		stored         map[string]string
	}{
		"Basic is the default": {
			oidc.SecretBasic, plain, v1alpha1.ClientSecretCredentials{SecretRef: ref}, fromSecret(plain),
		},
		"Basic by name, with special characters": {
			oidc.SecretBasic, special, v1alpha1.ClientSecretCredentials{SecretRef: ref, Method: v1alpha1.ClientSecretBasic}, fromSecret(special),
		},
		"Post": {
			oidc.SecretPost, plain, v1alpha1.ClientSecretCredentials{SecretRef: ref, Method: v1alpha1.ClientSecretPost}, fromSecret(plain),
		},
		"Post with special characters": {
			oidc.SecretPost, special, v1alpha1.ClientSecretCredentials{SecretRef: ref, Method: v1alpha1.ClientSecretPost}, fromSecret(special),
		},
		"newlines at the end are not part of it": {
			oidc.SecretBasic, plain, v1alpha1.ClientSecretCredentials{SecretRef: ref},
			map[string]string{v1alpha1.ClientIDKey: operator.CartID + "\n", v1alpha1.ClientSecretKey: plain + "\r\n"},
		},
		"a space at the end is part of it": {
			oidc.SecretBasic, plain + " ", v1alpha1.ClientSecretCredentials{SecretRef: ref}, fromSecret(plain + " "),
		},
		"the spec's clientID counts before the Secret's": {
			oidc.SecretBasic, plain, v1alpha1.ClientSecretCredentials{SecretRef: ref, ClientID: operator.CartID},
			map[string]string{v1alpha1.ClientIDKey: "another", v1alpha1.ClientSecretKey: plain},
		},
		"a key of another name, and the clientID in the spec only": {
			oidc.SecretBasic, plain,
			v1alpha1.ClientSecretCredentials{SecretRef: v1alpha1.SecretKeyReference{Name: "cart-credentials", Key: "password"}, ClientID: operator.CartID},
			map[string]string{"password": plain},
		},
		"keys as hydra-maester names them": {
			oidc.SecretBasic, plain,
			v1alpha1.ClientSecretCredentials{SecretRef: v1alpha1.SecretKeyReference{Name: "cart-credentials", Key: "CLIENT_SECRET"}, ClientIDKey: "CLIENT_ID"},
			map[string]string{"CLIENT_ID": operator.CartID, "CLIENT_SECRET": plain, v1alpha1.ClientIDKey: "another"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := operator.NewWorld(t)
			register(w, oidc.Client{Method: tc.method, Secret: tc.secret})
			cart := w.Fixture(v1alpha1.ClientCredentials{ClientSecret: tc.spec}, tc.stored)
			op.Settle(w.Payments, w.Shop)
			operator.IsReady(t, cart)
			if got := w.TheRequest(); got.Method != tc.method || got.ClientID != operator.CartID || got.CredentialID != oidc.Hash(tc.secret) {
				t.Errorf("the server saw client %q by %s, or with another secret", got.ClientID, got.Method)
			}
			if cart.Status.ClientID != operator.CartID {
				t.Errorf("the status names client %q", cart.Status.ClientID)
			}
		})
	}
}

// TestUnusableSecrets: the operator reports what cannot work without a request to the
// server. It works once the Secret is corrected.
func TestUnusableSecrets(t *testing.T) {
	op := operator.StartStepped(t)
	good := operator.NewSecret()
	for name, tc := range map[string]struct {
		stored          map[string]string
		reason, message string
	}{
		"no Secret": {
			nil, v1alpha1.ReasonCredentialsNotFound, `Secret "cart-credentials" does not exist`,
		},
		"no such key": {
			map[string]string{v1alpha1.ClientIDKey: operator.CartID, "password": good},
			v1alpha1.ReasonCredentialsNotFound, `Secret "cart-credentials" has no key "client-secret", it has client-id, password; add the key, or name another in secretRef.key`,
		},
		"only a newline": {
			map[string]string{v1alpha1.ClientIDKey: operator.CartID, v1alpha1.ClientSecretKey: "\n"},
			v1alpha1.ReasonCredentialsNotFound, `Secret "cart-credentials" has no key "client-secret" with content; add the key, or name another in secretRef.key`,
		},
		"no client identifier": {
			map[string]string{v1alpha1.ClientSecretKey: good},
			v1alpha1.ReasonCredentialsNotFound, `Secret "cart-credentials" has no key "client-id", it has client-secret, and the spec names no clientID; set clientID, or name a key of the Secret in clientIDKey`,
		},
		"a secret that is not text": {
			map[string]string{v1alpha1.ClientIDKey: operator.CartID, v1alpha1.ClientSecretKey: operator.Sentinel + "\x00\x01"},
			v1alpha1.ReasonCredentialsInvalid, `Secret "cart-credentials" holds a client secret with characters that RFC 6749 does not allow`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := operator.NewWorld(t)
			w.SetClient(operator.CartID, good)
			cart := w.Fixture(w.Cart().Spec.Credentials, tc.stored)
			secret := w.Secret("cart-credentials", operator.CartID, good)
			if tc.stored == nil {
				operator.Remove(t, secret)
			}
			op.Settle(w.Payments, w.Shop)
			c := operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, tc.reason)
			if diff := cmp.Diff(tc.message, c.Message); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
			if n := len(w.AS.TokenRequests()); n != 0 {
				t.Errorf("%d token requests were sent with credentials that cannot work", n)
			}
			if tc.stored != nil {
				operator.Remove(t, secret)
			}
			operator.Create(t, w.Secret("cart-credentials", operator.CartID, good))
			op.Until(w, func() bool { return len(w.AS.TokenRequests()) > 0 })
			operator.IsReady(t, cart)
			w.TheRequest()
		})
	}
}

func TestPrivateKeyJWT(t *testing.T) {
	op := operator.StartStepped(t)
	type credentials = v1alpha1.PrivateKeyJWTCredentials
	for _, alg := range []string{"RS256", "PS256", "ES256", "ES384", "EdDSA"} {
		pemKey, jwkKey, public, err := oidc.NewKeyPair(alg)
		if err != nil {
			t.Fatal(err)
		}
		kid := func() string {
			var set struct{ Keys []struct{ KID string } }
			if err := json.Unmarshal(public, &set); err != nil {
				t.Fatal(err)
			}
			return set.Keys[0].KID
		}()
		pemSpec := credentials{}
		if alg == "PS256" {
			pemSpec.Algorithm = "PS256" // a PEM key says RSA, and no more
		}
		withKeyID := pemSpec
		withKeyID.KeyID = kid
		type testCase struct {
			key     []byte
			spec    credentials
			wantKID any
		}
		cases := map[string]testCase{
			"PEM":             {pemKey, pemSpec, nil},
			"PEM with key ID": {pemKey, withKeyID, kid},
			"JWK":             {jwkKey, credentials{}, kid},
		}
		if alg == "ES256" { // what does not depend on the algorithm
			maps.Copy(cases, map[string]testCase{
				"JWK whose members are named": {jwkKey, credentials{Algorithm: "ES256", KeyID: kid}, kid},
				"PEM after a blank line":      {append([]byte("\n"), pemKey...), credentials{}, nil},
				"PEM under another key":       {pemKey, credentials{SecretRef: v1alpha1.SecretKeyReference{Key: "tls.key"}}, nil},
				"client ID in the spec":       {pemKey, credentials{ClientID: operator.CartID}, nil},
				"issuer as audience, by name": {pemKey, credentials{Audience: v1alpha1.AssertionAudienceIssuer}, nil},
				"token endpoint as audience":  {pemKey, credentials{Audience: v1alpha1.AssertionAudienceTokenEndpoint}, nil},
			})
		}
		for name, tc := range cases {
			t.Run(alg+"/"+name, func(t *testing.T) {
				// If the issuer is named, the server requires exactly that.
				toEndpoint := tc.spec.Audience == v1alpha1.AssertionAudienceTokenEndpoint
				w := operator.NewWorld(t, func(o *oidc.Options) { o.IssuerAudienceOnly = !toEndpoint })
				register(w, oidc.Client{Method: oidc.PrivateKeyJWT, PublicJWKS: public, AssertionAlg: alg})
				spec := tc.spec
				spec.SecretRef.Name = "cart-credentials"
				stored := map[string]string{string(spec.SecretRef.Key): string(tc.key)}
				if spec.SecretRef.Key == "" {
					stored = map[string]string{v1alpha1.PrivateKeyKey: string(tc.key)}
				}
				if spec.ClientID == "" {
					stored[v1alpha1.ClientIDKey] = operator.CartID
				}
				cart := w.Fixture(v1alpha1.ClientCredentials{PrivateKeyJWT: spec}, stored)
				op.Settle(w.Payments, w.Shop)
				operator.IsReady(t, cart)
				got := w.TheRequest()
				if got.Method != oidc.PrivateKeyJWT || got.ClientID != operator.CartID {
					t.Errorf("the server saw client %q by %s", got.ClientID, got.Method)
				}
				want := map[string]any{"alg": alg, "typ": "client-authentication+jwt"}
				if tc.wantKID != nil {
					want["kid"] = tc.wantKID
				}
				if diff := cmp.Diff(want, got.AssertionHeader); diff != "" {
					t.Errorf("the assertion's header (-want +got):\n%s", diff)
				}
				audience := w.AS.Issuer()
				if toEndpoint {
					audience = w.AS.TokenURL()
				}
				if diff := cmp.Diff(any(audience), got.AssertionClaims["aud"]); diff != "" {
					t.Errorf("the assertion's aud (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// TestUnusablePrivateKeys: the condition says what to change, and shows nothing of the
// key.
func TestUnusablePrivateKeys(t *testing.T) {
	op := operator.StartStepped(t)
	pemKey, jwkKey, public, err := oidc.NewKeyPair("ES384")
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(public, &set); err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	p521DER, p521Err := x509.MarshalPKCS8PrivateKey(p521)
	publicDER, publicErr := x509.MarshalPKIXPublicKey(p521.Public())
	ref := v1alpha1.SecretKeyReference{Name: "cart-credentials"}
	for name, tc := range map[string]struct {
		key  string
		spec v1alpha1.PrivateKeyJWTCredentials
		want string
	}{
		"a public key in PEM": {
			key:  encode("PUBLIC KEY", publicDER, publicErr),
			want: "PEM holds only a public key or certificate, store the private key",
		},
		"a public key as JWK": {
			key: string(set.Keys[0]), want: "JWK is only a public key, store the private one",
		},
		"a JWK set": {
			key: string(public), want: "private key is a JWK set, store only the JWK itself",
		},
		"an unsupported curve": {
			key: encode("PRIVATE KEY", p521DER, p521Err), want: "EC key is on an unsupported curve, use P-256 or P-384",
		},
		"an algorithm for another curve": {
			key: string(pemKey), spec: v1alpha1.PrivateKeyJWTCredentials{Algorithm: "ES256"},
			want: "private key cannot sign with ES256, only with ES384",
		},
		"an algorithm other than the JWK's": {
			key: string(jwkKey), spec: v1alpha1.PrivateKeyJWTCredentials{Algorithm: "ES256"},
			want: "the JWK's alg differs from the requested algorithm ES256",
		},
		"a key ID other than the JWK's": {
			key: string(jwkKey), spec: v1alpha1.PrivateKeyJWTCredentials{KeyID: "another"},
			want: "the JWK's kid differs from the requested key ID, remove one of them",
		},
		"garbage": {
			key: operator.Sentinel + " is no key", want: "private key is neither PEM nor a JWK",
		},
		"a truncated PEM": {
			key: string(pemKey[:len(pemKey)/2]), want: "private key has no line -----END, it was cut off",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := operator.NewWorld(t)
			register(w, oidc.Client{Method: oidc.PrivateKeyJWT, PublicJWKS: public})
			tc.spec.SecretRef = ref
			stored := map[string]string{v1alpha1.ClientIDKey: operator.CartID, v1alpha1.PrivateKeyKey: tc.key}
			cart := w.Fixture(v1alpha1.ClientCredentials{PrivateKeyJWT: tc.spec}, stored)
			op.Settle(w.Payments, w.Shop)
			c := operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonCredentialsInvalid)
			if diff := cmp.Diff(`Secret "cart-credentials" holds no usable private key: `+tc.want, c.Message); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
			if n := len(w.AS.TokenRequests()); n != 0 {
				t.Errorf("%d token requests were sent without a key", n)
			}
			// A corrected key works at once, without waiting for a retry.
			operator.Change(t, cart, func(c *v1alpha1.M2MClient) {
				c.Spec.Credentials.PrivateKeyJWT = v1alpha1.PrivateKeyJWTCredentials{SecretRef: ref}
			})
			operator.Change(t, w.Secret("cart-credentials", "", ""), func(s *corev1.Secret) { s.Data[v1alpha1.PrivateKeyKey] = pemKey })
			op.Until(w, func() bool { return len(w.AS.TokenRequests()) > 0 })
			operator.IsReady(t, cart)
		})
	}
}

// TestAKeyThatTheServerDoesNotKnow: the server refuses the key, the operator retries
// slowly, and the message names the key's Secret.
func TestAKeyThatTheServerDoesNotKnow(t *testing.T) {
	op := operator.StartStepped(t)
	w := operator.NewWorld(t)
	pemKey, _, _, err := oidc.NewKeyPair("ES256")
	if err != nil {
		t.Fatal(err)
	}
	_, _, another, err := oidc.NewKeyPair("ES256")
	if err != nil {
		t.Fatal(err)
	}
	register(w, oidc.Client{Method: oidc.PrivateKeyJWT, PublicJWKS: another})
	cart := w.Fixture(v1alpha1.ClientCredentials{PrivateKeyJWT: v1alpha1.PrivateKeyJWTCredentials{
		SecretRef: v1alpha1.SecretKeyReference{Name: "cart-credentials"}, ClientID: operator.CartID,
	}}, map[string]string{v1alpha1.PrivateKeyKey: string(pemKey)})
	op.Settle(w.Payments, w.Shop)
	c := operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTokenRequestRefused)
	for _, part := range []string{"invalid_client", `check Secret "cart-credentials"`} {
		if !strings.Contains(c.Message, part) {
			t.Errorf("the message does not say %q: %s", part, c.Message)
		}
	}
	if n := len(w.AS.TokenRequests()); n != 1 {
		t.Errorf("%d token requests were sent, want 1 and then a pause", n)
	}
}

// TestServiceAccountAsCredential runs the operator with only the rights of its role. It
// requests a real token from the API server, and the authorization server verifies the
// token with the API server's own keys.
func TestServiceAccountAsCredential(t *testing.T) {
	op := operator.StartSteppedOver(t, operator.Restricted(t))
	issuer, keys := operator.ClusterIssuer(t)
	for name, tc := range map[string]struct {
		spec     v1alpha1.ServiceAccountCredentials
		audience string // "": the issuer
	}{
		"the server knows the client by its subject":    {v1alpha1.ServiceAccountCredentials{}, ""},
		"the client_id is sent":                         {v1alpha1.ServiceAccountCredentials{ClientID: operator.CartID}, ""},
		"an audience of the authorization server's own": {v1alpha1.ServiceAccountCredentials{Audience: "https://federation.example.com"}, "https://federation.example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			w := operator.NewWorld(t)
			register(w, oidc.Client{
				Method: oidc.ServiceAccount, PublicJWKS: keys, AssertionIssuer: issuer,
				AssertionSubject: "system:serviceaccount:" + w.Shop + ":cart", AssertionAudience: tc.audience,
			})
			tc.spec.Name = "cart"
			cart := w.Fixture(v1alpha1.ClientCredentials{ServiceAccount: tc.spec}, nil)
			operator.Create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: w.Shop}})

			op.Settle(w.Payments, w.Shop)
			c := operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonCredentialsInvalid)
			want := `The operator may not request tokens of ServiceAccount "cart"; allow it with a Role in this namespace: ` +
				`verb create on serviceaccounts/token, resourceNames [cart]`
			if diff := cmp.Diff(want, c.Message); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
			if n := len(w.AS.TokenRequests()); n != 0 {
				t.Errorf("%d token requests were sent without an assertion", n)
			}

			// Allow exactly what the message asks for.
			operator.Create(t, &rbacv1.Role{
				ObjectMeta: metav1.ObjectMeta{Name: "cart-token", Namespace: w.Shop},
				Rules: []rbacv1.PolicyRule{{
					APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, ResourceNames: []string{"cart"}, Verbs: []string{"create"},
				}},
			}, &rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: "cart-token", Namespace: w.Shop},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "cart-token"},
				Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: operator.RestrictedUser}},
			})
			op.Until(w, func() bool {
				op.Advance(15 * time.Second) // to the next attempt; the API server needs a moment to see the Role
				return len(w.AS.TokenRequests()) > 0
			})
			operator.IsReady(t, cart)
			got := w.TheRequest()
			if got.Method != oidc.ServiceAccount || got.ClientID != operator.CartID {
				t.Errorf("the server saw client %q by %s", got.ClientID, got.Method)
			}
			wantAudience := tc.audience
			if wantAudience == "" {
				wantAudience = w.AS.Issuer()
			}
			if diff := cmp.Diff(any([]any{wantAudience}), got.AssertionClaims["aud"]); diff != "" {
				t.Errorf("the assertion's aud (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAServiceAccountThatDoesNotExist(t *testing.T) {
	op := operator.StartStepped(t)
	w := operator.NewWorld(t)
	cart := w.Fixture(v1alpha1.ClientCredentials{ServiceAccount: v1alpha1.ServiceAccountCredentials{Name: "cart"}}, nil)
	op.Settle(w.Payments, w.Shop)
	c := operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonCredentialsNotFound)
	if diff := cmp.Diff(`ServiceAccount "cart" does not exist`, c.Message); diff != "" {
		t.Errorf("message (-want +got):\n%s", diff)
	}
}
