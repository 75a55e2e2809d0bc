// SPDX-License-Identifier: Apache-2.0

// Package installed_test tests injection as it is installed: with the manifests of
// config/default, a real API server that calls the webhook, and replicas that have only the
// permissions of the operator's ServiceAccount.
package installed_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/injection"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/pki"
	"github.com/m2m-operator/m2m-operator/internal/testing/ports"
)

const (
	systemNamespace = "m2m-operator-system"
	account         = "m2m-operator-controller-manager"
	service         = "m2m-operator-webhook"
	configuration   = "m2m-operator-pod-injection"
)

var secretName = types.NamespacedName{Namespace: systemNamespace, Name: service + "-certificate"}

// The suite's control plane has all of config/default but the Deployment. Each test creates
// the webhook configuration itself.
var (
	restConfig *rest.Config
	kube       client.Client // the test's own client, without a cache
	warnings   = &warningLog{}
	shipped    *admissionregistrationv1.MutatingWebhookConfiguration
	logs       = &kubetest.Log{}
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(zap.New(zap.WriteTo(logs), zap.UseDevMode(true)))
	kubetest.Main(filepath.Join("..", "..", ".."), func(environment *envtest.Environment) (code int, err error) {
		restConfig = environment.Config
		restConfig.WarningHandlerWithContext = warnings
		if kube, err = client.New(restConfig, client.Options{Scheme: controller.Scheme()}); err != nil {
			return 1, err
		}
		kubectl := filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl")
		manifests, err := exec.Command(kubectl, "kustomize", filepath.Join("..", "..", "..", "config", "default")).Output()
		if err != nil {
			return 1, fmt.Errorf("render config/default: %w", err)
		}
		if err := install(context.Background(), manifests); err != nil {
			return 1, fmt.Errorf("install config/default: %w", err)
		}
		defer func() { _ = os.RemoveAll(filepath.Dir(clientAuthorityFile)) }()
		code = m.Run()
		if l := logs.String(); strings.Contains(l, "PRIVATE KEY") {
			return 1, errors.New("a private key was logged")
		}
		return code, nil
	}, showCertificate)
}

// clientAuthority issued the client certificate that the API server presents to webhooks
// that request one.
var (
	clientAuthority     *pki.Authority
	clientAuthorityFile string // with its certificate
)

func newClientAuthority() (*pki.Authority, error) { return pki.NewAuthority("webhook clients") }

// showCertificate configures the API server to present it.
func showCertificate(environment *envtest.Environment) (err error) {
	if clientAuthority, err = newClientAuthority(); err != nil {
		return err
	}
	pair, err := clientAuthority.Client(pkix.Name{CommonName: "kube-apiserver"})
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "webhook-client-")
	if err != nil {
		return err
	}
	clientAuthorityFile = filepath.Join(dir, "ca.crt")
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.AuthInfos["*"] = &clientcmdapi.AuthInfo{ClientCertificateData: pair.Certificate, ClientKeyData: pair.Key}
	configuration := filepath.Join(dir, "admission.yaml")
	environment.ControlPlane.GetAPIServer().Configure().Append("admission-control-config-file", configuration)
	return errors.Join(
		os.WriteFile(clientAuthorityFile, clientAuthority.Certificate, 0o600),
		clientcmd.WriteToFile(*kubeconfig, filepath.Join(dir, "kubeconfig")),
		os.WriteFile(configuration, []byte(`apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: MutatingAdmissionWebhook
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: WebhookAdmissionConfiguration
    kubeConfigFile: `+filepath.Join(dir, "kubeconfig")+`
`), 0o600))
}

// install creates the objects of an installation. The webhook's Service leads to this
// process.
func install(ctx context.Context, manifests []byte) error {
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := documents.Decode(&o.Object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		switch o.GetKind() {
		case "CustomResourceDefinition", "Deployment", "PodDisruptionBudget":
			continue
		case "MutatingWebhookConfiguration":
			shipped = &admissionregistrationv1.MutatingWebhookConfiguration{}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, shipped); err != nil {
				return err
			}
			continue
		case "Service":
			if o.GetName() == service {
				o.Object["spec"] = map[string]any{"type": "ExternalName", "externalName": "localhost"}
			}
		}
		if err := kube.Create(ctx, o); err != nil {
			return fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	if shipped == nil {
		return errors.New("config/default has no MutatingWebhookConfiguration")
	}
	return nil
}

// warningLog records the warnings of the API server.
type warningLog struct {
	mu  sync.Mutex
	all []string
}

func (w *warningLog) HandleWarningHeaderWithContext(_ context.Context, _ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, text)
}

