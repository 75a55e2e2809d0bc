// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// HeldToken is a token that was issued and is not in the Secret yet: its key is
// not known or the API's pods may not have it, or the Secret could not be
// written.
type HeldToken struct {
	Value  string
	Record TokenRecord
}

// perAccess keeps something for each access, by client and key, as long as the
// process lives. Most clients have one or two accesses: a list of them is a tenth
// of a map.
type perAccess[T any] struct {
	mu sync.Mutex
	M  map[types.NamespacedName][]keptFor[T]
}

type keptFor[T any] struct {
	Key   string
	value T
}

func NewPerAccess[T any]() *perAccess[T] {
	return &perAccess[T]{M: map[types.NamespacedName][]keptFor[T]{}}
}

// at returns where what is kept for a key is, -1 for nowhere.
func (h *perAccess[T]) at(name types.NamespacedName, key string) int {
	return slices.IndexFunc(h.M[name], func(k keptFor[T]) bool { return k.Key == key })
}

func (h *perAccess[T]) Get(name types.NamespacedName, key string) (value T, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := h.at(name, key)
	if i < 0 {
		return value, false
	}
	return h.M[name][i].value, true
}

func (h *perAccess[T]) Put(name types.NamespacedName, key string, value T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := h.at(name, key); i >= 0 {
		h.M[name][i].value = value
		return
	}
	h.M[name] = append(h.M[name], keptFor[T]{key, value})
}

func (h *perAccess[T]) drop(name types.NamespacedName, key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := h.at(name, key)
	if i < 0 {
		return
	}
	h.M[name] = slices.Delete(h.M[name], i, i+1)
	if len(h.M[name]) == 0 {
		delete(h.M, name)
	}
}

// retain forgets the accesses of a client that it does not have any more: their keys
// are its owner's to choose, over and over.
func (h *perAccess[T]) retain(name types.NamespacedName, has func(key string) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if slices.IndexFunc(h.M[name], func(k keptFor[T]) bool { return !has(k.Key) }) < 0 {
		return
	}
	h.M[name] = slices.DeleteFunc(h.M[name], func(k keptFor[T]) bool { return !has(k.Key) })
	if len(h.M[name]) == 0 {
		delete(h.M, name)
	}
}

func (h *perAccess[T]) forgetClient(name types.NamespacedName) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.M, name)
}
