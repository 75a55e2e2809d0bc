// SPDX-License-Identifier: Apache-2.0

package fences

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

// operator returns a client with the operator's ServiceAccount, and the writes that a
// policy has refused.
func operator(t *testing.T) (client.Client, sets.Set[string]) {
	t.Helper()
	refusals := &refusals{writes: sets.New[string]()}
	cfg := rest.CopyConfig(restConfig)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: operatorAccount}
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		refusals.next = next
		return refusals
	})
	c, err := client.New(cfg, client.Options{Scheme: controller.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	// A new policy takes effect after a short delay.
	for _, o := range []client.Object{
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "probe"}},
		&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "probe"}},
		event("default", "probe"),
		&admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "probe"}},
		&v1alpha1.M2MClient{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "probe"},
			Spec:       v1alpha1.M2MClientSpec{Access: []v1alpha1.Access{{APIResourceRef: v1alpha1.APIResourceReference{Name: "api"}}}},
		},
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "probe"},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "app"}}},
		},
		policy("default", "probe", "SecurityPolicy"),
	} {
		kubetest.Eventually(t, func() error {
			if err := c.Create(t.Context(), o, client.DryRunAll); !refusedByPolicy(err) {
				return fmt.Errorf("%T is not fenced yet: %w", o, err)
			}
			return nil
		})
	}
	refusals.writes.Clear()
	return c, refusals.writes
}

// refusals records which requests a policy refuses.
type refusals struct {
	next   http.RoundTripper
	mu     sync.Mutex
	writes sets.Set[string]
}

// RoundTrip sends a request.
func (r *refusals) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.next.RoundTrip(req)
	if err == nil && resp.StatusCode >= http.StatusBadRequest && req.Method != http.MethodGet {
		r.mu.Lock()
		r.writes.Insert(requested(req).String())
		r.mu.Unlock()
	}
	return resp, err
}

// refusedByPolicy reports whether one of the installation's policies caused the
// failure of a write.
func refusedByPolicy(err error) bool {
	return (apierrors.IsInvalid(err) || apierrors.IsForbidden(err)) && strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'm2m-operator-")
}

// impersonator returns a client of another administrator, whose writes are dry runs.
func impersonator(t *testing.T, name string) client.Client {
	t.Helper()
	cfg := rest.CopyConfig(restConfig)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: name, Groups: []string{"system:masters"}}
	c, err := client.New(cfg, client.Options{Scheme: controller.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return client.NewDryRunClient(c)
}

type attempt struct {
	name    string
	do      attemptFunc
	allowed bool
}

type attemptFunc = func(context.Context, client.Client) error

// attack uses the operator's ServiceAccount to try everything that the installation's
// policies must refuse, and everything that they must allow. It returns the refused
// writes.
func attack(t *testing.T) sets.Set[string] {
	t.Helper()
	c, writes := operator(t)
	others := []client.Client{impersonator(t, "system:serviceaccount:default:another"), impersonator(t, "another:m2m-operator-controller-manager")}
	refused := sets.New[string]()
	for _, group := range []struct {
		name     string
		attempts []attempt
	}{
		{"Secrets", secrets(t)}, {"ConfigMaps", configMaps(t)}, {"webhooks", webhooks(t)}, {"events", events(t)},
		{"leases", leases(t)}, {"pods", pods(t)}, {"own kinds", ownKinds(t)}, {"statuses", statuses(t)},
		{"policies of gateways", policies(t)}, {"keys of gateways", gatewayKeys(t)},
		{"clauses about Secrets", secretClauses(t)}, {"clauses about ConfigMaps", configMapClauses(t)}, {"clauses about pods", podClauses(t)},
		{"clauses about own kinds", ownKindClauses(t)}, {"clauses about events", eventClauses(t)}, {"clauses about statuses", statusClauses(t)},
		{"clauses about policies of gateways", policyClauses(t)}, {"clauses about lost policies of gateways", lostPolicyClauses(t)},
		{"clauses about owners of ConfigMaps", ownerClauses(t)}, {"clauses about webhooks", webhookClauses(t)},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, a := range group.attempts {
				t.Run(a.name, func(t *testing.T) {
					writes.Clear()
					err := a.do(t.Context(), c)
					switch {
					case a.allowed && err != nil:
						t.Errorf("was refused: %v", err)
					case !a.allowed && !refusedByPolicy(err):
						t.Errorf("was not refused by a policy: %v", err)
					case !a.allowed:
						refused.Insert(writes.UnsortedList()...)
						for _, other := range others {
							if err := a.do(t.Context(), other); refusedByPolicy(err) {
								t.Errorf("was refused to somebody else: %v", err)
							}
						}
					}
				})
			}
		})
	}
	return refused
}

