// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const manifests = `
apiVersion: v1
kind: Namespace
metadata: {name: m2m-operator-system, labels: {app.kubernetes.io/name: m2m-operator}}
---
apiVersion: v1
kind: Service
metadata:
  labels:
    app.kubernetes.io/name: m2m-operator
  name: m2m-operator-webhook
  namespace: m2m-operator-system
spec:
  description: |-
    It says {{ this }},
      and "that".
  ports:
  - name: https
    port: 443
  - name: other
    port: 444
  selector:
    app.kubernetes.io/name: m2m-operator
  empty: {}
  sessionAffinity: None
  args: [--a=1, --b=2, "443"]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  labels: {app.kubernetes.io/name: m2m-operator}
  name: m2m-operator-manager
roleRef: {name: m2m-operator-webhook}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  labels: {app.kubernetes.io/name: m2m-operator}
  name: m2m-operator-shard
spec:
  selector: {app.kubernetes.io/component: shard, app.kubernetes.io/name: m2m-operator}
`

func templatesOf(t *testing.T, manifests string, rules map[string][]edit) (map[string]string, error) {
	t.Helper()
	nodes, err := parse([]byte(manifests))
	if err != nil {
		t.Fatal(err)
	}
	return convert(nodes, rules)
}

func TestObjectsBecomeTemplates(t *testing.T) {
	got, err := templatesOf(t, manifests, map[string][]edit{
		"Namespace/system": nil,
		"Service/webhook": {
			when("$.Values.on"), set("spec.ports[name=https].port", "{{ $.Values.port }}"), only("spec.ports[1]", "$.Values.more"),
			replace("spec.args[--b]", "2", "{{ $.Values.b }}"), add("spec.args", "{{- toYaml $.Values.args | nindent <indent> }}"),
			only("spec.empty", "$.Values.more"), remove("spec", "sessionAffinity"), block("spec.ports[name=other]", "{{- toYaml $.Values.p | nindent <indent> }}"),
			add("spec", "{{- with $.Values.x }}\nx:\n  {{- toYaml . | nindent <deeper> }}\n{{- end }}"),
		},
		"ClusterRoleBinding/manager": {perNamespace("$.Values.namespaces")},
		"Deployment/shard":           {perShard, when("$.Values.on")},
	})
	if err != nil {
		t.Fatal(err)
	}
	const common = `  {{- if $.Values.commonAnnotations }}
  annotations:
    {{- with $.Values.commonAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
`
	const notice = "{{- /* Made from config/ by make chart. Change it there, or in hack/chart. */}}\n"
	binding := func(kind, namespace string) string {
		return `apiVersion: rbac.authorization.k8s.io/v1
kind: ` + kind + `
metadata:
  labels:
    {{- include "m2m-operator.labels" $ | nindent 4 }}
  name: {{ include "m2m-operator.fullname" $ }}-manager
` + common + namespace + `roleRef:
  name: {{ include "m2m-operator.fullname" $ }}-webhook
`
	}
	want := map[string]string{
		"service-webhook.yaml": notice + `{{- if $.Values.on }}
apiVersion: v1
kind: Service
metadata:
  labels:
    {{- include "m2m-operator.labels" $ | nindent 4 }}
  name: {{ include "m2m-operator.fullname" $ }}-webhook
  namespace: {{ include "m2m-operator.namespace" $ | quote }}
` + common + `spec:
  description: |-
      It says {{ "{{" }} this }},
        and "that".
  ports:
  - name: https
    port: {{ $.Values.port }}
  {{- if $.Values.more }}
  -
    {{- toYaml $.Values.p | nindent 4 }}
  {{- end }}
  selector:
    app.kubernetes.io/name: m2m-operator
    app.kubernetes.io/instance: {{ $.Release.Name | quote }}
  {{- if $.Values.more }}
  empty: {}
  {{- end }}
  args:
  - --a=1
  - --b={{ $.Values.b }}
  - "443"
  {{- toYaml $.Values.args | nindent 2 }}
  {{- with $.Values.x }}
  x:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
