// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"bytes"
	"context"
	"crypto/sha256"
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
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// tokenSecret is a client's Secret as it is found.
type tokenSecret struct {
	name    string
	owned   bool           // it exists and is the client's
	current *corev1.Secret // nil if it does not exist
	records secretRecords
	tokens  map[string]string // what lies under the keys of accesses
}

// secretRecords is the annotation that is kept with the tokens. It is written
// with them in one go, so that it survives whatever happens next.
type secretRecords struct {
	// Client is the UID of the client that the Secret was written for. With
	// another one it was written for an earlier object of the client's name.
	Client     types.UID              `json:"client,omitempty"`
	Credential credentialRecord       `json:"credential,omitzero"`
	Tokens     map[string]tokenRecord `json:"tokens,omitempty"`

	// Labels and Annotations are the keys that the spec had set, so that they
	// can be taken away again.
	Labels      []string `json:"labels,omitempty"`
	Annotations []string `json:"annotations,omitempty"`
}

// tokenRecord is what is known about a token.
type tokenRecord struct {
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

func (t *tokenRecord) asToken() *refresh.Token {
	return &refresh.Token{InputsHash: t.Inputs, IssuedAt: t.IssuedAt, ExpiresAt: t.ExpiresAt, ValueHash: t.Value}
}

// digest tells records apart.
func (t *tokenRecord) digest() digest {
	encoded, err := json.Marshal(t)
	if err != nil {
		panic(err) // strings and times only
	}
	return digestOf(encoded)
}

// digest stands for something of which ten thousand are remembered.
type digest [16]byte

func digestOf(encoded []byte) digest {
	sum := sha256.Sum256(encoded)
	return digest(sum[:16])
}

// readSecret finds the client's Secret. Another's Secret of that name is a
// problem, and nothing is asked for that could not be stored.
func (r *M2MClientReconciler) readSecret(ctx context.Context, p *pass) error {
	p.secret = &tokenSecret{name: p.client.SecretName()}
	known := p.client.Status.ExpiresAt != nil && string(p.client.Status.SecretName) == p.secret.name
	found, err := r.findSecret(ctx, types.NamespacedName{Namespace: p.client.Namespace, Name: p.secret.name}, known)
	if err != nil || found == nil {
		return err
	}
	// What cannot be parsed was edited: then nothing is known of the tokens.
	var records secretRecords
	if json.Unmarshal([]byte(found.Annotations[v1alpha1.TokensAnnotation]), &records) != nil {
		records = secretRecords{}
	}
	mine, err := r.belongs(ctx, found, p.client)
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
	if records.Client != p.client.UID {
		records.doubtOpaque()
	}
	p.secret.owned, p.secret.current, p.secret.records = true, found, records
	p.secret.tokens = map[string]string{}
	for _, a := range p.accesses {
		if v, ok := found.Data[a.key]; ok {
			p.secret.tokens[a.key] = string(v)
		}
	}
	return nil
}

// findSecret returns a Secret, nil if there is none. The cache holds only what
// carries the operator's label; what has another's, or lost it, is read live. So
// is one that is known to have been there: as its label changes, there may be a
// moment when no cache has it.
func (r *M2MClientReconciler) findSecret(ctx context.Context, name types.NamespacedName, known bool) (*corev1.Secret, error) {
	var s corev1.Secret
	err := r.client.Get(ctx, name, &s)
	if err == nil {
		return &s, nil
	}
	if !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("get Secret %q: %w", name, err)
	}
	version, err := r.foreign.version(ctx, "Secret", name)
	if err != nil || version == "" && !known {
		return nil, err
	}
	if err := r.live.Get(ctx, name, &s); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return &s, nil
}

// secretIsCurrent reports whether the Secret that was read is the API server's
// latest.
func (r *M2MClientReconciler) secretIsCurrent(ctx context.Context, p *pass) (bool, error) {
	var latest corev1.Secret
	err := r.live.Get(ctx, types.NamespacedName{Namespace: p.client.Namespace, Name: p.secret.name}, &latest)
	if apierrors.IsNotFound(err) {
		return p.secret.current == nil, nil
	}
	if err != nil {
		return false, fmt.Errorf("read Secret %q: %w", p.secret.name, err)
	}
	return p.secret.current != nil && p.secret.current.ResourceVersion == latest.ResourceVersion, nil
}