var managed = map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}

// with returns our label and others.
func with(labels ...string) map[string]string {
	all := map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}
	for i := 0; i < len(labels); i += 2 {
		all[labels[i]] = labels[i+1]
	}
	return all
}

// owner is an M2MClient as a controller.
func owner(name string) []metav1.OwnerReference {
	return []metav1.OwnerReference{*metav1.NewControllerRef(
		&v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}, v1alpha1.GroupVersion.WithKind("M2MClient"))}
}

func creates(o client.Object) func(context.Context, client.Client) error {
	return func(ctx context.Context, c client.Client) error {
		return c.Create(ctx, o.DeepCopyObject().(client.Object))
	}
}

func deletes(o client.Object) func(context.Context, client.Client) error {
	return func(ctx context.Context, c client.Client) error {
		return c.Delete(ctx, o.DeepCopyObject().(client.Object))
	}
}

// updates changes the present state of an object.
func updates[T client.Object](o T, mutate func(T)) func(context.Context, client.Client) error {
	return func(ctx context.Context, c client.Client) error {
		now := o.DeepCopyObject().(T)
		if err := kube.Get(ctx, client.ObjectKeyFromObject(o), now); err != nil {
			return err
		}
		mutate(now)
		return c.Update(ctx, now)
	}
}

func patches(o client.Object, patchType types.PatchType, text string) func(context.Context, client.Client) error {
	return func(ctx context.Context, c client.Client) error {
		return c.Patch(ctx, o.DeepCopyObject().(client.Object), client.RawPatch(patchType, []byte(text)))
	}
}

func patchesStatus(o client.Object, text string) func(context.Context, client.Client) error {
	return func(ctx context.Context, c client.Client) error {
		return c.Status().Patch(ctx, o.DeepCopyObject().(client.Object), client.RawPatch(types.MergePatchType, []byte(text)))
	}
}

