// SPDX-License-Identifier: Apache-2.0

package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/plugin/scaffold"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// beginning is what init is asked for.
type beginning struct {
	scaffold.Wanted
	policy egress.Policy
	caFile string
	file   string
}

func (p *plugin) init() *cobra.Command {
	var b beginning
	c := &cobra.Command{
		Use:   "init --issuer URL --identifier API",
		Short: "Ask an authorization server what it can do, and write the first objects for it",
		Long: `Ask an authorization server what it can do, and write the first objects for it.

It reads the server's metadata and keys from your machine, by the operator's own rules, and
writes commented YAML of an AuthorizationServer, an APIResource, an M2MClient and a Secret to
fill in. It applies nothing and needs no cluster. On a terminal it asks for what you leave out.`,
		Example: `  kubectl m2m init --issuer https://auth.example.com \
    --identifier https://payment.example.com/api --scope payments:write > first.yaml`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error { return p.begin(c.Context(), b) },
	}
	f := c.Flags()
	f.StringVar(&b.Issuer, "issuer", "", "The server's issuer identifier, exactly as in its tokens.")
	f.StringVar(&b.Identifier, "identifier", "", "The API's identifier at the server, the aud of its tokens.")
	f.StringSliceVar(&b.Scopes, "scope", nil, "A scope of the API that the client requests. May be repeated.")
	f.StringVar(&b.Server, "server", "auth", "The name of the AuthorizationServer.")
	f.StringVar(&b.API, "api", "", "The name of the APIResource. By default it is made from the identifier.")
	f.StringVar(&b.Client, "client", "my-client", "The name of the M2MClient.")
	f.StringVar(&b.caFile, "ca-file", "", "A file with the PEM certificates that the server's certificate must chain to.")
	f.StringVarP(&b.file, "output", "o", "", "Write to this new file instead of standard output.")
	egressFlags(c, &b.policy)
	return c
}

// begin asks the user and the server, and writes the objects.
func (p *plugin) begin(ctx context.Context, b beginning) error {
	var err error
	if b.Namespace, err = p.namespace(); err != nil {
		return err
	}
	if err := p.fillIn(&b.Wanted); err != nil {
		return err
	}
	if b.API == "" {
		b.API = scaffold.NameOf(b.Identifier)
	}
	for flag, name := range map[string]string{"--server": b.Server, "--api": b.API, "--client": b.Client, "--namespace": b.Namespace} {
		if wrong := validation.IsDNS1123Label(name); len(wrong) > 0 {
			return usage{fmt.Errorf("%s %q cannot be a name: %s", flag, name, wrong[0])}
		}
	}
	var pem []byte
	if b.caFile != "" {
		if pem, err = os.ReadFile(b.caFile); err != nil {
			return fmt.Errorf("read --ca-file: %w", err)
		}
		b.CA = string(pem)
	}
	hc, err := b.policy.NewClient(pem)
	if err != nil {
		return usage{fmt.Errorf("--ca-file: %w", err)}
	}
	m, err := probe(ctx, hc, b.Issuer)
	if err != nil {
		return fmt.Errorf("ask %s: %w", b.Issuer, err)
	}
	p.sayFound(b.Issuer, m)
	text, err := scaffold.YAML(b.Wanted, m)
	if err != nil {
		return err
	}
	return p.writeNew(b.file, text)
}

// probe reads a server's metadata and keys.
func probe(ctx context.Context, hc *http.Client, issuer string) (m scaffold.Metadata, err error) {
	found, err := jwks.Discover(ctx, hc, issuer)
	if err != nil {
		return m, explainDiscovery(err)
	}
	m = scaffold.Metadata{
		TokenEndpoint: found.TokenEndpoint, JWKS: found.JWKSURI, Registration: found.RegistrationEndpoint,
		AuthenticationMethods: found.TokenEndpointAuthMethods, GrantTypes: found.GrantTypes,
	}
	if m.JWKS == "" {
		return m, nil
	}
	keys, err := jwks.Fetch(ctx, hc, m.JWKS, "", "")
	if err != nil {
		return m, fmt.Errorf("its signing keys: %w", explainDiscovery(err))
	}
	m.Keys = len(keys.Keys)
	return m, nil
}

