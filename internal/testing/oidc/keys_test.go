// SPDX-License-Identifier: Apache-2.0

package oidc_test

import (
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

func TestEveryAlgorithmSigns(t *testing.T) {
	for _, alg := range algorithms {
		for _, omitted := range []bool{false, true} {
			s := start(t, oidc.Options{Algorithm: string(alg), OmitKeyAlgorithm: omitted})
			header, _ := mustVerify(t, s, asCart(t, s).token())
			if header.Algorithm != string(alg) {
				t.Errorf("%s: the token says %s", alg, header.Algorithm)
			}
			want := string(alg)
			if omitted {
				want = ""
			}
			if key := keySet(t, s).Keys[0]; key.Algorithm != want || key.Use != "sig" || !key.IsPublic() {
				t.Errorf("%s: published alg %q, use %q, public %v", alg, key.Algorithm, key.Use, key.IsPublic())
			}
		}
	}
}

func TestRotation(t *testing.T) {
	s := start(t, oidc.Options{})
	signer := func() string {
		t.Helper()
		token := asCart(t, s).token()
		header, _, _ := verify(t, s, token)
		if header.KeyID != s.KeyID() {
			t.Errorf("signed by %s, KeyID is %s", header.KeyID, s.KeyID())
		}
		return header.KeyID
	}
	expect := func(does, wantSigner string, want ...string) {
		t.Helper()
		if got := signer(); got != wantSigner {
			t.Errorf("%s: %s signs, want %s", does, got, wantSigner)
		}
		if diff := cmp.Diff(want, kids(t, s)); diff != "" {
			t.Errorf("%s: JWKS (-want +got):\n%s", does, diff)
		}
	}
	must := func(kid string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return kid
	}

	first := signer()
	old := asCart(t, s).token()
	expect("at the start", first, first)
	if err := s.PromoteKey(); err == nil {
		t.Error("a key was promoted that was not announced")
	}
	second := must(s.RotateKey())
	expect("rotated", second, second, first)
	mustVerify(t, s, old)
	third := must(s.RotateKey())
	expect("rotated again", third, third, second)
	if _, _, err := verify(t, s, old); err == nil {
		t.Error("a token of the first key verifies after two rotations")
	}
	withdrawn := must(s.AnnounceKey())
	expect("announced", third, third, withdrawn, second)
	fourth := must(s.AnnounceKey())
	expect("announced another", third, third, fourth, second)
	if err := s.PromoteKey(); err != nil {
		t.Fatal(err)
	}
	expect("promoted", fourth, fourth, third)
	s.RevokeKey(third)
	expect("revoked", fourth, fourth)
	s.RevokeKey(fourth)
	expect("revoked what signs", fourth)
	announced := must(s.AnnounceKey())
	expect("announced into an empty set", fourth, announced)
	s.SetAlgorithm("RS256")
	if err := s.RotateKeyHard(); err != nil {
		t.Fatal(err)
	}
	expect("cut hard", s.KeyID(), s.KeyID())
	if header, _ := mustVerify(t, s, asCart(t, s).token()); header.Algorithm != "RS256" {
		t.Errorf("the new key is for %s", header.Algorithm)
	}

	s.SetAlgorithm("none")
	kid := s.KeyID()
	if _, err := s.RotateKey(); err == nil {
		t.Error("rotated to an unknown algorithm")
	}
	if _, err := s.AnnounceKey(); err == nil {
		t.Error("announced a key for an unknown algorithm")
	}
	if err := s.RotateKeyHard(); err == nil {
		t.Error("cut to an unknown algorithm")
	}
	expect("after what failed", kid, kid)
	if _, _, _, err := oidc.NewKeyPair("none"); err == nil {
		t.Error("made a key pair for an unknown algorithm")
	}
}

func TestKeysUnderAnOldID(t *testing.T) {
	s := start(t, oidc.Options{Algorithm: "RS256"})
	kid, old := s.KeyID(), asCart(t, s).token()
	if err := s.ReuseKeyID(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{kid}, kids(t, s)); diff != "" {
		t.Errorf("JWKS (-want +got):\n%s", diff)
	}
	if _, _, err := verify(t, s, old); err == nil {
		t.Error("a token of the key that was replaced verifies")
	}
	mustVerify(t, s, asCart(t, s).token())

	s.ChangeKeyAlgorithm("PS256")
	header, _ := mustVerify(t, s, asCart(t, s).token())
	if key := keySet(t, s).Keys[0]; header.KeyID != kid || header.Algorithm != "PS256" || key.Algorithm != "PS256" {
		t.Errorf("signed by %s with %s, published for %s", header.KeyID, header.Algorithm, key.Algorithm)
	}
}

func TestLooseKeys(t *testing.T) {
	for alg, want := range map[string]string{"EdDSA": "Ed25519", "ES256": "ES256"} {
		s := start(t, oidc.Options{Algorithm: alg, LooseKeys: true})
		var set struct{ Keys []struct{ Alg, X string } }
		if err := json.Unmarshal([]byte(get(t, s.JWKSURL()).raw), &set); err != nil {
			t.Fatal(err)
		}
		if key := set.Keys[0]; key.Alg != want || key.X[len(key.X)-1] != '=' {
			t.Errorf("%s: published is %+v", alg, key)
		}
	}
}

func TestRSAKeysOfAnyLength(t *testing.T) {
	s := start(t, oidc.Options{Algorithm: "RS256"})
	s.SetRSABits(1024)
	if _, err := s.RotateKey(); err != nil {
		t.Fatal(err)
	}
	mustVerify(t, s, asCart(t, s).token())
	for i, want := range []int{1024, 2048} {
		if got := keySet(t, s).Keys[i].Key.(*rsa.PublicKey).N.BitLen(); got != want {
			t.Errorf("key %d has %d bits, want %d", i, got, want)
		}
	}
}

func TestTokensOnOrder(t *testing.T) {
	now := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	s := start(t, oidc.Options{Now: func() time.Time { return now }})
	token, err := s.SignToken(map[string]any{"aud": payments, "exp": now.Unix()})
	if err != nil {
		t.Fatal(err)
	}
	_, claims := mustVerify(t, s, token)
	want := map[string]any{"iss": s.Issuer(), "aud": payments, "iat": float64(now.Unix()), "exp": float64(now.Unix())}
	if diff := cmp.Diff(want, claims); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	forged, err := s.ForgeToken(claims)
	if err != nil {
		t.Fatal(err)
	}
	if header, _, err := verify(t, s, forged); err == nil || header.KeyID != s.KeyID() {
		t.Errorf("the forged token has kid %s and verifies with %v", header.KeyID, err)
	}
	if _, err := s.SignToken(map[string]any{"x": func() {}}); err == nil {
		t.Error("signed a payload that is not JSON")
	}
}

func TestJWKSIsCached(t *testing.T) {
	s := start(t, oidc.Options{JWKSMaxAge: time.Minute})
	first := get(t, s.JWKSURL())
	etag := first.header.Get("ETag")
	if etag == "" || first.header.Get("Cache-Control") != "max-age=60" || first.header.Get("Pragma") != "" {
		t.Fatalf("headers are %v", first.header)
	}
	second := get(t, s.JWKSURL(), "If-None-Match", etag)
	if second.status != http.StatusNotModified || second.raw != "" || second.header.Get("ETag") != etag {
		t.Errorf("the same tag: answered %d, %q", second.status, second.raw)
	}
	if _, err := s.RotateKey(); err != nil {
		t.Fatal(err)
	}
	third := get(t, s.JWKSURL(), "If-None-Match", etag)
	if third.status != http.StatusOK || third.header.Get("ETag") == etag {
		t.Errorf("after a rotation: answered %d with %s", third.status, third.header.Get("ETag"))
	}
	if s.Count(oidc.JWKS) != 3 || s.NotModified() != 1 {
		t.Errorf("counted %d and %d not modified, want 3 and 1", s.Count(oidc.JWKS), s.NotModified())
	}
	s.ResetRequests()
	if s.Count(oidc.JWKS) != 0 || s.NotModified() != 0 || !s.FirstJWKSRequest().IsZero() {
		t.Error("the counts are still there")
	}
	asked := time.Now()
	get(t, s.JWKSURL())
	answered := s.FirstJWKSRequest()
	get(t, s.JWKSURL())
	if answered.Before(asked) || answered.After(time.Now()) || s.FirstJWKSRequest() != answered {
		t.Errorf("the first request came at %v, then at %v, and was sent at %v", answered, s.FirstJWKSRequest(), asked)
	}
	if got := get(t, start(t, oidc.Options{}).JWKSURL()).header.Get("Cache-Control"); got != "no-cache" {
		t.Errorf("without a max-age, Cache-Control is %q", got)
	}
}
