// SPDX-License-Identifier: Apache-2.0

// Command image makes container images of static programs, and needs no
// container engine for it: an image is a few JSON documents and an archive.
//
// Each has one layer with the named files, all executable, and nothing else: no
// shell, no libc, no certificates. The same files and flags make the same bytes,
// on every machine.
//
//	image -tag m2m-operator:dev -platform linux/amd64,linux/arm64 -build ./cmd=/manager -o image.tar
//	image -tag cart:dev -file linux/amd64:bin/cart=/cart -o cart.tar
//
// -build compiles a package of the module in the working directory for every
// platform; -file takes a file as it is, for all platforms or for one. What -o
// writes is an OCI image layout as well as what docker save writes, so that
// `ctr images import`, `docker load`, skopeo and crane take it. -push sends the
// image to its registry with the credentials that docker login left.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// options are what the flags say.
type options struct {
	reference name.Tag
	platforms []v1.Platform
	spec      spec
	out       string
	push      bool
}

func parse(args []string) (*options, error) {
	o := &options{spec: spec{labels: map[string]string{}}}
	var tag, platforms string
	var created int64
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // a mistake is told in one line
	flags.StringVar(&tag, "tag", "", "`name` of the image, with its registry and tag")
	flags.StringVar(&platforms, "platform", "linux/amd64", "`platforms`, separated by commas")
	flags.StringVar(&o.out, "o", "", "write the image to this `file`")
	flags.BoolVar(&o.push, "push", false, "push the image to its registry")
	flags.StringVar(&o.spec.user, "user", "65532:65532", "user and group that it runs as")
	flags.Int64Var(&created, "created", 0, "when it was made, in `seconds` since the epoch")
	flags.Func("build", "`PACKAGE=/PATH`: compile a Go package", func(s string) error {
		return o.spec.add(s, true)
	})
	flags.Func("file", "`[PLATFORM:]FILE=/PATH`: put in a program; the first one is the image's entrypoint", func(s string) error {
		return o.spec.add(s, false)
	})
	flags.Func("label", "`KEY=VALUE`: say something about the image", func(s string) error {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			return errors.New("want KEY=VALUE")
		}
		o.spec.labels[key] = value
		return nil
	})
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(os.Stderr)
			flags.PrintDefaults()
		}
		return nil, err
	}
	switch {
	case flags.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q: every option is a flag", flags.Arg(0))
	case len(o.spec.programs) == 0:
		return nil, errors.New("nothing to put in: say -build or -file")
	case o.out == "" && !o.push:
		return nil, errors.New("nowhere to put it: say -o or -push")
	}
	var err error
	if o.reference, err = name.NewTag(tag); err != nil {
		return nil, fmt.Errorf("-tag: %w", err)
	}
	for p := range strings.SplitSeq(platforms, ",") {
		platform, err := v1.ParsePlatform(p)
		if err != nil || platform.OS == "" || platform.Architecture == "" {
			return nil, fmt.Errorf("-platform: %q is none such as linux/amd64", p)
		}
		o.platforms = append(o.platforms, *platform)
	}
	o.spec.created = time.Unix(created, 0).UTC()
	return o, nil
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	index, err := o.spec.index(ctx, o.platforms)
	if err != nil {
		return err
	}
	if o.out != "" {
		if err := save(o.out, o.reference, index); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%s is in %s\n", o.reference, o.out)
	}
	if o.push {
		if err := remote.WriteIndex(o.reference, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
			return fmt.Errorf("push %s: %w", o.reference, err)
		}
		digest, err := index.Digest()
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "pushed %s@%s\n", o.reference, digest)
	}
	return nil
}
