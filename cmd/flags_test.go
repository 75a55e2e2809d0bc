// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/injection"
)

func parseFlags(t *testing.T, args ...string) (*options, error) {
	t.Helper()
	flags := flag.NewFlagSet("m2m-operator", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	return parse(flags, args)
}

// TestTheVersionNeedsNoOtherFlag parses flags that are wrong otherwise.
func TestTheVersionNeedsNoOtherFlag(t *testing.T) {
	o, err := parseFlags(t, "--version", "--workers=0")
	if err != nil || !o.version {
		t.Errorf("got %+v, %v", o, err)
	}
	if _, err := parseFlags(t, "--workers=0"); err == nil {
		t.Error("the flags are not wrong without it")
	}
}

func TestFlags(t *testing.T) {
	def := func(change func(*options)) *options {
		o := &options{
			Options:        controller.Options{OperatorNamespace: "system", Workers: 20, RequestsPerSecond: 100, PromptDelivery: true, DeletionTimeout: 5 * time.Minute, Shards: 1},
			metricsAddress: ":8443", probeAddress: ":8081", profileAddress: "0", leaderElect: true,
			leaseDuration: 15 * time.Second, renewDeadline: 10 * time.Second, qps: 500, burst: 1000,
			controllers: true, inject: true,
			webhook: injection.Options{
				Port: 9443, OperatorNamespace: "system", Service: "m2m-operator-webhook", Configuration: "m2m-operator-pod-injection",
			},
		}
		change(o)
		return o
	}
	t.Setenv("POD_NAMESPACE", "system")
	for name, tc := range map[string]struct {
		args []string
		want *options
	}{
		"the defaults are what an installation needs": {nil, def(func(*options) {})},
		"the operator's namespace": {
			[]string{"--operator-namespace=m2m"}, def(func(o *options) { o.OperatorNamespace, o.webhook.OperatorNamespace = "m2m", "m2m" }),
		},
		"one namespace to watch": {
			[]string{"--watch-namespaces=shop"}, def(func(o *options) { o.WatchNamespaces, o.webhook.WatchNamespaces = []string{"shop"}, []string{"shop"} }),
		},
		"several namespaces, with spaces, twice, and an empty one": {
			[]string{"--watch-namespaces=shop, payments,,shop ,"}, def(func(o *options) {
				o.WatchNamespaces, o.webhook.WatchNamespaces = []string{"payments", "shop"}, []string{"payments", "shop"}
			}),
		},
		"what development needs": {
			[]string{"--allow-insecure-http", "--allow-loopback", "--allow-link-local", "--metrics-insecure", "--leader-elect=false"},
			def(func(o *options) {
				o.Egress = egress.Policy{AllowHTTP: true, AllowLoopback: true, AllowLinkLocal: true}
				o.insecureMetrics, o.leaderElect = true, false
			}),
		},
		"only labelled credentials": {
			[]string{"--require-credential-label"}, def(func(o *options) { o.RequireCredentialLabel = true }),
		},
		"policies of gateways": {
			[]string{"--enforcement=istio, envoy-gateway", "--enforcement=istio"},
			def(func(o *options) { o.Enforcement = []controller.Gateway{"istio", "envoy-gateway"} }),
		},
		"the only destinations": {
			[]string{"--egress-allow=auth.example.com:8443, 10.1.0.0/16", "--egress-allow=*.example.org"},
			def(func(o *options) {
				for _, s := range []string{"auth.example.com:8443", "10.1.0.0/16", "*.example.org"} {
					a, err := egress.ParseAllowed(s)
					if err != nil {
						t.Fatal(err)
					}
					o.Egress.Allow = append(o.Egress.Allow, a)
				}
			}),
		},
		"nothing of pods is changed": {
			[]string{"--prompt-delivery=false"}, def(func(o *options) { o.PromptDelivery = false }),
		},
		"profiles for oneself": {
			[]string{"--pprof-bind-address=[::1]:6060"}, def(func(o *options) { o.profileAddress = "[::1]:6060" }),
		},
		"the webhook only, which needs no lease": {
			[]string{"--controllers=false"}, def(func(o *options) { o.controllers, o.leaderElect = false, false }),
		},
		"no injection": {[]string{"--webhook=false"}, def(func(o *options) { o.inject = false })},
		"a webhook of other names, at another address": {
			[]string{"--webhook-bind-address=[::1]:10250", "--webhook-service=hook", "--webhook-configuration=config"},
			def(func(o *options) {
				o.webhook.Host, o.webhook.Port, o.webhook.Service, o.webhook.Configuration = "::1", 10250, "hook", "config"
			}),
		},
		"a webhook whose certificate is somebody else's affair": {
			[]string{"--webhook-cert-dir=/certs"}, def(func(o *options) { o.webhook.CertDir = "/certs" }),
		},
		"a webhook for the API server only": {
			[]string{"--webhook-client-ca=/ca.crt", "--webhook-client-names=kube-apiserver, other"},
			def(func(o *options) {
				o.webhook.ClientCA, o.webhook.ClientNames = "/ca.crt", []string{"kube-apiserver", "other"}
			}),
		},
		"a cluster among others at its authorization server": {
			[]string{"--cluster-id=eu-1.prod", "--deletion-timeout=90s"},
			def(func(o *options) { o.ClusterID, o.DeletionTimeout = "eu-1.prod", 90*time.Second }),
		},
		"a shard, which has no webhook": {
			[]string{"--shard=eu-1", "--shards=3"}, def(func(o *options) { o.Shard, o.Shards, o.inject = "eu-1", 3, false }),
		},
		"a shard, whatever is said of the webhook": {
			[]string{"--shard=eu-1", "--shards=2", "--webhook=true"}, def(func(o *options) { o.Shard, o.Shards, o.inject = "eu-1", 2, false }),
		},
		"the instance beside two shards": {[]string{"--shards=3"}, def(func(o *options) { o.Shards = 3 })},
		"numbers": {
			[]string{
				"--workers=5", "--kube-api-qps=20.5", "--kube-api-burst=30", "--metrics-bind-address=0", "--health-probe-bind-address=:9000",
				"--leader-elect-lease-duration=1m", "--leader-elect-renew-deadline=40s", "--default-requests-per-second=10000",
			},
			def(func(o *options) {
				o.Workers, o.qps, o.burst, o.metricsAddress, o.probeAddress = 5, 20.5, 30, "0", ":9000"
				o.leaseDuration, o.renewDeadline, o.RequestsPerSecond = time.Minute, 40*time.Second, 10000
			}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseFlags(t, tc.args...)
			if err != nil {
				t.Fatal(err)
			}
			show := func(o *options) string { o.log = options{}.log; return fmt.Sprintf("%+v", *o) }
			if diff := cmp.Diff(show(tc.want), show(got)); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
		})
	}
}

// TestEachShardHasALeaseOfItsOwn: each shard elects its own leader.
func TestEachShardHasALeaseOfItsOwn(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "system")
	for want, args := range map[string][]string{
		"m2m-operator":      {"--shards=3"},
		"m2m-operator-a":    {"--shards=3", "--shard=a"},
		"m2m-operator-eu-1": {"--shards=3", "--shard=eu-1"},
	} {
		o, err := parseFlags(t, args...)
		if err != nil {
			t.Fatal(err)
		}
		if o.lease() != want {
			t.Errorf("%q has the lease %q, want %q", args, o.lease(), want)
		}
	}
}

