// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/credentials"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// tokenSecret is a client's Secret as it is found.
type tokenSecret struct {
	name    string
	owned   bool           // it exists and is the client's
	current *corev1.Secret // nil if it does not exist
	records SecretRecords
	tokens  map[string]string // what lies under the keys of accesses
}

// SecretRecords is the annotation that is kept with the tokens. It is written
// with them in one go, so that it survives whatever happens next.
type SecretRecords struct {
	// Client is the UID of the client that the Secret was written for. With
	// another one it was written for an earlier object of the client's name.
	Client     types.UID              `json:"client,omitempty"`
	Credential credentials.Record     `json:"credential,omitzero"`
	Tokens     map[string]TokenRecord `json:"tokens,omitempty"`

	// Labels and Annotations are the keys that the spec had set, so that they
	// can be taken away again.
	Labels      []string `json:"labels,omitempty"`
	Annotations []string `json:"annotations,omitempty"`
}

// TokenRecord is what is known about a token.
type TokenRecord struct {
	Inputs     string    `json:"inputs"`     // refresh.HashInputs of what it was minted from
	Credential string    `json:"credential"` // the credential's revision, which is part of Inputs
	Value      string    `json:"value"`      // refresh.HashValue of the token
	IssuedAt   time.Time `json:"issuedAt"`
	ExpiresAt  time.Time `json:"expiresAt"`
	KeyID      string    `json:"keyID,omitempty"`
	Thumbprint string    `json:"thumbprint,omitempty"` // of the key: servers give one ID to several
	Algorithm  string    `json:"algorithm,omitempty"`
	Scopes     []string  `json:"scopes,omitempty"`
	Opaque     bool      `json:"opaque,omitempty"`
}

func (t *TokenRecord) asToken() *refresh.Token {
	return &refresh.Token{InputsHash: t.Inputs, IssuedAt: t.IssuedAt, ExpiresAt: t.ExpiresAt, ValueHash: t.Value}
}

// digest tells records apart.
func (t *TokenRecord) digest() cached.Digest {
	encoded, err := json.Marshal(t)
	if err != nil {
		panic(err) // strings and times only
	}
	return cached.DigestOf(encoded)
}

// ReadSecret finds the client's Secret. Another's Secret of that name is a
// problem, and nothing is asked for that could not be stored.
func (r *Reconciler) ReadSecret(ctx context.Context, p *Pass) error {
	p.secret = &tokenSecret{name: p.Client.SecretName()}
	known := p.Client.Status.ExpiresAt != nil && string(p.Client.Status.SecretName) == p.secret.name
	found, err := r.findSecret(ctx, types.NamespacedName{Namespace: p.Client.Namespace, Name: p.secret.name}, known)
	if err != nil || found == nil {
		return err
	}
	// What cannot be parsed was edited: then nothing is known of the tokens.
	var records SecretRecords
	if json.Unmarshal([]byte(found.Annotations[v1alpha1.TokensAnnotation]), &records) != nil {
		records = SecretRecords{}
	}
	mine, err := r.belongs(ctx, found, p.Client)
	if err != nil {
		return err
	}
	if !mine {
		p.secretProblem = &rules.Problem{
			Reason:  v1alpha1.ReasonSecretNotOwned,
			Message: fmt.Sprintf("Secret %q exists and is not this client's; delete it, or choose another spec.secret.name", p.secret.name),
		}
		return nil
	}
	if records.Client != p.Client.UID {
		records.doubtOpaque()
	}
	p.secret.owned, p.secret.current, p.secret.records = true, found, records
	p.secret.tokens = map[string]string{}
	for _, a := range p.Accesses {
		if v, ok := found.Data[a.Key]; ok {
			p.secret.tokens[a.Key] = string(v)
		}
	}
	return nil
}

// findSecret returns a Secret, nil if there is none. The cache holds only what
// carries the operator's label; what has another's, or lost it, is read live. So
// is one that is known to have been there: as its label changes, there may be a
// moment when no cache has it.
func (r *Reconciler) findSecret(ctx context.Context, name types.NamespacedName, known bool) (*corev1.Secret, error) {
	var s corev1.Secret
	err := r.Client.Get(ctx, name, &s)
	if err == nil {
		return &s, nil
	}
	if !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("get Secret %q: %w", name, err)
	}
	version, err := r.Foreign.Version(ctx, "Secret", name)
	if err != nil || version == "" && !known {
		return nil, err
	}
	if err := r.Live.Get(ctx, name, &s); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return &s, nil
}

