// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	bundlePrefix = "verifier"                // prefix of the namespaces that have a bundle
	floorBundle  = "m2m-verify.floor.bundle" // name of the floor's ConfigMaps, which lie beside the bundles; the fence recognises them by its beginning

	// rotations is how often a key is rotated and the floor is measured, in turn.
	// The median counts: on a busy machine, a single measurement of a second or
	// two says little.
	rotations = 3

	fanOutLimit = 2 * time.Minute
)

// bundleNamespaces is how many namespaces have a bundle.
func (b *bench) bundleNamespaces() int { return min(1000, max(20, b.n/10)) }

// bundleName is the name of the bundles' ConfigMaps.
func bundleName() string { return render.ConfigMapName(apiNamespace, fast) }

// fanOut is the cost of bringing a change to all namespaces.
type fanOut struct {
	seconds float64
	memory  usage // afterwards
	size    int   // bytes of a ConfigMap
}

// rotation is one rotation of the issuer's key.
type rotation struct {
	seconds float64 // from the operator's request for the keys to the last bundle
	fetches int     // JWKS requests during this time, except those that were due anyway
	seen    arrival
	delta   requests
	cpu     time.Duration

	content *corev1.ConfigMap // content of a bundle after the rotation
	memory  usage             // of the first rotation, afterwards
	floor   floored
}

// keyRotation rotates the issuer's key and watches the new one arrive in every
// namespace. No pod runs here: the annotation of a Deployment requests the
// bundle.
func (b *bench) keyRotation(ctx context.Context) error {
	n := b.bundleNamespaces()
	if err := errors.Join(b.clear(ctx), b.createVerifiers(ctx, n)); err != nil {
		return err
	}
	watch, stop, err := b.follow(ctx, client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
	if err != nil {
		return err
	}
	defer stop()
	watch.begin(bundleName(), func(*corev1.ConfigMap) bool { return true })
	var rounds []rotation
	for range rotations {
		r, err := b.rotationRound(ctx, watch, n, len(rounds) == 0)
		if err != nil {
			return err
		}
		rounds = append(rounds, r)
	}
	b.bundles = b.judgeRotations(rounds, n)
	return b.removeConfigMaps(ctx, bundlePrefix, n, bundleName())
}

// rotationRound starts the operator, rotates the key, and takes the floor after the
// operator has stopped, as for every floor: the API server then serves nobody else.
func (b *bench) rotationRound(ctx context.Context, watch *follower, n int, first bool) (r rotation, err error) {
	o, err := b.startOperator(ctx)
	if err != nil {
		return r, err
	}
	if first {
		if err := watch.await(ctx, n, fanOutLimit); err != nil {
			return r, fmt.Errorf("the first bundles: %w", err)
		}
	}
	if err := errors.Join(o.looked(ctx, "verificationbundle", n), watch.calm(ctx)); err != nil {
		return r, err
	}
	one := client.ObjectKey{Namespace: bundlePrefix + "-0", Name: bundleName()}
	before := watch.get(one)
	if r, err = b.rotate(ctx, o, watch, bundleName(), n); err != nil {
		return r, err
	}
	r.content = watch.get(one)
	if first {
		// Like trust-manager's figure: of a process that has made and changed each bundle.
		u, err := settled(ctx, o, b.idleCalm())
		if err := errors.Join(err, o.saveProfile(ctx, "heap?gc=1", "bench-rotation-heap.pprof")); err != nil {
			return r, err
		}
		r.memory = u
	}
	if err := b.stopOperator(o); err != nil {
		return r, err
	}
	if r.floor, err = b.floorOfBundles(ctx, watch, bundlePrefix, before, r.content, n); err != nil {
		return r, fmt.Errorf("the floor: %w", err)
	}
	return r, nil
}

// idleCalm is how long the memory of an idle process must not grow to count as
// settled. Go's runtime collects garbage at least every two minutes, and then has
// to return the memory.
func (b *bench) idleCalm() time.Duration {
	if b.full() {
		return 150 * time.Second
	}
	return 3 * time.Second
}

// clear stops every operator and removes every client with the Secrets beside it,
// whatever other scenarios left over.
func (b *bench) clear(ctx context.Context) error {
	for _, o := range b.operators {
		if err := b.stopOperator(o); err != nil {
			return err
		}
	}
	var clients v1alpha1.M2MClientList
	if err := b.cluster.Client.List(ctx, &clients); err != nil {
		return err
	}
	of := map[string]bool{}
	for i := range clients.Items {
		of[clients.Items[i].Namespace] = true
	}
	namespaces := slices.Collect(maps.Keys(of))
	return inParallel(len(namespaces), func(i int) error {
		in := client.InNamespace(namespaces[i])
		return errors.Join(
			b.cluster.Client.DeleteAllOf(ctx, &v1alpha1.M2MClient{}, in),
			b.cluster.Client.DeleteAllOf(ctx, &corev1.Secret{}, in),
		)
	})
}

// createVerifiers makes namespaces with a Deployment each that requests the bundle.
func (b *bench) createVerifiers(ctx context.Context, n int) error {
	if err := b.createNamespaces(ctx, bundlePrefix, n); err != nil {
		return err
	}
	labels := map[string]string{"app": "verifier"}
	return inParallel(n, func(i int) error {
		return client.IgnoreAlreadyExists(b.cluster.Client.Create(ctx, &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: fmt.Sprintf("%s-%d", bundlePrefix, i), Name: "verifier",
				Annotations: map[string]string{v1alpha1.VerifyAnnotation: apiNamespace + "/" + fast},
			},
			Spec: appsv1.DeploymentSpec{
				Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "verifier", Image: "verifier"}}},
				},
			},
		}))
	})
}

