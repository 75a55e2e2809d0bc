// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// everything sets every value to something other than its default.
const everything = `
image: {repository: registry.example.com:5000/m2m, digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000", pullPolicy: Always}
imagePullSecrets: [{name: registry}]
replicas: 3
shards: [eu-1, "2"]
resources: {requests: {cpu: 1}, limits: {memory: 1Gi}}
watchNamespaces: [shop, payments]
extraArgs: [--workers=40, --zap-log-level=debug]
egress: {allow: ["auth.example.com:8443", "*.example.org", 10.1.0.0/16]}
credentials: {requireLabel: true}
webhook: {failurePolicy: Ignore, timeoutSeconds: 10, certManager: {enabled: true, issuerRef: {kind: ClusterIssuer, name: internal}}}
promptDelivery: {enabled: false}
metrics:
  serviceMonitor: {enabled: true, interval: 30s, labels: {release: prometheus}}
  prometheusRule: {enabled: true, labels: {release: prometheus}}
  dashboard: {enabled: true, labels: {grafana_dashboard: null, dashboards: company}, annotations: {grafana_folder: Identity}}
podDisruptionBudget: {maxUnavailable: 50%}
networkPolicy: {metricsFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}], webhookFrom: [{ipBlock: {cidr: 10.0.0.0/28}}], egress: {enabled: true, to: [{ipBlock: {cidr: 192.0.2.0/24}}]}}
priorityClassName: system-cluster-critical
topologySpreadConstraints:
- {topologyKey: topology.kubernetes.io/zone, maxSkew: 1, whenUnsatisfiable: DoNotSchedule}
- {topologyKey: kubernetes.io/hostname, maxSkew: 2, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: m2m}}}
nodeSelector: {kubernetes.io/arch: arm64}
tolerations: [{key: infra, operator: Exists, effect: NoSchedule}]
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: infra, operator: Exists}]}]}}}
podLabels: {team: identity}
podAnnotations: {example.com/note: "a: note"}
serviceAccount: {annotations: {example.com/role: operator}}
userRoles: {aggregate: false}
advice: {enabled: false}
crds: {keep: false}
fullnameOverride: tokens
extraEnv: [{name: HTTPS_PROXY, value: "http://proxy.example.com:3128"}]
extraVolumes: [{name: company-ca, configMap: {name: company-ca}}]
extraVolumeMounts: [{name: company-ca, mountPath: /etc/ssl/certs, readOnly: true}]
podSecurityContext: {runAsUser: null, fsGroup: 2000}
securityContext: {runAsNonRoot: true}
hostNetwork: true
dnsPolicy: Default
dnsConfig: {options: [{name: ndots, value: "1"}]}
updateStrategy: {type: Recreate}
revisionHistoryLimit: 2
commonLabels: {cost-center: "42"}
commonAnnotations: {example.com/owner: identity}
namespaceOverride: m2m-operator-system
`

// installations are values to try the chart with.
var installations = map[string]string{
	"as it is":                     "",
	"with everything":              everything,
	"without what it can do":       "{webhook: {enabled: false}, advice: {enabled: false}, promptDelivery: {enabled: false}, metrics: {enabled: false}, podDisruptionBudget: {enabled: false}, networkPolicy: {enabled: false}, userRoles: {enabled: false}, crds: {enabled: false}, topologySpreadConstraints: [], resources: {}}",
	"closed with nobody to let in": "{webhook: {enabled: false}, metrics: {enabled: false}}",
	"without a metrics service":    "{metrics: {service: {enabled: false}, serviceMonitor: {enabled: true}}}",
	"with cert-manager":            "{webhook: {certManager: {enabled: true}}}",
	"with the webhook apart":       "{webhook: {deployment: {enabled: true}}, shards: [a]}",
	"with all of it apart":         "{webhook: {deployment: {enabled: true, replicas: 3, extraArgs: [--zap-log-level=debug]}, certManager: {enabled: true}}, watchNamespaces: [shop]}",
	"in one namespace":             "{watchNamespaces: [shop]}",
	"with limits on egress":        "{networkPolicy: {egress: {enabled: true}}}",
	"with shards":                  "{shards: [a, b], metrics: {serviceMonitor: {enabled: true}}}",
	"in its own namespace":         "{watchNamespaces: [" + namespace + "]}",
}

