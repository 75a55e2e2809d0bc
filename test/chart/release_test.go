// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/ports"
)

// The release that is installed: under a name of its own, in three namespaces.
const (
	tokens    = "tokens"
	platform  = "platform" // its namespace
	elsewhere = "elsewhere"
	account   = tokens + "-m2m-operator-controller-manager"
	paymentID = "https://payment.example.com/api"
)

// written collects the output of a process.
type written struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *written) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *written) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

var eventually = kubetest.Eventually

// flagsOf returns the flags with which a Deployment's pods start the container,
// with the pod's labels filled in as the kubelet does.
func flagsOf(t *testing.T, o *unstructured.Unstructured) []string {
	t.Helper()
	var d appsv1.Deployment
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &d); err != nil {
		t.Fatal(err)
	}
	flags := slices.Clone(d.Spec.Template.Spec.Containers[0].Args)
	for _, e := range d.Spec.Template.Spec.Containers[0].Env {
		if e.ValueFrom.FieldRef == nil {
			continue // the limit of memory
		}
		label, ok := strings.CutPrefix(e.ValueFrom.FieldRef.FieldPath, "metadata.labels['")
		for i := range flags {
			if ok {
				flags[i] = strings.ReplaceAll(flags[i], "$("+e.Name+")", d.Spec.Template.Labels[strings.TrimSuffix(label, "']")])
			}
		}
	}
	return flags
}

// TestAReleaseInAFewNamespacesWorks installs a release that watches two
// namespaces. It runs the operator and a shard of it with the flags of their
// Deployments, as its ServiceAccount: in these namespaces they do everything they
// do anywhere, and in others they can do nothing.
func TestAReleaseInAFewNamespacesWorks(t *testing.T) {
	flags := map[string][]string{}
	for _, o := range render(t, tokens, platform, "{watchNamespaces: [shop, payments], shards: [eu-1], crds: {enabled: false}}") {
		if err := apply(t, o); err != nil {
			t.Fatalf("%s: %v", id(o), err)
		}
		if o.GetKind() == "Deployment" {
			flags[o.GetName()] = flagsOf(t, o)
		}
	}
	log, shard := run(t, flags[tokens+"-m2m-operator-controller-manager"]), run(t, flags[tokens+"-m2m-operator-shard-eu-1"])

	secret := oidc.NewSecret()
	as := authorizationServer(t, secret)
	create(t,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: elsewhere}},
		server(as, "shop"), server(as, "payments"), server(as, elsewhere),
		&v1alpha1.ClusterAuthorizationServer{
			ObjectMeta: metav1.ObjectMeta{Name: "company"},
			Spec: v1alpha1.ClusterAuthorizationServerSpec{
				AuthorizationServerSpec: v1alpha1.AuthorizationServerSpec{Issuer: as.Issuer()},
				AllowedNamespaces:       v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{}},
			},
		},
		api(), credentials("shop", secret), credentials(elsewhere, secret), cart("shop"), cart(elsewhere), payment(), ofShard())

	ready := func(o client.Object, conditions func() []metav1.Condition) {
		t.Helper()
		eventually(t, func() error {
			if err := kube.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
				return err
			}
			if !meta.IsStatusConditionTrue(conditions(), v1alpha1.ConditionReady) {
				return fmt.Errorf("%s is not ready: %v; the operator wrote:\n%s\nand its shard:\n%s", o.GetName(), conditions(), log, shard)
			}
			return nil
		})
	}
	european := ofShard()
	ready(european, func() []metav1.Condition { return european.Status.Conditions })
	for _, lease := range []string{"m2m-operator", "m2m-operator-eu-1"} {
		if err := kube.Get(t.Context(), client.ObjectKey{Namespace: platform, Name: lease}, &coordinationv1.Lease{}); err != nil {
			t.Errorf("the lease %s: %v", lease, err)
		}
	}
	c, s := cart("shop"), &v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: "company"}}
	ready(c, func() []metav1.Condition { return c.Status.Conditions })
	ready(s, func() []metav1.Condition { return s.Status.Conditions })
	eventually(t, func() error {
		bundle := client.ObjectKey{Namespace: "payments", Name: "m2m-verify.payments.payment-api"}
		return kube.Get(t.Context(), bundle, &corev1.ConfigMap{})
	})
	eventually(t, func() error {
		var c admissionregistrationv1.MutatingWebhookConfiguration
		if err := kube.Get(t.Context(), client.ObjectKey{Name: tokens + "-m2m-operator-pod-injection"}, &c); err != nil {
			return err
		}
		block, _ := pem.Decode(c.Webhooks[0].ClientConfig.CABundle)
		if block == nil {
			return fmt.Errorf("the webhook has no caBundle; the operator wrote:\n%s", log)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		return certificate.VerifyHostname(c.Webhooks[0].ClientConfig.Service.Name + "." + platform + ".svc")
	})
	eventually(t, func() error { // an event about an object without a namespace
		var events corev1.EventList
		if err := kube.List(t.Context(), &events, client.InNamespace("default")); err != nil {
			return err
		}
		if !slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return e.InvolvedObject.Name == "company" }) {
			return errors.New("there is no event of the ClusterAuthorizationServer")
		}
		return nil
	})

	other := cart(elsewhere)
	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(other), other); err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(other.Status.Conditions, func(c metav1.Condition) bool { return c.Reason != v1alpha1.ReasonPending }) {
		t.Errorf("the operator works in a namespace that it does not watch: %v", other.Status.Conditions)
	}
	for _, log := range []*written{log, shard} {
		if strings.Contains(log.String(), "forbidden") {
			t.Errorf("the operator lacks permissions:\n%s", log)
		}
	}
	permissions(t)
	fenced(t)
}

