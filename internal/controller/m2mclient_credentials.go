// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
)

// assertionLifetimeSeconds is the least that the TokenRequest API issues.
const assertionLifetimeSeconds = 600

// maxClientID is the bound of status.clientID.
const maxClientID = 1024

// notPrintable says that RFC 6749 allows a character neither in a client
// identifier nor in a client secret (appendix A, VSCHAR).
func notPrintable(c rune) bool { return c < ' ' || c > '~' }

// credentials are who a client is, and which state of its secret it uses. The
// secret itself is read only when a token is requested.
type credentials struct {
	credentialRecord
	authenticate func(context.Context) (oauth.Authentication, *rules.Problem, error)
}

// credentialRecord is what is kept with the tokens about the credentials.
type credentialRecord struct {
	// Source is the state of the Secret that was read: while it is the same,
	// Revision and ClientID are too, and it need not be read again.
	Source string `json:"source,omitempty"`
	// Revision identifies the content.
	Revision string `json:"revision,omitempty"`
	ClientID string `json:"clientID,omitempty"`
}

// credentialKeys are where in a Secret the parts of a credential are.
type credentialKeys struct {
	content  string
	declared string // the client identifier that the spec names
	id       string // the key of the one in the Secret, if the spec names none
}

// credentialKeysOf returns where a client's credentials are in their Secret.
func credentialKeysOf(c *v1alpha1.M2MClient) credentialKeys {
	secret, key := c.Spec.Credentials.ClientSecret, c.Spec.Credentials.PrivateKeyJWT
	return credentialKeys{
		content:  string(credentialSecret(c).Key),
		declared: string(cmp.Or(secret.ClientID, key.ClientID)),
		id:       string(cmp.Or(secret.ClientIDKey, key.ClientIDKey, v1alpha1.ClientIDKey)),
	}
}

// credentialSecret returns the reference to the Secret that a client's
// credentials are in, with its default key. It is empty for a ServiceAccount.
func credentialSecret(c *v1alpha1.M2MClient) v1alpha1.SecretKeyReference {
	ref, key := c.Spec.Credentials.ClientSecret.SecretRef, v1alpha1.ClientSecretKey
	if r := c.Spec.Credentials.PrivateKeyJWT.SecretRef; r.Name != "" {
		ref, key = r, v1alpha1.PrivateKeyKey
	}
	ref.Key = cmp.Or(ref.Key, v1alpha1.FileName(key))
	return ref
}

// resolveCredentials finds out who the client is.
func (r *M2MClientReconciler) resolveCredentials(ctx context.Context, p *pass) error {
	if p.server == nil {
		return nil
	}
	if isProvisioned(p.client) {
		return r.registeredCredentials(ctx, p)
	}
	if sa := p.client.Spec.Credentials.ServiceAccount; sa.Name != "" {
		p.credentials, p.credProblem = r.serviceAccount(p, sa)
		return nil
	}
	ref := credentialSecret(p.client)
	name := types.NamespacedName{Namespace: p.client.Namespace, Name: string(ref.Name)}
	keys := credentialKeysOf(p.client)
	version, err := r.foreign.version(ctx, "Secret", name)
	if err != nil {
		return err
	}
	if version == "" {
		p.credProblem = &rules.Problem{Reason: v1alpha1.ReasonCredentialsNotFound, Message: fmt.Sprintf("Secret %q does not exist", name.Name)}
		return nil
	}
	source := strings.Join([]string{name.Name, keys.content, keys.declared, version}, "/")
	if keys.id != v1alpha1.ClientIDKey {
		source += "/" + keys.id
	}
	known := p.secret.records.Credential
	if known.Source != source {
		content, clientID, bad, err := r.readCredential(ctx, name, keys)
		if bad != nil || err != nil {
			p.credProblem = bad
			return err
		}
		known = credentialRecord{Source: source, Revision: revision(name, content), ClientID: clientID}
	}
	p.credentials = &credentials{credentialRecord: known, authenticate: func(ctx context.Context) (oauth.Authentication, *rules.Problem, error) {
		content, clientID, bad, err := r.readCredential(ctx, name, keys)
		if bad != nil || err != nil {
			return nil, bad, err
		}
		return authentication(p, name.Name, clientID, content)
	}}
	return nil
}