// taken returns the warnings since the last call.
func (w *warningLog) taken() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.all
	w.all = nil
	return all
}

// replica is one replica of the webhook.
type replica struct {
	port      int
	served    healthz.Checker
	mgr       ctrl.Manager
	mu        sync.Mutex
	forbidden sets.Set[string]
	lists     sets.Set[string] // what it lists and watches, with field selectors
	stop      func()
	ended     func() error // waits for its end and returns the reason
}

func (r *replica) address() string { return net.JoinHostPort("localhost", strconv.Itoa(r.port)) }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// configOf returns a configuration with a token of one of the operator's ServiceAccounts.
func configOf(t *testing.T, account string) *rest.Config {
	t.Helper()
	request := &authenticationv1.TokenRequest{}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: systemNamespace, Name: account}}
	if err := kube.SubResource("token").Create(t.Context(), sa, request); err != nil {
		t.Fatal(err)
	}
	cfg := rest.AnonymousClientConfig(restConfig)
	cfg.BearerToken = request.Status.Token
	cfg.QPS, cfg.Burst = -1, 0
	return cfg
}

// start starts a replica and waits until it is ready.
func start(t *testing.T, change ...func(*injection.Options)) *replica {
	t.Helper()
	return startAs(t, account, change...)
}

// startAs starts it with the permissions of a ServiceAccount.
func startAs(t *testing.T, account string, change ...func(*injection.Options)) *replica {
	t.Helper()
	r := launchAs(t, account, change...)
	eventually(t, func() error { return r.served(nil) })
	return r
}

// beforeRequest is called before each request of a replica. The tests do not run in
// parallel.
var beforeRequest atomic.Pointer[func(*http.Request)]

// launch starts a replica as the operator does, and does not wait for it.
func launch(t *testing.T, change ...func(*injection.Options)) *replica {
	t.Helper()
	return launchAs(t, account, change...)
}

func launchAs(t *testing.T, account string, change ...func(*injection.Options)) *replica {
	t.Helper()
	logWhenFailed(t)
	r := &replica{port: freePort(t), forbidden: sets.New[string](), lists: sets.New[string]()}
	cfg := configOf(t, account)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			if f := beforeRequest.Load(); f != nil {
				(*f)(req)
			}
			resp, err := next.RoundTrip(req)
			r.mu.Lock()
			defer r.mu.Unlock()
			if err == nil && resp.StatusCode == http.StatusForbidden {
				r.forbidden.Insert(req.Method + " " + req.URL.Path)
			}
			if req.Method == http.MethodGet {
				r.lists.Insert(req.URL.Path + " " + req.URL.Query().Get("fieldSelector"))
			}
			return resp, err
		})
	})
	o := injection.Options{
		Host: "localhost", Port: r.port, OperatorNamespace: systemNamespace, Service: service, Configuration: configuration,
	}
	for _, f := range change {
		f(&o)
	}
	mo := controller.ManagerOptions(controller.Options{OperatorNamespace: systemNamespace, WatchNamespaces: o.WatchNamespaces})
	mo.Metrics = metricsserver.Options{BindAddress: "0"}
	skip := true
	mo.Controller.SkipNameValidation = &skip
	// No replica leads: injection needs no leader.
	mo.LeaderElection, mo.LeaderElectionID, mo.LeaderElectionNamespace = true, "held-by-nobody-here", systemNamespace
	mo.LeaderElectionResourceLockInterface = followers{}
	var err error
	if r.mgr, err = ctrl.NewManager(cfg, mo); err != nil {
		t.Fatal(err)
	}
	if r.served, err = injection.Setup(r.mgr, o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.mgr.Start(ctx) }()
	var ended bool
	r.ended = func() error { ended = true; return <-done }
	r.stop = sync.OnceFunc(func() {
		cancel()
		if ended {
			return
		}
		if err := <-done; err != nil {
			t.Errorf("a replica stopped: %v", err)
		}
		if len(r.forbidden) > 0 {
			t.Errorf("the operator's role lacks what a replica asked for: %q", sets.List(r.forbidden))
		}
	})
	t.Cleanup(r.stop)
	return r
}

