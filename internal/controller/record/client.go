// SPDX-License-Identifier: Apache-2.0

package record

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// ClientUID reads the UID of a client from the API server, "" if the client does not exist.
func ClientUID(ctx context.Context, live client.Reader, name types.NamespacedName) (types.UID, error) {
	there := &metav1.PartialObjectMetadataList{}
	there.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("M2MClientList"))
	err := live.List(ctx, there, client.InNamespace(name.Namespace), client.MatchingFields{metav1.ObjectNameField: name.Name})
	if err != nil {
		return "", fmt.Errorf("look for M2MClient %q: %w", name, err)
	}
	for i := range there.Items {
		return there.Items[i].UID, nil
	}
	return "", nil
}
