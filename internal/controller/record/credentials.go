// SPDX-License-Identifier: Apache-2.0

// Package record translates between the API objects, in which the operator's state
// persists, and the values that the pure packages work with: the status of a
// server, an API or a client, and the credential Secret of a registered client.
// Reconcilers use it to read what earlier passes wrote down and to write it down
// again. It decides nothing, and writes no object but credential Secrets.
package record

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// CredentialKey is the only key of a credential Secret.
const CredentialKey = "credentials.json"

// CredentialSecretPrefix begins the name of each credential Secret.
const CredentialSecretPrefix = "m2m-credential-"

// CredentialSecretName returns the name of the Secret in the operator's namespace that holds
// the credentials of a registered client.
func CredentialSecretName(c types.NamespacedName) string {
	return CredentialSecretPrefix + provision.Hash(c.Namespace, c.Name)
}

// CredentialStore is the content of a credential Secret: the part of a
// provision.ClientState that no status may show. It also repeats the other part, because
// most backups are restored without any status.
type CredentialStore struct {
	Server v1alpha1.ProvisioningServer `json:"server"`
	provision.ClientState
}

// ReadCredentials returns the content of a client's credential Secret, and the Secret, nil if
// there is none. Somebody edited content that cannot be read: it counts as lost.
func ReadCredentials(ctx context.Context, reader client.Reader, operatorNamespace string, c types.NamespacedName) (CredentialStore, *corev1.Secret, error) {
	var secret corev1.Secret
	err := reader.Get(ctx, types.NamespacedName{Namespace: operatorNamespace, Name: CredentialSecretName(c)}, &secret)
	if apierrors.IsNotFound(err) {
		return CredentialStore{}, nil, nil
	}
	if err != nil {
		return CredentialStore{}, nil, fmt.Errorf("get the credentials of M2MClient %q: %w", c, err)
	}
	var store CredentialStore
	if json.Unmarshal(secret.Data[CredentialKey], &store) != nil || secret.Annotations[v1alpha1.OwnerAnnotation] != c.String() {
		store = CredentialStore{}
	}
	return store, &secret, nil
}

// storing is how often, and how fast, credentials are tried to be stored.
var storing = wait.Backoff{Steps: 4, Duration: 50 * time.Millisecond, Factor: 4}

// StoreCredentials is WriteCredentials that tries again a few times, at once. What a server
// has just given out exists nowhere else: a registration that is not stored is left behind
// for good. It reads past the cache what became of a failed write, and leaves alone what
// another writer has written.
func StoreCredentials(ctx context.Context, c client.Client, live client.Reader, operatorNamespace string, name types.NamespacedName, secret *corev1.Secret, store CredentialStore) (written *corev1.Secret, err error) {
	_ = wait.ExponentialBackoffWithContext(ctx, storing, func(ctx context.Context) (done bool, _ error) {
		written, err = WriteCredentials(ctx, c, operatorNamespace, name, secret, store)
		if err == nil || apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsNotFound(err) {
			return true, nil
		}
		is := &corev1.Secret{}
		switch lookErr := live.Get(ctx, types.NamespacedName{Namespace: operatorNamespace, Name: CredentialSecretName(name)}, is); {
		case lookErr != nil: // it is not there, or cannot be read
		case hasCredentials(is, store):
			written, err = is, nil // only the answer was lost
			return true, nil
		case secret == nil || is.ResourceVersion != secret.ResourceVersion:
			return true, nil // another writer was faster
		}
		return false, nil
	})
	if written == nil && err == nil { // the context had ended before
		err = ctx.Err()
	}
	return written, err
}

// hasCredentials reports whether a Secret has exactly these credentials.
func hasCredentials(secret *corev1.Secret, store CredentialStore) bool {
	content, err := json.Marshal(store)
	return err == nil && string(secret.Data[CredentialKey]) == string(content)
}

// WriteCredentials stores the credentials of a client. It takes the Secret that was read, nil
// if there was none, and returns the one that was written.
func WriteCredentials(ctx context.Context, c client.Client, operatorNamespace string, name types.NamespacedName, secret *corev1.Secret, store CredentialStore) (*corev1.Secret, error) {
	content, err := json.Marshal(store)
	if err != nil {
		return secret, fmt.Errorf("encode the credentials of M2MClient %q: %w", name, err)
	}
	if secret != nil && string(secret.Data[CredentialKey]) == string(content) {
		return secret, nil
	}
	if secret == nil {
		secret = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: operatorNamespace, Name: CredentialSecretName(name),
				Labels:      map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue},
				Annotations: map[string]string{v1alpha1.OwnerAnnotation: name.String()},
			},
			Data: map[string][]byte{CredentialKey: content},
		}
		if err := c.Create(ctx, secret); err != nil {
			return nil, fmt.Errorf("create the Secret with the credentials of M2MClient %q: %w", name, err)
		}
		return secret, nil
	}
	changed := secret.DeepCopy()
	if changed.Annotations == nil {
		changed.Annotations = map[string]string{}
	}
	changed.Annotations[v1alpha1.OwnerAnnotation] = name.String()
	changed.Data = map[string][]byte{CredentialKey: content}
	if err := c.Update(ctx, changed); err != nil {
		return secret, fmt.Errorf("update the Secret with the credentials of M2MClient %q: %w", name, err)
	}
	return changed, nil
}

