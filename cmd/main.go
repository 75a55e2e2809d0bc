// SPDX-License-Identifier: Apache-2.0

// The manager runs the operator: it turns flags into a manager, with the controllers,
// the webhook and the metrics. See docs/operations.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	_ "golang.org/x/crypto/x509roots/fallback" // the image has no certificate authorities
	"k8s.io/apimachinery/pkg/util/validation"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // for developers' kubeconfigs
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/m2m-operator/m2m-operator/internal/build"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/injection"
	"github.com/m2m-operator/m2m-operator/internal/lease"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "m2m-operator:", err)
		os.Exit(1)
	}
}

// gcPercent replaces Go's default of 100, unless GOGC is set. Most of the memory is
// caches, which stay; with 100 up to half of the heap would be garbage.
const gcPercent = 30

// memoryLimit returns Go's soft memory limit: nine tenths of the container's limit,
// which the variable MEMORY_LIMIT holds. The rest is for memory that the kernel counts
// and Go does not. It returns zero if there is no limit or GOMEMLIMIT is set.
func memoryLimit(getenv func(string) string) int64 {
	limit, err := strconv.ParseInt(getenv("MEMORY_LIMIT"), 10, 64)
	if err != nil || getenv("GOMEMLIMIT") != "" {
		return 0
	}
	return limit / 10 * 9
}

// options are the flags of the manager.
type options struct {
	controller.Options
	metricsAddress, probeAddress string
	profileAddress               string
	insecureMetrics              bool
	leaderElect                  bool
	leaseDuration, renewDeadline time.Duration
	qps                          float64
	burst                        int
	controllers, inject          bool
	version                      bool
	webhook                      injection.Options
	log                          zap.Options
}

func parse(flags *flag.FlagSet, args []string) (*options, error) {
	o := &options{}
	var namespaces, webhookAddress, clientNames string
	flags.StringVar(&o.metricsAddress, "metrics-bind-address", ":8443", "Address of the metrics; 0 turns them off.")
	flags.BoolVar(&o.insecureMetrics, "metrics-insecure", false, "Serve metrics over plain HTTP, to everybody. Meant for development.")
	flags.StringVar(&o.probeAddress, "health-probe-bind-address", ":8081", "Address of /healthz and /readyz; 0 turns them off.")
	flags.StringVar(&o.profileAddress, "pprof-bind-address", "0", "Loopback address of the profiles, such as 127.0.0.1:6060, for kubectl port-forward; 0 turns them off.")
	flags.BoolVar(&o.leaderElect, "leader-elect", true, "Elect one of several replicas as the active one. Without it, run only one replica.")
	flags.DurationVar(&o.leaseDuration, "leader-elect-lease-duration", 15*time.Second, "How long other replicas wait before they take over from a silent leader.")
	flags.DurationVar(&o.renewDeadline, "leader-elect-renew-deadline", 10*time.Second, "How long the leader tries to renew its lease before it gives up.")
	flags.StringVar(&o.OperatorNamespace, "operator-namespace", os.Getenv("POD_NAMESPACE"),
		"Namespace of the operator. It holds the lease, the secrets of the clients that the operator registers, and the Secrets and ConfigMaps that ClusterAuthorizationServers name. Defaults to $POD_NAMESPACE.")
	flags.StringVar(&o.Shard, "shard", "",
		"Serve only the M2MClients whose label m2m-operator.io/shard has this value; such an instance has no webhook. Empty: serve the M2MClients without the label, and everything else.")
	flags.IntVar(&o.Shards, "shards", 1, "How many instances share each authorization server's budget, including this one. Each takes an equal part.")
	flags.StringVar(&namespaces, "watch-namespaces", "", "Comma-separated namespaces to work in. Empty: all.")
	flags.IntVar(&o.Workers, "workers", 20, "How many objects of a kind (M2MClients, verification bundles, pods) the operator works on at a time.")
	flags.StringVar(&o.ClusterID, "cluster-id", "",
		"Identifies this cluster at an authorization server that several clusters provision. Should never change. Empty: the UID of the namespace kube-system.")
	flags.DurationVar(&o.DeletionTimeout, "deletion-timeout", 5*time.Minute,
		"How long the operator holds a deleted object while it removes what it provisioned for it at the authorization server.")
	flags.IntVar(&o.RequestsPerSecond, "default-requests-per-second", 100, "Requests per second to an authorization server that sets no budget of its own.")
	flags.BoolVar(&o.PromptDelivery, "prompt-delivery", true, "Touch pods that must see a change at once. Needs permission to patch pods.")
	flags.BoolVar(&o.controllers, "controllers", true, "Run the controllers. Without them the instance serves only the webhook and needs no lease.")
	bindWebhook(flags, o, &webhookAddress, &clientNames)
	flags.Float64Var(&o.qps, "kube-api-qps", 500, "Requests per second to the Kubernetes API server.")
	flags.IntVar(&o.burst, "kube-api-burst", 1000, "Largest burst of requests to the Kubernetes API server.")
	bindEgress(flags, o)
	flags.BoolVar(&o.RequireCredentialLabel, "require-credential-label", false,
		"Send only Secrets with the label m2m-operator.io/credentials=true to authorization servers. Without it, anyone who can write M2MClients or AuthorizationServers can make the operator send any Secret of the namespace to a server of their own.")
	flags.Func("enforcement",
		"Comma-separated gateways (envoy-gateway, istio) for which the operator writes the policies that spec.enforcement of APIResources asks for. Each needs a permission. Can be repeated. Unset: none.",
		o.allowEnforcement)
	flags.BoolVar(&o.version, "version", false, "Print the version and end.")
	o.log.BindFlags(flags)
	if err := flags.Parse(args); err != nil {
		return nil, mistaken(flags, err)
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q: every option is a flag", flags.Arg(0))
	}
	if o.version {
		return o, nil
	}
	o.WatchNamespaces, o.webhook.ClientNames = listed(namespaces), listed(clientNames)
	slices.Sort(o.WatchNamespaces)
	o.WatchNamespaces = slices.Compact(o.WatchNamespaces)
	o.inject = o.inject && o.Shard == ""
	o.leaderElect = o.leaderElect && o.controllers
	o.webhook.OperatorNamespace, o.webhook.WatchNamespaces = o.OperatorNamespace, o.WatchNamespaces
	if err := o.validate(); err != nil {
		return nil, err
	}
	var err error
	o.webhook.Host, o.webhook.Port, err = hostPort(webhookAddress)
	return o, err
}