// secretIsCurrent reports whether the Secret that was read is the API server's
// latest.
func (r *Reconciler) secretIsCurrent(ctx context.Context, p *Pass) (bool, error) {
	var latest corev1.Secret
	err := r.Live.Get(ctx, types.NamespacedName{Namespace: p.Client.Namespace, Name: p.secret.name}, &latest)
	if apierrors.IsNotFound(err) {
		return p.secret.current == nil, nil
	}
	if err != nil {
		return false, fmt.Errorf("read Secret %q: %w", p.secret.name, err)
	}
	return p.secret.current != nil && p.secret.current.ResourceVersion == latest.ResourceVersion, nil
}

// writeSecret brings the Secret to what the accesses ask for, in one write.
func (r *Reconciler) writeSecret(ctx context.Context, p *Pass) error {
	if p.secretProblem != nil || p.stale {
		return nil
	}
	want := r.wantedSecret(p)
	if p.secret.current == nil && len(want.Data) == 0 {
		return nil // nothing to publish yet
	}
	if ok, err := r.stillAllowed(ctx, p); !ok {
		return err
	}
	name := client.ObjectKeyFromObject(p.Client)
	changed := !equality.Semantic.DeepEqual(p.secret.current, want)
	if changed {
		// Noted first: the event may be here before the API server's answer.
		r.Wrote.Put(name, WholeSecret, ContentOf(want))
	}
	switch {
	case !changed:
	case p.secret.current == nil:
		err := r.Client.Create(ctx, want)
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		if write.Refused(err) {
			r.unpublish(p, want, err)
			return nil
		}
		if err != nil {
			// The token is held: the next pass publishes it, or finds out whose
			// Secret this is.
			return fmt.Errorf("create Secret %q: %w", want.Name, err)
		}
	case ptr.Deref(p.secret.current.Immutable, false):
		if err := r.Client.Delete(ctx, p.secret.current, write.Preconditions(p.secret.current)); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete the immutable Secret %q: %w", want.Name, err)
		}
		want.UID, want.ResourceVersion = "", ""
		if err := r.Client.Create(ctx, want); err != nil {
			return fmt.Errorf("replace the immutable Secret %q: %w", want.Name, err)
		}
	default:
		err := r.Client.Update(ctx, want)
		if write.Refused(err) {
			if err := r.withdrawAnyway(ctx, p, want); err != nil {
				return err
			}
			r.unpublish(p, want, err)
			return nil
		}
		if err != nil {
			return fmt.Errorf("update Secret %q: %w", want.Name, err)
		}
	}
	for _, a := range p.Accesses {
		if a.issued != "" {
			r.held.drop(name, a.Key)
			r.Written.Put(name, a.Key, a.Record.digest())
			log.FromContext(ctx).Info("Issued access token", "access", a.Key, "reason", a.issued, "expiresAt", a.Record.ExpiresAt)
		}
	}
	return r.removeFormerSecret(ctx, p)
}

// stillAllowed reports whether every access that gets a token by this pass may
// still have it. What was issued stays held for the next pass.
func (r *Reconciler) stillAllowed(ctx context.Context, p *Pass) (bool, error) {
	for _, a := range p.Accesses {
		if a.issued == "" {
			continue
		}
		if ok, err := r.stillHas(ctx, p, a); !ok {
			return false, err
		}
	}
	return true, nil
}

// WholeSecret stands for all accesses of a client.
const WholeSecret = ""

// ContentOf tells apart what Secrets hold, and whose they are.
func ContentOf(s *corev1.Secret) cached.Digest {
	encoded, err := json.Marshal([]any{s.Data, s.Labels, s.Annotations, s.OwnerReferences, s.Type, s.Immutable})
	if err != nil {
		panic(err) // strings, bytes and flags only
	}
	return cached.DigestOf(encoded)
}

// ChangedByOthers lets every event of a token Secret pass but the one that says
// what this process wrote last: there is nothing to do for it.
func (r *Reconciler) ChangedByOthers() predicate.Predicate {
	anothers := func(o client.Object) bool {
		owner, s := metav1.GetControllerOf(o), o.(*corev1.Secret)
		if owner == nil {
			return true
		}
		wrote, ok := r.Wrote.Get(types.NamespacedName{Namespace: s.Namespace, Name: owner.Name}, WholeSecret)
		return !ok || wrote != ContentOf(s)
	}
	return predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool { return anothers(e.Object) },
		UpdateFunc: func(e event.UpdateEvent) bool { return anothers(e.ObjectNew) },
	}
}

