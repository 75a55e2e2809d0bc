// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync/atomic"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

const (
	// lookAgain is how often the store checks the certificates' age. It costs no request.
	lookAgain = 10 * time.Minute
	// settles is the time between the two writes of a caBundle. API servers need
	// milliseconds to compile a configuration.
	settles = time.Second
)

// Options name the objects of the webhook.
type Options struct {
	// Secret holds the certificate, in the operator's namespace.
	Secret types.NamespacedName
	// ServerName is the DNS name of the certificate, <service>.<namespace>.svc.
	ServerName string
	// Configuration is the name of the MutatingWebhookConfiguration.
	Configuration string
	// Clock tells the certificates' age. Nil: the real clock.
	Clock clock.PassiveClock
}

// Store holds the serving certificate of this replica. Together with the stores of the
// other replicas it keeps the Secret and the webhook configuration up to date.
type Store struct {
	Options
	cache   cache.Cache   // the Secret and the configuration, and nothing else
	client  client.Client // bypasses the caches
	serving atomic.Pointer[pair]
	// real is the clock for the time between the writes of a caBundle: kube-apiserver
	// needs that time, whatever Clock says.
	real clock.PassiveClock
	// announced is when this store last wrote a caBundle, or saw that the second write
	// is still missing. Zero: nothing is left to write.
	announced time.Time
}

// Setup adds a store to a manager. It runs on every replica, not only on the
// leader.
func Setup(mgr ctrl.Manager, o Options) (*Store, error) {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	// A cache of its own: the manager's may be limited to other namespaces, and would hold
	// all webhook configurations of the cluster.
	c, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Secret{}: {
				Namespaces: map[string]cache.Config{o.Secret.Namespace: {}},
				Field:      fields.OneTermEqualSelector(metav1.ObjectNameField, o.Secret.Name),
			},
			&admissionregistrationv1.MutatingWebhookConfiguration{}: {
				Field: fields.OneTermEqualSelector(metav1.ObjectNameField, o.Configuration),
			},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make the cache of the webhook's certificate: %w", err)
	}
	if err := mgr.Add(onEveryReplica{c}); err != nil {
		return nil, fmt.Errorf("add the cache of the webhook's certificate: %w", err)
	}
	direct, err := client.New(mgr.GetConfig(), client.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(), FieldOwner: v1alpha1.ManagedByValue,
	})
	if err != nil {
		return nil, fmt.Errorf("make a client for the webhook's certificate: %w", err)
	}
	s := &Store{Options: o, cache: c, client: direct, real: clock.RealClock{}}

	one := reconcile.Request{NamespacedName: o.Secret}
	err = ctrl.NewControllerManagedBy(mgr).Named("m2m-webhookcertificate").
		WithOptions(controller.Options{NeedLeaderElection: ptr.To(false)}).
		WatchesRawSource(source.Kind(c, &corev1.Secret{}, toRequest[*corev1.Secret](one))).
		WatchesRawSource(source.Kind(c, &admissionregistrationv1.MutatingWebhookConfiguration{},
			toRequest[*admissionregistrationv1.MutatingWebhookConfiguration](one))).
		// Both objects may be missing, and then no event comes.
		WatchesRawSource(source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			queue.Add(one)
			return nil
		})).
		Complete(s)
	if err != nil {
		return nil, fmt.Errorf("set up the webhook's certificate: %w", err)
	}
	return s, nil
}

// onEveryReplica makes the manager start a cache on replicas that do not lead, too.
type onEveryReplica struct{ cache.Cache }

// NeedLeaderElection returns false.
func (onEveryReplica) NeedLeaderElection() bool { return false }

func toRequest[object client.Object](r reconcile.Request) handler.TypedEventHandler[object, reconcile.Request] {
	return handler.TypedEnqueueRequestsFromMapFunc(func(context.Context, object) []reconcile.Request { return []reconcile.Request{r} })
}

// GetCertificate returns the certificate to serve, for a tls.Config.
func (s *Store) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p := s.serving.Load()
	if p == nil {
		return nil, errors.New("there is no serving certificate yet")
	}
	return &p.tls, nil
}

// Check fails until there is a certificate to serve.
func (s *Store) Check(*http.Request) error {
	_, err := s.GetCertificate(nil)
	return err
}

// Reconcile brings the Secret, the serving certificate of this replica and the webhook
// configuration up to date.
func (s *Store) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	secret := &corev1.Secret{}
	if err := client.IgnoreNotFound(s.cache.Get(ctx, s.Secret, secret)); err != nil {
		return reconcile.Result{}, fmt.Errorf("look up Secret %q: %w", s.Secret, err)
	}
	config := &admissionregistrationv1.MutatingWebhookConfiguration{}
	if err := client.IgnoreNotFound(s.cache.Get(ctx, types.NamespacedName{Name: s.Configuration}, config)); err != nil {
		return reconcile.Result{}, fmt.Errorf("look up MutatingWebhookConfiguration %q: %w", s.Configuration, err)
	}
	now := s.Clock.Now()
	want, err := rotate(secret.Data, s.serving.Load(), caBundleOf(config), s.ServerName, now)
	if err != nil {
		return reconcile.Result{}, err
	}
	if !maps.EqualFunc(secret.Data, want, bytes.Equal) {
		// Serve and trust it only once the cache has it: another replica may have been
		// faster, with another certificate.
		return reconcile.Result{RequeueAfter: lookAgain}, s.write(ctx, secret, want)
	}
	s.serving.Store(parsePair(want[servedCert], want[servedKey], s.ServerName, now))
	again, err := s.trust(ctx, config, want[trusted], s.real.Now())
	if err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: again}, nil
}

