// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/test/local"
)

const dashboardFile = "config/components/dashboard/dashboard.json"

// dashboard is what Grafana asks.
type dashboard struct {
	Templating struct {
		List []struct {
			Name       string `json:"name"`
			Type       string `json:"type"`
			Definition string `json:"definition"`
			AllValue   string `json:"allValue"`
		} `json:"list"`
	} `json:"templating"`
	Panels []struct {
		Title   string `json:"title"`
		Targets []struct {
			Expr         string `json:"expr"`
			LegendFormat string `json:"legendFormat"`
		} `json:"targets"`
		Transformations []struct {
			Options struct {
				RenameByName map[string]string `json:"renameByName"`
			} `json:"options"`
		} `json:"transformations"`
	} `json:"panels"`
}

// noFallback removes what a query shows where there is no series: the test provokes each
// fault that is counted, so that a wrong name cannot hide behind a 0.
var noFallback = strings.NewReplacer(" or vector(0)", "")

var inLegend = regexp.MustCompile(`{{(\w+)}}`)

var labelValues = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)

// TestDashboardAndAlerts lets the operator work and its servers fail, and looks at all of it
// through Prometheus.
func TestDashboardAndAlerts(t *testing.T) {
	w := start(t)
	since := time.Now()
	w.works(t)
	w.drifts(t)
	w.fails(t)

	t.Run("every query of the dashboard shows something", func(t *testing.T) { w.showsEverything(t, since) })
	t.Run("every alert can be evaluated", func(t *testing.T) {
		n, err := w.prometheus.evaluates(t.Context())
		if want := strings.Count(groups(t), "alert: "); err != nil || n != want || n == 0 {
			t.Errorf("Prometheus has %d alerts, the file %d: %v", n, want, err)
		}
	})
	t.Run("alerts fire", func(t *testing.T) {
		w.fires(t, "M2MDrift", "firing", "AuthorizationServer/shop/registering")
		w.fires(t, "M2MTokenExpired", "firing", "shop/cart")
		w.fires(t, "M2MBreakerOpen", "pending", "ClusterAuthorizationServer//company") // it fires after 5 minutes
	})
}

// works waits until tokens have been issued, replaced, and signed with a new key.
func (w *world) works(t *testing.T) {
	t.Helper()
	w.apply(t, "world.yaml")
	w.until(t, 40*time.Second,
		`m2m_client_condition{namespace="shop",name="cart",type="Ready",status="True"}`,
		`m2m_client_condition{namespace="shop",name="gift",type="Ready",status="True"}`,
		`m2m_client_condition{namespace="shop",name="storefront",type="Ready",status="True"}`)
	if _, err := w.issuer.RotateKey(); err != nil {
		t.Fatal(err)
	}
	w.until(t, 40*time.Second, "m2m_token_refresh_lateness_seconds_count > 2", `m2m_pod_touches_total{result="success"} > 0`)
}

// drifts changes a client at its server, and lets the operator compare it.
func (w *world) drifts(t *testing.T) {
	t.Helper()
	registered := w.registering.RegisteredClients()
	if len(registered) != 1 {
		t.Fatalf("%d clients are registered", len(registered))
	}
	w.registering.ChangeRegisteredClient(registered[0].ID, func(c *oidc.RegisteredClient) { c.Scopes = []string{"stock:write"} })
	var m v1alpha1.M2MClient
	if err := w.cluster.Client.Get(t.Context(), types.NamespacedName{Namespace: "shop", Name: "storefront"}, &m); err != nil {
		t.Fatal(err)
	}
	before := m.DeepCopy()
	m.Annotations = map[string]string{v1alpha1.RefreshRequestedAnnotation: "2026-01-01T00:00:00Z"}
	if err := w.cluster.Client.Patch(t.Context(), &m, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	w.until(t, 30*time.Second, "m2m_provisioning_drift_total > 0")
}

// fails takes one server away and lets the other register nobody, until a token has been
// expired for the minute after which the alert fires.
func (w *world) fails(t *testing.T) {
	t.Helper()
	w.registering.SetFault(oidc.Registration, &oidc.Fault{Status: 503})
	w.apply(t, "late.yaml")
	w.issuer.Close()
	w.until(t, 110*time.Second,
		`m2m_server_breaker_open{server="ClusterAuthorizationServer//company"} == 1`,
		`m2m_server_condition{server="ClusterAuthorizationServer//company",type="KeysFresh",status="False"}`,
		`m2m_client_condition{namespace="shop",name="late",type="Provisioned"}`,
		`ALERTS{alertname="M2MTokenExpired",alertstate="firing",name="cart"}`)
}

// until waits until each query has a result.
func (w *world) until(t *testing.T, limit time.Duration, queries ...string) {
	t.Helper()
	if err := local.Until(t.Context(), limit, func() (err error) {
		for _, q := range queries {
			err = errors.Join(err, w.prometheus.has(t.Context(), q))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// showsEverything asks all that the dashboard asks, over the time of the test.
func (w *world) showsEverything(t *testing.T, since time.Time) {
	var d dashboard
	if err := json.Unmarshal([]byte(read(t, dashboardFile)), &d); err != nil {
		t.Fatal(err)
	}
	replaced := []string{"$__rate_interval", "10s"}
	for _, v := range d.Templating.List {
		replaced = append(replaced, "$"+v.Name, v.AllValue)
	}
	variables := strings.NewReplacer(replaced...)
	w.fillsVariables(t, &d, variables)
	w.fillsPanels(t, &d, variables, since)
}

// fillsVariables asks what Grafana offers as values.
func (w *world) fillsVariables(t *testing.T, d *dashboard, variables *strings.Replacer) {
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		if m := labelValues.FindStringSubmatch(v.Definition); m == nil {
			t.Errorf("the variable %s asks %s", v.Name, v.Definition)
		} else if values, err := w.prometheus.values(t.Context(), variables.Replace(m[1]), m[2]); err != nil || len(values) == 0 {
			t.Errorf("the variable %s can be %q: %v", v.Name, values, err)
		}
	}
}

// fillsPanels asks each query for numbers with the labels that its legend or table shows.
func (w *world) fillsPanels(t *testing.T, d *dashboard, variables *strings.Replacer, since time.Time) {
	asked := 0
	for _, p := range d.Panels {
		var columns []string
		for _, transformation := range p.Transformations {
			for name := range transformation.Options.RenameByName {
				if name != "Value" {
					columns = append(columns, name)
				}
			}
		}
		for _, target := range p.Targets {
			asked++
			labels := slices.Clone(columns)
			for _, m := range inLegend.FindAllStringSubmatch(target.LegendFormat, -1) {
				labels = append(labels, m[1])
			}
			query := noFallback.Replace(variables.Replace(target.Expr))
			if strings.Contains(query, "$") {
				t.Errorf("panel %q: a variable is left in %s", p.Title, query)
			} else if err := w.prometheus.shows(t.Context(), query, labels, since, time.Now()); err != nil {
				t.Errorf("panel %q: %v", p.Title, err)
			}
		}
	}
	if asked == 0 {
		t.Error("the dashboard asks nothing")
	}
}

// fires checks that an alert about something is in some state.
func (w *world) fires(t *testing.T, name, state, about string) {
	t.Helper()
	all, err := w.prometheus.alerts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all[name] {
		if a.State == state && strings.Contains(a.Annotations["summary"], about) && strings.HasSuffix(a.Annotations["runbook_url"], "/"+name+".md") {
			return
		}
	}
	t.Errorf("no %s about %s is %s: %s", name, about, state, fmt.Sprint(all[name]))
}
