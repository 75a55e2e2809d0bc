// SPDX-License-Identifier: Apache-2.0

package tree

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(noon.Add(-d)) }

func ready(status metav1.ConditionStatus, reason string, more ...metav1.Condition) []metav1.Condition {
	return append([]metav1.Condition{{Type: "Ready", Status: status, Reason: reason, Message: "about " + reason}}, more...)
}

func server(namespace string) *v1alpha1.AuthorizationServer {
	s := &v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "auth"}}
	s.Spec.Issuer = "https://auth.example.com"
	s.Status.Conditions = ready("True", "Ready")
	s.Status.Keys = []v1alpha1.SigningKey{{KeyID: "k1"}}
	return s
}

func clusterServer() *v1alpha1.ClusterAuthorizationServer {
	s := server("")
	return &v1alpha1.ClusterAuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Name: s.Name}, Status: s.Status,
		Spec: v1alpha1.ClusterAuthorizationServerSpec{AuthorizationServerSpec: s.Spec},
	}
}

func paymentAPI() *v1alpha1.APIResource {
	a := &v1alpha1.APIResource{ObjectMeta: metav1.ObjectMeta{Namespace: "payments", Name: "payment-api"}}
	a.Spec.AuthorizationServerRef.Name, a.Spec.Identifier = "auth", "https://payment.example.com/api"
	a.Status.Conditions = ready("True", "Ready")
	return a
}

func cart() *v1alpha1.M2MClient {
	c := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}}
	c.Spec.AuthorizationServerRef.Name = "auth"
	c.Spec.Access = []v1alpha1.Access{{APIResourceRef: v1alpha1.APIResourceReference{Namespace: "payments", Name: "payment-api"}}}
	c.Status.Conditions = ready("True", "Ready")
	expires := ago(-time.Hour)
	c.Status.Tokens = []v1alpha1.TokenStatus{{Key: "payment-api", ExpiresAt: &expires, KeyID: "k1", KeyThumbprint: "thumbprint"}}
	return c
}

func pod(namespace, name string, age time.Duration, annotations ...string) *metav1.PartialObjectMetadata {
	p := inventory.Metadata("Pod")
	p.Namespace, p.Name, p.CreationTimestamp, p.Annotations = namespace, name, ago(age), map[string]string{}
	for i := 0; i < len(annotations); i += 2 {
		p.Annotations[annotations[i]] = annotations[i+1]
	}
	return p
}

// bundle returns the bundle of the payment API in its namespace, with a key since some time ago.
func bundle(key string, since time.Duration) *metav1.PartialObjectMetadata {
	m := inventory.Metadata("ConfigMap")
	m.Namespace, m.Name = "payments", render.ConfigMapName("payments", "payment-api")
	b, _ := json.Marshal(render.Contents{Terms: "terms", Keys: map[string]render.KeyContents{key: {Hash: "hash", Since: noon.Add(-since)}}})
	m.Annotations = map[string]string{v1alpha1.ContentsAnnotation: string(b)}
	return m
}

func build(o Options, objects ...client.Object) Tree {
	inv := &inventory.Inventory{}
	for _, object := range objects {
		inv.Add(object)
	}
	for _, r := range []inventory.Resource{inventory.Servers, inventory.ClusterServers, inventory.APIs, inventory.Clients, inventory.Pods, inventory.ConfigMaps} {
		inv.Read(r, "")
	}
	o.Now = noon
	return Build(inv, o)
}

// lines returns the nodes of a tree, each with its depth and state.
func lines(t Tree) (all []string) {
	var walk func(prefix string, nodes []*Node)
	walk = func(prefix string, nodes []*Node) {
		for _, n := range nodes {
			all = append(all, prefix+n.Kind+" "+n.Namespace+"/"+n.Name+" "+string(n.State))
			walk(prefix+" ", n.Children)
		}
	}
	walk("", t.Issuers)
	return all
}

