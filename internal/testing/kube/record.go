// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"k8s.io/client-go/rest"
)

// Write is a write that a suite sent, as admission sees it, and the API server's answer.
// test/mutants judges it again, with policies and rules that lack something.
type Write struct {
	User        string          `json:"user"`
	Operation   string          `json:"operation"`
	Group       string          `json:"group"`
	Version     string          `json:"version"`
	Resource    string          `json:"resource"`
	Subresource string          `json:"subresource,omitempty"`
	Namespace   string          `json:"namespace,omitempty"`
	Name        string          `json:"name,omitempty"`
	Object      json.RawMessage `json:"object,omitempty"`    // as it would be written, or as it was sent
	OldObject   json.RawMessage `json:"oldObject,omitempty"` // as it was before
	Refusal     string          `json:"refusal,omitempty"`
	Warnings    []string        `json:"warnings,omitempty"`
}

// recordIn names the variable with the folder into which suites record their writes.
const recordIn = "M2M_RECORD_WRITES"

// record appends each write of a suite to a file that is called as the suite's folder.
func record(config *rest.Config, dir string) error {
	suite, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	file, err := os.Create(filepath.Clean(filepath.Join(dir, filepath.Base(suite)+".jsonl")))
	if err != nil {
		return err
	}
	shared := &recording{lines: json.NewEncoder(file)}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &recorder{recording: shared, next: next} })
	return nil
}

type recording struct {
	mu    sync.Mutex
	lines *json.Encoder
}

type recorder struct {
	*recording
	next http.RoundTripper
}

// RoundTrip sends a request. Before a write it asks what the object is and, with a dry run as
// an administrator, what it would become.
func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	w, ok := writeOf(req)
	if !ok {
		return r.next.RoundTrip(req)
	}
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		_ = req.Body.Close()
	}
	known, err := r.before(req, w, body)
	if err != nil {
		return nil, fmt.Errorf("record %s %s: %w", req.Method, req.URL.Path, err)
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	resp, err := r.next.RoundTrip(req)
	if err != nil || !known {
		return resp, err
	}
	if err := answer(resp, w); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return resp, r.lines.Encode(w)
}

// before completes a write with the objects, and reports whether it could.
func (r *recorder) before(req *http.Request, w *Write, body []byte) (bool, error) {
	if req.Method != http.MethodPost {
		old, code, err := r.ask(req, http.MethodGet, nil)
		if err != nil {
			return false, err
		}
		if code == http.StatusOK {
			w.OldObject = old
		}
	}
	switch {
	case w.Operation == "CONNECT":
		return true, nil
	case w.Operation == "DELETE":
		return w.OldObject != nil, nil
	case w.OldObject == nil:
		w.Operation = "CREATE"
	}
	object, code, err := r.ask(req, req.Method, body)
	switch {
	case err != nil:
		return false, err
	case code < http.StatusBadRequest:
		w.Object = object
	case req.Method != http.MethodPatch && json.Valid(body): // bounds bind the administrator, too
		w.Object = body
	default:
		return false, nil
	}
	var named struct {
		Metadata struct{ Name string }
	}
	if err := json.Unmarshal(w.Object, &named); err != nil {
		return false, err
	}
	w.Name = named.Metadata.Name
	return true, nil
}

// ask sends a request as the suite's administrator, which changes nothing.
func (r *recorder) ask(req *http.Request, method string, body []byte) ([]byte, int, error) {
	question := req.Clone(req.Context())
	question.Method, question.Body, question.ContentLength = method, io.NopCloser(bytes.NewReader(body)), int64(len(body))
	question.GetBody = nil
	for name := range question.Header {
		if strings.HasPrefix(name, "Impersonate-") {
			question.Header.Del(name)
		}
	}
	question.Header.Set("Accept", "application/json")
	query := question.URL.Query()
	query.Set("dryRun", "All")
	if method == http.MethodGet {
		query = nil
	}
	question.URL.RawQuery = query.Encode()
	resp, err := r.next.RoundTrip(question)
	if err != nil {
		return nil, 0, err
	}
	text, err := io.ReadAll(resp.Body)
	return text, resp.StatusCode, errors.Join(err, resp.Body.Close())
}

// answer notes the API server's answer, and leaves the body to be read again.
func answer(resp *http.Response, w *Write) error {
	w.Warnings = resp.Header.Values("Warning")
	if resp.StatusCode < http.StatusBadRequest {
		return nil
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	resp.Body = io.NopCloser(bytes.NewReader(text))
	w.Refusal = strings.ToValidUTF8(string(text), "")
	var status struct{ Message string }
	if json.Unmarshal(text, &status) == nil && status.Message != "" {
		w.Refusal = status.Message
	}
	return nil
}

// writeOf reads what a request asks for, and reports whether it writes one object. Questions,
// such as a SubjectAccessReview, have no such answers.
func writeOf(req *http.Request) (*Write, bool) {
	operation := map[string]string{
		http.MethodPost: "CREATE", http.MethodPut: "UPDATE", http.MethodPatch: "UPDATE", http.MethodDelete: "DELETE",
	}[req.Method]
	parts := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	if operation == "" || len(parts) < 3 || strings.HasSuffix(parts[len(parts)-1], "reviews") {
		return nil, false
	}
	w := &Write{User: req.Header.Get("Impersonate-User"), Operation: operation}
	if w.User == "" {
		w.User = "suite"
	}
	if parts[0] == "api" {
		w.Version, parts = parts[1], parts[2:]
	} else {
		w.Group, w.Version, parts = parts[1], parts[2], parts[3:]
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		w.Namespace, parts = parts[1], parts[2:]
	}
	w.Resource = parts[0]
	if len(parts) > 1 {
		w.Name = parts[1]
	}
	if len(parts) > 2 {
		w.Subresource = parts[2]
	}
	switch w.Subresource {
	case "attach", "exec", "portforward", "proxy":
		w.Operation = "CONNECT"
	}
	return w, w.Name != "" || req.Method == http.MethodPost
}
