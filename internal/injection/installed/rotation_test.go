// SPDX-License-Identifier: Apache-2.0

package installed_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/cert"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/injection"
)

const day = 24 * time.Hour

// load calls the webhook all the time: it creates pods, and connects to each replica as the
// API server does. It records failures.
type load struct {
	pods, connections atomic.Int64
	mu                sync.Mutex
	failures          []string
	stop              func()
}

func (l *load) fail(what string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.failures, fmt.Sprintf("%s: %s: %v", time.Now().Format("05.000"), what, err))
}

func startLoad(t *testing.T, replicas ...*replica) *load {
	t.Helper()
	l := &load{}
	shop := newNamespace(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	l.stop = sync.OnceFunc(func() {
		cancel()
		group.Wait()
	})
	t.Cleanup(l.stop)
	again := func(do func() error, what string, count *atomic.Int64) {
		group.Go(func() {
			for ctx.Err() == nil {
				if err := do(); err != nil && ctx.Err() == nil {
					l.fail(what, err)
				}
				count.Add(1)
			}
		})
	}
	for range 2 {
		again(func() error {
			p := pod(shop, map[string]string{v1alpha1.ClientAnnotation: "cart"})
			if err := kube.Create(ctx, p, client.DryRunAll); err != nil {
				return err
			}
			if p.Annotations[v1alpha1.InjectedAnnotation] == "" {
				return errors.New("nothing was injected")
			}
			return nil
		}, "create a pod", &l.pods)
	}
	for _, r := range replicas {
		again(func() error {
			bundle, err := caBundle(ctx)
			if err != nil {
				return err
			}
			return connect(r, bundle)
		}, "connect to "+r.address(), &l.connections)
	}
	return l
}

// connect performs the TLS handshake of an API server that has this caBundle.
func connect(r *replica, bundle []byte) error {
	conn, err := tls.Dial("tcp", r.address(), &tls.Config{RootCAs: poolOf(bundle), ServerName: service + "." + systemNamespace + ".svc"})
	if err != nil {
		return err
	}
	return conn.Close()
}

// goesOn waits for some more load of both kinds, and stops the test if any of it failed.
func (l *load) goesOn(t *testing.T, after string) {
	t.Helper()
	pods, connections := l.pods.Load(), l.connections.Load()
	eventually(t, func() error {
		if l.pods.Load() < pods+40 || l.connections.Load() < connections+40 {
			return errors.New("the load stands still")
		}
		return nil
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.failures) > 0 {
		t.Fatalf("%s: %d failures: %s", after, len(l.failures), l.failures[0])
	}
}

func certificateSecret() (*corev1.Secret, error) {
	s := &corev1.Secret{}
	return s, kube.Get(context.Background(), secretName, s)
}

// holds waits until the Secret passes a check and the configuration has its caBundle.
func holds(t *testing.T, what string, check func(data map[string][]byte) bool) map[string][]byte {
	t.Helper()
	var data map[string][]byte
	eventually(t, func() error {
		s, err := certificateSecret()
		if err != nil {
			return err
		}
		data = s.Data
		bundle, err := caBundle(context.Background())
		if err != nil {
			return err
		}
		if !check(data) || !bytes.Equal(bundle, data["ca.crt"]) {
			return fmt.Errorf("the Secret is not there yet: %s", what)
		}
		return nil
	})
	return data
}

// shows waits until every replica serves a certificate.
func shows(t *testing.T, certPEM []byte, replicas ...*replica) {
	t.Helper()
	block, _ := pem.Decode(certPEM)
	for _, r := range replicas {
		eventually(t, func() error {
			conn, err := tls.Dial("tcp", r.address(), &tls.Config{InsecureSkipVerify: true})
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			if served := conn.ConnectionState().PeerCertificates[0]; !bytes.Equal(served.Raw, block.Bytes) {
				return fmt.Errorf("replica %s serves another certificate, of %s", r.address(), served.NotBefore)
			}
			return nil
		})
	}
}

// clockwork sets the clock of all replicas and makes them reconcile.
type clockwork struct {
	*clocktesting.FakePassiveClock
	t *testing.T
}

func (c clockwork) to(now time.Time) {
	c.t.Helper()
	c.SetTime(now)
	nudge := fmt.Sprintf(`{"metadata":{"annotations":{"test/looked-at":%q}}}`, now)
	config := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: configuration}}
	if err := kube.Patch(c.t.Context(), config, client.RawPatch(types.MergePatchType, []byte(nudge))); err != nil {
		c.t.Fatal(err)
	}
}

