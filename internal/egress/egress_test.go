// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

var development = Policy{AllowHTTP: true, AllowLoopback: true}

func client(t *testing.T, p Policy, caPEM []byte) *http.Client {
	t.Helper()
	c, err := p.NewClient(caPEM)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func ok(http.ResponseWriter, *http.Request) {}

func caOf(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

func TestBlockedConnections(t *testing.T) {
	plain := serve(t, ok)
	secure := httptest.NewTLSServer(http.HandlerFunc(ok))
	defer secure.Close()
	named := func(raw string) string { return strings.Replace(raw, "127.0.0.1", "localhost", 1) }

	for name, tc := range map[string]struct {
		policy   Policy
		url      string
		wantFlag string // in the refusal; "" means the request succeeds
	}{
		"http is refused by default":                      {Policy{AllowLoopback: true}, plain, "--allow-insecure-http"},
		"http is served where allowed":                    {development, plain, ""},
		"a literal loopback address is refused":           {Policy{}, secure.URL, "--allow-loopback"},
		"a name that resolves to loopback is refused":     {Policy{AllowHTTP: true, AllowLinkLocal: true}, named(plain), "--allow-loopback"},
		"a name that resolves to loopback is allowed":     {development, named(plain), ""},
		"https on loopback is served where allowed":       {Policy{AllowLoopback: true}, secure.URL, ""},
		"the unspecified address is refused":              {Policy{AllowHTTP: true}, strings.Replace(plain, "127.0.0.1", "0.0.0.0", 1), "--allow-loopback"},
		"the metadata service is refused":                 {development, "http://169.254.169.254/latest/meta-data", "--allow-link-local"},
		"the metadata service wrapped in IPv6 is refused": {development, "http://[::ffff:a9fe:a9fe]/", "--allow-link-local"},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := client(t, tc.policy, caOf(secure)).Post(tc.url, "text/plain", strings.NewReader("x"))
			if err == nil {
				resp.Body.Close()
			}
			if tc.wantFlag == "" {
				if err != nil {
					t.Fatalf("Post() = %v, want success", err)
				}
				return
			}
			var blocked *BlockedError
			if !errors.As(err, &blocked) || !strings.Contains(blocked.Error(), tc.wantFlag) {
				t.Fatalf("Post() = %v, want a BlockedError that names %s", err, tc.wantFlag)
			}
		})
	}
}

// Firewalls refuse requests that name a library, and a server's owner wants to know who asks. This holds through a
// proxy as well.
func TestEveryRequestSaysWhoAsks(t *testing.T) {
	agents := map[string]string{}
	note := func(_ http.ResponseWriter, r *http.Request) { agents[r.Method] = r.UserAgent() }
	server, want := serve(t, note), "m2m-operator/"+Version

	c := client(t, development, nil)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		req, err := http.NewRequestWithContext(t.Context(), method, server, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if len(req.Header) != 0 {
			t.Errorf("the caller's request has the header %v, want it left as it was", req.Header)
		}
	}
	proxied := client(t, development, nil)
	at, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	proxied.Transport.(*guard).base.Proxy = func(*http.Request) (*url.URL, error) { return at, nil }
	if resp, err := proxied.Get("https://auth.example.com/"); err == nil { // the proxy makes no tunnel
		resp.Body.Close()
	}
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodConnect} {
		if agents[method] != want {
			t.Errorf("%s was sent as %q, want %q", method, agents[method], want)
		}
	}
}

// TestWhoMayNotActSendsNothing asks before each request whether it may go.
func TestWhoMayNotActSendsNothing(t *testing.T) {
	served := 0
	server := serve(t, func(http.ResponseWriter, *http.Request) { served++ })
	var may error
	p := development
	p.MayAct = func() error { return may }
	c := client(t, p, nil)
	for _, may = range []error{nil, errors.New("not any more")} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			req, err := http.NewRequestWithContext(t.Context(), method, server, strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.Do(req)
			if err == nil {
				resp.Body.Close()
			}
			if !errors.Is(err, may) {
				t.Errorf("%s: error %v, want %v", method, err, may)
			}
		}
	}
	if served != 2 {
		t.Errorf("%d requests were sent, want 2", served)
	}
}

func TestVersionIsTheCharts(t *testing.T) {
	chart, err := os.ReadFile("../../charts/m2m-operator/Chart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(chart), "\nappVersion: "+Version+"\n") {
		t.Errorf("the chart's appVersion is not %s", Version)
	}
}

