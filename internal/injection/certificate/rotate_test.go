// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const serverName = "m2m-operator-webhook.m2m-operator-system.svc"

var start = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// replica simulates one replica and the API server: what it writes it sees, serves and
// trusts at once.
type replica struct {
	t        *testing.T
	data     map[string][]byte
	serving  *pair
	caBundle []byte
	now      time.Time
}

func newReplica(t *testing.T) *replica { return &replica{t: t, now: start} }

// step rotates until nothing changes.
func (r *replica) step() {
	r.t.Helper()
	for range 3 {
		want, err := rotate(r.data, r.serving, r.caBundle, serverName, r.now)
		if err != nil {
			r.t.Fatal(err)
		}
		same := maps.EqualFunc(r.data, want, bytes.Equal) && bytes.Equal(r.caBundle, want[trusted])
		r.data, r.caBundle = want, want[trusted]
		if r.serving = parsePair(want[servedCert], want[servedKey], serverName, r.now); r.serving == nil {
			r.t.Fatal("what is served cannot be served")
		}
		if !trusts(r.caBundle, r.serving.cert()) {
			r.t.Fatal("what is served is not trusted")
		}
		if same {
			return
		}
	}
	r.t.Fatal("it does not come to rest")
}

func (r *replica) at(d time.Duration) *replica {
	r.t.Helper()
	r.now = start.Add(d)
	r.step()
	return r
}

// state lists the serving certificate, its successor and the trusted ones, each by its age
// at creation.
func (r *replica) state() string {
	named := func(all []*x509.Certificate) string {
		var names []string
		for _, c := range all {
			names = append(names, c.NotBefore.Add(backdated).Sub(start).String())
		}
		return strings.Join(names, " ")
	}
	return "serves " + named(certificates(r.data[servedCert])) + "; next " + named(certificates(r.data[successorCert])) +
		"; trusts " + named(certificates(r.data[trusted]))
}

func (r *replica) is(want string) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.state()); diff != "" {
		r.t.Errorf("after %s (-want +got):\n%s", r.now.Sub(start), diff)
	}
}

// TestALife follows certificates through two years.
func TestALife(t *testing.T) {
	r := newReplica(t)
	r.at(0).is("serves 0s; next ; trusts 0s")
	// When a third of 365 days and an hour is left.
	renewal := 365*day - (365*day+backdated)/3
	r.at(renewal - time.Second).is("serves 0s; next ; trusts 0s")
	due := renewal + time.Second
	r.at(due).is("serves 0s; next 5839h40m1s; trusts 0s 5839h40m1s")
	r.at(due + time.Hour - time.Second).is("serves 0s; next 5839h40m1s; trusts 0s 5839h40m1s")
	r.at(due + time.Hour).is("serves 5839h40m1s; next ; trusts 0s 5839h40m1s")
	r.at(365*day - time.Second).is("serves 5839h40m1s; next ; trusts 0s 5839h40m1s")
	r.at(365 * day).is("serves 5839h40m1s; next ; trusts 5839h40m1s")
	r.at(due + renewal + time.Second).is("serves 5839h40m1s; next 11679h20m2s; trusts 5839h40m1s 11679h20m2s")
	// No reconciliation for half a year: the serving certificate has expired.
	r.at(due + 366*day).is("serves 11679h20m2s; next ; trusts 11679h20m2s")
	// No reconciliation for two years: all certificates have expired.
	r.at(4 * 365 * day).is("serves 35040h0m0s; next ; trusts 35040h0m0s")
}

// TestWhatIsMade verifies a new certificate as the API server does.
func TestWhatIsMade(t *testing.T) {
	r := newReplica(t).at(0)
	c := r.serving.cert()
	if got, want := []time.Time{c.NotBefore, c.NotAfter}, []time.Time{start.Add(-time.Hour), start.Add(365 * day)}; !cmp.Equal(got, want) {
		t.Errorf("valid from and to %v, want %v", got, want)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.caBundle)
	if _, err := c.Verify(x509.VerifyOptions{DNSName: serverName, Roots: roots, CurrentTime: start}); err != nil {
		t.Error(err)
	}
	if c.IsCA {
		t.Error("the certificate can sign others")
	}
}