// write creates or updates the Secret. If another replica was faster, it writes nothing:
// the event of the other's write brings the store back here.
func (s *Store) write(ctx context.Context, secret *corev1.Secret, data map[string][]byte) (err error) {
	if secret.Name == "" {
		err = s.client.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: s.Secret.Namespace, Name: s.Secret.Name,
				Labels: map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue},
			},
			Data: data,
		})
	} else {
		if secret.Labels[v1alpha1.ManagedByLabel] != v1alpha1.ManagedByValue {
			return fmt.Errorf("%w: Secret %q exists and is not the operator's (label %s=%s); delete it",
				errForeign, s.Secret, v1alpha1.ManagedByLabel, v1alpha1.ManagedByValue)
		}
		secret = secret.DeepCopy()
		secret.Data = data
		err = s.client.Update(ctx, secret)
	}
	switch {
	case err == nil:
		log.FromContext(ctx).Info("Wrote the webhook's certificate", "certificates", len(certificates(data[trusted])))
		return nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err) && secret.Name != "":
		return nil
	}
	// Not the whole error: it may quote the object, which contains the key.
	return fmt.Errorf("write Secret %q: %s", s.Secret, reasonOf(err))
}

var errForeign = errors.New("cannot keep the webhook's certificate")

func reasonOf(err error) string {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return fmt.Sprintf("the API server answers %d %s", status.Status().Code, status.Status().Reason)
	}
	return err.Error()
}

// caBundleOf returns the caBundle of a configuration, nil if its webhooks have different
// ones.
func caBundleOf(c *admissionregistrationv1.MutatingWebhookConfiguration) []byte {
	var bundle []byte
	for i, w := range c.Webhooks {
		if i > 0 && !bytes.Equal(w.ClientConfig.CABundle, bundle) {
			return nil
		}
		bundle = w.ClientConfig.CABundle
	}
	return bundle
}

// announcement returns what the caBundle of a webhook must become, nil if it stays as
// it is. A new bundle is written twice, at first with one more newline, so that the
// second write is a change too.
//
// One write is not enough: kube-apiserver compiles webhook configurations on demand
// and keeps the result until the next change. If a change arrives while the former
// version is being compiled, the former version is what it keeps
// (mutatingWebhookConfigurationManager, as of Kubernetes 1.37). It would then distrust
// this webhook until somebody changes the configuration.
func announcement(present, bundle []byte, settled bool) []byte {
	first := append(bytes.Clone(bundle), '\n')
	switch {
	case bytes.Equal(present, bundle):
		return nil
	case !bytes.Equal(present, first):
		return first
	case settled:
		return bundle
	}
	return nil
}

// trust brings the caBundle of every webhook in the configuration up to date. It
// returns when it must be called again.
func (s *Store) trust(ctx context.Context, c *admissionregistrationv1.MutatingWebhookConfiguration, bundle []byte, now time.Time) (time.Duration, error) {
	type clientConfig struct {
		CABundle []byte `json:"caBundle"`
	}
	type webhook struct {
		Name         string       `json:"name"`
		ClientConfig clientConfig `json:"clientConfig"`
	}
	var changed []webhook
	done, settled := true, !s.announced.IsZero() && now.Sub(s.announced) >= settles
	for _, w := range c.Webhooks {
		done = done && bytes.Equal(w.ClientConfig.CABundle, bundle)
		if b := announcement(w.ClientConfig.CABundle, bundle, settled); b != nil {
			changed = append(changed, webhook{w.Name, clientConfig{b}})
		}
	}
	if done {
		s.announced = time.Time{}
		return lookAgain, nil
	}
	if len(changed) == 0 { // another replica may have written it
		if s.announced.IsZero() {
			s.announced = now
		}
		return settles - now.Sub(s.announced), nil
	}
	// The API server merges the list of webhooks by name. The resourceVersion makes the
	// patch fail if the configuration has changed: a webhook that was removed meanwhile
	// must not come back incomplete.
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": c.ResourceVersion}, "webhooks": changed,
	})
	if err != nil {
		return 0, fmt.Errorf("encode the caBundle: %w", err)
	}
	err = s.client.Patch(ctx, c.DeepCopy(), client.RawPatch(types.StrategicMergePatchType, patch))
	switch {
	case err == nil:
		s.announced = now
		log.FromContext(ctx).Info("Wrote the webhook's caBundle", "certificates", len(certificates(bundle)), "again", settled)
		return settles, nil
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return settles, nil // the configuration has changed: look again
	}
	return 0, fmt.Errorf("write the caBundle of MutatingWebhookConfiguration %q: %w", s.Configuration, err)
}