// The rule holds for the resolved address even if nothing checked the URL before.
func TestControlSeesTheResolvedAddress(t *testing.T) {
	for name, tc := range map[string]struct {
		address  string
		wantFlag string
	}{
		"public IPv4":                    {"192.0.2.1:443", ""},
		"public IPv6":                    {"[2001:db8::1]:443", ""},
		"private IPv4":                   {"10.0.0.1:443", ""},
		"unique local IPv6":              {"[fd12::1]:443", ""},
		"public IPv4 through NAT64":      {"[64:ff9b::192.0.2.1]:443", ""},
		"loopback":                       {"127.0.0.1:443", "--allow-loopback"},
		"loopback, another of its range": {"127.8.9.1:443", "--allow-loopback"},
		"loopback IPv6":                  {"[::1]:443", "--allow-loopback"},
		"loopback mapped":                {"[::ffff:127.0.0.1]:443", "--allow-loopback"},
		"loopback through NAT64":         {"[64:ff9b::127.0.0.1]:443", "--allow-loopback"},
		"unspecified":                    {"0.0.0.0:443", "--allow-loopback"},
		"this network":                   {"0.1.2.3:443", "--allow-loopback"},
		"unspecified IPv6":               {"[::]:443", "--allow-loopback"},
		"unspecified mapped":             {"[::ffff:0.0.0.0]:443", "--allow-loopback"},
		"link-local":                     {"169.254.1.1:443", "--allow-link-local"},
		"metadata":                       {"169.254.169.254:80", "--allow-link-local"},
		"metadata mapped":                {"[::ffff:169.254.169.254]:80", "--allow-link-local"},
		"metadata through NAT64":         {"[64:ff9b::169.254.169.254]:80", "--allow-link-local"},
		"metadata of AWS over IPv6":      {"[fd00:ec2::254]:80", "--allow-link-local"},
		"pod identity of EKS over IPv6":  {"[fd00:ec2::23]:80", "--allow-link-local"},
		"metadata of Google over IPv6":   {"[fd20:ce::254]:80", "--allow-link-local"},
		"metadata of Alibaba":            {"100.100.100.200:80", "--allow-link-local"},
		"wire server of Azure":           {"168.63.129.16:80", "--allow-link-local"},
		"link-local IPv6 with a zone":    {"[fe80::1%eth0]:443", "--allow-link-local"},
		"link-local multicast":           {"224.0.0.251:443", "--allow-link-local"},
		"link-local multicast IPv6":      {"[ff02::1]:443", "--allow-link-local"},
		"global multicast":               {"239.1.2.3:443", "--allow-link-local"},
		"global multicast IPv6":          {"[ff0e::1]:443", "--allow-link-local"},
		"broadcast":                      {"255.255.255.255:443", "--allow-link-local"},
		"metadata of Oracle":             {"192.0.0.192:80", "--allow-link-local"},
		"private through NAT64":          {"[64:ff9b::10.0.0.1]:443", ""},
		"public mapped":                  {"[::ffff:192.0.2.1]:443", ""},
		"public IPv6 with a zone":        {"[2001:db8::1%eth0]:443", ""},
		"unique local IPv6, the end":     {"[fdff:ffff::1]:443", ""},
		"after 6to4":                     {"[2003::1]:443", ""},
		"after the IETF's assignments":   {"[2001:200::1]:443", ""},
		"not quite ISATAP":               {"[2001:db8::5efd:127.0.0.1]:443", ""},
		"not an address":                 {"localhost:443", "not an IP address"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Policy{}.control(t.Context(), "tcp", tc.address, nil)
			if (err == nil) != (tc.wantFlag == "") || err != nil && !strings.Contains(err.Error(), tc.wantFlag) {
				t.Errorf("control(%q) = %v, want %q", tc.address, err, tc.wantFlag)
			}
			if tc.wantFlag == "" || strings.HasPrefix(tc.wantFlag, "not") {
				return
			}
			allowed := Policy{AllowLoopback: tc.wantFlag == "--allow-loopback", AllowLinkLocal: tc.wantFlag == "--allow-link-local"}
			if err := allowed.control(t.Context(), "tcp", tc.address, nil); err != nil {
				t.Errorf("control(%q) with %s = %v, want none", tc.address, tc.wantFlag, err)
			}
		})
	}
}

