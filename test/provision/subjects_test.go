// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/provision/logto/management"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

const (
	logtoName        = "logto"
	registrationName = "registration"

	read   = "payments:read"
	write  = "payments:write"
	refund = "payments:refund"
)

// subject is a server to test: an existing one, or a stand-in that starts for each scenario.
type subject struct {
	name, what string
	issuer     string // of one that exists
	policy     egress.Policy
	open       func(*testing.T) *tenant
}

// tenant is the server of a scenario.
type tenant struct {
	issuer, caPEM string
	stated        bool // from the environment: others may use it, too

	// of a Logto
	endpoint, managementAPI string
	clientID, clientSecret  string

	// of a server with dynamic registration
	initialToken      string
	resources         []string // those that it knows; empty: any
	scopes            [3]string
	audienceParameter v1alpha1.AudienceParameter

	double       *logtotest.Server // nil unless it is that
	registration *oidc.Server      // nil unless it is that
}

const prefix = "M2M_PROVISION_"

// chooseSubjects returns the servers to test. An error names the variable to correct.
func chooseSubjects(getenv func(string) string, readFile func(string) ([]byte, error)) ([]*subject, error) {
	var bad []error
	get := func(name string) string { return strings.TrimSpace(getenv(prefix + name)) }
	fail := func(name, format string, args ...any) {
		bad = append(bad, fmt.Errorf("%s%s %s", prefix, name, fmt.Sprintf(format, args...)))
	}
	ca := ""
	if path := get("CA_FILE"); path != "" {
		content, err := readFile(path)
		if err != nil {
			fail("CA_FILE", "names a file that cannot be read: %v", err)
		}
		ca = string(content)
	}
	all := []*subject{
		{name: logtoName, what: "stand-in: internal/testing/logto", policy: egress.Policy{AllowLoopback: true}, open: startLogto},
		{name: registrationName, what: "stand-in: internal/testing/oidc (go-oidc)", policy: egress.Policy{AllowLoopback: true}, open: startRegistration},
	}
	if t := statedLogto(get, fail); t != nil {
		all[0].state(t, t.endpoint, ca, fail)
	}
	if t := statedRegistration(get, fail); t != nil {
		all[1].state(t, t.issuer, ca, fail)
	}
	return all, errors.Join(bad...)
}

// anyOf reports whether one of the variables is set.
func anyOf(get func(string) string, names ...string) bool {
	for _, n := range names {
		if get(n) != "" {
			return true
		}
	}
	return false
}

func statedLogto(get func(string) string, fail func(name, format string, args ...any)) *tenant {
	required := []string{"LOGTO_ENDPOINT", "LOGTO_CLIENT_ID", "LOGTO_CLIENT_SECRET"}
	if !anyOf(get, append(required, "LOGTO_ISSUER", "LOGTO_MANAGEMENT_API")...) {
		return nil
	}
	for _, name := range required {
		if get(name) == "" {
			fail(name, "is not set, and others of Logto's are")
		}
	}
	t := &tenant{
		endpoint: strings.TrimSuffix(get("LOGTO_ENDPOINT"), "/"), issuer: get("LOGTO_ISSUER"), managementAPI: get("LOGTO_MANAGEMENT_API"),
		clientID: get("LOGTO_CLIENT_ID"), clientSecret: get("LOGTO_CLIENT_SECRET"),
	}
	if t.issuer == "" {
		t.issuer = t.endpoint + "/oidc"
	}
	if t.managementAPI == "" {
		t.managementAPI = management.Identifier(t.endpoint)
	}
	return t
}

func statedRegistration(get func(string) string, fail func(name, format string, args ...any)) *tenant {
	rest := []string{"REGISTRATION_INITIAL_ACCESS_TOKEN", "REGISTRATION_RESOURCES", "REGISTRATION_SCOPES", "REGISTRATION_AUDIENCE_PARAMETER"}
	t := &tenant{issuer: get("REGISTRATION_ISSUER"), initialToken: get(rest[0]), resources: strings.Fields(get(rest[1]))}
	if t.issuer == "" {
		if anyOf(get, rest...) {
			fail("REGISTRATION_ISSUER", "is not set, and others of the registration's are")
		}
		return nil
	}
	if n := len(t.resources); n != 0 && n != 2 {
		fail(rest[1], "names %d APIs, want 2", n)
	}
	if scopes := strings.Fields(get(rest[2])); len(scopes) == len(t.scopes) {
		t.scopes = [3]string(scopes)
	} else if len(scopes) != 0 {
		fail(rest[2], "names %d scopes, want %d", len(scopes), len(t.scopes))
	}
	switch t.audienceParameter = v1alpha1.AudienceParameter(get(rest[3])); t.audienceParameter {
	case "", v1alpha1.AudienceParameterResource, v1alpha1.AudienceParameterAudience, v1alpha1.AudienceParameterNone:
	default:
		fail(rest[3], "is %q, not one of Resource, Audience, None", t.audienceParameter)
	}
	return t
}

