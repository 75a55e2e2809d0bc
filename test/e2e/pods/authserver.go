// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/test/e2e/wire"
)

// runAuthServer is the authorization server. It knows no API and no client until
// the suite registers them, and misbehaves when the suite tells it to.
func runAuthServer(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("authserver", flag.ContinueOnError)
	url := flags.String("url", "", "where clients find it, and its issuer identifier")
	lifetime := flags.Duration("token-lifetime", time.Minute, "how long tokens live, unless a client's live for longer")
	if err := flags.Parse(args); err != nil {
		return err
	}
	line, err := openLine(fmt.Sprintf(":%d", wire.TLSPort))
	if err != nil {
		return err
	}
	server, err := oidc.Start(oidc.Options{TLS: true, URL: *url, Listener: line, TokenLifetime: *lifetime})
	if err != nil {
		return errors.Join(err, line.Close())
	}
	defer server.Close()

	mux := report()
	mux.HandleFunc("GET /ca", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(server.CAPEM()) })
	mux.HandleFunc("GET /requests", func(w http.ResponseWriter, r *http.Request) { answer(w, requests(server), nil) })
	mux.HandleFunc("PUT /client", order(func(c oidc.Client) (any, error) { return nil, server.SetClient(c) }))
	mux.HandleFunc("PUT /resource", order(func(r wire.Resource) (any, error) {
		server.SetResource(r.ID, r.Scopes...)
		return nil, nil
	}))
	mux.HandleFunc("POST /rotate", order(func(r wire.Rotation) (any, error) { return rotate(server, r) }))
	mux.HandleFunc("POST /outage", order(func(o wire.Outage) (any, error) {
		return nil, line.cutFor(time.Duration(o.Seconds * float64(time.Second)))
	}))
	return serve(ctx, map[int]http.Handler{wire.ReportPort: mux})
}

func requests(server *oidc.Server) []wire.TokenRequest {
	all := []wire.TokenRequest{}
	for _, r := range server.TokenRequests() {
		all = append(all, wire.TokenRequest{At: r.At, ClientID: r.ClientID, Status: r.Status, Error: r.Error, TokenHash: r.TokenHash})
	}
	return all
}

func rotate(server *oidc.Server, r wire.Rotation) (wire.Key, error) {
	var err error
	if r.Hard {
		err = server.RotateKeyHard()
	} else {
		_, err = server.RotateKey()
	}
	return wire.Key{ID: server.KeyID(), At: time.Now()}, err
}
