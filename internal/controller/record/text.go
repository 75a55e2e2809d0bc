// SPDX-License-Identifier: Apache-2.0

package record

import (
	"cmp"
)

func Truncate(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return cmp.Or(s, "unknown")
}