func TestWhatBelongsTogether(t *testing.T) {
	whole := []client.Object{
		server("payments"), server("shop"), paymentAPI(), cart(),
		pod("shop", "cart-0", time.Hour, v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token"),
		pod("shop", "other", time.Hour), pod("other", "cart-0", time.Hour, v1alpha1.ClientAnnotation, "cart"),
		pod("payments", "payment-0", time.Hour, v1alpha1.VerifyAnnotation, "payment-api"), bundle("k1", time.Hour),
	}
	changed := func(change func(*v1alpha1.M2MClient)) *v1alpha1.M2MClient {
		c := cart()
		change(c)
		return c
	}
	for name, tc := range map[string]struct {
		o       Options
		objects []client.Object
		want    []string
	}{
		"everything": {objects: whole, want: []string{
			"Issuer /https://auth.example.com Ready", " AuthorizationServer payments/auth Ready", " AuthorizationServer shop/auth Ready",
			" APIResource payments/payment-api Ready", "  Pod payments/payment-0 Ready", "  M2MClient shop/cart Ready", "   Pod shop/cart-0 Ready",
		}},
		"of the client's namespace, with the server of its API": {o: Options{Namespace: "shop"}, objects: append(whole, server("other")), want: []string{
			"Issuer /https://auth.example.com Ready", " AuthorizationServer payments/auth Ready", " AuthorizationServer shop/auth Ready",
			" APIResource payments/payment-api Ready", "  M2MClient shop/cart Ready", "   Pod shop/cart-0 Ready",
		}},
		"of the API's namespace": {o: Options{Namespace: "payments"}, objects: whole, want: []string{
			"Issuer /https://auth.example.com Ready", " AuthorizationServer payments/auth Ready",
			" APIResource payments/payment-api Ready", "  Pod payments/payment-0 Ready", "  M2MClient shop/cart Ready", "   Pod shop/cart-0 Ready",
		}},
		"of another namespace": {o: Options{Namespace: "other"}, objects: whole},
		"of the client's namespace, with a server that does not exist": {
			o: Options{Namespace: "shop"}, objects: []client.Object{server("shop"), paymentAPI(), cart()},
			want: []string{"Issuer / Waiting", " AuthorizationServer payments/auth Failing", " APIResource payments/payment-api Ready", "  M2MClient shop/cart Ready", "Issuer /https://auth.example.com Ready", " AuthorizationServer shop/auth Ready"},
		},
		"of the client's namespace, with a server of the cluster": {
			o: Options{Namespace: "shop"}, objects: []client.Object{clusterServer(), server("payments"), func() client.Object {
				a := paymentAPI()
				a.Spec.AuthorizationServerRef.Kind = v1alpha1.KindClusterAuthorizationServer
				return a
			}(), changed(func(c *v1alpha1.M2MClient) { c.Spec.AuthorizationServerRef.Name = "" })},
			want: []string{"Issuer /https://auth.example.com Ready", " ClusterAuthorizationServer /auth Ready", " APIResource payments/payment-api Ready", "  M2MClient shop/cart Ready"},
		},
		"one pod": {o: Options{Only: &Ref{KindPod, "shop", "cart-0"}}, objects: whole, want: []string{
			"Issuer /https://auth.example.com Ready", " AuthorizationServer payments/auth Ready", " AuthorizationServer shop/auth Ready",
			" APIResource payments/payment-api Ready", "  M2MClient shop/cart Ready", "   Pod shop/cart-0 Ready",
		}},
		"one server": {o: Options{Only: &Ref{"AuthorizationServer", "shop", "auth"}}, objects: whole, want: []string{
			"Issuer /https://auth.example.com Ready", " AuthorizationServer payments/auth Ready", " AuthorizationServer shop/auth Ready",
			" APIResource payments/payment-api Ready", "  Pod payments/payment-0 Ready", "  M2MClient shop/cart Ready", "   Pod shop/cart-0 Ready",
		}},
		"one that is not there": {o: Options{Only: &Ref{"M2MClient", "shop", "card"}}, objects: whole},
		"an API that does not exist": {objects: []client.Object{server("shop"), cart()}, want: []string{
			"Issuer /https://auth.example.com Ready", " AuthorizationServer shop/auth Ready", " APIResource payments/payment-api Failing", "  M2MClient shop/cart Ready",
		}},
		"a server that does not exist": {objects: []client.Object{paymentAPI(), changed(func(c *v1alpha1.M2MClient) { c.Spec.AuthorizationServerRef.Name = "" })}, want: []string{
			"Issuer / Waiting", " AuthorizationServer payments/auth Failing", " APIResource payments/payment-api Ready", "  M2MClient shop/cart Ready",
		}},
		"a plain resource": {objects: []client.Object{server("shop"), changed(func(c *v1alpha1.M2MClient) {
			c.Spec.Access = []v1alpha1.Access{{Resource: "urn:other", Key: "other"}}
		})}, want: []string{"Issuer /https://auth.example.com Ready", " AuthorizationServer shop/auth Ready", " M2MClient shop/cart Ready"}},
		"two accesses to one API": {objects: []client.Object{server("shop"), server("payments"), paymentAPI(), changed(func(c *v1alpha1.M2MClient) {
			c.Spec.Access = append(c.Spec.Access, c.Spec.Access[0])
			c.Spec.Access[1].Key = "second"
		})}, want: []string{
			"Issuer /https://auth.example.com Ready", " AuthorizationServer payments/auth Ready", " AuthorizationServer shop/auth Ready",
			" APIResource payments/payment-api Ready", "  M2MClient shop/cart Ready",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, lines(build(tc.o, tc.objects...))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestServerThatCannotBeRead: it is named by an API that can be.
func TestServerThatCannotBeRead(t *testing.T) {
	inv := &inventory.Inventory{}
	inv.Add(paymentAPI())
	inv.Add(cart())
	inv.Read(inventory.APIs, "")
	inv.Read(inventory.Clients, "shop")
	got := Build(inv, Options{Namespace: "shop", Now: noon})
	if n := got.Find(Ref{"AuthorizationServer", "payments", "auth"}); len(n) != 1 || n[0].State != Hidden {
		t.Errorf("the server is %+v", n)
	}
}

// TestWhatCannotBeRead is not said to be missing.
func TestWhatCannotBeRead(t *testing.T) {
	inv := &inventory.Inventory{}
	inv.Add(server("shop"))
	inv.Add(cart())
	inv.Read(inventory.Servers, "shop")
	inv.Read(inventory.Clients, "shop")
	got := Build(inv, Options{Now: noon})
	n := got.Find(Ref{"APIResource", "payments", "payment-api"})
	if len(n) != 1 || n[0].State != Hidden || len(n[0].Problems) > 0 {
		t.Errorf("the API is %+v", n)
	}
	if token := got.Find(Ref{"M2MClient", "shop", "cart"})[0].Tokens[0]; token.Verifiers != nil {
		t.Errorf("of %d pods that cannot be read", *token.Verifiers)
	}
}

func TestStates(t *testing.T) {
	fresh := metav1.Condition{Type: "Fresh", Status: "False", Reason: "TokenRequestFailed", Message: "The server is down"}
	opaque := metav1.Condition{Type: "Verified", Status: "Unknown", Reason: "OpaqueToken"}
	for name, tc := range map[string]struct {
		change   func(*v1alpha1.M2MClient)
		state    State
		problems []string // their reasons
	}{
		"ready":                         {func(*v1alpha1.M2MClient) {}, Ready, nil},
		"not seen":                      {func(c *v1alpha1.M2MClient) { c.Status.Conditions = ready("Unknown", "Pending") }, Waiting, []string{"Pending"}},
		"without a condition":           {func(c *v1alpha1.M2MClient) { c.Status.Conditions = nil }, Waiting, []string{"Pending"}},
		"ready, and refreshing fails":   {func(c *v1alpha1.M2MClient) { c.Status.Conditions = ready("True", "Ready", fresh) }, Warning, []string{"TokenRequestFailed"}},
		"an opaque token is no problem": {func(c *v1alpha1.M2MClient) { c.Status.Conditions = ready("True", "Ready", opaque) }, Ready, nil},
		"two conditions say the same": {func(c *v1alpha1.M2MClient) {
			granted := metav1.Condition{Type: "Granted", Status: "False", Reason: "NotGranted", Message: "Nothing is granted"}
			same := granted
			same.Type = "Fresh"
			c.Status.Conditions = ready("False", "NotGranted", granted, same)
		}, Failing, []string{"NotGranted"}},
		"the summary repeats": {func(c *v1alpha1.M2MClient) { c.Status.Conditions = ready("False", "TokenRequestFailed", fresh) }, Failing, []string{"TokenRequestFailed"}},
		"the summary adds":    {func(c *v1alpha1.M2MClient) { c.Status.Conditions = ready("False", "TokenExpired", fresh) }, Failing, []string{"TokenRequestFailed", "TokenExpired"}},
		"on its way":          {func(c *v1alpha1.M2MClient) { c.Status.Conditions = ready("Unknown", "WaitingForBudget") }, Waiting, []string{"WaitingForBudget"}},
		"changed since":       {func(c *v1alpha1.M2MClient) { c.Generation, c.Status.ObservedGeneration = 2, 1 }, Waiting, []string{""}},
		"being deleted":       {func(c *v1alpha1.M2MClient) { c.DeletionTimestamp = &metav1.Time{Time: noon} }, Waiting, []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			c := cart()
			tc.change(c)
			n := build(Options{}, server("shop"), server("payments"), paymentAPI(), c).Find(Ref{"M2MClient", "shop", "cart"})[0]
			if n.State != tc.state {
				t.Errorf("it is %s, want %s", n.State, tc.state)
			}
			var reasons []string
			for _, p := range n.Problems {
				reasons = append(reasons, p.Reason)
				if p.Message == "" || p.Advice == "" {
					t.Errorf("a problem says %q, %q", p.Message, p.Advice)
				}
			}
			if diff := cmp.Diff(tc.problems, reasons); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWhetherAPodHasAKey: it depends on since when the bundle has it, and on when the pod was
// created and touched.
func TestWhetherAPodHasAKey(t *testing.T) {
	verify := []string{v1alpha1.VerifyAnnotation, "payment-api"}
	for name, tc := range map[string]struct {
		pod    *metav1.PartialObjectMetadata
		bundle *metav1.PartialObjectMetadata
		has    string
		state  State
	}{
		"an old key":                 {pod("payments", "p", time.Hour, verify...), bundle("k1", 10*time.Minute), Yes, Ready},
		"no such key":                {pod("payments", "p", time.Hour, verify...), bundle("k2", 10*time.Minute), No, Failing},
		"no bundle":                  {pod("payments", "p", time.Hour, verify...), pod("payments", "no bundle", 0), No, Failing},
		"a new key":                  {pod("payments", "p", time.Hour, verify...), bundle("k1", 10*time.Second), Soon, Waiting},
		"a new key, and a newer pod": {pod("payments", "p", 0, verify...), bundle("k1", 30*time.Second), Yes, Ready},
		"a new key, and a touched pod": {pod("payments", "p", time.Hour, append(verify, v1alpha1.InjectedAnnotation, "configmap/x",
			v1alpha1.TouchedAtAnnotation, delivery.Moment(noon.Add(-20*time.Second)))...), bundle("k1", 30*time.Second), Yes, Ready},
		"an unreadable bundle": {pod("payments", "p", time.Hour, verify...), func() *metav1.PartialObjectMetadata {
			m := bundle("k1", 0)
			m.Annotations[v1alpha1.ContentsAnnotation] = "{"
			return m
		}(), Unknown, Ready},
	} {
		t.Run(name, func(t *testing.T) {
			got := build(Options{}, server("shop"), server("payments"), paymentAPI(), cart(), tc.pod, tc.bundle)
			n := got.Find(Ref{KindPod, "payments", "p"})[0]
			if len(n.Keys) != 1 || n.Keys[0].Has != tc.has || n.Keys[0].Clients[0] != "shop/cart" || (n.Keys[0].At != nil) != (tc.has == Soon) {
				t.Errorf("its keys are %+v, want %s", n.Keys, tc.has)
			}
			if n.State != tc.state {
				t.Errorf("it is %s, want %s", n.State, tc.state)
			}
			token := got.Find(Ref{"M2MClient", "shop", "cart"})[0].Tokens[0]
			if have := tc.has == Yes; *token.Verifiers != 1 || (*token.HaveKey == 1) != have {
				t.Errorf("%d of %d pods have the token's key", *token.HaveKey, *token.Verifiers)
			}
		})
	}
}

func TestClientPods(t *testing.T) {
	for name, tc := range map[string]struct {
		annotations []string
		state       State
		files       []string
	}{
		"injected":                     {[]string{v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token"}, Ready, []string{"header", "payment-api"}},
		"injected, annotation removed": {[]string{v1alpha1.InjectedAnnotation, "secret/cart-token,configmap/x"}, Ready, []string{"header", "payment-api"}},
		"not injected":                 {[]string{v1alpha1.ClientAnnotation, "cart"}, Warning, nil},
		"the Secret has another name":  {[]string{v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/former"}, Failing, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := cart()
			c.Spec.Secret.Template = map[string]string{"header": ""}
			nodes := build(Options{}, server("shop"), server("payments"), paymentAPI(), c, pod("shop", "p", time.Hour, tc.annotations...)).Find(Ref{KindPod, "shop", "p"})
			if len(nodes) != 1 || nodes[0].State != tc.state || (len(nodes[0].Problems) > 0) != (tc.state != Ready) {
				t.Fatalf("it is %+v, want %s", nodes, tc.state)
			}
			var files []string
			for _, m := range nodes[0].Mounts {
				files = append(files, m.Files...)
			}
			if diff := cmp.Diff(tc.files, files); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMountsOf(t *testing.T) {
	inv := &inventory.Inventory{}
	inv.Add(cart())
	bundleName := render.ConfigMapName("payments", "payment-api")
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "p", Annotations: map[string]string{v1alpha1.InjectedAnnotation: "secret/hidden-client"}}}
	secret := func(volume, name string) corev1.Volume {
		return corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}}
	}
	p.Spec.Volumes = []corev1.Volume{
		secret("token", "cart-token"), secret("injected", "hidden-client"), secret("password", "database"),
		{Name: "both", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "cart-token"}}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: bundleName}}},
		}}}},
	}
	p.Spec.InitContainers = []corev1.Container{{Name: "init", VolumeMounts: []corev1.VolumeMount{{Name: "token", MountPath: "/token"}}}}
	p.Spec.Containers = []corev1.Container{{Name: "main", VolumeMounts: []corev1.VolumeMount{
		{Name: "token", MountPath: "/token"}, {Name: "injected", MountPath: "/injected"}, {Name: "password", MountPath: "/password"}, {Name: "both", MountPath: "/both"},
	}}}
	want := []Mount{
		{From: "Secret/cart-token", Path: "/token", Containers: []string{"init", "main"}},
		{From: "Secret/hidden-client", Path: "/injected", Containers: []string{"main"}},
		{From: "Secret/cart-token", Path: "/both", Containers: []string{"main"}},
		{From: "ConfigMap/" + bundleName, Path: "/both", Containers: []string{"main"}},
	}
	if diff := cmp.Diff(want, MountsOf(p, inv)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// BenchmarkBuild draws up 1,000 clients of one API in one namespace, each with 3 pods.
func BenchmarkBuild(b *testing.B) {
	objects := []client.Object{server("shop"), server("payments"), paymentAPI(), bundle("k1", time.Hour)}
	for i := range 1000 {
		c := cart()
		c.Name = fmt.Sprintf("cart-%d", i)
		objects = append(objects, c)
		for j := range 3 {
			objects = append(objects, pod("shop", fmt.Sprintf("cart-%d-%d", i, j), time.Hour, v1alpha1.ClientAnnotation, c.Name, v1alpha1.InjectedAnnotation, "secret/"+c.Name+"-token"))
		}
	}
	for range 50 {
		objects = append(objects, pod("payments", "payment", time.Hour, v1alpha1.VerifyAnnotation, "payment-api"))
	}
	for b.Loop() {
		if got := build(Options{}, objects...); got.Worst() != Ready {
			b.Fatal("it is not ready")
		}
	}
}
