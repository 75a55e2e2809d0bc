// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/testing/payment"
)

// calls counts the calls that cart processes report.
type calls struct {
	total, failed atomic.Int64
	failures      chan payment.Call // the first few failed calls
	ready         time.Time         // when the cart had become ready, as of the first call of many
}

func newCalls() *calls { return &calls{failures: make(chan payment.Call, 3)} }

// read counts the calls that a cart process reports, until it ends, and returns
// the last one.
func (c *calls) read(report io.Reader) (last payment.Call) {
	lines := bufio.NewScanner(report)
	for lines.Scan() {
		last = payment.Call{}
		if err := json.Unmarshal(lines.Bytes(), &last); err != nil {
			last = payment.Call{Result: "a report that is not JSON"}
		}
		c.total.Add(1)
		if last.Status != 200 {
			c.failed.Add(1)
			select {
			case c.failures <- last:
			default:
			}
		}
	}
	return last
}

// check returns an error if a call has failed, with the first of them.
func (c *calls) check() error {
	n := c.failed.Load()
	if n == 0 {
		return nil
	}
	examples := []string{}
	for len(c.failures) > 0 {
		examples = append(examples, (<-c.failures).String())
	}
	return fmt.Errorf("%d of %d calls failed: %s", n, c.total.Load(), strings.Join(examples, "; "))
}
