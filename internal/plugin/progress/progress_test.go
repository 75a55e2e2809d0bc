// SPDX-License-Identifier: Apache-2.0

package progress_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/plugin/progress"
)

var now = time.Date(2026, 11, 29, 17, 0, 0, 0, time.UTC)

func at(t time.Time) *metav1.Time { return &metav1.Time{Time: t} }

// cart returns a client with a token that was issued now.
func cart(change func(*v1alpha1.M2MClient)) *v1alpha1.M2MClient {
	c := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}}
	c.Spec.Credentials.ServiceAccount.Name = "cart"
	c.Status.Tokens = []v1alpha1.TokenStatus{{Key: "payment-api", IssuedAt: at(now), ExpiresAt: at(now.Add(time.Hour))}}
	c.Status.ExpiresAt = at(now.Add(time.Hour))
	change(c)
	return c
}

func set(conditions *[]metav1.Condition, kind string, status metav1.ConditionStatus, reason string) {
	*conditions = append(*conditions, metav1.Condition{Type: kind, Status: status, Reason: reason, Message: "Because"})
}

func TestRefresh(t *testing.T) {
	for name, tc := range map[string]struct {
		o    client.Object
		want progress.State
		says string
	}{
		"nothing happened yet":        {cart(func(*v1alpha1.M2MClient) {}), progress.Waiting, "the operator has not acted"},
		"another request was handled": {cart(func(c *v1alpha1.M2MClient) { c.Status.LastHandledRefreshAt = "0" }), progress.Waiting, "the operator has not acted"},
		"it waits for its turn": {cart(func(c *v1alpha1.M2MClient) {
			set(&c.Status.Conditions, "Fresh", "Unknown", "WaitingForBudget")
		}), progress.Waiting, "WaitingForBudget: Because"},
		"it waits for a key": {cart(func(c *v1alpha1.M2MClient) {
			c.Status.Tokens[0].Pending = v1alpha1.PendingToken{KeyID: "k2", Since: at(now), PublishAt: at(now.Add(time.Minute))}
		}), progress.Waiting, `waits until the API's pods have the key "k2", at most until 17:01:00Z`},
		"it failed": {cart(func(c *v1alpha1.M2MClient) {
			c.Status.LastHandledRefreshAt = "1"
			set(&c.Status.Conditions, "Fresh", "False", "TokenRequestRefused")
		}), progress.Failed, "TokenRequestRefused: Because"},
		"its API is not accepted": {cart(func(c *v1alpha1.M2MClient) {
			c.Status.LastHandledRefreshAt = "1"
			set(&c.Status.Conditions, "Fresh", "False", "NotGranted")
			set(&c.Status.Conditions, "Granted", "False", "APIResourceNotAccepted")
		}), progress.Failed, "APIResourceNotAccepted: Because"},
		"it is done": {cart(func(c *v1alpha1.M2MClient) {
			c.Status.LastHandledRefreshAt = "1"
			set(&c.Status.Conditions, "Fresh", "True", "TokensFresh")
		}), progress.Done, "a new token is in Secret cart-token until 18:00:00Z"},
		"a registered client is not compared yet": {cart(func(c *v1alpha1.M2MClient) {
			c.Spec.Credentials = v1alpha1.ClientCredentials{}
			c.Status.LastHandledRefreshAt = "1"
		}), progress.Waiting, "the operator has not acted"},
		"a registered client's server refuses": {cart(func(c *v1alpha1.M2MClient) {
			c.Spec.Credentials = v1alpha1.ClientCredentials{}
			c.Status.LastHandledRefreshAt, c.Status.Provisioning.LastHandledRefreshAt = "1", "1"
			set(&c.Status.Conditions, "Provisioned", "False", "ProvisioningRefused")
		}), progress.Failed, "ProvisioningRefused: Because"},
		"an API is not compared yet": {&v1alpha1.APIResource{}, progress.Waiting, "the operator has not acted"},
		"an API is compared": {&v1alpha1.APIResource{Status: v1alpha1.APIResourceStatus{
			Provisioning: v1alpha1.APIResourceProvisioning{ProvisioningRecord: v1alpha1.ProvisioningRecord{LastHandledRefreshAt: "1"}},
		}}, progress.Done, "compared with its server"},
		"a server is not asked yet": {&v1alpha1.ClusterAuthorizationServer{}, progress.Waiting, "the operator has not acted"},
		"a server is asked":         {&v1alpha1.AuthorizationServer{Status: v1alpha1.AuthorizationServerStatus{LastHandledRefreshAt: "1"}}, progress.Done, "the server was asked"},
		"a server's keys cannot be fetched": {&v1alpha1.AuthorizationServer{Status: v1alpha1.AuthorizationServerStatus{
			LastHandledRefreshAt: "1", Conditions: []metav1.Condition{{Type: "KeysFresh", Status: "False", Reason: "Unreachable", Message: "Because"}},
		}}, progress.Failed, "Unreachable: Because"},
	} {
		t.Run(name, func(t *testing.T) {
			if p := progress.Refresh(tc.o, "1"); p.State != tc.want || !strings.Contains(p.Says, tc.says) {
				t.Errorf("it is %s: %s; want %s: %s", p.State, p.Says, tc.want, tc.says)
			}
		})
	}
}

