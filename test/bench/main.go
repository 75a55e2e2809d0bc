// SPDX-License-Identifier: Apache-2.0

// The bench measures what the operator does with many clients: on a real
// kube-apiserver and etcd, with an authorization server, the operator and a floor
// as processes of their own, whose memory and CPU are read from the kernel. The
// floor is a bare loop that does the same token requests and API writes and
// nothing else, in the same run: what is compared with it holds on any machine.
//
// Run it with make bench, or make bench N=500 for a quick look. It prints a table
// for each scenario and writes out/bench.json and out/bench.md. See docs/scaling.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	outDir      = "out"
	figuresPath = outDir + "/bench.json"
	tablePath   = outDir + "/bench.md"
	fullSize    = 10_000 // clients
)

func main() {
	roles := map[string]func([]string, io.Reader, io.Writer) error{"issuer": runIssuer, "floor": runFloor, "bundle-floor": runBundleFloor}
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		if err := roles[os.Args[1]](os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[1], err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// scenario is one part of the benchmark. It finds the cluster as the previous
// one left it, so scenarios that need the large fleet come first.
type scenario struct {
	name  string
	title string
	run   func(*bench, context.Context) error
}

func scenarios() []scenario {
	return []scenario{
		{"cold start", "All clients appear at once", (*bench).coldStart},
		{"restart", "The operator starts anew, all tokens are valid", (*bench).restart},
		{"steady state", "Tokens are refreshed", (*bench).steadyState},
		{"leader killed", "A second replica takes over", (*bench).leaderKilled},
		{"memory", "Beside Secrets and pods of others", (*bench).memory},
		{"outage", "The authorization server fails, and returns", (*bench).outage},
		{"shards", "Three instances share the clients", (*bench).shards},
		{"slow server", "One authorization server is slow, another is not", (*bench).slowServer},
		{"noisy neighbour", "Other namespaces do what they can to be a nuisance", (*bench).noisyNeighbour},
		{"key rotation", "The issuer's new key reaches all namespaces", (*bench).keyRotation},
		{"gateways", "The issuer's new key reaches the gateways of all APIs", (*bench).gatewayPolicies},
		{"trust-manager", "trust-manager does the same", (*bench).compareTrustManager},
	}
}

// bench is the state of a run.
type bench struct {
	n       int
	cluster *local.Cluster
	issuer  *issuer
	floor   yardstick // of the fleet's size
	fleet   fleet
	bundles fanOut // of the key rotation
	watch   *observer
	report  *report
	dir     string

	operators []*operator
	cleanups  []func() error
}

// full reports whether the run has the size that the aims are for, and is not a quick look.
func (b *bench) full() bool { return b.n >= fullSize }

func run(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	n := flags.Int("n", fullSize, "clients; fewer for a quick look")
	only := flags.String("only", "", "scenarios to run, separated by commas; empty: all. Those that need the fleet need the cold start")
	guard := flags.Bool("guard", false, "fail where a count is not exactly what it must be")
	if err := flags.Parse(args); err != nil {
		return err
	}
	b := &bench{n: *n, report: &report{out: os.Stdout}}
	defer func() { err = errors.Join(err, b.cleanUp()) }()
	chosen := slices.DeleteFunc(scenarios(), func(s scenario) bool {
		return *only != "" && !slices.Contains(strings.Split(*only, ","), s.name)
	})
	title := fmt.Sprintf("%d clients on %s", b.n, machine())
	b.say("m2m-operator: %s", title)
	if err := b.prepare(ctx); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	for _, s := range chosen {
		b.say("\n%s: %s", s.name, s.title)
		started := time.Now()
		if err := s.run(b, ctx); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", s.name, err), b.explain())
		}
		b.report.show(s.name)
		b.say("  (%.0f s)", time.Since(started).Seconds())
		if err := errors.Join(b.report.save(figuresPath), b.report.table(tablePath, title)); err != nil {
			return err
		}
	}
	b.say("\nfigures in %s and %s", figuresPath, tablePath)
	if wrong := b.report.wrong(); *guard && len(wrong) > 0 {
		return fmt.Errorf("counts that no machine changes have changed:\n  %s", strings.Join(wrong, "\n  "))
	}
	return nil
}

func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.report.out, format+"\n", args...)
}

func (b *bench) onCleanUp(f func() error) { b.cleanups = append(b.cleanups, f) }

func (b *bench) cleanUp() (err error) {
	for _, f := range slices.Backward(b.cleanups) {
		err = errors.Join(err, f())
	}
	return err
}

// explain returns the end of the processes' logs as an error.
func (b *bench) explain() error {
	logs, _ := filepath.Glob(filepath.Join(outDir, "bench-*.log"))
	var errs []error
	for _, path := range logs {
		errs = append(errs, fmt.Errorf("the end of %s:\n%s", path, local.LastLines(path, 15)))
	}
	return errors.Join(errs...)
}
