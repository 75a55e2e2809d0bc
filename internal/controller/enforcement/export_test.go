// SPDX-License-Identifier: Apache-2.0

package enforcement

import "github.com/m2m-operator/m2m-operator/internal/pace"

// WriteOnly lets the operator write each object so many times at once, and not the 64 times
// of writeRate: a test that uses them up costs less.
func (r *Reconciler) WriteOnly(times int) {
	r.writes = pace.New[objectKey](pace.Rate{Every: writeRate.Every, Burst: times})
}
