// SPDX-License-Identifier: Apache-2.0

package command

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/plugin/installation"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

// egressFlags adds the flags that allow addresses, as the operator's do.
func egressFlags(c *cobra.Command, policy *egress.Policy) {
	f := c.Flags()
	f.BoolVar(&policy.AllowHTTP, "allow-insecure-http", false, "Allow http:// addresses, as the operator's flag does.")
	f.BoolVar(&policy.AllowLoopback, "allow-loopback", false, "Allow loopback addresses, as the operator's flag does.")
	f.BoolVar(&policy.AllowLinkLocal, "allow-link-local", false, "Allow link-local addresses, as the operator's flag does.")
}

// try tries what reading does not tell.
func (p *plugin) try(ctx context.Context, c client.Client, f *installation.Found, q checkQuestion) error {
	var err error
	if f.Tried.ServerTime, err = p.serverTime(ctx); err != nil {
		return err
	}
	f.Tried.LocalTime = p.now()
	if f.Tried.Namespace, err = p.namespace(); err != nil {
		return err
	}
	if len(f.Webhooks) > 0 {
		if f.Tried.Labels, err = labelsOf(ctx, c, f.Tried.Namespace); err != nil {
			return err
		}
		if err := tryInjection(ctx, c, f); err != nil {
			return err
		}
	}
	if q.probe {
		f.Tried.Probes = probeAll(ctx, c, f.Objects, q.policy)
	}
	return nil
}

// labelsOf returns the labels of a namespace, nil if they may not be read.
func labelsOf(ctx context.Context, c client.Client, namespace string) (map[string]string, error) {
	ns := inventory.Metadata("Namespace")
	switch err := c.Get(ctx, types.NamespacedName{Name: namespace}, ns); {
	case apierrors.IsForbidden(err), apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("get namespace %q: %w", namespace, err)
	case ns.Labels == nil:
		return map[string]string{}, nil
	}
	return ns.Labels, nil
}

// serverTime returns the API server's time, by the header of an answer. It has no parts of a
// second.
func (p *plugin) serverTime(ctx context.Context) (time.Time, error) {
	cfg, err := p.config.ToRESTConfig()
	if err != nil {
		return time.Time{}, err
	}
	hc, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return time.Time{}, err
	}
	base, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return time.Time{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base.String(), "/")+"/version", nil)
	if err != nil {
		return time.Time{}, err
	}
	resp, err := hc.Do(req)
	if err != nil {
		return time.Time{}, fmt.Errorf("the API server does not answer: %w", err)
	}
	_ = resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return time.Time{}, nil //nolint:nilerr // it does not say
	}
	return at, nil
}

// tryInjection creates an annotated pod in a dry run: the API server calls the webhook and
// stores nothing.
func tryInjection(ctx context.Context, c client.Client, f *installation.Found) error {
	pod := installation.TrialPod(f.Tried.Namespace)
	err := c.Create(ctx, pod, client.DryRunAll)
	right := inventory.Right{Verb: "create", Resource: inventory.Pods, Namespace: f.Tried.Namespace}
	switch {
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "cannot create resource"):
		f.Hidden[installation.Injection] = right
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		f.Tried.Refused = err.Error()
	default:
		f.Tried.Injected = pod.Annotations[v1alpha1.InjectedAnnotation] != ""
	}
	return nil
}

// Bounds of what is asked from the user's machine.
const (
	maxProbes    = 50
	probesAtOnce = 8
)

// target is a server to ask. Several can name the same issuer, with different certificates.
type target struct {
	namespace string
	spec      *v1alpha1.AuthorizationServerSpec
}

// probeAll asks the issuer of each server for its metadata and its keys.
func probeAll(ctx context.Context, c client.Client, inv *inventory.Inventory, policy egress.Policy) []installation.Probe {
	probes, targets := []installation.Probe{}, map[string]target{}
	add := func(name, namespace string, spec *v1alpha1.AuthorizationServerSpec) {
		probes = append(probes, installation.Probe{Server: name, Issuer: spec.Issuer})
		targets[name] = target{namespace, spec}
	}
	for _, s := range inv.ClusterServers {
		add(s.Name, "", &s.Spec.AuthorizationServerSpec)
	}
	for _, s := range inv.Servers {
		add(s.Namespace+"/"+s.Name, s.Namespace, &s.Spec)
	}
	// Those of the cluster come first: no tenant has them skipped by many servers.
	slices.SortFunc(probes, func(a, b installation.Probe) int {
		return cmp.Or(cmp.Compare(strings.Count(a.Server, "/"), strings.Count(b.Server, "/")), strings.Compare(a.Server, b.Server))
	})
	var all sync.WaitGroup
	free := make(chan struct{}, probesAtOnce)
	for i := range probes {
		if i >= maxProbes {
			probes[i].Skipped = fmt.Sprintf("only the first %d are", maxProbes)
			continue
		}
		all.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			t := targets[probes[i].Server]
			probeOne(ctx, c, &probes[i], t.namespace, t.spec, policy)
		})
	}
	all.Wait()
	return probes
}

func probeOne(ctx context.Context, c client.Client, p *installation.Probe, namespace string, spec *v1alpha1.AuthorizationServerSpec, policy egress.Policy) {
	if spec.Endpoints.Token != "" && spec.Endpoints.JWKS != "" {
		p.Skipped = "its endpoints are in its spec"
		return
	}
	var pem []byte
	if ref := spec.CABundle.ConfigMapRef; spec.CABundle != (v1alpha1.CABundleSource{}) {
		var m corev1.ConfigMap
		if ref.Name == "" || namespace == "" || c.Get(ctx, types.NamespacedName{Namespace: namespace, Name: string(ref.Name)}, &m) != nil {
			p.Skipped = "its spec.caBundle cannot be read here"
			return
		}
		key := string(ref.Key)
		if key == "" {
			key = v1alpha1.CABundleKey
		}
		pem = []byte(m.Data[key])
	}
	hc, err := policy.NewClient(pem)
	if err != nil {
		p.Failure = err.Error()
		return
	}
	m, err := jwks.Discover(ctx, hc, p.Issuer)
	if err == nil && m.JWKSURI != "" {
		_, err = jwks.Fetch(ctx, hc, m.JWKSURI, "", "")
	}
	if err != nil {
		p.Failure = err.Error()
	}
}
