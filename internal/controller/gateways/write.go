// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
)

// fieldOwner is the field manager of the operator's writes.
const fieldOwner = "m2m-operator"

// ErrNotOurs means that an object of the name is not the APIResource's.
var ErrNotOurs = errors.New("the object exists and is not the APIResource's")

// ErrGone means that the kind is not there any more.
var ErrGone = errors.New("the API server does not know the kind")

// Dress gives an object what marks it as an APIResource's: the label, the owner and the
// contents.
func Dress(o metav1.Object, api *v1alpha1.APIResource, contents string) {
	o.SetLabels(write.Merged(o.GetLabels(), nil, map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}))
	o.SetAnnotations(write.Merged(o.GetAnnotations(), nil, map[string]string{v1alpha1.ContentsAnnotation: contents}))
	owner := metav1.GetControllerOfNoCopy(o)
	if owner != nil && owner.UID == api.UID {
		return
	}
	others := slices.DeleteFunc(slices.Clone(o.GetOwnerReferences()), func(r metav1.OwnerReference) bool { return ptr.Deref(r.Controller, false) })
	// Without blockOwnerDeletion, the operator needs no permission for the finalizers of
	// APIResources.
	o.SetOwnerReferences(append(others, metav1.OwnerReference{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "APIResource", Name: api.Name, UID: api.UID, Controller: ptr.To(true),
	}))
}

// Belongs reports whether an object with the name of an APIResource's is its own: by its
// controller, or, where no living object is that, by what the operator wrote on it. A restored
// backup has objects without owners, or with owners that do not exist any more.
//
// Whoever may write such objects in the APIResource's namespace can have one taken over that
// the operator never wrote. It is changed to what it should be all the same.
func Belongs(o, api metav1.Object) bool {
	return o.GetLabels()[v1alpha1.ManagedByLabel] == v1alpha1.ManagedByValue && seen(o).Belongs(api)
}

// Same reports whether a policy is as wanted.
func (p *Policies) Same(k Kind, is *Object, want *unstructured.Unstructured, contents string) bool {
	f := p.of(k)
	if f == nil || is == nil || !is.Whole || is.Contents != contents {
		return false
	}
	digest := digestOf(want)
	f.state.RLock()
	defer f.state.RUnlock()
	return is.Spec == digest || f.applied[is.Name] == applied{digest, is.Spec}
}

// Write creates a policy or brings it in line. It changes the object that exists: one that
// is made anew would come after all others of its target. An unknown field is an error,
// because a gateway that does not know it would permit more.
func (p *Policies) Write(ctx context.Context, k Kind, api *v1alpha1.APIResource, want *unstructured.Unstructured, contents string) error {
	f, resource := p.of(k), p.api.Resource(k.Resource).Namespace(want.GetNamespace())
	is, err := resource.Get(ctx, want.GetName(), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		o := want.DeepCopy()
		Dress(o, api, contents)
		is, err = resource.Create(ctx, o, metav1.CreateOptions{FieldManager: fieldOwner, FieldValidation: metav1.FieldValidationStrict})
		switch {
		case apierrors.IsAlreadyExists(err):
			return ErrNotOurs // somebody was quicker; the next look tells
		case apierrors.IsNotFound(err):
			f.end(err)
			return ErrGone
		}
	case err != nil:
	case !Belongs(is, api):
		return ErrNotOurs
	default:
		unsteered(is)
		Dress(is, api, contents)
		is.Object["spec"] = want.DeepCopy().Object["spec"]
		is, err = resource.Update(ctx, is, metav1.UpdateOptions{FieldManager: fieldOwner, FieldValidation: metav1.FieldValidationStrict})
	}
	if err != nil {
		return fmt.Errorf("write %s %q: %w", k.Name, want.GetName(), err)
	}
	f.wrote(objectOf(is), applied{digestOf(want), digestOf(is)})
	return nil
}

// Delete removes a policy of an APIResource.
func (p *Policies) Delete(ctx context.Context, k Kind, o *Object) error {
	err := p.api.Resource(k.Resource).Namespace(o.Name.Namespace).Delete(ctx, o.Name.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &o.UID, ResourceVersion: &o.Version},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s %q: %w", k.Name, o.Name.Name, err)
	}
	f := p.of(k)
	f.state.Lock()
	defer f.state.Unlock()
	if is := f.objects[o.Name.Namespace][o.Name.Name]; is != nil && is.UID == o.UID {
		f.deleted[o.Name] = o.UID
	}
	delete(f.whole, o.Name)
	delete(f.applied, o.Name)
	return nil
}

// wrote records a write. It also tells, because the API server may have reported the object
// before it was known what its spec became.
func (f *followed) wrote(o *Object, a applied) {
	defer f.tell(o.Name)
	f.state.Lock()
	defer f.state.Unlock()
	f.applied[o.Name], f.whole[o.Name] = a, o
}
