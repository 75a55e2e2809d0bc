// SPDX-License-Identifier: Apache-2.0

// Package ui tests the page of kubectl m2m ui in a real browser, as somebody with a keyboard
// sees it. It is a module of its own, so that nothing else depends on what drives the browser.
package ui

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/plugin/web"
	"github.com/m2m-operator/m2m-operator/internal/testing/fleet"
)

// patience is how long anything on the page may take. The machine may be busy.
const patience = 60 * time.Second

// browser is one Chromium for all tests.
var browser context.Context

func TestMain(m *testing.M) {
	program := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			program = found
			break
		}
	}
	if program == "" {
		fmt.Fprintln(os.Stderr, "there is no Chromium here: on Debian, apt-get install chromium")
		os.Exit(1)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.WSURLReadTimeout(patience),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("disable-background-networking", true), chromedp.WindowSize(1360, 820))
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	var closeBrowser func()
	browser, closeBrowser = chromedp.NewContext(ctx)
	code := 1
	if err := chromedp.Do(browser); err != nil {
		fmt.Fprintln(os.Stderr, "Chromium does not start:", err)
	} else {
		code = m.Run()
	}
	closeBrowser()
	stop()
	os.Exit(code)
}

// world is what a page shows, and the site that serves it.
type world struct {
	*fleet.Company
	mu      sync.Mutex
	more    []client.Object
	missing []inventory.Right
	server  *httptest.Server
	page    string
}

// newWorld serves a company. Its time is the browser's.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Company: fleet.NewCompany(time.Now())}
	w.serve(t, func() []client.Object { return append(w.Objects(), w.more...) })
	return w
}

func (w *world) serve(t *testing.T, objects func() []client.Object) {
	t.Helper()
	read := func(ctx context.Context) (web.Reading, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		inv := fleet.Inventory(objects()...)
		m, err := web.Build(ctx, inv, web.Options{Missing: w.missing, Now: time.Now()})
		return web.Reading{Inventory: inv, Model: m}, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	site, err := web.NewSite(t.Context(), listener.Addr(), read, clock.RealClock{})
	if err != nil {
		t.Fatal(err)
	}
	w.server = &httptest.Server{Listener: listener, Config: &http.Server{Handler: site}}
	w.server.Start()
	t.Cleanup(w.server.Close)
	w.page = "http://" + listener.Addr().String() + site.Path()
}

// change changes the company while the page is open.
func (w *world) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// step is what is done on a page.
type step = chromedp.Action[chromedp.Void]

// call returns a step that calls the browser's own protocol.
func call[P, R any](command cdp.Command[P, R], params P) step {
	return func(ctx context.Context, t *chromedp.Target) (none chromedp.Void, err error) {
		_, err = cdp.Call(ctx, t, command, params)
		return none, err
	}
}

// tab is a page in the browser. Whatever goes wrong on it fails the test.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	trouble  []string
	outages  bool // failed requests are expected: the site is gone
	requests []string
}

// open opens a page in a window of a size, and waits until it shows objects, or says that there are none.
func open(t *testing.T, address string, width, height int64, more ...step) *tab {
	t.Helper()
	ctx, stop := chromedp.NewContext(browser)
	t.Cleanup(stop)
	b := &tab{t: t, ctx: ctx}
	// The tab lives as long as the context of the first call.
	if err := chromedp.Listen(ctx, b.listen); err != nil {
		t.Fatal(err)
	}
	b.run(append(more,
		call(network.Enable, network.EnableParams{}), call(log.Enable, cdp.Empty{}), call(runtime.Enable, cdp.Empty{}), call(page.Enable, page.EnableParams{}),
		call(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 600}),
		call(emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true}),
		chromedp.Navigate(address))...)
	b.until(`document.querySelectorAll("[role=option]").length > 0 || !document.getElementById("none").hidden`)
	t.Cleanup(func() { b.check(address) })
	return b
}

// listen notes errors, dialogs and requests.
func (b *tab) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.trouble = append(b.trouble, exception(e.ExceptionDetails))
	case *runtime.EventConsoleAPICalled:
		b.trouble = append(b.trouble, fmt.Sprintf("console: %s %v", e.Type, e.Args))
	case *log.EventEntryAdded:
		if !b.outages || e.Entry.Source != log.EntrySourceNetwork {
			b.trouble = append(b.trouble, fmt.Sprintf("log: %s: %s (%s)", e.Entry.Level, e.Entry.Text, e.Entry.URL))
		}
	case *page.EventJavascriptDialogOpening:
		b.trouble = append(b.trouble, "dialog: "+e.Message)
		go func() { _ = chromedp.Do(b.ctx, call(page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{})) }()
	case *network.EventRequestWillBeSent:
		b.requests = append(b.requests, e.Request.URL)
	}
}

func exception(d *runtime.ExceptionDetails) string {
	if d.Exception != nil && d.Exception.Description != "" {
		return "exception: " + d.Exception.Description
	}
	return "exception: " + d.Text
}

// check fails if something went wrong on the page, or it asked anybody but its site.
func (b *tab) check(address string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.trouble {
		b.t.Error(s)
	}
	base, _, _ := strings.Cut(address, "#")
	for _, r := range b.requests {
		if !strings.HasPrefix(r, base) && !strings.HasPrefix(r, "data:") {
			b.t.Errorf("the page asked for %s", r)
		}
	}
	if len(b.requests) == 0 {
		b.t.Error("no request was seen, so nothing is known of them")
	}
}

func (b *tab) run(steps ...step) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

// value evaluates an expression on the page.
func value[T any](b *tab, expression string) (v T) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// do evaluates a statement on the page.
func (b *tab) do(statement string) {
	b.t.Helper()
	b.run(chromedp.Evaluate[chromedp.Void](statement))
}

// until waits until an expression is true.
func (b *tab) until(expression string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if _, err := chromedp.Run(ctx, chromedp.Poll[bool](expression, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(patience))); err != nil {
		b.t.Fatalf("it never became true that %s: %v; the page says %q", expression, err, value[string](b, `document.body.innerText.slice(0, 800)`))
	}
}

// is fails unless an expression has a value.
func is[T comparable](b *tab, expression string, want T) {
	b.t.Helper()
	if got := value[T](b, expression); got != want {
		b.t.Errorf("%s is %v, want %v", expression, got, want)
	}
}

// press presses keys one after the other.
func (b *tab) press(keys ...string) {
	b.t.Helper()
	for _, k := range keys {
		if k < " " || k > "~" {
			b.run(chromedp.KeyEvent(k))
			continue
		}
		// A key with its text is one event, as from a keyboard: a page that handles the key
		// keeps the text from being typed.
		b.run(call(input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeKeyDown, Key: k, Text: k}),
			call(input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeKeyUp, Key: k}))
	}
}
