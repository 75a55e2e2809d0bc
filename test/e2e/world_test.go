// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/test/e2e/wire"
)

const (
	operatorNamespace  = "m2m-operator-system"
	operatorDeployment = "m2m-operator-controller-manager"

	identity = "e2e-identity" // of the authorization server
	payments = "e2e-payments" // of the API that is called
	shop     = "e2e-shop"     // of the callers
	closed   = "e2e-closed"   // forbids injection

	suiteLabel = "m2m-operator-e2e" // marks the namespaces that the suite may delete

	paymentAPI   = "https://payment.example.com/api"
	writePayment = "payments:write"
)

// world is what the parts of the suite work with: the operator as the README
// installs it, an authorization server, and the story's services.
type world struct {
	auth    client.ObjectKey // the authorization server's pod
	scraper client.ObjectKey
	logs    *logs // of the operator
	secrets []string
}

func bringUp(t *testing.T) *world {
	t.Helper()
	w := &world{}
	notSomebodyElses(t)
	removeNamespaces(t, identity, payments, shop, closed)
	if os.Getenv("M2M_E2E_CLEANUP") == "1" {
		t.Cleanup(func() { cleanUp(t) })
	}
	w.logs = followLogs(t)
	start := time.Now()
	install(t)
	figures.set("install_seconds", time.Since(start).Seconds())

	restricted := map[string]string{"pod-security.kubernetes.io/enforce": "restricted", suiteLabel: "1"}
	for _, name := range []string{identity, payments, shop} {
		create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: restricted}})
	}
	apply(t, "identity.yaml", "PODS_IMAGE", podsImage)
	w.auth = running(t, identity, "auth", 1)[0]
	w.scraper = running(t, identity, "scraper", 1)[0]

	var ca string
	mustAsk(t, w.auth, http.MethodGet, "/ca", nil, &ca)
	for _, ns := range []string{payments, shop} {
		create(t, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: "auth-ca", Namespace: ns}, Data: map[string]string{v1alpha1.CABundleKey: ca},
		})
	}
	mustAsk(t, w.auth, http.MethodPut, "/resource", wire.Resource{ID: paymentAPI, Scopes: []string{"payments:read", writePayment}}, nil)
	w.register(t, "cart", 0)
	apply(t, "story.yaml", "PODS_IMAGE", podsImage)
	becomeReady(t,
		&v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: "auth", Namespace: payments}},
		&v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: "auth", Namespace: shop}},
		&v1alpha1.APIResource{ObjectMeta: metav1.ObjectMeta{Name: "payment-api", Namespace: payments}},
		&v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: shop}})
	running(t, payments, "payment", 2)
	running(t, shop, "cart", 1)
	figures.set("story_up_seconds", time.Since(start).Seconds())
	eventually(t, time.Minute, func() error { // it may have started before payment's Service
		return noFailure(cartCalls(t, true))
	})
	return w
}

// notSomebodyElses stops if people use an operator that is installed here, and
// removes what Helm left behind in an earlier run.
func notSomebodyElses(t *testing.T) {
	t.Helper()
	var clients v1alpha1.M2MClientList
	if err := kube.List(t.Context(), &clients); err != nil && !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	for _, c := range clients.Items {
		if c.Namespace != shop {
			t.Fatalf("there is an M2MClient in %s: the suite does not touch an operator that is in use", c.Namespace)
		}
	}
	var ns corev1.Namespace
	err := kube.Get(t.Context(), client.ObjectKey{Name: operatorNamespace}, &ns)
	switch {
	case apierrors.IsNotFound(err):
		return
	case err != nil:
		t.Fatal(err)
	case ns.Labels[suiteLabel] == "":
		t.Fatalf("there is a namespace %s which is not of the suite: it does not touch an operator that is in use", operatorNamespace)
	}
	mustRun(t, "", "helm", "uninstall", "m2m-operator", "--namespace", operatorNamespace, "--ignore-not-found", "--wait")
}

// cleanUp leaves nothing behind on a cluster that is not the suite's own.
func cleanUp(t *testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	for _, command := range [][]string{
		{"helm", "uninstall", "m2m-operator", "--namespace", operatorNamespace, "--ignore-not-found", "--wait"},
		{"kubectl", "delete", "--ignore-not-found", "-f", "dist/install.yaml"},
		{"kubectl", "delete", "namespace", "--ignore-not-found", identity, payments, shop, closed, operatorNamespace},
		{"kubectl", "delete", "clusterrolebinding", "--ignore-not-found", "m2m-operator-e2e-scraper"},
	} {
		if _, err := run(ctx, "", command[0], command[1:]...); err != nil {
			t.Error(err)
		}
	}
}

// markNamespace marks the operator's namespace as the suite's.
func markNamespace(t *testing.T) {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: operatorNamespace}}
	update(t, ns, func(ns *corev1.Namespace) { ns.Labels[suiteLabel] = "1" })
}

