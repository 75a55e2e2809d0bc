// SPDX-License-Identifier: Apache-2.0

package installed_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/injection"
	"github.com/m2m-operator/m2m-operator/internal/plugin/installation"
)

// story creates an APIResource, and an M2MClient whose Secret has a custom name, and waits
// until the replicas have both in their caches.
func story(t *testing.T, namespace string, replicas ...*replica) {
	t.Helper()
	cart := &v1alpha1.M2MClient{
		ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: namespace},
		Spec: v1alpha1.M2MClientSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Name: "auth"},
			Access:                 []v1alpha1.Access{{Resource: "https://payment.example.com/api", Key: "payment-api", Scopes: []v1alpha1.ScopeName{"payments:write"}}},
			Credentials: v1alpha1.ClientCredentials{ClientSecret: v1alpha1.ClientSecretCredentials{
				SecretRef: v1alpha1.SecretKeyReference{Name: "cart-credentials"},
			}},
			Secret: v1alpha1.TokenSecret{Name: "tokens.of.cart"},
		},
	}
	api := &v1alpha1.APIResource{
		ObjectMeta: metav1.ObjectMeta{Name: "payment-api", Namespace: namespace},
		Spec: v1alpha1.APIResourceSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Name: "auth"},
			Identifier:             "https://payment.example.com/api",
		},
	}
	create(t, cart, api)
	for _, r := range replicas {
		eventually(t, func() error {
			return errors.Join(
				r.mgr.GetCache().Get(t.Context(), client.ObjectKeyFromObject(cart), &v1alpha1.M2MClient{}),
				r.mgr.GetCache().Get(t.Context(), client.ObjectKeyFromObject(api), &v1alpha1.APIResource{}))
		})
	}
}

// mountsOf lists our mounts in a container, as "object at path".
func mountsOf(p *corev1.Pod, c corev1.Container) (all []string) {
	for _, m := range c.VolumeMounts {
		for _, v := range p.Spec.Volumes {
			switch {
			case v.Name != m.Name:
			case !m.ReadOnly || m.SubPath != "":
				all = append(all, "no read-only mount of a whole directory: "+m.MountPath)
			case v.Secret != nil:
				all = append(all, fmt.Sprintf("secret/%s (%#o) at %s", v.Secret.SecretName, *v.Secret.DefaultMode, m.MountPath))
			case v.ConfigMap != nil:
				all = append(all, fmt.Sprintf("configmap/%s (%#o) at %s", v.ConfigMap.Name, *v.ConfigMap.DefaultMode, m.MountPath))
			}
		}
	}
	return all
}

