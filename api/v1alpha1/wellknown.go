// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Labels and annotations that users set or may rely on.
const (
	// ManagedByLabel marks every Secret and ConfigMap that the operator writes.
	// The operator changes and deletes only objects that carry it with the value
	// ManagedByValue.
	ManagedByLabel = "app.kubernetes.io/managed-by"

	// ManagedByValue is the value of ManagedByLabel.
	ManagedByValue = "m2m-operator"

	// CredentialsLabel, with the value CredentialsOptIn, is set by users on a
	// Secret. It says that the Secret holds credentials that the operator may
	// send to the authorization servers of its namespace. With
	// --require-credential-label the operator sends no other Secret.
	CredentialsLabel = "m2m-operator.io/credentials"

	// CredentialsOptIn is the value of CredentialsLabel.
	CredentialsOptIn = "true"

	// ShardLabel is set by users on an M2MClient. It names the shard that serves
	// the client: the operator that runs with --shard and this value. Without
	// the label, or with an empty value, that is the operator without --shard.
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
	// name containers that other webhooks add.
	ContainersAnnotation = "m2m-operator.io/containers"

	// MissingContainersAnnotation, on a pod, is set by the operator at
	// admission. It lists the containers that ContainersAnnotation names and the
	// pod did not have then, separated by commas. Another webhook may add them.
	MissingContainersAnnotation = "m2m-operator.io/missing-containers"

	// InjectionLabel, on a namespace, forbids injection into its pods if its
	// value is InjectionDisabled.
	InjectionLabel = "m2m-operator.io/injection"

	// InjectionDisabled is the value of InjectionLabel that forbids injection.
	InjectionDisabled = "disabled"

	// InjectedAnnotation, on a pod, is set by the operator at admission. It
	// lists the objects that the injected volumes mount: "secret/name" and
	// "configmap/name", separated by commas.
	InjectedAnnotation = "m2m-operator.io/injected"

	// TouchedAtAnnotation, on an injected pod, is changed by the operator so
	// that the kubelet shows a changed Secret or ConfigMap at once. RFC 3339.
	TouchedAtAnnotation = "m2m-operator.io/touched-at"

	// PromptSinceAnnotation, on a Secret or ConfigMap of the operator, says
	// since when pods must see its present content at once. RFC 3339.
	PromptSinceAnnotation = "m2m-operator.io/prompt-since"

	// ContentsAnnotation, on a verification bundle's ConfigMap, records as JSON
	// since when each of its parts is in it.
	ContentsAnnotation = "m2m-operator.io/contents"

	// APIResourceAnnotation, on a verification bundle's ConfigMap, names the
	// APIResource that it belongs to, as "namespace/name".
	APIResourceAnnotation = "m2m-operator.io/api-resource"

	// KeyIDsAnnotation, on a verification bundle's ConfigMap, lists the IDs of
	// the keys in it, separated by commas.
	KeyIDsAnnotation = "m2m-operator.io/key-ids"

	// MetadataAnnotation, on a verification bundle's ConfigMap, lists as JSON
	// the labels and annotations that spec.bundle of its APIResource set.
	MetadataAnnotation = "m2m-operator.io/metadata"

	// RotateCredentialAnnotation is set by users on an M2MClient that the
	// operator registered. Each new value makes the operator replace its client
	// secret once.
	RotateCredentialAnnotation = "m2m-operator.io/rotate-credential"

	// RefreshRequestedAnnotation is set by users on an M2MClient, an APIResource or
	// an authorization server. Each new value makes the operator do once, now, what
	// it would do later: request new tokens for the client, compare what it
	// provisioned with the server, discover a server's endpoints and fetch its keys.
	// The value is the time of the request (RFC 3339), but only tells one request
	// from another. Values of more than RefreshRequestMaxBytes have no effect.
	RefreshRequestedAnnotation = "m2m-operator.io/refresh-requested-at"

	// OwnerAnnotation names an M2MClient as "namespace/name". It is on the
	// Secret with the client's tokens and, in the operator's namespace, on the
	// Secret with a registered client's credentials.
	OwnerAnnotation = "m2m-operator.io/m2m-client"

	// TokensAnnotation, on a token Secret, records as JSON when each token was
	// issued, when it expires and its inputs. The operator reads it after a
	// restart, so that it requests no token that is still good.
	TokensAnnotation = "m2m-operator.io/tokens"
)

// Directories of injected files in a container, and the environment variables
// that name them.
const (
	// TokenDir has a file for each access of the client, named by its key, and
	// the keys of spec.secret.template.
	TokenDir = "/var/run/secrets/m2m-operator.io/token"
	// VerifyDir has a directory for each API, with its verification bundle.
	VerifyDir = "/var/run/secrets/m2m-operator.io/verify"

	// TokenDirVariable names TokenDir.
	TokenDirVariable = "M2M_TOKEN_DIR"
	// VerifyDirVariable names VerifyDir.
	VerifyDirVariable = "M2M_VERIFY_DIR"
)

// Bounds of the value of VerifyAnnotation. They are needed because anybody can
// write it, and the operator keeps and follows each name.
const (
	VerifyMaxBytes = 4096
	VerifyMaxNames = 64
)

// RefreshRequestMaxBytes bounds the value of RefreshRequestedAnnotation, which the
// status repeats.
const RefreshRequestMaxBytes = 64

// RefreshRequest returns the value of RefreshRequestedAnnotation on an object, empty
// for none and for one that is too long.
func RefreshRequest(o metav1.Object) string {
	if v := o.GetAnnotations()[RefreshRequestedAnnotation]; len(v) <= RefreshRequestMaxBytes {
		return v
	}
	return ""
}

// Placeholders for a value beyond the bounds. Neither can be a name.
var (
	verifyTooLong = fmt.Sprintf("(more than %d bytes)", VerifyMaxBytes)
	verifyTooMany = fmt.Sprintf("(more than %d names)", VerifyMaxNames)
)

// BoundVerify returns the value of VerifyAnnotation if it is short enough to
// keep. Otherwise it returns a short value that ParseVerify reads in the same
// way.
func BoundVerify(value string) string {
	if len(value) > VerifyMaxBytes {
		return verifyTooLong
	}
	return value
}

// ParseVerify reads the value of VerifyAnnotation on an object of a namespace.
// It returns the APIResources that the value names, each once and in order, and
// separately the entries that are not valid names. If the value exceeds the
// bounds, it returns no APIResource, and invalid says so.
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
// authorization server until the operator has removed what it provisioned, or
// given up after --deletion-timeout.
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