// writeSecret brings the Secret to what the accesses ask for, in one write.
func (r *M2MClientReconciler) writeSecret(ctx context.Context, p *pass) error {
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
	name := client.ObjectKeyFromObject(p.client)
	changed := !equality.Semantic.DeepEqual(p.secret.current, want)
	if changed {
		// Noted first: the event may be here before the API server's answer.
		r.wrote.put(name, wholeSecret, contentOf(want))
	}
	switch {
	case !changed:
	case p.secret.current == nil:
		err := r.client.Create(ctx, want)
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		if refused(err) {
			r.unpublish(p, want, err)
			return nil
		}
		if err != nil {
			// The token is held: the next pass publishes it, or finds out whose
			// Secret this is.
			return fmt.Errorf("create Secret %q: %w", want.Name, err)
		}
	case ptr.Deref(p.secret.current.Immutable, false):
		if err := r.client.Delete(ctx, p.secret.current, preconditions(p.secret.current)); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete the immutable Secret %q: %w", want.Name, err)
		}
		want.UID, want.ResourceVersion = "", ""
		if err := r.client.Create(ctx, want); err != nil {
			return fmt.Errorf("replace the immutable Secret %q: %w", want.Name, err)
		}
	default:
		err := r.client.Update(ctx, want)
		if refused(err) {
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
	for _, a := range p.accesses {
		if a.issued != "" {
			r.held.drop(name, a.key)
			r.written.put(name, a.key, a.record.digest())
			log.FromContext(ctx).Info("Issued access token", "access", a.key, "reason", a.issued, "expiresAt", a.record.ExpiresAt)
		}
	}
	return r.removeFormerSecret(ctx, p)
}

// stillAllowed reports whether every access that gets a token by this pass may
// still have it. What was issued stays held for the next pass.
func (r *M2MClientReconciler) stillAllowed(ctx context.Context, p *pass) (bool, error) {
	for _, a := range p.accesses {
		if a.issued == "" {
			continue
		}
		if ok, err := r.stillHas(ctx, p, a); !ok {
			return false, err
		}
	}
	return true, nil
}

// wholeSecret stands for all accesses of a client.
const wholeSecret = ""

// contentOf tells apart what Secrets hold, and whose they are.
func contentOf(s *corev1.Secret) digest {
	encoded, err := json.Marshal([]any{s.Data, s.Labels, s.Annotations, s.OwnerReferences, s.Type, s.Immutable})
	if err != nil {
		panic(err) // strings, bytes and flags only
	}
	return digestOf(encoded)
}

// changedByOthers lets every event of a token Secret pass but the one that says
// what this process wrote last: there is nothing to do for it.
func (r *M2MClientReconciler) changedByOthers() predicate.Predicate {
	anothers := func(o client.Object) bool {
		owner, s := metav1.GetControllerOf(o), o.(*corev1.Secret)
		if owner == nil {
			return true
		}
		wrote, ok := r.wrote.get(types.NamespacedName{Namespace: s.Namespace, Name: owner.Name}, wholeSecret)
		return !ok || wrote != contentOf(s)
	}
	return predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool { return anothers(e.Object) },
		UpdateFunc: func(e event.UpdateEvent) bool { return anothers(e.ObjectNew) },
	}
}

// refusalWait is how long a refused Secret is not offered again.
const refusalWait = time.Minute

// refused reports whether the API server will go on refusing a write: a quota, an
// admission policy, its validation or the operator's role forbid it. An admission
// webhook that gives no code is answered for with 400.
func refused(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) ||
		apierrors.IsRequestEntityTooLargeError(err)
}

// unpublish goes back to what lies in the Secret, for the API server does not
// take another one. What was issued stays held.
func (r *M2MClientReconciler) unpublish(p *pass, want *corev1.Secret, err error) {
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
	message := redacted(err.Error(), seen)
	p.refusal = &rules.Problem{Reason: v1alpha1.ReasonSecretRefused, Message: truncate(
		fmt.Sprintf("The API server refuses Secret %q: %s", want.Name, message), 1024)}
	p.events = nil
	for _, a := range p.accesses {
		if a.issued != "" {
			a.issued, a.token, a.record, a.unusable = "", "", nil, nil
			p.judge(a, r.present(p, a))
			r.noteTerms(p, a)
		}
	}
}

