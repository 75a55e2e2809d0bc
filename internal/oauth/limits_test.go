// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
)

// TestErrorOf makes of any error what a failed token request means.
func TestErrorOf(t *testing.T) {
	refused := &Error{Class: ClassSlowRetry}
	if e := ErrorOf(nil); e != nil {
		t.Errorf("no error is %+v", e)
	}
	if e := ErrorOf(fmt.Errorf("wrapped: %w", refused)); e != refused {
		t.Errorf("a wrapped refusal is %+v", e)
	}
	if e := ErrorOf(errors.New("eyJ")); e == nil || e.Class != ClassRetryable || strings.Contains(e.Error(), "eyJ") {
		t.Errorf("another error is %+v", e)
	}
}

// TestNotVSCHAR checks the characters at the borders of VSCHAR, %x20-7E.
func TestNotVSCHAR(t *testing.T) {
	for c, want := range map[rune]bool{0x1f: true, 0x20: false, 'a': false, 0x7e: false, 0x7f: true, 'ä': true} {
		if got := NotVSCHAR(c); got != want {
			t.Errorf("%q: %t, want %t", c, got, want)
		}
	}
}

// TestPartsOfAnAssertion checks that a part of 16 characters is looked for, and one of 15 is not.
func TestPartsOfAnAssertion(t *testing.T) {
	long, short := strings.Repeat("l", 16), strings.Repeat("s", 15)
	if all := spellings(long + "." + short); !slices.Contains(all, long) || slices.Contains(all, short) {
		t.Errorf("of an assertion with parts of 16 and 15 characters, these are looked for: %q", all)
	}
}

// TestLimitsOfKeys checks keys of exactly the greatest and the least size, and keys beyond.
func TestLimitsOfKeys(t *testing.T) {
	for bits, want := range map[uint]bool{minRSABits - 1: false, minRSABits: true, maxRSABits: true, maxRSABits + 1: false} {
		key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), bits-1)}}
		if _, err := algorithmsOf(key); (err == nil) != want {
			t.Errorf("an RSA key of %d bits: %v", bits, err)
		}
	}
	for size, want := range map[int]string{maxKeyBytes: "neither PEM nor a JWK", maxKeyBytes + 1: "larger than"} {
		if _, err := ParseSigningKey(bytes.Repeat([]byte("?"), size), "", ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d bytes: %v, want %q", size, err, want)
		}
	}
}
