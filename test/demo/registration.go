// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/test/local"
)

// registered returns the server's registrations for a client of this name. The
// operator names them by namespace, name and cluster.
func (d *demo) registered(name string) (found []oidc.RegisteredClient) {
	for _, c := range d.server.RegisteredClients() {
		if strings.Contains(c.Name, "/"+name+"@") {
			found = append(found, c)
		}
	}
	return found
}

// registeredAre returns an error unless the server has exactly these clients,
// each once.
func (d *demo) registeredAre(names ...string) error {
	all := d.server.RegisteredClients()
	if len(all) != len(names) || slices.ContainsFunc(names, func(n string) bool { return len(d.registered(n)) != 1 }) {
		return fmt.Errorf("the server has the clients %s, want %s", clientList(all), strings.Join(names, " and "))
	}
	return nil
}

// clientList lists clients by the beginning of their names.
func clientList(all []oidc.RegisteredClient) string {
	var list []string
	for _, c := range all {
		name, _, _ := strings.Cut(c.Name, "@")
		list = append(list, name)
	}
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, " and ")
}

// showRegistered shows what the operator has registered at a server that had no clients.
func (d *demo) showRegistered(ctx context.Context) error {
	if err := d.registeredAre(cartName.Name, reportingName.Name); err != nil {
		return err
	}
	d.say("the server had no clients, and has these now, each with what the payment API grants it:")
	for _, c := range d.server.RegisteredClients() {
		d.block(fmt.Sprintf("%s  %s  scope %q", c.ID, c.Name, strings.Join(c.Scopes, " ")))
	}
	for name, want := range map[types.NamespacedName]string{cartName: "payments:write", reportingName: "payments:read"} {
		if got := d.registered(name.Name)[0].Scopes; !slices.Equal(got, []string{want}) {
			return fmt.Errorf("%s is registered for %q, want %s", name, got, want)
		}
		secret, err := d.credentialSecret(ctx, name)
		if err != nil {
			return err
		}
		d.say("the operator keeps the client secret of %s in Secret %s/%s", name, secret.Namespace, secret.Name)
	}
	return nil
}

// credentialSecret finds the Secret in which the operator keeps a client's
// credentials.
func (d *demo) credentialSecret(ctx context.Context, name types.NamespacedName) (*corev1.Secret, error) {
	var all corev1.SecretList
	if err := d.cluster.Client.List(ctx, &all, client.InNamespace(local.OperatorNamespace)); err != nil {
		return nil, err
	}
	for i := range all.Items {
		if all.Items[i].Annotations[v1alpha1.OwnerAnnotation] == name.String() {
			return &all.Items[i], nil
		}
	}
	return nil, fmt.Errorf("the operator keeps no secret of %s", name)
}

// replaceClientSecret requests another client secret by an annotation while the
// calls go on, and then ends the calls.
func (d *demo) replaceClientSecret(ctx context.Context) error {
	previous, err := d.token(ctx, cartName)
	if err != nil {
		return err
	}
	old := d.registered(cartName.Name)[0].ID
	var cart v1alpha1.M2MClient
	if err := d.cluster.Client.Get(ctx, cartName, &cart); err != nil {
		return err
	}
	before := cart.DeepCopy()
	cart.Annotations = map[string]string{v1alpha1.RotateCredentialAnnotation: "1"}
	if err := d.cluster.Client.Patch(ctx, &cart, client.MergeFrom(before)); err != nil {
		return err
	}
	d.say("M2MClient shop/cart is annotated %s: \"1\"", v1alpha1.RotateCredentialAnnotation)
	if err := d.await(ctx, func() error {
		token, err := d.token(ctx, cartName)
		if err == nil && d.issuedTo(token) == old || token == previous {
			err = errors.New("the token has not been replaced by one for a new secret")
		}
		return err
	}); err != nil {
		return err
	}
	token, err := d.token(ctx, cartName)
	if err != nil {
		return err
	}
	d.say("registered anew, tried, and in use: the token was issued to %s, and is issued to %s", old, d.issuedTo(token))
	if err := d.await(ctx, func() error { return d.registeredAre(cartName.Name, reportingName.Name) }); err != nil {
		return err
	}
	now := d.registered(cartName.Name)[0].ID
	if now == old || now != d.issuedTo(token) {
		return fmt.Errorf("the server has cart as %s, and the token is %s's", now, d.issuedTo(token))
	}
	d.say("after %s of overlap %s is gone at the server, and its secret with it", cart.Spec.CredentialRotation.Overlap, old)
	return d.endCalls(ctx)
}

// issuedTo returns the client identifier in a token, "" if there is none.
func (d *demo) issuedTo(token string) string {
	_, claims, err := decodeToken(token)
	if err != nil {
		return ""
	}
	id, _ := claims["client_id"].(string)
	return id
}

// deleteClient deletes a client, and checks that the operator removes it from the server.
func (d *demo) deleteClient(ctx context.Context) error {
	reporting := &v1alpha1.M2MClient{}
	reporting.Namespace, reporting.Name = reportingName.Namespace, reportingName.Name
	if err := d.cluster.Client.Delete(ctx, reporting); err != nil {
		return err
	}
	if err := d.await(ctx, func() error {
		err := d.cluster.Client.Get(ctx, reportingName, reporting)
		if apierrors.IsNotFound(err) {
			return d.registeredAre(cartName.Name)
		}
		return fmt.Errorf("M2MClient %s still exists, with the finalizers %q: %w", reportingName, reporting.Finalizers, err)
	}); err != nil {
		return err
	}
	if secret, err := d.credentialSecret(ctx, reportingName); err == nil {
		return fmt.Errorf("the client's secret is still there in Secret %s/%s", secret.Namespace, secret.Name)
	}
	d.say("M2MClient %s is deleted; the server has %s, and the operator keeps no secret of it", reportingName, clientList(d.server.RegisteredClients()))
	got, err := d.callOnce(d.calls)
	if err != nil || got.Status != http.StatusOK {
		return errors.Join(fmt.Errorf("cart calls payment: %s, want 200", got), err)
	}
	d.say("cart is not concerned: %s", got)
	return nil
}
