// SPDX-License-Identifier: Apache-2.0

package kube

import "regexp"

// JWT matches the beginning of a JWT in foreign text: a header and some of what follows its
// dot. A random key ID may well begin with eyJ, but no dot and no text follow it.
var JWT = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]`)
