// SPDX-License-Identifier: Apache-2.0

package render

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

// newKeys makes an RSA, an EC and an OKP key, with their ids as names.
func newKeys(t *testing.T) (keys []Key, public map[string]crypto.PublicKey) {
	t.Helper()
	r, err1 := rsa.GenerateKey(rand.Reader, 2048)
	e, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	o, _, err3 := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	public = map[string]crypto.PublicKey{"RSA": &r.PublicKey, "EC": &e.PublicKey, "OKP": o}
	for _, id := range []string{"EC", "OKP", "RSA"} {
		jwk, err := json.Marshal(jose.JSONWebKey{Key: public[id], KeyID: id, Use: "sig"})
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, Key{ID: id, JWK: string(jwk)})
	}
	return keys, public
}

// thumbprintOf is RFC 7638 by go-jose.
func thumbprintOf(t *testing.T, key crypto.PublicKey) string {
	t.Helper()
	sum, err := (&jose.JSONWebKey{Key: key}).Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(sum)
}

func TestTemplatesSeeKeys(t *testing.T) {
	b := payment()
	var public map[string]crypto.PublicKey
	b.Keys, public = newKeys(t)
	files, err := Verification(b, map[string]string{
		"list":      `{{ range $i, $k := .Keys }}{{ if $i }}; {{ end }}{{ .ID }} {{ $k.Type }} {{ .Algorithm }} {{ . }}{{ end }}`,
		"sets":      `{{ range .Keys }}{{ .JWK }}` + "\n" + `{{ end }}`,
		"prints":    `{{ range .Keys }}{{ .ID }}={{ .Thumbprint }} {{ end }}`,
		"all.pem":   `{{ range .Keys }}{{ if ne .Type "OKP" }}{{ .PEM }}{{ end }}{{ end }}`,
		"key-*.pem": `{{ if ne .Key.Type "OKP" }}{{ .Key.PEM }}{{ end }}`,
		"id-*":      `{{ .Key }}{{ with $.Name }} {{ $.Key }} {{ $.Key.ID }}{{ end }}`,
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := "EC EC ES256 EC; OKP OKP EdDSA OKP; RSA RSA RS256 RSA"; files["list"] != want {
		t.Errorf("got %q, want %q", files["list"], want)
	}
	prints := ""
	for _, id := range []string{"EC", "OKP", "RSA"} {
		if got, want := files["id-"+thumbprintOf(t, public[id])], id+" "+id+" "+id; got != want {
			t.Errorf("the key's own file says %q, want %q", got, want)
		}
		prints += id + "=" + thumbprintOf(t, public[id]) + " "
	}
	if diff := cmp.Diff(prints, files["prints"]); diff != "" {
		t.Errorf("thumbprints (-want +got):\n%s", diff)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(`{"keys":[`+strings.Join(strings.Fields(files["sets"]), ",")+`]}`), &set); err != nil || len(set.Keys) != 3 {
		t.Errorf("%d keys of %q: %v", len(set.Keys), files["sets"], err)
	}

	rest := []byte(files["all.pem"])
	for _, id := range []string{"EC", "RSA"} {
		one := []byte(files["key-"+thumbprintOf(t, public[id])+".pem"])
		for _, content := range []*[]byte{&one, &rest} {
			var block *pem.Block
			if block, *content = pem.Decode(*content); block == nil || block.Type != "PUBLIC KEY" {
				t.Fatalf("no public key of %s", id)
			}
			key, err := x509.ParsePKIXPublicKey(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			if !public[id].(interface{ Equal(crypto.PublicKey) bool }).Equal(key) {
				t.Errorf("the PEM of %s is another key", id)
			}
		}
		if len(one) > 0 {
			t.Errorf("there is more in the file of %s: %q", id, one)
		}
	}
	if len(rest) > 0 {
		t.Errorf("there is more in the file of all: %q", rest)
	}
	for name := range files {
		if name == "key-"+thumbprintOf(t, public["OKP"])+".pem" || strings.Contains(name, "*") {
			t.Errorf("there is a file %q", name)
		}
	}
}

func TestFilesOfEachKeyAreLeftOut(t *testing.T) {
	b := payment()
	var public map[string]crypto.PublicKey
	b.Keys, public = newKeys(t)
	for name, tc := range map[string]struct {
		extra map[string]string
		left  []string // of the key's thumbprint, or the name
		parts []string
	}{
		"a mistake":          {map[string]string{"*.pem": `{{ .Key.X }}`}, []string{"EC", "OKP", "RSA"}, []string{`extra file "*.pem"`, ".Key.X is not a field of a key"}},
		"one key's failure":  {map[string]string{"*.pem": `{{ if eq .Key.ID "EC" }}{{ index $.Scopes 9 }}{{ end }}x`}, []string{"EC"}, []string{`extra file "*.pem"`, "out of range"}},
		"two asterisks":      {map[string]string{"*-*.pem": "x"}, nil, []string{`extra file`, "name"}},
		"a name too long":    {map[string]string{strings.Repeat("k", 211) + "*": "x"}, nil, []string{"extra file"}},
		"the list of a name": {map[string]string{"f": `{{ range .Keys }}{{ .X }}{{ end }}`}, nil, []string{".X is not a field of a key"}},
	} {
		t.Run(name, func(t *testing.T) {
			files, err := Verification(b, tc.extra)
			checkError(t, err, tc.parts...)
			var left *Incomplete
			if !errors.As(err, &left) {
				t.Fatalf("error %v", err)
			}
			for _, id := range []string{"EC", "OKP", "RSA"} {
				file := thumbprintOf(t, public[id]) + ".pem"
				if got, want := slices.Contains(left.Files, file), slices.Contains(tc.left, id); got != want {
					t.Errorf("file of %s left out: %t, want %t", id, got, want)
				}
				if _, got := files[file]; len(tc.left) > 0 && got == slices.Contains(tc.left, id) {
					t.Errorf("file of %s is there: %t", id, got)
				}
			}
		})
	}
}

// TestAKeyIsNoTwoFiles: one key under two ids has one thumbprint, and so one file
// name.
func TestAKeyIsNoTwoFiles(t *testing.T) {
	b := payment()
	keys, public := newKeys(t)
	twin := Key{ID: "twin", JWK: strings.Replace(keys[0].JWK, `"kid":"EC"`, `"kid":"twin"`, 1)}
	b.Keys = []Key{keys[0], twin}
	name := thumbprintOf(t, public["EC"])
	if files, err := Verification(b, map[string]string{"*": "{{ .Key.PEM }}"}); err != nil || files[name] == "" {
		t.Errorf("the same file twice: %v", err)
	}
	_, err := Verification(b, map[string]string{"*": "{{ .Key.ID }}"})
	checkError(t, err, fmt.Sprintf("file %q", name), "two files have this name")
	_, err = Verification(b, map[string]string{"*": "{{ .Key.PEM }}", name: "mine"})
	checkError(t, err, fmt.Sprintf("file %q", name), "two files have this name")
}

// TestAFileForEachKeyCostsAsOneForAll: the bounds hold for the template, however
// many files it makes.
func TestAFileForEachKeyCostsAsOneForAll(t *testing.T) {
	c, err := parseTemplate(rulesOf("*"), `{{ .Key.PEM }}`)
	if err != nil {
		t.Fatal(err)
	}
	if want := 3 * MaxKeys; c.cost != want {
		t.Errorf("costs %d, want %d", c.cost, want)
	}
	b := payment()
	b.Keys, _ = newKeys(t)
	// More than half of what is allowed, for each of three keys.
	src := `{{ $x := .JWKS }}` + strings.Repeat(`{{ $x = base64 $x }}`, 14) + strings.Repeat(`{{ $y := base64 $x }}`, 15) + "x"
	if _, err := Verification(b, map[string]string{"f": src}); err != nil {
		t.Errorf("one file: %v", err)
	}
	_, err = Verification(b, map[string]string{"*": src})
	checkError(t, err, "too much work")
}

func TestMoreKeysThanATemplateMayWalk(t *testing.T) {
	b := payment()
	keys, _ := newKeys(t)
	b.Keys = nil
	for i := range MaxKeys + 1 {
		id := fmt.Sprintf("k%d", i)
		b.Keys = append(b.Keys, Key{ID: id, JWK: strings.Replace(keys[0].JWK, `"kid":"EC"`, `"kid":"`+id+`"`, 1)})
	}
	files, err := Verification(b, map[string]string{"f": "x"})
	checkError(t, err, `extra file "f"`, "33 keys, more than the 32")
	if files[FileJWKS] == "" || files["f"] != "" {
		t.Error("the keys are not there, or the file is")
	}
}

// TestThePublishedKeyComesFirst: many verifiers take the first key with an ID.
func TestThePublishedKeyComesFirst(t *testing.T) {
	b := payment()
	keys := b.Keys[:0:0]
	for i, k := range payment().Keys {
		var members map[string]any
		if err := json.Unmarshal([]byte(k.JWK), &members); err != nil {
			t.Fatal(err)
		}
		members["kid"] = "main"
		encoded, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, Key{ID: "main", Algorithm: k.Algorithm, JWK: string(encoded), Retired: i != 0})
	}
	if len(keys) < 2 {
		t.Fatal("there are no two keys")
	}
	for range keys {
		b.Keys = keys
		files, err := Verification(b, nil)
		if err != nil {
			t.Fatal(err)
		}
		first := slices.IndexFunc(keys, func(k Key) bool { return !k.Retired })
		var want map[string]string
		if err := json.Unmarshal([]byte(keys[first].JWK), &want); err != nil {
			t.Fatal(err)
		}
		if got := parseSet(t, files[FileJWKS])[0]; got["x"] != want["x"] || got["n"] != want["n"] {
			t.Errorf("the first key is %v, want %v", got, want)
		}
		published := slices.IndexFunc(keys, func(k Key) bool { return !k.Retired })
		keys = slices.Clone(keys)
		keys[published].Retired, keys[(published+1)%len(keys)].Retired = true, false
	}
}

func TestKeysLoseWhatVerifiersDoNotNeed(t *testing.T) {
	b := opaque()
	b.Keys = []Key{{ID: "thumbprint", JWK: `{"y2":{},"x5u":"https://evil.example.com","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","iat":1}`}}
	files, err := Verification(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "{\"keys\":[\n{\"alg\":\"EdDSA\",\"crv\":\"Ed25519\",\"kty\":\"OKP\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}\n]}\n"
	if diff := cmp.Diff(want, files[FileJWKS]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestKeyIDs(t *testing.T) {
	b := Bundle{Keys: []Key{{ID: "b"}, {ID: "a"}, {ID: ""}, {ID: "b"}}}
	if diff := cmp.Diff([]string{"a", "b"}, KeyIDs(b)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if b.Keys[0].ID != "b" {
		t.Error("the caller's keys were sorted")
	}
}
