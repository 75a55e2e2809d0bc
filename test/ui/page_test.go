// SPDX-License-Identifier: Apache-2.0

package ui

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

// What the tests look at.
const (
	focusedRow  = `document.activeElement.dataset.id ?? ""`
	focusedBox  = `document.activeElement.dataset.key ?? ""`
	focusedID   = `document.activeElement.id`
	visibleRows = `[...document.querySelectorAll("[role=option]")].map((r) => r.dataset.id).join(" ")`
	heading     = `(document.querySelector("#detail-name")?.textContent ?? "")`
	announced   = `document.getElementById("announce").textContent`
)

// TestKeyboard goes through the page without a mouse.
func TestKeyboard(t *testing.T) {
	b := open(t, newWorld(t).page, 1360, 820)

	b.press("/")
	is(b, focusedID, "search")
	b.press("s", "t", "o", "c", "k")
	is(b, visibleRows, "M2MClient/shop/cart M2MClient/shop/search M2MClient/warehouse/delivery APIResource/warehouse/stock-api")
	b.until(announced + ` === "4 objects"`)
	b.press(kb.ArrowDown, kb.ArrowDown)
	is(b, focusedRow, "M2MClient/shop/search")
	b.press(kb.Enter)
	is(b, heading, "search")
	is(b, focusedID, "detail-name")
	is(b, `location.hash`, "#M2MClient/shop/search?q=stock")
	b.press(kb.Escape)
	is(b, `document.getElementById("detail").hidden`, true)
	is(b, focusedRow, "M2MClient/shop/search")
	b.press(kb.Escape)
	is(b, `document.getElementById("search").value`, "")
	is(b, `document.querySelectorAll("[role=option]").length`, 12)
	b.press(kb.Home)
	is(b, focusedRow, "ClusterAuthorizationServer//login")
	b.press(kb.End)
	is(b, focusedRow, "APIResource/warehouse/stock-api")
	b.press(kb.Home, kb.ArrowUp)
	is(b, focusedID, "search")

	// The list and the map are one stop of Tab each.
	b.do(`document.querySelector("[role=option][tabindex='0']").focus()`)
	b.press(kb.Tab)
	is(b, `Boolean(document.activeElement.closest("#map"))`, true)
	b.press(kb.Home, kb.ArrowDown, kb.ArrowDown)
	is(b, focusedBox, "M2MClient/finance/invoices")
	b.press(kb.ArrowRight)
	is(b, focusedBox, "APIResource/payments/payment-api")
	b.press(kb.ArrowRight)
	is(b, focusedBox, "ClusterAuthorizationServer//login")
	b.press(kb.ArrowLeft, kb.Enter)
	is(b, `document.querySelector("#detail-name").textContent.endsWith("-api")`, true)
	b.press(kb.Escape)
	is(b, `document.activeElement.dataset.key.startsWith("APIResource/")`, true)

	// A namespace closes and opens.
	b.do(`[...document.querySelectorAll("#map [aria-expanded]")].find((x) => x.dataset.key === "0 shop").focus()`)
	b.press(kb.Enter)
	is(b, `document.activeElement.getAttribute("aria-expanded")`, "false")
	is(b, `document.activeElement.getAttribute("aria-label")`, "shop, 3 clients, 2 in trouble")
	b.press(" ")
	is(b, `document.activeElement.getAttribute("aria-expanded")`, "true")
}

// TestFocusIsVisible looks for the outline of what has the focus.
func TestFocusIsVisible(t *testing.T) {
	b := open(t, newWorld(t).page, 1360, 820)
	for i := range 9 {
		b.press(kb.Tab)
		if !value[bool](b, `(() => {
			const a = document.activeElement;
			if (a === document.body) return false;
			const s = getComputedStyle(a.closest("svg") ? a.querySelector("rect:not(.behind)") : a);
			return a.closest("svg") ? s.strokeWidth === "2px" : s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2;
		})()`) {
			t.Errorf("stop %d of Tab does not show that it has the focus: %s", i, value[string](b, `document.activeElement.outerHTML.slice(0, 120)`))
		}
	}
}

