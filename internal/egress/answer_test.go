// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for name, tc := range map[string]struct {
		value string
		date  string
		blind bool // the caller has no clock
		want  time.Duration
	}{
		"nothing said":                            {},
		"seconds":                                 {value: "120", want: 2 * time.Minute},
		"no wait":                                 {value: "0"},
		"seconds between spaces":                  {value: " 7\t", want: 7 * time.Second},
		"seconds with zeros before":               {value: "007", want: 7 * time.Second},
		"exactly the cap":                         {value: "3600", want: time.Hour},
		"more than the cap":                       {value: "3601", want: time.Hour},
		"more than 32 bits":                       {value: "99999999999", want: time.Hour},
		"more seconds than a duration holds":      {value: "9223372036854775807", want: time.Hour},
		"more than 64 bits":                       {value: strings.Repeat("9", 40), want: time.Hour},
		"a negative number":                       {value: "-5"},
		"a huge negative number":                  {value: "-" + strings.Repeat("9", 40)},
		"a sign, which the grammar does not have": {value: "+5"},
		"a fraction":                              {value: "1.5"},
		"an exponent":                             {value: "1e3"},
		"hexadecimal":                             {value: "0x10"},
		"digits of another script":                {value: "٥"},
		"a unit":                                  {value: "5s"},
		"a word":                                  {value: "soon"},
		"two values":                              {value: "5, 10"},

		"a date":                                {value: at(90 * time.Second), want: 90 * time.Second},
		"a date that has passed":                {value: at(-time.Hour)},
		"a date years ahead":                    {value: now.AddDate(9, 0, 0).Format(http.TimeFormat), want: time.Hour},
		"a date beyond what a duration holds":   {value: "Fri, 31 Dec 9999 23:59:59 GMT", want: time.Hour},
		"the first of all dates":                {value: "Mon, 01 Jan 0001 00:00:00 GMT"},
		"a date in the form of RFC 850":         {value: now.Add(time.Minute).Format("Monday, 02-Jan-06 15:04:05 GMT"), want: time.Minute},
		"a date in the form of asctime":         {value: now.Add(time.Minute).Format(time.ANSIC), want: time.Minute},
		"a date in another form":                {value: now.Add(time.Minute).Format(time.RFC3339)},
		"a date by a clock that is fast":        {value: at(2*time.Hour + 9*time.Second), date: at(2 * time.Hour), want: 9 * time.Second},
		"a date by a clock that is slow":        {value: at(-2*time.Hour + 9*time.Second), date: at(-2 * time.Hour), want: 9 * time.Second},
		"a date before the answer's own":        {value: at(time.Minute), date: at(time.Hour)},
		"a date beside a Date that is none":     {value: at(time.Minute), date: "today", want: time.Minute},
		"a date for one without a clock":        {value: at(time.Minute), blind: true},
		"both dates for one without a clock":    {value: at(time.Minute), date: at(0), blind: true, want: time.Minute},
		"seconds for one without a clock":       {value: "5", blind: true, want: 5 * time.Second},
		"seconds do not depend on any clock":    {value: "5", date: at(-24 * time.Hour), want: 5 * time.Second},
		"an epoch's second is taken for a wait": {value: "1772366400", want: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.Header{}
			if tc.value != "" {
				h.Set("Retry-After", tc.value)
			}
			if tc.date != "" {
				h.Set("Date", tc.date)
			}
			clock := now
			if tc.blind {
				clock = time.Time{}
			}
			if got := RetryAfter(h, clock); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func FuzzRetryAfter(f *testing.F) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, value := range []string{"", "0", "120", "-1", "+5", strings.Repeat("9", 40), "soon", "Sun, 01 Mar 2026 12:01:30 GMT",
		"Sunday, 01-Mar-26 12:01:30 GMT", "Sun Mar  1 12:01:30 2026", "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT"} {
		f.Add(value, "")
		f.Add(value, "Sun, 01 Mar 2026 12:00:00 GMT")
		f.Add("120", value)
	}
	f.Fuzz(func(t *testing.T, value, date string) {
		h := http.Header{"Retry-After": {value}, "Date": {date}}
		got := RetryAfter(h, now)
		if got < 0 || got > MaxRetryAfter {
			t.Fatalf("got %s for %q at %q", got, value, date)
		}
		trimmed := strings.TrimSpace(value)
		if digits := trimmed != "" && strings.Trim(trimmed, "0123456789") == ""; digits && got == 0 != (strings.Trim(trimmed, "0") == "") {
			t.Fatalf("got %s for the seconds %q", got, value)
		}
		if blind := RetryAfter(h, time.Time{}); blind != got && blind != 0 {
			t.Fatalf("without a clock %s, with one %s, for %q at %q", blind, got, value, date)
		}
	})
}

func TestReadBody(t *testing.T) {
	broken := errors.New("connection reset")
	for name, tc := range map[string]struct {
		body    io.Reader
		want    int
		wantErr error
	}{
		"an empty body is whole":         {body: strings.NewReader("")},
		"a short one":                    {body: strings.NewReader("{}"), want: 2},
		"byte by byte":                   {body: iotest.OneByteReader(strings.NewReader("{}")), want: 2},
		"a body of exactly the bound":    {body: bytes.NewReader(make([]byte, MaxBody)), want: MaxBody},
		"a body of one byte more":        {body: bytes.NewReader(make([]byte, MaxBody+1)), want: MaxBody, wantErr: ErrBodyTooLarge},
		"a body without an end":          {body: endless{}, want: MaxBody, wantErr: ErrBodyTooLarge},
		"a body that breaks off":         {body: io.MultiReader(strings.NewReader("{"), iotest.ErrReader(broken)), want: 1, wantErr: broken},
		"one that breaks at the bound":   {body: io.MultiReader(bytes.NewReader(make([]byte, MaxBody)), iotest.ErrReader(broken)), want: MaxBody, wantErr: broken},
		"what a client bounded already":  {body: &boundedBody{Reader: endless{}, left: MaxBody}, want: MaxBody, wantErr: ErrBodyTooLarge},
		"an error beside the last bytes": {body: iotest.DataErrReader(strings.NewReader("{}")), want: 2},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ReadBody(tc.body)
			if len(got) != tc.want || !errors.Is(err, tc.wantErr) {
				t.Errorf("read %d bytes, %v; want %d, %v", len(got), err, tc.want, tc.wantErr)
			}
		})
	}
}

// TestTheBoundHoldsForEveryBuffer: a reader may bring a buffer of any size.
func TestTheBoundHoldsForEveryBuffer(t *testing.T) {
	for size := 1; size < 8; size++ {
		for body, tooLarge := range map[string]bool{"": false, "abc": false, "abcd": false, "abcde": true, "abcdefghijk": true} {
			b, p, got, err := &boundedBody{Reader: strings.NewReader(body), left: 4}, make([]byte, size), "", error(nil)
			for n := 0; err == nil; got += string(p[:n]) {
				n, err = b.Read(p)
			}
			want, wantErr := body, io.EOF
			if tooLarge {
				want, wantErr = body[:4], ErrBodyTooLarge
			}
			if got != want || !errors.Is(err, wantErr) {
				t.Errorf("%d bytes at a time: %q of %q, %v", size, got, body, err)
			}
		}
	}
}

// endless is a body that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
