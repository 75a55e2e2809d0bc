// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// MaxBody is how many bytes of an answer's body are read, counted after decompression. Token answers, JWKS and
	// discovery documents are a few kilobytes.
	MaxBody = 1 << 19

	// MaxRetryAfter caps Retry-After, so that a server's slip does not silence the operator for days.
	MaxRetryAfter = time.Hour
)

// ErrBodyTooLarge is what reading an answer's body ends with once more than MaxBody bytes have come.
var ErrBodyTooLarge = fmt.Errorf("answer is larger than %d bytes", MaxBody)

// ReadBody reads an answer's body to its end, of which more than MaxBody bytes are ErrBodyTooLarge. Like io.ReadAll it
// returns what it read beside an error. The bodies of this package's clients are bounded already; those of other
// clients are not.
func ReadBody(body io.Reader) ([]byte, error) {
	return io.ReadAll(&boundedBody{Reader: body, left: MaxBody})
}

// RetryAfter returns how long a server asks to be left alone (RFC 9110 section 10.2.3), at most MaxRetryAfter; 0 if it
// does not ask, or in a form that the RFC does not know.
//
// A date counts from the answer's own Date, because the server's clock need not agree with ours; without a Date it
// counts from now, when the answer came. A caller without a clock passes the zero time and does not learn of such dates.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if until, err := http.ParseTime(value); err == nil {
		if date, err := http.ParseTime(h.Get("Date")); err == nil {
			now = date
		}
		if now.IsZero() {
			return 0
		}
		return min(max(until.Sub(now), 0), MaxRetryAfter)
	}
	// A number that is out of range comes as the greatest one, and everything else that is wrong as zero.
	seconds, _ := strconv.ParseUint(value, 10, 64)
	return time.Duration(min(seconds, uint64(MaxRetryAfter/time.Second))) * time.Second
}

// boundedBody fails where io.LimitReader would end quietly: a JWKS cut in the middle must not pass for a short one.
type boundedBody struct {
	io.Reader
	left int64 // bytes that may still be handed out; negative once there were more
}

// Read implements io.Reader.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, ErrBodyTooLarge
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1] // one byte more than allowed tells "exactly full" from "too large"
	}
	n, err := b.Reader.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return n - 1, ErrBodyTooLarge
	}
	return n, err
}
