// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
)

// Conditions that several objects share.
const (
	metricsOn      = "$.Values.metrics.enabled"
	metricsServe   = "and $.Values.metrics.enabled $.Values.metrics.service.enabled"
	webhookOn      = "$.Values.webhook.enabled"
	certManager    = "and $.Values.webhook.enabled $.Values.webhook.certManager.enabled"
	selfManaged    = "and $.Values.webhook.enabled (not $.Values.webhook.certManager.enabled)"
	ownIssuer      = "and (" + certManager + ") (not $.Values.webhook.certManager.issuerRef)"
	ownPods        = "and $.Values.webhook.enabled $.Values.webhook.deployment.enabled"
	ownSecret      = "and (" + ownPods + ") (not $.Values.webhook.certManager.enabled)"
	sharedPods     = "and $.Values.webhook.enabled (not $.Values.webhook.deployment.enabled)"
	egressOn       = "$.Values.networkPolicy.egress.enabled"
	envoyGatewayOn = "$.Values.enforcement.envoyGateway.enabled"
	istioOn        = "$.Values.enforcement.istio.enabled"
	watched        = `include "m2m-operator.namespaces" $ | fromJsonArray`
)

// rules say what the chart makes of each object, by kind and name without the
// prefix, or by kind. Without edits, an object gets only those of general; with
// nil it is left out.
var rules = map[string][]edit{
	"Namespace/system": nil, // the release's: helm or somebody else creates it

	"CustomResourceDefinition": {
		when("$.Values.crds.enabled"),
		annotated("$.Values.crds.keep", "helm.sh/resource-policy: keep"),
	},

	"ServiceAccount/controller-manager": {
		annotatedWith("$.Values.serviceAccount.annotations"),
	},
	"ClusterRole/manager-cluster-role":               {},
	"ClusterRoleBinding/manager-cluster-rolebinding": {},
	"ClusterRole/manager-role":                       {},
	"ClusterRoleBinding/manager-rolebinding":         {perNamespace(watched)},
	"Role/leader-election":                           {add("rules[1].resourceNames", "{{- range $.Values.shards }}\n- m2m-operator-{{ . }}\n{{- end }}")},
	"RoleBinding/leader-election":                    {},
	"ClusterRole/metrics-auth":                       {when(metricsOn)},
	"ClusterRoleBinding/metrics-auth":                {when(metricsOn)},
	"ClusterRole/metrics-reader":                     {when(metricsOn)},
	"ClusterRole/prompt-delivery":                    {when("$.Values.promptDelivery.enabled")},
	"ClusterRoleBinding/prompt-delivery":             {when("$.Values.promptDelivery.enabled"), perNamespace(watched)},
	"ClusterRole/enforcement-envoy-gateway":          {when(envoyGatewayOn)},
	"ClusterRoleBinding/enforcement-envoy-gateway":   {when(envoyGatewayOn), perNamespace(watched)},
	"ClusterRole/enforcement-istio":                  {when(istioOn)},
	"ClusterRoleBinding/enforcement-istio":           {when(istioOn), perNamespace(watched)},
	"ClusterRole/viewer": {
		when("$.Values.userRoles.enabled"),
		only("metadata.labels[rbac.authorization.k8s.io/aggregate-to-view]", "$.Values.userRoles.aggregate"),
		only("metadata.labels[rbac.authorization.k8s.io/aggregate-to-edit]", "$.Values.userRoles.aggregate"),
		only("metadata.labels[rbac.authorization.k8s.io/aggregate-to-admin]", "$.Values.userRoles.aggregate"),
	},
	"ClusterRole/editor": {
		when("$.Values.userRoles.enabled"),
		only("metadata.labels[rbac.authorization.k8s.io/aggregate-to-edit]", "$.Values.userRoles.aggregate"),
		only("metadata.labels[rbac.authorization.k8s.io/aggregate-to-admin]", "$.Values.userRoles.aggregate"),
	},

	"ValidatingAdmissionPolicy/advice": {
		when("$.Values.advice.enabled"), add("spec.matchConstraints.namespaceSelector.matchExpressions", onlyWatched),
	},
	"ValidatingAdmissionPolicyBinding/advice":          {when("$.Values.advice.enabled")},
	"ValidatingAdmissionPolicy/metadata-bounds":        {},
	"ValidatingAdmissionPolicyBinding/metadata-bounds": {},
	"ValidatingAdmissionPolicy/fence":                  {theOperator},
	"ValidatingAdmissionPolicyBinding/fence":           {},
	"ValidatingAdmissionPolicy/finalizer-fence":        {theOperator},
	"ValidatingAdmissionPolicyBinding/finalizer-fence": {},
	"ValidatingAdmissionPolicy/event-fence":            {theOperator},
	"ValidatingAdmissionPolicyBinding/event-fence":     {},
	"ValidatingAdmissionPolicy/lease-fence":            {theOperator},
	"ValidatingAdmissionPolicyBinding/lease-fence":     {},
	"ValidatingAdmissionPolicy/status-fence":           {theOperator},
	"ValidatingAdmissionPolicyBinding/status-fence":    {},
	"ValidatingAdmissionPolicy/pod-fence":              {theOperator},
	"ValidatingAdmissionPolicyBinding/pod-fence":       {},
	"ValidatingAdmissionPolicy/policy-fence":           {theOperator},
	"ValidatingAdmissionPolicyBinding/policy-fence":    {},
	"ValidatingAdmissionPolicy/webhook-fence":          {when(webhookOn), theOperator},
	"ValidatingAdmissionPolicyBinding/webhook-fence":   {when(webhookOn)},

	"MutatingWebhookConfiguration/pod-injection": {
		when(webhookOn),
		set(webhook+"failurePolicy", "{{ $.Values.webhook.failurePolicy }}"),
		set(webhook+"timeoutSeconds", "{{ $.Values.webhook.timeoutSeconds }}"),
		add(webhook+"namespaceSelector.matchExpressions", onlyWatched),
		annotated(certManager, "cert-manager.io/inject-ca-from: {{ "+releaseNamespace+" }}/"+fullname+"webhook"),
	},
	"Service/webhook":                        {when(webhookOn), set("spec.selector[app.kubernetes.io/component]", servedBy)},
	"ClusterRole/webhook-certificate":        {when(selfManaged)},
	"ClusterRoleBinding/webhook-certificate": {when(selfManaged), set("subjects[0].name", fullname+servedBy)},
	"Issuer/webhook-selfsigned":              {when(ownIssuer)},
	"Certificate/webhook-ca": {
		when(ownIssuer),
		set("spec.secretName", fullname+"webhook-ca"),
		set("spec.issuerRef.name", fullname+"webhook-selfsigned"),
	},
	"Issuer/webhook": {when(ownIssuer), set("spec.ca.secretName", fullname+"webhook-ca")},
	"Certificate/webhook": {
		when(certManager),
		set("spec.dnsNames[0]", fullname+"webhook.{{ "+releaseNamespace+" }}.svc"),
		set("spec.secretName", fullname+"webhook-tls"),
		block("spec.issuerRef", issuerRef),
	},

	"Service/metrics":       {when(metricsServe)},
	"Service/shard-metrics": {when("and (" + metricsServe + ") $.Values.shards")},
	"Deployment/controller-manager": slices.Concat(replicas(selector), controllers, []edit{
		add(manager+"args", "{{- if "+sharedPods+" }}\n"+webhookArgs+"\n{{- else }}\n- --webhook=false\n{{- end }}"),
		add(manager+"args", withValues("$.Values.extraArgs")),
		only(manager+"ports[name=webhook]", sharedPods),
	}, volumes("and ("+sharedPods+") $.Values.webhook.certManager.enabled")),

	"ServiceAccount/webhook":                  {when(ownPods)},
	"ClusterRole/webhook-reader":              {when(ownPods)},
	"ClusterRoleBinding/webhook-reader":       {when(ownPods), perNamespace(watched)},
	"ClusterRoleBinding/webhook-metrics-auth": {when("and (" + ownPods + ") " + metricsOn)},
	"Role/webhook-secret":                     {when(ownSecret), set("rules[1].resourceNames[0]", fullname+"webhook-certificate")},
	"RoleBinding/webhook-secret":              {when(ownSecret)},
	"PodDisruptionBudget/webhook": {
		when("and (" + ownPods + ") $.Values.podDisruptionBudget.enabled"), set("spec.maxUnavailable", "{{ $.Values.podDisruptionBudget.maxUnavailable }}"),
	},
	"Deployment/webhook": slices.Concat([]edit{when(ownPods)}, replicas(webhookSelector), []edit{
		set("spec.replicas", "{{ $.Values.webhook.deployment.replicas }}"),
		block(manager+"resources", "{{- toYaml $.Values.webhook.deployment.resources | nindent <indent> }}"),
		add(manager+"args", watchArgs),
		add(manager+"args", webhookArgs),
		add(manager+"args", withValues("$.Values.webhook.deployment.extraArgs")),
	}, volumes(certManager)),
	"PodDisruptionBudget/controller-manager": {when("$.Values.podDisruptionBudget.enabled"), set("spec.maxUnavailable", "{{ $.Values.podDisruptionBudget.maxUnavailable }}")},

	"Deployment/shard": slices.Concat([]edit{perShard}, replicas(shardSelector), controllers, []edit{
		add(manager+"args", withValues("$.Values.extraArgs")),
		add("spec.template.spec.containers[name=manager]", from("volumeMounts", "$.Values.extraVolumeMounts")),
		add("spec.template.spec", from("volumes", "$.Values.extraVolumes")),
	}),
	"PodDisruptionBudget/shard": {
		perShard, when("$.Values.podDisruptionBudget.enabled"), set("spec.maxUnavailable", "{{ $.Values.podDisruptionBudget.maxUnavailable }}"),
	},
	"NetworkPolicy/controller-manager": {
		when("$.Values.networkPolicy.enabled"),
		only("spec.ingress[0]", metricsOn),
		add("spec.ingress[0]", "{{- with $.Values.networkPolicy.metricsFrom }}\nfrom:\n  {{- toYaml . | nindent <deeper> }}\n{{- end }}"),
		only("spec.policyTypes[1]", egressOn),
		only("spec.egress", egressOn),
		block("spec.egress[1].to", "{{- toYaml $.Values.networkPolicy.egress.to | nindent <indent> }}"),
	},
	"NetworkPolicy/webhook": {
		when("and $.Values.networkPolicy.enabled " + webhookOn),
		set("spec.podSelector.matchLabels[app.kubernetes.io/component]", servedBy),
		add("spec.ingress[0]", "{{- with $.Values.networkPolicy.webhookFrom }}\nfrom:\n  {{- toYaml . | nindent <deeper> }}\n{{- end }}"),
	},
	"ConfigMap/dashboard": {
		when("and $.Values.metrics.enabled $.Values.metrics.dashboard.enabled"),
		remove("metadata.labels", "grafana_dashboard"), // the value's default
		labelledWith("$.Values.metrics.dashboard.labels"),
		annotatedWith("$.Values.metrics.dashboard.annotations"),
	},
	"PrometheusRule/alerts": {
		when("and $.Values.metrics.enabled $.Values.metrics.prometheusRule.enabled"),
		labelledWith("$.Values.metrics.prometheusRule.labels"),
	},
	"ServiceMonitor/metrics": {
		when(metricsServe + " $.Values.metrics.serviceMonitor.enabled"),
		labelledWith("$.Values.metrics.serviceMonitor.labels"),
		add("spec.endpoints[port=https]", "{{- with $.Values.metrics.serviceMonitor.interval }}\ninterval: {{ . | quote }}\n{{- end }}"),
	},
}