// TestInjection creates pods in a namespace with Pod Security's restricted profile.
func TestInjection(t *testing.T) {
	r := start(t)
	configure(t, r)
	shop := newNamespace(t, map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
	story(t, shop, r)

	p := pod(shop, map[string]string{v1alpha1.ClientAnnotation: "cart", v1alpha1.VerifyAnnotation: "payment-api"})
	create(t, p)
	same(t, "warnings", []string(nil), warnings.taken())
	want := []string{
		"secret/tokens.of.cart (0444) at " + v1alpha1.TokenDir,
		"configmap/m2m-verify." + shop + ".payment-api (0444) at " + path.Join(v1alpha1.VerifyDir, "payment-api"),
	}
	containers := slices.Concat(p.Spec.InitContainers, p.Spec.Containers)
	if len(containers) != 3 {
		t.Fatalf("there are %d containers", len(containers))
	}
	for _, c := range containers {
		same(t, "mounts of "+c.Name, want, mountsOf(p, c))
		same(t, "environment of "+c.Name, []corev1.EnvVar{
			{Name: "M2M_TOKEN_DIR", Value: v1alpha1.TokenDir}, {Name: "M2M_VERIFY_DIR", Value: v1alpha1.VerifyDir},
		}, c.Env)
	}
	trial := installation.TrialPod(shop) // as kubectl m2m check tries it
	if err := kube.Create(t.Context(), trial, client.DryRunAll); err != nil {
		t.Error(err)
	}
	same(t, "what is injected into a trial", "secret/kubectl-m2m-check-token", trial.Annotations[v1alpha1.InjectedAnnotation])
	same(t, "what is injected", "secret/tokens.of.cart,configmap/m2m-verify."+shop+".payment-api", p.Annotations[v1alpha1.InjectedAnnotation])

	// A copy of the stored pod, with all that the API server added.
	again := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "cart-", Namespace: shop, Annotations: p.Annotations}, Spec: p.Spec}
	create(t, again)
	same(t, "spec of a copy", p.Spec, again.Spec)
	same(t, "annotations of a copy", p.Annotations, again.Annotations)

	// A copy of a touched pod, for another client.
	other := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "other-", Namespace: shop, Annotations: map[string]string{
		v1alpha1.ClientAnnotation: "other", v1alpha1.ContainersAnnotation: "app",
		v1alpha1.InjectedAnnotation: p.Annotations[v1alpha1.InjectedAnnotation], v1alpha1.TouchedAtAnnotation: "2026-01-02T03:04:05Z",
	}}, Spec: *p.Spec.DeepCopy()}
	create(t, other)
	same(t, "mounts of the app of another client", []string{"secret/other-token (0444) at " + v1alpha1.TokenDir}, mountsOf(other, other.Spec.Containers[0]))
	same(t, "mounts of its init container", []string(nil), mountsOf(other, other.Spec.InitContainers[0]))
	same(t, "environment of its init container", 0, len(other.Spec.InitContainers[0].Env))
	same(t, "its volumes", 1, len(other.Spec.Volumes))
	same(t, "its annotations", map[string]string{
		v1alpha1.ClientAnnotation: "other", v1alpha1.ContainersAnnotation: "app", v1alpha1.InjectedAnnotation: "secret/other-token",
	}, other.Annotations)

	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.lists {
		for path, selector := range map[string]string{
			"/mutatingwebhookconfigurations":   " metadata.name=" + configuration,
			"/" + systemNamespace + "/secrets": " metadata.name=" + secretName.Name,
		} {
			if p, _, _ := strings.Cut(l, " "); strings.HasSuffix(p, path) && !strings.HasSuffix(l, selector) {
				t.Errorf("the replica asks for more than its own: %s", l)
			}
		}
	}
}

// TestWhoReachesTheWebhook counts the requests that reach the webhook.
func TestWhoReachesTheWebhook(t *testing.T) {
	r := start(t)
	configure(t, r)
	client1 := map[string]string{v1alpha1.ClientAnnotation: "cart"}
	forbidden := newNamespace(t, map[string]string{v1alpha1.InjectionLabel: v1alpha1.InjectionDisabled})
	otherwise := newNamespace(t, map[string]string{v1alpha1.InjectionLabel: "enabled"})
	shop := newNamespace(t, nil)
	existing := pod(shop, client1)
	create(t, existing)

	update := func() error {
		existing.Labels = map[string]string{"touched": "yes"}
		return kube.Update(t.Context(), existing)
	}
	dryRun := func(namespace string, annotations map[string]string) func() error {
		return func() error { return kube.Create(t.Context(), pod(namespace, annotations), client.DryRunAll) }
	}
	for name, tc := range map[string]struct {
		do   func() error
		want int
	}{
		"a pod without annotations":             {dryRun(shop, nil), 0},
		"a pod with other annotations":          {dryRun(shop, map[string]string{v1alpha1.ContainersAnnotation: "app", "m2m-operator.io/other": "x"}), 0},
		"a pod with a client":                   {dryRun(shop, client1), 1},
		"a pod with an API":                     {dryRun(shop, map[string]string{v1alpha1.VerifyAnnotation: "payment-api"}), 1},
		"a pod of a namespace that forbids it":  {dryRun(forbidden, client1), 0},
		"a pod of a namespace that allows it":   {dryRun(otherwise, client1), 1},
		"a pod of kube-system":                  {dryRun("kube-system", client1), 0},
		"a pod of the operator's own namespace": {dryRun(systemNamespace, client1), 0},
		"an update of an annotated pod":         {update, 0},
		"another object with the same annotation": {func() error {
			return kube.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: shop, Annotations: client1}}, client.DryRunAll)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			before := requests(t)
			if err := tc.do(); err != nil {
				t.Fatal(err)
			}
			if got := requests(t) - before; got != tc.want {
				t.Errorf("%d requests reached the webhook, want %d", got, tc.want)
			}
		})
	}
}

