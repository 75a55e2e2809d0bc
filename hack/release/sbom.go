// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"runtime/debug"
	"strings"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
)

// artifact is a file or an image that holds one program.
type artifact struct {
	name          string // of the file, or of the image with its digest
	sha256        string
	purpose, purl string
}

// sbom describes, in SPDX 2.3, an artifact, the program in it, and the modules that the
// program was built from, as Go recorded them in the program.
func (r *release) sbom(name string, a artifact, info *debug.BuildInfo) ([]byte, error) {
	holder := r.pack("artifact", a.name, r.version, a.purl)
	holder.PrimaryPackagePurpose = a.purpose
	holder.PackageChecksums = []spdx.Checksum{{Algorithm: spdx.SHA256, Value: a.sha256}}
	program := r.pack("program", info.Path, r.version, "pkg:golang/"+module+"@"+r.version+"#"+strings.TrimPrefix(info.Path, module+"/"))
	program.PackageSourceInfo = "commit " + r.commit.hash + " of https://" + module
	program.PrimaryPackagePurpose = "APPLICATION"
	for _, p := range []*spdx.Package{holder, program} {
		p.PackageLicenseConcluded, p.PackageLicenseDeclared = "Apache-2.0", "Apache-2.0"
	}
	document := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT", DocumentName: name,
		DocumentNamespace: fmt.Sprintf("https://%s/spdx/%s/%s-%s", module, r.version, name, a.sha256),
		CreationInfo: &spdx.CreationInfo{
			Created:  r.commit.at.Format("2006-01-02T15:04:05Z"),
			Creators: []spdx.Creator{{CreatorType: "Organization", Creator: "m2m-operator"}, {CreatorType: "Tool", Creator: "hack/release"}},
		},
		Packages: []*spdx.Package{holder, program},
		Relationships: []*spdx.Relationship{
			related("DOCUMENT", "DESCRIBES", "artifact"), related("artifact", "CONTAINS", "program"),
		},
	}
	depend := func(p *spdx.Package) {
		document.Packages = append(document.Packages, p)
		document.Relationships = append(document.Relationships, related("program", "DEPENDS_ON", string(p.PackageSPDXIdentifier)))
	}
	depend(r.pack("go", "stdlib", strings.TrimPrefix(r.goVersion, "go"), "pkg:golang/stdlib@"+strings.TrimPrefix(r.goVersion, "go")))
	for i, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		p := r.pack(fmt.Sprintf("module-%d", i+1), m.Path, m.Version, "pkg:golang/"+m.Path+"@"+m.Version)
		p.PackageDownloadLocation = "https://" + m.Path
		p.PackageSourceInfo = "go.sum: " + m.Sum
		depend(p)
	}
	var b bytes.Buffer
	err := spdxjson.Write(document, &b, spdxjson.Indent("  "))
	return b.Bytes(), err
}

// pack describes a package about which little is known.
func (r *release) pack(id, name, version, purl string) *spdx.Package {
	return &spdx.Package{
		PackageSPDXIdentifier: spdx.ElementID(id), PackageName: name, PackageVersion: version,
		PackageDownloadLocation: "NOASSERTION", IsFilesAnalyzedTagPresent: true,
		PackageLicenseConcluded: "NOASSERTION", PackageLicenseDeclared: "NOASSERTION", PackageCopyrightText: "NOASSERTION",
		PackageExternalReferences: []*spdx.PackageExternalReference{{
			Category: spdx.CategoryPackageManager, RefType: spdx.PackageManagerPURL, Locator: purl,
		}},
	}
}

func related(a, how, b string) *spdx.Relationship {
	return &spdx.Relationship{
		RefA: spdx.DocElementID{ElementRefID: spdx.ElementID(a)}, RefB: spdx.DocElementID{ElementRefID: spdx.ElementID(b)}, Relationship: how,
	}
}