// state makes a subject of the server that the environment names.
func (s *subject) state(t *tenant, address, ca string, fail func(name, format string, args ...any)) {
	name := strings.ToUpper(s.name) + map[string]string{logtoName: "_ENDPOINT", registrationName: "_ISSUER"}[s.name]
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		fail(name, "is no http or https URL")
		return
	}
	if t.scopes == [3]string{} {
		t.scopes = [3]string{read, write, refund}
	}
	t.caPEM, t.stated = ca, true
	s.what, s.issuer = "named by the environment", t.issuer
	// A user who names such an address means it.
	s.policy = egress.Policy{AllowHTTP: u.Scheme == "http", AllowLoopback: true}
	s.open = func(*testing.T) *tenant { return t }
}

// startLogto starts a Logto for one scenario alone.
func startLogto(t *testing.T) *tenant {
	t.Helper()
	l, err := logtotest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		if v := l.Violations(); len(v) > 0 {
			t.Errorf("Logto would not have understood:\n%s", strings.Join(v, "\n"))
		}
	})
	return &tenant{
		endpoint: l.Endpoint(), issuer: l.Issuer(), managementAPI: logtotest.ManagementAPI, caPEM: string(l.CAPEM()),
		clientID: l.ManagementClientID(), clientSecret: l.ManagementClientSecret(), scopes: [3]string{read, write, refund}, double: l,
	}
}

// startRegistration starts a server with dynamic registration for one scenario alone.
func startRegistration(t *testing.T) *tenant {
	t.Helper()
	token := rand.Text()
	s, err := oidc.Start(oidc.Options{
		TLS: true, DynamicRegistration: &oidc.DynamicRegistration{InitialAccessToken: token, RotateTokens: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return &tenant{
		issuer: s.Issuer(), caPEM: string(s.CAPEM()), initialToken: token, scopes: [3]string{read, write, refund}, registration: s,
	}
}

func TestVariables(t *testing.T) {
	realLogto := map[string]string{"LOGTO_ENDPOINT": "https://auth.example.com/", "LOGTO_CLIENT_ID": "id", "LOGTO_CLIENT_SECRET": "hush"}
	with := func(base map[string]string, more ...string) map[string]string {
		vars := map[string]string{}
		for k, v := range base {
			vars[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			vars[more[i]] = more[i+1]
		}
		return vars
	}
	const standIns, named = "stand-in", "named by the environment"
	for name, tc := range map[string]struct {
		vars                map[string]string
		logto, registration string // what is tested
		issuer              string // of the Logto
		wantErr             string
	}{
		"no variables: two stand-ins":            {nil, standIns, standIns, "", ""},
		"a Logto":                                {realLogto, named, standIns, "https://auth.example.com/oidc", ""},
		"a Logto with a domain of its own":       {with(realLogto, "LOGTO_ISSUER", "https://id.example.com/oidc"), named, standIns, "https://id.example.com/oidc", ""},
		"a server with registration":             {with(nil, "REGISTRATION_ISSUER", "http://localhost:3000"), standIns, named, "", ""},
		"a Logto without a secret":               {with(realLogto, "LOGTO_CLIENT_SECRET", " "), "", "", "", "M2M_PROVISION_LOGTO_CLIENT_SECRET is not set"},
		"a Logto's issuer alone":                 {with(nil, "LOGTO_ISSUER", "https://a"), "", "", "", "M2M_PROVISION_LOGTO_ENDPOINT is not set"},
		"an endpoint that is not a URL":          {with(realLogto, "LOGTO_ENDPOINT", "auth.example.com"), "", "", "", "M2M_PROVISION_LOGTO_ENDPOINT is no http or https URL"},
		"an initial access token without issuer": {with(nil, "REGISTRATION_INITIAL_ACCESS_TOKEN", "x"), "", "", "", "M2M_PROVISION_REGISTRATION_ISSUER is not set"},
		"one API only":                           {with(nil, "REGISTRATION_ISSUER", "https://a", "REGISTRATION_RESOURCES", "a"), "", "", "", "M2M_PROVISION_REGISTRATION_RESOURCES names 1 APIs"},
		"one scope only":                         {with(nil, "REGISTRATION_ISSUER", "https://a", "REGISTRATION_SCOPES", "a"), "", "", "", "M2M_PROVISION_REGISTRATION_SCOPES names 1 scopes"},
		"an unknown audience parameter":          {with(nil, "REGISTRATION_ISSUER", "https://a", "REGISTRATION_AUDIENCE_PARAMETER", "aud"), "", "", "", `AUDIENCE_PARAMETER is "aud"`},
		"a CA file that is not there":            {with(realLogto, "CA_FILE", "missing"), "", "", "", "M2M_PROVISION_CA_FILE names a file"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := chooseSubjects(
				func(v string) string { return tc.vars[strings.TrimPrefix(v, prefix)] },
				func(string) ([]byte, error) { return nil, errors.New("no such file") })
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Errorf("error %v, want %q in it", err, tc.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			what := []string{}
			for _, s := range got {
				before, _, _ := strings.Cut(s.what, ":")
				what = append(what, before)
			}
			if diff := cmp.Diff([]string{tc.logto, tc.registration}, what); diff != "" || got[0].issuer != tc.issuer {
				t.Errorf("the issuer is %q; tested are (-want +got):\n%s", got[0].issuer, diff)
			}
		})
	}
}
