// SPDX-License-Identifier: Apache-2.0

// Package credentials finds out how a client proves to its authorization server who it
// is: with a secret or a key of its own, with a ServiceAccount's token, or with the
// credential that the operator registered for it. It reads the secret itself only when a
// token is requested, and keeps no copy.
package credentials

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// assertionLifetimeSeconds is the least that the TokenRequest API issues.
const assertionLifetimeSeconds = 600

// maxClientID is the bound of status.clientID.
const maxClientID = 1024

// Source finds the credentials of clients. It knows nothing of any one client.
type Source struct {
	Config
	audiences clusterAudiences // that no ServiceAccount token may be requested for
}

// Config holds the dependencies of a Source.
type Config struct {
	Client            client.Reader // of the credentials that the operator registered
	Live              client.Reader // of the same, past the cache
	OperatorNamespace string        // where those are
	Foreign           *foreign.Objects
	Tokens            corev1client.ServiceAccountsGetter // requests ServiceAccount tokens
	Rest              *rest.Config                       // of the API server, whose own audiences no such token may have
}

// New returns a Source.
func New(c Config) *Source {
	return &Source{Config: c, audiences: newClusterAudiences(c.Rest)}
}

// Credentials are who a client is, and which state of its secret it uses.
type Credentials struct {
	Record
	// Authenticate reads the secret and returns what a token request needs, or what is
	// wrong with the secret.
	Authenticate func(context.Context) (oauth.Authentication, *rules.Problem, error)
}

// Record is what is kept with the tokens about the credentials that they were requested
// with.
type Record struct {
	// Source is the state of the Secret that was read: while it is the same,
	// Revision and ClientID are too, and it need not be read again.
	Source string `json:"source,omitempty"`
	// Revision identifies the content.
	Revision string `json:"revision,omitempty"`
	ClientID string `json:"clientID,omitempty"`
}

// keys are where in a Secret the parts of a credential are.
type keys struct {
	content  string
	declared string // the client identifier that the spec names
	id       string // the key of the one in the Secret, if the spec names none
}

// keysOf returns where a client's credentials are in their Secret.
func keysOf(c *v1alpha1.M2MClient) keys {
	secret, key := c.Spec.Credentials.ClientSecret, c.Spec.Credentials.PrivateKeyJWT
	return keys{
		content:  string(watch.CredentialSecret(c).Key),
		declared: string(cmp.Or(secret.ClientID, key.ClientID)),
		id:       string(cmp.Or(secret.ClientIDKey, key.ClientIDKey, v1alpha1.ClientIDKey)),
	}
}

// Own returns the credentials that a client's spec names, for a server, or what is wrong
// with them. The record is what is known from earlier tokens: while it holds, nothing is
// read.
func (s *Source) Own(ctx context.Context, c *v1alpha1.M2MClient, srv *rules.Server, known Record) (*Credentials, *rules.Problem, error) {
	if sa := c.Spec.Credentials.ServiceAccount; sa.Name != "" {
		found, bad := s.serviceAccount(c, srv, sa)
		return found, bad, nil
	}
	ref := watch.CredentialSecret(c)
	name := types.NamespacedName{Namespace: c.Namespace, Name: string(ref.Name)}
	at := keysOf(c)
	version, err := s.Foreign.Version(ctx, "Secret", name)
	if err != nil {
		return nil, nil, err
	}
	if version == "" {
		return nil, &rules.Problem{Reason: v1alpha1.ReasonCredentialsNotFound, Message: fmt.Sprintf("Secret %q does not exist", name.Name)}, nil
	}
	source := strings.Join([]string{name.Name, at.content, at.declared, version}, "/")
	if at.id != v1alpha1.ClientIDKey {
		source += "/" + at.id
	}
	if known.Source != source {
		content, clientID, bad, err := s.read(ctx, name, at)
		if bad != nil || err != nil {
			return nil, bad, err
		}
		known = Record{Source: source, Revision: foreign.Revision(name, content), ClientID: clientID}
	}
	return &Credentials{Record: known, Authenticate: func(ctx context.Context) (oauth.Authentication, *rules.Problem, error) {
		content, clientID, bad, err := s.read(ctx, name, at)
		if bad != nil || err != nil {
			return nil, bad, err
		}
		return authentication(c, srv, name.Name, clientID, content)
	}}, nil, nil
}