// TestUnknownNames: an annotation may name what does not exist yet. An unverified caller is
// not told that it does not exist.
func TestUnknownNames(t *testing.T) {
	r := start(t)
	configure(t, r)
	p := pod(newNamespace(t, nil), map[string]string{v1alpha1.ClientAnnotation: "nobody", v1alpha1.VerifyAnnotation: "payments/other-api"})
	create(t, p)
	same(t, "warnings", []string(nil), warnings.taken())
	same(t, "what is injected", "secret/nobody-token,configmap/m2m-verify.payments.other-api", p.Annotations[v1alpha1.InjectedAnnotation])
}

// TestUnknownNamesAreToldTheAPIServer: the API server, which has presented its certificate,
// gets warnings.
func TestUnknownNamesAreToldTheAPIServer(t *testing.T) {
	r := start(t, forTheAPIServer)
	configure(t, r)
	shop := newNamespace(t, nil)
	p := pod(shop, map[string]string{v1alpha1.ClientAnnotation: "nobody", v1alpha1.VerifyAnnotation: "payment-api,payments/other-api"})
	create(t, p)
	same(t, "warnings", []string{
		fmt.Sprintf("M2MClient %q does not exist in namespace %q yet; the pod starts when it has a token", "nobody", shop),
		fmt.Sprintf("APIResource %q does not exist in namespace %q yet; the pod starts when it does", "payment-api", shop),
		`APIResource "other-api" does not exist in namespace "payments" yet; the pod starts when it does`,
	}, warnings.taken())
	same(t, "what is injected", "secret/nobody-token,configmap/m2m-verify."+shop+".payment-api,configmap/m2m-verify.payments.other-api",
		p.Annotations[v1alpha1.InjectedAnnotation])
}

// TestMalformed compares the message that the creator of a pod reads.
func TestMalformed(t *testing.T) {
	r := start(t)
	configure(t, r)
	shop := newNamespace(t, nil)
	err := kube.Create(t.Context(), pod(shop, map[string]string{v1alpha1.ClientAnnotation: "payments/cart"}), client.DryRunAll)
	if !apierrors.IsForbidden(err) {
		t.Fatalf("the pod was not refused: %v", err)
	}
	_, message, _ := strings.Cut(err.Error(), "webhook ")
	same(t, "the refusal", `"pods.m2m-operator.io" denied the request: annotation m2m-operator.io/client: `+
		`"payments/cart" has a slash; write the name alone: the M2MClient must be in the pod's own namespace`, message)
}

// TestTheWebhookIsDown: pods without annotations can still be created.
func TestTheWebhookIsDown(t *testing.T) {
	r := start(t)
	configure(t, r)
	r.stop()
	shop := newNamespace(t, nil)
	annotated := map[string]string{v1alpha1.ClientAnnotation: "cart"}
	if err := kube.Create(t.Context(), pod(shop, nil), client.DryRunAll); err != nil {
		t.Errorf("a pod without annotations: %v", err)
	}
	if err := kube.Create(t.Context(), pod("kube-system", annotated), client.DryRunAll); err != nil {
		t.Errorf("an annotated pod of kube-system: %v", err)
	}
	if err := kube.Create(t.Context(), pod(shop, annotated), client.DryRunAll); !apierrors.IsInternalError(err) {
		t.Errorf("an annotated pod was not refused: %v", err)
	}
}

