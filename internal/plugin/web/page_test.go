// SPDX-License-Identifier: Apache-2.0

package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/m2m-operator/m2m-operator/internal/testing/fleet"
)

// file writes the page as one file, with hostile texts in it.
func file(t *testing.T) string {
	t.Helper()
	c := fleet.NewCompany(noon)
	c.Fails(c.Cart.Status.Conditions, true, "Fresh", "Bad", hostile+token)
	c.Cart.Annotations = map[string]string{"note": hostile + " " + token}
	inv := fleet.Inventory(c.Objects()...)
	m, err := Build(t.Context(), inv, Options{Now: noon})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := File(&b, inv, m); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestFile(t *testing.T) {
	page := file(t)
	_, rest, ok := strings.Cut(page, `<script type="application/json" id="data">`)
	data, _, _ := strings.Cut(rest, "</script>")
	if !ok {
		t.Fatal("there is no data")
	}
	var held struct {
		Model Model
		YAML  map[string]string
	}
	if err := json.Unmarshal([]byte(data), &held); err != nil {
		t.Fatalf("the data end early: %v", err)
	}
	if len(held.Model.Objects) != 12 || held.Model.ReadAt == nil || !strings.Contains(held.YAML["M2MClient/shop/cart"], "kind: M2MClient") {
		t.Errorf("%d objects, read at %v", len(held.Model.Objects), held.Model.ReadAt)
	}
	if n := strings.Count(page, "</script>"); n != 2 {
		t.Errorf("%d ends of scripts, want 2", n)
	}
	if strings.Contains(page, "eyJhbGci") {
		t.Error("it has a token")
	}
}

// TestPolicyOfTheFile recomputes which script and style the file lets run.
func TestPolicyOfTheFile(t *testing.T) {
	page := file(t)
	policy := regexp.MustCompile(`http-equiv="Content-Security-Policy" content="([^"]*)"`).FindStringSubmatch(page)
	if policy == nil {
		t.Fatal("there is no policy")
	}
	_, rest, _ := strings.Cut(page, "<style>")
	css, _, _ := strings.Cut(rest, "</style>")
	js := page[strings.LastIndex(page, "<script>")+len("<script>") : strings.LastIndex(page, "</script>")]
	for _, want := range []string{"default-src 'none'", "script-src " + hashOf(js) + ";", "style-src " + hashOf(css)} {
		if !strings.Contains(policy[1], want) {
			t.Errorf("the policy lacks %q: %s", want, policy[1])
		}
	}
	for _, bad := range []string{"connect-src", "unsafe", "self"} {
		if strings.Contains(policy[1], bad) {
			t.Errorf("the policy has %q", bad)
		}
	}
}

// TestFileOfMany leaves out the YAML for which there is no room, and keeps the rest.
func TestFileOfMany(t *testing.T) {
	c := fleet.NewCompany(noon)
	all := c.Objects()
	for i := range 200 {
		o := c.Client("shop", fmt.Sprintf("large-%03d", i))
		c.Access(o, c.Stock, "stock:read")
		o.Annotations = map[string]string{"note": strings.Repeat("x", 100000)}
		all = append(all, o)
	}
	inv := fleet.Inventory(all...)
	m, err := Build(t.Context(), inv, Options{Now: noon})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := File(&b, inv, m); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), `"apiVersion: `); b.Len() > mostYAML+(2<<20) || n < 100 || n >= len(m.Objects) {
		t.Errorf("the file has %d bytes with the YAML of %d objects", b.Len(), n)
	}
}

// TestPartsOfThePage holds what the policy and the way of joining them ask of the parts.
func TestPartsOfThePage(t *testing.T) {
	for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "</script", "http://", "https://", "localStorage", "document.cookie"} {
		allowed := 0
		if bad == "http://" {
			allowed = 1 // the namespace of SVG
		}
		if n := strings.Count(script(), bad); n != allowed {
			t.Errorf("the script has %q %d times, want %d", bad, n, allowed)
		}
	}
	for _, bad := range []string{"@import", "url(", "</style"} {
		if strings.Contains(style(), bad) {
			t.Errorf("the style has %q", bad)
		}
	}
	html := part("index.html")
	for _, bad := range []string{" style=", " onclick=", "<script", "src="} {
		if strings.Contains(html, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	for _, f := range scripts {
		if !strings.HasPrefix(part(f), "// SPDX-License-Identifier: Apache-2.0\n") {
			t.Errorf("%s does not say its licence", f)
		}
	}
}

// TestYAMLOfWhatYAMLForbids: a control character in an annotation does not hide the object.
func TestYAMLOfWhatYAMLForbids(t *testing.T) {
	c := fleet.NewCompany(noon)
	c.Cart.Annotations = map[string]string{"note": "a\x7fb\u009bc\u202ed"}
	got, ok := YAML(fleet.Inventory(c.Objects()...), "M2MClient/shop/cart")
	if want := `note: "a\x7Fb\x9Bc` + "\uFFFD" + `d"`; !ok || !strings.Contains(got, want) {
		t.Errorf("there is none with %s (%t):\n%s", want, ok, got)
	}
}
