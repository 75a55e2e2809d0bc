// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

func allow(t *testing.T, p Policy, list ...string) Policy {
	t.Helper()
	for _, s := range list {
		a, err := ParseAllowed(s)
		if err != nil {
			t.Fatal(err)
		}
		p.Allow = append(p.Allow, a)
	}
	return p
}

func TestParseAllowed(t *testing.T) {
	for _, s := range []string{
		"auth.example.com", "AUTH.example.com.", "*.example.com", "*.example.com:8443", "auth", "auth:1", "auth_1.example.com",
		"10.0.0.0/8", "10.1.2.3", "10.1.2.3:65535", "2001:db8::/32", "2001:db8::1", "[2001:db8::1]:443", "0.0.0.0/0", "::/0",
		strings.Repeat("a.", 125) + "com", // 253 characters
	} {
		if _, err := ParseAllowed(s); err != nil {
			t.Errorf("ParseAllowed(%q) = %v, want none", s, err)
		}
	}
	for _, s := range []string{
		"", "*", "*.", "*.*.example.com", "auth*.example.com", "a..b", "-a.example", "https://auth.example.com", "auth.example.com/path",
		"auth.example.com:0", "auth.example.com:65536", "auth.example.com:https", "auth.example.com:", ":443", "user@auth.example.com",
		"10.0.0.1/8", "10.0.0.0/33", "10.0.0", "127.1", "0x7f.1", "::ffff:10.0.0.0/104", "[2001:db8::1]", "a b", "bücher.example",
		strings.Repeat("a.", 125) + "coms",
	} {
		if a, err := ParseAllowed(s); err == nil {
			t.Errorf("ParseAllowed(%q) = %+v, want an error", s, a)
		}
	}
}

// What the URL alone can decide is decided without resolving a name or making a connection.
func TestAllowListBeforeTheDial(t *testing.T) {
	const refused = "--egress-allow"
	for name, tc := range map[string]struct {
		list []string
		url  string
		want string // in the error; "" means that nothing refuses yet
	}{
		"without a list":                       {nil, "https://anything.example", ""},
		"the host":                             {[]string{"auth.example.com"}, "https://auth.example.com/token", ""},
		"the host in another spelling":         {[]string{"auth.example.com"}, "https://AUTH.Example.com./token", ""},
		"another host":                         {[]string{"auth.example.com"}, "https://evil.example.com/token", refused},
		"a host that ends in the name":         {[]string{"auth.example.com"}, "https://xauth.example.com", refused},
		"a host that begins with the name":     {[]string{"auth.example.com"}, "https://auth.example.com.evil.example", refused},
		"below the domain":                     {[]string{"*.example.com"}, "https://a.b.example.com", ""},
		"the domain itself":                    {[]string{"*.example.com"}, "https://example.com", refused},
		"a domain with the same end":           {[]string{"*.example.com"}, "https://evilexample.com", refused},
		"the port":                             {[]string{"auth.example.com:8443"}, "https://auth.example.com:8443", ""},
		"another port":                         {[]string{"auth.example.com:8443"}, "https://auth.example.com", refused},
		"the default port":                     {[]string{"auth.example.com:443"}, "https://auth.example.com", ""},
		"an address of the network":            {[]string{"10.1.0.0/16"}, "https://10.1.2.3", ""},
		"an address outside":                   {[]string{"10.1.0.0/16"}, "https://10.2.0.1", refused},
		"an address, and only names are on it": {[]string{"*.example.com"}, "https://10.2.0.1", refused},
		"the address, mapped":                  {[]string{"10.1.2.3"}, "https://[::ffff:10.1.2.3]", ""},
		"the address at another port":          {[]string{"10.1.2.3:8443"}, "https://10.1.2.3", refused},
		"a name that may be in the network":    {[]string{"10.1.0.0/16"}, "https://auth.internal", ""},
		"a name, and the network's port":       {[]string{"10.1.2.3:8443"}, "https://auth.internal", refused},
		"the list permits no loopback":         {[]string{"127.0.0.0/8"}, "https://127.0.0.1", "--allow-loopback"},
		"the list permits no http":             {[]string{"auth.example.com"}, "http://auth.example.com", "--allow-insecure-http"},
	} {
		t.Run(name, func(t *testing.T) {
			err := allow(t, Policy{}, tc.list...).CheckURL(tc.url)
			var blocked *BlockedError
			if (err == nil) != (tc.want == "") || err != nil && (!errors.As(err, &blocked) || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("CheckURL(%q) = %v, want %q", tc.url, err, tc.want)
			}
		})
	}
}

