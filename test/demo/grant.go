// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// takeGrantAway removes the API's grants, and restores them: the API's owner
// decides, and the decision reaches the caller's pods.
func (d *demo) takeGrantAway(ctx context.Context) error {
	grants, err := d.setGrants(ctx, nil)
	if err != nil {
		return err
	}
	d.say("APIResource payments/payment-api grants nothing to other namespaces any more")
	var granted *metav1.Condition
	if err := d.await(ctx, func() (err error) {
		granted, err = d.isGranted(ctx, metav1.ConditionFalse)
		return err
	}); err != nil {
		return err
	}
	d.say("M2MClient shop/cart: %s", conditionLine(granted))
	if err := d.await(ctx, func() error { return d.tokenIsThere(ctx, false) }); err != nil {
		return err
	}
	data, err := d.cluster.SecretData(ctx, cartName.Namespace, "cart-token")
	if err != nil {
		return err
	}
	d.say("the token is withdrawn: keys in Secret shop/cart-token: %s", names(data))
	if err := d.await(ctx, func() error { return d.registeredAre(reportingName.Name) }); err != nil {
		return err
	}
	d.say("and the server has, of our clients, %s: one that may do nothing is not registered", clientList(d.server.RegisteredClients()))
	got, err := d.callOnce(newCalls()) // this call must fail
	if err != nil {
		return err
	}
	if got.Status == http.StatusOK {
		return fmt.Errorf("cart calls payment: %s, want no token", got)
	}
	d.say("cart cannot call payment: its file is gone (a copy of the last token would be good until it expires, for %s at most)", tokenLifetime)

	if _, err := d.setGrants(ctx, grants); err != nil {
		return err
	}
	d.say("the grant is given back")
	if err := d.await(ctx, func() (err error) {
		if granted, err = d.isGranted(ctx, metav1.ConditionTrue); err != nil {
			return err
		}
		return errors.Join(d.unready(ctx), d.tokenIsThere(ctx, true))
	}); err != nil {
		return err
	}
	d.say("M2MClient shop/cart: %s", conditionLine(granted))
	if got, err = d.callOnce(d.calls); err != nil || got.Status != http.StatusOK {
		return errors.Join(fmt.Errorf("cart calls payment: %s, want 200", got), err)
	}
	d.say("cart pays again: %s", got)
	return nil
}

// setGrants replaces the grants of the payment API, and returns the previous ones.
func (d *demo) setGrants(ctx context.Context, grants []v1alpha1.Grant) (previous []v1alpha1.Grant, err error) {
	var api v1alpha1.APIResource
	if err := d.cluster.Client.Get(ctx, apiName, &api); err != nil {
		return nil, err
	}
	previous, api.Spec.Grants = api.Spec.Grants, grants
	return previous, d.cluster.Client.Update(ctx, &api)
}

// isGranted returns the cart's Granted condition once it has a status.
func (d *demo) isGranted(ctx context.Context, want metav1.ConditionStatus) (*metav1.Condition, error) {
	var cart v1alpha1.M2MClient
	if err := d.cluster.Client.Get(ctx, cartName, &cart); err != nil {
		return nil, err
	}
	c := meta.FindStatusCondition(cart.Status.Conditions, v1alpha1.ConditionGranted)
	if c == nil {
		return nil, errors.New("the M2MClient cart has no condition Granted")
	}
	if c.Status != want {
		return nil, errors.New(conditionLine(c))
	}
	return c, nil
}

// tokenIsThere returns an error unless the token is both in the cart's Secret
// and in the cart's file, or in neither.
func (d *demo) tokenIsThere(ctx context.Context, want bool) error {
	data, err := d.cluster.SecretData(ctx, cartName.Namespace, "cart-token")
	if err != nil {
		return err
	}
	_, inSecret := data[keyName]
	_, err = os.Stat(filepath.Join(d.volume("cart", "token"), keyName))
	if inFile := err == nil; inSecret != want || inFile != want {
		return fmt.Errorf("token in the Secret: %t, in the file: %t, want %t", inSecret, inFile, want)
	}
	return nil
}
