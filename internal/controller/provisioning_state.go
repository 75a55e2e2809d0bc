// SPDX-License-Identifier: Apache-2.0

package controller

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
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

// credentialKey is the key of a credential Secret.
const credentialKey = "credentials.json"

// credentialSecretPrefix is how the name of a credential Secret begins.
const credentialSecretPrefix = "m2m-credential-"

// credentialSecretName returns the name of the Secret in the operator's
// namespace that holds what a registered client proves itself with.
func credentialSecretName(c types.NamespacedName) string {
	return credentialSecretPrefix + provision.Hash(c.Namespace, c.Name)
}

// credentialStore is the content of a credential Secret: the part of a
// provision.ClientState that no status may show. The other part is kept with it,
// for most backups are restored without any status.
type credentialStore struct {
	Server v1alpha1.ProvisioningServer `json:"server"`
	provision.ClientState
}

// readCredentials returns what a credential Secret holds, and the Secret, nil if
// there is none. What cannot be read was edited: it is as good as lost.
func readCredentials(ctx context.Context, reader client.Reader, operatorNamespace string, c types.NamespacedName) (credentialStore, *corev1.Secret, error) {
	var secret corev1.Secret
	err := reader.Get(ctx, types.NamespacedName{Namespace: operatorNamespace, Name: credentialSecretName(c)}, &secret)
	if apierrors.IsNotFound(err) {
		return credentialStore{}, nil, nil
	}
	if err != nil {
		return credentialStore{}, nil, fmt.Errorf("get the credentials of M2MClient %q: %w", c, err)
	}
	var store credentialStore
	if json.Unmarshal(secret.Data[credentialKey], &store) != nil || secret.Annotations[v1alpha1.OwnerAnnotation] != c.String() {
		store = credentialStore{}
	}
	return store, &secret, nil
}

// writeCredentials stores the credentials of a client. secret is the one that
// was read, nil for none; it returns the one that was written.
func writeCredentials(ctx context.Context, c client.Client, operatorNamespace string, name types.NamespacedName, secret *corev1.Secret, store credentialStore) (*corev1.Secret, error) {
	content, err := json.Marshal(store)
	if err != nil {
		return secret, fmt.Errorf("encode the credentials of M2MClient %q: %w", name, err)
	}
	if secret != nil && string(secret.Data[credentialKey]) == string(content) {
		return secret, nil
	}
	if secret == nil {
		secret = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: operatorNamespace, Name: credentialSecretName(name),
				Labels:      map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue},
				Annotations: map[string]string{v1alpha1.OwnerAnnotation: name.String()},
			},
			Data: map[string][]byte{credentialKey: content},
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
	changed.Data = map[string][]byte{credentialKey: content}
	if err := c.Update(ctx, changed); err != nil {
		return secret, fmt.Errorf("update the Secret with the credentials of M2MClient %q: %w", name, err)
	}
	return changed, nil
}

// deleteCredentials deletes the credential Secret of a client that is gone.
func deleteCredentials(ctx context.Context, c client.Client, operatorNamespace string, name types.NamespacedName) error {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: credentialSecretName(name)}}
	if err := c.Get(ctx, client.ObjectKeyFromObject(secret), secret); err != nil {
		return client.IgnoreNotFound(err)
	}
	return client.IgnoreNotFound(c.Delete(ctx, secret, client.Preconditions{UID: &secret.UID}))
}

// provisioningServerOf names a server in a status.
func provisioningServerOf(srv *rules.Server) v1alpha1.ProvisioningServer {
	return rules.ProvisioningServer(srv)
}

// isAt reports whether something was provisioned at a server as it is configured
// now. One that is not provisioned any more still has it.
func isAt(at v1alpha1.ProvisioningServer, srv *rules.Server) bool {
	now := provisioningServerOf(srv)
	if now.Driver == "" {
		now.Driver = at.Driver
	}
	return at == now
}

func keyOfProvisioning(s v1alpha1.ProvisioningServer) rules.ServerKey {
	return rules.ServerKey{Kind: s.Kind, Namespace: string(s.Namespace), Name: string(s.Name)}
}

// clientState puts together what the status and the credential Secret hold. Where
// there is no status, it was lost.
func clientState(st *v1alpha1.M2MClientProvisioning, store credentialStore) *provision.ClientState {
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
	for _, a := range st.Access {
		state.Access = append(state.Access, provision.Access{Resource: string(a.Resource), ResourceID: a.ResourceID, Scopes: stringsOf(a.Scopes)})
	}
	return state
}

