// SPDX-License-Identifier: Apache-2.0

package tokensecret

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

// WaitingName returns the name of the Secret with a client's tokens that wait. No
// pod mounts it, and it stays the same when the client chooses another name for
// the Secret with its tokens.
func WaitingName(c *v1alpha1.M2MClient) types.NamespacedName {
	return types.NamespacedName{Namespace: c.Namespace, Name: c.Name + "-token-waiting"}
}

// Waiting is the Secret with a client's tokens that wait, as it is found.
type Waiting struct {
	current *corev1.Secret // nil if there is none
	taken   bool           // there is one of that name that is not the client's
	records Records
}

// FindWaiting returns the tokens that wait: a process that was started in between goes on
// with them.
func (s *Store) FindWaiting(ctx context.Context, c *v1alpha1.M2MClient) (w Waiting, err error) {
	var secret corev1.Secret
	if err := s.Client.Get(ctx, WaitingName(c), &secret); err != nil {
		return w, client.IgnoreNotFound(err)
	}
	mine, err := s.belongs(ctx, &secret, c)
	if w.taken = !mine; err != nil || !mine {
		return w, err
	}
	w.current, w.records = &secret, recordsIn(&secret)
	return w, nil
}

// Token returns the token that waits under a key, if it can be believed.
func (w *Waiting) Token(key string, now time.Time) (Token, bool) {
	record, ok := w.records.Tokens[key]
	if !ok {
		return Token{}, false
	}
	value := string(w.current.Data[key])
	if record.Value != refresh.HashValue(value) {
		return Token{}, false
	}
	if record.IssuedAt.After(now.Add(delivery.ClockSkew)) {
		return Token{}, false // somebody would have it wait until its predecessor has expired
	}
	// Before it is published it is verified like a fresh one, which a token that is no
	// JWT would not be.
	if claims, err := jwks.Inspect(value); err != nil || claims.ExpiresAt.Before(record.ExpiresAt) {
		return Token{}, false
	}
	return Token{Value: value, Record: record}, true
}

// WriteWaiting keeps the tokens that wait in a Secret of their own, so that a restart does
// not ask for them again, and removes it when none does.
func (s *Store) WriteWaiting(ctx context.Context, c *v1alpha1.M2MClient, w Waiting, tokens map[string]Token) error {
	if len(tokens) == 0 {
		if w.current == nil {
			return nil
		}
		return client.IgnoreNotFound(s.Client.Delete(ctx, w.current, write.Preconditions(w.current)))
	}
	want := w.wanted(c, tokens)
	var err error
	switch {
	case w.current == nil:
		theirs, lookup := s.Foreign.ExistsForeign(ctx, "Secret", client.ObjectKeyFromObject(want))
		if theirs || w.taken || lookup != nil {
			return lookup // they wait in memory only
		}
		err = s.Client.Create(ctx, want)
	case !equality.Semantic.DeepEqual(w.current, want):
		err = s.Client.Update(ctx, want)
	}
	if err != nil {
		// They wait in memory, too, and it is tried again with each look.
		log.FromContext(ctx).V(1).Info("Could not keep the tokens that wait", "secret", want.Name, "reason", apierrors.ReasonForError(err))
	}
	return nil
}

// wanted returns the Secret with the tokens that wait as it should be.
func (w *Waiting) wanted(c *v1alpha1.M2MClient, tokens map[string]Token) *corev1.Secret {
	name := WaitingName(c)
	want := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}, Type: corev1.SecretTypeOpaque}
	if w.current != nil {
		want = w.current.DeepCopy()
	}
	records := Records{Client: c.UID, Tokens: map[string]Record{}}
	want.Data = map[string][]byte{}
	for key, t := range tokens {
		want.Data[key], records.Tokens[key] = []byte(t.Value), t.Record
	}
	want.Labels = write.Merged(want.Labels, nil, map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
	want.Annotations = write.Merged(want.Annotations, nil, ownAnnotations(c, records))
	want.OwnerReferences = owned(want.OwnerReferences, c)
	return want
}
