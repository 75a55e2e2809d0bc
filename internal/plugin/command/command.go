// SPDX-License-Identifier: Apache-2.0

// Package command is kubectl m2m: it turns arguments into questions, has the cluster read with
// the user's own rights, and writes the answers.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	clientgo "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/draw"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// Exit codes, as docs/kubectl-m2m.md lists them.
const (
	CodeFailed  = 1 // the question could not be asked
	CodeUsage   = 2 // the command line is wrong
	CodeNo      = 3 // the answer is no: not ready, not allowed, changes found
	CodeUnknown = 4 // rights are missing, so there is no answer
)

// Exit ends the command with a code. What there is to say was written.
type Exit struct{ Code int }

// Error says the code.
func (e *Exit) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// usage is an error of the command line.
type usage struct{ error }

// Code returns the exit code for what a command returned, and what is left to tell the user. Every error of a command
// comes through here. It may quote what a tenant or a server wrote, so it stays on one line.
func Code(err error) (code int, message string) {
	var exit *Exit
	var wrong usage
	switch {
	case err == nil:
		return 0, ""
	case errors.As(err, &exit):
		return exit.Code, ""
	case errors.As(err, &wrong):
		return CodeUsage, "error: " + text.Line(err.Error()) + "\nSee kubectl m2m --help"
	}
	return CodeFailed, "error: " + text.Line(err.Error())
}

// plugin is what all commands share.
type plugin struct {
	genericiooptions.IOStreams
	config *genericclioptions.ConfigFlags
	now    func() time.Time
}

// New returns the command. The clock is an argument, so that tests stop it.
func New(streams genericiooptions.IOStreams, now func() time.Time) *cobra.Command {
	p := &plugin{IOStreams: streams, config: genericclioptions.NewConfigFlags(true), now: now}
	root := &cobra.Command{
		Use:   "m2m",
		Short: "See and ask about the tokens of m2m-operator",
		Long: `See and ask about the tokens of m2m-operator.

It reads with your own rights. Where you may not read something, it says which right is
missing and shows the rest. It never shows a token unless you ask for it with --raw.

Exit codes: 0 yes, 1 failed, 2 wrong usage, 3 no, 4 cannot tell, because rights are missing.`,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl m2m"},
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArguments,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.ErrOut)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage{err} })
	p.config.AddFlags(root.PersistentFlags())
	root.AddCommand(p.status(), p.ui(), p.access(), p.why(), p.whoUses(), p.token(), p.verify(), p.check(), p.refresh(), p.rotate(), p.init())
	root.AddCommand(p.report(), p.version())
	return root
}

func noArguments(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	names := []string{}
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	if len(names) == 0 {
		return usage{fmt.Errorf("%s takes no arguments, but got %q", c.CommandPath(), args[0])}
	}
	return usage{fmt.Errorf("there is no command %q; the commands are %s", args[0], strings.Join(names, ", "))}
}

// scheme has the kinds that the plugin reads.
func scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, clientgo.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err) // the types are compiled in
		}
	}
	return s
}

// client returns a client with the user's rights.
func (p *plugin) client() (client.Client, error) {
	cfg, err := p.config.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("no cluster to ask: %w; set --kubeconfig or --context", err)
	}
	cfg.QPS, cfg.Burst = -1, 0 // a handful of requests; the API server has limits of its own
	c, err := client.New(cfg, client.Options{Scheme: scheme()})
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", cfg.Host, err)
	}
	return c, nil
}

// namespace returns the namespace of the command line, or else that of the context.
func (p *plugin) namespace() (string, error) {
	ns, _, err := p.config.ToRawKubeConfigLoader().Namespace()
	return ns, err
}

// style returns how to write: with colours on a terminal only.
func (p *plugin) style() draw.Style {
	_, plain := os.LookupEnv("NO_COLOR")
	return draw.Style{Now: p.now(), Colour: !plain && p.terminal()}
}

func (p *plugin) terminal() bool {
	f, ok := p.Out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// write writes a value as JSON or YAML.
func write(w io.Writer, format string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	b = text.JSON(b)
	if format == "yaml" {
		if b, err = yaml.JSONToYAML(b); err != nil {
			return err
		}
	} else {
		b = append(b, '\n')
	}
	_, err = w.Write(b)
	return err
}

// oneOf checks the value of -o.
func oneOf(format string, formats ...string) error {
	for _, f := range formats {
		if format == f {
			return nil
		}
	}
	return usage{fmt.Errorf("-o %s is not known here; choose one of %s", format, strings.Join(formats[1:], ", "))}
}

// aboutAPI completes a command whose argument is an API.
func (p *plugin) aboutAPI(c *cobra.Command, format *string, show func(ctx context.Context, api types.NamespacedName) error) {
	name, _, _ := strings.Cut(c.Use, " ")
	c.Args = func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usage{fmt.Errorf("%s takes one API, such as payments/payment-api, but got %d arguments", name, len(args))}
		}
		return oneOf(*format, "", "json", "yaml")
	}
	c.ValidArgsFunction = p.complete(apiNames)
	c.RunE = func(c *cobra.Command, args []string) error {
		ns, err := p.namespace()
		if err != nil {
			return err
		}
		api, err := parseName(args[0], ns)
		if err != nil {
			return err
		}
		return show(c.Context(), api)
	}
}

// every calls a function at once and then again and again until the context ends.
func every(ctx context.Context, interval time.Duration, f func() error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := f(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