// showClientState writes into a status what it may show of a state.
func showClientState(st *v1alpha1.M2MClientProvisioning, state *provision.ClientState, rotation provision.Rotation) {
	st.ClientID, st.GrantID, st.Origin = v1alpha1.ClientID(state.ID), state.GrantID, v1alpha1.ProvisioningOrigin(state.Origin)
	st.Creating = nil
	if state.Creating {
		st.Creating = ptr.To(true)
	}
	st.Access = nil
	for _, a := range state.Access {
		st.Access = append(st.Access, v1alpha1.ProvisionedAccess{
			Resource: v1alpha1.ResourceIdentifier(a.Resource), ResourceID: a.ResourceID, Scopes: scopeNames(a.Scopes),
		})
	}
	st.Credential = v1alpha1.ProvisionedCredential{}
	if c := state.Current(); c != nil {
		st.Credential = v1alpha1.ProvisionedCredential{
			Name: c.Name, IssuedAt: timeOf(c.IssuedAt), ExpiresAt: timeOf(c.ExpiresAt), RotateAt: timeOf(provision.RotateAt(state, rotation)),
		}
	}
	st.LeftBehind = nil
	for _, l := range state.LeftBehind[max(0, len(state.LeftBehind)-16):] {
		st.LeftBehind = append(st.LeftBehind, truncate(l, 512))
	}
}

// apiState reads an API's state from its status.
func apiState(st *v1alpha1.APIResourceProvisioning) *provision.APIState {
	return &provision.APIState{
		ID: st.ResourceID, Origin: provision.Origin(st.Origin), Scopes: stringsOf(st.Scopes), TokenLifetime: st.AccessTokenLifetime.Or(0),
	}
}

// showAPIState writes an API's state into its status.
func showAPIState(st *v1alpha1.APIResourceProvisioning, state *provision.APIState) {
	st.ResourceID, st.Origin, st.Scopes = state.ID, v1alpha1.ProvisioningOrigin(state.Origin), scopeNames(state.Scopes)
	st.AccessTokenLifetime = ""
	if state.TokenLifetime > 0 {
		st.AccessTokenLifetime = v1alpha1.Duration(state.TokenLifetime.String())
	}
}

func stringsOf[S ~string](in []S) []string {
	var out []string
	for _, s := range in {
		out = append(out, string(s))
	}
	return out
}

func scopeNames(in []string) []v1alpha1.ScopeName {
	var out []v1alpha1.ScopeName
	for _, s := range in {
		out = append(out, v1alpha1.ScopeName(s))
	}
	return out
}

// syncPlan is what decides whether an object is compared with its server.
type syncPlan struct {
	syncedAt  *metav1.Time
	inputs    string // what was declared when it was synced
	failure   v1alpha1.TokenFailure
	wants     string // what is declared now
	tries     string // that and what it is tried with: the server's configuration
	interval  time.Duration
	credsDue  time.Time // when the credentials need something
	requested bool      // somebody has seen that the server differs
	seed      string
}

// plan is what package provision decides by.
func (s syncPlan) plan() provision.Plan {
	p := provision.Plan{
		Wants: s.wants, Tries: s.tries, SyncedAt: momentOf(s.syncedAt), Synced: s.inputs,
		Interval: s.interval, CredentialsDue: s.credsDue, Requested: s.requested, Seed: s.seed,
	}
	if s.failure.Reason != "" {
		p.Failure = provision.Failure{Attempts: int(max(1, s.failure.Attempts)), Tried: s.failure.Inputs, NextAt: momentOf(s.failure.NextAttemptAt)}
	}
	return p
}

// agrees reports whether the server was found or made to agree with what is
// declared now.
func (s syncPlan) agrees() bool { return s.plan().Agrees() }

// wait returns how long nothing needs to be done, zero for now.
func (s syncPlan) wait(now time.Time) time.Duration { return s.plan().Wait(now) }

// failed notes a failed attempt. What somebody decided is not undone by a failure
// of the next attempt that says nothing about it: only a success undoes it.
func (s syncPlan) failed(now time.Time, err error, who types.UID) v1alpha1.TokenFailure {
	s.seed = string(who)
	f := s.plan().Failed(now, err)
	p := provisioningProblem(err)
	if rules.Decided(s.failure.Reason) && !rules.Decided(p.Reason) {
		p = &rules.Problem{Reason: s.failure.Reason, Message: s.failure.Message}
	}
	return v1alpha1.TokenFailure{
		Reason: p.Reason, Message: truncate(p.Message, 1024), Attempts: int32(f.Attempts), Inputs: f.Tried, //nolint:gosec // bounded
		NextAttemptAt: timeOf(f.NextAt),
	}
}
