package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/sluicegw/sluice/appliance/config"
	"github.com/urfave/cli/v2"
)

func configVerb() *cli.Command {
	return &cli.Command{
		Name:         "config",
		Usage:        "look at configuration files",
		OnUsageError: usageError,
		Action:       needVerb,
		Subcommands: []*cli.Command{
			{
				Name:         "example",
				Usage:        "print the commented default configuration",
				OnUsageError: usageError,
				Action: func(c *cli.Context) error {
					if err := noArgs(c); err != nil {
						return err
					}
					_, err := io.WriteString(c.App.Writer, config.Example)
					return err
				},
			},
			{
				Name:         "check",
				Usage:        "say everything that is wrong with a configuration",
				ArgsUsage:    "FILE",
				OnUsageError: usageError,
				Action: func(c *cli.Context) error {
					if c.NArg() != 1 {
						return usage("config check takes one FILE, got %d", c.NArg())
					}
					if _, err := loadConfig(c.Args().First()); err != nil {
						return err
					}
					_, err := fmt.Fprintf(c.App.Writer, "%s: ok\n", c.Args().First())
					return err
				},
			},
		},
	}
}

// loadConfig reads a file; its problems are one per line, the count first.
func loadConfig(file string) (*config.Config, error) {
	c, err := config.Load(file)
	if p, ok := errors.AsType[config.Problems](err); ok {
		return nil, fmt.Errorf("%d problem(s) in the configuration:\n%w", len(p), p)
	}
	return c, err
}
