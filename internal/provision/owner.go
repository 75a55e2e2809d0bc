// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"crypto/sha256"
	"encoding/base32"
	"regexp"
	"strings"
)

// Owner is the Kubernetes object that something at a server belongs to. Cluster tells the clusters apart that share a
// server; Cluster, Kind, Namespace and Name identify the owner, and UID says which object of that name it was: the
// next one of the same name takes over what an earlier one left.
type Owner struct {
	Cluster   string `json:"cluster"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

// MaxName bounds DisplayName, Mark and the names of credentials in bytes: what the narrowest field of a known server holds.
const MaxName = 128

const markPrefix = "m2m-operator:"

var marks = regexp.MustCompile(`m2m-operator:([a-z2-7]{16})\b`)

// ID identifies the owner in 16 lowercase letters and digits.
func (o Owner) ID() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{o.Cluster, o.Kind, o.Namespace, o.Name}, "\x00")))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:10]))
}

// Tag is in every mark of the owner: it is what to search for.
func (o Owner) Tag() string { return markPrefix + o.ID() }

// Mark is put where the server keeps a text about what it has: it says who the owner is.
func (o Owner) Mark() string { return o.Tag() + "/" + o.UID }

// DisplayName is what the server's own users see: "namespace/name@cluster (m2m-operator:ID)". It holds the mark, and is
// unique among all owners of one kind.
func (o Owner) DisplayName() string {
	cluster := o.Cluster
	if len(cluster) > 16 {
		cluster = cluster[:8]
	}
	mark := " (" + o.Tag() + ")"
	readable := o.Namespace + "/" + o.Name + "@" + cluster
	if most := MaxName - len(mark); len(readable) > most {
		readable = readable[:most]
	}
	return readable + mark
}

// CredentialPrefix begins the names of the owner's credentials.
func (o Owner) CredentialPrefix() string { return "m2m-operator-" + o.ID() + "-" }

// Owns reports whether a text that a server keeps carries the owner's mark.
func (o Owner) Owns(text string) bool { return MarkIn(text) == o.ID() }

// Annotate adds the mark to a text: "text [m2m-operator:ID]".
func (o Owner) Annotate(text string) string {
	return strings.TrimSpace(text + " [" + o.Tag() + "]")
}

// MarkIn returns the ID of the owner whose mark a text carries, "" for none. The last mark counts: what comes before it
// may be a text that somebody else chose.
func MarkIn(text string) string {
	if m := marks.FindAllStringSubmatch(text, -1); len(m) > 0 {
		return m[len(m)-1][1]
	}
	return ""
}
