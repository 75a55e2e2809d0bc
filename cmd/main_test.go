// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/ports"
)

// systemNamespace is where the operator is installed.
const systemNamespace = "m2m-operator-system"

// The suite's control plane, which has the operator's roles, and the operator's binary.
var (
	restConfig *rest.Config
	kube       client.Client
	binary     string
)

func TestMain(m *testing.M) {
	if withoutCertificates() {
		os.Exit(m.Run())
	}
	kubetest.Main("..", func(environment *envtest.Environment) (code int, err error) {
		dir, err := os.MkdirTemp("", "m2m-operator-")
		if err != nil {
			return 1, err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		binary = filepath.Join(dir, "manager")
		if err := kubetest.BuildOperator("..", binary); err != nil {
			return 1, err
		}
		restConfig = environment.Config
		if kube, err = client.New(restConfig, client.Options{Scheme: controller.Scheme()}); err != nil {
			return 1, err
		}
		if err := install(context.Background()); err != nil {
			return 1, fmt.Errorf("install the roles: %w", err)
		}
		return m.Run(), nil
	})
}

// install creates the operator's namespace, and the account and roles of config/rbac.
func install(ctx context.Context) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: systemNamespace}}
	if err := kube.Create(ctx, ns); err != nil {
		return err
	}
	for _, file := range []string{
		"rbac/service_account", "rbac/role", "rbac/role_binding", "rbac/leader_election", "rbac/metrics", "webhook/role",
	} {
		f, err := os.ReadFile(filepath.Join("..", "config", file+".yaml"))
		if err != nil {
			return err
		}
		// What kustomize does to them, save for the names' prefix.
		f = bytes.ReplaceAll(f, []byte("namespace: system"), []byte("namespace: "+systemNamespace))
		documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(f), 4096)
		for {
			var o unstructured.Unstructured
			if err := documents.Decode(&o); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			if err := kube.Create(ctx, &o); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return nil
}

// tokenOf returns a token of a ServiceAccount, as a pod would get one.
func tokenOf(t *testing.T, namespace, name string) string {
	t.Helper()
	request := &authenticationv1.TokenRequest{}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := kube.SubResource("token").Create(t.Context(), account, request); err != nil {
		t.Fatal(err)
	}
	return request.Status.Token
}

// kubeconfig writes a kubeconfig for a token.
func kubeconfig(t *testing.T, token string) string {
	t.Helper()
	c := clientcmdapi.NewConfig()
	c.Clusters["c"] = &clientcmdapi.Cluster{Server: restConfig.Host, CertificateAuthorityData: restConfig.CAData}
	c.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token}
	c.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	c.CurrentContext = "x"
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*c, file); err != nil {
		t.Fatal(err)
	}
	return file
}

// instance is a running operator.
type instance struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    *kubetest.Log // what it has written so far
	exited chan error
	// addresses
	metrics, probes, webhook string
}

// start runs the operator's binary as a ServiceAccount until the test ends.
func start(t *testing.T, account string, flags ...string) *instance {
	t.Helper()
	i := prepare(t, account, flags...)
	i.cmd.Stdout, i.cmd.Stderr = i.out, i.out
	i.run()
	return i
}

// prepare returns an operator that nothing has started yet.
func prepare(t *testing.T, account string, flags ...string) *instance {
	t.Helper()
	i := &instance{t: t, out: &kubetest.Log{}, exited: make(chan error, 1), metrics: ports.Free(t), probes: ports.Free(t), webhook: ports.Free(t)}
	i.cmd = exec.Command(binary, append([]string{
		"--kubeconfig=" + kubeconfig(t, tokenOf(t, systemNamespace, account)), "--operator-namespace=" + systemNamespace,
		"--metrics-bind-address=" + i.metrics, "--health-probe-bind-address=" + i.probes, "--webhook-bind-address=" + i.webhook,
		"--allow-insecure-http", "--allow-loopback", "--leader-elect-lease-duration=3s", "--leader-elect-renew-deadline=2s",
	}, flags...)...)
	return i
}

// run runs a prepared operator until the test ends.
func (i *instance) run() {
	i.t.Helper()
	if err := i.cmd.Start(); err != nil {
		i.t.Fatal(err)
	}
	go func() { i.exited <- i.cmd.Wait() }()
	i.t.Cleanup(func() {
		_ = i.cmd.Process.Kill()
		if i.t.Failed() {
			i.t.Logf("the operator wrote:\n%s", i.out)
		}
	})
}

// ends waits until the instance has ended, and returns its error.
func (i *instance) ends() error {
	i.t.Helper()
	select {
	case err := <-i.exited:
		return err
	case <-time.After(30 * time.Second):
		i.t.Fatal("the operator does not end")
		return nil
	}
}

