// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// Texts are the members whose value is prose: of the operator, of the API server, or of a
// server that the operator quotes. What looks like a secret in it is masked.
var texts = set("message", "note", "what", "drift", "leftBehind", "error", "msg", "detail", "advice")

// Kept are the members whose strings a report shows. A member that is not listed is masked, so
// a field that is added to an API is masked until somebody lists it.
var kept = set(
	// Of any object.
	"apiVersion", "kind", "name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "finalizers", "resourceVersion", "generateName",
	"type", "status", "reason", "lastTransitionTime", "lastUpdateTime",
	// Of servers.
	"audienceParameter", "tokenFormat", "defaultTokenLifetime", "refreshInterval", "retention", "revokedKeyIDs", "keyID", "algorithm",
	"firstSeenAt", "retiredAt", "resyncInterval", "authenticationMethod", "prefixes", "operator", "driver", "origin", "syncedAt",
	// Of APIs and clients.
	"identifier", "resource", "scopes", "carriedIn", "claim", "values", "scopePrefix", "names", "algorithms", "clockSkew", "tokenType",
	"accessTokenLifetime", "managementPolicy", "deletionPolicy", "configMapName", "key", "clientIDKey", "clientID", "method", "audience",
	"before", "every", "overlap", "secretName", "issuedAt", "expiresAt", "refreshAt", "since", "publishAt", "nextAttemptAt", "rotateAt",
	"lastHandledRefreshAt", "grantID", "resourceID",
	// Of the installation.
	"image", "imageID", "phase", "nodeName", "serviceAccountName", "startedAt", "finishedAt", "startTime", "holderIdentity", "renewTime", "acquireTime",
	"failurePolicy", "matchPolicy", "reinvocationPolicy", "sideEffects", "operations", "apiGroups", "apiVersions", "resources", "scope", "path",
	"policyName", "validationActions", "priorityClassName", "imagePullPolicy", "restartPolicy",
	// Of events and of the log.
	"eventTime", "lastObservedTime", "reportingController", "action", "level", "ts", "logger", "controller", "controllerGroup", "controllerKind",
	"reconcileID", "condition", "access", "keys",
	// Of the plugin's own findings.
	"check", "result",
)

// urls are the members with addresses. Their queries are masked.
var urls = set("issuer", "token", "jwks", "registration", "endpoint", "managementAPI", "url")

// address is what a value of them looks like, without user information.
var address = regexp.MustCompile(`^https?://[^@]*$`)

// dropped are the members that a report leaves out.
var dropped = set("managedFields", "publicKey", "selfLink")

// flags are the operator's flags whose values a report shows.
var flags = set(
	"allow-insecure-http", "allow-link-local", "allow-loopback", "cluster-id", "controllers", "default-requests-per-second", "deletion-timeout",
	"egress-allow", "health-probe-bind-address", "kube-api-burst", "kube-api-qps", "leader-elect", "leader-elect-lease-duration",
	"leader-elect-renew-deadline", "metrics-bind-address", "metrics-insecure", "operator-namespace", "pprof-bind-address", "prompt-delivery",
	"require-credential-label", "shard", "shards", "watch-namespaces", "webhook", "webhook-bind-address", "webhook-cert-dir", "webhook-client-names",
	"webhook-configuration", "webhook-service", "workers", "zap-devel", "zap-encoder", "zap-log-level", "zap-stacktrace-level", "zap-time-encoding",
)

// annotations are those whose values a report shows.
var annotations = set(
	v1alpha1.VerifyAnnotation, v1alpha1.ClientAnnotation, v1alpha1.ContainersAnnotation, v1alpha1.MissingContainersAnnotation, v1alpha1.InjectedAnnotation,
	v1alpha1.TouchedAtAnnotation, v1alpha1.PromptSinceAnnotation, v1alpha1.APIResourceAnnotation, v1alpha1.KeyIDsAnnotation, v1alpha1.OwnerAnnotation,
	v1alpha1.RefreshRequestedAnnotation, v1alpha1.ManagedByLabel, v1alpha1.ShardLabel, v1alpha1.CredentialsLabel, v1alpha1.InjectionLabel,
	"app.kubernetes.io/name", "app.kubernetes.io/component", "app.kubernetes.io/version", "helm.sh/chart",
)

// owned are the maps whose keys their owner chooses, so that a key's name says nothing of its value.
var owned = set("labels", "annotations", "matchLabels", "nodeSelector", "userAnnotations", "volumeAttributes", "options", "template", "data", "stringData", "binaryData")

func set(all ...string) map[string]bool {
	m := map[string]bool{}
	for _, s := range all {
		m[s] = true
	}
	return m
}

// masked stands for a string that a report does not show.
func masked(s string) string { return fmt.Sprintf("(%d characters)", len([]rune(s))) }