func resetCertificate(t *testing.T) {
	t.Helper()
	err := kube.Delete(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: secretName.Namespace, Name: secretName.Name}})
	if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
}

// TestRotationUnderLoad runs two replicas through a year, in which their Secret is deleted
// and damaged and the configuration applied again. The API server, whose clock is the real
// one, verifies each certificate.
func TestRotationUnderLoad(t *testing.T) {
	resetCertificate(t)
	actual := time.Now()
	const toRenewal = 365*day - (365*day+time.Hour)/3
	clock := clockwork{clocktesting.NewFakePassiveClock(actual.Add(-toRenewal - 3*time.Hour)), t}
	made := clock.Now()
	withClock := func(o *injection.Options) { o.Clock = clock }
	one, two := start(t, withClock), start(t, withClock)
	configure(t, one, two)
	first := holds(t, "a certificate", func(d map[string][]byte) bool { return len(d["tls.crt"]) > 0 })
	shows(t, first["tls.crt"], one, two)
	l := startLoad(t, one, two)
	l.goesOn(t, "the first certificate")

	clock.to(made.Add(toRenewal + time.Minute))
	second := holds(t, "a successor", func(d map[string][]byte) bool { return len(d["next.crt"]) > 0 })
	shows(t, first["tls.crt"], one, two)
	l.goesOn(t, "a successor")

	applyAgain(t, one, two)
	l.goesOn(t, "the configuration applied again")

	clock.to(clock.Now().Add(time.Hour))
	holds(t, "the successor promoted", func(d map[string][]byte) bool { return bytes.Equal(d["tls.crt"], second["next.crt"]) })
	shows(t, second["next.crt"], one, two)
	l.goesOn(t, "the successor promoted")

	resetCertificate(t)
	restored := holds(t, "the Secret restored", func(d map[string][]byte) bool { return len(d["next.crt"]) > 0 })
	if !bytes.Equal(restored["tls.crt"], second["next.crt"]) {
		t.Error("another certificate is served after the Secret was deleted")
	}
	l.goesOn(t, "the Secret deleted")

	damage := []byte(`{"data":{"tls.crt":"eA==","tls.key":"eA==","ca.crt":null}}`)
	if err := kube.Patch(t.Context(), secretObject(), client.RawPatch(types.MergePatchType, damage)); err != nil {
		t.Fatal(err)
	}
	holds(t, "the Secret repaired", func(d map[string][]byte) bool { return bytes.Equal(d["tls.crt"], second["next.crt"]) })
	l.goesOn(t, "the Secret damaged")

	clock.to(clock.Now().Add(time.Hour))
	third := holds(t, "the next successor promoted", func(d map[string][]byte) bool { return bytes.Equal(d["tls.crt"], restored["next.crt"]) })
	shows(t, third["tls.crt"], one, two)
	l.goesOn(t, "the next successor promoted")

	clock.to(made.Add(toRenewal + 200*day))
	holds(t, "a successor once more", func(d map[string][]byte) bool {
		return len(d["next.crt"]) == 0 && bytes.Equal(d["tls.crt"], third["tls.crt"]) && !bytes.Contains(d["ca.crt"], bytes.TrimSpace(first["tls.crt"]))
	})
	l.goesOn(t, "the first certificate expired")

	l.stop()
	t.Logf("%d pods were created and %d connections made, and none failed", l.pods.Load(), l.connections.Load())
}

