// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// slimClient prepares an M2MClient for the cache: ten thousand of them say the same
// in most of their strings.
func slimClient(in any) (any, error) {
	c, ok := in.(*v1alpha1.M2MClient)
	if !ok {
		return in, nil // a tombstone
	}
	c.ManagedFields = nil
	share(&c.Namespace)
	share(&c.Spec.AuthorizationServerRef.Kind)
	share(&c.Spec.AuthorizationServerRef.Name)
	share(&c.Spec.DeletionPolicy)
	share(&c.Spec.Credentials.ClientSecret.Method)
	for i := range c.Spec.Access {
		a := &c.Spec.Access[i]
		share(&a.APIResourceRef.Name)
		share(&a.APIResourceRef.Namespace)
		share(&a.Key)
		shareAll(a.Scopes)
	}
	for i := range c.Status.Conditions {
		s := &c.Status.Conditions[i]
		share(&s.Type)
		share(&s.Status)
		share(&s.Reason)
		share(&s.Message)
	}
	for i := range c.Status.Tokens {
		t := &c.Status.Tokens[i]
		share(&t.Key)
		share(&t.KeyID)
		shareAll(t.Scopes)
	}
	return c, nil
}

// slimSecret prepares one of the operator's Secrets for the cache.
func slimSecret(in any) (any, error) {
	s, ok := in.(*corev1.Secret)
	if !ok {
		return in, nil // a tombstone
	}
	s.ManagedFields = nil
	share(&s.Namespace)
	share(&s.Type)
	if len(s.Labels) == 1 && s.Labels[v1alpha1.ManagedByLabel] == v1alpha1.ManagedByValue {
		s.Labels = onlyManaged
	}
	for i := range s.OwnerReferences {
		o := &s.OwnerReferences[i]
		share(&o.APIVersion)
		share(&o.Kind)
		o.Controller, o.BlockOwnerDeletion = shareBool(o.Controller), shareBool(o.BlockOwnerDeletion)
	}
	return s, nil
}

// onlyManaged are the labels of most of the operator's Secrets. What is in a cache
// is never changed.
var onlyManaged = map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}

var (
	isSo  = true
	isNot = false
)

func shareBool(b *bool) *bool {
	switch {
	case b == nil:
		return nil
	case *b:
		return &isSo
	}
	return &isNot
}

// sharedMax bounds the strings that are kept to be shared, and sharedLength their
// length in bytes.
const (
	sharedMax    = 8192
	sharedLength = 256
)

var shared = struct {
	sync.Mutex
	strings map[string]string
}{strings: map[string]string{}}

// share replaces a string by an equal one that others have, too.
func share[S ~string](s *S) {
	if *s == "" || len(*s) > sharedLength {
		return
	}
	shared.Lock()
	defer shared.Unlock()
	if same, ok := shared.strings[string(*s)]; ok {
		*s = S(same)
		return
	}
	if len(shared.strings) >= sharedMax {
		clear(shared.strings) // what is in use comes back
	}
	shared.strings[string(*s)] = string(*s)
}

func shareAll[S ~string](all []S) {
	for i := range all {
		share(&all[i])
	}
}