// readCredential returns what a Secret's key holds, and the client identifier:
// the declared one or the Secret's.
func (r *M2MClientReconciler) readCredential(ctx context.Context, name types.NamespacedName, keys credentialKeys) (content []byte, clientID string, bad *rules.Problem, err error) {
	secret, err := r.foreign.get(ctx, "Secret", name, maxCredential, keys.content, keys.id)
	if err != nil {
		return nil, "", nil, err
	}
	missing := func(format string, args ...any) ([]byte, string, *rules.Problem, error) {
		return nil, "", &rules.Problem{Reason: v1alpha1.ReasonCredentialsNotFound, Message: fmt.Sprintf(format, args...)}, nil
	}
	if secret == nil {
		return missing("Secret %q does not exist", name.Name)
	}
	if bad := r.foreign.mayBeSent(name, secret); bad != nil {
		return nil, "", bad, nil
	}
	if len(secret.tooLong) > 0 {
		return nil, "", tooLongCredential(name.Name, secret.tooLong[0]), nil
	}
	// kubectl create secret --from-file keeps the newline that editors add.
	content = []byte(strings.TrimRight(string(secret.data[keys.content]), "\r\n"))
	if len(content) == 0 {
		return missing("Secret %q has no key %q; if it has another, name that in secretRef.key", name.Name, keys.content)
	}
	clientID = cmp.Or(keys.declared, strings.TrimSpace(string(secret.data[keys.id])))
	if clientID == "" {
		return missing("Secret %q has no key %q, and the spec names no clientID; if it has another, name that in clientIDKey", name.Name, keys.id)
	}
	if len(clientID) > maxClientID || strings.ContainsFunc(clientID, notPrintable) {
		return nil, "", &rules.Problem{Reason: v1alpha1.ReasonCredentialsInvalid, Message: fmt.Sprintf(
			"Key %q of Secret %q holds no client identifier: up to %d printable ASCII characters", keys.id, name.Name, maxClientID)}, nil
	}
	return content, clientID, nil, nil
}

// authentication makes of a Secret's content what the token endpoint asks for.
func authentication(p *pass, secret, clientID string, content []byte) (oauth.Authentication, *rules.Problem, error) {
	invalid := func(format string, args ...any) (oauth.Authentication, *rules.Problem, error) {
		return nil, &rules.Problem{Reason: v1alpha1.ReasonCredentialsInvalid, Message: fmt.Sprintf(format, args...)}, nil
	}
	if spec := p.client.Spec.Credentials.ClientSecret; spec.SecretRef.Name != "" {
		if strings.ContainsFunc(string(content), notPrintable) {
			return invalid("Secret %q holds a client secret with characters that RFC 6749 does not allow", secret)
		}
		if spec.Method == v1alpha1.ClientSecretPost {
			return oauth.ClientSecretPost(clientID, string(content)), nil, nil
		}
		return oauth.ClientSecretBasic(clientID, string(content)), nil, nil
	}
	spec := p.client.Spec.Credentials.PrivateKeyJWT
	key, err := oauth.ParseSigningKey(content, string(spec.Algorithm), spec.KeyID)
	if err != nil {
		return invalid("Secret %q holds no usable private key: %s", secret, err)
	}
	audience := p.server.Spec.Issuer
	if spec.Audience == v1alpha1.AssertionAudienceTokenEndpoint {
		audience = string(p.server.Status.Endpoints.Token)
	}
	return oauth.PrivateKeyJWT(clientID, key, audience), nil, nil
}

// serviceAccount authenticates with a ServiceAccount's token. The operator may
// request it only where a Role of the client's namespace says so.
func (r *M2MClientReconciler) serviceAccount(p *pass, sa v1alpha1.ServiceAccountCredentials) (*credentials, *rules.Problem) {
	audience := cmp.Or(sa.Audience, p.server.Spec.Issuer)
	if r.audiences.include(audience) {
		return nil, clusterAudience(string(sa.Name), audience)
	}
	return &credentials{
		credentialRecord: credentialRecord{Revision: "serviceaccount/" + string(sa.Name) + "/" + audience, ClientID: string(sa.ClientID)},
		authenticate: func(ctx context.Context) (oauth.Authentication, *rules.Problem, error) {
			answer, err := r.tokens.ServiceAccounts(p.client.Namespace).CreateToken(ctx, string(sa.Name), &authenticationv1.TokenRequest{
				Spec: authenticationv1.TokenRequestSpec{
					Audiences: []string{audience}, ExpirationSeconds: ptr.To[int64](assertionLifetimeSeconds),
				},
			}, metav1.CreateOptions{})
			switch {
			case apierrors.IsNotFound(err):
				return nil, &rules.Problem{Reason: v1alpha1.ReasonCredentialsNotFound, Message: fmt.Sprintf("ServiceAccount %q does not exist", sa.Name)}, nil
			case apierrors.IsForbidden(err):
				return nil, &rules.Problem{Reason: v1alpha1.ReasonCredentialsInvalid, Message: fmt.Sprintf(
					"The operator may not request tokens of ServiceAccount %q; allow it with a Role in this namespace: verb create on serviceaccounts/token, resourceNames [%s]",
					sa.Name, sa.Name)}, nil
			case err != nil:
				return nil, nil, fmt.Errorf("request a token of ServiceAccount %q: %w", sa.Name, err)
			// An API server takes its issuer for its audience unless it is told otherwise.
			case claimsOf(answer.Status.Token).Issuer == audience:
				return nil, clusterAudience(string(sa.Name), audience), nil
			}
			return oauth.JWTBearerAssertion(string(sa.ClientID), answer.Status.Token), nil, nil
		},
	}, nil
}