func secrets(t *testing.T) []attempt {
	t.Helper()
	ns, argocd := newNamespace(t, "shop"), newNamespace(t, "argocd")
	secret := func(namespace, name string, labels map[string]string, owners []metav1.OwnerReference) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels, OwnerReferences: owners}}
	}
	foreign := secret(ns, "database", nil, nil)
	disguised := secret(ns, "disguised", managed, nil) // anybody can set the label
	elsewhere := secret(ns, "m2m-credential-0a1b", managed, nil)
	lost := secret(ns, "lost-token", managed, nil)
	lost.Annotations = map[string]string{v1alpha1.TokensAnnotation: "{}"}
	unlabelled := secret(ns, "unlabelled-token", nil, owner("cart"))
	tagged := secret(ns, "tagged-token", with("argocd.argoproj.io/secret-type", "cluster"), owner("cart"))
	old := secret(ns, "old-token", managed, owner("cart"))
	credential := secret(systemNamespace, "m2m-credential-ffff", managed, nil)
	create(t, foreign, disguised, elsewhere, lost, unlabelled, tagged, old, credential)
	account := secret(ns, "account", managed, owner("cart"))
	account.Type, account.Annotations = corev1.SecretTypeServiceAccountToken, map[string]string{corev1.ServiceAccountNameKey: "default"}
	held := secret(ns, "held-token", managed, owner("cart"))
	held.Finalizers = []string{"example.com/forever"}
	annotated := secret(ns, "annotated-token", managed, owner("cart"))
	annotated.Annotations = map[string]string{corev1.ServiceAccountNameKey: "default"}
	wished := secret(ns, "wished-token", with("team", "cart", "app.kubernetes.io/part-of", "shop", "example.com/tier", "gold"), owner("cart"))
	wished.Annotations = map[string]string{"reloader.example.com/match": "true", v1alpha1.TokensAnnotation: "{}"}
	notOurs := owner("cart")
	notOurs[0].APIVersion = "example.com/v1"

	all := []attempt{
		{"makes a token Secret", creates(secret(ns, "cart-token", managed, owner("cart"))), true},
		{"makes one with what an M2MClient asks for", creates(wished), true},
		{"keeps credentials in its namespace", creates(secret(systemNamespace, "m2m-credential-0a1b", managed, nil)), true},
		{"keeps the webhook's certificate", creates(secret(systemNamespace, "m2m-operator-webhook-certificate", managed, nil)), true},
		{"gives a token Secret its owner back", updates(lost, func(s *corev1.Secret) { s.OwnerReferences = owner("cart") }), true},
		{"gives a token Secret its label back", updates(unlabelled, func(s *corev1.Secret) { s.Labels = managed }), true},
		{"withdraws a token beside another's label", updates(tagged, func(s *corev1.Secret) { s.StringData = map[string]string{"other": "x"} }), true},
		{"removes a token Secret", deletes(old), true},
		{"removes credentials", deletes(credential), true},

		{"makes a Secret without an owner", creates(secret(ns, "mine", managed, nil)), false},
		{"makes one that another kind owns", creates(secret(ns, "mine", managed, notOurs)), false},
		{"makes a token Secret without the label", creates(secret(ns, "mine", nil, owner("cart"))), false},
		{"makes one in kube-system", creates(secret("kube-system", "mine", managed, owner("cart"))), false},
		{"makes a bootstrap token", creates(secret("kube-system", "bootstrap-token-abcdef", managed, owner("cart"))), false},
		{"makes one in kube-public", creates(secret("kube-public", "mine", managed, owner("cart"))), false},
		{"makes one in kube-node-lease", creates(secret("kube-node-lease", "mine", managed, owner("cart"))), false},
		{"makes credentials elsewhere", creates(secret(ns, "m2m-credential-ffff", managed, nil)), false},
		{"makes a ServiceAccount token", creates(account), false},
		{"names a ServiceAccount", creates(annotated), false},
		{"makes a release of Helm by name", creates(secret(ns, "sh.helm.release.v1.shop.v1", managed, owner("cart"))), false},
		{"makes a release of Helm by label", creates(secret(ns, "release", with("owner", "helm"), owner("cart"))), false},
		{"holds a Secret for ever", creates(held), false},
		{"labels its credentials", creates(secret(systemNamespace, "m2m-credential-0a1c", with("team", "x"), nil)), false},
		{"labels its namespace's credentials as a client's", creates(secret(systemNamespace, "m2m-credential-0a1d", with("team", "x"), owner("cart"))), false},
		{"overwrites another's Secret", updates(foreign, func(s *corev1.Secret) { s.Labels, s.OwnerReferences = managed, owner("cart") }), false},
		{"overwrites one that carries the label", updates(disguised, func(s *corev1.Secret) { s.OwnerReferences = owner("cart") }), false},
		{"overwrites one that is called as its own", updates(elsewhere, func(s *corev1.Secret) { s.OwnerReferences = owner("cart") }), false},
		{"takes the label off", updates(unlabelled, func(s *corev1.Secret) { s.Labels = nil }), false},
		{"takes the owner off", updates(unlabelled, func(s *corev1.Secret) { s.OwnerReferences = nil }), false},
		{"deletes another's Secret", deletes(foreign), false},
		{"deletes one that carries the label", deletes(disguised), false},
		{"deletes all Secrets", func(ctx context.Context, c client.Client) error {
			return c.DeleteAllOf(ctx, &corev1.Secret{}, client.InNamespace(ns))
		}, false},
	}
	for i, label := range [][2]string{
		{"argocd.argoproj.io/secret-type", "cluster"}, {"argocd.argoproj.io/secret-type", "repository"},
		{"grafana_datasource", "1"}, {"grafana_dashboard", "1"}, {"k8s-app", "kube-dns"}, {"istio/multiCluster", "true"},
		{"kubernetes.io/legacy-token-last-used", "x"}, {"cluster.x-k8s.io/cluster-name", "x"}, {"addonmanager.kubernetes.io/mode", "Reconcile"},
		{"sealedsecrets.bitnami.com/sealed-secrets-key", "active"}, {"jenkins.io/credentials-type", "secretText"}, {"konghq.com/credential", "jwt"},
		{"kustomize.toolkit.fluxcd.io/name", "x"}, {"controller.cert-manager.io/fao", "true"}, {"m2m-operator.io/shard", "x"},
	} {
		all = append(all, attempt{"labels for another: " + label[0] + "=" + label[1],
			creates(secret(argocd, fmt.Sprintf("label-%d", i), with(label[0], label[1]), owner("cart"))), false})
	}
	all = append(all, attempt{"adds another's label", updates(unlabelled, func(s *corev1.Secret) { s.Labels = with("argocd.argoproj.io/secret-type", "cluster") }), false})
	return all
}