// Shown returns what a report shows of a value: its structure, its numbers, and the strings of
// listed members, each on one line and with printable characters only.
func Shown(v any) (any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var decoded any
	if err := json.Unmarshal(b, &decoded); err != nil {
		return nil, err
	}
	return shown("", "", decoded), nil
}

// shown filters the value of a member.
func shown(parent, member string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		if owned[member] && onlyStrings(v) {
			return shownMap(parent == "metadata", v)
		}
		all := map[string]any{}
		for k, value := range v {
			if !dropped[k] {
				all[text.Line(k)] = shown(member, k, value)
			}
		}
		return all
	case []any:
		all := make([]any, 0, len(v))
		for _, item := range v {
			all = append(all, shown(parent, member, item))
		}
		return all
	case string:
		return shownString(member, v)
	}
	return v
}

func onlyStrings(m map[string]any) bool {
	for _, v := range m {
		if _, ok := v.(string); !ok {
			return false
		}
	}
	return true
}

// shownMap filters a map whose keys its owner chooses. Of an object's own labels and
// annotations, foreign ones are only counted.
func shownMap(own bool, m map[string]any) any {
	all, foreign := map[string]any{}, 0
	for k, v := range m {
		s, _ := v.(string)
		switch {
		case annotations[k]:
			all[k] = Text(text.Line(s))
		case own && !strings.Contains(k, "m2m-operator.io/"):
			foreign++
		default:
			all[text.Line(k)] = masked(s)
		}
	}
	if foreign > 0 {
		all["(others)"] = foreign
	}
	return all
}

func shownString(member, s string) any {
	switch {
	case texts[member]:
		return Text(text.Line(s))
	case member == "args" || member == "command":
		return text.Line(shownFlag(s))
	case urls[member] && address.MatchString(s):
		base, _, _ := strings.Cut(s, "?")
		return Text(text.Line(base))
	case kept[member]:
		return text.Line(s)
	}
	return masked(s)
}

// flag is what a flag of the operator looks like, with its value or without.
var flag = regexp.MustCompile(`^--?([a-z-]+)(=.*)?$`)

// shownFlag shows a flag that is known to be harmless, and its value. What looks like another flag can be a value, or
// have one without "=".
func shownFlag(arg string) string {
	if m := flag.FindStringSubmatch(arg); m != nil && flags[m[1]] {
		return arg
	}
	return masked(arg)
}

var (
	// word is what a secret can be made of, or an address.
	word = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://[^\s"'<>]*|[A-Za-z0-9_+/=~-]{16,}`)
	// part is what a secret in an address can be made of, without the dots and slashes that every address has.
	part = regexp.MustCompile(`[A-Za-z0-9_+=~-]{16,}`)
	// user is the user information of an address.
	user = regexp.MustCompile(`://[^/?#]*@`)
	// uuid is a word that is none.
	uuid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	// assigned is a value that something with the name of a secret has.
	assigned = regexp.MustCompile(`(?i)((?:secret|password|token|assertion|bearer|basic)\\*["']?\s*[=:]\s*|authorization\\*["']?\s*[=:]\s*\\*["']?(?:bearer|basic)\s+)` +
		`(\\*"[^"]*"?|'[^']*'?|[^\s"',;&]+)`)
	// following is a value with a digit after a word that says that it is a secret. Prose has other words there.
	following = regexp.MustCompile(`(?i)((?:secret|password|token|assertion|bearer|basic)["']?\s+["']?)([^\s"',;&]*[0-9][^\s"',;&]*)`)
)

// Text masks what looks like a secret in prose: long words of letters and digits, what is assigned to a word such as
// secret or token, and values with digits that follow such a word. Names may be hit as well.
func Text(s string) string {
	s = assigned.ReplaceAllString(s, "${1}(masked)")
	s = following.ReplaceAllString(s, "${1}(masked)")
	return word.ReplaceAllStringFunc(s, func(w string) string {
		if strings.Contains(w, "://") {
			return part.ReplaceAllStringFunc(user.ReplaceAllString(w, "://(masked)@"), maskedWord)
		}
		return maskedWord(w)
	})
}

// maskedWord masks a word that has letters and digits.
func maskedWord(w string) string {
	digits, letters := strings.ContainsAny(w, "0123456789"), strings.ContainsFunc(w, func(r rune) bool { return r >= 'A' && r <= 'z' })
	if !digits || !letters || uuid.MatchString(w) {
		return w
	}
	return masked(w)
}

// LogLines returns what a report shows of a log in JSON, and how many lines it leaves out
// because they are none.
func LogLines(log string) (lines []string, left int) {
	for line := range strings.SplitSeq(log, "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) != nil {
			left++
			continue
		}
		b, err := json.Marshal(shown("", "", entry))
		if err != nil {
			left++
			continue
		}
		lines = append(lines, string(b))
	}
	return slices.Clip(lines), left
}