// removeConfigMaps deletes the ConfigMaps of a name.
func (b *bench) removeConfigMaps(ctx context.Context, prefix string, n int, name string) error {
	return inParallel(n, func(i int) error {
		return b.cluster.Client.Delete(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("%s-%d", prefix, i), Name: name}})
	})
}

// rotate rotates the issuer's key once, and waits for the ConfigMaps of a name. It does so right after the operator has
// fetched the keys, so that everything is written before the operator's second
// fetch from then on.
func (b *bench) rotate(ctx context.Context, o *operator, watch *follower, name string, n int) (r rotation, err error) {
	if err := b.polled(ctx); err != nil {
		return r, err
	}
	before, err1 := b.apiRequests(ctx)
	used, err2 := o.usage()
	if err := errors.Join(err1, err2, b.issuer.tell(ctx, order{Rotate: true, Reset: true})); err != nil {
		return r, err
	}
	rotated, err := b.issuer.counted(ctx)
	if err != nil {
		return r, err
	}
	watch.begin(name, func(c *corev1.ConfigMap) bool {
		return strings.Contains(c.Data[render.FileJWKS]+c.Data[enforcement.KeysField], rotated.KeyID)
	})
	if err := watch.await(ctx, n, fanOutLimit); err != nil {
		return r, err
	}
	told, err := b.issuer.counted(ctx)
	if err := errors.Join(err, watch.calm(ctx)); err != nil {
		return r, err
	}
	after, err1 := b.apiRequests(ctx)
	usedThen, err2 := o.usage()
	r.seen, err = watch.seen()
	if err := errors.Join(err, err1, err2); err != nil {
		return r, err
	}
	took := r.seen.last.Sub(told.FirstJWKS)
	r.seconds, r.fetches = took.Seconds(), unasked(told.JWKSRequests, took)
	r.delta, r.cpu = after.since(before), usedThen.cpu-used.cpu
	return r, nil
}

// unasked returns how many JWKS requests the regular ones do not explain, over a
// period that began with the first of them, that one included.
func unasked(requests int, took time.Duration) int { return requests - int(took/keysEvery) }

// polled waits until the operator has just fetched the keys.
func (b *bench) polled(ctx context.Context) error {
	before, err := b.issuer.counted(ctx)
	if err != nil {
		return err
	}
	return local.Until(ctx, 3*keysEvery, func() error {
		now, err := b.issuer.counted(ctx)
		if err == nil && now.JWKSRequests == before.JWKSRequests {
			err = errors.New("nobody asks for the keys")
		}
		return err
	})
}

func (b *bench) judgeRotations(rounds []rotation, n int) fanOut {
	const s = "key rotation"
	var times, floors []float64
	var cpu, floorCPU, writes float64
	fetches, most, size := 0, 0, 0
	for _, r := range rounds {
		times, floors = append(times, r.seconds), append(floors, r.floor.Seconds)
		cpu, floorCPU = cpu+r.cpu.Seconds(), floorCPU+r.floor.CPUSeconds
		fetches, most, size = max(fetches, r.fetches), max(most, r.seen.most), sizeOf(r.content)
		writes += r.delta.sum(writesOf("configmaps"))
	}
	all := float64(n * len(rounds))
	f := fanOut{seconds: median(times), memory: rounds[0].memory, size: size}
	b.report.value(s, "namespaces", "namespaces", float64(n), none)
	b.report.ratio(s, "time until the last bundle has the new key", "s", f.seconds, median(floors), atMost(1.5))
	b.report.ratio(s, "the longest such time", "s", slices.Max(times), slices.Max(floors), none)
	b.report.value(s, "JWKS requests that brought it", "requests", float64(fetches), exactly(1))
	b.report.value(s, "writes per bundle", "requests", writes/all, exactly(1))
	b.report.value(s, "most writes of one bundle", "requests", float64(most), exactly(1))
	b.report.ratio(s, "the operator's CPU per 1,000 bundles", "s", cpu/all*1000, floorCPU/all*1000, none)
	b.report.value(s, "resident memory", "MiB", f.memory.resident, none)
	b.report.value(s, "its peak", "MiB", f.memory.peak, none)
	b.report.value(s, "size of a bundle", "KiB", float64(size)/1024, none)
	return f
}