// get sends a request over HTTP or HTTPS. No status is an error.
func get(url, token string) (status int, body string, err error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	hc := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
	}}
	resp, err := hc.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// answers waits until a probe answers with a status.
func (i *instance) answers(path string, want int) {
	i.t.Helper()
	eventually(i.t, func() error {
		status, body, err := get("http://"+i.probes+path, "")
		if err != nil || status != want {
			return fmt.Errorf("%s answers %d %q; want %d: %w", path, status, body, want, err)
		}
		return nil
	})
}

// servesWebhook checks that a ready instance serves the webhook with the certificate in the
// Secret.
func (i *instance) servesWebhook() {
	i.t.Helper()
	var secret corev1.Secret
	name := types.NamespacedName{Namespace: systemNamespace, Name: "m2m-operator-webhook-certificate"}
	if err := kube.Get(i.t.Context(), name, &secret); err != nil {
		i.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(secret.Data["ca.crt"])
	conn, err := tls.Dial("tcp", i.webhook, &tls.Config{RootCAs: roots, ServerName: "m2m-operator-webhook." + systemNamespace + ".svc"})
	if err != nil {
		i.t.Fatal(err)
	}
	_ = conn.Close()
}

// metric returns the line of a metric, "" if there is none.
func (i *instance) metric(token, series string) string {
	i.t.Helper()
	var body string
	eventually(i.t, func() (err error) {
		var status int
		if status, body, err = get("https://"+i.metrics+"/metrics", token); err != nil || status != http.StatusOK {
			return fmt.Errorf("metrics answer %d, %w", status, err)
		}
		return nil
	})
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

var eventually = kubetest.Eventually

// reader creates a ServiceAccount that may or may not read metrics, and returns its token.
func reader(t *testing.T, name string, bound bool) string {
	t.Helper()
	create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: systemNamespace}})
	if bound {
		create(t, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "metrics-reader"},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: systemNamespace, Name: name}},
		})
	}
	return tokenOf(t, systemNamespace, name)
}

// create creates objects until the test ends.
func create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := kube.Create(t.Context(), o); err != nil {
			t.Fatalf("create %T %q: %v", o, o.GetName(), err)
		}
		t.Cleanup(func() {
			if err := client.IgnoreNotFound(kube.Delete(context.Background(), o)); err != nil {
				t.Error(err)
			}
		})
	}
}

// story creates an authorization server and a client of it in a new namespace.
func story(t *testing.T) (*oidc.Server, *v1alpha1.M2MClient) {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "shop-"}}
	create(t, ns)
	namespace := ns.Name
	as, err := oidc.Start(oidc.Options{TokenLifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(as.Close)
	secret := oidc.NewSecret()
	as.SetResource("https://payment.example.com/api", "payments:write")
	if err := as.SetClient(oidc.Client{
		ID: "cart", Secret: secret, Scopes: map[string][]string{"https://payment.example.com/api": {"payments:write"}},
	}); err != nil {
		t.Fatal(err)
	}
	cart := &v1alpha1.M2MClient{
		ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: namespace},
		Spec: v1alpha1.M2MClientSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Name: "auth"},
			Access:                 []v1alpha1.Access{{Resource: "https://payment.example.com/api", Key: "payment-api", Scopes: []v1alpha1.ScopeName{"payments:write"}}},
			Credentials: v1alpha1.ClientCredentials{ClientSecret: v1alpha1.ClientSecretCredentials{
				ClientID: "cart", SecretRef: v1alpha1.SecretKeyReference{Name: "cart-credentials"},
			}},
		},
	}
	create(t,
		&v1alpha1.AuthorizationServer{
			ObjectMeta: metav1.ObjectMeta{Name: "auth", Namespace: namespace}, Spec: v1alpha1.AuthorizationServerSpec{Issuer: as.Issuer()},
		},
		&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "cart-credentials", Namespace: namespace},
			StringData: map[string]string{v1alpha1.ClientSecretKey: secret},
		}, cart)
	return as, cart
}

func ready(c *v1alpha1.M2MClient) func() error {
	return func() error {
		if err := kube.Get(context.Background(), client.ObjectKeyFromObject(c), c); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(c.Status.Conditions, v1alpha1.ConditionReady) {
			return fmt.Errorf("the client's conditions are %v", c.Status.Conditions)
		}
		return nil
	}
}

