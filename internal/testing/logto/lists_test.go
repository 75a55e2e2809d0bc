// SPDX-License-Identifier: Apache-2.0

package logto_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

func TestListsArePagedOrWhole(t *testing.T) {
	w := newWorld(t)
	var scopes []string
	for i := range 129 {
		number := fmt.Sprintf("%03d", i)
		scopes = append(scopes, w.do("POST", w.at("resources", w.api, "scopes"), object{"name": "s" + number}).id())
		w.do("POST", "/api/resources", object{"name": "r", "indicator": "https://" + number})
		app := w.CreateApplication("a"+number, "")
		role, err := w.CreateRole("r"+number, "d")
		must(t, err)
		must(t, w.AssignRole(role, w.app))
		must(t, w.AssignRole(w.role, app))
	}
	w.grant(scopes...)
	for name, tc := range map[string]struct {
		path    string
		total   int
		whole   bool // without paging parameters
		ordered bool
	}{
		"resources":               {path: "/api/resources", total: 131, whole: true},
		"resource scopes":         {path: w.at("resources", w.api, "scopes"), total: 131},
		"applications":            {path: "/api/applications", total: 131, whole: true, ordered: true},
		"roles of an application": {path: w.at("applications", w.app, "roles"), total: 129},
		"roles":                   {path: "/api/roles", total: 131},
		"role scopes":             {path: w.at("roles", w.role, "scopes"), total: 129, whole: true},
		"applications of a role":  {path: w.at("roles", w.role, "applications"), total: 129},
	} {
		t.Run(name, func(t *testing.T) {
			bare := w.do("GET", tc.path, nil)
			want, header := 20, fmt.Sprint(tc.total)
			if tc.whole {
				want, header = tc.total, ""
			}
			if n := len(bare.list()); n != want || bare.header.Get("Total-Number") != header {
				t.Errorf("without parameters %d of %q, want %d of %q", n, bare.header.Get("Total-Number"), want, header)
			}
			second := w.do("GET", tc.path+"?page=2", nil)
			if n := len(second.list()); n != 20 || second.header.Get("Total-Number") != fmt.Sprint(tc.total) {
				t.Errorf("page 2 has %d of %q", n, second.header.Get("Total-Number"))
			}
			seen := map[string]bool{}
			var creation []string
			for page, want := range []int{100, tc.total - 100, 0} {
				list := w.do("GET", fmt.Sprintf("%s?page=%d&page_size=100", tc.path, page+1), nil).list()
				if len(list) != want {
					t.Errorf("page %d has %d, want %d", page+1, len(list), want)
				}
				for _, item := range list {
					seen[item["id"].(string)] = true
					creation = append(creation, item["name"].(string))
				}
			}
			if len(seen) != tc.total {
				t.Errorf("the pages have %d different ones, want %d", len(seen), tc.total)
			}
			slices.Reverse(creation)
			names := slices.DeleteFunc(creation, func(name string) bool { return !strings.HasPrefix(name, "a0") })
			if tc.ordered && (len(names) != 100 || !slices.IsSorted(names)) {
				t.Errorf("not in the order of creation: %q", names)
			}
			for _, bad := range []string{"page=0", "page=x", "page_size=101", "page_size=0"} {
				if got := w.do("GET", tc.path+"?"+bad, nil); got.status != 400 || got.code() != "guard.invalid_pagination" {
					t.Errorf("%s: %d %s", bad, got.status, got.raw)
				}
			}
		})
	}
	w.wantNoViolations()
}