`,
		"clusterrolebinding-manager.yaml": notice + "{{- range $.Values.namespaces }}\n---\n" + binding("RoleBinding", "  namespace: {{ . | quote }}\n") +
			"{{- else }}\n" + binding("ClusterRoleBinding", "") + "{{- end }}\n",
		"deployment-shard.yaml": notice + `{{- if $.Values.on }}
{{- range $shard := $.Values.shards }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  labels:
    {{- include "m2m-operator.labels" $ | nindent 4 }}
    m2m-operator.io/shard: {{ $shard | quote }}
  name: {{ include "m2m-operator.fullname" $ }}-shard-{{ $shard }}
` + common + `spec:
  selector:
    app.kubernetes.io/component: shard
    app.kubernetes.io/name: m2m-operator
    app.kubernetes.io/instance: {{ $.Release.Name | quote }}
    m2m-operator.io/shard: {{ $shard | quote }}
{{- end }}
{{- end }}
`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestWhatConfigAddsIsNotForgotten: everything that could make the chart's
// installation differ from the manifests' is an error.
func TestWhatConfigAddsIsNotForgotten(t *testing.T) {
	with := func(id string, edits ...edit) map[string][]edit {
		rules := map[string][]edit{"Namespace/system": nil, "Service/webhook": {}, "ClusterRoleBinding/manager": {}, "Deployment/shard": {}}
		rules[id] = append([]edit{}, edits...)
		return rules
	}
	without := with("Service/webhook")
	delete(without, "Service/webhook")
	tests := map[string]struct {
		change [2]string // of the manifests
		rules  map[string][]edit
		want   string
	}{
		"an object without a rule":               {rules: without, want: "Service/webhook: no rule says"},
		"a rule without an object":               {rules: with("Service/metrics"), want: "there is no Service/metrics"},
		"an edit of a field that is gone":        {rules: with("Service/webhook", set("spec.replicas", "x")), want: "spec.replicas: there is no replicas"},
		"an edit of an item that is gone":        {rules: with("Service/webhook", only("spec.ports[name=metrics]", "x")), want: "there is no [name=metrics]"},
		"an edit of an item beyond the last":     {rules: with("Service/webhook", only("spec.ports[7]", "x")), want: "there is no [7]"},
		"a scalar where there is a mapping":      {rules: with("Service/webhook", set("spec", "x")), want: "spec is no scalar"},
		"a mapping where there is a scalar":      {rules: with("Service/webhook", block("kind", "x")), want: "kind is a scalar"},
		"a part of a string that is gone":        {rules: with("Service/webhook", replace("spec.args[--a]", "3", "x")), want: "does not have"},
		"a part of a string that is there twice": {change: [2]string{"--a=1", "--a=11"}, rules: with("Service/webhook", replace("spec.args[--a]", "1", "x")), want: "does not have"},
		"an entry that is gone":                  {rules: with("Service/webhook", remove("spec", "externalIPs")), want: "spec has no externalIPs"},
		"a name that no edit has replaced":       {change: [2]string{"--a=1", "--a=m2m-operator-other"}, rules: with("Service/webhook"), want: "spec.args[0] has --a=m2m-operator-other in every release"},
		"a name without the prefix":              {change: [2]string{"name: m2m-operator-webhook", "name: webhook"}, rules: with("Service/webhook"), want: "does not begin with"},
		"another namespace":                      {change: [2]string{"namespace: m2m-operator-system", "namespace: kube-system"}, rules: with("Service/webhook"), want: `in the namespace "kube-system"`},
		"no label":                               {change: [2]string{"\n    app.kubernetes.io/name: m2m-operator\n  name", "\n    a: b\n  name"}, rules: with("Service/webhook"), want: "no label"},
		"a Service for each namespace":           {rules: with("Service/webhook", perNamespace("x")), want: "only a ClusterRoleBinding"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			changed := manifests
			if tc.change[0] != "" {
				if changed = strings.Replace(manifests, tc.change[0], tc.change[1], 1); changed == manifests {
					t.Fatal("the test changes nothing")
				}
			}
			_, err := templatesOf(t, changed, tc.rules)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error that contains %q", err, tc.want)
			}
		})
	}
}

func TestTemplatesOfFormerObjectsGo(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"service-former.yaml", "_helpers.tpl", "NOTES.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := write(dir, map[string]string{"service-new.yaml": "kind: Service\n"}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff([]string{"NOTES.txt", "_helpers.tpl", "service-new.yaml"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