// leader returns the holder of the operator's lease, "" if there is none.
func leader(t *testing.T) string {
	t.Helper()
	var lease coordinationv1.Lease
	err := kube.Get(t.Context(), types.NamespacedName{Namespace: systemNamespace, Name: "m2m-operator"}, &lease)
	if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// TestTheManagerRuns runs the binary as the installation does, with only the permissions of
// its ServiceAccount.
func TestTheManagerRuns(t *testing.T) {
	as, cart := story(t)
	op := start(t, "controller-manager", "--leader-elect")
	op.answers("/healthz", http.StatusOK)
	op.answers("/readyz", http.StatusOK)
	eventually(t, ready(cart))
	op.servesWebhook()
	// Failed TLS handshakes appear in the structured log.
	if _, err := tls.Dial("tcp", op.webhook, &tls.Config{ServerName: "localhost"}); err == nil {
		t.Error("the webhook's certificate is trusted by everybody")
	}
	eventually(t, func() error {
		if !strings.Contains(op.out.String(), "TLS handshake error") {
			return errors.New("the failed handshake is not logged")
		}
		return nil
	})
	for line := range strings.Lines(op.out.String()) {
		if !strings.HasPrefix(line, "{") {
			t.Errorf("the operator wrote a line that is no structured log: %s", line)
		}
		if strings.Contains(line, `"level":"error"`) {
			t.Errorf("the operator logged an error: %s", line)
		}
	}

	allowed, refused := reader(t, "scraper", true), reader(t, "stranger", false)
	for name, tc := range map[string]struct {
		token string
		want  []int
	}{
		"nobody":                         {"", []int{http.StatusUnauthorized}},
		"a token that is none":           {"not-a-token", []int{http.StatusUnauthorized}},
		"an account without the role":    {refused, []int{http.StatusForbidden}},
		"an account with metrics-reader": {allowed, []int{http.StatusOK}},
	} {
		var body string
		eventually(t, func() (err error) {
			var status int
			if status, body, err = get("https://"+op.metrics+"/metrics", tc.token); err != nil || !slices.Contains(tc.want, status) {
				return fmt.Errorf("metrics answer %s with %d, %w; want %d", name, status, err, tc.want)
			}
			return nil
		})
		if strings.Contains(body, "m2m_") != (tc.token == allowed) {
			t.Errorf("metrics answer %s with %d bytes", name, len(body))
		}
	}
	if status, body, err := get("http://"+op.metrics+"/metrics", allowed); err == nil && (status == http.StatusOK || strings.Contains(body, "m2m_")) {
		t.Error("metrics are served over plain HTTP")
	}
	series := fmt.Sprintf(`m2m_token_requests_total{result="success",server="AuthorizationServer/%s/auth"}`, cart.Namespace)
	if v := op.metric(allowed, series); v != "1" {
		t.Errorf("%s is %q, want 1", series, v)
	}

	if leader(t) == "" {
		t.Error("nobody holds the lease")
	}
	if err := op.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := op.ends(); err != nil {
		t.Errorf("after SIGTERM the operator ended with %v, want exit code 0", err)
	}
	if who := leader(t); who != "" {
		t.Errorf("the lease is still held by %s", who)
	}
	if n := len(as.TokenRequests()); n != 1 {
		t.Errorf("%d token requests were sent, want 1", n)
	}
}

// TestOneOfTwoLeads kills the leader of two instances. The other one takes over, and
// replaces no token that is still good.
func TestOneOfTwoLeads(t *testing.T) {
	as, cart := story(t)
	scraper := reader(t, "scraper-of-two", true)
	const leads, worked = `leader_election_master_status{name="m2m-operator"}`, `controller_runtime_reconcile_total{controller="m2mclient",result="requeue_after"}`
	first := start(t, "controller-manager")
	first.answers("/readyz", http.StatusOK)
	eventually(t, ready(cart))
	second := start(t, "controller-manager")
	second.answers("/healthz", http.StatusOK)
	second.answers("/readyz", http.StatusOK) // it could take over at once
	second.servesWebhook()
	if got, want := []string{first.metric(scraper, leads), second.metric(scraper, leads)}, []string{"1", "0"}; !cmp.Equal(got, want) {
		t.Fatalf("the instances lead: %q, want %q", got, want)
	}
	if v := second.metric(scraper, worked); v != "0" && v != "" {
		t.Errorf("the instance that waits has reconciled %s times", v)
	}
	former := leader(t)

	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.ends()
	eventually(t, func() error {
		if v := second.metric(scraper, leads); v != "1" {
			return fmt.Errorf("the second instance does not lead: %q", v)
		}
		if v := second.metric(scraper, worked); v == "" || v == "0" {
			return errors.New("the second instance has not looked at the client")
		}
		return nil
	})
	if leader(t) == former {
		t.Error("the lease is still the first instance's")
	}
	if n := len(as.TokenRequests()); n != 1 {
		t.Errorf("%d token requests were sent, want 1: a take-over mints nothing", n)
	}

	// It works: it replaces a lost token.
	remove := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "cart-token", Namespace: cart.Namespace}}
	if err := kube.Delete(t.Context(), remove); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		return kube.Get(t.Context(), client.ObjectKeyFromObject(remove), &corev1.Secret{})
	})
	if n := len(as.TokenRequests()); n != 2 {
		t.Errorf("%d token requests were sent, want 2", n)
	}
	if err := second.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := second.ends(); err != nil {
		t.Errorf("after SIGTERM the second instance ended with %v", err)
	}
}