func TestFilters(t *testing.T) {
	b := open(t, newWorld(t).page, 1360, 820)
	for name, tc := range map[string]struct{ do, want string }{
		"only what is wrong": {`document.getElementById("wrong").click()`,
			"M2MClient/finance/audit APIResource/finance/report-api AuthorizationServer/finance/legacy M2MClient/shop/checkout M2MClient/shop/search"},
		"a namespace": {`set("namespace", "warehouse")`, "M2MClient/warehouse/delivery APIResource/warehouse/stock-api"},
		"a kind":      {`set("kind", "server")`, "ClusterAuthorizationServer//login AuthorizationServer/finance/legacy"},
		"a state":     {`document.querySelector("[data-state=Warning]").click()`, "M2MClient/shop/checkout"},
		"a reason":    {`search("notgranted")`, "APIResource/payments/payment-api M2MClient/shop/search"},
		"two words":   {`search("shop refunds:create")`, "APIResource/payments/refund-api M2MClient/shop/checkout"},
		"nothing":     {`search("zzz")`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b.do(`(() => {
				const set = (id, value) => { const e = document.getElementById(id); e.value = value; e.dispatchEvent(new Event("change")); };
				const search = (text) => { const e = document.getElementById("search"); e.value = text; e.dispatchEvent(new Event("input")); };
				` + tc.do + `;
			})()`)
			is(b, visibleRows, tc.want)
			is(b, `document.getElementById("none").hidden`, tc.want != "")
			hash := value[string](b, `location.hash`)
			if len(hash) < 4 {
				t.Errorf("the address does not say what is shown: %q", hash)
			}
			b.do(`document.activeElement.blur()`)
			b.press(kb.Escape)
			is(b, `document.querySelectorAll("[role=option]").length`, 12)
		})
	}
}

// TestDetail opens a page at an object, by its address.
func TestDetail(t *testing.T) {
	w := newWorld(t)
	b := open(t, w.page+"#M2MClient/shop/checkout", 1360, 820)
	is(b, heading, "checkout")
	text := value[string](b, `document.getElementById("detail").innerText`)
	for _, want := range []string{
		"Its tokens work, and something fails.", "TokenRequestRefused", "Correct the credentials, or the application at the server",
		"payments /\npayment-api", "payments:write", "Works, and a new token is due", "by spec.grants[0]", "checkout-5c-01", "Verified", "m2m-shop-checkout",
	} {
		if !strings.Contains(strings.ReplaceAll(text, "\n\n", "\n"), want) {
			t.Errorf("the panel does not say %q:\n%s", want, text)
		}
	}
	if times := regexp.MustCompile(`expires\nin \d+m \d+s\s+next\ndue \d+m \d+s ago`); !times.MatchString(text) {
		t.Errorf("the panel does not match %q:\n%s", times, text)
	}
	before := value[string](b, `document.querySelector("#detail time").textContent`)
	b.until(fmt.Sprintf(`document.querySelector("#detail time").textContent !== %q`, before)) // it ticks
	b.do(`document.querySelector("#detail .yaml summary").click()`)
	b.until(`document.querySelector("#detail pre").textContent.includes("kind: M2MClient")`)

	// A link leads to another object, and Back returns.
	b.do(`document.querySelector("#detail a.object").click()`)
	b.until(heading + ` === "payment-api"`)
	b.until(`document.querySelector("#detail pre").textContent.includes("kind: APIResource")`)
	is(b, `document.querySelectorAll("#detail .access").length`, 4)
	b.do(`history.back()`)
	b.until(heading + ` === "checkout"`)
	is(b, `document.querySelector("[role=option][aria-selected=true]").dataset.id`, "M2MClient/shop/checkout")
}

// TestLive changes objects while the page is open.
func TestLive(t *testing.T) {
	w := newWorld(t)
	b := open(t, w.page, 1360, 820)
	b.do(`document.querySelector("[data-id='M2MClient/shop/cart']").focus()`)
	w.change(func() {
		w.Fails(w.Cart.Status.Conditions, true, "Fresh", v1alpha1.ReasonTokenExpired, "The token expired")
	})
	b.until(announced + ` === "cart is now Failing"`)
	is(b, focusedRow, "M2MClient/shop/cart")
	is(b, `document.activeElement.textContent.includes("TokenExpired: The token expired")`, true)
	is(b, `document.querySelector("h1").textContent`, "6 of 12 objects need attention")
	is(b, `document.querySelector("#map [data-key='M2MClient/shop/cart']").classList.contains("Failing")`, true)

	w.change(func() { w.more = append(w.more, w.Access(w.Client("shop", "gift"), w.Stock, "stock:read")) })
	b.until(announced + `.startsWith("gift is new")`)
	is(b, `document.querySelectorAll("[role=option]").length`, 13)
	is(b, focusedRow, "M2MClient/shop/cart")

	b.mu.Lock()
	b.outages = true
	b.mu.Unlock()
	w.server.Close()
	b.until(`document.getElementById("freshness").textContent.startsWith("kubectl m2m ui has ended")`)
	is(b, `document.querySelectorAll("[role=option]").length`, 13)
}

