// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/oidctest"
)

const (
	samplesDir = "config/samples"
	keyName    = "payment-api" // of the token in the cart's Secret

	// What the samples say that the demo cannot: where the server is, the
	// clients' secrets, and how soon an announced key is noticed.
	sampleIssuer    = "https://auth.example.com"
	sampleSecret    = "change-me-" // and the client's name
	refreshInterval = "10s"

	// tokenLifetime is so short that tokens are refreshed every 12 to 15 seconds.
	tokenLifetime = 30 * time.Second
)

// storyFiles are the samples that tell of cart and payment; the others show more
// of the API.
var storyFiles = []string{"namespaces.yaml", "authorizationserver.yaml", "apiresource.yaml", "m2mclient.yaml", "workloads.yaml"}

var (
	cartName      = types.NamespacedName{Namespace: "shop", Name: "cart"}
	reportingName = types.NamespacedName{Namespace: "payments", Name: "reporting"}
	apiName       = types.NamespacedName{Namespace: "payments", Name: "payment-api"}
)

// clientScopes are what the applications are granted at the authorization
// server.
var clientScopes = map[string]string{cartName.Name: "payments:write", reportingName.Name: "payments:read"}

func (d *demo) bringUpCluster(ctx context.Context) (err error) {
	d.cluster, err = startCluster(d.dir)
	if d.cluster != nil {
		d.onCleanUp(d.cluster.stop)
	}
	if err != nil {
		return err
	}
	version, err := d.cluster.clientset.Discovery().ServerVersion()
	if err != nil {
		return err
	}
	kinds, err := d.cluster.kubectl(ctx, nil, "api-resources", "--api-group="+v1alpha1.GroupVersion.Group)
	if err != nil {
		return err
	}
	d.say("kube-apiserver %s and etcd are up at %s, with these kinds of ours:", version.GitVersion, d.cluster.environment.Config.Host)
	d.block(kinds)
	return nil
}

func (d *demo) bringUpServer(context.Context) (err error) {
	if d.server, err = oidctest.Start(oidctest.Options{TokenLifetime: tokenLifetime}); err != nil {
		return fmt.Errorf("start the authorization server: %w", err)
	}
	d.onCleanUp(func() error { d.server.Close(); return nil })
	d.say("it is up at %s, in this process; its tokens live for %s, so that they are refreshed often", d.server.Issuer(), tokenLifetime)
	d.say("it signs with the key %s", short(d.server.KeyID()))
	return nil
}

func (d *demo) bringUpOperator(ctx context.Context) error {
	applied, err := d.cluster.installOperator(ctx)
	if err != nil {
		return fmt.Errorf("install the operator: %w", err)
	}
	d.say("from config/default, without the Deployment, for which there is no node; the webhook is reached at localhost:")
	d.block(applied)
	operator, probe, err := d.cluster.startOperator(ctx, logPath)
	if err != nil {
		return err
	}
	d.runs(operator)
	d.say("bin/manager started as process %d, with a token of that ServiceAccount; its log is %s", operator.pid(), logPath)
	if err := until(ctx, 30*time.Second, func() error {
		if err := d.check(); err != nil {
			return err
		}
		return healthy(probe)
	}); err != nil {
		return fmt.Errorf("the operator is not healthy: %w", err)
	}
	var leader string
	if err := until(ctx, 30*time.Second, func() (err error) {
		leader, err = d.cluster.leader(ctx)
		return err
	}); err != nil {
		return fmt.Errorf("the operator does not lead: %w", err)
	}
	d.say("it is healthy, and %s holds the lease", leader)
	return nil
}

// applySamples applies the story's samples, with the demo's server and secrets
// in the place of the samples' own.
func (d *demo) applySamples(ctx context.Context) error {
	var objects []*unstructured.Unstructured
	for _, file := range storyFiles {
		content, err := os.ReadFile(filepath.Join(samplesDir, file))
		if err != nil {
			return err
		}
		parsed, err := objectsOf(content)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		objects = append(objects, parsed...)
	}
	d.say("the files %s of %s, with these changes:", strings.Join(storyFiles, ", "), samplesDir)
	d.block(fmt.Sprintf("issuer           %s -> %s", sampleIssuer, d.server.Issuer()))
	replacements := []string{sampleIssuer, d.server.Issuer()}
	for _, id := range []string{cartName.Name, reportingName.Name} {
		secret := oidctest.NewSecret()
		if err := d.registerClient(id, secret); err != nil {
			return err
		}
		replacements = append(replacements, sampleSecret+id, secret)
		d.block(fmt.Sprintf("client-secret    %s -> one that the server knows (not shown)", sampleSecret+id))
	}
	replacer := strings.NewReplacer(replacements...)
	for _, o := range objects {
		replaceStrings(o.Object, replacer)
		if err := d.shortenInterval(o); err != nil {
			return err
		}
	}
	if err := d.registerAPI(objects); err != nil {
		return err
	}
	applied, err := d.cluster.apply(ctx, objects)
	if err != nil {
		return err
	}
	d.say("applied with kubectl:")
	d.block(applied)
	return nil
}