// TestNotReadyWithoutCaches: an operator that cannot read its objects is alive but not
// ready.
func TestNotReadyWithoutCaches(t *testing.T) {
	reader(t, "powerless", false)
	op := start(t, "powerless", "--leader-elect=false")
	op.answers("/healthz", http.StatusOK)
	op.answers("/readyz", http.StatusInternalServerError)
	eventually(t, func() error {
		if !strings.Contains(op.out.String(), "is forbidden") {
			return errors.New("the log does not say what is missing")
		}
		return nil
	})
	op.answers("/readyz", http.StatusInternalServerError)
}

func TestBadFlagsEndAtOnce(t *testing.T) {
	for flags, want := range map[string]string{
		"--leader-elect": "--operator-namespace is needed for the webhook's certificate; set it, or POD_NAMESPACE, or --webhook=false",
		"--wrokers=40":   "there is no flag --wrokers; did you mean --workers?",
	} {
		out, err := exec.Command(binary, flags).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("%s: it ended with %v, want exit code 1", flags, err)
		}
		if diff := cmp.Diff("m2m-operator: "+want+"\n", string(out)); diff != "" {
			t.Errorf("%s: output (-want +got):\n%s", flags, diff)
		}
	}
	out, err := exec.Command(binary, "--help").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "-watch-namespaces") {
		t.Errorf("--help: %v: %.500s", err, out)
	}
}

func TestMemoryLimitIsBelowTheContainers(t *testing.T) {
	for name, tc := range map[string]struct {
		environment map[string]string
		want        int64
	}{
		"the shipped limit":                    {map[string]string{"MEMORY_LIMIT": "536870912"}, 483183819},
		"GOMEMLIMIT counts more":               {map[string]string{"MEMORY_LIMIT": "536870912", "GOMEMLIMIT": "100MiB"}, 0},
		"outside of a container there is none": {nil, 0},
		"what is no number":                    {map[string]string{"MEMORY_LIMIT": "512Mi"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := memoryLimit(func(key string) string { return tc.environment[key] }); got != tc.want {
				t.Errorf("the limit is %d, want %d", got, tc.want)
			}
		})
	}
}

// TestTheWebhookOnly: an instance without controllers serves the webhook, takes no lease and
// reconciles no client.
func TestTheWebhookOnly(t *testing.T) {
	as, cart := story(t)
	op := start(t, "controller-manager", "--controllers=false")
	op.answers("/readyz", http.StatusOK)
	op.servesWebhook()
	if who := leader(t); who != "" {
		t.Errorf("the lease is held by %s", who)
	}
	scraper := reader(t, "scraper-of-the-webhook", true)
	if v := op.metric(scraper, `controller_runtime_max_concurrent_reconciles{controller="m2m-webhookcertificate"}`); v == "" {
		t.Error("the webhook's certificate is not kept")
	}
	if v := op.metric(scraper, `controller_runtime_max_concurrent_reconciles{controller="m2mclient"}`); v != "" {
		t.Error("M2MClients are worked on")
	}
	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(cart), cart); err != nil {
		t.Fatal(err)
	}
	seen := func(c metav1.Condition) bool { return c.Reason != v1alpha1.ReasonPending }
	if n := len(as.TokenRequests()); n > 0 || slices.ContainsFunc(cart.Status.Conditions, seen) {
		t.Errorf("%d token requests were sent, and the client's conditions are %v", n, cart.Status.Conditions)
	}
}

// TestTheProgramPrintsItsVersion asks without any cluster.
func TestTheProgramPrintsItsVersion(t *testing.T) {
	cmd := exec.Command(binary, "--version")
	cmd.Env = []string{"KUBECONFIG=/nowhere"}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "m2m-operator ") || !strings.Contains(string(out), runtime.Version()) || strings.Count(string(out), "\n") != 1 {
		t.Errorf("%v: %s", err, out)
	}
}