const (
	manager = "spec.template.spec.containers[name=manager]."
	webhook = "webhooks[name=pods.m2m-operator.io]."
)

// replicas are the edits of all Deployments, whose pods are alike; a helper knows
// some of the labels that select them.
func replicas(selector string) []edit {
	return []edit{
		add("spec", "{{- if ne $.Values.revisionHistoryLimit nil }}\nrevisionHistoryLimit: {{ $.Values.revisionHistoryLimit }}\n{{- end }}"),
		add("spec", updateStrategy),
		add("spec.template.metadata.annotations", withValues("$.Values.podAnnotations")),
		add("spec.template.metadata.labels", withValues(merged("$.Values.podLabels", commonLabels))),
		block("spec.template.spec.topologySpreadConstraints", fmt.Sprintf(topologySpread, selector)),
		only("spec.template.spec.topologySpreadConstraints", "$.Values.topologySpreadConstraints"),
		set(manager+"image", `{{ include "m2m-operator.image" $ | quote }}`),
		set(manager+"imagePullPolicy", "{{ $.Values.image.pullPolicy }}"),
		set(manager+"args[--metrics-bind-address]", "--metrics-bind-address={{ if $.Values.metrics.enabled }}:8443{{ else }}0{{ end }}"),
		only(manager+"ports[name=metrics]", metricsOn),
		add(manager+"env", withValues("$.Values.extraEnv")),
		block(manager+"securityContext", "{{- toYaml $.Values.securityContext | nindent <indent> }}"),
		only(manager+"securityContext", "$.Values.securityContext"),
		block("spec.template.spec.securityContext", "{{- toYaml $.Values.podSecurityContext | nindent <indent> }}"),
		only("spec.template.spec.securityContext", "$.Values.podSecurityContext"),
		add("spec.template.spec", hostNetwork),
		add("spec.template.spec", optional("dnsConfig")),
		add("spec.template.spec", optional("imagePullSecrets")),
		add("spec.template.spec", optional("nodeSelector")),
		add("spec.template.spec", optional("affinity")),
		add("spec.template.spec", optional("tolerations")),
		add("spec.template.spec", "{{- with $.Values.priorityClassName }}\npriorityClassName: {{ . | quote }}\n{{- end }}"),
	}
}