func secretObject() *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: secretName.Namespace, Name: secretName.Name}}
}

// applyAgain applies the configuration, without a caBundle, by kubectl's client-side and
// server-side apply, with a small change each time.
func applyAgain(t *testing.T, replicas ...*replica) {
	t.Helper()
	var ports []int
	for _, r := range replicas {
		ports = append(ports, r.port)
	}
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.Clusters["c"] = &clientcmdapi.Cluster{Server: restConfig.Host, CertificateAuthorityData: restConfig.CAData}
	kubeconfig.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: restConfig.BearerToken}
	kubeconfig.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	kubeconfig.CurrentContext = "x"
	dir := t.TempDir()
	if err := clientcmd.WriteToFile(*kubeconfig, filepath.Join(dir, "kubeconfig")); err != nil {
		t.Fatal(err)
	}
	for i, how := range []string{"--server-side=false", "--server-side=false", "--server-side=true", "--server-side=true"} {
		c := configured(ports...)
		c.APIVersion, c.Kind = "admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"
		for j := range c.Webhooks {
			seconds := int32(5 + i%2)
			c.Webhooks[j].TimeoutSeconds = &seconds
		}
		manifest, err := yaml.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "config.yaml")
		if err := os.WriteFile(file, manifest, 0o600); err != nil {
			t.Fatal(err)
		}
		kubectl := exec.Command(filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl"), "--kubeconfig="+filepath.Join(dir, "kubeconfig"),
			"apply", how, "--force-conflicts="+fmt.Sprint(how == "--server-side=true"), "-f", file)
		if out, err := kubectl.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

// TestALostCABundleComesBack: replacing the whole configuration removes the caBundle, and
// the operator writes it back.
func TestALostCABundleComesBack(t *testing.T) {
	r := start(t)
	configure(t, r)
	before := holds(t, "a certificate", func(d map[string][]byte) bool { return len(d["ca.crt"]) > 0 })["ca.crt"]
	replaced := configured(r.port)
	var present admissionregistrationv1.MutatingWebhookConfiguration
	if err := kube.Get(t.Context(), types.NamespacedName{Name: configuration}, &present); err != nil {
		t.Fatal(err)
	}
	replaced.ResourceVersion = present.ResourceVersion
	if err := kube.Update(t.Context(), replaced); err != nil {
		t.Fatal(err)
	}
	shop := newNamespace(t, nil)
	eventually(t, func() error {
		bundle, err := caBundle(context.Background())
		if err != nil || !bytes.Equal(bundle, before) {
			return fmt.Errorf("the caBundle is another: %w", err)
		}
		return kube.Create(context.Background(), pod(shop, map[string]string{v1alpha1.ClientAnnotation: "cart"}), client.DryRunAll)
	})
}

