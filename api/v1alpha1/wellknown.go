// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Labels and annotations that users set or may rely on.
const (
	// ManagedByLabel marks every Secret and ConfigMap that the operator wrote.
	// Only objects that carry it with the value ManagedByValue are ever
	// changed or deleted.
	ManagedByLabel = "app.kubernetes.io/managed-by"

	// ManagedByValue is the value of ManagedByLabel.
	ManagedByValue = "m2m-operator"

	// VerifyAnnotation is set by users on a Deployment, StatefulSet, DaemonSet,
	// Job, CronJob or Pod, or on its pod template. It names the APIResources
	// whose verification bundle the namespace needs: "name" or
	// "namespace/name", several separated by commas.
	VerifyAnnotation = "m2m-operator.io/verify"

	// APIResourceAnnotation, on a verification bundle's ConfigMap, says which
	// APIResource it belongs to, as "namespace/name".
	APIResourceAnnotation = "m2m-operator.io/api-resource"

	// KeyIDsAnnotation, on a verification bundle's ConfigMap, lists the IDs of
	// the keys in it, separated by commas.
	KeyIDsAnnotation = "m2m-operator.io/key-ids"

	// TokensAnnotation, on a token Secret, records as JSON when each token was
	// issued, when it expires and what it was minted from. The operator reads
	// it back after a restart, so that it mints nothing that is still good.
	TokensAnnotation = "m2m-operator.io/tokens"
)

// Keys that the operator looks for in a Secret unless told otherwise.
const (
	// ClientIDKey holds the client identifier.
	ClientIDKey = "client-id"
	// ClientSecretKey holds the client secret.
	ClientSecretKey = "client-secret"
	// PrivateKeyKey holds the private key of private_key_jwt.
	PrivateKeyKey = "private-key"
	// CABundleKey holds PEM certificates.
	CABundleKey = "ca.crt"
)
