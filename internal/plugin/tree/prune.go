// SPDX-License-Identifier: Apache-2.0

package tree

import "slices"

// prune leaves what is wanted: nodes that match, what is above them, and what is below them. A
// server has its APIs beside it, so it also stays if something that stays belongs to its
// issuer and nothing else was asked for.
func prune(issuers []*Node, o Options) []*Node {
	if o.Only == nil && o.Namespace == "" {
		return issuers
	}
	matches := func(n *Node) bool {
		if o.Only != nil {
			return n.ref() == *o.Only
		}
		return n.Namespace == o.Namespace
	}
	var kept []*Node
	for _, root := range issuers {
		if o.Only != nil && (root.ref() == *o.Only || isServer(o.Only.Kind) && slices.ContainsFunc(root.Children, matches)) {
			kept = append(kept, root)
			continue
		}
		var children []*Node
		found := false
		for _, n := range root.Children {
			if isServer(n.Kind) {
				if matches(n) || o.Only != nil || n.Namespace == "" {
					children = append(children, n)
				}
				found = found || matches(n)
				continue
			}
			if keep(n, matches) {
				children, found = append(children, n), true
			}
		}
		if found {
			root.Children = children
			kept = append(kept, root)
		}
	}
	return kept
}

func isServer(kind string) bool {
	return kind == "AuthorizationServer" || kind == "ClusterAuthorizationServer"
}

// keep prunes below a node that does not match, and reports whether something is left.
func keep(n *Node, matches func(*Node) bool) bool {
	if matches(n) {
		return true
	}
	n.Children = slices.DeleteFunc(n.Children, func(c *Node) bool { return !keep(c, matches) })
	return len(n.Children) > 0
}
