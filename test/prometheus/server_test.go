// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// server is a Prometheus, asked as Grafana asks it.
type server struct{ base string }

var httpClient = &http.Client{Timeout: 10 * time.Second}

// get asks the HTTP API and decodes the data of the answer.
func (s *server) get(ctx context.Context, path string, parameters url.Values, data any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/api/v1/"+path+"?"+parameters.Encode(), http.NoBody)
	if err != nil {
		return err
	}
	resp, err := httpClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Status string          `json:"status"`
		Error  string          `json:"error"`
		Data   json.RawMessage `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s answers %d: %w", path, resp.StatusCode, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", path, answer.Error)
	}
	return json.Unmarshal(answer.Data, data)
}

// scrapes returns an error unless the operator is scraped.
func (s *server) scrapes(ctx context.Context) error {
	var data struct {
		ActiveTargets []struct {
			Health    string `json:"health"`
			LastError string `json:"lastError"`
		} `json:"activeTargets"`
	}
	if err := s.get(ctx, "targets", nil, &data); err != nil {
		return err
	}
	if len(data.ActiveTargets) != 1 || data.ActiveTargets[0].Health != "up" {
		return fmt.Errorf("the targets are %+v", data.ActiveTargets)
	}
	return nil
}

// has returns an error unless a query has a result now.
func (s *server) has(ctx context.Context, query string) error {
	var data struct {
		Result []json.RawMessage `json:"result"`
	}
	if err := s.get(ctx, "query", url.Values{"query": {query}}, &data); err != nil {
		return err
	}
	if len(data.Result) == 0 {
		return fmt.Errorf("nothing answers %s", query)
	}
	return nil
}

// shows returns an error unless a query has had a number with some labels as its result since
// some time.
func (s *server) shows(ctx context.Context, query string, labels []string, since, now time.Time) error {
	var data struct {
		Result []struct {
			Metric map[string]string `json:"metric"`
			Values [][2]any          `json:"values"`
		} `json:"result"`
	}
	at := func(t time.Time) []string { return []string{strconv.FormatInt(t.Unix(), 10)} }
	if err := s.get(ctx, "query_range", url.Values{"query": {query}, "start": at(since), "end": at(now), "step": {"2"}}, &data); err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	for _, series := range data.Result {
		if slices.ContainsFunc(labels, func(l string) bool { return series.Metric[l] == "" }) {
			continue
		}
		for _, v := range series.Values {
			text, _ := v[1].(string)
			if number, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(number) && !math.IsInf(number, 0) {
				return nil
			}
		}
	}
	return fmt.Errorf("%s shows nothing with the labels %q", query, labels)
}

// values returns the values of a label.
func (s *server) values(ctx context.Context, selector, label string) (values []string, err error) {
	err = s.get(ctx, "label/"+label+"/values", url.Values{"match[]": {selector}}, &values)
	return values, err
}

// evaluates returns how many alerting rules there are, and an error unless each can be
// evaluated.
func (s *server) evaluates(ctx context.Context) (rules int, err error) {
	var data struct {
		Groups []struct {
			Rules []struct {
				Name      string `json:"name"`
				Health    string `json:"health"`
				LastError string `json:"lastError"`
			} `json:"rules"`
		} `json:"groups"`
	}
	if err := s.get(ctx, "rules", nil, &data); err != nil {
		return 0, err
	}
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			rules++
			if r.Health != "ok" {
				err = errors.Join(err, fmt.Errorf("%s is %s: %s", r.Name, r.Health, r.LastError))
			}
		}
	}
	return rules, err
}

// alert is an alert that fires or is about to.
type alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	State       string            `json:"state"`
}

// alerts returns the alerts by their names.
func (s *server) alerts(ctx context.Context) (map[string][]alert, error) {
	var data struct {
		Alerts []alert `json:"alerts"`
	}
	if err := s.get(ctx, "alerts", nil, &data); err != nil {
		return nil, err
	}
	all := map[string][]alert{}
	for _, a := range data.Alerts {
		all[a.Labels["alertname"]] = append(all[a.Labels["alertname"]], a)
	}
	return all, nil
}
