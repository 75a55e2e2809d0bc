// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// Company is a small company. Its teams are namespaces.
type Company struct {
	Fleet
	Login                    *v1alpha1.ClusterAuthorizationServer
	Legacy                   *v1alpha1.AuthorizationServer
	Payment, Refund          *v1alpha1.APIResource
	Stock, Report            *v1alpha1.APIResource
	Cart, Checkout, Search   *v1alpha1.M2MClient
	Invoices, Audit, Deliver *v1alpha1.M2MClient
}

// NewCompany returns the company at a time.
func NewCompany(now time.Time) *Company {
	c := &Company{Fleet: Fleet{now}}
	c.Login = c.ClusterServer("login", "https://login.example.com")
	c.Login.Status.Keys = append(c.Login.Status.Keys, v1alpha1.SigningKey{
		KeyID: "2026-12", Algorithm: "ES256", PublicKey: `{"kty":"EC","crv":"P-256","x":"…","y":"…"}`, FirstSeenAt: c.in(-90 * time.Second),
	})
	c.Legacy = c.Server("finance", "legacy", "https://sso.legacy.example.com")
	c.Fails(c.Legacy.Status.Conditions, true, "Discovered", v1alpha1.ReasonUnreachable,
		"Cannot reach https://sso.legacy.example.com/.well-known/openid-configuration: no such host")
	c.apis()
	c.clients()
	return c
}

func (c *Company) apis() {
	atLogin := func(a *v1alpha1.APIResource, grants ...v1alpha1.Grant) *v1alpha1.APIResource {
		a.Spec.AuthorizationServerRef.Kind, a.Spec.Grants = v1alpha1.KindClusterAuthorizationServer, grants
		return a
	}
	c.Payment = atLogin(c.API("payments", "payment-api", "login", "payments:read", "payments:write"),
		Grant("shop", []v1alpha1.ObjectName{"cart", "checkout"}, "payments:read", "payments:write"), Grant("finance", nil, "payments:read"))
	c.Refund = atLogin(c.API("payments", "refund-api", "login", "refunds:create", "refunds:read"),
		Grant("shop", []v1alpha1.ObjectName{"checkout"}, "refunds:create"), Grant("support", nil, "refunds:read"))
	c.Stock = atLogin(c.API("warehouse", "stock-api", "login", "stock:read", "stock:reserve"),
		Grant("shop", nil, "stock:read", "stock:reserve"))
	c.Report = c.API("finance", "report-api", "legacy", "reports:write")
	c.Fails(c.Report.Status.Conditions, true, "Accepted", v1alpha1.ReasonAuthorizationServerNotReady, `AuthorizationServer "legacy" is not ready: Unreachable`)
}

func (c *Company) clients() {
	fresh := func(m *v1alpha1.M2MClient) { c.Token(m, -24*time.Minute, 13*time.Minute, 36*time.Minute) }
	c.Cart = c.Access(c.Client("shop", "cart"), c.Payment, "payments:write")
	fresh(c.Cart)
	c.Token(c.Access(c.Cart, c.Stock, "stock:read", "stock:reserve"), -9*time.Minute, 28*time.Minute, 51*time.Minute)

	c.Checkout = c.Access(c.Client("shop", "checkout"), c.Payment, "payments:read", "payments:write")
	c.Token(c.Checkout, -52*time.Minute, -5*time.Minute, 8*time.Minute)
	fresh(c.Access(c.Checkout, c.Refund, "refunds:create"))
	c.Fails(c.Checkout.Status.Conditions, false, "Fresh", v1alpha1.ReasonTokenRequestRefused,
		`AuthorizationServer "login" refused the token request: invalid_client (HTTP 401): could not authenticate the client; check Secret "checkout-credentials"`)

	c.Search = c.Access(c.Client("shop", "search"), c.Stock, "stock:read")
	fresh(c.Search)
	c.Access(c.Search, c.Payment, "payments:read")
	c.Fails(c.Search.Status.Conditions, true, "Granted", v1alpha1.ReasonNotGranted,
		`APIResource "payments/payment-api" grants nothing to M2MClient "search" of namespace "shop"; its owner can add a grant`)

	c.Invoices = c.Access(c.Client("finance", "invoices"), c.Payment, "payments:read")
	fresh(c.Invoices)
	c.Invoices.Status.Tokens[0].Pending = v1alpha1.PendingToken{KeyID: "2026-12", Since: c.in(-80 * time.Second), PublishAt: c.in(40 * time.Second)}

	c.Audit = c.Access(c.Client("finance", "audit"), c.Report, "reports:write")
	for i := range c.Audit.Status.Conditions {
		kind := c.Audit.Status.Conditions[i].Type
		if kind != "Granted" {
			c.Audit.Status.Conditions[i] = c.Condition(kind, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotReady, `AuthorizationServer "legacy" is not ready: Unreachable`)
		}
	}

	c.Deliver = c.Client("warehouse", "delivery")
	c.Access(c.Deliver, c.Stock, "stock:reserve")
	fresh(c.Deliver)
}

// Objects returns all that there is.
func (c *Company) Objects() []client.Object {
	all := []client.Object{
		c.Login, c.Legacy, c.Payment, c.Refund, c.Stock, c.Report, c.Cart, c.Checkout, c.Search, c.Invoices, c.Audit, c.Deliver,
		c.Bundle(c.Payment), c.Bundle(c.Refund), c.Bundle(c.Stock),
		c.ClientPod(c.Cart, "cart-7d9f-x2x1"), c.ClientPod(c.Cart, "cart-7d9f-k8p0"), c.ClientPod(c.Checkout, "checkout-5c-01"),
		c.Pod("shop", "search-0", v1alpha1.ClientAnnotation, "search"),
		c.Pod("payments", "payment-0", v1alpha1.VerifyAnnotation, "payment-api"), c.Pod("payments", "payment-1", v1alpha1.VerifyAnnotation, "payment-api"),
		c.Pod("warehouse", "stock-0", v1alpha1.VerifyAnnotation, "stock-api"),
	}
	for _, ns := range []string{"shop", "payments", "warehouse", "finance", "support"} {
		all = append(all, c.Namespace(ns))
	}
	return all
}
