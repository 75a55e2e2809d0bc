// SPDX-License-Identifier: Apache-2.0

package ui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/plugin/web"
	"github.com/m2m-operator/m2m-operator/internal/testing/fleet"
)

// scheme makes the browser prefer light or dark.
func scheme(name string) step {
	return call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: name}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}})
}

func TestLightAndDark(t *testing.T) {
	w := newWorld(t)
	for name, want := range map[string]string{"light": "rgb(247, 247, 245)", "dark": "rgb(14, 15, 18)"} {
		b := open(t, w.page, 1360, 820, scheme(name))
		is(b, `getComputedStyle(document.body).backgroundColor`, want)
		is(b, `getComputedStyle(document.querySelector(".pulse")).animationName`, "none") // less motion is wanted
	}
}

// TestWidths looks for anything that makes the page wider than the screen, or a part of it
// wider than there is room. Only the map and YAML may be.
func TestWidths(t *testing.T) {
	w := newWorld(t)
	w.Fails(w.Cart.Status.Conditions, true, "Fresh", "Bad", strings.Repeat("long", 200))
	long := w.Access(w.Client("shop", strings.Repeat("very-long-name-", 4)+"1"), w.Stock, "stock:read")
	w.more = append(w.more, long)
	for _, width := range []int64{360, 720, 1000, 1360, 2560} {
		for _, address := range []string{"", "#M2MClient/shop/cart", "#M2MClient/shop/" + long.Name} {
			b := open(t, w.page+address, width, 800)
			for _, tab := range []string{"list", "map"} {
				if width == 360 && address == "" {
					b.do(`document.getElementById("tab-` + tab + `").click()`)
				}
				if got := value[string](b, `["html", "body", ".top", ".filters", ".list", ".legend", ".detail"]
					.filter((e) => document.querySelector(e).scrollWidth > document.querySelector(e).clientWidth).join(" ")`); got != "" {
					t.Errorf("at %d pixels, parts of the page %q are wider than they may be: %s", width, address, got)
				}
			}
		}
	}
}

// TestSmallScreen keeps the focus in the panel while that covers the rest.
func TestSmallScreen(t *testing.T) {
	b := open(t, newWorld(t).page, 360, 740)
	b.do(`document.querySelector("[data-id='M2MClient/shop/checkout']").click()`)
	is(b, focusedID, "detail-name")
	is(b, `document.querySelector(".browse").inert`, true)
	is(b, `document.getElementById("detail").getBoundingClientRect().width`, 360.0)
	b.do(`document.querySelector(".close").click()`)
	is(b, `document.querySelector(".browse").inert`, false)
	is(b, focusedRow, "M2MClient/shop/checkout")
	b.do(`document.getElementById("tab-map").click()`)
	is(b, `document.querySelectorAll("#map .node[data-key]").length > 10`, true)
	is(b, `getComputedStyle(document.querySelector(".browse")).display`, "none")
}