// withdrawAnyway takes out of the Secret what must not be there any more,
// although the API server refuses the Secret as it should be: by an update that
// only removes, or else with the whole Secret. What else the Secret held is
// offered anew then.
func (r *M2MClientReconciler) withdrawAnyway(ctx context.Context, p *pass, want *corev1.Secret) error {
	less := remainder(p, want)
	if less == nil {
		return nil
	}
	if r.prompt {
		less.Annotations[v1alpha1.PromptSinceAnnotation] = delivery.Moment(p.now)
	}
	err := r.client.Update(ctx, less)
	if refused(err) {
		err = client.IgnoreNotFound(r.client.Delete(ctx, p.secret.current, preconditions(p.secret.current)))
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
func remainder(p *pass, want *corev1.Secret) *corev1.Secret {
	current := p.secret.current
	lost := slices.ContainsFunc(slices.Collect(maps.Keys(current.Data)), func(key string) bool { return want.Data[key] == nil })
	if !lost {
		return nil
	}
	less := current.DeepCopy()
	maps.DeleteFunc(less.Data, func(key string, value []byte) bool {
		isToken := slices.ContainsFunc(p.accesses, func(a *access) bool { return a.key == key })
		return want.Data[key] == nil || !isToken && !bytes.Equal(want.Data[key], value)
	})
	records := p.secret.records
	records.Tokens = maps.Clone(records.Tokens)
	maps.DeleteFunc(records.Tokens, func(key string, _ tokenRecord) bool { return less.Data[key] == nil })
	encoded, err := json.Marshal(records)
	if err != nil {
		panic(err) // strings and times only
	}
	if less.Annotations == nil {
		less.Annotations = map[string]string{}
	}
	less.Annotations[v1alpha1.TokensAnnotation] = string(encoded)
	less.OwnerReferences = owned(less.OwnerReferences, p.client)
	return less
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

// wantedSecret returns the Secret as it should be: what is there, changed where
// the operator has a say.
func (r *M2MClientReconciler) wantedSecret(p *pass) *corev1.Secret {
	want := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: p.client.Namespace, Name: p.secret.name}, Type: corev1.SecretTypeOpaque}
	if p.secret.current != nil {
		want = p.secret.current.DeepCopy()
	}
	spec := p.client.Spec.Secret
	if p.templateProblem = invalidMetadata(field.NewPath("spec", "secret"), spec.Labels, spec.Annotations); p.templateProblem != nil {
		spec.Labels, spec.Annotations = nil, nil // with them the API server would refuse the tokens, too
	}
	records := secretRecords{
		Client: p.client.UID, Credential: p.secret.records.Credential, Tokens: map[string]tokenRecord{},
		Labels: slices.Sorted(maps.Keys(spec.Labels)), Annotations: slices.Sorted(maps.Keys(spec.Annotations)),
	}
	tokens := map[string]string{}
	keys := make([]string, 0, len(p.accesses))
	for _, a := range p.accesses {
		keys = append(keys, a.key)
		if a.issued != "" {
			records.Credential = p.credentials.credentialRecord
		}
		if a.token != "" && !a.withdraw {
			tokens[a.key], records.Tokens[a.key] = a.token, *a.record
		}
	}
	data, _, err := render.TokenSecret(tokens, spec.Template, keys)
	if err != nil {
		p.templateProblem = &rules.Problem{Reason: v1alpha1.ReasonInvalidTemplate, Message: "spec.secret.template: " + err.Error()}
		// The tokens need not wait for the template.
		data, _, _ = render.TokenSecret(tokens, nil, keys)
	}
	want.Data, want.Immutable = data, nil
	want.Labels = merged(want.Labels, p.secret.records.Labels, spec.Labels,
		map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
	encoded, err := json.Marshal(records)
	if err != nil {
		panic(err) // strings and times only
	}
	want.Annotations = merged(want.Annotations, p.secret.records.Annotations, spec.Annotations, ownAnnotations(p.client, encoded))
	if r.promptly(p, data) {
		want.Annotations[v1alpha1.PromptSinceAnnotation] = delivery.Moment(p.now)
	}
	want.OwnerReferences = owned(want.OwnerReferences, p.client)
	return want
}

// promptly reports whether pods must see what is about to be written to the Secret
// at once: anything but that tokens which last are replaced in time.
func (r *M2MClientReconciler) promptly(p *pass, data map[string][]byte) bool {
	if !r.prompt || p.secret.current == nil && p.client.Status.ExpiresAt == nil {
		return false // no pod can have mounted it yet
	}
	issued := false
	for _, a := range p.accesses {
		before, had := p.secret.records.Tokens[a.key]
		switch {
		case a.withdraw && had:
			return true
		case a.issued == "":
			continue
		case a.issued != refresh.Due || had && before.ExpiresAt.Sub(p.now) < delivery.KubeletDelay:
			return true
		}
		issued = true
	}
	// Other keys change with the tokens, and with the spec.
	return !issued && p.secret.current != nil && !maps.EqualFunc(p.secret.current.Data, data, bytes.Equal)
}

// invalidMetadata reports which label or annotation of a spec an object cannot
// have. The schema cannot: its rules may not read so much.
func invalidMetadata(path *field.Path, labels, annotations map[string]string) *rules.Problem {
	errs := slices.Concat(
		metav1validation.ValidateLabels(labels, path.Child("labels")),
		apivalidation.ValidateAnnotations(annotations, path.Child("annotations")))
	if len(errs) == 0 {
		return nil
	}
	messages := make([]string, len(errs))
	for i, err := range errs {
		messages[i] = err.Error()
	}
	// They come in the order of a map: the same one is told in each pass.
	return &rules.Problem{Reason: v1alpha1.ReasonInvalidTemplate, Message: truncate(slices.Min(messages), 1024)}
}

// merged returns what is there without what was set formerly and with what is
// set now.
func merged(there map[string]string, formerly []string, now ...map[string]string) map[string]string {
	m := map[string]string{}
	maps.Copy(m, there)
	for _, k := range formerly {
		delete(m, k)
	}
	for _, set := range now {
		maps.Copy(m, set)
	}
	return m
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
func (r *M2MClientReconciler) removeFormerSecret(ctx context.Context, p *pass) error {
	former := string(p.client.Status.SecretName)
	if former == "" || former == p.secret.name {
		return nil
	}
	var s corev1.Secret
	err := r.client.Get(ctx, types.NamespacedName{Namespace: p.client.Namespace, Name: former}, &s)
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	if mine, err := r.belongs(ctx, &s, p.client); err != nil || !mine {
		return err
	}
	if err := r.client.Delete(ctx, &s, preconditions(&s)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete Secret %q: %w", former, err)
	}
	return nil
}