// TestASuccessorWaitsUntilItIsTrusted: an hour is not enough if the caBundle could not be
// written.
func TestASuccessorWaitsUntilItIsTrusted(t *testing.T) {
	r := newReplica(t).at(0).at(300 * day)
	r.is("serves 0s; next 7200h0m0s; trusts 0s 7200h0m0s")
	want, err := rotate(r.data, r.serving, r.data[servedCert], serverName, start.Add(310*day))
	if err != nil {
		t.Fatal(err)
	}
	r.data = want
	r.is("serves 0s; next 7200h0m0s; trusts 0s 7200h0m0s")
	r.at(310 * day).is("serves 7200h0m0s; next ; trusts 0s 7200h0m0s")
}

// TestDamage damages the Secret in every way while a successor waits. A running replica
// keeps its certificate. A replica that has just started serves what it finds, or makes a
// new certificate.
func TestDamage(t *testing.T) {
	other, err := newPair("other.example.com", start)
	if err != nil {
		t.Fatal(err)
	}
	const renewed = "serves 0s; next 7200h0m0s; trusts 0s 7200h0m0s" // as it was
	for name, tc := range map[string]struct {
		damage        func(data map[string][]byte)
		serving, anew string // ten minutes later, of a replica that serves and of a new one
	}{
		"nothing":                      {damage: func(map[string][]byte) {}, serving: renewed, anew: renewed},
		"another key is left alone":    {damage: func(d map[string][]byte) { d["note"] = []byte("hands off") }, serving: renewed, anew: renewed},
		"the certificate is no PEM":    {damage: func(d map[string][]byte) { d[servedCert] = []byte("x") }, serving: renewed, anew: "serves 7200h0m0s; next ; trusts 0s 7200h0m0s"},
		"the key is no PEM":            {damage: func(d map[string][]byte) { d[servedKey] = []byte("x") }, serving: renewed, anew: "serves 7200h0m0s; next ; trusts 0s 7200h0m0s"},
		"the key is gone":              {damage: func(d map[string][]byte) { delete(d, servedKey) }, serving: renewed, anew: "serves 7200h0m0s; next ; trusts 0s 7200h0m0s"},
		"the key is of another":        {damage: func(d map[string][]byte) { d[servedKey] = d[successorKey] }, serving: renewed, anew: "serves 7200h0m0s; next ; trusts 0s 7200h0m0s"},
		"the pair is for another name": {damage: func(d map[string][]byte) { d[servedCert], d[servedKey] = other.certPEM, other.keyPEM }, serving: renewed, anew: "serves 7200h0m0s; next ; trusts 0s 7200h0m0s"},
		"the successor is no PEM":      {damage: func(d map[string][]byte) { d[successorCert] = []byte("x") }, serving: "serves 0s; next 7200h10m0s; trusts 0s 7200h0m0s 7200h10m0s", anew: "serves 0s; next 7200h10m0s; trusts 0s 7200h0m0s 7200h10m0s"},
		"the successor's key is gone":  {damage: func(d map[string][]byte) { delete(d, successorKey) }, serving: "serves 0s; next 7200h10m0s; trusts 0s 7200h0m0s 7200h10m0s", anew: "serves 0s; next 7200h10m0s; trusts 0s 7200h0m0s 7200h10m0s"},
		"the successor is the present": {damage: func(d map[string][]byte) { d[successorCert], d[successorKey] = d[servedCert], d[servedKey] }, serving: "serves 0s; next 7200h10m0s; trusts 0s 7200h0m0s 7200h10m0s", anew: "serves 0s; next 7200h10m0s; trusts 0s 7200h0m0s 7200h10m0s"},
		"ca.crt is gone":               {damage: func(d map[string][]byte) { delete(d, trusted) }, serving: renewed, anew: renewed},
		"ca.crt is no PEM":             {damage: func(d map[string][]byte) { d[trusted] = []byte("x") }, serving: renewed, anew: renewed},
		"ca.crt has a stranger":        {damage: func(d map[string][]byte) { d[trusted] = append(d[trusted], other.certPEM...) }, serving: renewed, anew: renewed},
		"the Secret is deleted":        {damage: func(d map[string][]byte) { clear(d) }, serving: "serves 0s; next 7200h10m0s; trusts 0s 7200h10m0s", anew: "serves 7200h10m0s; next ; trusts 7200h10m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReplica(t).at(0).at(300 * day)
			r.is(renewed)
			tc.damage(r.data)
			fresh := &replica{t: t, data: maps.Clone(r.data), caBundle: r.caBundle}
			fresh.at(300*day + 10*time.Minute).is(tc.anew)
			r.at(300*day + 10*time.Minute).is(tc.serving)
			r.at(300*day + 2*time.Hour)
			if bytes.Equal(r.data[successorCert], r.data[servedCert]) || len(r.data[successorCert]) > 0 || r.serving.cert().NotBefore.Before(start.Add(299*day)) {
				t.Errorf("the successor was not promoted: %s", r.state())
			}
			if _, left := r.data["note"]; left != (name == "another key is left alone") {
				t.Error("the Secret has a key of others, or has lost it")
			}
		})
	}
}

