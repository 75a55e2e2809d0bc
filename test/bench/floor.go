// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/test/local"
)

// The operator's defaults; the floor uses them too.
const (
	operatorWorkers = 20
	operatorQPS     = 500
	operatorBurst   = 1000
)

// floored is what the floor needed for one round of a fleet.
type floored struct {
	Seconds    float64
	CPUSeconds float64
}

// yardstick is both rounds: in the first every client gets its first token, in
// the second each token is refreshed.
type yardstick struct{ Create, Refresh floored }

// sample is what the operator wrote for one client. The floor writes the same for
// every client of its own.
type sample struct {
	Secret corev1.Secret
	Client v1alpha1.M2MClient
	Events []eventsv1.Event
}

// runFloor does the least work that brings tokens into Secrets: a bare loop that requests each token, writes it to a
// Secret, and writes the status and the events that come with a first token. It has the operator's permissions,
// connection limits and number of workers. It does not watch, read or decide anything.
func runFloor(args []string, _ io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("floor", flag.ContinueOnError)
	kubeconfig := flags.String("kubeconfig", "", "the operator's")
	endpoint := flags.String("endpoint", "", "the token endpoint")
	samplePath := flags.String("sample", "", "file with a sample of what is written")
	prefix := flags.String("prefix", "", "of the fleet")
	n := flags.Int("n", 0, "clients of the fleet")
	if err := flags.Parse(args); err != nil {
		return err
	}
	c, err := operatorClient(*kubeconfig)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(*samplePath)
	if err != nil {
		return err
	}
	f := &floor{client: c, endpoint: *endpoint, fleet: fleet{prefix: *prefix, n: *n}}
	if err := json.Unmarshal(content, &f.sample); err != nil {
		return err
	}
	var y yardstick
	if err := f.read(context.Background()); err != nil {
		return err
	}
	if y.Create, err = f.round(f.create); err != nil {
		return err
	}
	if y.Refresh, err = f.round(f.refresh); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(y)
}

// operatorClient returns a client with the operator's connection limits.
func operatorClient(kubeconfig string) (client.Client, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = operatorQPS, operatorBurst
	return client.New(config, client.Options{Scheme: local.Scheme()})
}

type floor struct {
	client   client.Client
	endpoint string
	fleet    fleet
	sample   sample
	clients  []*v1alpha1.M2MClient
	secrets  []*corev1.Secret
	tokens   http.Client
}

// read fetches the clients, because the Secrets carry their UIDs. It is not part of a round.
func (f *floor) read(ctx context.Context) error {
	f.clients, f.secrets = make([]*v1alpha1.M2MClient, f.fleet.n), make([]*corev1.Secret, f.fleet.n)
	f.tokens.Transport = &http.Transport{MaxIdleConnsPerHost: operatorWorkers}
	var all v1alpha1.M2MClientList
	if err := f.client.List(ctx, &all); err != nil {
		return err
	}
	byKey := map[client.ObjectKey]*v1alpha1.M2MClient{}
	for i := range all.Items {
		byKey[client.ObjectKeyFromObject(&all.Items[i])] = &all.Items[i]
	}
	for i := range f.clients {
		if f.clients[i] = byKey[f.fleet.key(i)]; f.clients[i] == nil {
			return fmt.Errorf("there is no M2MClient %s", f.fleet.key(i))
		}
	}
	return nil
}

// round does something for every client and measures it.
func (f *floor) round(do func(ctx context.Context, i int) error) (r floored, err error) {
	started, cpu := time.Now(), ownCPU()
	err = withWorkers(operatorWorkers, f.fleet.n, func(i int) error { return do(context.Background(), i) })
	r.Seconds, r.CPUSeconds = time.Since(started).Seconds(), (ownCPU() - cpu).Seconds()
	return r, err
}

func (f *floor) create(ctx context.Context, i int) error {
	token, err := f.token(ctx, i)
	if err != nil {
		return err
	}
	c, from := f.clients[i], &f.sample.Secret
	f.secrets[i] = &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: c.Namespace, Name: c.SecretName(), Labels: from.Labels, Annotations: from.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(c, v1alpha1.GroupVersion.WithKind("M2MClient"))},
		},
		Type: from.Type, Data: map[string][]byte{},
	}
	for key := range from.Data {
		f.secrets[i].Data[key] = token
	}
	if err := f.client.Create(ctx, f.secrets[i]); err != nil {
		return err
	}
	before := c.DeepCopy()
	c.Status = *f.sample.Client.Status.DeepCopy()
	if err := f.client.Status().Patch(ctx, c, client.MergeFrom(before)); err != nil {
		return err
	}
	for j := range f.sample.Events {
		e := f.sample.Events[j].DeepCopy()
		e.ObjectMeta = metav1.ObjectMeta{Namespace: c.Namespace, Name: fmt.Sprintf("%s.%d", c.Name, j)}
		e.Regarding.Namespace, e.Regarding.Name, e.Regarding.UID = c.Namespace, c.Name, c.UID
		if err := f.client.Create(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

func (f *floor) refresh(ctx context.Context, i int) error {
	token, err := f.token(ctx, i)
	if err != nil {
		return err
	}
	for key := range f.secrets[i].Data {
		f.secrets[i].Data[key] = token
	}
	if err := f.client.Update(ctx, f.secrets[i]); err != nil {
		return err
	}
	c := f.clients[i]
	before := c.DeepCopy()
	later := func(t *metav1.Time) *metav1.Time { return &metav1.Time{Time: t.Add(time.Minute)} }
	c.Status.ExpiresAt = later(c.Status.ExpiresAt)
	for j := range c.Status.Tokens {
		t := &c.Status.Tokens[j]
		t.IssuedAt, t.ExpiresAt, t.RefreshAt = later(t.IssuedAt), later(t.ExpiresAt), later(t.RefreshAt)
	}
	return f.client.Status().Patch(ctx, c, client.MergeFrom(before))
}

func (f *floor) token(ctx context.Context, i int) ([]byte, error) {
	id := fmt.Sprintf("%s-%d", f.fleet.prefix, i)
	form := url.Values{"grant_type": {"client_credentials"}, "resource": {identifier}, "scope": {scope}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(id, secretOf(id))
	resp, err := f.tokens.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.AccessToken == "" {
		return nil, errors.New("the issuer gave no token")
	}
	return []byte(answer.AccessToken), nil
}

// ownCPU returns the CPU time that this process has used so far.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // only Linux has it
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measureFloor runs a floor process for a fleet whose clients exist and which
// no operator serves.
func (b *bench) measureFloor(ctx context.Context, f fleet, at *issuer) (y yardstick, err error) {
	kubeconfig, err := b.cluster.OperatorKubeconfig(ctx)
	if err != nil {
		return y, err
	}
	p, err := local.StartSelf("floor", "-kubeconfig", kubeconfig, "-endpoint", at.url+"/token", "-sample", b.samplePath(),
		"-prefix", f.prefix, "-n", fmt.Sprint(f.n))
	if err != nil {
		return y, err
	}
	said, err := io.ReadAll(p.Stdout)
	if err := errors.Join(err, p.Wait()); err != nil {
		return y, fmt.Errorf("the floor failed: %w", err)
	}
	return y, json.NewDecoder(bytes.NewReader(said)).Decode(&y)
}
