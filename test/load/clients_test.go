// SPDX-License-Identifier: Apache-2.0

package load_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// crowd is four hundred clients in forty namespaces. Their objects have the same names
// in each namespace, and each has its own application.
type crowd struct {
	*operator.World
	namespaces []string
	secrets    map[types.NamespacedName]string // by M2MClient
}

const (
	crowdNamespaces   = 40
	crowdPerNamespace = 10
)

func appOf(client types.NamespacedName) string { return client.Namespace + "." + client.Name }

// inParallel calls a function for each client.
func (c *crowd) inParallel(fn func(context.Context, types.NamespacedName) error) {
	c.T.Helper()
	g, ctx := errgroup.WithContext(c.T.Context())
	g.SetLimit(16)
	for name := range c.secrets {
		g.Go(func() error { return fn(ctx, name) })
	}
	if err := g.Wait(); err != nil {
		c.T.Fatal(err)
	}
}

func newCrowd(t *testing.T) *crowd {
	t.Helper()
	c := &crowd{World: operator.NewWorld(t), secrets: map[types.NamespacedName]string{}}
	for range crowdNamespaces {
		ns := operator.NewNamespace(t, "crowd", nil)
		c.namespaces = append(c.namespaces, ns)
		for i := range crowdPerNamespace {
			name := types.NamespacedName{Namespace: ns, Name: fmt.Sprintf("cart-%02d", i)}
			c.secrets[name] = operator.NewSecret()
			c.SetClient(appOf(name), c.secrets[name])
		}
	}
	everyone := v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{}}
	spec := c.Server("").Spec
	spec.Requests.PerSecond = 2000
	server := &v1alpha1.ClusterAuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Name: c.Payments},
		Spec:       v1alpha1.ClusterAuthorizationServerSpec{AuthorizationServerSpec: spec, AllowedNamespaces: everyone},
	}
	api := c.API()
	api.Spec.AuthorizationServerRef = v1alpha1.AuthorizationServerReference{
		Kind: v1alpha1.KindClusterAuthorizationServer, Name: v1alpha1.ObjectName(c.Payments),
	}
	api.Spec.Grants[0].Clients.Namespaces = everyone
	operator.Create(t, server, api)
	t.Cleanup(func() {
		if err := operator.Kube.Delete(context.Background(), server); err != nil {
			t.Error(err)
		}
	})
	c.inParallel(func(ctx context.Context, name types.NamespacedName) error {
		secret := c.Secret(name.Name+"-credentials", appOf(name), c.secrets[name])
		secret.Namespace = name.Namespace
		cart := c.Cart()
		cart.Namespace, cart.Name = name.Namespace, name.Name
		cart.Spec.AuthorizationServerRef = api.Spec.AuthorizationServerRef
		cart.Spec.Credentials.ClientSecret.SecretRef.Name = v1alpha1.ObjectName(secret.Name)
		if err := operator.Kube.Create(ctx, secret); err != nil {
			return err
		}
		return operator.Kube.Create(ctx, cart)
	})
	return c
}

// await waits until a number of token requests were sent, all clients are ready and
// the operator is idle.
func (c *crowd) await(op *operator.Operator, requests int) {
	c.T.Helper()
	operator.Eventually(c.T, func() error {
		if n := len(c.AS.TokenRequests()); n < requests {
			return fmt.Errorf("%d of %d token requests were sent", n, requests)
		}
		if err := operator.Idle(c.T, operator.EveryController...); err != nil {
			return err
		}
		var list v1alpha1.M2MClientList
		if err := op.Client.List(c.T.Context(), &list, client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency); err != nil {
			return err
		}
		ready := 0
		for i := range list.Items {
			if slices.Contains(c.namespaces, list.Items[i].Namespace) && operator.HasToken(&list.Items[i]) {
				ready++
			}
		}
		if ready != len(c.secrets) {
			return fmt.Errorf("%d of %d clients are ready", ready, len(c.secrets))
		}
		return nil
	})
}

