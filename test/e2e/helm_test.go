// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/test/e2e/wire"
)

const longLife = 10 * time.Minute

// testHelm removes the operator, leaves the tokens in place, and installs it again
// with Helm, as docs/install.md says. All the while cart goes on calling, with a
// token that outlives all of this.
func testHelm(t *testing.T, w *world) {
	w.register(t, "cart", longLife)
	cartToken(t, time.Now(), func(token wire.Token) bool { return token.ExpiresAt.Sub(token.IssuedAt) == longLife })
	cartCalls(t, true)

	uninstall := docsBlock(t, "kubectl delete mutatingwebhookconfigurations,")
	if len(uninstall) != 2 {
		t.Fatalf("docs/install.md uninstalls by %q", uninstall)
	}
	for _, line := range uninstall {
		mustRun(t, "", "bash", "-ec", line)
	}
	tokenIsThere(t)
	operatorIsGone(t)

	// docs/install.md makes this claim.
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: operatorNamespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted", suiteLabel: "1"},
	}})
	start := time.Now()
	installed := helm(t, "helm install ", "--take-ownership") // of the CRDs, which kubectl has left
	figures.set("helm_install_seconds", time.Since(start).Seconds())
	t.Log(installed)
	operatorAvailable(t)
	works(t)

	start = time.Now()
	admitted := keepAdmitting(t)
	mustRun(t, "", "helm", "upgrade", "m2m-operator", "charts/m2m-operator", "--namespace", operatorNamespace, "--reuse-values",
		"--set", "replicas=3", "--set", "promptDelivery.enabled=false", "--set", "resources.requests.memory=96Mi", "--wait")
	figures.set("helm_upgrade_seconds", time.Since(start).Seconds())
	operatorAvailable(t)
	upgraded(t)
	if count, failures := admitted(); len(failures) > 0 {
		t.Errorf("%d of %d annotated pods were refused while the replicas were replaced, the first one: %v", len(failures), count, failures[0])
	}
	works(t)

	helm(t, "helm uninstall ")
	tokenIsThere(t)
	operatorIsGone(t)
	p := pod(shop, "unmanaged", map[string]string{v1alpha1.ClientAnnotation: "cart"}, "idle")
	create(t, p) // no webhook is left that would refuse it
	calls := cartCalls(t, false)
	figures.set("helm_calls_count", calls.Total)
	figures.set("helm_failed_calls_count", calls.Failed)
	if err := noFailure(calls); err != nil {
		t.Error(err)
	}

	helm(t, "helm install ", "--set", "crds.keep=false")
	works(t)
	helm(t, "helm uninstall ")
	everythingIsGone(t)
	noSecrets(t, "log", w.secrets, w.logs.all())
	noSecretsInEvents(t, w)
}

