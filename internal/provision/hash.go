// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Hash identifies values by their JSON in 32 hexadecimal digits. The result is public, so the values must not be
// secret.
func Hash(parts ...any) string {
	b, err := json.Marshal(parts)
	if err != nil {
		panic(err) // only for values that have no JSON
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}