func TestFlagErrors(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "")
	const elsewhere = "--operator-namespace=system"
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"a cluster ID that no name could carry": {
			[]string{elsewhere, "--cluster-id=EU 1"},
			`--cluster-id: "EU 1" must have at most 63 lowercase letters, digits, '-' and '.', with a letter or digit at both ends`,
		},
		"a flag with a mistake":         {[]string{elsewhere, "--wrokers=40"}, "there is no flag --wrokers; did you mean --workers?"},
		"a flag of an older convention": {[]string{elsewhere, "-enable-leader-election"}, "there is no flag --enable-leader-election; --help lists all flags"},
		"a flag with a wrong value":     {[]string{elsewhere, "--workers=many"}, `invalid value "many" for flag -workers: parse error`},
		"profiles for everybody": {
			[]string{elsewhere, "--pprof-bind-address=:6060"},
			`--pprof-bind-address: ":6060" is not a loopback address with a port, such as 127.0.0.1:6060; profiles must not be reachable from the network`,
		},
		"profiles for the network": {
			[]string{elsewhere, "--pprof-bind-address=10.0.0.1:6060"},
			`--pprof-bind-address: "10.0.0.1:6060" is not a loopback address with a port, such as 127.0.0.1:6060; profiles must not be reachable from the network`,
		},
		"a destination that is a URL": {
			[]string{elsewhere, "--egress-allow=auth.example.com,https://auth.example.org"},
			`invalid value "auth.example.com,https://auth.example.org" for flag -egress-allow: "https://auth.example.org": the port is not a number from 1 to 65535`,
		},
		"destinations that are none, where all would be": {
			[]string{elsewhere, "--egress-allow="},
			`invalid value "" for flag -egress-allow: "" is neither a host, such as auth.example.com, *.example.com or auth.example.com:8443, nor a network, such as 10.1.0.0/16`,
		},
		"no time for deletions": {[]string{elsewhere, "--deletion-timeout=0s"}, "--deletion-timeout must be at least 1s"},
		"a shard that no label could name": {
			[]string{elsewhere, "--shard=EU_1", "--shards=2"},
			`--shard: "EU_1" must have at most 63 lowercase letters, digits and '-', with a letter or digit at both ends`,
		},
		"a budget for nobody":         {[]string{elsewhere, "--shards=0"}, "--shards must be at least 1: this instance is one of them"},
		"a shard with all the budget": {[]string{elsewhere, "--shard=a"}, "--shards must be at least 2 with --shard: the instance without a shard is one of them"},
		"no namespace for the webhook's certificate": {
			[]string{"--leader-elect=false"}, "--operator-namespace is needed for the webhook's certificate; set it, or POD_NAMESPACE, or --webhook=false",
		},
		"no Service for the webhook": {
			[]string{elsewhere, "--webhook-service="}, "--webhook-service and --webhook-configuration are needed for the webhook's certificate",
		},
		"a webhook without a port": {
			[]string{elsewhere, "--webhook-bind-address=9443"}, `--webhook-bind-address: "9443" is not an address such as :9443`,
		},
		"a webhook at a port that is none": {
			[]string{elsewhere, "--webhook-bind-address=:0"}, `--webhook-bind-address: ":0" is not an address such as :9443`,
		},
		"nothing to do": {
			[]string{elsewhere, "--controllers=false", "--webhook=false"}, "--controllers=false without the webhook leaves nothing to do; a shard has no webhook",
		},
		"names that nobody vouches for": {
			[]string{elsewhere, "--webhook-client-names=kube-apiserver"}, "--webhook-client-names needs --webhook-client-ca",
		},
		"no namespace for the lease": {
			[]string{"--webhook=false"}, "--operator-namespace is needed for the leader's lease; set it, or POD_NAMESPACE, or --leader-elect=false",
		},
		"an argument that is no flag": {
			[]string{elsewhere, "run"}, `unexpected argument "run": every option is a flag`,
		},
		"an unknown flag": {
			[]string{"--watch-namespace=shop"}, "there is no flag --watch-namespace; did you mean --watch-namespaces?",
		},
		"namespaces with another separator": {
			[]string{elsewhere, "--watch-namespaces=shop;payments"}, `--watch-namespaces: "shop;payments" is not the name of a namespace; separate several by commas`,
		},
		"a lease that ends before it is renewed": {
			[]string{elsewhere, "--leader-elect-lease-duration=10s"}, "--leader-elect-renew-deadline must be at least 1s and less than --leader-elect-lease-duration",
		},
		"a deadline that cannot be kept": {
			[]string{elsewhere, "--leader-elect-renew-deadline=10ms"}, "--leader-elect-renew-deadline must be at least 1s and less than --leader-elect-lease-duration",
		},
		"no budget for servers":             {[]string{elsewhere, "--default-requests-per-second=0"}, "--default-requests-per-second must be from 1 to 10000"},
		"more than a server's spec may say": {[]string{elsewhere, "--default-requests-per-second=10001"}, "--default-requests-per-second must be from 1 to 10000"},
		"no workers":                        {[]string{elsewhere, "--workers=0"}, "--workers must be at least 1"},
		"no requests":                       {[]string{elsewhere, "--kube-api-qps=0"}, "--kube-api-qps and --kube-api-burst must be positive"},
		"no burst":                          {[]string{elsewhere, "--kube-api-burst=0"}, "--kube-api-qps and --kube-api-burst must be positive"},
		"a duration without a unit": {
			[]string{elsewhere, "--leader-elect-lease-duration=15"},
			`invalid value "15" for flag -leader-elect-lease-duration: parse error`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseFlags(t, tc.args...)
			if err == nil {
				t.Fatal("it was accepted")
			}
			if diff := cmp.Diff(tc.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}
