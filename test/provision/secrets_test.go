// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

// credential is what the operator's credential Secret records of one client secret.
type credential struct {
	Name              string `json:"name"`
	Stage             string `json:"stage"`
	ClientID          string `json:"clientID"`
	Secret            string `json:"secret"`
	RegistrationURI   string `json:"registrationURI"`
	RegistrationToken string `json:"registrationToken"`
}

// secrets are all texts that must not appear anywhere, and all registrations that ever existed.
type secrets struct {
	mu            sync.Mutex
	values        map[string]bool
	registrations map[string]credential // the latest by its URI
	owners        map[string]string     // the namespace of its client, by URI
}

var theSecrets = &secrets{values: map[string]bool{}, registrations: map[string]credential{}, owners: map[string]string{}}

// neverShow adds a secret.
func (s *secrets) neverShow(values ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range values {
		if len(v) >= 8 { // a plain word would match harmless text
			s.values[v] = true
		}
	}
}

// watch collects what the operator writes into its credential Secrets, which may be
// gone when a test needs it.
func (s *secrets) watch(ctx context.Context, cluster client.WithWatch) error {
	w, err := cluster.Watch(ctx, &corev1.SecretList{}, client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
	if err != nil {
		return fmt.Errorf("watch Secrets: %w", err)
	}
	go func() {
		for event := range w.ResultChan() {
			if secret, ok := event.Object.(*corev1.Secret); ok {
				s.saw(secret)
			}
		}
	}()
	return nil
}

func (s *secrets) saw(secret *corev1.Secret) {
	all, _ := credentialsIn(secret)
	namespace, _, _ := strings.Cut(secret.Annotations[v1alpha1.OwnerAnnotation], "/")
	for _, c := range all {
		s.neverShow(c.Secret, c.RegistrationToken)
		if c.RegistrationURI != "" {
			s.mu.Lock()
			s.registrations[c.RegistrationURI], s.owners[c.RegistrationURI] = c, namespace
			s.mu.Unlock()
		}
	}
}

// registrationsOf returns all registrations that clients in a namespace ever had.
func (s *secrets) registrationsOf(namespace string) (all []credential) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uri, c := range s.registrations {
		if s.owners[uri] == namespace {
			all = append(all, c)
		}
	}
	return all
}

// credentialsIn reads a credential Secret.
func credentialsIn(secret *corev1.Secret) ([]credential, error) {
	var store struct{ Credentials []credential }
	content, ok := secret.Data["credentials.json"]
	if !ok {
		return nil, fmt.Errorf("Secret %s holds no credentials", secret.Name)
	}
	err := json.Unmarshal(content, &store)
	return store.Credentials, err
}

// findIn returns an error if a text contains a secret or a token, with the text before it.
func (s *secrets) findIn(where, text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := kubetest.JWT.FindStringIndex(text); at != nil {
		return fmt.Errorf("a token is in %s: %s…", where, text[max(0, at[0]-120):at[0]])
	}
	for _, secret := range keys(s.values) {
		if i := strings.Index(text, secret); i >= 0 {
			return fmt.Errorf("a secret is in %s: %s…", where, text[max(0, i-120):i])
		}
	}
	return nil
}

// findInObjects searches everything that the operator writes, except the Secrets' contents.
func (s *secrets) findInObjects(ctx context.Context) error {
	var errs []error
	var inSecrets corev1.SecretList
	for _, list := range []client.ObjectList{
		&eventsv1.EventList{}, &corev1.ConfigMapList{}, &v1alpha1.M2MClientList{}, &v1alpha1.APIResourceList{}, &v1alpha1.AuthorizationServerList{}, &inSecrets,
	} {
		if err := kube.List(ctx, list); err != nil {
			return err
		}
		for i := range inSecrets.Items {
			inSecrets.Items[i].Data = nil
		}
		b, err := json.Marshal(list)
		errs = append(errs, err, s.findIn(fmt.Sprintf("a %T", list), string(b)))
	}
	return errors.Join(errs...)
}

func keys[V any](m map[string]V) []string {
	all := make([]string, 0, len(m))
	for k := range m {
		all = append(all, k)
	}
	return all
}