// read returns what a Secret's key holds, and the client identifier:
// the declared one or the Secret's.
func (s *Source) read(ctx context.Context, name types.NamespacedName, at keys) (content []byte, clientID string, bad *rules.Problem, err error) {
	secret, err := s.Foreign.Get(ctx, "Secret", name, foreign.MaxCredential, at.content, at.id)
	if err != nil {
		return nil, "", nil, err
	}
	missing := func(format string, args ...any) ([]byte, string, *rules.Problem, error) {
		return nil, "", &rules.Problem{Reason: v1alpha1.ReasonCredentialsNotFound, Message: fmt.Sprintf(format, args...)}, nil
	}
	if secret == nil {
		return missing("Secret %q does not exist", name.Name)
	}
	if bad := s.Foreign.MayBeSent(name, secret); bad != nil {
		return nil, "", bad, nil
	}
	if len(secret.TooLong) > 0 {
		return nil, "", foreign.TooLongCredential(name.Name, secret.TooLong[0]), nil
	}
	// kubectl create secret --from-file keeps the newline that editors add.
	content = []byte(strings.TrimRight(string(secret.Data[at.content]), "\r\n"))
	if len(content) == 0 {
		return missing("Secret %q has no key %q%s; add the key, or name another in secretRef.key", name.Name, at.content, secret.Instead(at.content))
	}
	clientID = cmp.Or(at.declared, strings.TrimSpace(string(secret.Data[at.id])))
	if clientID == "" {
		return missing("Secret %q has no key %q%s, and the spec names no clientID; set clientID, or name a key of the Secret in clientIDKey", name.Name, at.id, secret.Instead(at.id))
	}
	if len(clientID) > maxClientID || strings.ContainsFunc(clientID, oauth.NotVSCHAR) {
		return nil, "", &rules.Problem{Reason: v1alpha1.ReasonCredentialsInvalid, Message: fmt.Sprintf(
			"Key %q of Secret %q does not hold a client identifier of at most %d printable ASCII characters", at.id, name.Name, maxClientID)}, nil
	}
	return content, clientID, nil, nil
}

// authentication makes of a Secret's content what the token endpoint asks for.
func authentication(c *v1alpha1.M2MClient, srv *rules.Server, secret, clientID string, content []byte) (oauth.Authentication, *rules.Problem, error) {
	invalid := func(format string, args ...any) (oauth.Authentication, *rules.Problem, error) {
		return nil, &rules.Problem{Reason: v1alpha1.ReasonCredentialsInvalid, Message: fmt.Sprintf(format, args...)}, nil
	}
	if spec := c.Spec.Credentials.ClientSecret; spec.SecretRef.Name != "" {
		if strings.ContainsFunc(string(content), oauth.NotVSCHAR) {
			return invalid("Secret %q holds a client secret with characters that RFC 6749 does not allow", secret)
		}
		if spec.Method == v1alpha1.ClientSecretPost {
			return oauth.ClientSecretPost(clientID, string(content)), nil, nil
		}
		return oauth.ClientSecretBasic(clientID, string(content)), nil, nil
	}
	spec := c.Spec.Credentials.PrivateKeyJWT
	key, err := oauth.ParseSigningKey(content, string(spec.Algorithm), spec.KeyID)
	if err != nil {
		return invalid("Secret %q holds no usable private key: %s", secret, err)
	}
	audience := srv.Spec.Issuer
	if spec.Audience == v1alpha1.AssertionAudienceTokenEndpoint {
		audience = string(srv.Status.Endpoints.Token)
	}
	return oauth.PrivateKeyJWT(clientID, key, audience), nil, nil
}

// serviceAccount authenticates with a ServiceAccount's token. The operator may
// request it only where a Role of the client's namespace says so.
func (s *Source) serviceAccount(c *v1alpha1.M2MClient, srv *rules.Server, sa v1alpha1.ServiceAccountCredentials) (*Credentials, *rules.Problem) {
	audience := cmp.Or(sa.Audience, srv.Spec.Issuer)
	if s.audiences.include(audience) {
		return nil, clusterAudience(string(sa.Name), audience)
	}
	return &Credentials{
		Record: Record{Revision: "serviceaccount/" + string(sa.Name) + "/" + audience, ClientID: string(sa.ClientID)},
		Authenticate: func(ctx context.Context) (oauth.Authentication, *rules.Problem, error) {
			answer, err := s.Tokens.ServiceAccounts(c.Namespace).CreateToken(ctx, string(sa.Name), &authenticationv1.TokenRequest{
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

// Registered returns the credentials of a client that the operator registered at a
// server, nil if they are not there.
func (s *Source) Registered(ctx context.Context, c *v1alpha1.M2MClient, srv *rules.Server) (*Credentials, error) {
	st := c.Status.Provisioning
	if !record.IsAt(st.Server, srv) || st.Credential.Name == "" {
		return nil, nil
	}
	current, err := s.current(ctx, s.Client, client.ObjectKeyFromObject(c), st.Server)
	if err == nil && (current == nil || current.Name != st.Credential.Name) {
		// The cache of Secrets may be behind that of clients: a predecessor replaced the credential.
		current, err = s.current(ctx, s.Live, client.ObjectKeyFromObject(c), st.Server)
	}
	if err != nil || current == nil {
		return nil, err
	}
	return &Credentials{
		Record: Record{
			Revision: "registered/" + current.Name + "/" + strconv.FormatInt(current.IssuedAt.Unix(), 10), ClientID: current.ClientID,
		},
		Authenticate: func(context.Context) (oauth.Authentication, *rules.Problem, error) {
			return record.Authentication(srv.Spec, current.ClientID, current.Secret), nil, nil
		},
	}, nil
}

// current returns the registered credential in use, nil if it is not there.
func (s *Source) current(ctx context.Context, reader client.Reader, name types.NamespacedName, at v1alpha1.ProvisioningServer) (*provision.Credential, error) {
	store, _, err := record.ReadCredentials(ctx, reader, s.OperatorNamespace, name)
	if err != nil || store.Server != at {
		return nil, err
	}
	state := provision.ClientState{Credentials: store.Credentials}
	return state.Current(), nil
}