// bindEgress adds the flags that say which authorization servers the operator connects to.
func bindEgress(flags *flag.FlagSet, o *options) {
	flags.BoolVar(&o.Egress.AllowHTTP, "allow-insecure-http", false, "Allow authorization servers with http:// URLs. Secrets and tokens then cross the network unencrypted. Meant for development.")
	flags.BoolVar(&o.Egress.AllowLoopback, "allow-loopback", false, "Allow authorization servers at loopback addresses.")
	flags.BoolVar(&o.Egress.AllowLinkLocal, "allow-link-local", false, "Allow authorization servers at link-local addresses. Clouds serve instance metadata there.")
	flags.Func("egress-allow",
		"Comma-separated hosts and networks of authorization servers: auth.example.com, *.example.com, auth.example.com:8443, 10.1.0.0/16. The operator connects to no others. Can be repeated. Unset: all that other flags do not forbid.",
		o.allowEgress)
}

// mistaken adds to an unknown flag's error the flag that was probably meant.
func mistaken(flags *flag.FlagSet, err error) error {
	unknown, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !ok {
		return err
	}
	unknown = strings.TrimPrefix(unknown, "-")
	nearest, distance := "", 3
	flags.VisitAll(func(f *flag.Flag) {
		if d := edits(unknown, f.Name); d < distance {
			nearest, distance = f.Name, d
		}
	})
	if nearest == "" {
		return fmt.Errorf("there is no flag --%s; --help lists all flags", unknown)
	}
	return fmt.Errorf("there is no flag --%s; did you mean --%s?", unknown, nearest)
}

