// SPDX-License-Identifier: Apache-2.0

// Command release makes everything that a release consists of, from a commit and
// nothing else: the same commit and the same Go make the same bytes, on every machine.
// docs/releasing.md describes how a release is made.
//
//	release build -version v0.1.0 -o dist/v0.1.0    all files, their checksums and their provenance
//	release verify -version v0.1.0                  builds twice and compares
//	release push -from dist/v0.1.0                  pushes the image and the chart to their registry
//
// They run in the root of the repository.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// options are what the flags say.
type options struct {
	version       string
	out           string
	from          string
	registry      string
	only          string
	allowUntagged bool
	cached        bool
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) == 0 {
		return errors.New("say what to do: build, verify or push")
	}
	var o options
	flags := flag.NewFlagSet("release "+args[0], flag.ContinueOnError)
	flags.SetOutput(io.Discard) // a mistake is told in one line
	flags.StringVar(&o.version, "version", "", "version to release, such as v0.1.0")
	flags.StringVar(&o.out, "o", "", "directory for the files; dist/VERSION if empty")
	flags.StringVar(&o.from, "from", "", "directory with the files of a release, to push them")
	flags.StringVar(&o.registry, "registry", registry, "registry, and the path there, of the image and the chart")
	flags.StringVar(&o.only, "only", "", "build for this platform only, such as linux/amd64; needs -allow-untagged")
	flags.BoolVar(&o.allowUntagged, "allow-untagged", false, "build although the version is not the tag of HEAD, to try it")
	flags.BoolVar(&o.cached, "cached", false, "verify with the compiler's cache: quicker, and it does not check the compiler")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: every option is a flag", flags.Arg(0))
	}
	switch args[0] {
	case "build":
		return build(ctx, o, stdout)
	case "verify":
		return verify(ctx, o, stdout)
	case "push":
		return push(ctx, o, stdout)
	}
	return fmt.Errorf("there is no command %q: say build, verify or push", args[0])
}
