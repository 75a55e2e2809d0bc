// SPDX-License-Identifier: Apache-2.0

package attacks

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

const (
	annotations = 250 << 10 // almost the limit of an object's annotations
	ownNotes    = 63 << 10  // almost the limit for the operator's own kinds
	megabyte    = 1000_000  // almost the limit of a Secret or a ConfigMap
)

// manyNames is a value of the verify annotation with as many names as fit.
func manyNames(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < annotations; i++ {
		fmt.Fprintf(&b, "n%d-%d,", n, i)
	}
	return b.String()
}

func deployments(ctx context.Context, a *attacker) {
	for i := range a.sizes.deployments {
		names := manyNames(i)
		d := verifier(a.namespace, fmt.Sprintf("names-%d", i), names)
		d.Spec.Template.Annotations = map[string]string{v1alpha1.VerifyAnnotation: names}
		a.create(ctx, d)
	}
	// Each change makes the operator examine all of them again.
	often(ctx, 2*time.Second, func(round int) {
		d := verifier(a.namespace, "names-0", manyNames(round))
		a.did(a.client.Patch(ctx, d, client.Merge))
	})
}

func labelledConfigMaps(ctx context.Context, a *attacker) {
	contents, err := json.Marshal(map[string]any{"keys": map[string]string{a.healthy.issuer.KeyID(): time.Now().Add(time.Hour).UTC().Format(time.RFC3339)}})
	if err != nil {
		a.did(err)
		return
	}
	for i := range a.sizes.configMaps {
		a.create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: a.namespace, Name: fmt.Sprintf("forged-%d", i),
				Labels: map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue},
				Annotations: map[string]string{
					v1alpha1.APIResourceAnnotation: payments + "/" + paymentAPI, v1alpha1.ContentsAnnotation: string(contents),
				},
			},
			Data: map[string]string{"jwks.json": strings.Repeat("x", megabyte)},
		})
	}
}

func longAnnotations(ctx context.Context, a *attacker) {
	long := map[string]string{"example.com/note": strings.Repeat("x", ownNotes)}
	for i := range a.sizes.clients {
		c := m2mClient(a.namespace, fmt.Sprintf("noted-%d", i), v1alpha1.KindClusterAuthorizationServer, company)
		c.Annotations, c.Spec.Access = long, []v1alpha1.Access{paymentAccess()}
		a.create(ctx, c)
	}
}

// churnCertificates creates and deletes a certificate bundle, and a server that
// trusts it.
func churnCertificates(ctx context.Context, a *attacker) {
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: make([]byte, 512)})
	certificates := string(bytes.Repeat(block, megabyte/len(block)))
	often(ctx, a.sizes.churnEvery, func(round int) {
		name := fmt.Sprintf("ca-%d", round)
		bundle := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: a.namespace, Name: name}, Data: map[string]string{"ca.crt": certificates}}
		server := ownServer(a.namespace, name, a.healthy.issuer.Issuer())
		server.Spec.CABundle.ConfigMapRef.Name = v1alpha1.ObjectName(name)
		a.create(ctx, bundle, server)
		if wait(ctx, a.sizes.churnEvery) {
			a.did(a.client.Delete(ctx, bundle))
			a.did(a.client.Delete(ctx, server))
		}
	})
}

// churnCredentials does the same with credentials.
func churnCredentials(ctx context.Context, a *attacker) {
	secret := strings.Repeat("s", megabyte)
	often(ctx, a.sizes.churnEvery, func(round int) {
		name := fmt.Sprintf("large-%d", round)
		s := credential(a.namespace, name, name, secret)
		c := m2mClient(a.namespace, name, v1alpha1.KindClusterAuthorizationServer, company)
		c.Spec.Access = []v1alpha1.Access{paymentAccess()}
		a.create(ctx, s, c)
		if wait(ctx, a.sizes.churnEvery) {
			a.did(a.client.Delete(ctx, s))
			a.did(a.client.Delete(ctx, c))
		}
	})
}