func TestRotation(t *testing.T) {
	with := func(change func(*v1alpha1.M2MClientProvisioning)) *v1alpha1.M2MClient {
		return cart(func(c *v1alpha1.M2MClient) {
			c.Status.Provisioning.Credential = v1alpha1.ProvisionedCredential{Name: "s2", IssuedAt: at(now)}
			change(&c.Status.Provisioning)
		})
	}
	for name, tc := range map[string]struct {
		c    *v1alpha1.M2MClient
		want progress.State
		says string
	}{
		"nothing happened yet": {with(func(*v1alpha1.M2MClientProvisioning) {}), progress.Waiting, "the operator has not acted"},
		"the server refuses": {with(func(p *v1alpha1.M2MClientProvisioning) {
			p.Failure = v1alpha1.TokenFailure{Reason: "ProvisioningRefused", Message: "Because"}
		}), progress.Waiting, "ProvisioningRefused: Because"},
		"the token is older than the secret": {with(func(p *v1alpha1.M2MClientProvisioning) {
			p.LastHandledRotation, p.Credential.IssuedAt = "1", at(now.Add(time.Second))
		}), progress.Waiting, `token "payment-api" is being replaced`},
		"it is done": {with(func(p *v1alpha1.M2MClientProvisioning) { p.LastHandledRotation = "1" }), progress.Done, "the new secret s2 is in use"},
	} {
		t.Run(name, func(t *testing.T) {
			if p := progress.Rotation(tc.c, "1"); p.State != tc.want || !strings.Contains(p.Says, tc.says) {
				t.Errorf("it is %s: %s; want %s: %s", p.State, p.Says, tc.want, tc.says)
			}
		})
	}
}

func TestPods(t *testing.T) {
	pod := func(created time.Time, touched string, mounts string) *metav1.PartialObjectMetadata {
		m := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", CreationTimestamp: metav1.NewTime(created)}}
		m.Annotations = map[string]string{v1alpha1.InjectedAnnotation: mounts, v1alpha1.TouchedAtAnnotation: touched}
		return m
	}
	ours := "configmap/x,secret/cart-token"
	touched := pod(now.Add(-time.Hour), delivery.Moment(now), ours)
	old := pod(now.Add(-time.Hour), delivery.Moment(now.Add(-time.Minute)), ours)
	created := pod(now.Add(time.Minute), "", ours)
	other := pod(now.Add(-time.Hour), "", "secret/stock-token")
	for name, tc := range map[string]struct {
		pods  []*metav1.PartialObjectMetadata
		held  time.Duration // how long the token was held after it was issued
		after time.Duration // when the pods are looked at
		want  progress.State
		says  string
	}{
		"there are none":           {nil, 0, 0, progress.Done, "no injected pod"},
		"another client's":         {[]*metav1.PartialObjectMetadata{other}, 0, 0, progress.Done, "no injected pod"},
		"none was touched":         {[]*metav1.PartialObjectMetadata{old, created}, 0, 30 * time.Second, progress.Waiting, "1 of 2 pods have it"},
		"all were touched":         {[]*metav1.PartialObjectMetadata{touched, created}, 0, 30 * time.Second, progress.Done, "2 of 2 pods have it"},
		"the kubelet must have it": {[]*metav1.PartialObjectMetadata{old}, 0, delivery.KubeletDelay, progress.Done, "1 of 1 pods have it"},
		"the token was held until now": {
			[]*metav1.PartialObjectMetadata{touched, created}, delivery.KubeletDelay, delivery.KubeletDelay + time.Second, progress.Waiting, "0 of 2 pods have it",
		},
		"the kubelet must have a token that was held": {
			[]*metav1.PartialObjectMetadata{touched}, delivery.KubeletDelay, 2 * delivery.KubeletDelay, progress.Done, "1 of 1 pods have it",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := cart(func(*v1alpha1.M2MClient) {})
			if p := progress.Pods(c, tc.pods, now.Add(tc.held), now.Add(tc.after)); p.State != tc.want || !strings.Contains(p.Says, tc.says) {
				t.Errorf("it is %s: %s; want %s: %s", p.State, p.Says, tc.want, tc.says)
			}
		})
	}
}
