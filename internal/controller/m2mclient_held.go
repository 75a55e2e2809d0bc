// SPDX-License-Identifier: Apache-2.0

package controller

import (
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
// process lives.
type perAccess[T any] struct {
	mu sync.Mutex
	m  map[types.NamespacedName]map[string]T
}

func newPerAccess[T any]() *perAccess[T] {
	return &perAccess[T]{m: map[types.NamespacedName]map[string]T{}}
}

func (h *perAccess[T]) get(name types.NamespacedName, key string) (T, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, ok := h.m[name][key]
	return t, ok
}

func (h *perAccess[T]) put(name types.NamespacedName, key string, t T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.m[name] == nil {
		h.m[name] = map[string]T{}
	}
	h.m[name][key] = t
}

func (h *perAccess[T]) drop(name types.NamespacedName, key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.m[name], key)
	if len(h.m[name]) == 0 {
		delete(h.m, name)
	}
}

func (h *perAccess[T]) forgetClient(name types.NamespacedName) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.m, name)
}