// install does what the README's section on installing says. make e2e has already
// built the image and the manifest, with another name of the image.
func install(t *testing.T) {
	t.Helper()
	var did []string
	for _, line := range readmeInstall(t) {
		if strings.HasPrefix(line, "make ") {
			continue
		}
		mustRun(t, "", "bash", "-ec", line)
		did = append(did, line)
	}
	markNamespace(t)
	if len(did) < 2 {
		t.Fatalf("the README installs by %q", did)
	}
	var pods corev1.PodList
	if err := kube.List(t.Context(), &pods, client.InNamespace(operatorNamespace)); err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods.Items {
		if image := pod.Spec.Containers[0].Image; pod.DeletionTimestamp == nil && image != operatorImage {
			t.Errorf("pod %s runs %s, not %s", pod.Name, image, operatorImage)
		}
	}
}

// register makes a client at the authorization server with a new secret, and puts
// the secret into the Secret that its M2MClient names: if both exist, this rotates
// the client secret. A lifetime of zero is the server's default.
func (w *world) register(t *testing.T, name string, lifetime time.Duration) {
	t.Helper()
	secret := oidc.NewSecret()
	w.secrets = append(w.secrets, secret)
	mustAsk(t, w.auth, http.MethodPut, "/client", oidc.Client{
		ID: name, Secret: secret, TokenLifetime: lifetime, Scopes: map[string][]string{paymentAPI: {writePayment}},
	}, nil)
	credentials := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name + "-credentials", Namespace: shop},
		StringData: map[string]string{v1alpha1.ClientIDKey: name, v1alpha1.ClientSecretKey: secret},
	}
	err := kube.Create(t.Context(), credentials)
	if client.IgnoreAlreadyExists(err) == nil && err != nil {
		update(t, credentials, func(s *corev1.Secret) { s.StringData = map[string]string{v1alpha1.ClientSecretKey: secret} })
		return
	}
	if err != nil {
		t.Fatal(err)
	}
}

// m2mClient creates a client whose tokens live this long, and are refreshed at
// this share of their lifetime.
func (w *world) m2mClient(t *testing.T, name string, lifetime time.Duration, atPercent int32) *v1alpha1.M2MClient {
	t.Helper()
	w.register(t, name, lifetime)
	c := &v1alpha1.M2MClient{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: shop},
		Spec: v1alpha1.M2MClientSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Name: "auth"},
			Access: []v1alpha1.Access{{
				APIResourceRef: v1alpha1.APIResourceReference{Name: "payment-api", Namespace: payments},
				Scopes:         []v1alpha1.ScopeName{writePayment},
			}},
			Credentials: v1alpha1.ClientCredentials{ClientSecret: v1alpha1.ClientSecretCredentials{
				SecretRef: v1alpha1.SecretKeyReference{Name: v1alpha1.ObjectName(name + "-credentials")},
			}},
			Refresh: v1alpha1.RefreshPolicy{AtPercent: atPercent},
		},
	}
	create(t, c)
	return c
}

// pod returns a pod that runs one of the programs, with no annotation unless given.
func pod(namespace, name string, annotations map[string]string, args ...string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{"app": name}, Annotations: annotations},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken:  ptr.To(false),
			EnableServiceLinks:            ptr.To(false),
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: ptr.To(int64(1)),
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: ptr.To(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{container("main", args...)},
		},
	}
}

func container(name string, args ...string) corev1.Container {
	return corev1.Container{
		Name: name, Image: podsImage, Args: args,
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
}

// issued returns the token requests of clients that the server answered with a token.
func (w *world) issued(t *testing.T) map[string]wire.TokenRequest {
	t.Helper()
	all := map[string]wire.TokenRequest{}
	for _, r := range get[[]wire.TokenRequest](t, w.auth, "/requests") {
		if r.TokenHash != "" {
			all[r.TokenHash] = r
		}
	}
	return all
}

// cartCalls returns the counts of the cart's calls since they were last reset.
// If again is set, it resets them.
func cartCalls(t *testing.T, again bool) (calls wire.Calls) {
	t.Helper()
	method := http.MethodGet
	if again {
		method = http.MethodPost
	}
	mustAsk(t, running(t, shop, "cart", 1)[0], method, "/calls", nil, &calls)
	return calls
}

// reasons lists how many calls failed for which reason.
func reasons(calls wire.Calls) string {
	counts := map[string]int{}
	for _, f := range calls.Failures {
		counts[f.String()]++
	}
	var all []string
	for reason, n := range counts {
		all = append(all, fmt.Sprintf("%d × %s", n, reason))
	}
	return strings.Join(all, "; ")
}

// noFailure returns an error if a call has failed, or none was made.
func noFailure(calls wire.Calls) error {
	switch {
	case calls.Total == 0:
		return errors.New("no call was made")
	case calls.Failed > 0:
		return fmt.Errorf("%d of %d calls failed: %s", calls.Failed, calls.Total, reasons(calls))
	}
	return nil
}