// permissions checks what the ServiceAccount may do in which namespace.
func permissions(t *testing.T) {
	t.Helper()
	for _, resource := range []authorizationv1.ResourceAttributes{
		{Resource: "secrets", Verb: "list"}, {Resource: "secrets", Verb: "update"}, {Resource: "configmaps", Verb: "create"},
		{Resource: "pods", Verb: "list"}, {Resource: "pods", Verb: "patch"}, {Group: "m2m-operator.io", Resource: "m2mclients", Verb: "list"},
	} {
		for ns, want := range map[string]bool{"shop": true, "payments": true, platform: true, elsewhere: false, "kube-system": false, "": false} {
			resource.Namespace = ns
			review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
				User: "system:serviceaccount:" + platform + ":" + account, ResourceAttributes: &resource,
			}}
			if err := kube.Create(t.Context(), review); err != nil {
				t.Fatal(err)
			}
			if review.Status.Allowed != want {
				t.Errorf("may %s %s in %q: %t, want %t", resource.Verb, resource.Resource, ns, review.Status.Allowed, want)
			}
		}
	}
}

// fenced attacks with the ServiceAccount: the policies know the release's account.
func fenced(t *testing.T) {
	t.Helper()
	config := rest.CopyConfig(restConfig)
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + platform + ":" + account}
	operator, err := client.New(config, client.Options{Scheme: controller.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	err = operator.Update(t.Context(), credentials("shop", "stolen"))
	if !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tokens+"-m2m-operator-fence") {
		t.Errorf("it changes another's Secret: %v", err)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "pod", Namespace: "shop"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "one"}}},
	}
	create(t, pod)
	before := pod.DeepCopy()
	pod.Spec.Containers[0].Image = "two"
	err = operator.Patch(t.Context(), pod, client.MergeFrom(before))
	if !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tokens+"-m2m-operator-pod-fence") {
		t.Errorf("it changes a pod's image: %v", err)
	}
	c := cart("shop")
	err = operator.Patch(t.Context(), c, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"access":[{"apiResourceRef":{"name":"other"}}]}}`)))
	if !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tokens+"-m2m-operator-finalizer-fence") {
		t.Errorf("it changes an M2MClient: %v", err)
	}
}

// run starts the operator as its pod would.
func run(t *testing.T, flags []string) *written {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "manager")
	if err := kubetest.BuildOperator(root, binary); err != nil {
		t.Fatal(err)
	}
	request := &authenticationv1.TokenRequest{}
	if err := kube.SubResource("token").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: platform, Name: account}}, request); err != nil {
		t.Fatal(err)
	}
	c := clientcmdapi.NewConfig()
	c.Clusters["c"] = &clientcmdapi.Cluster{Server: restConfig.Host, CertificateAuthorityData: restConfig.CAData}
	c.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: request.Status.Token}
	c.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	c.CurrentContext = "x"
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*c, kubeconfig); err != nil {
		t.Fatal(err)
	}
	// Its ports may be taken on this machine, and the authorization server is a process beside
	// it.
	flags = append(slices.Clone(flags), "--kubeconfig="+kubeconfig, "--allow-insecure-http", "--allow-loopback",
		"--metrics-bind-address=0", "--health-probe-bind-address=0", "--webhook-bind-address="+ports.Free(t))
	log := &written{}
	cmd := exec.Command(binary, flags...)
	cmd.Env = append(cmd.Environ(), "POD_NAMESPACE="+platform)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return log
}

func create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := kube.Create(t.Context(), o); err != nil {
			t.Fatalf("%T %s: %v", o, o.GetName(), err)
		}
	}
}

func authorizationServer(t *testing.T, secret string) *oidc.Server {
	t.Helper()
	as, err := oidc.Start(oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(as.Close)
	as.SetResource(paymentID, "payments:write")
	if err := as.SetClient(oidc.Client{
		ID: "cart", Secret: secret, Method: oidc.SecretBasic, Scopes: map[string][]string{paymentID: {"payments:write"}},
	}); err != nil {
		t.Fatal(err)
	}
	return as
}

func server(as *oidc.Server, ns string) *v1alpha1.AuthorizationServer {
	return &v1alpha1.AuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Name: "auth", Namespace: ns},
		Spec:       v1alpha1.AuthorizationServerSpec{Issuer: as.Issuer()},
	}
}

func api() *v1alpha1.APIResource {
	return &v1alpha1.APIResource{
		ObjectMeta: metav1.ObjectMeta{Name: "payment-api", Namespace: "payments"},
		Spec: v1alpha1.APIResourceSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Name: "auth"}, Identifier: paymentID,
			Scopes: []v1alpha1.Scope{{Name: "payments:write"}},
			Grants: []v1alpha1.Grant{{
				Clients: v1alpha1.GrantedClients{Namespaces: v1alpha1.NamespaceSelection{Names: []v1alpha1.NamespaceName{"shop", elsewhere}}},
				Scopes:  []v1alpha1.ScopeName{"payments:write"},
			}},
		},
	}
}

func credentials(ns, secret string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "cart-credentials", Namespace: ns},
		StringData: map[string]string{v1alpha1.ClientIDKey: "cart", v1alpha1.ClientSecretKey: secret},
	}
}

func cart(ns string) *v1alpha1.M2MClient {
	return &v1alpha1.M2MClient{
		ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: ns},
		Spec: v1alpha1.M2MClientSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Name: "auth"},
			Access: []v1alpha1.Access{{
				APIResourceRef: v1alpha1.APIResourceReference{Name: "payment-api", Namespace: "payments"},
				Scopes:         []v1alpha1.ScopeName{"payments:write"},
			}},
			Credentials: v1alpha1.ClientCredentials{ClientSecret: v1alpha1.ClientSecretCredentials{
				SecretRef: v1alpha1.SecretKeyReference{Name: "cart-credentials"},
			}},
		},
	}
}

// ofShard is a client that the shard eu-1 serves.
func ofShard() *v1alpha1.M2MClient {
	c := cart("shop")
	c.Name, c.Labels = "wishlist", map[string]string{v1alpha1.ShardLabel: "eu-1"}
	return c
}

// payment is annotated for the API's bundle.
func payment() *appsv1.Deployment {
	labels := map[string]string{"app": "payment"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "payment", Namespace: "payments"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{v1alpha1.VerifyAnnotation: "payment-api"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "payment", Image: "payment"}}},
			},
		},
	}
}
