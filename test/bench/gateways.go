// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	gatedPrefix = "gated" // prefix of the namespaces with an API behind a gateway
	gatedAPI    = "payment"
	gatedEntry  = "public"

	// gatedInstallation is the operator with the right to write policies.
	gatedInstallation = "test/gateways/testdata/operator"
)

// gatewayPolicies rotates the issuer's key and watches the new one arrive in what the
// gateway of each API reads. No gateway runs here; the benchmark reports in its place that
// it has accepted each policy.
func (b *bench) gatewayPolicies(ctx context.Context) error {
	n := b.bundleNamespaces()
	if err := errors.Join(b.clear(ctx), b.installGateways(ctx), b.createGated(ctx, n)); err != nil {
		return err
	}
	watch, stop, err := b.follow(ctx, client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
	if err != nil {
		return err
	}
	defer stop()
	name := enforcement.KeysName(gatedAPI, gatedEntry)
	watch.begin(name, func(*corev1.ConfigMap) bool { return true })
	var rounds []rotation
	for range rotations {
		r, err := b.gatewayRound(ctx, watch, name, n, len(rounds) == 0)
		if err != nil {
			return err
		}
		rounds = append(rounds, r)
	}
	b.judgeGateways(rounds, n)
	return errors.Join(b.removeConfigMaps(ctx, gatedPrefix, n, name), inParallel(n, func(i int) error {
		return b.cluster.Client.DeleteAllOf(ctx, &v1alpha1.APIResource{}, client.InNamespace(fmt.Sprintf("%s-%d", gatedPrefix, i)))
	}))
}

// installGateways installs the kind of policy, and the right to write it.
func (b *bench) installGateways(ctx context.Context) error {
	kind, err := runtime.DefaultUnstructuredConverter.ToUnstructured(kubetest.GatewayKinds()[0])
	if err != nil {
		return err
	}
	if _, err := b.cluster.Apply(ctx, []*unstructured.Unstructured{{Object: kind}}); err != nil {
		return err
	}
	_, err = b.cluster.InstallOperatorOf(ctx, gatedInstallation)
	return err
}

// createGated makes namespaces with an API each.
func (b *bench) createGated(ctx context.Context, n int) error {
	if err := b.createNamespaces(ctx, gatedPrefix, n); err != nil {
		return err
	}
	return inParallel(n, func(i int) error {
		return client.IgnoreAlreadyExists(b.cluster.Client.Create(ctx, &v1alpha1.APIResource{
			ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("%s-%d", gatedPrefix, i), Name: gatedAPI},
			Spec: v1alpha1.APIResourceSpec{
				AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Kind: v1alpha1.KindClusterAuthorizationServer, Name: fast},
				Identifier:             v1alpha1.ResourceIdentifier(fmt.Sprintf("https://gated-%d.bench.example.com", i)),
				Scopes:                 []v1alpha1.Scope{{Name: scope}},
				Enforcement: []v1alpha1.Enforcement{{Name: gatedEntry, EnvoyGateway: v1alpha1.EnvoyGatewayEnforcement{
					TargetRefs: []v1alpha1.EnvoyGatewayTarget{{Kind: "HTTPRoute", Name: "payment"}},
				}}},
			},
		}))
	})
}

// gatewayRound starts the operator, rotates the key, and takes the floor after the operator
// has stopped.
func (b *bench) gatewayRound(ctx context.Context, watch *follower, name string, n int, first bool) (r rotation, err error) {
	o, err := b.startReplica(ctx, "--enforcement=envoy-gateway")
	if err == nil {
		err = b.awaitLeader(ctx, o)
	}
	if err != nil {
		return r, err
	}
	if first {
		if err := watch.await(ctx, n, fanOutLimit); err != nil {
			return r, fmt.Errorf("the first policies: %w", err)
		}
	}
	if err := errors.Join(b.enforced(ctx, n), watch.calm(ctx)); err != nil {
		return r, err
	}
	one := client.ObjectKey{Namespace: gatedPrefix + "-0", Name: name}
	before := watch.get(one)
	if r, err = b.rotate(ctx, o, watch, name, n); err != nil {
		return r, err
	}
	r.content = watch.get(one)
	if err := errors.Join(b.enforced(ctx, n), b.stopOperator(o)); err != nil {
		return r, err
	}
	if r.floor, err = b.floorOfBundles(ctx, watch, gatedPrefix, before, r.content, n); err != nil {
		return r, fmt.Errorf("the floor: %w", err)
	}
	return r, nil
}

