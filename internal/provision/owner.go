// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"crypto/sha256"
	"encoding/base32"
	"regexp"
	"strings"
)

// Owner is the Kubernetes object that owns something at a server. Cluster distinguishes clusters that share a server.
// Cluster, Kind, Namespace and Name identify the owner. UID tells objects of the same name apart: the next one takes
// over what an earlier one left.
type Owner struct {
	Cluster   string `json:"cluster"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

// MaxName bounds DisplayName, Mark and the names of credentials, in bytes. It is what the narrowest field of any known
// server holds.
const MaxName = 128

const markPrefix = "m2m-operator:"

var marks = regexp.MustCompile(`m2m-operator:([a-z2-7]{16})\b`)

// ID identifies the owner in 16 lowercase letters and digits.
func (o Owner) ID() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{o.Cluster, o.Kind, o.Namespace, o.Name}, "\x00")))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:10]))
}

// Tag is part of every mark of the owner, and what to search for.
func (o Owner) Tag() string { return markPrefix + o.ID() }

// Mark goes where the server keeps a text about an object, and names the owner.
func (o Owner) Mark() string { return o.Tag() + "/" + o.UID }

// DisplayName is what users of the server see: "namespace/name@cluster (m2m-operator:ID)". It holds the mark, and is
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

// Owns reports whether a text at the server carries the owner's mark.
func (o Owner) Owns(text string) bool { return MarkIn(text) == o.ID() }

// Annotate adds the mark to a text: "text [m2m-operator:ID]".
func (o Owner) Annotate(text string) string {
	return strings.TrimSpace(text + " [" + o.Tag() + "]")
}

// MarkIn returns the ID of the owner whose mark a text carries, "" for none. The last mark counts, because somebody
// else may have chosen the text before it.
func MarkIn(text string) string {
	if m := marks.FindAllStringSubmatch(text, -1); len(m) > 0 {
		return m[len(m)-1][1]
	}
	return ""
}