// costlyTemplates declares APIs whose files compare a lot and write nothing, in
// nested loops, and changes them all the time.
func costlyTemplates(ctx context.Context, a *attacker) {
	const head, step, tail = `{{range $x := .Scopes}}{{range $y := $.Scopes}}`, `{{if len $.JWKS}}{{end}}`, `{{end}}{{end}}`
	costly := head + strings.Repeat(step, (4096-len(head)-len(tail))/len(step)) + tail
	a.create(ctx, ownServer(a.namespace, "own", a.healthy.issuer.Issuer()))
	for i := range a.sizes.templates {
		api := &v1alpha1.APIResource{
			ObjectMeta: metav1.ObjectMeta{Namespace: a.namespace, Name: fmt.Sprintf("costly-%d", i)},
			Spec: v1alpha1.APIResourceSpec{
				AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Kind: v1alpha1.KindClusterAuthorizationServer, Name: company},
				Identifier:             v1alpha1.ResourceIdentifier(fmt.Sprintf("costly:%s:%d", a.namespace, i)),
			},
		}
		if i%2 == 0 { // the shared server lets no other namespace claim an identifier
			api.Spec.AuthorizationServerRef = v1alpha1.AuthorizationServerReference{Name: "own"}
		}
		for s := range 32 {
			api.Spec.Scopes = append(api.Spec.Scopes, v1alpha1.Scope{Name: v1alpha1.ScopeName(fmt.Sprintf("s%d", s))})
		}
		for f := range 8 {
			api.Spec.Verification.Files = append(api.Spec.Verification.Files, v1alpha1.VerificationFile{
				Name: fmt.Sprintf("file-%d", f), Template: costly,
			})
		}
		a.create(ctx, api, verifier(a.namespace, api.Name, api.Name))
	}
	often(ctx, 2*time.Second, func(round int) {
		patch := fmt.Appendf(nil, `{"spec":{"verification":{"clockSkew":"%ds"}}}`, round%60)
		for i := range a.sizes.templates {
			api := &v1alpha1.APIResource{ObjectMeta: metav1.ObjectMeta{Namespace: a.namespace, Name: fmt.Sprintf("costly-%d", i)}}
			a.did(a.client.Patch(ctx, api, client.RawPatch("application/merge-patch+json", patch)))
		}
	})
}

// forgedPods creates pods that claim to be injected, and a ConfigMap that claims
// pods must see it at once, every second.
func forgedPods(ctx context.Context, a *attacker) {
	forged := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: a.namespace, Name: "forged", Labels: map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue},
	}}
	a.create(ctx, forged)
	for i := range a.sizes.forged {
		a.create(ctx, pod(a.namespace, fmt.Sprintf("forged-%d", i), map[string]string{v1alpha1.InjectedAnnotation: "configmap/forged"}))
	}
	often(ctx, time.Second, func(int) {
		patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.PromptSinceAnnotation, time.Now().UTC().Format(time.RFC3339))
		a.did(a.client.Patch(ctx, forged.DeepCopy(), client.RawPatch("application/merge-patch+json", patch)))
	})
}

// deletedBundles requests another tenant's bundle and deletes it whenever it appears.
func deletedBundles(ctx context.Context, a *attacker) {
	a.create(ctx, verifier(a.namespace, "verifier", payments+"/"+paymentAPI))
	often(ctx, 100*time.Millisecond, func(int) {
		bundle := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: a.namespace, Name: render.ConfigMapName(payments, paymentAPI)}}
		if err := a.client.Delete(ctx, bundle); client.IgnoreNotFound(err) != nil || err == nil {
			a.did(err)
		}
	})
}

// ownServer is an AuthorizationServer of a tenant.
func ownServer(namespace, name, issuer string) *v1alpha1.AuthorizationServer {
	return &v1alpha1.AuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1alpha1.AuthorizationServerSpec{Issuer: issuer},
	}
}
