// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestWeather: a part of the requests meets faults, the same ones with the same seed, and
// watches go on until they are cut.
func TestWeather(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "an answer")
		if r.URL.Query().Has("watch") {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	}))
	defer api.Close()
	said := func(w *Weather) string {
		t.Helper()
		var all strings.Builder
		over := w.Through(APIServer, http.DefaultTransport)
		for range 300 {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, api.URL+"/api/v1/namespaces/shop/secrets/cart", http.NoBody)
			resp, err := over.RoundTrip(req)
			if err != nil {
				fmt.Fprintln(&all, err)
				continue
			}
			_, err = io.ReadAll(resp.Body)
			fmt.Fprintln(&all, resp.StatusCode, err, resp.Body.Close())
		}
		return all.String()
	}

	fine := NewWeather(1)
	if got := said(fine); got != strings.Repeat("200 <nil> <nil>\n", 300) || len(fine.Faults()) != 0 || fine.Requests() != 300 {
		t.Errorf("in fine weather there are the faults %v in %d requests:\n%s", fine.Faults(), fine.Requests(), got)
	}
	one, again, other := NewWeather(1), NewWeather(1), NewWeather(2)
	for _, w := range []*Weather{one, again, other} {
		w.Set(0.5)
	}
	got := said(one)
	if said(again) != got || said(other) == got {
		t.Error("the weather is not that of its seed")
	}
	n := 0
	for _, f := range one.Faults() {
		n += f
	}
	if met := one.Faults(); n < 100 || n > 200 || len(met) != 8 || met[KillBefore]+met[KillAfter] > 0 {
		t.Errorf("%d of 300 requests met faults: %v", n, met)
	}

	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, api.URL+"/api/v1/secrets?watch=true", http.NoBody)
	resp, err := one.Through(APIServer, http.DefaultTransport).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, len("an answer"))); err != nil {
		t.Fatal(err)
	}
	if n := one.CutWatches(); n != 1 {
		t.Errorf("%d watches were cut", n)
	}
	if _, err := resp.Body.Read(make([]byte, 1)); err == nil {
		t.Error("the watch goes on")
	}
	_ = resp.Body.Close()
	if n := one.CutWatches(); n != 0 {
		t.Errorf("%d more watches were cut", n)
	}
}
