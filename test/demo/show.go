// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// console prints the story as it happens: numbered steps, and below each the
// events, with the seconds since the start.
type console struct {
	out   io.Writer
	color bool
	start time.Time
	steps int
}

func newConsole(f *os.File) *console {
	info, err := f.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	return &console{out: f, color: terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb", start: time.Now()}
}

func (c *console) style(code, s string) string {
	if !c.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (c *console) bold(s string) string { return c.style("1", s) }
func (c *console) dim(s string) string  { return c.style("2", s) }

// title begins a step.
func (c *console) title(s string) {
	c.steps++
	fmt.Fprintf(c.out, "\n%s\n", c.bold(fmt.Sprintf("%2d  %s", c.steps, s)))
}

// say prints something that has just happened.
func (c *console) say(format string, args ...any) {
	at := fmt.Sprintf("%7.1f s", time.Since(c.start).Seconds())
	fmt.Fprintf(c.out, "%s  %s\n", c.dim(at), fmt.Sprintf(format, args...))
}

// block prints text that was read somewhere, as it is.
func (c *console) block(text string) {
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		fmt.Fprintln(c.out, strings.TrimRight(strings.Repeat(" ", 11)+c.dim(line), " "))
	}
}

// plain prints a line of its own.
func (c *console) plain(format string, args ...any) { fmt.Fprintf(c.out, format+"\n", args...) }

// decodeToken returns the header and claims of a JWT. Nothing that the demo
// shows contains the signature, without which a token is useless.
func decodeToken(token string) (header, claims map[string]any, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, nil, errors.New("the token is no JWT")
	}
	for i, into := range []*map[string]any{&header, &claims} {
		b, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			return nil, nil, errors.New("the token is no JWT")
		}
		decoder := json.NewDecoder(bytes.NewReader(b))
		decoder.UseNumber()
		if err := decoder.Decode(into); err != nil {
			return nil, nil, errors.New("the token is no JWT")
		}
	}
	return header, claims, nil
}

// tokenKeyID returns the kid of a JWT, "" for any other text.
func tokenKeyID(token string) string {
	header, _, err := decodeToken(token)
	if err != nil {
		return ""
	}
	kid, _ := header["kid"].(string)
	return kid
}

// keyIDs returns the kids of a JWKS.
func keyIDs(jwks string) (ids []string, err error) {
	var set struct {
		Keys []struct {
			ID string `json:"kid"`
		} `json:"keys"`
	}
	if err := json.Unmarshal([]byte(jwks), &set); err != nil {
		return nil, fmt.Errorf("jwks.json: %w", err)
	}
	for _, k := range set.Keys {
		ids = append(ids, k.ID)
	}
	return ids, nil
}

// short abbreviates the key IDs, which are thumbprints.
func short(ids ...string) string {
	var all []string
	for _, id := range ids {
		all = append(all, id[:min(8, len(id))])
	}
	return strings.Join(all, ", ")
}

func indented(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	_ = e.Encode(v)
	return b.String()
}

// names returns the keys of a map.
func names[V any](m map[string]V) string {
	if len(m) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}

func conditionLine(c *metav1.Condition) string {
	return fmt.Sprintf("%s=%s  %s: %s", c.Type, c.Status, c.Reason, c.Message)
}

// figures are what the demo measured, one flat object in a file.
type figures map[string]any

func (f figures) write(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(indented(f)), 0o644)
}

func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }
