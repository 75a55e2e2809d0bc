// SPDX-License-Identifier: Apache-2.0

package cached

import (
	"crypto/sha256"
)

// Digest stands for a value of which the operator remembers ten thousand.
type Digest [16]byte

// DigestOf returns the digest of an encoded value.
func DigestOf(encoded []byte) Digest {
	sum := sha256.Sum256(encoded)
	return Digest(sum[:16])
}
