// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"
)

// call is one call of the payment API, as the cart process reports it: a line
// of JSON. It holds nothing of the token.
type call struct {
	Status int    `json:"status,omitempty"` // 0 if there was no answer
	Result string `json:"result"`
	Detail string `json:"detail,omitempty"`
}

func (c call) String() string {
	s := fmt.Sprintf("%d %s", c.Status, c.Result)
	if c.Detail != "" {
		s += ": " + c.Detail
	}
	return s
}

// runCart is the cart process: it calls the payment API at regular intervals,
// each time with the token that its file holds then, and reports each call on
// out. It ends after -count calls, or else with its standard input.
func runCart(args []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("cart", flag.ContinueOnError)
	url := flags.String("url", "", "the payment API")
	file := flags.String("token", "", "file with the access token")
	count := flags.Int("count", 0, "how many calls; 0: until standard input ends")
	interval := flags.Duration("interval", 50*time.Millisecond, "from one call to the next")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(ended)
	}()
	ticker := time.NewTicker(*interval)
	defer ticker.Stop()
	report := json.NewEncoder(out)
	for n := 1; ; n++ {
		if err := report.Encode(pay(*url, *file)); err != nil {
			return err
		}
		if n == *count {
			return nil
		}
		select {
		case <-ended:
			return nil
		case <-ticker.C:
		}
	}
}

// pay makes one call with what the token's file holds now.
func pay(url, file string) call {
	token, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		token, err = os.ReadFile(file) // it may have been replaced in this moment
	}
	if err != nil {
		return call{Result: "there is no token: " + err.Error()}
	}
	return request(http.MethodPost, url, string(token))
}

var httpClient = &http.Client{Timeout: 5 * time.Second}

// request calls the payment API with a token, or without one.
func request(method, url, token string) call {
	req, err := http.NewRequest(method, url+"/payments", strings.NewReader(""))
	if err != nil {
		return call{Result: err.Error()}
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		return call{Result: err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return call{Result: err.Error()}
	}
	var r reply
	if err := json.Unmarshal(body, &r); err != nil {
		return call{Status: resp.StatusCode, Result: "an answer that is not JSON"}
	}
	return call{Status: resp.StatusCode, Result: r.Result, Detail: r.Detail}
}