// TestDeletionRenews: deleting the Secret leads to a new key, without a gap, however young
// the present one is.
func TestDeletionRenews(t *testing.T) {
	r := newReplica(t).at(0)
	clear(r.data)
	r.at(day).is("serves 0s; next 24h0m0s; trusts 0s 24h0m0s")
	r.at(day + time.Hour).is("serves 24h0m0s; next ; trusts 0s 24h0m0s")
}

// TestAPairOfSomebodyElse: a foreign pair is served, but not before the API server trusts
// it. A replica that has just started has nothing else to serve.
func TestAPairOfSomebodyElse(t *testing.T) {
	r := newReplica(t).at(0)
	theirs, err := newPair(serverName, start.Add(day))
	if err != nil {
		t.Fatal(err)
	}
	r.data[servedCert], r.data[servedKey] = theirs.certPEM, theirs.keyPEM
	fresh := &replica{t: t, data: maps.Clone(r.data), caBundle: r.caBundle}
	r.at(day).is("serves 0s; next 24h0m0s; trusts 0s 24h0m0s")
	r.at(day + time.Hour).is("serves 24h0m0s; next ; trusts 0s 24h0m0s")
	fresh.at(day).is("serves 24h0m0s; next ; trusts 0s 24h0m0s")

	// Nor has a replica whose own pair the API server does not trust.
	alone := newReplica(t).at(0)
	alone.data[servedCert], alone.data[servedKey], alone.caBundle = theirs.certPEM, theirs.keyPEM, nil
	alone.at(day).is("serves 24h0m0s; next ; trusts 0s 24h0m0s")
}

// TestAPromotionIsNotUndone: a replica that has not seen the new caBundle keeps it.
func TestAPromotionIsNotUndone(t *testing.T) {
	r := newReplica(t).at(0)
	late, before := r.serving, r.caBundle
	r.at(300 * day).at(301 * day).is("serves 7200h0m0s; next ; trusts 0s 7200h0m0s")
	want, err := rotate(r.data, late, before, serverName, r.now)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.EqualFunc(r.data, want, bytes.Equal) {
		r.data = want
		t.Errorf("it was: %s", r.state())
	}
}

// TestACertificateFromTheFuture: it is not served, because a clock was wrong or is.
func TestACertificateFromTheFuture(t *testing.T) {
	r := newReplica(t).at(10 * day)
	fresh := &replica{t: t, data: r.data, caBundle: r.caBundle}
	fresh.at(0).is("serves 0s; next ; trusts 0s")
}