func TestUnorderedListsAreInNoOrder(t *testing.T) {
	names := func(w *world) (names []string) {
		for _, r := range w.do("GET", "/api/roles?page_size=100", nil).list() {
			names = append(names, r["name"].(string))
		}
		return names
	}
	orders := map[string]bool{}
	for seed := range uint64(4) {
		w := newWorld(t, logto.WithSeed(seed))
		for i := range 20 {
			if _, err := w.CreateRole(fmt.Sprintf("r%02d", i), "d"); err != nil {
				t.Fatal(err)
			}
		}
		before := names(w)
		if diff := cmp.Diff(before, names(w)); diff != "" {
			t.Errorf("seed %d: the order changes by itself:\n%s", seed, diff)
		}
		for _, r := range w.Snapshot().Roles {
			must(t, w.DescribeRole(r.ID, "other"))
		}
		if after := names(w); cmp.Equal(before, after) {
			t.Errorf("seed %d: updates leave the order: %q", seed, after)
		}
		orders[strings.Join(before, " ")] = true
	}
	if len(orders) != 4 {
		t.Errorf("%d different orders of 4 seeds", len(orders))
	}
}

func TestSearch(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"Shop_A", "shop_a", "shopXa", "shop_a extra"} {
		w.CreateApplication(name, "")
		role, err := w.CreateRole(name, "d")
		must(t, err)
		must(t, w.AssignRole(role, w.app))
	}
	for name, tc := range map[string]struct {
		query string
		want  []string
	}{
		"exact ignores case":       {"search.name=shop_a&mode.name=exact", []string{"Shop_A", "shop_a"}},
		"exact and case-sensitive": {"search.name=shop_a&mode.name=exact&isCaseSensitive=true", []string{"shop_a"}},
		"by default _ matches any": {"search.name=shop_a", []string{"Shop_A", "shop_a", "shopXa"}},
		"by default % matches all": {"search.name=shop_a%25", []string{"Shop_A", "shop_a", "shopXa", "shop_a extra"}},
		"like with a backslash":    {"search.name=shop%5C_a&isCaseSensitive=true", []string{"shop_a"}},
		"no match":                 {"search.name=none&mode.name=exact", nil},
	} {
		for _, path := range []string{"/api/applications", "/api/roles", w.at("applications", w.app, "roles")} {
			t.Run(name+" at "+path[4:8], func(t *testing.T) {
				var got []string
				answer := w.do("GET", path+"?"+tc.query, nil)
				for _, item := range answer.list() {
					got = append(got, item["name"].(string))
				}
				if diff := cmp.Diff(tc.want, got, cmpopts.SortSlices(strings.Compare)); diff != "" {
					t.Errorf("%d (-want +got):\n%s", answer.status, diff)
				}
			})
		}
	}
	w.wantNoViolations()
}

// TestSearchOfEverything: a search that names no field covers names and descriptions,
// and never custom data.
func TestSearchOfEverything(t *testing.T) {
	w := newWorld(t)
	must(t, w.SetCustomData(w.CreateApplication("by its custom data", ""), map[string]any{"mark": "shop/cart"}))
	w.CreateApplication("by its name: shop/cart", "")
	w.CreateApplication("by its description", "of shop/cart")
	w.CreateApplication("by another case", "of Shop/Cart")
	for name, description := range map[string]string{"by its name: shop/cart": "d", "by its description": "of shop/cart", "by another case": "of Shop/Cart"} {
		role, err := w.CreateRole(name, description)
		must(t, err)
		must(t, w.AssignRole(role, w.app))
	}
	for query, want := range map[string][]string{
		"search=%25shop/cart%25":                                              {"by another case", "by its description", "by its name: shop/cart"},
		"search=%25shop/cart%25&isCaseSensitive=true":                         {"by its description", "by its name: shop/cart"},
		"search=of+shop/cart&mode=exact":                                      {"by another case", "by its description"},
		"search=of+Shop/Cart&isCaseSensitive=true&search.name=%25its+name%25": {"by another case", "by its name: shop/cart"},
	} {
		for _, path := range []string{"/api/applications", "/api/roles", w.at("applications", w.app, "roles")} {
			var got []string
			for _, item := range w.do("GET", path+"?"+query, nil).list() {
				got = append(got, item["name"].(string))
			}
			if diff := cmp.Diff(want, got, cmpopts.SortSlices(strings.Compare)); diff != "" {
				t.Errorf("%s?%s (-want +got):\n%s", path, query, diff)
			}
		}
	}
	w.wantNoViolations()
}