// TestTheCABundleIsWrittenTwice: kube-apiserver can miss one write, and then
// distrusts the webhook until the next.
func TestTheCABundleIsWrittenTwice(t *testing.T) {
	one, two := start(t), start(t)
	watcher, err := client.NewWithWatch(restConfig, client.Options{Scheme: controller.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	changes, err := watcher.Watch(t.Context(), &admissionregistrationv1.MutatingWebhookConfigurationList{}, client.MatchingFields{"metadata.name": configuration})
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Stop()
	create(t, configured(one.port, two.port))
	s, err := certificateSecret()
	if err != nil {
		t.Fatal(err)
	}
	bundle := string(s.Data["ca.crt"])
	var first time.Time
	for _, want := range []string{"", bundle + "\n", bundle} {
		var c *admissionregistrationv1.MutatingWebhookConfiguration
		select {
		case change := <-changes.ResultChan():
			c = change.Object.(*admissionregistrationv1.MutatingWebhookConfiguration)
		case <-time.After(30 * time.Second):
			t.Fatalf("the caBundle did not become %q", want)
		}
		for _, w := range c.Webhooks {
			same(t, "caBundle of "+w.Name, want, string(w.ClientConfig.CABundle))
		}
		if want == bundle && time.Since(first) < 900*time.Millisecond {
			t.Errorf("it was written again %s after the first time", time.Since(first))
		}
		first = time.Now()
	}
	select {
	case change := <-changes.ResultChan():
		t.Errorf("it was written once more: %v", change)
	case <-time.After(2 * time.Second):
	}
}

// TestReplicasStartTogether: if replicas make the first certificate at the same time, one
// wins. All serve its certificate, and never one of their own.
func TestReplicasStartTogether(t *testing.T) {
	resetCertificate(t)
	mark := len(logs.String())
	const n = 4
	arrived, open := make(chan struct{}, 2*n), make(chan struct{})
	hold := func(req *http.Request) {
		if req.Method == http.MethodPost && strings.HasSuffix(req.URL.Path, "/secrets") {
			arrived <- struct{}{}
			<-open
		}
	}
	beforeRequest.Store(&hold)
	t.Cleanup(func() { beforeRequest.Store(nil) })
	release := sync.OnceFunc(func() { close(open) })
	t.Cleanup(release)
	var all []*replica
	for range n {
		all = append(all, launch(t))
	}
	for range n {
		<-arrived
	}
	for _, r := range all {
		if r.served(nil) == nil {
			t.Error("a replica serves a certificate that is not in the Secret")
		}
	}
	release()
	for _, r := range all {
		eventually(t, func() error { return r.served(nil) })
	}
	configure(t, all...)
	s, err := certificateSecret()
	if err != nil {
		t.Fatal(err)
	}
	same(t, "keys of the Secret", 3, len(s.Data))
	same(t, "label", v1alpha1.ManagedByValue, s.Labels[v1alpha1.ManagedByLabel])
	shows(t, s.Data["tls.crt"], all...)
	if l := logs.String()[mark:]; strings.Contains(l, "write Secret") {
		t.Errorf("to come second is no error:\n%s", l)
	}
}

// TestASecretOfSomebodyElse: a foreign Secret stays as it is, and the log says what to do.
// The replica is not ready until then.
func TestASecretOfSomebodyElse(t *testing.T) {
	resetCertificate(t)
	foreign := secretObject()
	foreign.StringData = map[string]string{"tls.crt": "theirs"}
	create(t, foreign)
	mark := len(logs.String())
	r := launch(t)
	eventually(t, func() error {
		if !strings.Contains(logs.String()[mark:], "exists and is not the operator's") {
			return errors.New("the log does not say what is wrong")
		}
		return nil
	})
	if err := r.served(nil); err == nil {
		t.Error("the replica is ready without a certificate")
	}
	s, err := certificateSecret()
	if err != nil {
		t.Fatal(err)
	}
	same(t, "the Secret", map[string][]byte{"tls.crt": []byte("theirs")}, s.Data)
	if err := kube.Delete(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return r.served(nil) })
}

// TestCertificateFromFiles: with --webhook-cert-dir the operator stores nothing in the
// cluster, and follows changes of the files.
func TestCertificateFromFiles(t *testing.T) {
	resetCertificate(t)
	dir := t.TempDir()
	write := func() (certPEM []byte) {
		certPEM, keyPEM, err := cert.GenerateSelfSignedCertKey(service+"."+systemNamespace+".svc", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string][]byte{"tls.key": keyPEM, "tls.crt": certPEM} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return certPEM
	}
	first := write()
	r := start(t, func(o *injection.Options) { o.CertDir = dir })
	shows(t, first, r)
	shows(t, write(), r)
	if _, err := certificateSecret(); !apierrors.IsNotFound(err) {
		t.Errorf("the operator keeps a certificate of its own: %v", err)
	}
}
