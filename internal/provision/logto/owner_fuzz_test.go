// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"testing"

	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// FuzzMarks: whoever may edit an application at the server writes its marks. The driver takes
// for its own what is marked with its owner and nothing else.
func FuzzMarks(f *testing.F) {
	owner := provision.Owner{Cluster: "c", Kind: "M2MClient", Namespace: "shop", Name: "cart", UID: "1"}
	f.Add(owner.Mark(), []byte(`{"m2m-operator":{"cluster":"c","kind":"M2MClient","namespace":"shop","name":"cart","uid":"1"}}`))
	f.Add("m2m-operator:aaaaaaaaaaaaaaaa", []byte(`{"m2m-operator":7}`))
	f.Add("", []byte(`[]`))
	f.Fuzz(func(t *testing.T, description string, data []byte) {
		a := application{Description: description, CustomData: data}
		ids := a.marks()
		for _, id := range ids {
			if len(id) != len(owner.ID()) {
				t.Errorf("marked with %q", id)
			}
		}
		if a.ownedBy(owner) {
			if len(ids) == 0 {
				t.Errorf("owned without a mark: %q, %q", description, data)
			}
			for _, id := range ids {
				if id != owner.ID() {
					t.Errorf("owned with another mark: %q", ids)
				}
			}
		}
	})
}