func TestLint(t *testing.T) {
	for name, values := range installations {
		t.Run(name, func(t *testing.T) {
			if out, err := brief(helm, "lint", "--strict", "--quiet", chartDir, "--values", valuesFile(t, values)).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// TestTheChartIsWhatKustomizeMakes compares the two ways to install, object by
// object.
func TestTheChartIsWhatKustomizeMakes(t *testing.T) {
	tests := map[string]struct {
		values    string
		component string // of config/components
	}{
		"by default":               {},
		"without network policies": {"networkPolicy: {enabled: false}", "no-network-policy"},
		"with limits on egress":    {"networkPolicy: {egress: {enabled: true}}", "egress-policy"},
		"with a service monitor":   {"metrics: {serviceMonitor: {enabled: true}}", "service-monitor"},
		"with alerts":              {"metrics: {prometheusRule: {enabled: true}}", "alerts"},
		"with a dashboard":         {"metrics: {dashboard: {enabled: true}}", "dashboard"},
		"with cert-manager":        {"webhook: {certManager: {enabled: true}}", "cert-manager"},
		"without the webhook":      {"webhook: {enabled: false}", "no-webhook"},
		"without prompt delivery":  {"promptDelivery: {enabled: false}", "no-prompt-delivery"},
		"without advice":           {"advice: {enabled: false}", "no-advice"},
		"with the webhook apart":   {"webhook: {deployment: {enabled: true}}", "webhook-deployment"},
		"credentials opt in":       {"credentials: {requireLabel: true}", "require-credential-label"},
		"with two shards":          {"shards: [a, b]", "shards"},
		"with Envoy Gateway":       {"enforcement: {envoyGateway: {enabled: true}}", "enforcement-envoy-gateway"},
		"with Istio":               {"enforcement: {istio: {enabled: true}}", "enforcement-istio"},
	}
	config := t.TempDir()
	if err := os.CopyFS(config, os.DirFS(root+"/config")); err != nil {
		t.Fatal(err)
	}
	components, err := os.ReadDir(filepath.Join(config, "components"))
	if err != nil {
		t.Fatal(err)
	}
	if len(components) != len(tests)-1 {
		t.Errorf("config/components has %d, and %d are compared", len(components), len(tests)-1)
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(config, "with-"+tc.component)
			kustomization := "resources: [../default]\n"
			if tc.component != "" {
				kustomization += "components: [../components/" + tc.component + "]\n"
			}
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(kustomization), 0o600); err != nil {
				t.Fatal(err)
			}
			want := withoutHelm(objects(t, output(t, kustomize, "build", dir)))
			got := withoutHelm(render(t, release, namespace, "image: {repository: controller, tag: latest}\n"+tc.values))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-kustomize +helm):\n%s", diff)
			}
		})
	}
}

// withoutHelm removes what only helm adds, and the namespace, which helm
// creates in another way.
func withoutHelm(all []*unstructured.Unstructured) map[string]any {
	byID := map[string]any{}
	for _, o := range all {
		if o.GetKind() == "Namespace" {
			continue
		}
		labels := o.GetLabels()
		for _, key := range []string{"helm.sh/chart", "app.kubernetes.io/version", "app.kubernetes.io/managed-by"} {
			delete(labels, key)
		}
		o.SetLabels(labels)
		annotations := o.GetAnnotations()
		delete(annotations, "helm.sh/resource-policy")
		o.SetAnnotations(annotations)
		byID[id(o)] = withoutRelease(o.Object)
	}
	return byID
}

