// SPDX-License-Identifier: Apache-2.0

package oauth

// NotVSCHAR reports whether RFC 6749 allows a character neither in a client identifier
// nor in a client secret (appendix A, VSCHAR).
func NotVSCHAR(c rune) bool { return c < ' ' || c > '~' }
