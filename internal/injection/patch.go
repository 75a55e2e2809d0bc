// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// operation is an operation of a JSON patch (RFC 6902). A patch names only what changes,
// so fields of newer API servers, which we do not know, stay as they are.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// edit changes entries of a list.
type edit struct {
	path     string
	missing  bool // the list does not exist yet
	length   int
	replaced map[int]any
	removed  []int // in ascending order
	added    []any
}

func (e edit) operations() (all []operation) {
	at := func(i int) string { return e.path + "/" + strconv.Itoa(i) }
	for _, i := range slices.Sorted(maps.Keys(e.replaced)) {
		all = append(all, operation{"replace", at(i), e.replaced[i]})
	}
	for _, i := range slices.Backward(e.removed) {
		all = append(all, operation{"remove", at(i), nil})
	}
	if e.missing && len(e.added) > 0 {
		return append(all, operation{"add", e.path, e.added})
	}
	for i, value := range e.added {
		all = append(all, operation{"add", at(e.length - len(e.removed) + i), value})
	}
	return all
}

// annotation returns the path of an annotation.
func annotation(key string) string {
	return "/metadata/annotations/" + strings.ReplaceAll(key, "/", "~1")
}
