// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

// spread returns a duration from least to most that depends on the client only,
// so that clients which wait for the same moment do not come at once.
func spread(who types.UID, least, most time.Duration) time.Duration {
	return least + refresh.Spread(string(who), most-least)
}
