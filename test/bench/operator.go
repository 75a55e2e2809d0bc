// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/m2m-operator/m2m-operator/internal/testing/ports"
	"github.com/m2m-operator/m2m-operator/test/local"
)

// operator is one process of the operator.
type operator struct {
	process *local.Process
	probe   string // base URLs
	metrics string
	profile string
	started time.Time
	leading time.Time // when it took the lease
}

// startOperator starts bin/manager with its defaults and waits until it leads.
func (b *bench) startOperator(ctx context.Context) (*operator, error) {
	o, err := b.startReplica(ctx)
	if err != nil {
		return nil, err
	}
	return o, b.awaitLeader(ctx, o)
}

// startReplica starts bin/manager and waits until its caches are filled.
func (b *bench) startReplica(ctx context.Context, flags ...string) (*operator, error) {
	metrics, err1 := ports.FreeAddress()
	profile, err2 := ports.FreeAddress()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	flags = append([]string{
		"--metrics-bind-address=" + metrics, "--metrics-insecure", "--pprof-bind-address=" + profile, "--zap-log-level=error", "--zap-stacktrace-level=panic",
	}, flags...)
	log := filepath.Join(outDir, fmt.Sprintf("bench-operator-%d.log", len(b.operators)))
	o := &operator{metrics: "http://" + metrics, profile: "http://" + profile, started: time.Now()}
	o.process, o.probe, err1 = b.cluster.StartOperator(ctx, log, flags...)
	if err1 != nil {
		return nil, err1
	}
	b.operators = append(b.operators, o)
	b.onCleanUp(func() error { return b.stopOperator(o) })
	return o, local.Until(ctx, 2*time.Minute, func() error {
		if err := o.process.Running(); err != nil {
			return err
		}
		return local.Healthy(o.probe)
	})
}

// awaitLeader waits until some replica leads, and assumes that it is this one.
func (b *bench) awaitLeader(ctx context.Context, o *operator) error {
	return local.Until(ctx, time.Minute, func() error {
		_, err := b.cluster.Leader(ctx)
		o.leading = time.Now()
		return err
	})
}

// stopOperator stops a process if it still runs.
func (b *bench) stopOperator(o *operator) error {
	if o.process.Running() != nil {
		return nil
	}
	return o.process.Stop()
}

func (o *operator) usage() (usage, error) { return usageOf(o.process.PID()) }

// metric returns the sum of the operator's counters or gauges of a name that have
// these labels, given as alternating names and values.
func (o *operator) metric(ctx context.Context, name string, labels ...string) (sum float64, err error) {
	body, err := get(ctx, o.metrics+"/metrics")
	if err != nil {
		return 0, err
	}
	defer body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(body)
	if err != nil {
		return 0, err
	}
	for _, m := range families[name].GetMetric() {
		matches := 0
		for _, l := range m.GetLabel() {
			for i := 0; i < len(labels); i += 2 {
				if l.GetName() == labels[i] && l.GetValue() == labels[i+1] {
					matches++
				}
			}
		}
		if 2*matches == len(labels) {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum, nil
}

// looked waits until one of the controllers has reconciled this many objects.
func (o *operator) looked(ctx context.Context, controller string, n int) error {
	return local.Until(ctx, time.Minute, func() error {
		looked, err := o.metric(ctx, "controller_runtime_reconcile_total", "controller", controller)
		if err == nil && looked < float64(n) {
			err = fmt.Errorf("%.0f of %d objects were looked at", looked, n)
		}
		return err
	})
}

// saveProfile writes a profile of the operator to the output folder.
func (o *operator) saveProfile(ctx context.Context, what, name string) error {
	body, err := get(ctx, o.profile+"/debug/pprof/"+what)
	if err != nil {
		return err
	}
	defer body.Close()
	return writeAll(filepath.Join(outDir, name), body)
}

func get(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Timeout: 5 * time.Minute}).Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%s answers %d", url, resp.StatusCode)
	}
	return resp.Body, nil
}

// measured is a process whose usage can be read.
type measured interface{ usage() (usage, error) }

// settled waits until a process's memory has not grown for a while, and returns
// the usage then.
func settled(ctx context.Context, p measured, calm time.Duration) (u usage, err error) {
	best, since := 0.0, time.Now()
	for {
		if u, err = p.usage(); err != nil {
			return u, err
		}
		if u.resident > best*1.01 {
			best, since = u.resident, time.Now()
		}
		if time.Since(since) >= calm {
			return u, nil
		}
		if err := sleep(ctx, time.Second); err != nil {
			return u, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
