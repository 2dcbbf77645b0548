package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/sluicegw/sluice/appliance/admin"
	"github.com/urfave/cli/v2"
)

func dataplaneVerb() *cli.Command {
	return &cli.Command{
		Name: "dataplane", Usage: "how media is carried", OnUsageError: usageError, Action: needVerb,
		Subcommands: []*cli.Command{{
			Name: "status", Usage: "engine, interfaces, and packets by path and verdict", Flags: showFlags(), OnUsageError: usageError,
			Action: func(c *cli.Context) error {
				if err := noArgs(c); err != nil {
					return err
				}
				f, err := format(c)
				if err != nil {
					return err
				}
				return watched(c, func(ctx context.Context) error {
					d, err := client(c).Dataplane(ctx)
					if err != nil {
						return err
					}
					if f == "json" || f == "jsonl" {
						return document(c.App.Writer, d)
					}
					return showDataplane(c.App.Writer, d)
				})
			},
		}},
	}
}

func showDataplane(w io.Writer, d admin.Dataplane) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "engine\t%s", d.Engine)
	if d.Reason != "" {
		fmt.Fprintf(t, " (%s)", d.Reason)
	}
	if d.Detail != "" {
		fmt.Fprintf(t, ": %s", d.Detail)
	}
	fmt.Fprintln(t)
	if d.Kernel != "" {
		fmt.Fprintf(t, "kernel\t%s, pinned under %s\norphans\t%d\n", d.Kernel, d.Pin, d.Orphans)
	}
	for _, i := range d.Interfaces {
		fmt.Fprintf(t, "interface\t%s (%s): %s", i.Name, i.Driver, i.Path)
		if i.Why != "" {
			fmt.Fprintf(t, " because %s", i.Why)
		}
		fmt.Fprintln(t)
	}
	for _, p := range d.Paths {
		fmt.Fprintf(t, "forwarded\t%s: %d packets, %s\n", p.Path, p.Packets, octets(p.Octets))
	}
	for _, v := range d.Verdicts {
		fmt.Fprintf(t, "verdict\t%s %s: %d packets\n", v.Program, v.Verdict, v.Packets)
	}
	return t.Flush()
}