// The form of an address that stands for another suffices to refuse it: no flag permits it, wherever the other one is.
func TestDisguisedAddressesAreRefused(t *testing.T) {
	all := Policy{AllowHTTP: true, AllowLoopback: true, AllowLinkLocal: true}
	listed := all
	for _, network := range []string{"::/0", "0.0.0.0/0"} {
		a, err := ParseAllowed(network)
		if err != nil {
			t.Fatal(err)
		}
		listed.Allow = append(listed.Allow, a)
	}
	for name, addr := range map[string]string{
		"IPv4-compatible":                     "::192.0.2.1",
		"IPv4-compatible metadata":            "::169.254.169.254",
		"IPv4-compatible loopback":            "::127.0.0.1",
		"IPv4-translated":                     "::ffff:0:169.254.169.254",
		"6to4":                                "2002:c000:0201::1",
		"6to4 of loopback":                    "2002:7f00:0001::1",
		"a relay of 6to4":                     "192.88.99.1",
		"Teredo":                              "2001:0:c000:201::1",
		"Teredo, its server is metadata":      "2001:0:a9fe:a9fe::1",
		"ORCHID":                              "2001:20::1",
		"ISATAP":                              "2001:db8::5efe:169.254.169.254",
		"ISATAP, universal":                   "2001:db8::200:5efe:10.0.0.1",
		"ISATAP, group":                       "fd12::100:5efe:10.0.0.1",
		"NAT64 for local use":                 "64:ff9b:1::127.0.0.1",
		"NAT64 for local use, another length": "64:ff9b:1:a9fe:a9:fe00::",
		"NAT64 for local use, the end":        "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
		"beside NAT64":                        "64:ff9b::1:0:0",
		"site-local":                          "fec0::1",
		"site-local, the end":                 "feff::1",
		"discard only":                        "100::1",
		"segment routing":                     "5f00::1",
		"no meaning yet":                      "4000::1",
		"reserved IPv4":                       "240.0.0.1",
		"reserved IPv4, the end":              "255.255.255.254",
		"reserved IPv4 through NAT64":         "64:ff9b::240.0.0.1",
		"reserved IPv4 mapped":                "::ffff:240.0.0.1",
		"a zone changes nothing":              "2002:7f00:1::1%eth0",
	} {
		t.Run(name, func(t *testing.T) {
			for _, p := range []Policy{{}, all, listed} {
				if err := p.control(t.Context(), "tcp", net.JoinHostPort(addr, "443"), nil); err == nil || !strings.Contains(err.Error(), "stands for another") {
					t.Errorf("control(%s) = %v, want it refused as a disguise", addr, err)
				}
				if err := p.CheckURL("https://[" + strings.ReplaceAll(addr, "%", "%25") + "]/"); strings.Contains(addr, ":") && err == nil {
					t.Errorf("CheckURL(%s) accepted it", addr)
				}
			}
		})
	}
}

// Each byte of an ISATAP identifier counts: an address with another one is a host's own.
func TestAddressesLikeISATAPAreAllowed(t *testing.T) {
	for _, addr := range []string{"2001:db8::400:5efe:10.0.0.1", "2001:db8::1:5efe:10.0.0.1", "2001:db8::5dfe:10.0.0.1", "2001:db8::5eff:10.0.0.1", "2001:db8::5efe"} {
		if err := (Policy{}).checkAddress(netip.MustParseAddr(addr)); err != nil {
			t.Errorf("checkAddress(%s) = %v, want none", addr, err)
		}
	}
}

func FuzzDisguisedAddresses(f *testing.F) {
	for _, s := range []string{"::1", "::169.254.169.254", "2002:a9fe:a9fe::", "64:ff9b::a9fe:a9fe", "2001:db8::5efe:7f00:1", "240.0.0.1", "fec0::1", "::ffff:7f00:1"} {
		f.Add(netip.MustParseAddr(s).AsSlice())
	}
	forbidden := func(b []byte) bool {
		a := netip.AddrFrom4([4]byte(b))
		return a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast() || a.IsMulticast() || b[0] == 0 || b[0] >= 240
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		addr, ok := netip.AddrFromSlice(b)
		if !ok || (Policy{}).checkAddress(addr) != nil {
			return
		}
		if addr.Is4() {
			if forbidden(b) {
				t.Fatalf("%s was accepted", addr)
			}
			return
		}
		// Where a translator would find a forbidden address: behind a prefix that is not a host's own.
		ownPrefix := b[0]>>5 == 1 || b[0]&0xfe == 0xfc
		if !ownPrefix && forbidden(b[12:]) || b[0] == 0x20 && b[1] == 0x02 {
			t.Fatalf("%s was accepted", addr)
		}
	})
}