const watchArgs = "{{- with $.Values.watchNamespaces }}\n- --watch-namespaces={{ join \",\" . }}\n{{- end }}"

// controllers are the edits of the Deployments that run the controllers.
var controllers = []edit{
	set("spec.replicas", "{{ $.Values.replicas }}"),
	add(manager+"args", "{{- with $.Values.shards }}\n- --shards={{ add1 (len .) }}\n{{- end }}"),
	add(manager+"args", watchArgs),
	add(manager+"args", "{{- if $.Values.credentials.requireLabel }}\n- --require-credential-label\n{{- end }}"),
	add(manager+"args", "{{- with $.Values.egress.allow }}\n- --egress-allow={{ join \",\" . }}\n{{- end }}"),
	add(manager+"args", "{{- if not $.Values.promptDelivery.enabled }}\n- --prompt-delivery=false\n{{- end }}"),
	add(manager+"args", "{{- if "+envoyGatewayOn+" }}\n- --enforcement=envoy-gateway\n{{- end }}"),
	add(manager+"args", "{{- if "+istioOn+" }}\n- --enforcement=istio\n{{- end }}"),
	block(manager+"resources", "{{- toYaml $.Values.resources | nindent <indent> }}"),
}

// volumes are the edits of a Deployment whose pods serve the webhook with
// cert-manager's certificate, under a condition, and have the volumes of the
// values.
func volumes(condition string) []edit {
	certificate := func(lines string) string { return "{{- if " + condition + " }}\n" + lines + "\n{{- end }}" }
	return []edit{
		add("spec.template.spec.containers[name=manager]", listed("volumeMounts", condition, "$.Values.extraVolumeMounts",
			certificate("- name: webhook-certificate\n  mountPath: "+certDir+"\n  readOnly: true"))),
		add("spec.template.spec", listed("volumes", condition, "$.Values.extraVolumes",
			certificate("- name: webhook-certificate\n  secret:\n    secretName: "+fullname+"webhook-tls"))),
	}
}

