// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	samplesDir = "config/samples"
	keyName    = "payment-api" // of the token in the cart's Secret

	// What the demo replaces in the manifests: the server's address, and the
	// token that lets clients register there.
	sampleIssuer = "https://auth.example.com"
	sampleToken  = "change-me-token"

	// tokenLifetime is so short that tokens are refreshed every 12 to 15 seconds.
	tokenLifetime = 30 * time.Second
)

// storyFiles are the manifests that tell of cart and payment: samples, and what
// is the demo's own.
var storyFiles = []string{
	samplesDir + "/namespaces.yaml", "test/demo/story.yaml", samplesDir + "/apiresource.yaml", samplesDir + "/workloads.yaml",
}

var (
	cartName      = types.NamespacedName{Namespace: "shop", Name: "cart"}
	reportingName = types.NamespacedName{Namespace: "payments", Name: "reporting"}
	apiName       = types.NamespacedName{Namespace: "payments", Name: "payment-api"}
)

func (d *demo) bringUpCluster(ctx context.Context) (err error) {
	d.cluster, err = local.StartCluster(d.dir)
	if d.cluster != nil {
		d.onCleanUp(d.cluster.Stop)
	}
	if err != nil {
		return err
	}
	version, err := d.cluster.Clientset.Discovery().ServerVersion()
	if err != nil {
		return err
	}
	kinds, err := d.cluster.Kubectl(ctx, nil, "api-resources", "--api-group="+v1alpha1.GroupVersion.Group)
	if err != nil {
		return err
	}
	d.say("kube-apiserver %s and etcd are up at %s, with these kinds of ours:", version.GitVersion, d.cluster.Config().Host)
	d.block(kinds)
	return nil
}

func (d *demo) bringUpServer(context.Context) (err error) {
	d.initialToken = rand.Text()
	d.server, err = oidc.Start(oidc.Options{
		TokenLifetime: tokenLifetime, DynamicRegistration: &oidc.DynamicRegistration{InitialAccessToken: d.initialToken, RotateTokens: true},
	})
	if err != nil {
		return fmt.Errorf("start the authorization server: %w", err)
	}
	d.onCleanUp(func() error { d.server.Close(); return nil })
	d.say("it is up at %s, in this process; its tokens live for %s, so that they are refreshed often", d.server.Issuer(), tokenLifetime)
	d.say("it signs with the key %s", short(d.server.KeyID()))
	d.say("it knows no API, and these clients: %s; who has its initial access token may register some (RFC 7591)", clientList(d.server.RegisteredClients()))
	return nil
}

func (d *demo) bringUpOperator(ctx context.Context) error {
	applied, err := d.cluster.InstallOperator(ctx)
	if err != nil {
		return fmt.Errorf("install the operator: %w", err)
	}
	d.say("from config/default, without the Deployment, for which there is no node; the webhook is reached at localhost:")
	d.block(applied)
	operator, probe, err := d.cluster.StartOperator(ctx, logPath)
	if err != nil {
		return err
	}
	d.runs(operator)
	d.say("bin/manager started as process %d, with a token of that ServiceAccount; its log is %s", operator.PID(), logPath)
	if err := local.Until(ctx, 30*time.Second, func() error {
		if err := d.check(); err != nil {
			return err
		}
		return local.Healthy(probe)
	}); err != nil {
		return fmt.Errorf("the operator is not healthy: %w", err)
	}
	var leader string
	if err := local.Until(ctx, 30*time.Second, func() (err error) {
		leader, err = d.cluster.Leader(ctx)
		return err
	}); err != nil {
		return fmt.Errorf("the operator does not lead: %w", err)
	}
	d.say("it is healthy, and %s holds the lease", leader)
	return nil
}

// applyStory applies the story's manifests, after replacing their server and
// its token with the demo's.
func (d *demo) applyStory(ctx context.Context) error {
	if n := len(d.server.RegisteredClients()); n != 0 {
		return fmt.Errorf("the server has %d clients already", n)
	}
	var objects []*unstructured.Unstructured
	for _, file := range storyFiles {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		parsed, err := local.ObjectsOf(content)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		objects = append(objects, parsed...)
	}
	d.say("the files %s, with these changes:", strings.Join(storyFiles, ", "))
	d.block(fmt.Sprintf("issuer                %s -> %s", sampleIssuer, d.server.Issuer()))
	d.block(fmt.Sprintf("initial-access-token  %s -> the server's (not shown)", sampleToken))
	replacer := strings.NewReplacer(sampleIssuer, d.server.Issuer(), sampleToken, d.initialToken)
	for _, o := range objects {
		local.ReplaceStrings(o.Object, replacer)
	}
	applied, err := d.cluster.Apply(ctx, objects)
	if err != nil {
		return err
	}
	d.say("applied with kubectl:")
	d.block(applied)
	return nil
}

// paymentIdentifier is the payment API's identifier in the sample.
const paymentIdentifier = "https://payment.example.com/api"

func (d *demo) waitUntilReady(ctx context.Context) error {
	if err := local.Until(ctx, 30*time.Second, func() error { return d.unready(ctx) }); err != nil {
		return err
	}
	table, err := d.cluster.Kubectl(ctx, nil, "get", "m2m", "--all-namespaces")
	if err != nil {
		return err
	}
	d.say("kubectl get m2m --all-namespaces:")
	d.block(table)
	return d.showRegistered(ctx)
}

// unready returns an error about the first object that is not ready.
func (d *demo) unready(ctx context.Context) error {
	for _, list := range []client.ObjectList{&v1alpha1.AuthorizationServerList{}, &v1alpha1.APIResourceList{}, &v1alpha1.M2MClientList{}} {
		if err := d.cluster.Client.List(ctx, list); err != nil {
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
