// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// restrictedUser has the operator's ClusterRole and nothing else.
const restrictedUser = "m2m-operator-restricted"

// managerRole reads the roles that the installation gives to the operator, as one.
func managerRole(t *testing.T) *rbacv1.ClusterRole {
	t.Helper()
	file := filepath.Join("..", "..", "config", "rbac", "role.yaml")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: make manifests writes it", err)
	}
	all := &rbacv1.ClusterRole{}
	for document := range strings.SplitSeq(strings.TrimPrefix(string(b), "---\n"), "\n---\n") {
		var role rbacv1.ClusterRole
		if err := yaml.UnmarshalStrict([]byte(document), &role); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all.Rules = append(all.Rules, role.Rules...)
	}
	return all
}

// restricted returns a connection with exactly the rights that the installation
// gives to the operator.
func restricted(t *testing.T) *rest.Config {
	t.Helper()
	role := managerRole(t)
	role.Name = restrictedUser
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: restrictedUser},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: restrictedUser},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: restrictedUser}},
	}
	create(t, role, binding)
	t.Cleanup(func() {
		for _, o := range []client.Object{role, binding} {
			if err := kube.Delete(context.Background(), o); err != nil {
				t.Error(err)
			}
		}
	})
	cfg := rest.CopyConfig(restConfig)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: restrictedUser}
	return cfg
}

// accessLog notes what rights a connection's requests take, and which of them
// were refused.
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

// rightOf returns what a request is to the authorizer, "" for what is no
// resource.
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

// rightsOf lists what a role grants, one by one.
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

// needed are the rights that no request of a test shows.
var needed = map[string]string{
	"update m2m-operator.io m2mclients/finalizers": "the admission plugin OwnerReferencesPermissionEnforcement asks for it: a Secret blocks its owner's deletion",
	"patch events.k8s.io events":                   "an event that occurs again within minutes becomes a series",
}