// Names that a resolver or a proxy reads as addresses, although Go does not.
func TestNamesThatAreAddresses(t *testing.T) {
	for _, host := range []string{
		"127.1", "2130706433", "0x7f000001", "0X7F.1", "0177.0.0.1", "127.0.0.1.", "127.0.0.0x1", "169.254.43518", "a.0x",
		"\uff11\uff12\uff17.0.0.1", "\u2460\u2461\u2466.0.0.1", "127\u30020\u30020\u30021", "localhost\u3002",
	} {
		if err := (Policy{}).CheckURL("https://" + host + "/"); err == nil || !strings.Contains(err.Error(), "usual notation") {
			t.Errorf("CheckURL(%q) = %v, want it refused for its notation", host, err)
		}
	}
	for _, host := range []string{"auth.example.com", "auth.example.com.", "1.example", "3com", "0x7f.example.com", "a.0xg", "xn--bcher-kva.example", "auth"} {
		if err := (Policy{}).CheckURL("https://" + host + "/"); err != nil {
			t.Errorf("CheckURL(%q) = %v, want none", host, err)
		}
	}
}

// The parser refuses some of these hosts in a URL, but a request may bring a URL that was not parsed.
func TestHostsAreVisibleASCII(t *testing.T) {
	for host, want := range map[string]bool{
		"auth.example.com": true, "a!b": true, "a~b": true, "a b": false, " ": false, "a\x00b": false, "a\x7fb": false, "b\u00fccher.example": false,
	} {
		if err := (Policy{}).checkDestination(&url.URL{Scheme: "https", Host: host}); (err == nil) != want {
			t.Errorf("checkDestination of %q = %v", host, err)
		}
	}
}

func TestCheckURL(t *testing.T) {
	for name, tc := range map[string]struct {
		policy Policy
		raw    string
		want   string // part of the error; "" means none
	}{
		"https":                      {Policy{}, "https://auth.example.com/oauth/token?tenant=a", ""},
		"http where allowed":         {Policy{AllowHTTP: true}, "http://auth.example.com", ""},
		"http":                       {Policy{}, "http://auth.example.com", "--allow-insecure-http"},
		"loopback literal":           {Policy{}, "https://127.0.0.1:8443/token", "--allow-loopback"},
		"loopback literal, allowed":  {development, "https://[::1]:8443/token", ""},
		"metadata literal":           {Policy{}, "https://[fd00:ec2::254]/", "--allow-link-local"},
		"malformed":                  {Policy{}, "https://a b:hunter2@[", "malformed"},
		"empty":                      {Policy{}, "", "not absolute"},
		"relative":                   {Policy{}, "/oauth/token", "not absolute"},
		"host without scheme":        {Policy{}, "//auth.example.com", "not absolute"},
		"other scheme":               {Policy{}, "ftp://auth.example.com", "unsupported scheme"},
		"opaque":                     {Policy{}, "https:auth.example.com", "no host"},
		"port without host":          {Policy{}, "https://:443/", "no host"},
		"user information":           {Policy{}, "https://u:hunter2@auth.example.com", "user information"},
		"fragment":                   {Policy{}, "https://auth.example.com/#a", "fragment"},
		"empty fragment":             {Policy{}, "https://auth.example.com/#", "fragment"},
		"port that is not a number":  {Policy{}, "https://auth.example.com:hunter2/", "malformed"},
		"control character in path":  {Policy{}, "https://auth.example.com/\n", "malformed"},
		"upper-case scheme and host": {Policy{}, "HTTPS://AUTH.EXAMPLE.COM/", ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.policy.CheckURL(tc.raw)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("CheckURL(%q) = %v, want %q", tc.raw, err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("CheckURL(%q) = %v repeats a password", tc.raw, err)
			}
		})
	}
}

func FuzzCheckURL(f *testing.F) {
	for _, s := range []string{"https://auth.example.com/token", "http://127.0.0.1", "https://[::ffff:169.254.169.254]/", "https://[fe80::1%25eth0]/", "//x#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if (Policy{}).CheckURL(raw) != nil {
			return
		}
		u, err := url.Parse(raw)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
			t.Fatalf("CheckURL(%q) accepted it", raw)
		}
		if a, err := netip.ParseAddr(u.Hostname()); err == nil && (a.Unmap().IsLoopback() || a.IsLinkLocalUnicast()) {
			t.Fatalf("CheckURL(%q) accepted a refused address", raw)
		}
	})
}

