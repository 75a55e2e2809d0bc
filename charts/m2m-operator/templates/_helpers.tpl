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

{{- define "m2m-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: m2m-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
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

{{- define "m2m-operator.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Where permissions are granted one by one, as a JSON list: empty if everywhere. */}}
{{- define "m2m-operator.namespaces" -}}
{{- if .Values.watchNamespaces -}}
{{- append .Values.watchNamespaces .Release.Namespace | uniq | sortAlpha | toJson -}}
{{- else -}}
[]
{{- end -}}
{{- end }}
