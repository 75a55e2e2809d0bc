// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestPodsAreWhatTheValuesSay renders each value that concerns pods for the operator, the webhook
// and a shard, and gives the Deployments to the API server.
func TestPodsAreWhatTheValuesSay(t *testing.T) {
	const (
		pod       = "spec.template.spec."
		container = pod + "containers.0."
	)
	tests := map[string]struct {
		values string
		want   map[string]string // JSON by path; empty: the field is not there
	}{
		"by default": {"", map[string]string{
			pod + "securityContext":       `{"runAsGroup":65532,"runAsNonRoot":true,"runAsUser":65532,"seccompProfile":{"type":"RuntimeDefault"}}`,
			container + "securityContext": `{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]},"readOnlyRootFilesystem":true}`,
			pod + "hostNetwork":           "", pod + "dnsPolicy": "", pod + "volumes": "", "spec.strategy": "", "spec.revisionHistoryLimit": "", "metadata.annotations": "",
		}},
		"a proxy": {`extraEnv: [{name: HTTPS_PROXY, value: "http://proxy.example.com:3128"}, {name: NO_PROXY, value: ".svc"}]`, map[string]string{
			container + "env.#HTTPS_PROXY": `{"name":"HTTPS_PROXY","value":"http://proxy.example.com:3128"}`,
			container + "env.#NO_PROXY":    `{"name":"NO_PROXY","value":".svc"}`,
		}},
		"a variable from a Secret": {"extraEnv: [{name: HTTPS_PROXY, valueFrom: {secretKeyRef: {name: proxy, key: url}}}]", map[string]string{
			container + "env.#HTTPS_PROXY": `{"name":"HTTPS_PROXY","valueFrom":{"secretKeyRef":{"key":"url","name":"proxy"}}}`,
		}},
		"the company's certificates": {
			"{extraVolumes: [{name: ca, configMap: {name: company-ca}}], extraVolumeMounts: [{name: ca, mountPath: /etc/ssl/certs, readOnly: true}]}", map[string]string{
				pod + "volumes.#ca":            `{"configMap":{"name":"company-ca"},"name":"ca"}`,
				container + "volumeMounts.#ca": `{"mountPath":"/etc/ssl/certs","name":"ca","readOnly":true}`,
			},
		},
		"the user that OpenShift chooses": {"podSecurityContext: {runAsUser: null, runAsGroup: null}", map[string]string{
			pod + "securityContext": `{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}}`,
		}},
		"another user": {"podSecurityContext: {runAsUser: 1000, fsGroup: 2000}", map[string]string{
			pod + "securityContext": `{"fsGroup":2000,"runAsGroup":65532,"runAsNonRoot":true,"runAsUser":1000,"seccompProfile":{"type":"RuntimeDefault"}}`,
		}},
		"a container's context": {"securityContext: {runAsNonRoot: true, capabilities: null}", map[string]string{
			container + "securityContext": `{"allowPrivilegeEscalation":false,"readOnlyRootFilesystem":true,"runAsNonRoot":true}`,
		}},
		"the node's network": {"hostNetwork: true", map[string]string{
			pod + "hostNetwork": "true", pod + "dnsPolicy": `"ClusterFirstWithHostNet"`, "spec.strategy": `{"rollingUpdate":{"maxSurge":0,"maxUnavailable":1}}`,
		}},
		"the node's network and names": {"{hostNetwork: true, dnsPolicy: Default, updateStrategy: {type: Recreate}}", map[string]string{
			pod + "dnsPolicy": `"Default"`, "spec.strategy": `{"type":"Recreate"}`,
		}},
		"names": {`{dnsPolicy: None, dnsConfig: {nameservers: ["192.0.2.1"], options: [{name: ndots, value: "1"}]}}`, map[string]string{
			pod + "dnsPolicy": `"None"`, pod + "dnsConfig": `{"nameservers":["192.0.2.1"],"options":[{"name":"ndots","value":"1"}]}`,
		}},
		"how replicas are replaced": {"updateStrategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 50%}}", map[string]string{
			"spec.strategy": `{"rollingUpdate":{"maxUnavailable":"50%"},"type":"RollingUpdate"}`,
		}},
		"no former ReplicaSets": {"revisionHistoryLimit: 0", map[string]string{"spec.revisionHistoryLimit": "0"}},
		"where they run": {
			`{priorityClassName: high, nodeSelector: {infra: "true"}, tolerations: [{operator: Exists}], affinity: {nodeAffinity: {}}, topologySpreadConstraints: [{topologyKey: zone, maxSkew: 1, whenUnsatisfiable: DoNotSchedule, labelSelector: {}}]}`,
			map[string]string{
				pod + "priorityClassName": `"high"`, pod + "nodeSelector": `{"infra":"true"}`, pod + "tolerations": `[{"operator":"Exists"}]`, pod + "affinity": `{"nodeAffinity":{}}`,
			},
		},
		"labels and annotations with the pods' own first": {
			"{commonLabels: {team: identity, tier: a}, podLabels: {tier: b}, commonAnnotations: {note: a, owner: identity}, podAnnotations: {note: b}}", map[string]string{
				"metadata.labels.team": `"identity"`, "metadata.labels.tier": `"a"`, "metadata.annotations": `{"note":"a","owner":"identity"}`,
				"spec.template.metadata.labels.team": `"identity"`, "spec.template.metadata.labels.tier": `"b"`, "spec.template.metadata.annotations.note": `"b"`,
				"spec.template.metadata.annotations.owner": "", "spec.selector.matchLabels.team": "",
			},
		},
		"another namespace": {"namespaceOverride: platform", map[string]string{"metadata.namespace": `"platform"`}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			deployments := 0
			for _, o := range render(t, release, namespace, "{crds: {enabled: false}, shards: [a], webhook: {deployment: {enabled: true}}}", tc.values) {
				if o.GetKind() != "Deployment" {
					continue
				}
				deployments++
				for path, want := range tc.want {
					if diff := cmp.Diff(want, at(t, o, path)); diff != "" {
						t.Errorf("%s: %s (-want +got):\n%s", o.GetName(), path, diff)
					}
				}
				if err := apply(t, o, client.DryRunAll); err != nil {
					t.Errorf("%s: %v", id(o), err)
				}
			}
			if deployments != 3 {
				t.Errorf("there are %d Deployments", deployments)
			}
		})
	}
}

