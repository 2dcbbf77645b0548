// Command sluice is a gateway between WebRTC in browsers and SIP phones and
// trunks. `sluice help` lists its verbs.
package main

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"
)

// version is stamped by the Makefile.
var version = "unknown"

func main() { os.Exit(run(os.Args)) }

// run runs one command line and returns its exit code.
func run(args []string) int {
	if err := newApp().Run(args); err != nil {
		if msg := err.Error(); msg != "" {
			fmt.Fprintln(os.Stderr, "sluice:", msg)
		}
		return exitCode(err)
	}
	return exitOK
}

func newApp() *cli.App {
	return &cli.App{
		Name:           "sluice",
		Usage:          "let browsers and SIP phones call each other",
		Version:        version,
		HideVersion:    true,
		Commands:       []*cli.Command{runVerb(), callsVerb(), flowsVerb(), registrationsVerb(), dataplaneVerb(), configVerb(), perfVerb(), versionVerb()},
		OnUsageError:   usageError,
		Action:         needVerb,
		ExitErrHandler: func(*cli.Context, error) {}, // run prints them
	}
}