// unpublish goes back to what lies in the Secret, for the API server does not
// take another one. What was issued stays held.
func (r *Reconciler) unpublish(p *Pass, want *corev1.Secret, err error) {
	// Whoever wrote the policy that refuses may have put in what it saw.
	var seen []string
	for _, secret := range []*corev1.Secret{want, p.secret.current} {
		if secret == nil {
			continue
		}
		for _, value := range secret.Data {
			seen = append(seen, string(value), base64.StdEncoding.EncodeToString(value))
		}
	}
	message := Redacted(err.Error(), seen)
	p.refusal = &rules.Problem{Reason: v1alpha1.ReasonSecretRefused, Message: text.CutRunes(
		fmt.Sprintf("The API server refuses Secret %q: %s", want.Name, message), 1024)}
	p.events = nil
	for _, a := range p.Accesses {
		if a.issued != "" {
			a.issued, a.token, a.Record, a.unusable = "", "", nil, nil
			p.judge(a, r.Present(p, a))
			r.noteTerms(p, a)
		}
	}
}

// withdrawAnyway takes out of the Secret what must not be there any more,
// although the API server refuses the Secret as it should be: by an update that
// only removes, or else with the whole Secret. What else the Secret held is
// offered anew then.
func (r *Reconciler) withdrawAnyway(ctx context.Context, p *Pass, want *corev1.Secret) error {
	less := remainder(p, want)
	if less == nil {
		return nil
	}
	if r.Prompt {
		less.Annotations[v1alpha1.PromptSinceAnnotation] = delivery.Moment(p.Now)
	}
	err := r.Client.Update(ctx, less)
	if write.Refused(err) {
		err = client.IgnoreNotFound(r.Client.Delete(ctx, p.secret.current, write.Preconditions(p.secret.current)))
	}
	if err != nil {
		return fmt.Errorf("take a withdrawn token out of Secret %q: %w", want.Name, err)
	}
	log.FromContext(ctx).Info("Took a withdrawn token out of a Secret that the API server refuses")
	return nil
}

// remainder returns the present Secret without what the wanted one lacks, nil if
// it lacks nothing. What is rendered from tokens stays only where it would not
// change: it may show one that must go.
func remainder(p *Pass, want *corev1.Secret) *corev1.Secret {
	current := p.secret.current
	lost := slices.ContainsFunc(slices.Collect(maps.Keys(current.Data)), func(key string) bool { return want.Data[key] == nil })
	if !lost {
		return nil
	}
	less := current.DeepCopy()
	maps.DeleteFunc(less.Data, func(key string, value []byte) bool {
		isToken := slices.ContainsFunc(p.Accesses, func(a *Access) bool { return a.Key == key })
		return want.Data[key] == nil || !isToken && !bytes.Equal(want.Data[key], value)
	})
	records := p.secret.records
	records.Tokens = maps.Clone(records.Tokens)
	maps.DeleteFunc(records.Tokens, func(key string, _ TokenRecord) bool { return less.Data[key] == nil })
	encoded, err := json.Marshal(records)
	if err != nil {
		panic(err) // strings and times only
	}
	if less.Annotations == nil {
		less.Annotations = map[string]string{}
	}
	less.Annotations[v1alpha1.TokensAnnotation] = string(encoded)
	less.OwnerReferences = owned(less.OwnerReferences, p.Client)
	return less
}

// Redacted removes values from a message, the longest first: a short one that is
// a part of a token must not cut it into pieces that stay.
func Redacted(message string, values []string) string {
	slices.SortFunc(values, func(a, b string) int { return len(b) - len(a) })
	for _, v := range values {
		if v != "" {
			message = strings.ReplaceAll(message, v, "(removed)")
		}
	}
	return message
}

