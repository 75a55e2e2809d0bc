// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Labels and annotations that users set or may rely on.
const (
	// ManagedByLabel marks every Secret and ConfigMap that the operator wrote.
	// Only objects that carry it with the value ManagedByValue are ever
	// changed or deleted.
	ManagedByLabel = "app.kubernetes.io/managed-by"

	// ManagedByValue is the value of ManagedByLabel.
	ManagedByValue = "m2m-operator"

	// CredentialsLabel is set by users on a Secret with the value
	// CredentialsOptIn. It says that the Secret holds credentials which the
	// operator may send to the authorization servers of its namespace. Where the
	// operator runs with --require-credential-label, it sends no other.
	CredentialsLabel = "m2m-operator.io/credentials"

	// CredentialsOptIn is the value of CredentialsLabel.
	CredentialsOptIn = "true"

	// ShardLabel is set by users on an M2MClient. It names the shard that serves
	// the client: the operator that runs with --shard and this value. Without
	// it, or with an empty value, that is the operator that runs without
	// --shard.
	ShardLabel = "m2m-operator.io/shard"

	// VerifyAnnotation is set by users on a Deployment, StatefulSet, DaemonSet,
	// Job, CronJob or Pod, or on its pod template. It names the APIResources
	// whose verification bundle the namespace needs: "name" or
	// "namespace/name", several separated by commas, at most VerifyMaxNames in
	// VerifyMaxBytes.
	VerifyAnnotation = "m2m-operator.io/verify"

	// ClientAnnotation is set by users on a pod, usually on a pod template. It
	// names the M2MClient of the pod's own namespace whose tokens the pod's
	// containers find in TokenDir.
	ClientAnnotation = "m2m-operator.io/client"

	// ContainersAnnotation is set by users on a pod. It limits injection to the
	// containers and init containers that it names, separated by commas. It may
	// name some that other webhooks add.
	ContainersAnnotation = "m2m-operator.io/containers"

	// MissingContainersAnnotation, on a pod, is set by the operator at admission.
	// It lists what ContainersAnnotation names and the pod did not have then,
	// separated by commas: containers that another webhook may add.
	MissingContainersAnnotation = "m2m-operator.io/missing-containers"

	// InjectionLabel, on a namespace, forbids injection into its pods with the
	// value InjectionDisabled.
	InjectionLabel = "m2m-operator.io/injection"

	// InjectionDisabled is the value of InjectionLabel that forbids it.
	InjectionDisabled = "disabled"

	// InjectedAnnotation, on a pod, is set by the operator at admission. It
	// lists the objects that the injected volumes mount: "secret/name" and
	// "configmap/name", separated by commas.
	InjectedAnnotation = "m2m-operator.io/injected"

	// TouchedAtAnnotation, on an injected pod, is changed by the operator to
	// have the kubelet show a changed Secret or ConfigMap at once. RFC 3339.
	TouchedAtAnnotation = "m2m-operator.io/touched-at"

	// PromptSinceAnnotation, on a Secret or ConfigMap of the operator, says that
	// pods must see its present content at once, and since when. RFC 3339.
	PromptSinceAnnotation = "m2m-operator.io/prompt-since"

	// ContentsAnnotation, on a verification bundle's ConfigMap, says as JSON
	// since when each of its parts is in it.
	ContentsAnnotation = "m2m-operator.io/contents"

	// APIResourceAnnotation, on a verification bundle's ConfigMap, says which
	// APIResource it belongs to, as "namespace/name".
	APIResourceAnnotation = "m2m-operator.io/api-resource"

	// KeyIDsAnnotation, on a verification bundle's ConfigMap, lists the IDs of
	// the keys in it, separated by commas.
	KeyIDsAnnotation = "m2m-operator.io/key-ids"

	// MetadataAnnotation, on a verification bundle's ConfigMap, lists as JSON the
	// labels and annotations that spec.bundle of its APIResource has set.
	MetadataAnnotation = "m2m-operator.io/metadata"

	// RotateCredentialAnnotation is set by users on an M2MClient that the
	// operator registered: each new value has its client secret replaced once.
	RotateCredentialAnnotation = "m2m-operator.io/rotate-credential"

	// OwnerAnnotation, on a Secret with a client's tokens, and on one with a
	// registered client's credentials in the operator's namespace, says which
	// M2MClient it belongs to, as "namespace/name".
	OwnerAnnotation = "m2m-operator.io/m2m-client"

	// TokensAnnotation, on a token Secret, records as JSON when each token was
	// issued, when it expires and what it was minted from. The operator reads
	// it back after a restart, so that it mints nothing that is still good.
	TokensAnnotation = "m2m-operator.io/tokens"
)

