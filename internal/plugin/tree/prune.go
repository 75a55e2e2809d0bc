// SPDX-License-Identifier: Apache-2.0

package tree

import "slices"

// prune leaves what is wanted: nodes that match, what is above them, and what is below them. A
// server is beside its APIs, not above them. It also stays if an API that stays names it. A
// server of the cluster stays if anything of its issuer does.
func prune(issuers []*Node, o Options, named map[*Node]Ref) []*Node {
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
		stays := map[*Node]bool{}
		servers := map[Ref]bool{}
		for _, n := range root.Children {
			if isServer(n.Kind) && matches(n) || !isServer(n.Kind) && keep(n, matches) {
				stays[n], servers[named[n]] = true, true
			}
		}
		if len(stays) == 0 {
			continue
		}
		root.Children = slices.DeleteFunc(root.Children, func(n *Node) bool {
			aside := isServer(n.Kind) && (o.Only != nil || n.Namespace == "" || servers[n.ref()])
			return !stays[n] && !aside
		})
		kept = append(kept, root)
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
