{{- /* SPDX-License-Identifier: Apache-2.0 */}}

{{- /* What the names of this release's objects begin with. */}}
{{- define "m2m-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- /* The namespace of this release's objects. */}}
{{- define "m2m-operator.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace -}}
{{- end }}

{{- define "m2m-operator.labels" -}}
{{- include "m2m-operator.labelsWith" (list . dict) -}}
{{- end }}

{{- /* The labels of an object: of the root and labels that win over those of all objects. */}}
{{- define "m2m-operator.labelsWith" -}}
{{- $more := index . 1 -}}
{{- with index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: m2m-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with merge (dict) $more .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* What the operator's pods are found by. */}}
{{- define "m2m-operator.selector" -}}
app.kubernetes.io/name: m2m-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: controller-manager
{{- end }}

{{- /* What the pods of the webhook's own Deployment are found by. */}}
{{- define "m2m-operator.webhookSelector" -}}
app.kubernetes.io/name: m2m-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: webhook
{{- end }}

{{- /* What a shard's pods are found by: of the root and the shard's name. */}}
{{- define "m2m-operator.shardSelector" -}}
app.kubernetes.io/name: m2m-operator
app.kubernetes.io/instance: {{ (index . 0).Release.Name | quote }}
app.kubernetes.io/component: shard
m2m-operator.io/shard: {{ index . 1 | quote }}
{{- end }}

{{- /* Values that the chart or the operator sets itself. */}}
{{- define "m2m-operator.check" -}}
{{- range $name := list "commonLabels" "podLabels" "commonAnnotations" "podAnnotations" -}}
{{- range $key, $_ := index $.Values $name -}}
{{- if regexMatch "^(app\\.kubernetes\\.io/(name|instance|component|version|managed-by)$|helm\\.sh/|m2m-operator\\.io/|cert-manager\\.io/inject-ca-from|controller-gen\\.kubebuilder\\.io/|kubectl\\.kubernetes\\.io/default-container)" $key -}}
{{- fail (printf "\n\n%s: the chart sets %s itself; remove it\n" $name $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* A release's chart pins its image by digest, until a tag or a digest is set. */}}
{{- define "m2m-operator.image" -}}
{{- $pinned := index .Chart.Annotations "m2m-operator.io/image-digest" -}}
{{- include "m2m-operator.check" . -}}
{{- with .Values.image -}}
{{- if not .repository -}}
{{- fail "\n\nimage.repository is empty. The chart of a release names the release's image; this chart is not of a release, so you build the image and push it to a registry that your cluster can pull from:\n\n  make image IMG=registry.example.com/m2m-operator:dev PUSH=1\n\nThen install with --set image.repository=registry.example.com/m2m-operator --set image.tag=dev\n" -}}
{{- end -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else if or .tag (not $pinned) -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- else -}}
{{ .repository }}:{{ $.Chart.AppVersion }}@{{ $pinned }}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Where permissions are granted one by one, as a JSON list: empty if everywhere. */}}
{{- define "m2m-operator.namespaces" -}}
{{- if .Values.watchNamespaces -}}
{{- append .Values.watchNamespaces (include "m2m-operator.namespace" .) | uniq | sortAlpha | toJson -}}
{{- else -}}
[]
{{- end -}}
{{- end }}
