// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/render"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// accessLog records which rights the requests of a connection require, and which
// requests were refused.
type accessLog struct {
	next            http.RoundTripper
	mu              sync.Mutex
	used, forbidden sets.Set[string] // "update secrets", "patch m2m-operator.io m2mclients/status"
}

func watchAccess(cfg *rest.Config) *accessLog {
	l := &accessLog{used: sets.New[string](), forbidden: sets.New[string]()}
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		l.next = next
		return l
	})
	return l
}

func (l *accessLog) RoundTrip(req *http.Request) (*http.Response, error) {
	right := rightOf(req)
	resp, err := l.next.RoundTrip(req)
	l.mu.Lock()
	defer l.mu.Unlock()
	if right != "" {
		l.used.Insert(right)
	}
	if err == nil && resp.StatusCode == http.StatusForbidden {
		l.forbidden.Insert(right + " " + req.URL.Path)
	}
	return resp, err
}

// rightOf returns a request in the authorizer's terms, "" if it is not for a resource.
func rightOf(req *http.Request) string {
	parts := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	group := ""
	switch {
	case parts[0] == "api" && len(parts) > 2:
		parts = parts[2:]
	case parts[0] == "apis" && len(parts) > 3:
		group, parts = parts[1], parts[3:]
	default:
		return ""
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		parts = parts[2:]
	}
	resource, named := parts[0], len(parts) > 1
	if len(parts) > 2 {
		resource += "/" + parts[2]
	}
	verb := map[string]string{
		http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete", http.MethodGet: "get",
	}[req.Method]
	if verb == "get" && !named {
		verb = "list"
		if w := req.URL.Query().Get("watch"); w == "true" || w == "1" {
			verb = "watch"
		}
	}
	return right(verb, group, resource)
}

func right(verb, group, resource string) string {
	return strings.Join(strings.Fields(verb+" "+group+" "+resource), " ")
}

// rightsOf lists the rights of a role one by one.
func rightsOf(role *rbacv1.ClusterRole) sets.Set[string] {
	all := sets.New[string]()
	for _, rule := range role.Rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					all.Insert(right(verb, group, resource))
				}
			}
		}
	}
	return all
}

// needed are the rights that no request of a test requires.
var needed = map[string]string{
	"update m2m-operator.io m2mclients/finalizers": "the admission plugin OwnerReferencesPermissionEnforcement asks for it: a Secret blocks its owner's deletion",
	"patch events.k8s.io events":                   "an event that occurs again within minutes becomes a series",
}

