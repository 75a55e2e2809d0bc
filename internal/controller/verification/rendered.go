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

// Request is one verification bundle: an APIResource's, in a namespace.
type Request struct {
	Namespace string
	API       types.NamespacedName
}

// renderedMax bounds the bytes of rendered bundles that are kept.
const renderedMax = 16 << 20

// Rendered keeps what was last rendered of each APIResource: the bundle is
// the same in every namespace, and a new key reaches a thousand of them at once.
// Rendering one holds up nobody who wants another.
type Rendered struct {
	mu   sync.Mutex
	last map[types.NamespacedName]*renderedBundle
	size int // of what is in last
}

type renderedBundle struct {
	size int // as it counts in Rendered, which guards it

	mu    sync.Mutex    // held while it is rendered: others that want the same wait
	from  cached.Digest // what it was rendered from
	files map[string]string
	err   error
}

// NewRendered returns an empty cache of rendered bundles.
func NewRendered() *Rendered {
	return &Rendered{last: map[types.NamespacedName]*renderedBundle{}}
}

// Files is render.Verification for an APIResource.
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
	return maps.Clone(last.files), last.err // what the API server answers may be written into it
}

// of returns what is kept of an APIResource.
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

// count counts what was just rendered, and forgets others until the rest fits.
func (r *Rendered) count(api types.NamespacedName, last *renderedBundle) {
	size := 512 // where nothing could be rendered, too
	for name, content := range last.files {
		size += len(name) + len(content)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last[api] != last {
		return // it was forgotten meanwhile
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

// Forget drops what was rendered of an APIResource that is gone.
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