// edits counts the characters to insert, delete or replace to turn one text into another.
func edits(from, to string) int {
	row := make([]int, len(to)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(from) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(to) {
			replaced := diagonal
			if from[i] != to[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(to)]
}

// bindWebhook defines the flags of the webhook.
func bindWebhook(flags *flag.FlagSet, o *options, address, clientNames *string) {
	flags.BoolVar(&o.inject, "webhook", true, "Serve the webhook that injects tokens and verification bundles into annotated pods.")
	flags.StringVar(address, "webhook-bind-address", ":9443", "Address of the webhook.")
	flags.StringVar(&o.webhook.CertDir, "webhook-cert-dir", "",
		"Directory with the webhook's tls.crt and tls.key, which another tool such as cert-manager renews. Empty: the operator makes and renews a certificate itself.")
	flags.StringVar(&o.webhook.Service, "webhook-service", "m2m-operator-webhook", "Name of the webhook's Service. Its certificate is made for that name.")
	flags.StringVar(&o.webhook.Configuration, "webhook-configuration", "m2m-operator-pod-injection", "Name of the MutatingWebhookConfiguration in which the operator writes the caBundle.")
	flags.StringVar(&o.webhook.ClientCA, "webhook-client-ca", "",
		"File with the certificate authority that signed the client certificate of the API server, if the API server presents one to webhooks. Only its clients may then call the webhook. Empty: anybody may.")
	flags.StringVar(clientNames, "webhook-client-names", "", "Comma-separated common names that the client certificate may have. Empty: any.")
}

// listed splits a comma-separated list.
func listed(value string) (all []string) {
	for s := range strings.SplitSeq(value, ",") {
		if s = strings.TrimSpace(s); s != "" {
			all = append(all, s)
		}
	}
	return all
}

// allowEgress parses one --egress-allow.
func (o *options) allowEgress(list string) error {
	for s := range strings.SplitSeq(list, ",") {
		a, err := egress.ParseAllowed(strings.TrimSpace(s))
		if err != nil {
			return err
		}
		o.Egress.Allow = append(o.Egress.Allow, a)
	}
	return nil
}

// allowEnforcement parses one --enforcement.
func (o *options) allowEnforcement(list string) error {
	for _, s := range listed(list) {
		g := controller.Gateway(s)
		if !slices.Contains(controller.Gateways(), g) {
			return fmt.Errorf("%q is not one of %s", s, controller.Gateways())
		}
		if !slices.Contains(o.Enforcement, g) {
			o.Enforcement = append(o.Enforcement, g)
		}
	}
	return nil
}

func (o *options) validate() error {
	for _, n := range o.WatchNamespaces {
		if len(validation.IsDNS1123Label(n)) > 0 {
			return fmt.Errorf("--watch-namespaces: %q is not the name of a namespace; separate several by commas", n)
		}
	}
	switch {
	case !off(o.profileAddress) && !loopback(o.profileAddress):
		return fmt.Errorf("--pprof-bind-address: %q is not a loopback address with a port, such as 127.0.0.1:6060; profiles must not be reachable from the network", o.profileAddress)
	case !o.controllers && !o.inject:
		return errors.New("--controllers=false without the webhook leaves nothing to do; a shard has no webhook")
	case o.inject && o.webhook.CertDir == "" && o.OperatorNamespace == "":
		return errors.New("--operator-namespace is needed for the webhook's certificate; set it, or POD_NAMESPACE, or --webhook=false")
	case o.inject && o.webhook.CertDir == "" && (o.webhook.Service == "" || o.webhook.Configuration == ""):
		return errors.New("--webhook-service and --webhook-configuration are needed for the webhook's certificate")
	case len(o.webhook.ClientNames) > 0 && o.webhook.ClientCA == "":
		return errors.New("--webhook-client-names needs --webhook-client-ca")
	case o.leaderElect && o.OperatorNamespace == "":
		return errors.New("--operator-namespace is needed for the leader's lease; set it, or POD_NAMESPACE, or --leader-elect=false")
	case o.leaderElect && (o.renewDeadline < time.Second || o.leaseDuration <= o.renewDeadline):
		return errors.New("--leader-elect-renew-deadline must be at least 1s and less than --leader-elect-lease-duration")
	case o.ClusterID != "" && (len(o.ClusterID) > 63 || len(validation.IsDNS1123Subdomain(o.ClusterID)) > 0):
		return fmt.Errorf("--cluster-id: %q must have at most 63 lowercase letters, digits, '-' and '.', with a letter or digit at both ends", o.ClusterID)
	case o.DeletionTimeout < time.Second:
		return errors.New("--deletion-timeout must be at least 1s")
	case o.Shard != "" && len(validation.IsDNS1123Label(o.Shard)) > 0:
		return fmt.Errorf("--shard: %q must have at most 63 lowercase letters, digits and '-', with a letter or digit at both ends", o.Shard)
	case o.Shards < 1:
		return errors.New("--shards must be at least 1: this instance is one of them")
	case o.Shard != "" && o.Shards < 2:
		return errors.New("--shards must be at least 2 with --shard: the instance without a shard is one of them")
	case o.RequestsPerSecond < 1 || o.RequestsPerSecond > 10000:
		return errors.New("--default-requests-per-second must be from 1 to 10000")
	case o.Workers < 1:
		return errors.New("--workers must be at least 1")
	case o.qps <= 0 || o.burst < 1:
		return errors.New("--kube-api-qps and --kube-api-burst must be positive")
	}
	return nil
}

// off reports whether an address turns its server off.
func off(address string) bool { return address == "" || address == "0" }

func loopback(address string) bool {
	at, err := netip.ParseAddrPort(address)
	return err == nil && at.Addr().IsLoopback() && at.Port() != 0
}

// lease returns the name of the leader election's Lease. Each shard has its own.
func (o *options) lease() string {
	if o.Shard == "" {
		return "m2m-operator"
	}
	return "m2m-operator-" + o.Shard
}

// hostPort splits the address of the webhook.
func hostPort(address string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(address)
	if err == nil {
		port, err = strconv.Atoi(p)
	}
	if err != nil || port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("--webhook-bind-address: %q is not an address such as :9443", address)
	}
	return host, port, nil
}

func run() error {
	// The error comes last: after the list of all flags nobody would find it in a pod's log.
	flag.CommandLine.Init(os.Args[0], flag.ContinueOnError)
	flag.CommandLine.SetOutput(io.Discard)
	// controller-runtime has registered --kubeconfig.
	o, err := parse(flag.CommandLine, os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		flag.CommandLine.SetOutput(os.Stdout)
		flag.Usage()
		return nil
	}
	if err != nil {
		return err
	}
	if o.version {
		_, err := fmt.Println("m2m-operator", build.Read())
		return err
	}
	// Otherwise Go ends a program whose log nobody reads any more at its next line.
	signal.Ignore(syscall.SIGPIPE)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if limit := memoryLimit(os.Getenv); limit > 0 {
		debug.SetMemoryLimit(limit)
	}
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&o.log)))
	// Go's HTTP server reports failed TLS handshakes there.
	stdlog.SetFlags(0)
	stdlog.SetOutput(toLogger{})

	mgr, err := newManager(o)
	if err != nil {
		return err
	}
	if err := add(mgr, o); err != nil {
		return err
	}
	return mgr.Start(ctrl.SetupSignalHandler())
}

