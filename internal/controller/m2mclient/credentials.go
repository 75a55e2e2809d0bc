// SPDX-License-Identifier: Apache-2.0

package m2mclient

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
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
)

// assertionLifetimeSeconds is the least that the TokenRequest API issues.
const assertionLifetimeSeconds = 600

// maxClientID is the bound of status.clientID.
const maxClientID = 1024

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

// CredentialKeys are where in a Secret the parts of a credential are.
type CredentialKeys struct {
	Content  string
	declared string // the client identifier that the spec names
	Id       string // the key of the one in the Secret, if the spec names none
}

// credentialKeysOf returns where a client's credentials are in their Secret.
func credentialKeysOf(c *v1alpha1.M2MClient) CredentialKeys {
	secret, key := c.Spec.Credentials.ClientSecret, c.Spec.Credentials.PrivateKeyJWT
	return CredentialKeys{
		Content:  string(watch.CredentialSecret(c).Key),
		declared: string(cmp.Or(secret.ClientID, key.ClientID)),
		Id:       string(cmp.Or(secret.ClientIDKey, key.ClientIDKey, v1alpha1.ClientIDKey)),
	}
}

// resolveCredentials finds out who the client is.
func (r *Reconciler) resolveCredentials(ctx context.Context, p *Pass) error {
	if p.Server == nil {
		return nil
	}
	if rules.Registered(p.Client) {
		return r.registeredCredentials(ctx, p)
	}
	if sa := p.Client.Spec.Credentials.ServiceAccount; sa.Name != "" {
		p.credentials, p.CredProblem = r.serviceAccount(p, sa)
		return nil
	}
	ref := watch.CredentialSecret(p.Client)
	name := types.NamespacedName{Namespace: p.Client.Namespace, Name: string(ref.Name)}
	keys := credentialKeysOf(p.Client)
	version, err := r.Foreign.Version(ctx, "Secret", name)
	if err != nil {
		return err
	}
	if version == "" {
		p.CredProblem = &rules.Problem{Reason: v1alpha1.ReasonCredentialsNotFound, Message: fmt.Sprintf("Secret %q does not exist", name.Name)}
		return nil
	}
	source := strings.Join([]string{name.Name, keys.Content, keys.declared, version}, "/")
	if keys.Id != v1alpha1.ClientIDKey {
		source += "/" + keys.Id
	}
	known := p.secret.records.Credential
	if known.Source != source {
		content, clientID, bad, err := r.ReadCredential(ctx, name, keys)
		if bad != nil || err != nil {
			p.CredProblem = bad
			return err
		}
		known = credentialRecord{Source: source, Revision: foreign.Revision(name, content), ClientID: clientID}
	}
	p.credentials = &credentials{credentialRecord: known, authenticate: func(ctx context.Context) (oauth.Authentication, *rules.Problem, error) {
		content, clientID, bad, err := r.ReadCredential(ctx, name, keys)
		if bad != nil || err != nil {
			return nil, bad, err
		}
		return authentication(p, name.Name, clientID, content)
	}}
	return nil
}

// ReadCredential returns what a Secret's key holds, and the client identifier:
// the declared one or the Secret's.
func (r *Reconciler) ReadCredential(ctx context.Context, name types.NamespacedName, keys CredentialKeys) (content []byte, clientID string, bad *rules.Problem, err error) {
	secret, err := r.Foreign.Get(ctx, "Secret", name, foreign.MaxCredential, keys.Content, keys.Id)
	if err != nil {
		return nil, "", nil, err
	}
	missing := func(format string, args ...any) ([]byte, string, *rules.Problem, error) {
		return nil, "", &rules.Problem{Reason: v1alpha1.ReasonCredentialsNotFound, Message: fmt.Sprintf(format, args...)}, nil
	}
	if secret == nil {
		return missing("Secret %q does not exist", name.Name)
	}
	if bad := r.Foreign.MayBeSent(name, secret); bad != nil {
		return nil, "", bad, nil
	}
	if len(secret.TooLong) > 0 {
		return nil, "", foreign.TooLongCredential(name.Name, secret.TooLong[0]), nil
	}
	// kubectl create secret --from-file keeps the newline that editors add.
	content = []byte(strings.TrimRight(string(secret.Data[keys.Content]), "\r\n"))
	if len(content) == 0 {
		return missing("Secret %q has no key %q; if it has another, name that in secretRef.key", name.Name, keys.Content)
	}
	clientID = cmp.Or(keys.declared, strings.TrimSpace(string(secret.Data[keys.Id])))
	if clientID == "" {
		return missing("Secret %q has no key %q, and the spec names no clientID; if it has another, name that in clientIDKey", name.Name, keys.Id)
	}
	if len(clientID) > maxClientID || strings.ContainsFunc(clientID, oauth.NotVSCHAR) {
		return nil, "", &rules.Problem{Reason: v1alpha1.ReasonCredentialsInvalid, Message: fmt.Sprintf(
			"Key %q of Secret %q holds no client identifier: up to %d printable ASCII characters", keys.Id, name.Name, maxClientID)}, nil
	}
	return content, clientID, nil, nil
}

// authentication makes of a Secret's content what the token endpoint asks for.
func authentication(p *Pass, secret, clientID string, content []byte) (oauth.Authentication, *rules.Problem, error) {
	invalid := func(format string, args ...any) (oauth.Authentication, *rules.Problem, error) {
		return nil, &rules.Problem{Reason: v1alpha1.ReasonCredentialsInvalid, Message: fmt.Sprintf(format, args...)}, nil
	}
	if spec := p.Client.Spec.Credentials.ClientSecret; spec.SecretRef.Name != "" {
		if strings.ContainsFunc(string(content), oauth.NotVSCHAR) {
			return invalid("Secret %q holds a client secret with characters that RFC 6749 does not allow", secret)
		}
		if spec.Method == v1alpha1.ClientSecretPost {
			return oauth.ClientSecretPost(clientID, string(content)), nil, nil
		}
		return oauth.ClientSecretBasic(clientID, string(content)), nil, nil
	}
	spec := p.Client.Spec.Credentials.PrivateKeyJWT
	key, err := oauth.ParseSigningKey(content, string(spec.Algorithm), spec.KeyID)
	if err != nil {
		return invalid("Secret %q holds no usable private key: %s", secret, err)
	}
	audience := p.Server.Spec.Issuer
	if spec.Audience == v1alpha1.AssertionAudienceTokenEndpoint {
		audience = string(p.Server.Status.Endpoints.Token)
	}
	return oauth.PrivateKeyJWT(clientID, key, audience), nil, nil
}

// serviceAccount authenticates with a ServiceAccount's token. The operator may
// request it only where a Role of the client's namespace says so.
func (r *Reconciler) serviceAccount(p *Pass, sa v1alpha1.ServiceAccountCredentials) (*credentials, *rules.Problem) {
	audience := cmp.Or(sa.Audience, p.Server.Spec.Issuer)
	if r.audiences.include(audience) {
		return nil, clusterAudience(string(sa.Name), audience)
	}
	return &credentials{
		credentialRecord: credentialRecord{Revision: "serviceaccount/" + string(sa.Name) + "/" + audience, ClientID: string(sa.ClientID)},
		authenticate: func(ctx context.Context) (oauth.Authentication, *rules.Problem, error) {
			answer, err := r.Tokens.ServiceAccounts(p.Client.Namespace).CreateToken(ctx, string(sa.Name), &authenticationv1.TokenRequest{
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
