// SPDX-License-Identifier: Apache-2.0

package tokensecret

import (
	"bytes"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/credentials"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// Desired is what a client's Secret should hold.
type Desired struct {
	Client     *v1alpha1.M2MClient
	Credential credentials.Record // with which tokens were issued in this pass
	Entries    []Entry
	Now        time.Time
}

// Entry is what the Secret should hold for one access.
type Entry struct {
	Key       string
	Token     string // empty: none
	Record    *Record
	Withdrawn bool           // somebody decided that it must go
	Issued    refresh.Reason // why it was replaced in this pass; empty: it was not
}

// wanted returns the Secret as it should be: what is there, changed where
// the operator has a say.
func (s *Store) wanted(f *Found, d *Desired) (*corev1.Secret, *rules.Problem) {
	want := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: d.Client.Namespace, Name: f.Name}, Type: corev1.SecretTypeOpaque}
	if f.Current != nil {
		want = f.Current.DeepCopy()
	}
	spec := d.Client.Spec.Secret
	problem := write.InvalidMetadata(field.NewPath("spec", "secret"), spec.Labels, spec.Annotations)
	if problem != nil {
		spec.Labels, spec.Annotations = nil, nil // with them the API server would refuse the tokens, too
	}
	records := Records{
		Client: d.Client.UID, Credential: f.Records.Credential, Tokens: map[string]Record{},
		Labels: slices.Sorted(maps.Keys(spec.Labels)), Annotations: slices.Sorted(maps.Keys(spec.Annotations)),
	}
	tokens := map[string]string{}
	keys := make([]string, 0, len(d.Entries))
	for _, e := range d.Entries {
		keys = append(keys, e.Key)
		if e.Issued != "" {
			records.Credential = d.Credential
		}
		if e.Token != "" {
			tokens[e.Key], records.Tokens[e.Key] = e.Token, *e.Record
		}
	}
	data, _, err := render.TokenSecret(tokens, spec.Template, keys)
	if err != nil {
		problem = &rules.Problem{Reason: v1alpha1.ReasonInvalidTemplate, Message: "spec.secret.template: " + err.Error()}
		// The tokens need not wait for the template.
		data, _, _ = render.TokenSecret(tokens, nil, keys)
	}
	want.Data, want.Immutable = data, nil
	want.Labels = write.Merged(want.Labels, f.Records.Labels, spec.Labels,
		map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
	want.Annotations = write.Merged(want.Annotations, f.Records.Annotations, spec.Annotations, ownAnnotations(d.Client, records))
	if s.promptly(f, d, data) {
		want.Annotations[v1alpha1.PromptSinceAnnotation] = delivery.Moment(d.Now)
	}
	want.OwnerReferences = owned(want.OwnerReferences, d.Client)
	return want, problem
}

// promptly reports whether pods must see what is about to be written to the Secret
// at once: anything but that tokens which last are replaced in time.
func (s *Store) promptly(f *Found, d *Desired, data map[string][]byte) bool {
	if !s.Prompt || f.Current == nil && d.Client.Status.ExpiresAt == nil {
		return false // no pod can have mounted it yet
	}
	issued := false
	for _, e := range d.Entries {
		before, had := f.Records.Tokens[e.Key]
		switch {
		case e.Withdrawn && had:
			return true
		case e.Issued == "":
			continue
		case e.Issued != refresh.Due || had && before.ExpiresAt.Sub(d.Now) < delivery.KubeletDelay:
			return true
		}
		issued = true
	}
	// Other keys change with the tokens, and with the spec.
	return !issued && f.Current != nil && !maps.EqualFunc(f.Current.Data, data, bytes.Equal)
}

// ownAnnotations are the annotations of every Secret with a client's tokens.
func ownAnnotations(c *v1alpha1.M2MClient, records Records) map[string]string {
	return map[string]string{
		v1alpha1.TokensAnnotation: records.encoded(), v1alpha1.OwnerAnnotation: client.ObjectKeyFromObject(c).String(),
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

// remainder returns the present Secret without what the wanted one lacks, nil if
// it lacks nothing. What is rendered from tokens stays only where it would not
// change: it may show one that must go.
func remainder(f *Found, d *Desired, want *corev1.Secret) *corev1.Secret {
	current := f.Current
	lost := slices.ContainsFunc(slices.Collect(maps.Keys(current.Data)), func(key string) bool { return want.Data[key] == nil })
	if !lost {
		return nil
	}
	less := current.DeepCopy()
	maps.DeleteFunc(less.Data, func(key string, value []byte) bool {
		isToken := slices.ContainsFunc(d.Entries, func(e Entry) bool { return e.Key == key })
		return want.Data[key] == nil || !isToken && !bytes.Equal(want.Data[key], value)
	})
	records := f.Records
	records.Tokens = maps.Clone(records.Tokens)
	maps.DeleteFunc(records.Tokens, func(key string, _ Record) bool { return less.Data[key] == nil })
	if less.Annotations == nil {
		less.Annotations = map[string]string{}
	}
	less.Annotations[v1alpha1.TokensAnnotation] = records.encoded()
	less.OwnerReferences = owned(less.OwnerReferences, d.Client)
	return less
}
