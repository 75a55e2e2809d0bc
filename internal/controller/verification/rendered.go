// SPDX-License-Identifier: Apache-2.0

package verification

import (
	"encoding/json"
	"fmt"
	"maps"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// Request names one verification bundle: that of an APIResource in a namespace.
type Request struct {
	Namespace string
	API       types.NamespacedName
}

// renderedMax bounds the bytes of all kept bundles.
const renderedMax = 16 << 20

// Rendered keeps the last rendered bundle of each APIResource: the bundle is the same in all
// namespaces, and a new key reaches a thousand of them at once. Rendering one bundle does
// not block callers that want another.
type Rendered struct {
	mu   sync.Mutex
	last map[types.NamespacedName]*renderedBundle
	size int // of what is in last
}

type renderedBundle struct {
	size int // as counted in Rendered.size; guarded by Rendered.mu

	mu    sync.Mutex    // held while rendering: callers that want the same bundle wait
	from  cached.Digest // what it was rendered from
	files map[string]string
	err   error
}

// NewRendered returns an empty cache of rendered bundles.
func NewRendered() *Rendered {
	return &Rendered{last: map[types.NamespacedName]*renderedBundle{}}
}

// Files returns what render.Verification returns for an APIResource's bundle, and renders
// only if something has changed.
func (r *Rendered) Files(api types.NamespacedName, b render.Bundle, extra map[string]string) (map[string]string, error) {
	encoded, err := json.Marshal([]any{b, extra})
	if err != nil {
		return nil, fmt.Errorf("encode a bundle: %w", err)
	}
	last := r.of(api)
	last.mu.Lock()
	if from := cached.DigestOf(encoded); last.from != from {
		last.from = from
		last.files, last.err = render.Verification(b, extra)
		r.count(api, last)
	}
	defer last.mu.Unlock()
	return maps.Clone(last.files), last.err // the caller's client may decode an answer into it
}

// of returns the entry of an APIResource, and makes one if there is none.
func (r *Rendered) of(api types.NamespacedName) *renderedBundle {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.last[api]
	if !ok {
		last = &renderedBundle{}
		r.last[api] = last
	}
	return last
}

// count counts the size of a bundle just rendered, and drops others until all fit.
func (r *Rendered) count(api types.NamespacedName, last *renderedBundle) {
	size := 512 // overhead, also of a bundle that could not be rendered
	for name, content := range last.files {
		size += len(name) + len(content)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last[api] != last {
		return // it was dropped meanwhile
	}
	r.size += size - last.size
	last.size = size
	for other := range r.last {
		if r.size <= renderedMax {
			return
		}
		if other != api {
			r.drop(other)
		}
	}
}

// Forget drops the bundle of an APIResource that is gone.
func (r *Rendered) Forget(api types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(api)
}

func (r *Rendered) drop(api types.NamespacedName) {
	if last, ok := r.last[api]; ok {
		r.size -= last.size
		delete(r.last, api)
	}
}
