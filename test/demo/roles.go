// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/testing/payment"
)

// runPayment is the payment process: an API that checks every token with the
// files in its bundle directory. It knows neither Kubernetes nor the
// authorization server. The first line of out says where it listens. It ends
// when its standard input ends.
func runPayment(args []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("payment", flag.ContinueOnError)
	bundle := flags.String("bundle", "", "directory of the verification bundle")
	if err := flags.Parse(args); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{Handler: payment.API(&payment.Verifier{Dir: *bundle, Now: time.Now}), ReadHeaderTimeout: 5 * time.Second}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		_ = server.Close()
	}()
	if _, err := fmt.Fprintf(out, "http://%s\n", listener.Addr()); err != nil {
		return err
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// runCart is the cart process. It calls the payment API at regular intervals, each
// time with the token that its file holds then, and reports each call on out, as a
// line of JSON. It ends after -count calls, or when its standard input ends.
func runCart(args []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("cart", flag.ContinueOnError)
	url := flags.String("url", "", "the payment API")
	file := flags.String("token", "", "file with the access token")
	count := flags.Int("count", 0, "how many calls; 0: until standard input ends")
	interval := flags.Duration("interval", 50*time.Millisecond, "from one call to the next")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(ended)
	}()
	ticker := time.NewTicker(*interval)
	defer ticker.Stop()
	report := json.NewEncoder(out)
	for n := 1; ; n++ {
		if err := report.Encode(payment.Pay(*url, *file)); err != nil {
			return err
		}
		if n == *count {
			return nil
		}
		select {
		case <-ended:
			return nil
		case <-ticker.C:
		}
	}
}

// runCall calls the payment API once, with the token on standard input or without one
// if there is none, and prints the answer.
func runCall(args []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("call", flag.ContinueOnError)
	url := flags.String("url", "", "the payment API")
	method := flags.String("method", http.MethodPost, "POST to pay, GET to list the payments")
	if err := flags.Parse(args); err != nil {
		return err
	}
	token, err := io.ReadAll(io.LimitReader(in, 64<<10))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, payment.Request(*method, *url, strings.TrimSpace(string(token))))
	return err
}