var logging bool // logWhenFailed was called in this test

// logWhenFailed prints the log of the replicas if the test fails.
func logWhenFailed(t *testing.T) {
	if logging {
		return
	}
	logging = true
	mark := len(logs.String())
	t.Cleanup(func() {
		logging = false
		if t.Failed() {
			t.Logf("log of the replicas:\n%s", logs.String()[mark:])
		}
	})
}

func freePort(t *testing.T) int {
	t.Helper()
	_, port, err := net.SplitHostPort(ports.Free(t))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// configured returns the shipped webhook configuration with a webhook for each port,
// without a caBundle.
func configured(ports ...int) *admissionregistrationv1.MutatingWebhookConfiguration {
	c := shipped.DeepCopy()
	c.Webhooks = nil
	for i, port := range ports {
		w := shipped.Webhooks[0].DeepCopy()
		if i > 0 {
			w.Name = fmt.Sprintf("pods-%d.m2m-operator.io", i)
		}
		p := int32(port)
		w.ClientConfig.Service.Port = &p
		c.Webhooks = append(c.Webhooks, *w)
	}
	return c
}

// configure creates the webhook configuration until the test ends, and waits until the API
// server uses it and trusts the replicas.
func configure(t *testing.T, replicas ...*replica) {
	t.Helper()
	var ports []int
	for _, r := range replicas {
		ports = append(ports, r.port)
	}
	create(t, configured(ports...))
	namespace := newNamespace(t, nil)
	eventually(t, func() error {
		p := pod(namespace, map[string]string{"m2m-operator.io/client": "probe"})
		if err := kube.Create(context.Background(), p, client.DryRunAll); err != nil {
			return err
		}
		if p.Annotations["m2m-operator.io/injected"] == "" {
			return errors.New("nothing is injected")
		}
		return nil
	})
	warnings.taken()
}

// caBundle returns the caBundle in the configuration.
func caBundle(ctx context.Context) ([]byte, error) {
	var c admissionregistrationv1.MutatingWebhookConfiguration
	if err := kube.Get(ctx, types.NamespacedName{Name: configuration}, &c); err != nil {
		return nil, err
	}
	return c.Webhooks[0].ClientConfig.CABundle, nil
}

// poolOf returns a pool with the certificates of a bundle.
func poolOf(bundle []byte) *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(bundle)
	return p
}

// requests returns the number of admission requests answered so far.
func requests(t *testing.T) int {
	t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range families {
		if f.GetName() == "controller_runtime_webhook_requests_total" {
			for _, m := range f.GetMetric() {
				n += int(m.GetCounter().GetValue())
			}
		}
	}
	return n
}

var namespaces int

func newNamespace(t *testing.T, labels map[string]string) string {
	t.Helper()
	namespaces++
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("shop-%d", namespaces), Labels: labels}}
	if err := kube.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

// pod returns a pod that Pod Security's restricted profile accepts.
func pod(namespace string, annotations map[string]string) *corev1.Pod {
	yes, no := true, false
	container := func(name string) corev1.Container {
		return corev1.Container{
			Name: name, Image: "registry.example.com/" + name,
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: &no, RunAsNonRoot: &yes,
				Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
		}
	}
	always := corev1.ContainerRestartPolicyAlways
	sidecar := container("sidecar")
	sidecar.RestartPolicy = &always
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "cart-", Namespace: namespace, Annotations: annotations},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{container("init"), sidecar},
			Containers:     []corev1.Container{container("app")},
		},
	}
}

// create creates objects until the test ends.
func create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := kube.Create(t.Context(), o); err != nil {
			t.Fatalf("create %T %q: %v", o, o.GetName(), err)
		}
		t.Cleanup(func() {
			if err := kube.Delete(context.Background(), o, client.GracePeriodSeconds(0)); err != nil && !apierrors.IsNotFound(err) {
				t.Error(err)
			}
		})
	}
}

var eventually = kubetest.Eventually

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// followers is a lock that no replica here gets.
type followers struct{ resourcelock.Interface }

func (followers) Get(context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	return nil, nil, errors.New("held elsewhere")
}

func (followers) Identity() string { return "follower" }

func (followers) Describe() string { return "a lock held elsewhere" }