// docsBlock returns the commands of the block in docs/install.md whose first command
// begins with these words.
func docsBlock(t *testing.T, begin string) (lines []string) {
	t.Helper()
	content, err := os.ReadFile(root + "/docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(content), "\n```sh\n"+begin)
	if !found {
		t.Fatalf("docs/install.md has no block that begins with %q", begin)
	}
	block, _, _ := strings.Cut(begin+rest, "```")
	return strings.Split(strings.TrimSpace(strings.ReplaceAll(block, "\\\n", "")), "\n")
}

// helm runs the command of docs/install.md that begins with these words, with our image.
func helm(t *testing.T, begin string, more ...string) string {
	t.Helper()
	content, err := os.ReadFile(root + "/docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	joined := strings.ReplaceAll(string(content), "\\\n", "")
	i := strings.Index(joined, "\n"+begin)
	if i < 0 {
		t.Fatalf("docs/install.md has no command %q", begin)
	}
	line, _, _ := strings.Cut(joined[i+1:], "\n")
	repository, tag, _ := cutLast(operatorImage, ":")
	line = strings.NewReplacer("registry.example.com/m2m-operator", repository, "image.tag=dev", "image.tag="+tag).Replace(line)
	return mustRun(t, "", "bash", "-ec", line+" "+strings.Join(more, " "))
}

// tokenIsThere requires the cart's token Secret and the bundle to be there, without the
// operator.
func tokenIsThere(t *testing.T) {
	t.Helper()
	var s corev1.Secret
	if err := kube.Get(t.Context(), client.ObjectKey{Namespace: shop, Name: "cart-token"}, &s); err != nil || len(s.Data["payment-api"]) == 0 {
		t.Errorf("the token is gone: %v", err)
	}
	if err := kube.Get(t.Context(), client.ObjectKey{Namespace: payments, Name: "m2m-verify.e2e-payments.payment-api"}, &corev1.ConfigMap{}); err != nil {
		t.Errorf("the bundle is gone: %v", err)
	}
	if err := kube.Get(t.Context(), client.ObjectKey{Namespace: shop, Name: "cart"}, &v1alpha1.M2MClient{}); err != nil {
		t.Errorf("the M2MClient is gone: %v", err)
	}
}

// operatorIsGone waits until no pod of the operator is left, and requires that no webhook is.
func operatorIsGone(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, func() error {
		var pods corev1.PodList
		if err := kube.List(t.Context(), &pods, client.InNamespace(operatorNamespace)); err != nil {
			return err
		}
		if len(pods.Items) > 0 {
			return fmt.Errorf("there are still %d pods of the operator", len(pods.Items))
		}
		return nil
	})
	webhooks, err := clientset.AdmissionregistrationV1().MutatingWebhookConfigurations().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, hook := range webhooks.Items {
		if strings.HasPrefix(hook.Name, "m2m-operator") {
			t.Errorf("the webhook configuration %s is left", hook.Name)
		}
	}
}

// works requires the operator that is installed now to do its work: a new client
// gets a token, and a pod finds it.
func works(t *testing.T) {
	t.Helper()
	name := fmt.Sprintf("helm-%d", time.Now().UnixNano())
	c := &v1alpha1.M2MClient{}
	if err := kube.Get(t.Context(), client.ObjectKey{Namespace: shop, Name: "cart"}, c); err != nil {
		t.Fatal(err)
	}
	c.ObjectMeta = metav1.ObjectMeta{Name: name, Namespace: shop}
	create(t, c)
	becomeReady(t, c)
	p := pod(shop, name, map[string]string{v1alpha1.ClientAnnotation: name}, "look")
	// The webhook's Service may not have reached the node yet: whoever creates pods
	// tries again.
	eventually(t, 30*time.Second, func() error { return kube.Create(t.Context(), p) })
	eventually(t, time.Minute, func() error {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		if p.Status.Phase != corev1.PodSucceeded {
			return fmt.Errorf("the pod is %s", p.Status.Phase)
		}
		return nil
	})
}

// keepAdmitting creates annotated pods for the webhook to judge, one after the
// other, until it is asked for the results.
func keepAdmitting(t *testing.T) (stop func() (count int, failures []error)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	var all int
	var refused []error
	go func() {
		defer close(done)
		every := time.NewTicker(50 * time.Millisecond)
		defer every.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-every.C:
			}
			p := pod(shop, "admitted", map[string]string{v1alpha1.ClientAnnotation: "cart"}, "idle")
			err := kube.Create(ctx, p, client.DryRunAll)
			if ctx.Err() != nil {
				return
			}
			all++
			if err != nil {
				refused = append(refused, err)
			}
		}
	}()
	return func() (int, []error) {
		cancel()
		<-done
		figures.set("helm_upgrade_admissions_count", all)
		figures.set("helm_upgrade_failed_admissions_count", len(refused))
		return all, refused
	}
}

// upgraded requires the changed values to be in the objects.
func upgraded(t *testing.T) {
	t.Helper()
	var d appsv1.Deployment
	if err := kube.Get(t.Context(), client.ObjectKey{Namespace: operatorNamespace, Name: operatorDeployment}, &d); err != nil {
		t.Fatal(err)
	}
	manager := d.Spec.Template.Spec.Containers[0]
	if *d.Spec.Replicas != 3 || manager.Resources.Requests.Memory().String() != "96Mi" || !slices.Contains(manager.Args, "--prompt-delivery=false") {
		t.Errorf("the Deployment has %d replicas, requests %s and the flags %v", *d.Spec.Replicas, manager.Resources.Requests.Memory(), manager.Args)
	}
	if err := kube.Get(t.Context(), client.ObjectKey{Name: "m2m-operator-prompt-delivery"}, &rbacv1.ClusterRole{}); !apierrors.IsNotFound(err) {
		t.Errorf("without prompt delivery the permission to patch pods is still granted: %v", err)
	}
}

// everythingIsGone waits until the CRDs are gone, and with them all tokens.
func everythingIsGone(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, func() error {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinitionList"))
		if err := kube.List(t.Context(), list); err != nil {
			return err
		}
		for _, d := range list.Items {
			if strings.HasSuffix(d.Name, "."+v1alpha1.GroupVersion.Group) {
				return fmt.Errorf("%s is left", d.Name)
			}
		}
		err := kube.Get(t.Context(), client.ObjectKey{Namespace: shop, Name: "cart-token"}, &corev1.Secret{})
		if err == nil {
			return errors.New("the token is left")
		}
		return client.IgnoreNotFound(err)
	})
}
