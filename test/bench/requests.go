// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// requests counts the API server's answers, by verb and resource.
type requests map[request]float64

type request struct{ verb, resource, subresource string }

// counted are the resources whose requests count: those that concern the
// operator. The driver itself requests none of them while it counts.
var counted = []string{
	"m2mclients", "apiresources", "authorizationservers", "clusterauthorizationservers",
	"secrets", "configmaps", "events", "pods",
}

// apiRequests returns what the API server has answered so far.
func (b *bench) apiRequests(ctx context.Context) (requests, error) {
	raw, err := b.cluster.Clientset.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the API server's metrics: %w", err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("parse the API server's metrics: %w", err)
	}
	all := requests{}
	for _, m := range families["apiserver_request_total"].GetMetric() {
		labels := map[string]string{}
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		if slices.Contains(counted, labels["resource"]) {
			all[request{labels["verb"], labels["resource"], labels["subresource"]}] += m.GetCounter().GetValue()
		}
	}
	return all, nil
}

// since returns what was added since before.
func (r requests) since(before requests) requests {
	d := requests{}
	for k, n := range r {
		if more := n - before[k]; more > 0 {
			d[k] = more
		}
	}
	return d
}

func (r requests) sum(which func(request) bool) (n float64) {
	for k, v := range r {
		if which(k) {
			n += v
		}
	}
	return n
}

// writes counts the requests that change something, reads those that fetch
// objects. A watch is neither.
func (r requests) writes() float64 {
	return r.sum(func(k request) bool {
		return slices.Contains([]string{"POST", "PUT", "PATCH", "APPLY", "DELETE"}, k.verb)
	})
}

func (r requests) reads() float64 {
	// An API server reads this ConfigMap itself, now and then.
	return r.sum(func(k request) bool { return (k.verb == "GET" || k.verb == "LIST") && k.resource != "configmaps" })
}
