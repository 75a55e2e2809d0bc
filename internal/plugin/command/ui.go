// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/utils/clock"

	"github.com/m2m-operator/m2m-operator/internal/plugin/cluster"
	"github.com/m2m-operator/m2m-operator/internal/plugin/web"
)

const (
	// headerTimeout and answerTimeout bound what a caller of the site can hold up.
	headerTimeout = 5 * time.Second
	answerTimeout = 90 * time.Second
	// goodbye is how long answers may still take when the command ends.
	goodbye = time.Second
)

func (p *plugin) ui() *cobra.Command {
	var all, open bool
	var address string
	var port uint16
	c := &cobra.Command{
		Use:   "ui",
		Short: "Show servers, APIs, clients and their access as a page in your browser, live",
		Long: `Show servers, APIs, clients and their access as a page in your browser, live.

The page is served on this machine only, at an address that nobody can guess, and for as long
as the command runs. It reads with your own rights, changes nothing and shows no token.`,
		Example: `  kubectl m2m ui -A                       # everything; open the address that it prints
  kubectl m2m ui -n shop --open           # what has to do with a namespace, in the browser at once`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			ip, err := loopback(address)
			if err != nil {
				return err
			}
			ns := ""
			if !all {
				if ns, err = p.namespace(); err != nil {
					return err
				}
			}
			return p.serveUI(c.Context(), net.JoinHostPort(ip.String(), strconv.Itoa(int(port))), ns, open)
		},
	}
	c.Flags().BoolVarP(&all, "all-namespaces", "A", false, "Show all namespaces.")
	c.Flags().StringVar(&address, "address", "127.0.0.1", "The loopback address to listen on, such as 127.0.0.1 or ::1.")
	c.Flags().Uint16Var(&port, "port", 0, "The port to listen on. 0 takes any that is free.")
	c.Flags().BoolVar(&open, "open", false, "Open the page in your browser.")
	for flag, values := range map[string][]string{"address": {"127.0.0.1", "::1"}, "port": nil} {
		// It fails only for a flag that does not exist.
		_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	return c
}

// loopback returns an address of this machine that no other machine reaches.
func loopback(address string) (net.IP, error) {
	if address == "localhost" {
		address = "127.0.0.1"
	}
	ip := net.ParseIP(address)
	if ip == nil || !ip.IsLoopback() {
		return nil, usage{fmt.Errorf("--address %s is not a loopback address, such as 127.0.0.1 or ::1: the page is for you only", address)}
	}
	return ip, nil
}

// readings returns how the site reads what has to do with a namespace, "" for all.
func (p *plugin) readings(ns string) (web.Read, error) {
	c, err := p.client()
	if err != nil {
		return nil, err
	}
	q := cluster.Question{Pods: true}
	if ns != "" {
		q.Namespaces = []string{ns}
	}
	return func(ctx context.Context) (web.Reading, error) {
		inv, missing, err := cluster.Reader{Client: c}.Read(ctx, q)
		if err != nil {
			return web.Reading{}, err
		}
		m, err := web.Build(ctx, inv, web.Options{Namespace: ns, Missing: missing, Now: p.now()})
		return web.Reading{Inventory: inv, Model: m}, err
	}, nil
}

// serveUI serves the page until the context ends.
func (p *plugin) serveUI(ctx context.Context, address, ns string, open bool) error {
	read, err := p.readings(ns)
	if err != nil {
		return err
	}
	// What is wrong from the beginning is better said here than on a page.
	if _, err := read(ctx); err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen: %w; choose another --port", err)
	}
	site, err := web.NewSite(ctx, listener.Addr(), read, clock.RealClock{})
	if err != nil {
		_ = listener.Close()
		return err
	}
	server := &http.Server{Handler: site, ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: answerTimeout, MaxHeaderBytes: 16 << 10}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()

	page := url.URL{Scheme: "http", Host: listener.Addr().String(), Path: site.Path()}
	_, err = fmt.Fprintf(p.Out, "%s\nThe address is for you only. Press Ctrl-C to stop.\n", &page)
	if err == nil && open {
		if remove, failed := openPage(ctx, page.String()); failed != nil {
			_, err = fmt.Fprintf(p.ErrOut, "The browser could not be opened: %v\n", failed)
		} else {
			defer remove()
		}
	}
	if err == nil {
		select {
		case err = <-ended:
		case <-ctx.Done():
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	if server.Shutdown(last) != nil {
		_ = server.Close()
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// openPage opens a page in the browser. Every user of the machine can see the arguments of a
// program, so the browser is given a file that only this user can read and that leads on.
func openPage(ctx context.Context, page string) (remove func(), err error) {
	dir, err := os.MkdirTemp("", "kubectl-m2m-")
	if err != nil {
		return nil, err
	}
	remove = func() { _ = os.RemoveAll(dir) }
	file := filepath.Join(dir, "open.html")
	leads := `<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer"><meta http-equiv="refresh" content="0;url=` + page + `"><title>m2m</title>`
	if err = os.WriteFile(file, []byte(leads), 0o600); err == nil {
		name, args := opener(runtime.GOOS)
		c := exec.CommandContext(context.WithoutCancel(ctx), name, append(args, file)...) //nolint:gosec // a fixed program, and a file of ours
		if err = c.Start(); err == nil {
			go func() { _ = c.Wait() }() // it may run for as long as the browser does
		}
	}
	if err != nil {
		remove()
		return nil, err
	}
	return remove, nil
}

// opener returns the program that opens a file in the browser.
func opener(system string) (name string, args []string) {
	switch system {
	case "darwin":
		return "open", nil
	case "windows":
		return "rundll32", []string{"url.dll,FileProtocolHandler"}
	}
	return "xdg-open", nil
}