// DeleteCredentials deletes the credential Secret of a client that is gone.
func DeleteCredentials(ctx context.Context, c client.Client, operatorNamespace string, name types.NamespacedName) error {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: CredentialSecretName(name)}}
	if err := c.Get(ctx, client.ObjectKeyFromObject(secret), secret); err != nil {
		return client.IgnoreNotFound(err)
	}
	return client.IgnoreNotFound(c.Delete(ctx, secret, client.Preconditions{UID: &secret.UID}))
}

// ServerOf returns how a status names a server.
func ServerOf(srv *rules.Server) v1alpha1.ProvisioningServer {
	return rules.ProvisioningServer(srv)
}

// IsAt reports whether something was provisioned at a server in its present configuration. A
// server whose spec no longer names a driver counts as the same.
func IsAt(at v1alpha1.ProvisioningServer, srv *rules.Server) bool {
	now := ServerOf(srv)
	if now.Driver == "" {
		now.Driver = at.Driver
	}
	return at == now
}

// KeyOf returns the key of the server that a status names.
func KeyOf(s v1alpha1.ProvisioningServer) rules.ServerKey {
	return rules.ServerKey{Kind: s.Kind, Namespace: string(s.Namespace), Name: string(s.Name)}
}

// ClientState merges what the status and the credential Secret hold. A status that names no
// server was lost, and the Secret alone counts.
func ClientState(st *v1alpha1.M2MClientProvisioning, store CredentialStore) *provision.ClientState {
	if st.Server.Name == "" {
		return &store.ClientState
	}
	state := &provision.ClientState{
		ID: string(st.ClientID), GrantID: st.GrantID, Origin: provision.Origin(st.Origin), Creating: ptr.Deref(st.Creating, false),
		LeftBehind: slices.Clone(st.LeftBehind),
	}
	if store.Server == st.Server {
		for _, l := range store.LeftBehind {
			if !slices.Contains(state.LeftBehind, l) {
				state.LeftBehind = append(state.LeftBehind, l)
			}
		}
		state.Sequence, state.Rotation, state.Credentials = store.Sequence, store.Rotation, slices.Clone(store.Credentials)
	}
	if store.Server == st.Server && st.ClientID == "" && st.Origin == "" {
		// The operator was killed after it had written the Secret and before the status.
		state.ID, state.GrantID, state.Origin, state.Access = store.ID, store.GrantID, store.Origin, store.Access
		return state
	}
	for _, a := range st.Access {
		state.Access = append(state.Access, provision.Access{Resource: string(a.Resource), ResourceID: a.ResourceID, Scopes: StringsOf(a.Scopes)})
	}
	return state
}

// ShowClientState writes to a status the part of a state that it may show.
func ShowClientState(st *v1alpha1.M2MClientProvisioning, state *provision.ClientState, rotation provision.Rotation) {
	st.ClientID, st.GrantID, st.Origin = v1alpha1.ClientID(state.ID), state.GrantID, v1alpha1.ProvisioningOrigin(state.Origin)
	st.Creating = nil
	if state.Creating {
		st.Creating = ptr.To(true)
	}
	st.Access = nil
	for _, a := range state.Access {
		st.Access = append(st.Access, v1alpha1.ProvisionedAccess{
			Resource: v1alpha1.ResourceIdentifier(a.Resource), ResourceID: a.ResourceID, Scopes: ScopeNames(a.Scopes),
		})
	}
	st.Credential = v1alpha1.ProvisionedCredential{}
	if c := state.Current(); c != nil {
		st.Credential = v1alpha1.ProvisionedCredential{
			Name: c.Name, IssuedAt: Time(c.IssuedAt), ExpiresAt: Time(c.ExpiresAt), RotateAt: Time(provision.RotateAt(state, rotation)),
		}
	}
	st.LeftBehind = nil
	for _, l := range state.LeftBehind[max(0, len(state.LeftBehind)-16):] {
		st.LeftBehind = append(st.LeftBehind, text.CutRunes(l, 512))
	}
}

// APIState reads an API's state from its status.
func APIState(st *v1alpha1.APIResourceProvisioning) *provision.APIState {
	return &provision.APIState{
		ID: st.ResourceID, Origin: provision.Origin(st.Origin), Scopes: StringsOf(st.Scopes), TokenLifetime: st.AccessTokenLifetime.Or(0),
	}
}

// ShowAPIState writes an API's state to its status.
func ShowAPIState(st *v1alpha1.APIResourceProvisioning, state *provision.APIState) {
	st.ResourceID, st.Origin, st.Scopes = state.ID, v1alpha1.ProvisioningOrigin(state.Origin), ScopeNames(state.Scopes)
	st.AccessTokenLifetime = ""
	if state.TokenLifetime > 0 {
		st.AccessTokenLifetime = v1alpha1.Duration(state.TokenLifetime.String())
	}
}

// StringsOf converts a list of a string type to strings.
func StringsOf[S ~string](in []S) []string {
	var out []string
	for _, s := range in {
		out = append(out, string(s))
	}
	return out
}

// ScopeNames converts strings to the API's type for scopes.
func ScopeNames(in []string) []v1alpha1.ScopeName {
	var out []v1alpha1.ScopeName
	for _, s := range in {
		out = append(out, v1alpha1.ScopeName(s))
	}
	return out
}