// newManager makes a manager that nothing runs in yet.
func newManager(o *options) (ctrl.Manager, error) {
	config, err := ctrl.GetConfig()
	if err != nil {
		return nil, fmt.Errorf("find the Kubernetes API server: %w", err)
	}
	config.QPS, config.Burst = float32(o.qps), o.burst

	var held *lease.Lease
	if o.leaderElect {
		held, err = lease.New(rest.CopyConfig(config), controller.Scheme(), lease.Config{
			Namespace: o.OperatorNamespace, Name: o.lease(), Duration: o.leaseDuration, RenewDeadline: o.renewDeadline,
		})
		if err != nil {
			return nil, err
		}
		config.Wrap(held.Guard)
		o.Egress.MayAct = held.Err
	}

	mo := controller.ManagerOptions(o.Options)
	mo.Metrics = metricsserver.Options{BindAddress: "0"} // serveMetrics serves them, within bounds
	mo.HealthProbeBindAddress = o.probeAddress
	if !off(o.profileAddress) {
		mo.PprofBindAddress = o.profileAddress
	}
	mo.LeaderElection = o.leaderElect
	if held != nil {
		mo.LeaderElectionResourceLockInterface = held
		mo.LeaderElectionID = o.lease() // the name in the metrics
	}
	mo.LeaderElectionReleaseOnCancel = true
	retryPeriod := o.renewDeadline / 5
	mo.LeaseDuration, mo.RenewDeadline, mo.RetryPeriod = &o.leaseDuration, &o.renewDeadline, &retryPeriod

	mgr, err := ctrl.NewManager(config, mo)
	if err != nil {
		return nil, fmt.Errorf("make the manager: %w", err)
	}
	return mgr, nil
}

// add adds to the manager what the options ask for.
func add(mgr ctrl.Manager, o *options) error {
	if o.controllers {
		if err := controller.Setup(mgr, o.Options); err != nil {
			return err
		}
	}
	if o.inject {
		served, err := injection.Setup(mgr, o.webhook)
		if err != nil {
			return fmt.Errorf("set up the webhook: %w", err)
		}
		if err := mgr.AddReadyzCheck("webhook", served); err != nil {
			return err
		}
	}
	if !off(o.metricsAddress) {
		if err := serveMetrics(mgr, o.metricsAddress, o.insecureMetrics); err != nil {
			return fmt.Errorf("set up the metrics: %w", err)
		}
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return err
	}
	var filled cachesFilled
	if err := mgr.Add(&filled); err != nil {
		return err
	}
	return mgr.AddReadyzCheck("caches", filled.check)
}

// toLogger turns the lines of Go's own logger into structured ones.
type toLogger struct{}

func (toLogger) Write(line []byte) (int, error) {
	ctrl.Log.WithName("go").Info(strings.TrimSpace(string(line)))
	return len(line), nil
}

// cachesFilled is ready once the manager's caches are filled, on standby replicas too:
// a ready replica can take over at once.
type cachesFilled struct{ done atomic.Bool }

// Start runs once the manager has filled its caches.
func (c *cachesFilled) Start(context.Context) error {
	c.done.Store(true)
	return nil
}

// NeedLeaderElection returns false: Start runs on every replica.
func (c *cachesFilled) NeedLeaderElection() bool { return false }

func (c *cachesFilled) check(*http.Request) error {
	if !c.done.Load() {
		return errors.New("the caches are not filled yet")
	}
	return nil
}
