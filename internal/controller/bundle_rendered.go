// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"encoding/json"
	"fmt"
	"maps"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/internal/render"
)

// renderedBundles keeps what was last rendered of each APIResource: the bundle is
// the same in every namespace, and a new key reaches a thousand of them at once.
type renderedBundles struct {
	mu   sync.Mutex
	last map[types.NamespacedName]renderedBundle
}

type renderedBundle struct {
	from  string // what it was rendered from
	files map[string]string
	err   error
}

func newRenderedBundles() *renderedBundles {
	return &renderedBundles{last: map[types.NamespacedName]renderedBundle{}}
}

// files is render.Verification for an APIResource.
func (r *renderedBundles) files(api types.NamespacedName, b render.Bundle, extra map[string]string) (map[string]string, error) {
	encoded, err := json.Marshal([]any{b, extra})
	if err != nil {
		return nil, fmt.Errorf("encode a bundle: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock() // others that want the same wait for it
	last, ok := r.last[api]
	if !ok || last.from != string(encoded) {
		last = renderedBundle{from: string(encoded)}
		last.files, last.err = render.Verification(b, extra)
		r.last[api] = last
	}
	return maps.Clone(last.files), last.err // what the API server answers may be written into it
}

// forget drops what was rendered of an APIResource that is gone.
func (r *renderedBundles) forget(api types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.last, api)
}
