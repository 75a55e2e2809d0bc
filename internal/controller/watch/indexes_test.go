// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

func TestSecretGroupsFindEverySecret(t *testing.T) {
	for i := range 200 {
		c := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("cart-%d", i)}}
		c.Spec.Credentials.ClientSecret.SecretRef.Name = v1alpha1.ObjectName(fmt.Sprintf("credentials-%d", i))
		groups := secretGroupsOf(c)
		for _, name := range secretsOf(c) {
			if !strings.Contains(" "+strings.Join(groups, " ")+" ", " "+secretGroup(name)+" ") {
				t.Fatalf("%s is in group %s, and its client in %v", name, secretGroup(name), groups)
			}
		}
		if len(secretsOf(c)) != 2 {
			t.Fatalf("the Secrets of a client are %v", secretsOf(c))
		}
	}
}
