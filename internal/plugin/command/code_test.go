// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/plugin/command"
)

// TestCode: an error quotes what a tenant or a server wrote, which neither forges a line nor colours the terminal.
func TestCode(t *testing.T) {
	code, message := command.Code(errors.New("the server said \x1b[32mfine\nexit code 0"))
	if want := "error: the server said \uFFFD[32mfine exit code 0"; code != command.CodeFailed || message != want {
		t.Errorf("got %d and %q, want %q", code, message, want)
	}
	a := run(t, time.Unix(0, 0), "access", "\x1b[32mfine\nexit code 0")
	a.ends(t, command.CodeUsage)
	if strings.Contains(a.message, "\x1b") || strings.Count(a.message, "\n") != 1 {
		t.Errorf("the message is %q", a.message)
	}
	if code, message := command.Code(&command.Exit{Code: command.CodeNo}); code != command.CodeNo || message != "" {
		t.Errorf("got %d and %q", code, message)
	}
}