// acceptPolicies reports on each policy that a gateway has accepted it.
func (b *bench) acceptPolicies(ctx context.Context, n int) error {
	return inParallel(n, func(i int) error {
		u := &unstructured.Unstructured{}
		u.SetAPIVersion("gateway.envoyproxy.io/v1alpha1")
		u.SetKind("SecurityPolicy")
		key := client.ObjectKey{Namespace: fmt.Sprintf("%s-%d", gatedPrefix, i), Name: enforcement.ObjectName(gatedAPI, gatedEntry)}
		return local.Until(ctx, time.Minute, func() error {
			if err := b.cluster.Client.Get(ctx, key, u); err != nil {
				return err
			}
			before, _, _ := unstructured.NestedSlice(u.Object, "status", "ancestors")
			accepted := []any{map[string]any{"conditions": []any{
				map[string]any{"type": "Accepted", "status": "True", "reason": "Accepted", "observedGeneration": u.GetGeneration()},
			}}}
			if equality.Semantic.DeepEqual(before, accepted) {
				return nil
			}
			u.Object["status"] = map[string]any{"ancestors": accepted}
			if err := b.cluster.Client.Status().Update(ctx, u); !apierrors.IsConflict(err) {
				return err
			}
			return errors.New("somebody writes the policy")
		})
	})
}

// enforced waits until all APIs say that tokens are checked. A policy may have been written
// again after it was accepted.
func (b *bench) enforced(ctx context.Context, n int) error {
	return local.Until(ctx, time.Minute, func() error {
		var all v1alpha1.APIResourceList
		if err := b.cluster.Client.List(ctx, &all); err != nil {
			return err
		}
		done, other := 0, ""
		for i := range all.Items {
			for _, c := range all.Items[i].Status.Conditions {
				if c.Type == v1alpha1.ConditionEnforced && c.Status == metav1.ConditionTrue {
					done++
				} else if c.Type == v1alpha1.ConditionEnforced {
					other = c.Message
				}
			}
		}
		if done < n {
			return errors.Join(fmt.Errorf("%d of %d APIs are enforced; another: %s", done, n, other), b.acceptPolicies(ctx, n))
		}
		return nil
	})
}

func (b *bench) judgeGateways(rounds []rotation, n int) {
	const s = "gateways"
	var times, floors []float64
	var cpu, floorCPU, writes, statuses float64
	for _, r := range rounds {
		times, floors = append(times, r.seconds), append(floors, r.floor.Seconds)
		cpu, floorCPU = cpu+r.cpu.Seconds(), floorCPU+r.floor.CPUSeconds
		writes, statuses = writes+r.delta.sum(writesOf("configmaps")), statuses+r.delta.sum(writesOf("apiresources"))
	}
	all := float64(n * len(rounds))
	b.report.value(s, "APIs", "APIs", float64(n), none)
	b.report.ratio(s, "time until the last gateway's object has the new key", "s", median(times), median(floors), none)
	b.report.ratio(s, "the longest such time", "s", slices.Max(times), slices.Max(floors), none)
	b.report.value(s, "writes per object", "requests", writes/all, exactly(1))
	b.report.value(s, "writes of an API's status", "requests", statuses/all, none)
	b.report.ratio(s, "the operator's CPU per 1,000 APIs", "s", cpu/all*1000, floorCPU/all*1000, none)
}