// wantedSecret returns the Secret as it should be: what is there, changed where
// the operator has a say.
func (r *Reconciler) wantedSecret(p *Pass) *corev1.Secret {
	want := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: p.Client.Namespace, Name: p.secret.name}, Type: corev1.SecretTypeOpaque}
	if p.secret.current != nil {
		want = p.secret.current.DeepCopy()
	}
	spec := p.Client.Spec.Secret
	if p.templateProblem = write.InvalidMetadata(field.NewPath("spec", "secret"), spec.Labels, spec.Annotations); p.templateProblem != nil {
		spec.Labels, spec.Annotations = nil, nil // with them the API server would refuse the tokens, too
	}
	records := SecretRecords{
		Client: p.Client.UID, Credential: p.secret.records.Credential, Tokens: map[string]TokenRecord{},
		Labels: slices.Sorted(maps.Keys(spec.Labels)), Annotations: slices.Sorted(maps.Keys(spec.Annotations)),
	}
	tokens := map[string]string{}
	keys := make([]string, 0, len(p.Accesses))
	for _, a := range p.Accesses {
		keys = append(keys, a.Key)
		if a.issued != "" {
			records.Credential = p.credentials.Record
		}
		if a.token != "" && !a.withdraw {
			tokens[a.Key], records.Tokens[a.Key] = a.token, *a.Record
		}
	}
	data, _, err := render.TokenSecret(tokens, spec.Template, keys)
	if err != nil {
		p.templateProblem = &rules.Problem{Reason: v1alpha1.ReasonInvalidTemplate, Message: "spec.secret.template: " + err.Error()}
		// The tokens need not wait for the template.
		data, _, _ = render.TokenSecret(tokens, nil, keys)
	}
	want.Data, want.Immutable = data, nil
	want.Labels = write.Merged(want.Labels, p.secret.records.Labels, spec.Labels,
		map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
	encoded, err := json.Marshal(records)
	if err != nil {
		panic(err) // strings and times only
	}
	want.Annotations = write.Merged(want.Annotations, p.secret.records.Annotations, spec.Annotations, ownAnnotations(p.Client, encoded))
	if r.promptly(p, data) {
		want.Annotations[v1alpha1.PromptSinceAnnotation] = delivery.Moment(p.Now)
	}
	want.OwnerReferences = owned(want.OwnerReferences, p.Client)
	return want
}

// promptly reports whether pods must see what is about to be written to the Secret
// at once: anything but that tokens which last are replaced in time.
func (r *Reconciler) promptly(p *Pass, data map[string][]byte) bool {
	if !r.Prompt || p.secret.current == nil && p.Client.Status.ExpiresAt == nil {
		return false // no pod can have mounted it yet
	}
	issued := false
	for _, a := range p.Accesses {
		before, had := p.secret.records.Tokens[a.Key]
		switch {
		case a.withdraw && had:
			return true
		case a.issued == "":
			continue
		case a.issued != refresh.Due || had && before.ExpiresAt.Sub(p.Now) < delivery.KubeletDelay:
			return true
		}
		issued = true
	}
	// Other keys change with the tokens, and with the spec.
	return !issued && p.secret.current != nil && !maps.EqualFunc(p.secret.current.Data, data, bytes.Equal)
}

// ownAnnotations are the annotations of every Secret with a client's tokens.
func ownAnnotations(c *v1alpha1.M2MClient, records []byte) map[string]string {
	return map[string]string{
		v1alpha1.TokensAnnotation: string(records), v1alpha1.OwnerAnnotation: client.ObjectKeyFromObject(c).String(),
	}
}

// owned returns the owners of a Secret with a client as its controller, and not
// one that is gone.
func owned(refs []metav1.OwnerReference, c *v1alpha1.M2MClient) []metav1.OwnerReference {
	controls := func(o metav1.OwnerReference) bool { return ptr.Deref(o.Controller, false) }
	if slices.ContainsFunc(refs, func(o metav1.OwnerReference) bool { return o.UID == c.UID && controls(o) }) {
		return refs
	}
	return append(slices.DeleteFunc(slices.Clone(refs), controls), *metav1.NewControllerRef(c, v1alpha1.GroupVersion.WithKind("M2MClient")))
}

// removeFormerSecret deletes the Secret that the client had under another name.
func (r *Reconciler) removeFormerSecret(ctx context.Context, p *Pass) error {
	former := string(p.Client.Status.SecretName)
	if former == "" || former == p.secret.name {
		return nil
	}
	var s corev1.Secret
	err := r.Client.Get(ctx, types.NamespacedName{Namespace: p.Client.Namespace, Name: former}, &s)
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	if mine, err := r.belongs(ctx, &s, p.Client); err != nil || !mine {
		return err
	}
	if err := r.Client.Delete(ctx, &s, write.Preconditions(&s)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete Secret %q: %w", former, err)
	}
	return nil
}