func TestAllowListAtTheDial(t *testing.T) {
	var hits atomic.Int64
	server := serve(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	named := "http://localhost:" + u.Port()
	for name, tc := range map[string]struct {
		list    []string
		url     string
		allowed bool
	}{
		"by name, whatever it resolves to":    {[]string{"localhost"}, named, true},
		"by the address it resolves to":       {[]string{"127.0.0.0/8", "::1"}, named, true},
		"it resolves to another network":      {[]string{"192.0.2.0/24"}, named, false},
		"to the network, but at another port": {[]string{"127.0.0.1:1", "[::1]:1"}, named, false},
		"at this port":                        {[]string{"127.0.0.1:" + u.Port()}, named, true},
		"the address as it is written":        {[]string{"127.0.0.1"}, server, true},
		"only its name is allowed":            {[]string{"localhost"}, server, false},
	} {
		t.Run(name, func(t *testing.T) {
			before := hits.Load()
			resp, err := client(t, allow(t, development, tc.list...), nil).Post(tc.url, "text/plain", strings.NewReader("secret"))
			if err == nil {
				resp.Body.Close()
			}
			var blocked *BlockedError
			switch {
			case tc.allowed && err != nil:
				t.Errorf("Post() = %v, want success", err)
			case !tc.allowed && (!errors.As(err, &blocked) || !strings.Contains(err.Error(), "--egress-allow")):
				t.Errorf("Post() = %v, want a BlockedError that names --egress-allow", err)
			case !tc.allowed && hits.Load() != before:
				t.Error("the server was reached")
			}
		})
	}
}

// The mark of one request's destination does not help the next request to another destination.
func TestAllowListIsAppliedToEachDestination(t *testing.T) {
	first, second := serve(t, ok), serve(t, ok)
	c := client(t, allow(t, development, "localhost", "192.0.2.0/24"), nil)
	resp, err := c.Get(strings.Replace(first, "127.0.0.1", "localhost", 1))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for _, url := range []string{first, second} {
		if resp, err := c.Get(url); err == nil {
			resp.Body.Close()
			t.Errorf("Get(%s) succeeded, by address", url)
		}
	}
}

// A proxy resolves names itself, so only listed names are reachable through it. The proxy itself need not be listed.
func TestAllowListThroughAProxy(t *testing.T) {
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked = append(asked, r.Host) }))
	defer proxy.Close()
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, allow(t, development, "auth.example.com", "127.0.0.0/8", "192.0.2.7"), nil)
	c.Transport.(*guard).base.Proxy = func(*http.Request) (*url.URL, error) { return at, nil }
	for _, host := range []string{"auth.example.com", "192.0.2.7"} {
		resp, err := c.Get("http://" + host)
		if err != nil {
			t.Errorf("Get(%s) = %v, want success", host, err)
			continue
		}
		resp.Body.Close()
	}
	for _, host := range []string{"other.example.com", "192.0.2.8", net.JoinHostPort("other.example.com", at.Port())} {
		if resp, err := c.Get("http://" + host); err == nil {
			resp.Body.Close()
			t.Errorf("Get(%s) succeeded", host)
		}
	}
	if got := strings.Join(asked, " "); got != "auth.example.com 192.0.2.7" {
		t.Errorf("the proxy was asked for %q", got)
	}
}

func FuzzParseAllowed(f *testing.F) {
	for _, s := range []string{"auth.example.com", "*.example.com:8443", "10.0.0.0/8", "[::1]:443", "::", "*"} {
		f.Add(s, "https://auth.example.com/")
	}
	f.Fuzz(func(t *testing.T, s, raw string) {
		a, err := ParseAllowed(s)
		if err != nil {
			return
		}
		if a.name == "" == !a.network.IsValid() {
			t.Fatalf("ParseAllowed(%q) = %+v: neither a name nor a network, or both", s, a)
		}
		if err := (Policy{Allow: []Allowed{a}}).CheckURL(raw); err == nil && (Policy{}).CheckURL(raw) != nil {
			t.Fatalf("%q allows %q, which is refused without it", s, raw)
		}
	})
}
