// SPDX-License-Identifier: Apache-2.0

// Package memory keeps what the token reconciler remembers as long as the process lives.
// Nothing depends on it: what is lost with the process is found out anew.
package memory

import (
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// PerAccess keeps something for each access, by client and key, as long as the
// process lives. Most clients have one or two accesses: a list of them is a tenth
// of a map.
type PerAccess[T any] struct {
	mu   sync.Mutex
	kept map[types.NamespacedName][]keptFor[T]
}

type keptFor[T any] struct {
	key   string
	value T
}

// New returns a memory of nothing.
func New[T any]() *PerAccess[T] {
	return &PerAccess[T]{kept: map[types.NamespacedName][]keptFor[T]{}}
}

// at returns where what is kept for a key is, -1 for nowhere.
func (h *PerAccess[T]) at(name types.NamespacedName, key string) int {
	return slices.IndexFunc(h.kept[name], func(k keptFor[T]) bool { return k.key == key })
}

// Get returns what is kept for a key.
func (h *PerAccess[T]) Get(name types.NamespacedName, key string) (value T, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := h.at(name, key)
	if i < 0 {
		return value, false
	}
	return h.kept[name][i].value, true
}

// Put keeps a value for a key.
func (h *PerAccess[T]) Put(name types.NamespacedName, key string, value T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := h.at(name, key); i >= 0 {
		h.kept[name][i].value = value
		return
	}
	h.kept[name] = append(h.kept[name], keptFor[T]{key, value})
}

// Drop forgets what is kept for a key.
func (h *PerAccess[T]) Drop(name types.NamespacedName, key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := h.at(name, key)
	if i < 0 {
		return
	}
	h.kept[name] = slices.Delete(h.kept[name], i, i+1)
	if len(h.kept[name]) == 0 {
		delete(h.kept, name)
	}
}

// Retain forgets the accesses of a client that it does not have any more: their keys
// are its owner's to choose, over and over.
func (h *PerAccess[T]) Retain(name types.NamespacedName, has func(key string) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if slices.IndexFunc(h.kept[name], func(k keptFor[T]) bool { return !has(k.key) }) < 0 {
		return
	}
	h.kept[name] = slices.DeleteFunc(h.kept[name], func(k keptFor[T]) bool { return !has(k.key) })
	if len(h.kept[name]) == 0 {
		delete(h.kept, name)
	}
}

// Forget forgets all accesses of a client.
func (h *PerAccess[T]) Forget(name types.NamespacedName) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.kept, name)
}
