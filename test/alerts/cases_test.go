// SPDX-License-Identifier: Apache-2.0

package alerts

import "time"

const (
	cart   = `{name="cart", namespace="shop"}`
	ready  = `m2m_client_condition{namespace="shop",name="cart",type="Ready",reason="Ready",status="True"}`
	stale  = `m2m_client_condition{namespace="shop",name="cart",type="Fresh",reason="TokenRequestRefused",status="False"}`
	waits  = `m2m_client_condition{namespace="shop",name="cart",type="Fresh",reason="WaitingForBudget",status="Unknown"}`
	over   = `m2m_client_condition{namespace="shop",name="cart",type="Ready",reason="TokenExpired",status="False"}`
	gone   = `m2m_client_condition{namespace="shop",name="cart",type="Ready",reason="NotGranted",status="False"}`
	expiry = `m2m_token_expiry_timestamp_seconds{namespace="shop",name="cart",access="payment-api"}`

	server  = `server="AuthorizationServer/payments/auth"`
	auth    = `{` + server + `}`
	api     = `{name="payment-api", namespace="payments"}`
	noKeys  = `m2m_server_condition{` + server + `,type="KeysFresh",reason="BadStatus",status="False"}`
	queue   = `m2m_server_queued_requests{` + server + `,pod="m2m-0"}`
	breaker = `m2m_server_breaker_open{` + server + `,pod="m2m-0"}`
	bundle  = `m2m_api_condition{namespace="payments",name="payment-api",type="Distributed",reason="BundleRefused",status="False"}`
	lacking = `m2m_verification_bundles_undelivered{namespace="payments",name="payment-api"}`

	minute = time.Minute
)