// explainDiscovery says what to do about a server that does not answer as it should.
func explainDiscovery(err error) error {
	var e *jwks.Error
	if !errors.As(err, &e) {
		return err
	}
	advice := map[string]string{
		jwks.IssuerMismatch: "--issuer must be what the server calls itself, to the letter",
		jwks.Unreachable:    "check the address, your network, and --ca-file if the certificate is from a private authority",
		jwks.BadStatus:      "check that --issuer is complete, path included",
		jwks.Refused:        "the operator refuses such an address, too, unless it has the flag that is named",
	}[e.Reason]
	if advice == "" {
		return err
	}
	return fmt.Errorf("%w; %s", err, advice)
}

// fillIn asks for what the command line leaves out, if somebody is there to answer.
func (p *plugin) fillIn(w *scaffold.Wanted) error {
	f, ok := p.In.(*os.File)
	asks := ok && term.IsTerminal(int(f.Fd()))
	in := bufio.NewReader(p.In)
	for _, q := range []struct {
		flag, question string
		into           *string
	}{
		{"--issuer", "Issuer of the authorization server, such as https://auth.example.com", &w.Issuer},
		{"--identifier", "Identifier of the API, such as https://payment.example.com/api", &w.Identifier},
	} {
		if *q.into != "" {
			continue
		}
		if !asks {
			return usage{fmt.Errorf("set %s: standard input is no terminal, so nothing can be asked", q.flag)}
		}
		_, _ = fmt.Fprintf(p.ErrOut, "%s: ", q.question)
		line, err := in.ReadString('\n')
		if *q.into = strings.TrimSpace(line); *q.into == "" {
			return usage{errors.Join(fmt.Errorf("set %s", q.flag), err)}
		}
	}
	if asks && len(w.Scopes) == 0 {
		_, _ = fmt.Fprint(p.ErrOut, "Scopes that the client requests, separated by spaces (none if empty): ")
		line, _ := in.ReadString('\n')
		w.Scopes = strings.Fields(line)
	}
	slices.Sort(w.Scopes)
	w.Scopes = slices.Compact(w.Scopes)
	return nil
}

// sayFound says what a server's metadata says.
func (p *plugin) sayFound(issuer string, m scaffold.Metadata) {
	vendor, parameter := scaffold.Vendor(issuer, m)
	say := func(format string, args ...any) {
		_, _ = fmt.Fprintln(p.ErrOut, text.Line(fmt.Sprintf(format, args...)))
	}
	if vendor != "" {
		say("Found %s at %s.", vendor, issuer)
	} else {
		say("Found an authorization server at %s.", issuer)
	}
	say("  token endpoint     %s", orNone(m.TokenEndpoint))
	say("  signing keys       %d at %s", m.Keys, orNone(m.JWKS))
	say("  grant types        %s", orNone(strings.Join(m.GrantTypes, ", ")))
	say("  authentication     %s", orNone(strings.Join(m.AuthenticationMethods, ", ")))
	say("  registration       %s", orNone(m.Registration))
	say("  audienceParameter  %s. %s.", parameter.Value, parameter.Why)
	for _, w := range scaffold.Warnings(m) {
		say("Beware: %s.", w)
	}
}

func orNone(s string) string {
	if s == "" {
		return "(not said)"
	}
	return s
}

// writeNew writes a file that does not exist, or standard output if there is no name.
func (p *plugin) writeNew(file string, text []byte) error {
	if file == "" {
		_, err := p.Out.Write(text)
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the user's own file
	if err != nil {
		return fmt.Errorf("write -o: %w", err)
	}
	if _, err := f.Write(text); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}
