// SPDX-License-Identifier: Apache-2.0

// Package tokensecret keeps a client's tokens in its Secret, with records of what is known
// about them, and the tokens that wait in another one. It knows whose a Secret is, and
// what pods must see at once; which token is published is decided elsewhere.
package tokensecret

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
	"github.com/m2m-operator/m2m-operator/internal/controller/memory"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
)

// Store keeps the tokens of clients in their Secrets.
type Store struct {
	Config
	wrote *memory.PerAccess[cached.Digest] // of the Secret that this process wrote last, under the key wholeSecret
}

// Config holds the dependencies of a Store.
type Config struct {
	Client  client.Client
	Live    client.Reader // past the cache
	Foreign *foreign.Objects
	// Prompt enables touching pods that must see a changed Secret at once.
	Prompt bool
}

// New returns a Store that has written nothing yet.
func New(c Config) *Store {
	return &Store{Config: c, wrote: memory.New[cached.Digest]()}
}

// Forget forgets what was written for a client.
func (s *Store) Forget(name types.NamespacedName) { s.wrote.Forget(name) }

// Remembers reports whether the store knows what it wrote last for a client.
func (s *Store) Remembers(name types.NamespacedName) bool {
	_, ok := s.wrote.Get(name, wholeSecret)
	return ok
}

// wholeSecret stands for all accesses of a client.
const wholeSecret = ""

// Found is a client's Secret as it is found.
type Found struct {
	Name    string
	Current *corev1.Secret // nil if it does not exist
	Records Records
	Tokens  map[string]string // what lies under the keys of accesses
}

// Find returns the client's Secret. Another's Secret of that name is a problem, and
// nothing is asked for that could not be stored.
func (s *Store) Find(ctx context.Context, c *v1alpha1.M2MClient, keys []string) (*Found, *rules.Problem, error) {
	f := &Found{Name: c.SecretName()}
	known := c.Status.ExpiresAt != nil && string(c.Status.SecretName) == f.Name
	found, err := s.get(ctx, types.NamespacedName{Namespace: c.Namespace, Name: f.Name}, known)
	if err != nil || found == nil {
		return f, nil, err
	}
	mine, err := s.belongs(ctx, found, c)
	if err != nil {
		return nil, nil, err
	}
	if !mine {
		return f, &rules.Problem{
			Reason:  v1alpha1.ReasonSecretNotOwned,
			Message: fmt.Sprintf("Secret %q exists and is not this client's; delete it, or choose another spec.secret.name", f.Name),
		}, nil
	}
	f.Current, f.Records, f.Tokens = found, recordsIn(found), map[string]string{}
	if f.Records.Client != c.UID {
		f.Records.doubtOpaque()
	}
	for _, key := range keys {
		if v, ok := found.Data[key]; ok {
			f.Tokens[key] = string(v)
		}
	}
	return f, nil, nil
}

// get returns a Secret, nil if there is none. The cache holds only what
// carries the operator's label; what has another's, or lost it, is read live. So
// is one that is known to have been there: as its label changes, there may be a
// moment when no cache has it.
func (s *Store) get(ctx context.Context, name types.NamespacedName, known bool) (*corev1.Secret, error) {
	var secret corev1.Secret
	err := s.Client.Get(ctx, name, &secret)
	if err == nil {
		return &secret, nil
	}
	if !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("get Secret %q: %w", name, err)
	}
	version, err := s.Foreign.Version(ctx, "Secret", name)
	if err != nil || version == "" && !known {
		return nil, err
	}
	if err := s.Live.Get(ctx, name, &secret); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return &secret, nil
}

// IsCurrent reports whether the Secret that was found is the API server's latest.
func (s *Store) IsCurrent(ctx context.Context, c *v1alpha1.M2MClient, f *Found) (bool, error) {
	var latest corev1.Secret
	err := s.Live.Get(ctx, types.NamespacedName{Namespace: c.Namespace, Name: f.Name}, &latest)
	if apierrors.IsNotFound(err) {
		return f.Current == nil, nil
	}
	if err != nil {
		return false, fmt.Errorf("read Secret %q: %w", f.Name, err)
	}
	return f.Current != nil && f.Current.ResourceVersion == latest.ResourceVersion, nil
}

// belongs reports whether a Secret with tokens is a client's: by its controller,
// or, where no living object is that, by what the operator wrote on it. A restored
// backup has Secrets without owners, and so has whoever deletes a client with
// --cascade=orphan and creates it again.
//
// Whoever may write Secrets in the client's namespace can have one taken over that
// the operator never wrote. It is changed to what the client should have all the
// same: what lies in it is verified or replaced.
func (s *Store) belongs(ctx context.Context, secret *corev1.Secret, c *v1alpha1.M2MClient) (bool, error) {
	if metav1.IsControlledBy(secret, c) {
		return true, nil
	}
	_, recorded := secret.Annotations[v1alpha1.TokensAnnotation]
	if !recorded || secret.Labels[v1alpha1.ManagedByLabel] != v1alpha1.ManagedByValue || secret.Type != corev1.SecretTypeOpaque ||
		secret.Annotations[v1alpha1.OwnerAnnotation] != client.ObjectKeyFromObject(c).String() {
		return false, nil
	}
	owner := metav1.GetControllerOfNoCopy(secret)
	if owner == nil {
		return true, nil
	}
	if !cached.IsClient(owner) {
		return false, nil
	}
	living, err := record.ClientUID(ctx, s.Live, types.NamespacedName{Namespace: secret.Namespace, Name: owner.Name})
	return living != owner.UID, err
}

// contentOf tells apart what Secrets hold, and whose they are.
func contentOf(s *corev1.Secret) cached.Digest {
	encoded, err := json.Marshal([]any{s.Data, s.Labels, s.Annotations, s.OwnerReferences, s.Type, s.Immutable})
	if err != nil {
		panic(err) // strings, bytes and flags only
	}
	return cached.DigestOf(encoded)
}

// ChangedByOthers lets every event of a token Secret pass but the one that says
// what this process wrote last: there is nothing to do for it.
func (s *Store) ChangedByOthers() predicate.Predicate {
	anothers := func(o client.Object) bool {
		owner, secret := metav1.GetControllerOf(o), o.(*corev1.Secret)
		if owner == nil {
			return true
		}
		wrote, ok := s.wrote.Get(types.NamespacedName{Namespace: secret.Namespace, Name: owner.Name}, wholeSecret)
		return !ok || wrote != contentOf(secret)
	}
	return predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool { return anothers(e.Object) },
		UpdateFunc: func(e event.UpdateEvent) bool { return anothers(e.ObjectNew) },
	}
}
