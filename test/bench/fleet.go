// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

const (
	apiNamespace = "bench-api"
	perNamespace = 100 // clients

	// hands is how many requests the driver has in flight while it makes objects.
	hands = 32

	// keysEvery is how often the operator asks an issuer for its keys.
	keysEvery = 10 * time.Second
)

// fleet is a number of M2MClients that are made and deleted together. Each has
// a client and a secret of its own at the issuer.
type fleet struct {
	prefix string
	n      int
	server string // ClusterAuthorizationServer, and its APIResource in apiNamespace
	per    int    // clients of a namespace; zero: perNamespace
	shares bool   // all use the credentials of the first, so all must be in one namespace

	// change, if not nil, changes the client of a number before it is created.
	change func(i int, c *v1alpha1.M2MClient)
}

func (f fleet) key(i int) client.ObjectKey {
	return client.ObjectKey{Namespace: fmt.Sprintf("%s-%d", f.prefix, i/f.perNamespace()), Name: fmt.Sprintf("c-%05d", i)}
}

func (f fleet) perNamespace() int { return cmp.Or(f.per, perNamespace) }

func (f fleet) namespaces() int { return (f.n + f.perNamespace() - 1) / f.perNamespace() }

// credentials returns how many Secrets with credentials the fleet has.
func (f fleet) credentials() int {
	if f.shares {
		return 1
	}
	return f.n
}

func (f fleet) credential(i int) *corev1.Secret {
	key, id := f.key(i), fmt.Sprintf("%s-%d", f.prefix, i)
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name + "-credentials"},
		Data:       map[string][]byte{v1alpha1.ClientIDKey: []byte(id), v1alpha1.ClientSecretKey: []byte(secretOf(id))},
	}
}

func (f fleet) object(i int) *v1alpha1.M2MClient {
	key := f.key(i)
	credential := key.Name
	if f.shares {
		credential = f.key(0).Name
	}
	c := &v1alpha1.M2MClient{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name},
		Spec: v1alpha1.M2MClientSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{
				Kind: v1alpha1.KindClusterAuthorizationServer, Name: v1alpha1.ObjectName(f.server),
			},
			Credentials: v1alpha1.ClientCredentials{ClientSecret: v1alpha1.ClientSecretCredentials{
				SecretRef: v1alpha1.SecretKeyReference{Name: v1alpha1.ObjectName(credential + "-credentials")},
			}},
			Access: []v1alpha1.Access{{
				APIResourceRef: v1alpha1.APIResourceReference{Name: v1alpha1.APIResourceName(f.server), Namespace: apiNamespace},
				Scopes:         []v1alpha1.ScopeName{scope},
			}},
		},
	}
	if f.change != nil {
		f.change(i, c)
	}
	return c
}

// prefixLabel labels the namespaces that the benchmark makes with their prefix.
const prefixLabel = "bench.m2m-operator.io/prefix"

// createNamespaces makes namespaces PREFIX-0 and so on.
func (b *bench) createNamespaces(ctx context.Context, prefix string, n int) error {
	return inParallel(n, func(i int) error {
		return client.IgnoreAlreadyExists(b.cluster.Client.Create(ctx, &corev1.Namespace{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", prefix, i), Labels: map[string]string{prefixLabel: prefix}},
		}))
	})
}

// createCredentials makes a fleet's namespaces, and its credentials there and
// at the issuer.
func (b *bench) createCredentials(ctx context.Context, f fleet, at *issuer, lifetime, spread time.Duration) error {
	if err := at.tell(ctx, order{Prefix: f.prefix, Clients: f.n, Lifetime: lifetime, Spread: spread}); err != nil {
		return err
	}
	if err := b.createNamespaces(ctx, f.prefix, f.namespaces()); err != nil {
		return err
	}
	return inParallel(f.credentials(), func(i int) error { return b.cluster.Client.Create(ctx, f.credential(i)) })
}

func (b *bench) createClients(ctx context.Context, f fleet) error {
	return inParallel(f.n, func(i int) error { return b.cluster.Client.Create(ctx, f.object(i)) })
}

// remove deletes a fleet with everything in its namespaces: no garbage collector
// runs here.
func (b *bench) remove(ctx context.Context, f fleet) error {
	return inParallel(f.namespaces(), func(i int) error {
		in := client.InNamespace(fmt.Sprintf("%s-%d", f.prefix, i))
		return errors.Join(
			b.cluster.Client.DeleteAllOf(ctx, &v1alpha1.M2MClient{}, in),
			b.cluster.Client.DeleteAllOf(ctx, &corev1.Secret{}, in),
		)
	})
}

// inParallel calls do with 0 to n-1, many at a time, and returns the first errors.
func inParallel(n int, do func(i int) error) error {
	return withWorkers(hands, n, do)
}

func withWorkers(workers, n int, do func(i int) error) error {
	work := make(chan int)
	var wait sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for range workers {
		wait.Go(func() {
			for i := range work {
				if err := do(i); err != nil {
					mu.Lock()
					if len(errs) < 3 {
						errs = append(errs, err)
					}
					mu.Unlock()
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wait.Wait()
	return errors.Join(errs...)
}

// declare makes an authorization server, and an API that clients of every namespace may call.
func (b *bench) declare(ctx context.Context, name string, at *issuer, budget int32) error {
	everywhere := v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{}}
	server := &v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: name}}
	server.Spec.Issuer = at.url
	server.Spec.Requests = v1alpha1.RequestBudget{PerSecond: budget}
	server.Spec.JWKS.RefreshInterval = v1alpha1.Duration(keysEvery.String())
	server.Spec.AllowedNamespaces = everywhere
	api := &v1alpha1.APIResource{
		ObjectMeta: metav1.ObjectMeta{Namespace: apiNamespace, Name: name},
		Spec: v1alpha1.APIResourceSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Kind: v1alpha1.KindClusterAuthorizationServer, Name: v1alpha1.ObjectName(name)},
			Identifier:             identifier,
			Scopes:                 []v1alpha1.Scope{{Name: scope}},
			Grants:                 []v1alpha1.Grant{{Clients: v1alpha1.GrantedClients{Namespaces: everywhere}, Scopes: []v1alpha1.ScopeName{scope}}},
		},
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: apiNamespace}}
	for _, o := range []client.Object{namespace, server, api} {
		if err := b.cluster.Client.Create(ctx, o); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create %T: %w", o, err)
		}
	}
	return nil
}