// withoutRelease removes the release from selectors, and the namespace by which
// the admission policies know the operator.
func withoutRelease(value any) any {
	switch v := value.(type) {
	case map[string]any:
		delete(v, "app.kubernetes.io/instance")
		for key, field := range v {
			v[key] = withoutRelease(field)
		}
	case []any:
		for i, item := range v {
			v[i] = withoutRelease(item)
		}
	case string:
		return strings.ReplaceAll(v, "'system:serviceaccount:"+namespace+":'", "'system:serviceaccount:'")
	}
	return value
}

// apply applies an object as helm's server-side apply would.
func apply(t *testing.T, o *unstructured.Unstructured, options ...client.ApplyOption) error {
	t.Helper()
	if ns := o.GetNamespace(); ns != "" {
		err := kube.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
		if client.IgnoreAlreadyExists(err) != nil {
			return err
		}
	}
	options = append(options, client.FieldOwner("helm"), client.ForceOwnership)
	return kube.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o), options...)
}

// TestEveryInstallationIsTaken gives each object of each installation to the API
// server, and those that several have, such as the CRDs, once.
func TestEveryInstallationIsTaken(t *testing.T) {
	taken := map[string]bool{} // by their contents
	for name, values := range installations {
		t.Run(name, func(t *testing.T) {
			all := render(t, release, namespace, values)
			if len(all) < 5 {
				t.Fatalf("there are %d objects only", len(all))
			}
			for _, o := range all {
				content, err := o.MarshalJSON()
				if err != nil {
					t.Fatal(err)
				}
				if taken[string(content)] {
					continue
				}
				if err := apply(t, o, client.DryRunAll); err != nil {
					t.Errorf("%s: %v", id(o), err)
					continue
				}
				taken[string(content)] = true
			}
		})
	}
}

// TestEverythingIsInThere looks for every value of everything in the objects.
func TestEverythingIsInThere(t *testing.T) {
	all := render(t, "any", "of-the-release", everything)
	var text string
	for _, o := range all {
		text += fmt.Sprintln(o.Object)
	}
	for _, want := range []string{
		"image:registry.example.com:5000/m2m@sha256:0000", "imagePullPolicy:Always", "imagePullSecrets:[map[name:registry]]", "replicas:3",
		"resources:map[limits:map[memory:1Gi] requests:map[cpu:1 memory:128Mi]]", "--watch-namespaces=shop,payments", "--workers=40 --zap-log-level=debug",
		"failurePolicy:Ignore", "timeoutSeconds:10", "issuerRef:map[kind:ClusterIssuer name:internal]", "--webhook-cert-dir=", "--prompt-delivery=false", "--require-credential-label", "--egress-allow=auth.example.com:8443,*.example.org,10.1.0.0/16",
		"interval:30s", "release:prometheus", "dashboards:company", "grafana_folder:Identity", "maxUnavailable:50%", "kubernetes.io/metadata.name:monitoring", "from:[map[ipBlock:map[cidr:10.0.0.0/28]]]", "to:[map[ipBlock:map[cidr:192.0.2.0/24]]]", "policyTypes:[Ingress Egress]", "priorityClassName:system-cluster-critical",
		"topologyKey:topology.kubernetes.io/zone", "labelSelector:map[matchLabels:map[app:m2m]]", "nodeSelector:map[kubernetes.io/arch:arm64]",
		"tolerations:[map[effect:NoSchedule key:infra", "affinity:map[nodeAffinity:", "team:identity", "example.com/note:a: note", "example.com/role:operator",
		"name:tokens-controller-manager", "dnsNames:[tokens-webhook." + namespace + ".svc]", "inject-ca-from:" + namespace + "/tokens-webhook",
		"operator:In values:[shop payments]",
		"value:http://proxy.example.com:3128", "configMap:map[name:company-ca]", "mountPath:/etc/ssl/certs", "fsGroup:2000", "securityContext:map[allowPrivilegeEscalation:false capabilities:map[drop:[ALL]] readOnlyRootFilesystem:true runAsNonRoot:true]",
		"hostNetwork:true", "dnsPolicy:Default", "dnsConfig:map[options:[map[name:ndots value:1]]]", "strategy:map[type:Recreate]", "revisionHistoryLimit:2", "cost-center:42", "example.com/owner:identity",
		"name:tokens-shard-eu-1", "m2m-operator.io/shard:2", "--shard=$(SHARD) --shards=3 --watch-namespaces", "--leader-elect --shards=3", "resourceNames:[m2m-operator m2m-operator-eu-1 m2m-operator-2]",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is nowhere", want)
		}
	}
	for _, unwanted := range []string{"aggregate-to", "resource-policy", "kind:Issuer ", "prompt-delivery]", "webhook-certificate-", "runAsUser", "of-the-release"} {
		if strings.Contains(text, unwanted) {
			t.Errorf("%q is there", unwanted)
		}
	}
}