// Where injection puts things in a container, and the environment variables that
// say so.
const (
	// TokenDir has a file for each access of the client, named by its key, and
	// what spec.secret.template adds.
	TokenDir = "/var/run/secrets/m2m-operator.io/token"
	// VerifyDir has a directory for each API, with its verification bundle.
	VerifyDir = "/var/run/secrets/m2m-operator.io/verify"

	// TokenDirVariable names TokenDir.
	TokenDirVariable = "M2M_TOKEN_DIR"
	// VerifyDirVariable names VerifyDir.
	VerifyDirVariable = "M2M_VERIFY_DIR"
)

// Bounds of the value of VerifyAnnotation. Anybody can write it, and the operator
// keeps and follows each name.
const (
	VerifyMaxBytes = 4096
	VerifyMaxNames = 64
)

// What stands for a value beyond the bounds. Neither can be a name.
var (
	verifyTooLong = fmt.Sprintf("(more than %d bytes)", VerifyMaxBytes)
	verifyTooMany = fmt.Sprintf("(more than %d names)", VerifyMaxNames)
)

// BoundVerify returns a value of VerifyAnnotation, or what ParseVerify reads the
// same of if the value is too long to be kept.
func BoundVerify(value string) string {
	if len(value) > VerifyMaxBytes {
		return verifyTooLong
	}
	return value
}

// ParseVerify reads the value of VerifyAnnotation on an object of a namespace:
// the APIResources that it names, each once and in its order, and apart from
// them what is no valid name. Of a value beyond the bounds nothing counts, and
// what is invalid says so.
func ParseVerify(value, namespace string) (refs []types.NamespacedName, invalid []string) {
	seen := map[types.NamespacedName]bool{}
	value = BoundVerify(value)
	for ref := range strings.SplitSeq(value, ",") {
		ref = strings.TrimSpace(ref)
		if ref == "" {
			continue
		}
		r := types.NamespacedName{Namespace: namespace, Name: ref}
		if ns, name, found := strings.Cut(ref, "/"); found {
			r = types.NamespacedName{Namespace: ns, Name: name}
		}
		switch {
		case len(validation.IsDNS1123Label(r.Namespace)) > 0 || len(validation.IsDNS1123Subdomain(r.Name)) > 0 || len(r.Name) > 63:
			invalid = append(invalid, ref)
		case !seen[r]:
			seen[r] = true
			refs = append(refs, r)
		}
		if len(refs)+len(invalid) > VerifyMaxNames {
			return nil, []string{verifyTooMany}
		}
	}
	return refs, invalid
}

// ProvisioningFinalizer keeps an APIResource, an M2MClient and their
// authorization server until what was provisioned is removed, or given up after
// --deletion-timeout.
const ProvisioningFinalizer = "m2m-operator.io/provisioning"

// Keys that the operator looks for in a Secret unless told otherwise.
const (
	// InitialAccessTokenKey holds the initial access token of dynamic client
	// registration.
	InitialAccessTokenKey = "initial-access-token"
	// ClientIDKey holds the client identifier.
	ClientIDKey = "client-id"
	// ClientSecretKey holds the client secret.
	ClientSecretKey = "client-secret"
	// PrivateKeyKey holds the private key of private_key_jwt.
	PrivateKeyKey = "private-key"
	// CABundleKey holds PEM certificates.
	CABundleKey = "ca.crt"
)
