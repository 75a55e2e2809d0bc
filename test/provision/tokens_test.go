// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// claims are the claims of a token that the tests check.
type claims struct {
	scopes   []string // sorted
	audience []string
	lifetime time.Duration
}

// words is a claim that is a list, or a string of words.
type words []string

func (w *words) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil {
		*w = strings.Fields(text)
		return nil
	}
	return json.Unmarshal(b, (*[]string)(w))
}

// decode reads a token without verifying it: the operator has verified it, and says so in a
// condition.
func decode(token string) (claims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims{}, errors.New("the token is not a JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return claims{}, errors.New("the token is not a JWT")
	}
	var c struct {
		Scope    words   `json:"scope"`
		SCP      words   `json:"scp"`
		Audience words   `json:"aud"`
		Expires  float64 `json:"exp"`
		Issued   float64 `json:"iat"`
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		return claims{}, errors.New("the token is not a JWT")
	}
	all := append(c.Scope, c.SCP...)
	slices.Sort(all)
	return claims{scopes: all, audience: c.Audience, lifetime: time.Duration(c.Expires-c.Issued) * time.Second}, nil
}

// token returns the token that a client's pods find under a key, "" if there is none.
func (w *world) token(name, key string) (string, error) {
	var s corev1.Secret
	err := w.kube.Get(w.t.Context(), types.NamespacedName{Namespace: w.shop, Name: name + "-token"}, &s)
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	return string(s.Data[key]), err
}

// hasToken waits until a client's token for an API has exactly these scopes and the API as its audience. The
// condition Verified, which relies on the server's published keys, says that the server signed it.
func (w *world) hasToken(c *v1alpha1.M2MClient, api string, scopes ...string) (token string, found claims) {
	w.t.Helper()
	scopes = slices.Sorted(slices.Values(scopes))
	eventually(w.t, func() (err error) {
		if token, err = w.token(c.Name, api); err != nil || token == "" {
			return fmt.Errorf("%s has no token for %s: %w", c.Name, api, err)
		}
		if found, err = decode(token); err != nil {
			return err
		}
		if diff := cmp.Diff(scopes, found.scopes); diff != "" {
			return fmt.Errorf("the scopes of %s's token (-want +got):\n%s", c.Name, diff)
		}
		if !slices.Contains(found.audience, w.identifier(api)) {
			return fmt.Errorf("the audience of %s's token is %q", c.Name, found.audience)
		}
		return nil
	})
	w.hasCondition(c, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
	return token, found
}

// accepted reports whether the token endpoint accepts a client secret.
func (w *world) accepted(as *v1alpha1.AuthorizationServer, clientID, secret, api, scope string) (bool, error) {
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {scope}}
	switch as.Spec.AudienceParameter {
	case v1alpha1.AudienceParameterAudience:
		form.Set("audience", w.identifier(api))
	case v1alpha1.AudienceParameterNone:
	default:
		form.Set("resource", w.identifier(api))
	}
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, string(as.Status.Endpoints.Token), strings.NewReader(form.Encode()))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(clientID), url.QueryEscape(secret))
	resp, err := newHTTPClient(w.caPEM).Do(req)
	if err != nil {
		return false, err
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK, nil
}
