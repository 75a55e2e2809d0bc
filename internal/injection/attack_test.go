// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"

	"github.com/m2m-operator/m2m-operator/internal/serving"
)

// The addresses of the callers.
const (
	apiServer = "127.0.0.1"
	attacker  = "127.0.1."
)

// served starts the webhook's server with TLS but without an API server, and returns its
// address.
func served(t *testing.T) string { return servedBy(t, testHandler(notFound).http()) }

func servedBy(t *testing.T, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	certified := httptest.NewUnstartedServer(nil)
	certified.StartTLS() // it has a certificate
	certified.Close()
	server := &serving.Server{
		Address: address,
		TLS: func(context.Context) (*tls.Config, error) {
			return &tls.Config{Certificates: certified.TLS.Certificates}, nil
		},
		Handler: h,
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for server.Check(nil) != nil {
		time.Sleep(time.Millisecond)
	}
	return address
}

// dialFrom connects from one of this machine's addresses, with small buffers.
func dialFrom(from, address string) (net.Conn, error) {
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}).Dial("tcp", address)
	if err == nil {
		_ = c.(*net.TCPConn).SetWriteBuffer(16 << 10)
	}
	return c, err
}

// callFrom returns a client that calls from an address.
func callFrom(t *testing.T, from string) *http.Client {
	t.Helper()
	transport := &http.Transport{
		DialContext:         func(_ context.Context, _, address string) (net.Conn, error) { return dialFrom(from, address) },
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true},
		MaxIdleConnsPerHost: 25, // the API server's
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// review returns a review of a pod that has size bytes of no interest.
func review(t *testing.T, size int) []byte {
	t.Helper()
	body, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: reviewType, Request: requestFor(
		`{"metadata":{"annotations":{"m2m-operator.io/client":"cart","x":"` + strings.Repeat("x", size) + `"}},"spec":{"containers":[{"name":"app"}]}}`)})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// create calls the webhook as the API server does: with a timeout of 5 s, and again after
// a 429.
func create(c *http.Client, address string, body []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+address+Path, bytes.NewReader(body))
		if err != nil {
			return err
		}
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		answer, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		switch {
		case err != nil:
			return err
		case resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") == "1":
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return ctx.Err()
			}
		case resp.StatusCode != http.StatusOK || !bytes.Contains(answer, []byte(`"patch"`)):
			return fmt.Errorf("answered %d %.200s", resp.StatusCode, answer)
		default:
			return nil
		}
	}
}

// meter measures how many bytes of bodies are in memory at a time.
type meter struct {
	kept, most atomic.Int64
}

func (m *meter) around(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body := &meteredBody{ReadCloser: req.Body, meter: m}
		req.Body = body
		next.ServeHTTP(w, req)
		m.kept.Add(-body.kept)
	})
}

type meteredBody struct {
	io.ReadCloser
	meter *meter
	kept  int64
}

// Read does not count discarded bytes: nobody reads those with large buffers.
func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if len(p) > 64<<10 {
		b.kept += int64(n)
		now := b.meter.kept.Add(int64(n))
		for most := b.meter.most.Load(); now > most && !b.meter.most.CompareAndSwap(most, now); {
			most = b.meter.most.Load()
		}
	}
	return n, err
}

// TestManyLargeReviews: callers who send megabytes without end fill no more memory than the
// limit, from however many addresses, and do not keep the API server out.
func TestManyLargeReviews(t *testing.T) {
	m := &meter{}
	address := servedBy(t, m.around(testHandler(notFound).http()))
	large := review(t, 6<<20)
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			c, err := dialFrom(fmt.Sprint(attacker, 1+i%3), address)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			s := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
			_, _ = fmt.Fprintf(s, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", Path, len(large))
			_, _ = s.Write(large[:len(large)-1])
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
			answer, err := io.ReadAll(s)
			if e := net.Error(nil); errors.As(err, &e) && e.Timeout() || bytes.Contains(answer, []byte("200 OK")) {
				t.Errorf("half a review was answered %.100q, %v", answer, err)
			}
		})
	}
	c := callFrom(t, apiServer)
	ordinary, big := review(t, 4<<10), review(t, 1300<<10)
	for range 20 {
		if err := create(c, address, ordinary); err != nil {
			t.Errorf("an ordinary pod: %v", err)
		}
	}
	if err := create(c, address, big); err != nil {
		t.Errorf("a large pod: %v", err)
	}
	wg.Wait()
	if most := m.most.Load(); most > serving.Bytes || most < 6<<20 {
		t.Errorf("%d bytes were kept at a time, want at most %d, and some", most, serving.Bytes)
	}
}