// TestOnlyCertificatesAreTrusted: caBundles are parsed as the API server parses them.
func TestOnlyCertificatesAreTrusted(t *testing.T) {
	p, err := newPair(serverName, start)
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string]bool{"CERTIFICATE": true, "TRUSTED CERTIFICATE": false} {
		bundle := append(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}),
			pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: p.cert().Raw})...)
		if got := trusts(bundle, p.cert()); got != want {
			t.Errorf("a %s is trusted: %v", kind, got)
		}
	}
}

// TestALateReplica: the pair of a replica that lags stays trusted, although it is no longer
// in the Secret.
func TestALateReplica(t *testing.T) {
	late := newReplica(t).at(0)
	r := newReplica(t).at(day)
	late.now = r.now
	want, err := rotate(r.data, late.serving, r.caBundle, serverName, r.now)
	if err != nil {
		t.Fatal(err)
	}
	r.data = want
	r.is("serves 24h0m0s; next ; trusts 0s 24h0m0s")
}

// TestTheBundleIsBounded damages the Secret again and again.
func TestTheBundleIsBounded(t *testing.T) {
	r := newReplica(t).at(0).at(300 * day)
	for i := range 30 {
		delete(r.data, successorKey)
		r.at(300*day + time.Duration(i)*time.Minute)
	}
	if n := len(certificates(r.caBundle)); n != mostTrusted {
		t.Errorf("%d certificates are trusted, want %d", n, mostTrusted)
	}
	if !trusts(r.caBundle, r.serving.cert()) {
		t.Error("the one that is served is not")
	}
}

// TestABundleIsAnnouncedTwice follows the caBundle of one webhook.
func TestABundleIsAnnouncedTwice(t *testing.T) {
	for name, tc := range map[string]struct {
		present string
		settled bool
		want    string
	}{
		"a configuration without one":             {"", false, "new\n"},
		"a former one":                            {"old", true, "new\n"},
		"a former one that was announced once":    {"old\n", true, "new\n"},
		"announced a moment ago":                  {"new\n", false, ""},
		"announced when the API server was ready": {"new\n", true, "new"},
		"announced twice":                         {"new", true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := string(announcement([]byte(tc.present), []byte("new"), tc.settled)); got != tc.want {
				t.Errorf("%q becomes %q, want %q", tc.present, got, tc.want)
			}
		})
	}
}

// FuzzRotate: whatever the Secret contains, rotate returns a usable and trusted pair, and
// changes nothing the second time.
func FuzzRotate(f *testing.F) {
	made, err := newPair(serverName, start)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(made.certPEM, made.keyPEM, made.certPEM, made.keyPEM, made.certPEM)
	f.Add([]byte(nil), made.keyPEM, made.certPEM, []byte("-----BEGIN"), bytes.Repeat(made.certPEM, 12))
	f.Fuzz(func(t *testing.T, cert, key, nextCert, nextKey, bundle []byte) {
		data := map[string][]byte{servedCert: cert, servedKey: key, successorCert: nextCert, successorKey: nextKey, trusted: bundle}
		for _, serving := range []*pair{nil, made} {
			want, err := rotate(data, serving, bundle, serverName, start.Add(day))
			if err != nil {
				t.Fatal(err)
			}
			p, err := tls.X509KeyPair(want[servedCert], want[servedKey])
			if err != nil {
				t.Fatal(err)
			}
			if !valid(p.Leaf, serverName, start.Add(day)) || !trusts(want[trusted], p.Leaf) {
				t.Error("what is served is not valid, or not trusted")
			}
			again, err := rotate(want, serving, bundle, serverName, start.Add(day))
			if err != nil {
				t.Fatal(err)
			}
			if !maps.EqualFunc(want, again, bytes.Equal) {
				t.Error("the second look changes the Secret")
			}
		}
	})
}