// TestMissingRights says what is not shown, and goes on saying it while something changes.
func TestMissingRights(t *testing.T) {
	w := newWorld(t)
	w.missing = []inventory.Right{{Verb: "list", Resource: inventory.Pods, Namespace: "shop"}, {Verb: "list", Resource: inventory.ClusterServers}}
	b := open(t, w.page, 1360, 820)
	is(b, `document.querySelector("#notices summary").textContent`, "Not shown, because 2 rights are missing")
	b.do(`document.querySelector("#notices summary").click()`)
	w.change(func() { w.missing = w.missing[:1] })
	b.until(`document.querySelector("#notices summary").textContent === "Not shown, because 1 right is missing"`)
	is(b, `document.querySelector("#notices li").innerText`, `list pods in namespace "shop"`)
}

// TestHostileTexts shows what tenants write as text, whatever it is.
func TestHostileTexts(t *testing.T) {
	w := newWorld(t)
	const evil = `</script><script>alert(1)</script><img src=x onerror=alert(2)><b>bold</b>`
	w.Fails(w.Cart.Status.Conditions, true, "Fresh", "Bad", evil)
	w.Payment.Spec.Scopes[0].Name, w.Cart.Spec.Access[0].Scopes[0] = evil, evil
	w.Payment.Spec.Identifier = evil
	w.Cart.Annotations = map[string]string{"note": evil}
	for _, id := range []string{"M2MClient/shop/cart", "APIResource/payments/payment-api"} {
		b := open(t, w.page+"#"+id, 1360, 820)
		b.do(`document.querySelector("#detail .yaml summary").click()`)
		b.until(`document.querySelector("#detail pre").textContent.length > 100`)
		is(b, `document.getElementById("detail").textContent.includes("<script>alert(1)</script><img src=x onerror=alert(2)>")`, true)
		is(b, `document.querySelectorAll("script").length`, 1)
		is(b, `document.querySelectorAll("img, b:not(.count b)").length`, 0)
	}
	b := open(t, w.page+`#"><img src=x onerror=alert(3)>?q=<script>alert(4)</script>&ns=<b>&kind=<i>`, 1360, 820)
	is(b, `document.querySelectorAll("img, i").length`, 0)
}

// TestMany opens the page with a thousand clients.
func TestMany(t *testing.T) {
	w := &world{}
	company := newWorld(t).Company
	objects := company.Large(1000, 50)
	w.serve(t, func() []client.Object { return objects })
	begun := time.Now()
	b := open(t, w.page, 1360, 820)
	t.Logf("1,000 clients: shown %v after the address was entered, first paint after %.0f ms, the model there after %.0f ms",
		time.Since(begun).Round(time.Millisecond),
		value[float64](b, `performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? 0`),
		value[float64](b, `performance.getEntriesByType("resource").filter((e) => e.name.includes("model.json"))[0].responseEnd`))
	is(b, `document.querySelectorAll("[role=option]").length`, 1051)
	is(b, `document.querySelectorAll("#map [aria-expanded=false]").length`, 50)
	is(b, `document.querySelectorAll("#map .line").length < 600`, true)
	t.Logf("drawn again in %.0f ms, filtered in %.0f ms", value[float64](b, timed(`dispatchEvent(new Event("hashchange"))`)),
		value[float64](b, timed(`(() => { const e = document.getElementById("search"); e.value = "service-0500"; e.dispatchEvent(new Event("input")); })()`)))
	is(b, visibleRows, "APIResource/platform-00/api-00 APIResource/platform-04/api-14 APIResource/platform-07/api-07 M2MClient/team-20/service-0500")
	b.do(`document.getElementById("search").focus()`)
	b.press(kb.Escape)
	b.do(`document.getElementById("wrong").click()`)
	is(b, `document.querySelectorAll("[role=option]").length`, 10)
	b.do(`document.getElementById("wrong").click()`)
	b.do(`[...document.querySelectorAll("#map [aria-expanded]")].find((x) => x.dataset.key === "0 team-07").dispatchEvent(new MouseEvent("click"))`)
	is(b, `document.querySelectorAll("#map [data-key^='M2MClient/team-07/']").length`, 25)
}

// timed returns an expression that says how long another takes, with the layout.
func timed(expression string) string {
	return `(() => { const t = performance.now(); ` + expression + `; document.body.offsetHeight; return performance.now() - t; })()`
}
