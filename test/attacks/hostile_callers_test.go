// SPDX-License-Identifier: Apache-2.0

package attacks

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

const reviewPath = "/inject-pod"

// anyCertificate skips verification: the attacker knows whom he connects to.
var anyCertificate = &tls.Config{InsecureSkipVerify: true}

// fromPod is an HTTP client with a pod's address.
func fromPod(n int) *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DialContext:     func(ctx context.Context, _, address string) (net.Conn, error) { return dialFrom(ctx, n, address) },
		TLSClientConfig: anyCertificate,
	}}
}

// answered sends a request. It returns an error only if there was no answer: an
// attack must expect to be refused.
func answered(c *http.Client, req *http.Request) error {
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	drain(resp.Body)
	return nil
}

// largeReviews sends the webhook the largest requests that it may ever read, from a
// caller other than the API server.
func largeReviews(ctx context.Context, a *attacker) {
	p := pod(a.namespace, "large", map[string]string{v1alpha1.ClientAnnotation: cart, "example.com/padding": strings.Repeat("x", 6<<20)})
	raw, err := json.Marshal(p)
	if err != nil {
		a.did(err)
		return
	}
	body, err := json.Marshal(&admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID: "large", Operation: admissionv1.Create, Namespace: a.namespace,
			Kind:     metav1.GroupVersionKind{Version: "v1", Kind: "Pod"},
			Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
			Object:   runtime.RawExtension{Raw: raw},
		},
	})
	if err != nil {
		a.did(err)
		return
	}
	together(a.sizes.reviews, func(i int) {
		c := fromPod(i)
		often(ctx, 500*time.Millisecond, func(int) {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+cluster.Webhook()+reviewPath, bytes.NewReader(body))
			if err == nil {
				req.Header.Set("Content-Type", "application/json")
				err = answered(c, req)
			}
			a.did(err)
		})
	})
}

// slowConnections opens connections to the webhook, announces large bodies, and sends
// a few bytes from time to time. It reopens connections that are closed.
func slowConnections(ctx context.Context, a *attacker) {
	together(a.sizes.connections, func(i int) {
		often(ctx, 2*time.Second, func(int) { a.did(slowReview(ctx, i)) })
	})
}

func slowReview(ctx context.Context, i int) error {
	conn, err := dialFrom(ctx, i, cluster.Webhook())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	c := tls.Client(conn, anyCertificate)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil //nolint:nilerr // it was closed, as it should
	}
	_, err = fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: webhook\r\nContent-Type: application/json\r\nContent-Length: 5000000\r\n\r\n", reviewPath)
	for err == nil && wait(ctx, time.Second) {
		_, err = c.Write(bytes.Repeat([]byte(" "), 1000))
	}
	return nil
}

// largePods makes the API server ask the webhook about the largest pods that etcd
// accepts, and more of them than their namespace could ever hold.
func largePods(ctx context.Context, a *attacker) {
	together(a.sizes.pods, func(i int) {
		often(ctx, 500*time.Millisecond, func(int) {
			p := pod(a.namespace, fmt.Sprintf("large-%d", i), map[string]string{v1alpha1.VerifyAnnotation: payments + "/" + paymentAPI})
			p.Spec.Containers[0].Command = []string{strings.Repeat("x", 1300<<10)}
			err := a.client.Create(ctx, p, client.DryRunAll)
			if err != nil && ctx.Err() == nil {
				err = nil // being refused a pod does the attacker no harm
			}
			a.did(err)
		})
	})
}

// junkTokens requests the metrics with a new bearer token each time.
func junkTokens(ctx context.Context, a *attacker) {
	c := fromPod(0)
	for i := range a.sizes.junk {
		if ctx.Err() != nil {
			return
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+a.operator.metrics+"/metrics", nil)
		if err == nil {
			req.Header.Set("Authorization", fmt.Sprintf("Bearer junk-%d", i))
			err = answered(c, req)
		}
		a.did(err)
	}
}
