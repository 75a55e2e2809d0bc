// SPDX-License-Identifier: Apache-2.0

package management

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// Item is an element of a list. Key is unique within the list.
type Item interface{ Key() string }

// Lists are read in the largest pages, or in smaller ones if such a page exceeds the bound of a body.
const (
	largestPage  = 100
	smallestPage = 4
	listTries    = 4
)

// List reads all pages of a list. Most lists of Logto have no order, and others change them meanwhile, so a thing may
// be on two pages or on none. List repeats the reading until it has as many as the server said there were.
func List[T Item](ctx context.Context, a *API, doing, path string, query url.Values) ([]T, error) {
	size := largestPage
	for try := 0; try < listTries; try++ {
		all, whole, err := listOnce[T](ctx, a, doing, path, query, size)
		var large tooLarge
		switch {
		case errors.As(err, &large) && size/5 >= smallestPage:
			size, try = size/5, -1
		case large.told != nil:
			return nil, large.told
		case err != nil:
			return nil, err
		case whole:
			return all, nil
		}
	}
	return nil, Request{Doing: doing}.Failed(provision.Unavailable, "the list changed while it was read")
}

func listOnce[T Item](ctx context.Context, a *API, doing, path string, query url.Values, size int) (all []T, whole bool, err error) {
	seen := map[string]bool{}
	most := 0 // how many there were at the beginning, or more
	for page := 1; ; page++ {
		q := url.Values{"page": {strconv.Itoa(page)}, "page_size": {strconv.Itoa(size)}}
		for name, value := range query {
			q[name] = value
		}
		r := Request{Doing: doing, Method: http.MethodGet, Path: path, Query: q}
		var items []T
		header, err := a.call(ctx, r, &items)
		if err != nil {
			return nil, false, err
		}
		total, err := strconv.Atoi(header.Get("Total-Number"))
		if err != nil || total < 0 {
			return nil, false, r.Failed(provision.Unavailable, "the answer lacks the total number")
		}
		for _, item := range items {
			switch key := item.Key(); {
			case key == "":
				return nil, false, r.Failed(provision.Unavailable, "the answer has an entry without an id")
			case !seen[key]:
				seen[key] = true
				all = append(all, item)
			}
		}
		if page == 1 {
			most = total
		}
		// The list need not hold what was created meanwhile. But a deletion may have moved something past the reader.
		if total < most {
			return nil, false, nil
		}
		if len(items) == 0 || page*size >= total {
			return all, len(all) >= most, nil
		}
	}
}