// shortenInterval has the signing keys fetched more often where a sample says
// how often: the demo announces a key and cannot wait for a minute.
func (d *demo) shortenInterval(o *unstructured.Unstructured) error {
	path := []string{"spec", "jwks", "refreshInterval"}
	was, found, err := unstructured.NestedString(o.Object, path...)
	if err != nil || !found {
		return err
	}
	d.block(fmt.Sprintf("refreshInterval  %s -> %s (AuthorizationServer %s/%s)", was, refreshInterval, o.GetNamespace(), o.GetName()))
	return unstructured.SetNestedField(o.Object, refreshInterval, path...)
}

// registerClient registers an application at the authorization server, with the
// one scope that it is granted, or changes its secret.
func (d *demo) registerClient(id, secret string) error {
	return d.server.SetClient(oidctest.Client{
		ID: id, Secret: secret, Scopes: map[string][]string{paymentIdentifier: {clientScopes[id]}},
	})
}

// paymentIdentifier is the payment API's at the authorization server, as the
// sample says it.
const paymentIdentifier = "https://payment.example.com/api"

// registerAPI registers the payment API at the authorization server, with the
// scopes of the sample.
func (d *demo) registerAPI(objects []*unstructured.Unstructured) error {
	for _, o := range objects {
		if o.GetKind() != "APIResource" {
			continue
		}
		identifier, _, err := unstructured.NestedString(o.Object, "spec", "identifier")
		if err != nil || identifier != paymentIdentifier {
			return fmt.Errorf("APIResource %q has the identifier %q, and the demo expects %q", o.GetName(), identifier, paymentIdentifier)
		}
		list, _, err := unstructured.NestedSlice(o.Object, "spec", "scopes")
		if err != nil {
			return err
		}
		var scopes []string
		for _, s := range list {
			scopes = append(scopes, fmt.Sprint(s.(map[string]any)["name"]))
		}
		d.server.SetResource(identifier, scopes...)
		d.say("registered at the server: the API %s with the scopes %s, cart for %s, reporting for %s",
			identifier, strings.Join(scopes, " and "), clientScopes[cartName.Name], clientScopes[reportingName.Name])
	}
	return nil
}

func (d *demo) waitUntilReady(ctx context.Context) error {
	if err := until(ctx, 30*time.Second, func() error { return d.unready(ctx) }); err != nil {
		return err
	}
	table, err := d.cluster.kubectl(ctx, nil, "get", "m2m", "--all-namespaces")
	if err != nil {
		return err
	}
	d.say("kubectl get m2m --all-namespaces:")
	d.block(table)
	return nil
}

// unready returns an error about the first object that is not ready.
func (d *demo) unready(ctx context.Context) error {
	for _, list := range []client.ObjectList{&v1alpha1.AuthorizationServerList{}, &v1alpha1.APIResourceList{}, &v1alpha1.M2MClientList{}} {
		if err := d.cluster.client.List(ctx, list); err != nil {
			return err
		}
		objects, err := meta.ExtractList(list)
		if err != nil {
			return err
		}
		if len(objects) == 0 {
			return fmt.Errorf("there is nothing in the %T", list)
		}
		for _, object := range objects {
			o := object.(client.Object)
			switch ready := meta.FindStatusCondition(conditionsOf(o), v1alpha1.ConditionReady); {
			case ready == nil:
				return fmt.Errorf("%T %s/%s has no condition yet", o, o.GetNamespace(), o.GetName())
			case ready.Status != metav1.ConditionTrue || ready.ObservedGeneration != o.GetGeneration():
				return fmt.Errorf("%T %s/%s: %s", o, o.GetNamespace(), o.GetName(), conditionLine(ready))
			}
		}
	}
	return nil
}

func conditionsOf(o client.Object) []metav1.Condition {
	switch o := o.(type) {
	case *v1alpha1.AuthorizationServer:
		return o.Status.Conditions
	case *v1alpha1.APIResource:
		return o.Status.Conditions
	case *v1alpha1.M2MClient:
		return o.Status.Conditions
	}
	return nil
}

func (d *demo) showTokenAndBundle(ctx context.Context) error {
	token, err := d.token(ctx, cartName)
	if err != nil {
		return err
	}
	header, claims, err := decodeToken(token)
	if err != nil {
		return err
	}
	d.say("Secret shop/cart-token, key %s: a token of %d characters. Its header and claims; the signature is not shown:", keyName, len(token))
	d.block(indented(header))
	d.block(indented(claims))

	files, err := d.bundle(ctx)
	if err != nil {
		return err
	}
	d.say("ConfigMap payments/%s, for the pods of the annotated Deployment payment:", bundleName)
	var list strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&list, "%-24s %5d bytes\n", name, len(files[name]))
	}
	d.block(list.String())
	d.say("its verification.json:")
	d.block(files["verification.json"])
	ids, err := keyIDs(files["jwks.json"])
	if err != nil {
		return err
	}
	d.say("its jwks.json holds the key %s; the token is signed with %s", short(ids...), short(tokenKeyID(token)))
	return nil
}
