package main

import (
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"
)

func versionVerb() *cli.Command {
	return &cli.Command{
		Name:         "version",
		Usage:        "print the version of this binary",
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.App.Writer, "sluice %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