// TestServicesFindTheirPods: the webhook is served by the instance that has
// everything and by no shard, and both publish metrics.
func TestServicesFindTheirPods(t *testing.T) {
	var pods []map[string]string
	selectors := map[string]map[string]string{}
	for _, o := range render(t, "any", namespace, "shards: [a, b]") {
		var err error
		switch o.GetKind() {
		case "Deployment":
			var labels map[string]string
			labels, _, err = unstructured.NestedStringMap(o.Object, "spec", "template", "metadata", "labels")
			pods = append(pods, labels)
		case "Service":
			selectors[o.GetName()], _, err = unstructured.NestedStringMap(o.Object, "spec", "selector")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	got := map[string][]string{}
	for name, selector := range selectors {
		for _, p := range pods {
			if labels.SelectorFromSet(selector).Matches(labels.Set(p)) {
				got[name] = append(got[name], p["app.kubernetes.io/component"]+p["m2m-operator.io/shard"])
			}
		}
		slices.Sort(got[name])
	}
	want := map[string][]string{
		"any-m2m-operator-webhook": {"controller-manager"}, "any-m2m-operator-metrics": {"controller-manager"},
		"any-m2m-operator-shard-metrics": {"sharda", "shardb"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pods of the Services (-want +got):\n%s", diff)
	}
}

// TestReleasesDoNotCollide installs two releases in one cluster.
func TestReleasesDoNotCollide(t *testing.T) {
	const shared = "crds: {enabled: false}\nmetrics: {serviceMonitor: {enabled: true}, prometheusRule: {enabled: true}, dashboard: {enabled: true}}\n"
	first := render(t, "first", "one", shared+"watchNamespaces: [shop]")
	second := render(t, "second", "two", shared+"watchNamespaces: [shop, payments]")
	var ids []string
	for _, o := range first {
		ids = append(ids, id(o))
		if strings.Contains(fmt.Sprint(o.Object), "second-") {
			t.Errorf("%s of the first names the second", id(o))
		}
	}
	for _, o := range second {
		if slices.Contains(ids, id(o)) {
			t.Errorf("both have %s", id(o))
		}
	}
}

func TestBadValuesAreExplained(t *testing.T) {
	tests := map[string]struct{ values, want string }{
		"a value that does not exist":     {"image: {repo: m2m}", "'/image': additional properties 'repo' not allowed"},
		"a word for a number":             {"replicas: two", "'/replicas': got string, want integer"},
		"a namespace in capitals":         {"watchNamespaces: [Shop]", "'/watchNamespaces/0'"},
		"a shard in capitals":             {"shards: [EU]", "'/shards/0'"},
		"a shard that is a number":        {"shards: [1]", "'/shards/0': got number, want string"},
		"a shard twice":                   {"shards: [a, a]", "'/shards'"},
		"a namespace twice":               {"watchNamespaces: [shop, shop]", "'/watchNamespaces'"},
		"a policy that does not exist":    {"webhook: {failurePolicy: fail}", "'/webhook/failurePolicy': value must be one of 'Fail', 'Ignore'"},
		"a repository with its tag":       {"image: {repository: m2m:1}", "'/image/repository'"},
		"a digest that is none":           {"image: {digest: latest}", "'/image/digest'"},
		"destinations in one text":        {"egress: {allow: [\"a.example, b.example\"]}", "'/egress/allow/0'"},
		"a flag without dashes":           {"extraArgs: [workers=40]", "'/extraArgs/0'"},
		"an issuer without its name":      {"webhook: {certManager: {issuerRef: {kind: ClusterIssuer}}}", "'/webhook/certManager/issuerRef'"},
		"too long a timeout":              {"webhook: {timeoutSeconds: 60}", "'/webhook/timeoutSeconds'"},
		"a budget that is no percentage":  {"podDisruptionBudget: {maxUnavailable: half}", "'/podDisruptionBudget/maxUnavailable'"},
		"egress to nowhere":               {"networkPolicy: {egress: {to: []}}", "'/networkPolicy/egress/to'"},
		"a truth in quotes":               {`crds: {keep: "false"}`, "'/crds/keep': got string, want boolean"},
		"a label that is a number":        {"podLabels: {version: 1}", "'/podLabels/version'"},
		"a variable that is a number":     {"extraEnv: [{name: GOGC, value: 50}]", "'/extraEnv/0/value': got number, want string"},
		"a variable of the operator":      {"extraEnv: [{name: POD_NAMESPACE, value: other}]", "'/extraEnv/0/name'"},
		"a variable in two ways":          {"extraEnv: [{name: TOKEN, value: a, valueFrom: {secretKeyRef: {name: a, key: b}}}]", "'/extraEnv/0'"},
		"a volume without its source":     {"extraVolumes: [{name: company-ca}]", "'/extraVolumes/0': minProperties: got 1, want 2"},
		"a mount without its path":        {"extraVolumeMounts: [{name: company-ca}]", "'/extraVolumeMounts/0': missing property 'mountPath'"},
		"a mount below no root":           {"extraVolumeMounts: [{name: company-ca, mountPath: etc/ssl}]", "'/extraVolumeMounts/0/mountPath'"},
		"root as user":                    {"podSecurityContext: {runAsUser: 0}", "'/podSecurityContext/runAsUser': minimum: got 0, want 1"},
		"a DNS policy that is none":       {"dnsPolicy: Host", "'/dnsPolicy': value must be one of '', 'ClusterFirst', 'ClusterFirstWithHostNet', 'Default', 'None'"},
		"an option that is a number":      {"dnsConfig: {options: [{name: ndots, value: 1}]}", "'/dnsConfig/options/0/value': got number, want string"},
		"a strategy that is none":         {"updateStrategy: {type: BlueGreen}", "'/updateStrategy/type': value must be one of 'RollingUpdate', 'Recreate'"},
		"a negative history":              {"revisionHistoryLimit: -1", "'/revisionHistoryLimit': minimum: got -1, want 0"},
		"a label that the chart sets":     {"commonLabels: {app.kubernetes.io/name: other}", "commonLabels: the chart sets app.kubernetes.io/name itself; remove it"},
		"a label with a space":            {"commonLabels: {team: the team}", "'/commonLabels/team'"},
		"an annotation of Helm":           {"commonAnnotations: {helm.sh/resource-policy: keep}", "commonAnnotations: the chart sets helm.sh/resource-policy itself; remove it"},
		"a pod's label that selects it":   {"podLabels: {app.kubernetes.io/component: other}", "podLabels: the chart sets app.kubernetes.io/component itself; remove it"},
		"a namespace for all in capitals": {"namespaceOverride: Platform", "'/namespaceOverride'"},
		"a constraint without its limits": {"topologySpreadConstraints: [{topologyKey: zone}]", "'/topologySpreadConstraints/0'"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			out, err := brief(helm, "template", chartDir, "--values", valuesFile(t, image), "--values", valuesFile(t, tc.values)).CombinedOutput()
			if err == nil || !strings.Contains(string(out), tc.want) {
				t.Errorf("helm said\n%.500s\nwant %q in it", out, tc.want)
			}
		})
	}
}