// listed is a list of own items, which exist under a condition, and those of a value.
func listed(field, condition, value, own string) string {
	return "{{- if or (" + condition + ") " + value + " }}\n" + field + ":\n" + own + "\n" + withValues(value) + "\n{{- end }}"
}

// With the node's network, pods of the same ports cannot share a node, so a new
// replica may have to wait for a former one's place.
const updateStrategy = `{{- if $.Values.updateStrategy }}
strategy:
  {{- toYaml $.Values.updateStrategy | nindent <deeper> }}
{{- else if $.Values.hostNetwork }}
strategy:
  rollingUpdate:
    maxSurge: 0
    maxUnavailable: 1
{{- end }}`

// A pod in the node's network finds the cluster's names only if it is told to.
const hostNetwork = `{{- if $.Values.hostNetwork }}
hostNetwork: true
{{- end }}
{{- with $.Values.dnsPolicy | default (ternary "ClusterFirstWithHostNet" "" $.Values.hostNetwork) }}
dnsPolicy: {{ . }}
{{- end }}`

// Where cert-manager's certificate is mounted.
const certDir = "/var/run/m2m-operator/webhook"

// The operator knows the name by which the API server calls it, unless the release has another
// one.
const webhookArgs = `{{- if $.Values.webhook.certManager.enabled }}
- --webhook-cert-dir=` + certDir + `
{{- else if ne (include "m2m-operator.fullname" $) "m2m-operator" }}
- --webhook-service={{ include "m2m-operator.fullname" $ }}-webhook
- --webhook-configuration={{ include "m2m-operator.fullname" $ }}-pod-injection
{{- end }}`

