// SPDX-License-Identifier: Apache-2.0

// The demo tells the whole story on one machine. It runs a real kube-apiserver
// and etcd, an OAuth 2.0 authorization server, the operator as a process with
// the operator's permissions, and two services: cart calls payment while tokens
// are refreshed and signing keys rotated. If there is an Envoy, it checks tokens
// in front of payment. Everything that the demo shows it has read from the API
// server. At the end it does what docs/tutorial.md says. Run it with make
// demo; KEEP=1 leaves it running.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	outDir      = "out"
	figuresPath = outDir + "/demo.json"
	logPath     = outDir + "/demo-operator.log"
)

func main() {
	// The services are this program again, in processes of their own.
	roles := map[string]func([]string, io.Reader, io.Writer) error{"cart": runCart, "payment": runPayment, "call": runCall}
	if len(os.Args) > 1 {
		role, ok := roles[os.Args[1]]
		if !ok {
			fmt.Fprintf(os.Stderr, "demo: there is no role %q; run it without arguments\n", os.Args[1])
			os.Exit(2)
		}
		if err := role(os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[1], err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the demo at once
	if err := newDemo().run(ctx, os.Getenv("KEEP") == "1"); err != nil {
		os.Exit(1)
	}
}

// demo is the state of the story.
type demo struct {
	*console
	figures  figures
	cleanups []func() error // undone at the end, in this order

	dir          string
	cluster      *local.Cluster
	server       *oidc.Server
	initialToken string
	processes    []*local.Process // processes that must be running
	paymentURL   string
	tokens       tokenLog
	calls        *calls
	envoy        *envoySearch
	failed       chan error // errors that happen outside the steps
}

func newDemo() *demo {
	return &demo{console: newConsole(os.Stdout), figures: figures{"ok": false}, calls: newCalls(), failed: make(chan error, 1)}
}

// step is one part of the story.
type step struct {
	key, title string
	run        func(context.Context) error
}

func (d *demo) story() []step {
	return []step{
		{"control_plane", "A control plane", d.bringUpCluster},
		{"authorization_server", "An authorization server", d.bringUpServer},
		{"operator", "The operator", d.bringUpOperator},
		{"manifests", "The manifests: cart calls payment, and the server knows neither", d.applyStory},
		{"ready", "Everything is ready, and registered at the server", d.waitUntilReady},
		{"token_and_bundle", "The token, and what verifies it", d.showTokenAndBundle},
		{"answers", "Cart calls payment: 200, 403 and 401", d.askPayment},
		{"rotation", "Tokens are refreshed and signing keys rotated while cart calls 20 times a second", d.rotateKeys},
		{"client_secret", "The client secret is replaced, and the calls go on", d.replaceClientSecret},
		{"grant", "The grant is taken away, and given back", d.takeGrantAway},
		{"gateway", "A gateway checks tokens in front of payment, and a key is revoked", d.showGateway},
		{"deletion", "A client is deleted", d.deleteClient},
		{"tutorial", "The tutorial, command by command", d.followTutorial},
	}
}

// run tells the story, writes its figures, and cleans up whatever happens.
func (d *demo) run(ctx context.Context, keep bool) error {
	d.plain("%s", d.bold("m2m-operator: apply an M2MClient, and a fresh, verified token is in its Secret"))
	if err := d.prepare(); err != nil {
		d.plain("demo: %v", err)
		return err
	}
	d.envoy = findEnvoy(envoyScript)
	d.onCleanUp(d.envoy.stop)
	err := d.tell(ctx)
	d.figures["calls"], d.figures["failed_calls"] = d.calls.total.Load(), d.calls.failed.Load()
	d.figures["seconds"] = seconds(time.Since(d.start))
	d.figures["ok"] = err == nil
	err = errors.Join(err, d.figures.write(figuresPath))
	switch {
	case ctx.Err() != nil:
		d.plain("\n%s", d.bold("Interrupted"))
	case err != nil:
		d.explain(err)
	default:
		d.summarize()
		if keep {
			err = d.keepRunning(ctx)
		}
	}
	if cleanupErr := d.cleanUp(); cleanupErr != nil {
		d.plain("demo: clean up: %v", cleanupErr)
		err = errors.Join(err, cleanupErr)
	}
	return err
}

// prepare removes what an earlier run left over, and makes a directory for what
// only this run needs.
func (d *demo) prepare() error {
	for _, path := range []string{figuresPath, logPath} {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	if err := os.MkdirAll(outDir, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(outDir, "demo-")
	if err != nil {
		return err
	}
	d.dir, err = filepath.Abs(dir)
	d.onCleanUp(func() error { return os.RemoveAll(dir) })
	return err
}

// tell runs the steps one after the other, until one fails.
func (d *demo) tell(ctx context.Context) error {
	for _, s := range d.story() {
		d.title(s.title)
		start := time.Now()
		err := s.run(ctx)
		d.figures["step_"+s.key+"_seconds"] = seconds(time.Since(start))
		if err == nil {
			err = d.check()
		}
		if err != nil {
			d.figures["failed_step"] = s.key
			return err
		}
	}
	return nil
}

// check returns what has gone wrong outside the steps: a process ended, the
// kubelet failed, or a call failed.
func (d *demo) check() error {
	var errs []error
	for _, p := range d.processes {
		errs = append(errs, p.Running())
	}
	select {
	case err := <-d.failed:
		errs = append(errs, err)
	default:
	}
	return errors.Join(append(errs, d.calls.check())...)
}

func (d *demo) onCleanUp(f func() error) { d.cleanups = slices.Insert(d.cleanups, 0, f) }

func (d *demo) cleanUp() (err error) {
	for _, f := range d.cleanups {
		err = errors.Join(err, f())
	}
	return err
}

// runs stops a process at the end, and treats its early end as an error.
func (d *demo) runs(p *local.Process) {
	d.processes = append(d.processes, p)
	d.onCleanUp(p.Stop)
}

// ends stops a process that has done its part.
func (d *demo) ends(p *local.Process) error {
	d.processes = slices.DeleteFunc(d.processes, func(other *local.Process) bool { return other == p })
	return p.Stop()
}

// explain describes a failure: the error, the clients' conditions, and the end
// of the operator's log.
func (d *demo) explain(err error) {
	d.plain("\n%s\n%v", d.bold("The demo failed"), err)
	if d.cluster == nil || d.cluster.Client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var clients v1alpha1.M2MClientList
	if err := d.cluster.Client.List(ctx, &clients); err != nil {
		d.plain("the M2MClients cannot be read: %v", err)
	}
	for _, c := range clients.Items {
		d.plain("\nM2MClient %s/%s", c.Namespace, c.Name)
		for _, condition := range c.Status.Conditions {
			d.plain("  %s", conditionLine(&condition))
		}
	}
	d.plain("\nThe end of %s\n%s", logPath, local.LastLines(logPath, 30))
}

// summarize prints the figures.
func (d *demo) summarize() {
	d.plain("\n%s", d.bold("Summary"))
	for _, s := range d.story() {
		d.plain("  %-82s %6.1f s", s.title, d.figures["step_"+s.key+"_seconds"])
	}
	d.plain("  %-82s %6.1f s", "all", d.figures["seconds"])
	d.plain("  %d calls, %d failed; %d refreshes, %d key rotations; figures in %s", d.figures["calls"], d.figures["failed_calls"],
		d.figures["refreshes"], d.figures["rotations"], figuresPath)
}

// keepRunning leaves everything running until Ctrl-C.
func (d *demo) keepRunning(ctx context.Context) error {
	if _, err := d.startCart(); err != nil {
		return err
	}
	d.plain("\n%s", d.bold("Everything is running, and cart goes on calling payment. Ctrl-C ends it. In another terminal:"))
	d.plain("\n  . %s", environmentPath)
	for _, example := range []string{
		"get m2m -A",
		"m2m status -A",
		"-n shop describe m2mclient cart",
		"-n shop get m2mclient cart -w",
		"-n payments get configmap m2m-verify.payments.payment-api -o yaml",
		"-n shop get events",
	} {
		d.plain("  kubectl %s", example)
	}
	d.plain("\n  tail -f %s\n\n%s begins here.\n", logPath, tutorialPage)
	<-ctx.Done()
	d.plain("\n%d calls, %d failed", d.calls.total.Load(), d.calls.failed.Load())
	return nil
}
