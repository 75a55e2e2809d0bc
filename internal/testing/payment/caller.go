// SPDX-License-Identifier: Apache-2.0

package payment

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"
)

// Call is the outcome of one call of the payment API. It contains nothing of the
// token.
type Call struct {
	Status int    `json:"status,omitempty"` // 0 if there was no answer
	Result string `json:"result"`
	Detail string `json:"detail,omitempty"`
}

func (c Call) String() string {
	s := fmt.Sprintf("%d %s", c.Status, c.Result)
	if c.Detail != "" {
		s += ": " + c.Detail
	}
	return s
}

// Pay makes one call with the present token in the file.
func Pay(url, file string) Call {
	token, err := Token(file)
	if err != nil {
		return Call{Result: "there is no token: " + err.Error()}
	}
	return Request(http.MethodPost, url, token)
}

// Token returns the present token in the file.
func Token(file string) (string, error) {
	token, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		token, err = os.ReadFile(file) // a writer may be replacing it at this moment
	}
	return string(token), err
}

var httpClient = &http.Client{Timeout: 5 * time.Second}

// Request calls the payment API with a token, or without one.
func Request(method, url, token string) Call {
	req, err := http.NewRequest(method, url+"/payments", strings.NewReader(""))
	if err != nil {
		return Call{Result: err.Error()}
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		return Call{Result: err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return Call{Result: err.Error()}
	}
	var r reply
	if err := json.Unmarshal(body, &r); err != nil {
		return Call{Status: resp.StatusCode, Result: "an answer that is not JSON"}
	}
	return Call{Status: resp.StatusCode, Result: r.Result, Detail: r.Detail}
}
