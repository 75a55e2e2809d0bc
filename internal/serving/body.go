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
	// smallBody is the length up to which a body counts as small. Pods are; those
	// that are not never take the place of those that are.
	smallBody = 128 << 10
	// smallBytes, largeBytes and answerBytes bound the bodies that are not
	// answered yet, and the answers that are not taken yet.
	smallBytes  = 8 << 20
	largeBytes  = 16 << 20
	answerBytes = 8 << 20
	// smallTurns and largeTurns are how many are answered at a time.
	smallTurns = 4
	largeTurns = 2
	// bodyGrace is how long a body may be under way before another can take its place.
	bodyGrace = 200 * time.Millisecond
	// bodyPatience is how long a request waits until others are answered.
	bodyPatience = 1500 * time.Millisecond
)

// Bytes is how many bytes of bodies a handler of Buffered has in memory at a time.
const Bytes = smallBytes + largeBytes

// Answer is what a request with a body is answered, in JSON.
type Answer func(req *http.Request, body []byte) []byte

// buffered reads bodies within its bounds.
type buffered struct {
	largest      int64
	small, large class
	answers      *Shares
	clock        clock.PassiveClock // of deadlines
	next         Answer
}

// class has a budget of its own.
type class struct {
	bytes *Shares
	turns chan struct{} // one for each request that is answered at a time
}

func newClass(bytes int64, turns int) class {
	return class{NewShares(bytes, bodyGrace, clock.RealClock{}), make(chan struct{}, turns)}
}

// Buffered returns a handler of requests whose body has at most so many bytes, all
// of which are read before the function is called. It is called for a few requests
// at a time. A request for which there is no room is answered 429, and may come
// again.
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
		// Who does not take the answer keeps it in memory.
		if share := b.answers.Take(owner, int64(len(answer)), closing); share != nil {
			defer share.Release()
		} else {
			refused = &refusal{http.StatusTooManyRequests, "too much is asked at a time"}
		}
	}
	control := http.NewResponseController(w)
	if refused != nil {
		if refused.status == http.StatusTooManyRequests {
			// Who is cut off in the midst of his body does not see the answer. What
			// is thrown away takes no memory.
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
	_, _ = w.Write(answer) //nolint:gosec // JSON, for no browser
}

// refusal is why a request gets no answer.
type refusal struct {
	status int
	text   string
}

// answer reads the body and has it answered.
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
	// What is declared is reserved before anything is read.
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
	_ = control.SetReadDeadline(b.clock.Now().Add(requestTimeout)) // the server reads on, to see the caller go
	return body, nil
}