// TestWatchedNamespaces: the operator does not change pods of other namespaces.
func TestWatchedNamespaces(t *testing.T) {
	shop, other := newNamespace(t, nil), newNamespace(t, nil)
	r := start(t, forTheAPIServer, func(o *injection.Options) { o.WatchNamespaces = []string{shop} })
	create(t, configured(r.port))
	annotated := map[string]string{v1alpha1.ClientAnnotation: "nobody", v1alpha1.VerifyAnnotation: other + "/payment-api"}
	p := pod(shop, annotated)
	eventually(t, func() error { return kube.Create(context.Background(), p.DeepCopy(), client.DryRunAll) })
	warnings.taken()
	create(t, p)
	same(t, "what is injected", "secret/nobody-token,configmap/m2m-verify."+other+".payment-api", p.Annotations[v1alpha1.InjectedAnnotation])
	same(t, "warnings", 2, len(warnings.taken()))

	p = pod(other, annotated)
	create(t, p)
	same(t, "what is injected elsewhere", "", p.Annotations[v1alpha1.InjectedAnnotation])
	same(t, "warnings", []string{
		fmt.Sprintf("m2m-operator does not watch namespace %q (--watch-namespaces); nothing was injected into the pod", other),
	}, warnings.taken())
}

// TestAnotherWebhookAddsAContainer: the API server calls the webhook again, and the new
// container gets the same mounts.
func TestAnotherWebhookAddsAContainer(t *testing.T) {
	r := start(t)
	configure(t, r)
	shop := newNamespace(t, nil)

	late, err := admission.StandaloneWebhook(&admission.Webhook{Handler: admission.HandlerFunc(
		func(_ context.Context, req admission.Request) admission.Response {
			if strings.Contains(string(req.Object.Raw), `"name":"mesh-proxy"`) {
				return admission.Allowed("")
			}
			with := strings.Replace(string(req.Object.Raw), `"containers":[`, `"containers":[{"name":"mesh-proxy","image":"proxy"},`, 1)
			return admission.PatchResponseFromRaw(req.Object.Raw, []byte(with))
		})}, admission.StandaloneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(late)
	t.Cleanup(server.Close)
	mesh := shipped.DeepCopy()
	mesh.Name = "z-mesh" // after ours
	mesh.Webhooks[0].Name = "mesh.example.com"
	mesh.Webhooks[0].NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: shop}}
	mesh.Webhooks[0].ClientConfig.Service = nil
	mesh.Webhooks[0].ClientConfig.URL = &server.URL
	mesh.Webhooks[0].ClientConfig.CABundle = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	create(t, mesh)

	var p *corev1.Pod
	eventually(t, func() error {
		p = pod(shop, map[string]string{v1alpha1.ClientAnnotation: "cart"})
		if err := kube.Create(t.Context(), p, client.DryRunAll); err != nil {
			return err
		}
		if len(p.Spec.Containers) != 2 {
			return errors.New("the other webhook is not called yet")
		}
		return nil
	})
	for _, c := range p.Spec.Containers {
		same(t, "mounts of "+c.Name, []string{"secret/cart-token (0444) at " + v1alpha1.TokenDir}, mountsOf(p, c))
	}

	// An annotation may name a container before it exists, and one that never will.
	p = pod(shop, map[string]string{v1alpha1.ClientAnnotation: "cart", v1alpha1.ContainersAnnotation: "mesh-proxy,late"})
	if err := kube.Create(t.Context(), p, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	for _, c := range p.Spec.Containers {
		var want []string
		if c.Name == "mesh-proxy" {
			want = []string{"secret/cart-token (0444) at " + v1alpha1.TokenDir}
		}
		same(t, "mounts of "+c.Name+" where the others are left out", want, mountsOf(p, c))
	}
	same(t, "the missing containers", "late", p.Annotations[v1alpha1.MissingContainersAnnotation])
}