func configMaps(t *testing.T) []attempt {
	t.Helper()
	ns := newNamespace(t, "payments")
	configMap := func(namespace, name string, labels map[string]string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, Labels: labels, Annotations: map[string]string{v1alpha1.APIResourceAnnotation: "payments/api"},
		}}
	}
	foreign, disguised := configMap(ns, "settings", nil), configMap(ns, "disguised", managed)
	unlabelled := configMap(ns, "m2m-verify.payments.lost", nil)
	tagged := configMap(ns, "m2m-verify.payments.tagged", with("backup.example.com/keep", "true"))
	old := configMap(ns, "m2m-verify.payments.old", managed)
	dns := configMap("kube-system", "coredns", managed)
	create(t, foreign, disguised, unlabelled, tagged, old, dns)
	owned := configMap(ns, "m2m-verify.payments.owned", managed)
	owned.OwnerReferences = owner("cart")
	annotated := configMap(ns, "m2m-verify.payments.annotated", managed)
	annotated.Annotations["argocd.argoproj.io/tracking-id"] = "x"
	content := func(c *corev1.ConfigMap) { c.Data = map[string]string{"Corefile": "evil"} }
	dressed := configMap(ns, "m2m-verify.payments.dressed", with("team", "payments"))
	dressed.Labels["app.kubernetes.io/part-of"] = "payments"
	dressed.Annotations["example.com/contact"] = "payments"
	elsewhere := configMap(ns, "m2m-verify.shop.annotated", managed)
	elsewhere.Annotations["example.com/contact"] = "shop"
	return []attempt{
		{"makes a bundle", creates(configMap(ns, "m2m-verify.payments.api", managed)), true},
		{"makes a bundle with what its APIResource asks for", creates(dressed), true},
		{"labels a bundle for its namespace", updates(tagged, func(c *corev1.ConfigMap) { c.Labels["team"] = "payments" }), true},
		{"labels a bundle of another namespace's API", creates(configMap(ns, "m2m-verify.shop.api", with("team", "shop"))), false},
		{"annotates a bundle of another namespace's API", creates(elsewhere), false},
		{"labels a bundle as a release of Helm", creates(configMap(ns, "m2m-verify.payments.mine", with("owner", "helm"))), false},
		{"changes a bundle beside another's label", updates(tagged, content), true},
		{"removes a bundle", deletes(old), true},

		{"makes a ConfigMap of another name", creates(configMap(ns, "mine", managed)), false},
		{"makes a bundle without the label", creates(configMap(ns, "m2m-verify.payments.mine", nil)), false},
		{"makes a bundle in kube-system", creates(configMap("kube-system", "m2m-verify.payments.api", managed)), false},
		{"makes a dashboard", creates(configMap(ns, "m2m-verify.payments.mine", with("grafana_dashboard", "1"))), false},
		{"labels a bundle", updates(tagged, func(c *corev1.ConfigMap) { c.Labels["grafana_dashboard"] = "1" }), false},
		{"annotates a bundle", creates(annotated), false},
		{"gives a bundle an owner", creates(owned), false},
		{"overwrites another's ConfigMap", updates(foreign, content), false},
		{"overwrites one that carries the label", updates(disguised, content), false},
		{"overwrites what is called like a bundle", updates(unlabelled, func(c *corev1.ConfigMap) { c.Labels = managed }), false},
		{"overwrites CoreDNS' configuration", updates(dns, content), false},
		{"deletes another's ConfigMap", deletes(foreign), false},
		{"deletes one that carries the label", deletes(disguised), false},
	}
}