// TestAccessibleNames asks the browser what it tells a screen reader.
func TestAccessibleNames(t *testing.T) {
	b := open(t, newWorld(t).page+"#M2MClient/shop/checkout", 1360, 820)
	tree, err := chromedp.Call(b.ctx, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, n := range tree.Nodes {
		role := text(n.Role)
		if n.Ignored || !slices.Contains([]string{"button", "link", "option", "searchbox", "combobox", "listbox", "heading", "region", "complementary", "group", "DisclosureTriangle"}, role) {
			continue
		}
		seen[role]++
		if strings.TrimSpace(text(n.Name)) == "" && role != "group" {
			t.Errorf("a %s has no name", role)
		}
	}
	for role, least := range map[string]int{"option": 12, "button": 15, "searchbox": 1, "combobox": 2, "listbox": 1, "link": 2, "complementary": 1} {
		if seen[role] < least {
			t.Errorf("%d of role %s, want %d at least; there are %v", seen[role], role, least, seen)
		}
	}
}

func text(v *accessibility.Value) (s string) {
	if v != nil {
		_ = json.Unmarshal(v.Value, &s)
	}
	return s
}

// TestAccessibility has axe-core look for what it knows to be wrong: contrast, roles, names.
func TestAccessibility(t *testing.T) {
	axe, err := os.ReadFile("node_modules/axe-core/axe.min.js")
	if err != nil {
		t.Fatal("axe-core is not here: npm ci installs it; ", err)
	}
	w := newWorld(t)
	w.missing = []inventory.Right{{Verb: "list", Resource: inventory.Pods, Namespace: "shop"}}
	for _, tc := range []struct {
		scheme, address string
		width           int64
	}{
		{"light", "", 1360}, {"dark", "", 1360}, {"light", "#M2MClient/shop/checkout", 1360}, {"dark", "#APIResource/payments/payment-api", 1360},
		{"light", "#AuthorizationServer/finance/legacy", 360}, {"dark", "", 360},
	} {
		t.Run(fmt.Sprint(tc.scheme, " ", tc.width, " ", tc.address), func(t *testing.T) {
			b := open(t, w.page+tc.address, tc.width, 820, call(page.SetBypassCSP, page.SetBypassCSPParams{Enabled: true}), scheme(tc.scheme))
			b.do(string(axe) + "; undefined")
			found, err := chromedp.Run(b.ctx, chromedp.Evaluate[[]string](
				`axe.run().then((r) => r.violations.flatMap((v) => v.nodes.map((n) => v.id + " " + n.target + ": " + n.failureSummary)))`, chromedp.EvalAwaitPromise))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range found {
				t.Error(f)
			}
		})
	}
}

// file writes the page as a file.
func file(t *testing.T, objects ...client.Object) string {
	t.Helper()
	inv := fleet.Inventory(objects...)
	m, err := web.Build(t.Context(), inv, web.Options{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := web.File(&b, inv, m); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "access.html")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return "file://" + name
}

// TestFile opens the page that access -o html writes.
func TestFile(t *testing.T) {
	c := fleet.NewCompany(time.Now())
	c.Fails(c.Cart.Status.Conditions, true, "Fresh", "Bad", `</script><script>alert(1)</script>`)
	b := open(t, file(t, c.Objects()...)+"#M2MClient/shop/cart", 1360, 820)
	is(b, heading, "cart")
	is(b, `document.getElementById("freshness").textContent.startsWith("As of ")`, true)
	is(b, `document.getElementById("detail").textContent.includes("</script><script>alert(1)</script>")`, true)
	b.do(`document.querySelector("#detail .yaml summary").click()`)
	b.until(`document.querySelector("#detail pre").textContent.includes("kind: M2MClient")`)
	is(b, `document.querySelectorAll("#map .node[data-key]").length > 10`, true)
	if len(b.requests) != 1 {
		t.Errorf("it asked for %q", b.requests)
	}
}

// TestPictures draws the pictures of the documentation into the directory that M2M_UI_PICTURES names.
func TestPictures(t *testing.T) {
	dir := os.Getenv("M2M_UI_PICTURES")
	if dir == "" {
		dir = t.TempDir()
	}
	w := newWorld(t)
	many := &world{}
	objects := w.Large(1000, 50)
	many.serve(t, func() []client.Object { return objects })
	for _, p := range []struct {
		name, scheme, address string
		width, height         int64
		do                    string
	}{
		{"ui-map", "light", w.page, 1280, 720, ""},
		{"ui-detail", "dark", w.page + "#M2MClient/shop/checkout", 1360, 820, ""},
		{"ui-many", "light", many.page, 1280, 760, `[...document.querySelectorAll("#map [data-key]")].find((x) => x.dataset.key === "0 team-19").dispatchEvent(new MouseEvent("mouseenter"))`},
	} {
		b := open(t, p.address, p.width, p.height, scheme(p.scheme))
		if p.do != "" {
			b.do(p.do)
		}
		picture, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		small := smaller(t, picture)
		if len(small) < 10_000 || len(small) > 150_000 {
			t.Errorf("%s has %d bytes", p.name, len(small))
		}
		if err := os.WriteFile(filepath.Join(dir, p.name+".png"), small, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// smaller writes a picture with 256 colours at most: those that it has most of and that differ
// visibly. The page has few colours, and many shades at the edges of letters.
func smaller(t *testing.T, picture []byte) []byte {
	t.Helper()
	from, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		t.Fatal(err)
	}
	counts := map[color.RGBA]int{}
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(from.At(x, y)).(color.RGBA) }
	for y := range from.Bounds().Dy() {
		for x := range from.Bounds().Dx() {
			counts[at(x, y)]++
		}
	}
	all := slices.SortedFunc(maps.Keys(counts), func(a, b color.RGBA) int { return counts[b] - counts[a] })
	var palette color.Palette
	for _, c := range all {
		if len(palette) == 256 {
			break
		}
		if len(palette) == 0 || differs(c, palette[palette.Index(c)].(color.RGBA)) {
			palette = append(palette, c)
		}
	}
	nearest := map[color.RGBA]uint8{}
	for _, c := range all {
		nearest[c] = uint8(palette.Index(c))
	}
	to := image.NewPaletted(from.Bounds(), palette)
	for y := range from.Bounds().Dy() {
		for x := range from.Bounds().Dx() {
			to.SetColorIndex(x, y, nearest[at(x, y)])
		}
	}
	var b bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, to); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func differs(a, b color.RGBA) bool {
	square := func(x, y uint8) int { return (int(x) - int(y)) * (int(x) - int(y)) }
	return square(a.R, b.R)+square(a.G, b.G)+square(a.B, b.B) > 8*8
}