// median returns the middle value, of an even number the lesser of the two.
func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[(len(sorted)-1)/2]
}

// floorOfBundles runs a process that changes ConfigMaps as a rotation has changed
// the bundles, seen by the same watch. No operator ever sees these ConfigMaps.
func (b *bench) floorOfBundles(ctx context.Context, watch *follower, prefix string, before, content *corev1.ConfigMap, n int) (f floored, err error) {
	watch.begin(floorBundle, func(*corev1.ConfigMap) bool { return true })
	if err := inParallel(n, func(i int) error {
		c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("%s-%d", prefix, i), Name: floorBundle}}
		fill(c, before)
		return b.cluster.Client.Create(ctx, c)
	}); err != nil {
		return f, err
	}
	kubeconfig, err := b.cluster.OperatorKubeconfig(ctx)
	if err := errors.Join(err, watch.calm(ctx)); err != nil {
		return f, err
	}
	path := filepath.Join(b.dir, "bundle.json")
	encoded, err := json.Marshal(content)
	if err := errors.Join(err, os.WriteFile(path, encoded, 0o600)); err != nil {
		return f, err
	}
	watch.begin(floorBundle, func(c *corev1.ConfigMap) bool { return maps.Equal(c.Data, content.Data) })
	p, err := local.StartSelf("bundle-floor", "-kubeconfig", kubeconfig, "-content", path, "-n", fmt.Sprint(n))
	if err != nil {
		return f, err
	}
	var said bundleFloor
	err = json.NewDecoder(p.Stdout).Decode(&said)
	if err := errors.Join(err, p.Wait()); err != nil {
		return f, err
	}
	if err := watch.await(ctx, n, fanOutLimit); err != nil {
		return f, err
	}
	seen, err := watch.seen()
	f = floored{Seconds: seen.last.Sub(said.Started).Seconds(), CPUSeconds: said.CPUSeconds}
	return f, errors.Join(err, b.removeConfigMaps(ctx, prefix, n, floorBundle))
}

// fill copies the data, labels and annotations of one ConfigMap to another.
func fill(c, from *corev1.ConfigMap) {
	c.Labels, c.Annotations, c.Data = from.Labels, from.Annotations, from.Data
}

// bundleFloor is what a round of the floor reports of itself.
type bundleFloor struct {
	Started    time.Time
	CPUSeconds float64
}

// runBundleFloor does the least work that changes a ConfigMap in many
// namespaces: a bare loop of updates whose resource versions it knows, with the
// operator's permissions, connection limits and number of workers.
func runBundleFloor(args []string, _ io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("bundle-floor", flag.ContinueOnError)
	kubeconfig := flags.String("kubeconfig", "", "the operator's")
	path := flags.String("content", "", "file with a ConfigMap that has what is to be written")
	n := flags.Int("n", 0, "ConfigMaps that there must be")
	if err := flags.Parse(args); err != nil {
		return err
	}
	c, err := operatorClient(*kubeconfig)
	if err != nil {
		return err
	}
	encoded, err := os.ReadFile(*path)
	if err != nil {
		return err
	}
	var content corev1.ConfigMap
	if err := json.Unmarshal(encoded, &content); err != nil {
		return err
	}
	ctx := context.Background()
	var list corev1.ConfigMapList
	if err := c.List(ctx, &list, client.MatchingLabels(content.Labels)); err != nil {
		return err
	}
	mine := slices.DeleteFunc(list.Items, func(c corev1.ConfigMap) bool { return c.Name != floorBundle })
	if len(mine) != *n {
		return fmt.Errorf("there are %d ConfigMaps %s, not %d", len(mine), floorBundle, *n)
	}
	said := bundleFloor{Started: time.Now()}
	cpu := ownCPU()
	err = withWorkers(operatorWorkers, len(mine), func(i int) error {
		fill(&mine[i], &content)
		return c.Update(ctx, &mine[i])
	})
	said.CPUSeconds = (ownCPU() - cpu).Seconds()
	return errors.Join(err, json.NewEncoder(out).Encode(said))
}