// at returns a field of an object as JSON. A step of the path is a key, an index, or a name after
// a number sign.
func at(t *testing.T, o *unstructured.Unstructured, path string) string {
	t.Helper()
	var value any = o.Object
	for step := range strings.SplitSeq(path, ".") {
		switch v := value.(type) {
		case map[string]any:
			value = v[step]
		case []any:
			value = item(v, step)
		}
	}
	if value == nil {
		return ""
	}
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func item(list []any, step string) any {
	if i, err := strconv.Atoi(step); err == nil && i < len(list) {
		return list[i]
	}
	for _, entry := range list {
		if entry.(map[string]any)["name"] == strings.TrimPrefix(step, "#") {
			return entry
		}
	}
	return nil
}

// TestEveryObjectIsLabelled looks for the labels and annotations of all objects, whose entries win
// over none of an object's own.
func TestEveryObjectIsLabelled(t *testing.T) {
	const values = `
commonLabels: {team: identity, release: common}
commonAnnotations: {example.com/owner: identity, example.com/role: common}
namespaceOverride: platform
shards: [a]
webhook: {deployment: {enabled: true}, certManager: {enabled: true}}
metrics: {serviceMonitor: {enabled: true, labels: {release: prometheus}}, prometheusRule: {enabled: true}, dashboard: {enabled: true}}
serviceAccount: {annotations: {example.com/role: operator}}
`
	kinds := map[string]bool{}
	for _, o := range render(t, release, namespace, values) {
		kinds[o.GetKind()] = true
		labels, annotations := o.GetLabels(), o.GetAnnotations()
		if labels["team"] != "identity" || annotations["example.com/owner"] != "identity" {
			t.Errorf("%s has the labels %v and annotations %v", id(o), labels, annotations)
		}
		want := "common"
		if o.GetKind() == "ServiceMonitor" {
			want = "prometheus"
		}
		if labels["release"] != want {
			t.Errorf("%s has the label release=%s", id(o), labels["release"])
		}
		want = "common"
		if o.GetKind() == "ServiceAccount" && strings.HasSuffix(o.GetName(), "controller-manager") {
			want = "operator"
		}
		if annotations["example.com/role"] != want {
			t.Errorf("%s has the annotation example.com/role=%s", id(o), annotations["example.com/role"])
		}
		if ns := o.GetNamespace(); ns != "" && ns != "platform" {
			t.Errorf("%s is not in the namespace platform", id(o))
		}
		if content, err := o.MarshalJSON(); err != nil || strings.Contains(string(content), `"`+namespace+`"`) {
			t.Errorf("%s names the release's namespace: %v", id(o), err)
		}
		if err := apply(t, o, client.DryRunAll); err != nil {
			t.Errorf("%s: %v", id(o), err)
		}
	}
	if len(kinds) < 15 {
		t.Errorf("there are the kinds %v only", kinds)
	}
}

// TestWithoutAnImageHelmSaysWhatToDo: until the chart is of a release, nobody has pushed an image.
func TestWithoutAnImageHelmSaysWhatToDo(t *testing.T) {
	out, err := brief(helm, "template", chartDir).CombinedOutput()
	for _, want := range []string{"image.repository is empty", "make image IMG=", "--set image.repository="} {
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("helm said\n%.900s\nwant %q in it", out, want)
		}
	}
}
