// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/testing/payment"
	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	// patience is how long the demo waits for a refresh to come due and take
	// effect.
	patience = 40 * time.Second

	wantedRefreshes = 3
)

// askPayment shows the three possible answers.
func (d *demo) askPayment(ctx context.Context) error {
	if err := d.startKubelet(ctx); err != nil {
		return err
	}
	d.say("a stand-in for the kubelet shows these as files, at once (a real one: within a second where it matters, else within 60 to 90 s)")
	if err := d.startPayment(); err != nil {
		return err
	}
	d.say("payment started at %s; all it knows is %s", d.paymentURL, relative(d.volume("payment", "verify", keyName)))

	got, err := d.callOnce(d.calls)
	if err != nil || got.Status != http.StatusOK {
		return errors.Join(fmt.Errorf("cart calls payment: %s, want 200", got), err)
	}
	d.say("cart, which reads %s, pays: %s", relative(d.volume("cart", "token")), got)

	good, err := d.token(ctx, cartName)
	if err != nil {
		return err
	}
	weak, err := d.token(ctx, reportingName)
	if err != nil {
		return err
	}
	_, claims, err := decodeToken(good)
	if err != nil {
		return err
	}
	forged, err := d.server.ForgeToken(claims)
	if err != nil {
		return err
	}
	for _, ask := range []struct {
		what, method, token string
		want                int
	}{
		{"with the token of reporting, to read", http.MethodGet, weak, http.StatusOK},
		{"with the token of reporting, to pay", http.MethodPost, weak, http.StatusForbidden},
		{"with a forged token: cart's claims, the right kid, another key", http.MethodPost, forged, http.StatusUnauthorized},
		{"without a token", http.MethodPost, "", http.StatusUnauthorized},
	} {
		got := payment.Request(ask.method, d.paymentURL, ask.token)
		if got.Status != ask.want {
			return fmt.Errorf("%s: %s, want %d", ask.what, got, ask.want)
		}
		d.say("%s: %s", ask.what, got)
	}
	return nil
}

// rotateKeys lets cart call all the time while the server rotates its keys.
func (d *demo) rotateKeys(ctx context.Context) error {
	before, started := d.tokens.count(), time.Now()
	var err error
	if d.calls.ready, err = d.readySince(ctx); err != nil {
		return err
	}
	if _, err := d.startCart(); err != nil {
		return err
	}
	rotations := 0
	for range 2 {
		kid, err := d.server.RotateKey()
		if err != nil {
			return err
		}
		rotations++
		d.say("the server signs with the new key %s from now on, without notice", short(kid))
		if err := d.followKey(ctx, kid); err != nil {
			return err
		}
	}

	kid, err := d.server.AnnounceKey()
	if err != nil {
		return err
	}
	d.say("the server announces the key %s, and still signs with %s", short(kid), short(d.server.KeyID()))
	if err := d.await(ctx, func() error {
		ids, err := d.bundleKeys(ctx)
		if err == nil && !slices.Contains(ids, kid) {
			err = fmt.Errorf("the bundle holds %s, not %s", short(ids...), short(kid))
		}
		return err
	}); err != nil {
		return err
	}
	d.say("the bundle has it, before any token needs it")
	if err := d.server.PromoteKey(); err != nil {
		return err
	}
	rotations++
	d.say("the server signs with the announced key from now on")
	if err := d.followKey(ctx, kid); err != nil {
		return err
	}
	if err := d.await(ctx, func() error {
		if n := d.tokens.count() - before; n < wantedRefreshes {
			return fmt.Errorf("only %d refreshes", n)
		}
		return nil
	}); err != nil {
		return err
	}
	refreshes := d.tokens.count() - before
	d.figures["rotations"], d.figures["refreshes"] = rotations, refreshes
	d.say("in %.0f s: %d refreshes, %d key rotations, %d calls so far, %d of them failed",
		time.Since(started).Seconds(), refreshes, rotations, d.calls.total.Load(), d.calls.failed.Load())
	return nil
}

// await waits for a condition, and fails early if something else goes wrong meanwhile.
func (d *demo) await(ctx context.Context, check func() error) error {
	var broken error
	err := local.Until(ctx, patience, func() error {
		if broken = d.check(); broken != nil {
			return nil
		}
		return check()
	})
	return errors.Join(broken, err)
}

// followKey waits until the token in the cart's Secret is signed with a key, and
// shows how the token and the bundle changed.
func (d *demo) followKey(ctx context.Context, kid string) error {
	previous, err := d.token(ctx, cartName)
	if err != nil {
		return err
	}
	if err := d.await(ctx, func() error {
		token, err := d.token(ctx, cartName)
		if err == nil && tokenKeyID(token) != kid {
			err = fmt.Errorf("the token is signed with %s, not with %s", short(tokenKeyID(token)), short(kid))
		}
		return err
	}); err != nil {
		return err
	}
	ids, err := d.bundleKeys(ctx)
	if err != nil {
		return err
	}
	for _, want := range []string{kid, tokenKeyID(previous)} {
		if !slices.Contains(ids, want) {
			return fmt.Errorf("the bundle holds %s, and %s is not among them", short(ids...), short(want))
		}
	}
	d.say("refreshed: the token was signed with %s and is signed with %s; the bundle holds both, of %s",
		short(tokenKeyID(previous)), short(kid), short(ids...))
	return nil
}

// endCalls lets cart make some more calls, stops it, and checks that its client was Ready all the time.
func (d *demo) endCalls(ctx context.Context) error {
	atLeast := d.calls.total.Load() + 20
	if err := d.await(ctx, func() error {
		if n := d.calls.total.Load(); n < atLeast {
			return fmt.Errorf("only %d calls so far", n)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, p := range slices.Clone(d.processes) {
		if p.Name() == "cart" {
			if err := d.ends(p); err != nil {
				return err
			}
		}
	}
	since, err := d.readySince(ctx)
	if err != nil {
		return err
	}
	if !since.Equal(d.calls.ready) {
		return fmt.Errorf("M2MClient cart was not ready for a while, until %s", since.Format(time.TimeOnly))
	}
	d.say("M2MClient cart has been Ready all the time, since %s", since.Format(time.TimeOnly))
	d.say("cart made %d calls, and %d failed", d.calls.total.Load(), d.calls.failed.Load())
	return nil
}
