// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"k8s.io/utils/clock"
)

const (
	// smallBody is the longest body that counts as small; pods do. Large bodies have
	// limits of their own and never displace small ones.
	smallBody = 128 << 10
	// smallBytes and largeBytes limit the unanswered bodies, answerBytes the answers
	// that callers have not read yet.
	smallBytes  = 8 << 20
	largeBytes  = 16 << 20
	answerBytes = 8 << 20
	// smallTurns and largeTurns limit how many are answered at a time.
	smallTurns = 4
	largeTurns = 2
	// bodyGrace is how long a body may take before another can displace it.
	bodyGrace = 200 * time.Millisecond
	// bodyPatience is how long a request waits for room.
	bodyPatience = 1500 * time.Millisecond
)

// Bytes is how many bytes of bodies a handler made by Buffered holds at most.
const Bytes = smallBytes + largeBytes

// Answer returns the answer to a request, in JSON.
type Answer func(req *http.Request, body []byte) []byte

// buffered reads bodies within limits.
type buffered struct {
	largest      int64
	small, large class
	answers      *Shares
	clock        clock.PassiveClock // of deadlines
	next         Answer
}

// class is a size of bodies that has its own limits.
type class struct {
	bytes *Shares
	turns chan struct{} // holds one element for each request being answered
}

func newClass(bytes int64, turns int) class {
	return class{NewShares(bytes, bodyGrace, clock.RealClock{}), make(chan struct{}, turns)}
}

// Buffered returns a handler that reads the whole body, of at most largest bytes, and
// then calls next, for a few requests at a time. A request for which there is no room
// gets 429 and may be repeated.
func Buffered(largest int64, next Answer) http.Handler {
	return &buffered{
		largest: largest,
		small:   newClass(smallBytes, smallTurns),
		large:   newClass(largeBytes, largeTurns),
		answers: NewShares(answerBytes, bodyGrace, clock.RealClock{}),
		clock:   clock.RealClock{},
		next:    next,
	}
}

func (b *buffered) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	answer, refused := b.answer(w, req)
	owner, closing := host(req.RemoteAddr), closeOf(req.Context())
	if refused == nil {
		// A caller who does not read the answer keeps it in memory.
		if share := b.answers.Take(owner, int64(len(answer)), closing); share != nil {
			defer share.Release()
		} else {
			refused = &refusal{http.StatusTooManyRequests, "too much is asked at a time"}
		}
	}
	control := http.NewResponseController(w)
	if refused != nil {
		if refused.status == http.StatusTooManyRequests {
			// A caller who is cut off while sending does not see the answer. So read the
			// body to its end; discarding takes no memory.
			_ = control.SetReadDeadline(b.clock.Now().Add(BodyTimeout))
			_, _ = io.CopyN(io.Discard, req.Body, min(req.ContentLength, b.largest))
			w.Header().Set("Retry-After", "1")
		}
		w.Header().Set("Connection", "close")
		_ = control.SetWriteDeadline(b.clock.Now().Add(BodyTimeout))
		http.Error(w, refused.text, refused.status)
		return
	}
	_ = control.SetWriteDeadline(b.clock.Now().Add(BodyTimeout))
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer) //nolint:gosec // JSON, not for browsers
}

// refusal is the error that a request gets instead of an answer.
type refusal struct {
	status int
	text   string
}

// answer reads the body and calls next.
func (b *buffered) answer(w http.ResponseWriter, req *http.Request) ([]byte, *refusal) {
	size := req.ContentLength
	switch {
	case req.Method != http.MethodPost:
		return nil, &refusal{http.StatusMethodNotAllowed, "POST it"}
	case size < 0:
		return nil, &refusal{http.StatusLengthRequired, "say how long the body is"}
	case size > b.largest:
		return nil, &refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body may have %d bytes", b.largest)}
	}
	of := b.large
	if size <= smallBody {
		of = b.small
	}
	// Reserve the declared length before reading anything.
	patience, cancel := context.WithTimeout(req.Context(), bodyPatience)
	defer cancel()
	share := of.bytes.Wait(patience, host(req.RemoteAddr), size, closeOf(req.Context()))
	if share == nil {
		return nil, &refusal{http.StatusTooManyRequests, "too much is asked at a time"}
	}
	defer share.Release()
	body, refused := b.read(w, req, size)
	if refused != nil {
		return nil, refused
	}
	share.Settle(true)
	settle(req.Context(), true)
	defer settle(req.Context(), false)
	select {
	case of.turns <- struct{}{}:
		defer func() { <-of.turns }()
		return b.next(req, body), nil
	case <-req.Context().Done():
		return nil, &refusal{http.StatusServiceUnavailable, "nobody waits for the answer"}
	}
}

// read returns the whole body.
func (b *buffered) read(w http.ResponseWriter, req *http.Request, size int64) ([]byte, *refusal) {
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(b.clock.Now().Add(BodyTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, &refusal{http.StatusInternalServerError, "the time for the body cannot be set"}
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(req.Body, body); err != nil {
		return nil, &refusal{http.StatusRequestTimeout, "the body has not come in time"}
	}
	_ = control.SetReadDeadline(b.clock.Now().Add(requestTimeout)) // the server goes on reading to notice when the caller leaves
	return body, nil
}