// TestManySlowConnections: connections that send nothing, or half a request, displace one
// another.
func TestManySlowConnections(t *testing.T) {
	address := served(t)
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	c := callFrom(t, apiServer)
	ordinary := review(t, 4<<10)
	for i := range 2500 {
		conn, err := dialFrom(fmt.Sprint(attacker, 1+i%20), address)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
		if i%10 == 0 {
			s := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			_, _ = fmt.Fprintf(s, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", Path)
		}
		if i%250 == 249 {
			c.CloseIdleConnections() // the next is accepted after all that are there
			if err := create(c, address, ordinary); err != nil {
				t.Errorf("an ordinary pod beside %d connections: %v", i+1, err)
			}
		}
	}
	// Connections displaced just now may still be closing, and on a busy machine a look can come too late to see it. The
	// newest are not yet old enough to be closed as too slow.
	alive := open
	for start, looks := time.Now(), 0; len(alive) > serving.Connections && (looks < 3 || time.Since(start) < serving.HeaderTimeout/3); looks++ {
		alive = stillOpen(alive)
	}
	if len(alive) > serving.Connections {
		t.Errorf("%d connections are open, want at most %d", len(alive), serving.Connections)
	}
}

// stillOpen looks at all connections at once, because one after the other takes seconds.
func stillOpen(all []net.Conn) (alive []net.Conn) {
	open := make([]bool, len(all))
	var looks sync.WaitGroup
	for i, conn := range all {
		looks.Go(func() { open[i] = isOpen(conn) })
	}
	looks.Wait()
	for i, conn := range all {
		if open[i] {
			alive = append(alive, conn)
		}
	}
	return alive
}

// isOpen reports whether a connection is open at the other side.
func isOpen(conn net.Conn) bool {
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	for {
		_, err := conn.Read(make([]byte, 4096))
		if err != nil { // no more of the handshake
			var e net.Error
			return errors.As(err, &e) && e.Timeout()
		}
	}
}

// TestManyLargePods sends large pods through the API server, as one tenant's dry runs would.
// Others can create ordinary pods meanwhile.
func TestManyLargePods(t *testing.T) {
	address := served(t)
	c := callFrom(t, apiServer)
	ordinary, big := review(t, 4<<10), review(t, 1300<<10)
	var wg sync.WaitGroup
	var created atomic.Int64
	for range 120 {
		wg.Go(func() {
			if create(c, address, big) == nil {
				created.Add(1)
			}
		})
	}
	for range 50 {
		if err := create(c, address, ordinary); err != nil {
			t.Errorf("an ordinary pod: %v", err)
		}
	}
	wg.Wait()
	if created.Load() == 0 {
		t.Error("no large pod was created")
	}
}

// TestWhatIsNotRead: a body is read only if its length is declared and not too long.
func TestWhatIsNotRead(t *testing.T) {
	address := served(t)
	c := callFrom(t, apiServer)
	for name, tc := range map[string]struct {
		method string
		body   io.Reader
		want   int
	}{
		"a question":     {http.MethodGet, nil, http.StatusMethodNotAllowed},
		"too long":       {http.MethodPost, bytes.NewReader(make([]byte, maxReview+1)), http.StatusRequestEntityTooLarge},
		"no length":      {http.MethodPost, struct{ io.Reader }{strings.NewReader("{}")}, http.StatusLengthRequired},
		"a short review": {http.MethodPost, strings.NewReader("{}"), http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tc.method, "https://"+address+Path, tc.body)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != tc.want {
				t.Errorf("answered %d, want %d", resp.StatusCode, tc.want)
			}
		})
	}
}