// TestTheRoleIsWhatTheOperatorUses plays the story, a rotation of credentials and
// keys, a withdrawal and the deletion of everything with only the rights of the role.
// No request is refused, and every right is used.
func TestTheRoleIsWhatTheOperatorUses(t *testing.T) {
	w := operator.NewWorld(t, func(o *oidc.Options) { o.TLS = true })
	system := operator.NewNamespace(t, "m2m-operator-system", nil)
	if _, err := envtest.InstallCRDs(operator.RESTConfig, envtest.CRDInstallOptions{CRDs: kubetest.GatewayKinds()}); err != nil {
		t.Fatal(err)
	}
	cfg := operator.Restricted(t, operator.EnforcementRoles(t)...)
	rights := watchAccess(cfg)
	operator.StartOver(t, cfg, func(o *controller.Options) { o.OperatorNamespace = system }, operator.Enforcing(enforcement.Gateways()...))

	// Servers of both kinds, with CA bundles of both kinds.
	secret := operator.NewSecret()
	w.SetClient(operator.CartID, secret)
	ofAPI, ofClient := w.Server(w.Payments), w.Server(w.Shop)
	ofAPI.Spec.CABundle.ConfigMapRef = v1alpha1.ConfigMapKeyReference{Name: "ca"}
	ofClient.Spec.CABundle.SecretRef = v1alpha1.SecretKeyReference{Name: "ca"}
	shared := &v1alpha1.ClusterAuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Name: system},
		Spec: v1alpha1.ClusterAuthorizationServerSpec{
			AuthorizationServerSpec: ofAPI.Spec, AllowedNamespaces: v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{}},
		},
	}
	t.Cleanup(func() { _ = client.IgnoreNotFound(operator.Kube.Delete(context.Background(), shared)) })
	ca := string(w.AS.CAPEM())
	api, cart := w.API(), w.Cart()
	operator.Create(t,
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "ca", Namespace: w.Payments}, Data: map[string]string{v1alpha1.CABundleKey: ca}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "ca", Namespace: system}, Data: map[string]string{v1alpha1.CABundleKey: ca}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "ca", Namespace: w.Shop}, StringData: map[string]string{v1alpha1.CABundleKey: ca}},
		ofAPI, ofClient, shared, api, w.Secret("cart-credentials", operator.CartID, secret), cart, verifier(w.Payments, "payment-api"))
	operator.IsReady(t, cart)
	operator.IsReady(t, api)
	operator.IsReady(t, shared)
	bundle := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.Payments, Name: render.ConfigMapName(w.Payments, "payment-api")}}
	operator.Eventually(t, func() error { return operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(bundle), bundle) })

	// Objects registered at servers of both kinds, and deleted there.
	logto := operator.NewTenant(t)
	provisioner, management := logto.ClusterServer(logto.Payments, logto.Shop)
	management.Namespace = system
	_, ordersAPI, orders := logto.Story()
	atCluster := logto.API()
	atCluster.Name, atCluster.Spec.Identifier = "other-api", atCluster.Spec.Identifier+"/other"
	atCluster.Spec.AuthorizationServerRef = v1alpha1.AuthorizationServerReference{
		Kind: v1alpha1.KindClusterAuthorizationServer, Name: v1alpha1.ObjectName(provisioner.Name),
	}
	operator.Create(t, management, provisioner, atCluster)
	operator.IsReady(t, orders)
	operator.IsReady(t, atCluster)
	for _, o := range []client.Object{orders, ordersAPI, atCluster, provisioner} {
		operator.Remove(t, o)
	}
	for _, o := range []client.Object{orders, ordersAPI, atCluster, provisioner} {
		operator.IsGone(t, o)
	}

	// After rotations of the credential and of the signing key, the operator updates the
	// Secret and the bundle.
	token := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")
	kid, err := w.AS.RotateKey()
	if err != nil {
		t.Fatal(err)
	}
	secret = operator.NewSecret()
	w.SetClient(operator.CartID, secret)
	operator.Change(t, w.Secret("cart-credentials", "", ""), func(s *corev1.Secret) { s.Data[v1alpha1.ClientSecretKey] = []byte(secret) })
	operator.Eventually(t, func() error {
		if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") == token {
			return fmt.Errorf("the token is the same as before")
		}
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(bundle), bundle); err != nil {
			return err
		}
		if ids := bundle.Annotations[v1alpha1.KeyIDsAnnotation]; !strings.Contains(ids, kid) {
			return fmt.Errorf("the bundle has the keys %s, not %s", ids, kid)
		}
		return nil
	})

	checkAtGateways(t, api)

	// If the Secret gets another name, the operator deletes the former one.
	operator.Change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Secret.Name = "cart-tokens" })
	operator.Eventually(t, func() error {
		if operator.TokenIn(t, w.Shop, "cart-tokens", "payment-api") == "" || operator.TokenIn(t, w.Shop, "cart-token", "payment-api") != "" {
			return fmt.Errorf("the token did not move to the new Secret")
		}
		return nil
	})

	// Remove the grant, and then everything.
	operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
	operator.HasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonNotGranted)
	if operator.TokenIn(t, w.Shop, "cart-tokens", "payment-api") != "" {
		t.Error("the token was not withdrawn")
	}
	for _, o := range []client.Object{cart, api, ofClient, ofAPI, shared, verifier(w.Payments, "payment-api")} {
		operator.Remove(t, o)
	}
	operator.Eventually(t, func() error {
		err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(bundle), bundle)
		if err == nil {
			return errors.New("the bundle is still there")
		}
		return client.IgnoreNotFound(err)
	})

	rights.mu.Lock()
	defer rights.mu.Unlock()
	if len(rights.forbidden) > 0 {
		t.Errorf("the role lacks rights that requests required: %q", sets.List(rights.forbidden))
	}
	granted, used := rightsOf(operator.ManagerRole(t)), rights.used.Clone()
	for _, role := range operator.EnforcementRoles(t) {
		granted = granted.Union(rightsOf(role))
	}
	for r := range rights.used {
		if what, ok := strings.CutPrefix(r, "watch "); ok {
			used.Insert("list " + what) // a watch begins with a list where it cannot stream one
		}
	}
	for r := range needed {
		if used.Has(r) {
			t.Errorf("%q was used: it needs no exception", r)
		}
		used.Insert(r)
	}
	unused := slices.Sorted(slices.Values(granted.Difference(used).UnsortedList()))
	if diff := cmp.Diff([]string{}, append([]string{}, unused...)); diff != "" {
		t.Errorf("the role grants rights that were never used (-want +got):\n%s", diff)
	}
}

// checkAtGateways lets gateways of both kinds check an API's tokens, first by one rule and
// then by another, and then no more.
func checkAtGateways(t *testing.T, api *v1alpha1.APIResource) {
	t.Helper()
	kinds := slices.Concat(gateways.Kinds(enforcement.EnvoyGateway), gateways.Kinds(enforcement.Istio))
	policies := func(want func(*unstructured.Unstructured) error) {
		t.Helper()
		for _, k := range kinds {
			operator.Eventually(t, func() error {
				if err := want(operator.Policy(t, k, api.Namespace, "m2m.payment-api."+string(k.Gateway))); err != nil {
					return fmt.Errorf("%s: %w", k.Name, err)
				}
				return nil
			})
		}
	}
	versions := map[string]string{}
	for _, scope := range []v1alpha1.ScopeName{"payments:read", "payments:write"} {
		rules := []v1alpha1.EnforcementRule{{Name: "all", Scopes: []v1alpha1.ScopeName{scope}}}
		operator.Change(t, api, func(a *v1alpha1.APIResource) {
			a.Spec.Enforcement = []v1alpha1.Enforcement{
				{Name: "envoy-gateway", Rules: rules, EnvoyGateway: v1alpha1.EnvoyGatewayEnforcement{
					TargetRefs: []v1alpha1.EnvoyGatewayTarget{{Kind: "HTTPRoute", Name: "payment"}},
				}},
				{Name: "istio", Rules: rules, Istio: v1alpha1.IstioEnforcement{
					Selector: v1alpha1.IstioSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": "payment"}},
				}},
			}
		})
		policies(func(u *unstructured.Unstructured) error {
			if u == nil || u.GetResourceVersion() == versions[u.GetKind()] {
				return errors.New("it was not written")
			}
			versions[u.GetKind()] = u.GetResourceVersion()
			return nil
		})
	}
	operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Enforcement = nil })
	policies(func(u *unstructured.Unstructured) error {
		if u != nil {
			return errors.New("it stays")
		}
		return nil
	})
}

// verifier returns a Deployment with the annotation for an API's bundle.
func verifier(namespace, apis string) *appsv1.Deployment {
	labels := map[string]string{"app": "payment"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "payment", Namespace: namespace, Annotations: map[string]string{v1alpha1.VerifyAnnotation: apis}},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](1), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "payment", Image: "payment"}}},
			},
		},
	}
}