// cases are the stories of each alert. A value stands for half a minute: 1x19 are ten minutes.
var cases = map[string]map[string]story{
	"M2MTokenExpired": {
		"an expired token, and a new one": {[]string{over + " 1x9 stale", ready + " _x9 1x20"}, []moment{
			{30 * time.Second, nil}, {2 * minute, []string{`{name="cart", namespace="shop", reason="TokenExpired", status="False", type="Ready"}`}}, {6 * minute, nil},
		}},
		"a withdrawn token": {[]string{gone + " 1x40"}, []moment{{20 * minute, nil}}},
	},
	"M2MTokenExpiresSoon": {
		// The refresh fails from minute 40 on, and the token expires at minute 60.
		"a failing refresh until the expiry": {[]string{ready + " 1x119 stale", stale + " _x79 1x80", expiry + " 3600x160"}, []moment{
			{44 * minute, nil}, {47 * minute, []string{cart}}, {59 * minute, []string{cart}}, {61 * minute, nil},
		}},
		"a refresh that succeeds at last": {[]string{ready + " 1x200", stale + " _x79 1x19 stale", expiry + " 3600x99 7200x100"}, []moment{
			{44 * minute, nil}, {48 * minute, []string{cart}}, {52 * minute, nil},
		}},
		// It lives for 5 minutes and is due after 3 minutes and a half.
		"a short token":            {[]string{stale + " _x6 1x10", expiry + " 300x20"}, []moment{{3 * minute, nil}, {4*minute + 30*time.Second, []string{cart}}}},
		"a queue that is too long": {[]string{waits + " 1x40", expiry + " 1200x40"}, []moment{{4 * minute, nil}, {7 * minute, []string{cart}}}},
		"two tokens": {[]string{stale + " 1x40", expiry + " 9000x40", `m2m_token_expiry_timestamp_seconds{namespace="shop",name="cart",access="rates"} 1200x40`}, []moment{
			{4 * minute, nil}, {7 * minute, []string{cart}},
		}},
		"short tokens that are fresh": {[]string{ready + " 1x40", expiry + " 300x5 500x6 700x6 900x6"}, []moment{{minute, nil}, {3 * minute, nil}, {9 * minute, nil}}},
		"somebody else's failure": {[]string{expiry + " 600x40", `m2m_client_condition{namespace="shop",name="other",type="Fresh",reason="TokenRequestRefused",status="False"} 1x40`}, []moment{
			{3 * minute, nil},
		}},
	},
	"M2MRefreshFails": {
		"a failure for half an hour": {[]string{ready + " 1x120", stale + " 1x59 stale"}, []moment{
			{14 * minute, nil}, {20 * minute, []string{`{name="cart", namespace="shop", reason="TokenRequestRefused", status="False", type="Fresh"}`}}, {35 * minute, nil},
		}},
		"a failure for five minutes": {[]string{ready + " 1x120", stale + " 1x9 stale"}, []moment{{5 * minute, nil}, {20 * minute, nil}}},
		"no token":                   {[]string{gone + " 1x120", stale + " 1x120"}, []moment{{30 * minute, nil}}},
	},
	"M2MClientNotReady": {
		"a withdrawn token, granted again": {[]string{gone + " 1x59 stale", ready + " _x59 1x60"}, []moment{
			{14 * minute, nil}, {20 * minute, []string{`{name="cart", namespace="shop", reason="NotGranted", status="False", type="Ready"}`}}, {35 * minute, nil},
		}},
		"an object that nobody has seen": {[]string{`m2m_client_condition{namespace="shop",name="cart",type="Ready",reason="Pending",status="Unknown"} 1x60`}, []moment{
			{20 * minute, []string{`{name="cart", namespace="shop", reason="Pending", status="Unknown", type="Ready"}`}},
		}},
		"a working token": {[]string{ready + " 1x120", stale + " 1x120"}, []moment{{30 * minute, nil}}},
		"an expired one":  {[]string{over + " 1x120"}, []moment{{30 * minute, nil}}},
	},
	"M2MSigningKeysStale": {
		"an outage": {[]string{noKeys + " 1x39 stale"}, []moment{
			{9 * minute, nil}, {15 * minute, []string{`{reason="BadStatus", ` + server + `, status="False", type="KeysFresh"}`}}, {25 * minute, nil},
		}},
		"a hiccup":              {[]string{noKeys + " 1x5 stale"}, []moment{{3 * minute, nil}, {15 * minute, nil}}},
		"keys that come rarely": {[]string{"m2m_jwks_fetched_timestamp_seconds" + auth + " 0x200"}, []moment{{90 * minute, nil}}},
	},
	"M2MBreakerOpen": {
		"a server that is down": {[]string{breaker + " 0x3 1x30 0x30"}, []moment{{4 * minute, nil}, {10 * minute, []string{auth}}, {25 * minute, nil}}},
		"seen by one shard":     {[]string{breaker + " 0x60", `m2m_server_breaker_open{` + server + `,pod="m2m-a"} 1x60`}, []moment{{10 * minute, []string{auth}}}},
		"a short outage":        {[]string{breaker + " 0x3 1x3 0x30"}, []moment{{3 * minute, nil}, {15 * minute, nil}}},
	},
	"M2MBudgetExhausted": {
		"a long queue":             {[]string{queue + " 5x39 0x40", breaker + " 0x80"}, []moment{{9 * minute, nil}, {15 * minute, []string{auth}}, {25 * minute, nil}}},
		"a stampede that is over":  {[]string{queue + " 900x9 0x60", breaker + " 0x70"}, []moment{{5 * minute, nil}, {20 * minute, nil}}},
		"a server that is stopped": {[]string{queue + " 5x80", breaker + " 1x80"}, []moment{{20 * minute, nil}}},
	},
	"M2MBundleNotDelivered": {
		"a quota in the API's namespace": {[]string{bundle + " 1x39 stale", lacking + " 0x80"}, []moment{
			{9 * minute, nil}, {15 * minute, []string{`{name="payment-api", namespace="payments", reason="BundleRefused", status="False", type="Distributed"}`}}, {25 * minute, nil},
		}},
		"a quota in another namespace": {[]string{lacking + " 2x39 0x40"}, []moment{{9 * minute, nil}, {15 * minute, []string{api}}, {25 * minute, nil}}},
		"a rotation":                   {[]string{lacking + " 7x3 0x40"}, []moment{{2 * minute, nil}, {15 * minute, nil}}},
	},
	"M2MNoLeader": {
		"no replica, and then one":    {[]string{"up 1x40", `m2m_instance_active{shard="",pod="m2m-0"} _x19 1x40`}, []moment{{2 * minute, nil}, {8 * minute, []string{`{}`}}, {12 * minute, nil}}},
		"replicas that do not lead":   {[]string{`m2m_instance_active{shard="",pod="m2m-0"} 0x40`, `m2m_instance_active{shard="",pod="m2m-1"} 0x40`}, []moment{{8 * minute, []string{`{}`}}}},
		"only a shard":                {[]string{`m2m_instance_active{shard="a",pod="m2m-a"} 1x40`}, []moment{{8 * minute, []string{`{}`}}}},
		"a leader that is taken over": {[]string{`m2m_instance_active{shard="",pod="m2m-0"} 1x9 stale`, `m2m_instance_active{shard="",pod="m2m-1"} 0x10 1x40`}, []moment{{5 * minute, nil}, {6 * minute, nil}, {20 * minute, nil}}},
	},
	"M2MShardUnserved": {
		"a shard that stops": {[]string{`m2m_shard_clients{shard="a"} 40x80`, `m2m_instance_active{shard="a",pod="m2m-a"} 1x9 stale _x29 1x40`}, []moment{
			{5 * minute, nil}, {15 * minute, []string{`{shard="a"}`}}, {25 * minute, nil},
		}},
		"a label that is misspelt": {[]string{`m2m_shard_clients{shard="b"} 1x80`, `m2m_instance_active{shard="a",pod="m2m-a"} 1x80`}, []moment{{15 * minute, []string{`{shard="b"}`}}}},
		"a shard that runs":        {[]string{`m2m_shard_clients{shard="a"} 40x80`, `m2m_instance_active{shard="a",pod="m2m-a"} 1x80`}, []moment{{30 * minute, nil}}},
		"a shard without clients":  {[]string{`m2m_instance_active{shard="a",pod="m2m-a"} 0x80`}, []moment{{30 * minute, nil}}},
	},
	"M2MLeftBehind": {
		"an object let go": {[]string{`m2m_provisioning_left_behind_total{kind="M2MClient"} 0x9 1x1000`}, []moment{
			{4 * minute, nil}, {10 * minute, []string{`{kind="M2MClient"}`}}, {5 * time.Hour, []string{`{kind="M2MClient"}`}}, {7 * time.Hour, nil},
		}},
		"a restart": {[]string{`m2m_provisioning_left_behind_total{kind="M2MClient"} 0x100 0x100`}, []moment{{50 * minute, nil}}},
	},
	"M2MProvisioningFails": {
		"refusals": {[]string{
			`m2m_provisioning_requests_total{` + server + `,code="2xx"} 0+1x80 80+30x100`, `m2m_provisioning_requests_total{` + server + `,code="4xx"} 0+9x80 720+0x100`,
		}, []moment{{14 * minute, nil}, {35 * minute, []string{auth}}, {70 * minute, nil}}},
		"now and then": {[]string{`m2m_provisioning_requests_total{` + server + `,code="2xx"} 0+9x80`, `m2m_provisioning_requests_total{` + server + `,code="5xx"} 0+1x80`}, []moment{{35 * minute, nil}}},
	},
	"M2MDrift": {
		"somebody in the console": {[]string{`m2m_provisioning_drift_total{` + server + `} 0x9 2x300`}, []moment{{4 * minute, nil}, {10 * minute, []string{auth}}, {90 * minute, nil}}},
		"nobody":                  {[]string{`m2m_provisioning_drift_total{` + server + `} 3x200`}, []moment{{80 * minute, nil}}},
	},
}
