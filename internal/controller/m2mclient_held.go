// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// heldToken is a token that was issued and is not in the Secret yet: its key is
// not known or the API's pods may not have it, or the Secret could not be
// written.
type heldToken struct {
	value  string
	record tokenRecord
}

// perAccess keeps something for each access, by client and key, as long as the
// process lives. Most clients have one or two accesses: a list of them is a tenth
// of a map.
type perAccess[T any] struct {
	mu sync.Mutex
	m  map[types.NamespacedName][]keptFor[T]
}

type keptFor[T any] struct {
	key   string
	value T
}

func newPerAccess[T any]() *perAccess[T] {
	return &perAccess[T]{m: map[types.NamespacedName][]keptFor[T]{}}
}

// at returns where what is kept for a key is, -1 for nowhere.
func (h *perAccess[T]) at(name types.NamespacedName, key string) int {
	return slices.IndexFunc(h.m[name], func(k keptFor[T]) bool { return k.key == key })
}

func (h *perAccess[T]) get(name types.NamespacedName, key string) (value T, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := h.at(name, key)
	if i < 0 {
		return value, false
	}
	return h.m[name][i].value, true
}

func (h *perAccess[T]) put(name types.NamespacedName, key string, value T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := h.at(name, key); i >= 0 {
		h.m[name][i].value = value
		return
	}
	h.m[name] = append(h.m[name], keptFor[T]{key, value})
}

func (h *perAccess[T]) drop(name types.NamespacedName, key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := h.at(name, key)
	if i < 0 {
		return
	}
	h.m[name] = slices.Delete(h.m[name], i, i+1)
	if len(h.m[name]) == 0 {
		delete(h.m, name)
	}
}

// retain forgets the accesses of a client that it does not have any more: their keys
// are its owner's to choose, over and over.
func (h *perAccess[T]) retain(name types.NamespacedName, has func(key string) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if slices.IndexFunc(h.m[name], func(k keptFor[T]) bool { return !has(k.key) }) < 0 {
		return
	}
	h.m[name] = slices.DeleteFunc(h.m[name], func(k keptFor[T]) bool { return !has(k.key) })
	if len(h.m[name]) == 0 {
		delete(h.m, name)
	}
}

func (h *perAccess[T]) forgetClient(name types.NamespacedName) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.m, name)
}