// check compares the requests that the server got, and the content of every Secret,
// with the clients they belong to.
func (c *crowd) check(sent []oidc.Request, expected map[types.NamespacedName]bool) {
	c.T.Helper()
	issued := map[string]string{} // the hash of a token, by application
	for _, r := range sent {
		namespace, name, _ := strings.Cut(r.ClientID, ".")
		id := types.NamespacedName{Namespace: namespace, Name: name}
		switch {
		case r.Status != http.StatusOK:
			c.T.Fatalf("the request of %s was answered with %d %s", id, r.Status, r.Error)
		case !expected[id]:
			c.T.Fatalf("%s requested a token, which it did not need", id)
		case r.CredentialID != oidc.Hash(c.secrets[id]):
			c.T.Fatalf("the request of %s carried another client's credential or a former one", id)
		case issued[r.ClientID] != "":
			c.T.Fatalf("%s requested two tokens", id)
		}
		issued[r.ClientID] = r.TokenHash
	}
	if len(issued) != len(expected) {
		c.T.Fatalf("%d clients requested tokens, want %d", len(issued), len(expected))
	}
	c.inParallel(func(ctx context.Context, name types.NamespacedName) error {
		var s corev1.Secret
		if err := operator.Kube.Get(ctx, types.NamespacedName{Namespace: name.Namespace, Name: name.Name + "-token"}, &s); err != nil {
			return err
		}
		token := string(s.Data["payment-api"])
		if id := claimOf(token, "client_id"); id != appOf(name) {
			return fmt.Errorf("the Secret of %s holds a token of %q", name, id)
		}
		if expected[name] && oidc.Hash(token) != issued[appOf(name)] {
			return fmt.Errorf("the token in the Secret of %s is not the one issued last", name)
		}
		return nil
	})
}

// claimOf reads a claim of a token, without verifying it.
func claimOf(token, name string) any {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil
	}
	var claims map[string]any
	if json.Unmarshal(payload, &claims) != nil {
		return nil
	}
	return claims[name]
}

// TestManyClientsKeepTheirCredentialsApart: a running operator with twenty workers
// serves four hundred clients in forty namespaces, twenty for each worker. Then a third
// of them rotate their secrets.
func TestManyClientsKeepTheirCredentialsApart(t *testing.T) {
	op := operator.Start(t)
	start := time.Now()
	c := newCrowd(t)
	everyone, some := map[types.NamespacedName]bool{}, map[types.NamespacedName]bool{}
	for name := range c.secrets {
		everyone[name] = true
		if len(everyone)%3 == 0 {
			some[name] = true
		}
	}
	t.Logf("%d clients were created after %.1f s", len(c.secrets), time.Since(start).Seconds())
	c.await(op, len(everyone))
	t.Logf("all were ready after %.1f s", time.Since(start).Seconds())
	c.check(c.AS.TokenRequests(), everyone)

	c.AS.ResetRequests()
	start = time.Now()
	for name := range some {
		c.secrets[name] = operator.NewSecret()
		c.SetClient(appOf(name), c.secrets[name])
	}
	c.inParallel(func(ctx context.Context, name types.NamespacedName) error {
		if !some[name] {
			return nil
		}
		var s corev1.Secret
		if err := operator.Kube.Get(ctx, types.NamespacedName{Namespace: name.Namespace, Name: name.Name + "-credentials"}, &s); err != nil {
			return err
		}
		s.Data[v1alpha1.ClientSecretKey] = []byte(c.secrets[name])
		return operator.Kube.Update(ctx, &s)
	})
	c.await(op, len(some))
	t.Logf("%d rotated secrets were in use after %.1f s", len(some), time.Since(start).Seconds())
	c.check(c.AS.TokenRequests(), some)
	op.Stop() // before all clients are deleted
}
