// SPDX-License-Identifier: Apache-2.0

package record

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// TestClientState merges a status with a credential Secret, which is written first.
func TestClientState(t *testing.T) {
	here, elsewhere := v1alpha1.ProvisioningServer{Name: "auth", Issuer: "https://auth"}, v1alpha1.ProvisioningServer{Name: "other"}
	stored := provision.ClientState{
		Origin: provision.Created, Sequence: 1, Access: []provision.Access{{Resource: "payments", Scopes: []string{"read"}}},
		Credentials: []provision.Credential{{Name: "one", ClientID: "client"}},
	}
	status := func(server v1alpha1.ProvisioningServer, id v1alpha1.ClientID) *v1alpha1.M2MClientProvisioning {
		st := &v1alpha1.M2MClientProvisioning{ClientID: id}
		st.Server = server
		if id != "" {
			st.Origin = v1alpha1.OriginAdopted
		}
		return st
	}
	for name, tc := range map[string]struct {
		status *v1alpha1.M2MClientProvisioning
		want   provision.ClientState
	}{
		"the status was lost":                         {status(v1alpha1.ProvisioningServer{}, ""), stored},
		"the status was not written after the Secret": {status(here, ""), stored},
		"the status knows the client": {status(here, "client"), provision.ClientState{
			ID: "client", Origin: provision.Adopted, Sequence: 1, Credentials: stored.Credentials,
		}},
		"the Secret is about another server": {status(elsewhere, ""), provision.ClientState{}},
	} {
		t.Run(name, func(t *testing.T) {
			got := ClientState(tc.status, CredentialStore{Server: here, ClientState: stored})
			if diff := cmp.Diff(&tc.want, got); diff != "" {
				t.Errorf("state (-want +got):\n%s", diff)
			}
		})
	}
}