const issuerRef = `{{- with $.Values.webhook.certManager.issuerRef }}
{{- toYaml . | nindent <indent> }}
{{- else }}
kind: Issuer
name: {{ include "m2m-operator.fullname" $ }}-webhook
{{- end }}`

// The webhook injects only what an operator that watches the namespace provides.
const onlyWatched = `{{- with $.Values.watchNamespaces }}
- key: kubernetes.io/metadata.name
  operator: In
  values:
  {{- toYaml . | nindent <deeper> }}
{{- end }}`

// theOperator makes a policy apply to this release's ServiceAccount. In config the
// installation chooses the namespace, so there the policy knows the account by its
// name alone.
func theOperator(o *object) error {
	const path = "spec.matchConditions[name=the-operator].expression"
	const account = "request.userInfo.username.endsWith(':%s')"
	main := fmt.Sprintf(account, fullname+"controller-manager")
	for _, e := range []edit{
		replace(path, "'system:serviceaccount:'", "'system:serviceaccount:{{ "+releaseNamespace+" }}:'"),
		replace(path, fmt.Sprintf(account, prefix+"controller-manager"),
			"{{ if "+ownPods+" }}("+main+" || "+fmt.Sprintf(account, fullname+"webhook")+"){{ else }}"+main+"{{ end }}"),
	} {
		if err := e(o); err != nil {
			return err
		}
	}
	return nil
}

// optional is a field of the pod that only the value of its name sets.
func optional(field string) string { return from(field, "$.Values."+field) }

// from is a field that only a value sets.
func from(field, value string) string {
	return "{{- with " + value + " }}\n" + field + ":\n  {{- toYaml . | nindent <deeper> }}\n{{- end }}"
}

// servedBy is the component whose pods serve the webhook, and its account's name.
const servedBy = "{{ if $.Values.webhook.deployment.enabled }}webhook{{ else }}controller-manager{{ end }}"

// The labels that select the pods: of the instance that has everything, of the
// webhook, and of a shard.
const (
	webhookSelector = `{{- include "m2m-operator.webhookSelector" $ | nindent 12 }}`
	selector        = `{{- include "m2m-operator.selector" $ | nindent 12 }}`
	shardSelector   = `{{- include "m2m-operator.shardSelector" (list $ $shard) | nindent 12 }}`
)

// A constraint without a selector concerns the operator's pods.
const topologySpread = `{{- range $.Values.topologySpreadConstraints }}
-
  {{- toYaml . | nindent <deeper> }}
  {{- if not (hasKey . "labelSelector") }}
  labelSelector:
    matchLabels:
      %s
  {{- end }}
{{- end }}`