// TestTheRoleIsWhatTheOperatorUses plays the story, a rotation of credentials
// and keys, a withdrawal and the end of everything with the rights of the role
// alone: nothing is refused, and nothing is granted that was not used.
func TestTheRoleIsWhatTheOperatorUses(t *testing.T) {
	w := newWorld(t, func(o *oidc.Options) { o.TLS = true })
	system := newNamespace(t, "m2m-operator-system", nil)
	cfg := restricted(t)
	rights := watchAccess(cfg)
	startOperatorOver(t, cfg, func(o *Options) { o.OperatorNamespace = system })

	// Servers of both kinds, with CA bundles of both kinds.
	secret := newSecret()
	w.setClient(cartID, secret)
	ofAPI, ofClient := w.server(w.payments), w.server(w.shop)
	ofAPI.Spec.CABundle.ConfigMapRef = v1alpha1.ConfigMapKeyReference{Name: "ca"}
	ofClient.Spec.CABundle.SecretRef = v1alpha1.SecretKeyReference{Name: "ca"}
	shared := &v1alpha1.ClusterAuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Name: system},
		Spec: v1alpha1.ClusterAuthorizationServerSpec{
			AuthorizationServerSpec: ofAPI.Spec, AllowedNamespaces: v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{}},
		},
	}
	t.Cleanup(func() { _ = client.IgnoreNotFound(kube.Delete(context.Background(), shared)) })
	ca := string(w.as.CAPEM())
	api, cart := w.api(), w.cart()
	create(t,
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "ca", Namespace: w.payments}, Data: map[string]string{v1alpha1.CABundleKey: ca}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "ca", Namespace: system}, Data: map[string]string{v1alpha1.CABundleKey: ca}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "ca", Namespace: w.shop}, StringData: map[string]string{v1alpha1.CABundleKey: ca}},
		ofAPI, ofClient, shared, api, w.secret("cart-credentials", cartID, secret), cart, verifier(w.payments, "payment-api"))
	isReady(t, cart)
	isReady(t, api)
	isReady(t, shared)
	bundle := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.payments, Name: render.ConfigMapName(w.payments, "payment-api")}}
	eventually(t, func() error { return kube.Get(t.Context(), client.ObjectKeyFromObject(bundle), bundle) })

	// What is registered at a server of either kind, and deleted there.
	logto := newTenant(t)
	provisioner, management := logto.clusterServer(logto.payments, logto.shop)
	management.Namespace = system
	_, ordersAPI, orders := logto.story()
	atCluster := logto.api()
	atCluster.Name, atCluster.Spec.Identifier = "other-api", atCluster.Spec.Identifier+"/other"
	atCluster.Spec.AuthorizationServerRef = v1alpha1.AuthorizationServerReference{
		Kind: v1alpha1.KindClusterAuthorizationServer, Name: v1alpha1.ObjectName(provisioner.Name),
	}
	create(t, management, provisioner, atCluster)
	isReady(t, orders)
	isReady(t, atCluster)
	for _, o := range []client.Object{orders, ordersAPI, atCluster, provisioner} {
		remove(t, o)
	}
	for _, o := range []client.Object{orders, ordersAPI, atCluster, provisioner} {
		isGone(t, o)
	}

	// A rotated credential and a rotated signing key: the Secret and the bundle
	// are updated.
	token := tokenIn(t, w.shop, "cart-token", "payment-api")
	kid, err := w.as.RotateKey()
	if err != nil {
		t.Fatal(err)
	}
	secret = newSecret()
	w.setClient(cartID, secret)
	change(t, w.secret("cart-credentials", "", ""), func(s *corev1.Secret) { s.Data[v1alpha1.ClientSecretKey] = []byte(secret) })
	eventually(t, func() error {
		if tokenIn(t, w.shop, "cart-token", "payment-api") == token {
			return fmt.Errorf("the token is the same as before")
		}
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(bundle), bundle); err != nil {
			return err
		}
		if ids := bundle.Annotations[v1alpha1.KeyIDsAnnotation]; !strings.Contains(ids, kid) {
			return fmt.Errorf("the bundle has the keys %s, not %s", ids, kid)
		}
		return nil
	})

	// Another name for the Secret: the former one is deleted.
	change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Secret.Name = "cart-tokens" })
	eventually(t, func() error {
		if tokenIn(t, w.shop, "cart-tokens", "payment-api") == "" || tokenIn(t, w.shop, "cart-token", "payment-api") != "" {
			return fmt.Errorf("the token has not moved")
		}
		return nil
	})

	// The end of the grant, and of everything.
	change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
	hasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonNotGranted)
	if tokenIn(t, w.shop, "cart-tokens", "payment-api") != "" {
		t.Error("the token was not withdrawn")
	}
	for _, o := range []client.Object{cart, api, ofClient, ofAPI, shared, verifier(w.payments, "payment-api")} {
		remove(t, o)
	}
	eventually(t, func() error {
		err := kube.Get(t.Context(), client.ObjectKeyFromObject(bundle), bundle)
		if err == nil {
			return errors.New("the bundle is still there")
		}
		return client.IgnoreNotFound(err)
	})

	rights.mu.Lock()
	defer rights.mu.Unlock()
	if len(rights.forbidden) > 0 {
		t.Errorf("the role lacks rights that were asked for: %q", sets.List(rights.forbidden))
	}
	granted, used := rightsOf(managerRole(t)), rights.used.Clone()
	for r := range rights.used {
		if what, ok := strings.CutPrefix(r, "watch "); ok {
			used.Insert("list " + what) // a watch begins with a list where it cannot stream one
		}
	}
	for r := range needed {
		if used.Has(r) {
			t.Errorf("%q was seen after all: it needs no exception", r)
		}
		used.Insert(r)
	}
	unused := slices.Sorted(slices.Values(granted.Difference(used).UnsortedList()))
	if diff := cmp.Diff([]string{}, append([]string{}, unused...)); diff != "" {
		t.Errorf("the role grants what was never used (-want +got):\n%s", diff)
	}
}

// verifier returns a Deployment that is annotated for an API's bundle.
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