func TestBodyIsBounded(t *testing.T) {
	compressed := func(n int) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(make([]byte, n))
		_ = z.Close()
		return b.Bytes()
	}
	for name, tc := range map[string]struct {
		body    []byte
		gzip    bool
		want    int
		wantErr error
	}{
		"an empty body is whole":              {nil, false, 0, nil},
		"a body of exactly the bound":         {make([]byte, MaxBody), false, MaxBody, nil},
		"a body of one byte more":             {make([]byte, MaxBody+1), false, MaxBody, ErrBodyTooLarge},
		"a huge body":                         {make([]byte, 8*MaxBody), false, MaxBody, ErrBodyTooLarge},
		"a small compressed body is expanded": {compressed(1000), true, 1000, nil},
		"a gzip bomb":                         {compressed(64 * MaxBody), true, MaxBody, ErrBodyTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			url := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if tc.gzip {
					w.Header().Set("Content-Encoding", "gzip")
				}
				_, _ = w.Write(tc.body)
			})
			resp, err := client(t, development, nil).Get(url)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if len(got) != tc.want || !errors.Is(err, tc.wantErr) {
				t.Errorf("read %d bytes, %v; want %d, %v", len(got), err, tc.want, tc.wantErr)
			}
			if n, err := resp.Body.Read(make([]byte, 1)); tc.wantErr != nil && (n != 0 || !errors.Is(err, tc.wantErr)) {
				t.Errorf("reading on gave %d bytes, %v; want the same error again", n, err)
			}
		})
	}
}

func TestHeaderIsBounded(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Large", strings.Repeat("a", 2*maxHeaderBytes))
	})
	if resp, err := client(t, development, nil).Get(url); err == nil {
		resp.Body.Close()
		t.Fatal("Get() accepted a header of 128 KiB")
	}
}

func TestRedirectIsTheAnswer(t *testing.T) {
	hits := 0
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		hits++
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	resp, err := client(t, development, nil).Post(url, "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusTemporaryRedirect || hits != 1 {
		t.Errorf("got HTTP %d after %d requests, want 307 after 1", resp.StatusCode, hits)
	}
}

func TestTrust(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(ok))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()

	resp, err := client(t, Policy{AllowLoopback: true}, caOf(s)).Get(s.URL)
	if err != nil {
		t.Fatalf("with its authority: %v", err)
	}
	resp.Body.Close()
	if resp.ProtoMajor != 2 {
		t.Errorf("spoke %s, want HTTP/2", resp.Proto)
	}
	if resp, err := client(t, Policy{AllowLoopback: true}, nil).Get(s.URL); err == nil {
		resp.Body.Close()
		t.Error("with the system's authorities: trusted")
	}
	for name, bundle := range map[string]string{"empty": "", "text": "no PEM", "key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if _, err := (Policy{}).NewClient([]byte(bundle)); err == nil || !strings.Contains(err.Error(), "no PEM certificate") {
			t.Errorf("NewClient(%s) = %v, want an error that says so", name, err)
		}
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(ok))
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	s.StartTLS()
	defer s.Close()
	if resp, err := client(t, Policy{AllowLoopback: true}, caOf(s)).Get(s.URL); err == nil {
		resp.Body.Close()
		t.Error("TLS 1.1 was accepted")
	}
}

func TestLimitsAreSet(t *testing.T) {
	c := client(t, Policy{}, nil)
	tr := c.Transport.(*guard).base
	for name, d := range map[string]time.Duration{
		"request": c.Timeout, "TLS handshake": tr.TLSHandshakeTimeout, "header": tr.ResponseHeaderTimeout, "idle": tr.IdleConnTimeout,
	} {
		if d <= 0 || d > Timeout {
			t.Errorf("the %s timeout is %s", name, d)
		}
	}
	if tr.IdleConnTimeout >= 5*time.Second {
		t.Errorf("idle connections are kept %s, some servers close them after 5s", tr.IdleConnTimeout)
	}
	if tr.Proxy == nil {
		t.Error("the environment's proxy is ignored")
	}
}

// A connection to an address that swallows packets ends with the dialer's own limit or the caller's, whichever is
// first; here the caller's.
func TestDialHonoursTheContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.Addr().String(), nil)
	if resp, err := client(t, development, nil).Do(req); !errors.Is(err, context.DeadlineExceeded) {
		if err == nil {
			resp.Body.Close()
		}
		t.Errorf("Do() = %v, want the context's deadline", err)
	}
}
