// SPDX-License-Identifier: Apache-2.0

package tokensecret

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// Written is what became of a write.
type Written struct {
	// Invalid is why something that spec.secret asks for is left out.
	Invalid *rules.Problem
	// Refused is why the API server does not take the Secret, which stays as it is.
	Refused *rules.Problem
	// Stored reports that the Secret holds what it should.
	Stored bool
}

// Write brings the Secret to what is desired, in one write, if it is still allowed just
// before.
func (s *Store) Write(ctx context.Context, f *Found, d *Desired, stillAllowed func() (bool, error)) (w Written, err error) {
	want, invalid := s.wanted(f, d)
	w.Invalid = invalid
	if f.Current == nil && len(want.Data) == 0 {
		return w, nil // nothing to publish yet
	}
	if ok, err := stillAllowed(); !ok {
		return w, err
	}
	if !equality.Semantic.DeepEqual(f.Current, want) {
		// Noted first: the event may be here before the API server's answer.
		s.wrote.Put(client.ObjectKeyFromObject(d.Client), wholeSecret, contentOf(want))
		if w.Refused, err = s.put(ctx, f, d, want); errors.Is(err, errTerminating) {
			return w, nil
		}
		if w.Refused != nil || err != nil {
			return w, err
		}
	}
	w.Stored = true
	return w, s.removeFormer(ctx, d.Client, f.Name)
}

// errTerminating is why nothing is created in a namespace that is being deleted.
var errTerminating = errors.New("the namespace is being deleted")

// put writes the Secret. If the API server refuses it, put takes out at least what must
// not be there any more, and returns why.
func (s *Store) put(ctx context.Context, f *Found, d *Desired, want *corev1.Secret) (refused *rules.Problem, err error) {
	switch {
	case f.Current == nil:
		err := s.Client.Create(ctx, want)
		switch {
		case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			return nil, errTerminating
		case write.Refused(err):
			return refusal(f, want, err), nil
		case err != nil:
			// The token is held: the next pass publishes it, or finds out whose
			// Secret this is.
			return nil, fmt.Errorf("create Secret %q: %w", want.Name, err)
		}
	case ptr.Deref(f.Current.Immutable, false):
		return nil, s.recreate(ctx, f, want)
	default:
		err := s.Client.Update(ctx, want)
		if write.Refused(err) {
			if err := s.withdrawAnyway(ctx, f, d, want); err != nil {
				return nil, err
			}
			return refusal(f, want, err), nil
		}
		if err != nil {
			return nil, fmt.Errorf("update Secret %q: %w", want.Name, err)
		}
	}
	return nil, nil
}

// recreate replaces a Secret that cannot be updated.
func (s *Store) recreate(ctx context.Context, f *Found, want *corev1.Secret) error {
	if err := s.Client.Delete(ctx, f.Current, write.Preconditions(f.Current)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete the immutable Secret %q: %w", want.Name, err)
	}
	want.UID, want.ResourceVersion = "", ""
	if err := s.Client.Create(ctx, want); err != nil {
		return fmt.Errorf("replace the immutable Secret %q: %w", want.Name, err)
	}
	return nil
}

// refusal says why the API server does not take a Secret. Whoever wrote the policy that
// refuses may have put in what it saw, so the values are removed.
func refusal(f *Found, want *corev1.Secret, err error) *rules.Problem {
	var seen []string
	for _, secret := range []*corev1.Secret{want, f.Current} {
		if secret == nil {
			continue
		}
		for _, value := range secret.Data {
			seen = append(seen, string(value), base64.StdEncoding.EncodeToString(value))
		}
	}
	return &rules.Problem{Reason: v1alpha1.ReasonSecretRefused, Message: text.CutRunes(
		fmt.Sprintf("The API server refuses Secret %q: %s", want.Name, redacted(err.Error(), seen)), 1024)}
}

// withdrawAnyway takes out of the Secret what must not be there any more,
// although the API server refuses the Secret as it should be: by an update that
// only removes, or else with the whole Secret. What else the Secret held is
// offered anew then.
func (s *Store) withdrawAnyway(ctx context.Context, f *Found, d *Desired, want *corev1.Secret) error {
	less := remainder(f, d, want)
	if less == nil {
		return nil
	}
	if s.Prompt {
		less.Annotations[v1alpha1.PromptSinceAnnotation] = delivery.Moment(d.Now)
	}
	err := s.Client.Update(ctx, less)
	if write.Refused(err) {
		err = client.IgnoreNotFound(s.Client.Delete(ctx, f.Current, write.Preconditions(f.Current)))
	}
	if err != nil {
		return fmt.Errorf("take a withdrawn token out of Secret %q: %w", want.Name, err)
	}
	log.FromContext(ctx).Info("Took a withdrawn token out of a Secret that the API server refuses")
	return nil
}

// redacted removes values from a message, the longest first: a short one that is
// a part of a token must not cut it into pieces that stay.
func redacted(message string, values []string) string {
	slices.SortFunc(values, func(a, b string) int { return len(b) - len(a) })
	for _, v := range values {
		if v != "" {
			message = strings.ReplaceAll(message, v, "(removed)")
		}
	}
	return message
}

// removeFormer deletes the Secret that the client had under another name.
func (s *Store) removeFormer(ctx context.Context, c *v1alpha1.M2MClient, present string) error {
	former := string(c.Status.SecretName)
	if former == "" || former == present {
		return nil
	}
	var secret corev1.Secret
	err := s.Client.Get(ctx, types.NamespacedName{Namespace: c.Namespace, Name: former}, &secret)
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	if mine, err := s.belongs(ctx, &secret, c); err != nil || !mine {
		return err
	}
	if err := s.Client.Delete(ctx, &secret, write.Preconditions(&secret)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete Secret %q: %w", former, err)
	}
	return nil
}