func webhooks(t *testing.T) []attempt {
	t.Helper()
	ours := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "m2m-operator-pod-injection"}}
	merge := func(text string) func(context.Context, client.Client) error {
		return patches(ours, types.StrategicMergePatchType, `{"webhooks":[{"name":"pods.m2m-operator.io",`+text+`}]}`)
	}
	type configuration = admissionregistrationv1.MutatingWebhookConfiguration
	validating := &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "another"}}
	create(t, validating)
	return []attempt{
		{"writes the caBundle", merge(`"clientConfig":{"caBundle":"` + caBundle + `"}`), true},
		{"writes another caBundle", merge(`"clientConfig":{"caBundle":"` + caBundle + `"}`), true},

		{"has every binding sent to it", merge(`"rules":[{"apiGroups":["rbac.authorization.k8s.io"],"apiVersions":["v1"],"operations":["*"],"resources":["clusterrolebindings"]}]`), false},
		{"turns the port to a listener of its own", merge(`"clientConfig":{"service":{"namespace":"` + systemNamespace + `","name":"m2m-operator-webhook","port":8444}}`), false},
		{"turns the service", merge(`"clientConfig":{"service":{"namespace":"` + systemNamespace + `","name":"m2m-operator-metrics"}}`), false},
		{"turns it to a URL, with a caBundle", patches(ours, types.JSONPatchType, `[{"op":"replace","path":"/webhooks/0/clientConfig","value":{"url":"https://evil.example.com/","caBundle":"`+caBundle+`"}}]`), false},
		{"takes the namespaces' selector away", patches(ours, types.JSONPatchType, `[{"op":"remove","path":"/webhooks/0/namespaceSelector"}]`), false},
		{"takes the conditions away", patches(ours, types.JSONPatchType, `[{"op":"remove","path":"/webhooks/0/matchConditions"}]`), false},
		{"selects fewer objects", merge(`"objectSelector":{"matchLabels":{"a":"b"}}`), false},
		{"changes the failure policy", merge(`"failurePolicy":"Ignore"`), false},
		{"adds a webhook", updates(ours, func(c *configuration) {
			more := c.Webhooks[0]
			more.Name = "more.m2m-operator.io"
			c.Webhooks = append(c.Webhooks, more)
		}), false},
		{"renames the webhook", updates(ours, func(c *configuration) { c.Webhooks[0].Name = "more.m2m-operator.io" }), false},
		{"removes the webhook", updates(ours, func(c *configuration) { c.Webhooks = nil }), false},
		{"has another write the caBundle", patches(ours, types.MergePatchType, `{"metadata":{"annotations":{"cert-manager.io/inject-ca-from":"evil/evil"}}}`), false},
		{"has the configuration go with another", patches(ours, types.MergePatchType, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"x","uid":"1"}]}}`), false},
		{"makes another configuration", creates(&configuration{ObjectMeta: metav1.ObjectMeta{Name: "mine"}}), false},
		{"deletes the configuration", deletes(ours), false},
		{"changes a validating one", patches(validating, types.MergePatchType, `{"metadata":{"labels":{"a":"b"}}}`), false},
		{"deletes a validating one", deletes(validating), false},
	}
}

// caBundle is base64 of what the API server accepts as certificates.
const caBundle = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUJlekNDQVNHZ0F3SUJBZ0lVZXd3L3d1dUd2dTFRPT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo="

// event returns an event as the operator records one about a pod.
func event(namespace, name string) *eventsv1.Event {
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		EventTime:  metav1.NowMicro(), ReportingController: "kubelet", ReportingInstance: "node-1", Action: "Deliver",
		Reason: "Evicted", Type: corev1.EventTypeWarning, Regarding: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: namespace, Name: "cart"},
	}
}

func events(t *testing.T) []attempt {
	t.Helper()
	ns := newNamespace(t, "events")
	about := func(name, apiVersion, kind, reporter string) *eventsv1.Event {
		e := event(ns, name)
		e.ReportingController, e.Regarding.APIVersion, e.Regarding.Kind = reporter, apiVersion, kind
		return e
	}
	misplaced := func(name, apiVersion, kind, reason string) *eventsv1.Event {
		e := about(name, apiVersion, kind, "m2m-workload")
		e.Reason, e.Type = reason, corev1.EventTypeWarning
		return e
	}
	legacy := func(namespace, kind, name, reporter string) *corev1.Event {
		return &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, GenerateName: "legacy-"},
			InvolvedObject: corev1.ObjectReference{APIVersion: "coordination.k8s.io/v1", Kind: kind, Namespace: namespace, Name: name},
			Source:         corev1.EventSource{Component: reporter}, ReportingController: reporter, Reason: "LeaderElection", Type: corev1.EventTypeNormal,
		}
	}
	own, others, leading := about("own", "m2m-operator.io/v1alpha1", "M2MClient", "m2m-m2mclient"), event(ns, "others"), legacy(systemNamespace, "Lease", "m2m-operator", "pod_1")
	leading.GenerateName, leading.Name = "", "leading"
	create(t, own, others, leading)
	disguised := legacy(ns, "Pod", "cart", "kubelet")
	disguised.InvolvedObject.APIVersion, disguised.ReportingController = "v1", "m2m-pod"
	const series = `{"series":{"count":2,"lastObservedTime":"2026-11-24T12:00:00.000000Z"}}`
	return []attempt{
		{"speaks about an M2MClient", creates(about("client", "m2m-operator.io/v1alpha1", "M2MClient", "m2m-m2mclient")), true},
		{"speaks about a pod", creates(about("pod", "v1", "Pod", "m2m-pod")), true},
		{"speaks once more", patches(own, types.StrategicMergePatchType, series), true},
		{"says who leads", creates(legacy(systemNamespace, "Lease", "m2m-operator", "pod_1")), true},
		{"says who leads a shard", creates(legacy(systemNamespace, "Lease", "m2m-operator-a", "pod_1")), true},
		{"says once more who leads", patches(leading, types.StrategicMergePatchType, `{"count":2}`), true},

		{"speaks for the kubelet", creates(about("mine", "v1", "Pod", "kubelet")), false},
		{"speaks for the kubelet under its own name", creates(disguised), false},
		{"speaks about a Deployment", creates(about("mine", "apps/v1", "Deployment", "m2m-pod")), false},
		{"says of a Deployment that something is misplaced", creates(misplaced("deployment", "apps/v1", "Deployment", "Misplaced")), true},
		{"says of a CronJob that something is misplaced", creates(misplaced("cronjob", "batch/v1", "CronJob", "Misplaced")), true},
		{"says something else of a Deployment", creates(misplaced("mine", "apps/v1", "Deployment", "ScalingReplicaSet")), false},
		{"says of a node that something is misplaced", creates(misplaced("mine", "v1", "Node", "Misplaced")), false},
		{"speaks about a kind of that name", creates(about("mine", "example.com/v1", "M2MClient", "m2m-pod")), false},
		{"changes another's event", patches(others, types.StrategicMergePatchType, series), false},
		{"says elsewhere who leads", creates(legacy(ns, "Lease", "m2m-operator", "pod_1")), false},
		{"says who leads another", creates(legacy(systemNamespace, "Lease", "kube-scheduler", "pod_1")), false},
		{"speaks in its namespace for the kubelet", creates(legacy(systemNamespace, "Pod", "cart", "kubelet")), false},
		{"changes who it says that leads", patches(leading, types.MergePatchType, `{"involvedObject":{"name":"other"}}`), false},
		{"deletes an event", deletes(others), false},
	}
}

func leases(t *testing.T) []attempt {
	t.Helper()
	lease := func(namespace, name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	hold := func(l *coordinationv1.Lease) {
		me := "me"
		l.Spec.HolderIdentity = &me
	}
	ours, scheduler := lease(systemNamespace, "m2m-operator"), lease("kube-system", "kube-scheduler")
	create(t, scheduler)
	return []attempt{
		{"makes its lease", creates(ours), true},
		{"takes its lease", updates(ours, hold), true},
		{"makes a shard's lease", creates(lease(systemNamespace, "m2m-operator-a")), true},

		{"makes another lease", creates(lease(systemNamespace, "other")), false},
		{"makes its lease elsewhere", creates(lease("default", "m2m-operator")), false},
		{"takes the scheduler's lease", updates(scheduler, hold), false},
		{"deletes its lease", deletes(ours), false},
	}
}

func pods(t *testing.T) []attempt {
	t.Helper()
	ns := newNamespace(t, "pods")
	create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "default"}})
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "cart", Annotations: map[string]string{v1alpha1.InjectedAnnotation: "secret/cart-token"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "app"}}},
	}
	create(t, pod)
	return []attempt{
		{"touches a pod", patches(pod, types.MergePatchType, `{"metadata":{"annotations":{"m2m-operator.io/touched-at":"2026-11-24T12:00:00Z"}}}`), true},
		{"changes an image", patches(pod, types.StrategicMergePatchType, `{"spec":{"containers":[{"name":"main","image":"evil"}]}}`), false},
		{"annotates a pod", patches(pod, types.MergePatchType, `{"metadata":{"annotations":{"team":"bank"}}}`), false},
		{"makes a pod", creates(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "mine"}, Spec: pod.Spec}), false},
		{"deletes a pod", deletes(pod), false},
	}
}

// kinds returns an object of each of the operator's kinds.
func kinds(namespace string) map[string]client.Object {
	meta := metav1.ObjectMeta{Namespace: namespace, Name: "attacked"}
	spec := v1alpha1.AuthorizationServerSpec{
		Issuer: "https://auth.example.com", Endpoints: v1alpha1.AuthorizationServerEndpoints{JWKS: "https://auth.example.com/jwks"},
	}
	return map[string]client.Object{
		"AuthorizationServer": &v1alpha1.AuthorizationServer{ObjectMeta: meta, Spec: spec},
		"ClusterAuthorizationServer": &v1alpha1.ClusterAuthorizationServer{
			ObjectMeta: metav1.ObjectMeta{Name: namespace},
			Spec: v1alpha1.ClusterAuthorizationServerSpec{
				AuthorizationServerSpec: spec, AllowedNamespaces: v1alpha1.NamespaceSelection{Names: []v1alpha1.NamespaceName{"shop"}},
			},
		},
		"APIResource": &v1alpha1.APIResource{ObjectMeta: meta, Spec: v1alpha1.APIResourceSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Name: "auth"}, Identifier: "https://" + v1alpha1.ResourceIdentifier(namespace) + ".example.com",
		}},
		"M2MClient": &v1alpha1.M2MClient{ObjectMeta: meta, Spec: v1alpha1.M2MClientSpec{
			Access: []v1alpha1.Access{{APIResourceRef: v1alpha1.APIResourceReference{Name: "api"}}},
		}},
	}
}

func ownKinds(t *testing.T) []attempt {
	t.Helper()
	var all []attempt
	for kind, o := range kinds(newNamespace(t, "own-kinds")) {
		create(t, o)
		spec := map[string]string{
			"APIResource":                `{"spec":{"grants":[{"clients":{"namespaces":{"names":["evil"]}}}]}}`,
			"M2MClient":                  `{"spec":{"access":[{"apiResourceRef":{"name":"other"}}]}}`,
			"AuthorizationServer":        `{"spec":{"endpoints":{"token":"https://evil.example.com/"}}}`,
			"ClusterAuthorizationServer": `{"spec":{"allowedNamespaces":{"names":["evil"]}}}`,
		}[kind]
		all = append(all,
			attempt{kind + ": adds the finalizer", patches(o, types.MergePatchType, `{"metadata":{"finalizers":["`+v1alpha1.ProvisioningFinalizer+`"]}}`), true},
			attempt{kind + ": removes the finalizer", patches(o, types.MergePatchType, `{"metadata":{"finalizers":null}}`), true},
			attempt{kind + ": changes the spec", patches(o, types.MergePatchType, spec), false},
			attempt{kind + ": deletes it", deletes(o), false},
		)
	}
	return all
}

func statuses(t *testing.T) []attempt {
	t.Helper()
	ns := newNamespace(t, "statuses")
	objects := kinds(ns)
	var all []attempt
	for _, kind := range []string{"AuthorizationServer", "ClusterAuthorizationServer"} {
		o := objects[kind]
		plain := o.DeepCopyObject().(client.Object)
		plain.SetName(o.GetName() + "-plain")
		switch o := plain.(type) {
		case *v1alpha1.AuthorizationServer:
			o.Spec.Issuer, o.Spec.Endpoints = "http://auth.example.com", v1alpha1.AuthorizationServerEndpoints{}
		case *v1alpha1.ClusterAuthorizationServer:
			o.Spec.Issuer, o.Spec.Endpoints = "http://auth.example.com", v1alpha1.AuthorizationServerEndpoints{}
		}
		create(t, o, plain)
		all = append(all,
			attempt{kind + ": writes what it discovered", patchesStatus(o, `{"status":{"endpoints":{"token":"https://tokens.example.com/","jwks":"https://auth.example.com/jwks"}}}`), true},
			attempt{kind + ": writes what it discovered in the clear", patchesStatus(plain, `{"status":{"endpoints":{"token":"http://auth.example.com/token"}}}`), true},
			attempt{kind + ": writes a condition", patchesStatus(o, `{"status":{"observedGeneration":1}}`), true},
			attempt{kind + ": has keys fetched elsewhere than the spec says", patchesStatus(o, `{"status":{"endpoints":{"jwks":"https://evil.example.com/"}}}`), false},
			attempt{kind + ": has secrets sent in the clear", patchesStatus(o, `{"status":{"endpoints":{"token":"http://tokens.example.com/"}}}`), false},
		)
	}
	objects["M2MClient"].(*v1alpha1.M2MClient).Spec.Access[0].APIResourceRef.Namespace = "apis"
	for _, kind := range []string{"APIResource", "M2MClient"} {
		o := objects[kind]
		create(t, o)
		at := func(namespace string) string {
			return `{"status":{"provisioning":{"server":{"kind":"AuthorizationServer","namespace":"` + namespace + `","name":"a","issuer":"https://a.example.com","driver":"Logto"}}}}`
		}
		all = append(all,
			attempt{kind + ": says where it is registered", patchesStatus(o, at(ns)), true},
			attempt{kind + ": says that it is registered at another namespace's server", patchesStatus(o, at("payments")), false},
			attempt{kind + ": says that it is registered at the server of its API", patchesStatus(o, at("apis")), kind == "M2MClient"},
		)
	}
	return all
}

// TestNothingIsReachedByTheFinalizers: only an admission plugin checks the right to
// update m2mclients/finalizers; no request uses it.
func TestNothingIsReachedByTheFinalizers(t *testing.T) {
	o := kinds(newNamespace(t, "finalizers"))["M2MClient"]
	create(t, o)
	cfg := rest.CopyConfig(restConfig)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: operatorAccount}
	c, err := client.New(cfg, client.Options{Scheme: controller.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("M2MClient"))
	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(o), u); err != nil {
		t.Fatal(err)
	}
	var status apierrors.APIStatus
	if err := c.SubResource("finalizers").Update(t.Context(), u); !errors.As(err, &status) || status.Status().Code != http.StatusNotFound {
		t.Errorf("answered %v", err)
	}
}
