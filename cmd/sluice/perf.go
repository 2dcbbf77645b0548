package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/sluicegw/sluice/perf"
	"github.com/sluicegw/sluice/perf/report"
	"github.com/sluicegw/sluice/perf/rig"
	"github.com/urfave/cli/v2"
)

func perfVerb() *cli.Command {
	return &cli.Command{
		Name:         "perf",
		Usage:        "measure the gateway, in network namespaces of this machine",
		OnUsageError: usageError,
		Action:       needVerb,
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "list the scenarios", OnUsageError: usageError,
				Action: func(c *cli.Context) error {
					if err := noArgs(c); err != nil {
						return err
					}
					w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
					for _, s := range perf.Scenarios() {
						fmt.Fprintf(w, "%s\t%s\n", s.Name, s.About)
					}
					return w.Flush()
				},
			},
			{
				Name: "run", Usage: "run scenarios, all without arguments, and write a report", ArgsUsage: "[SCENARIO...]",
				OnUsageError: usageError,
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "short", Usage: "fewer points and repetitions"},
					&cli.StringFlag{Name: "out", Usage: "folder of the report", Value: "perf/out"},
				},
				Action: perfRun,
			},
			{
				Name: "compare", Usage: "compare two reports; exit status 1 when a figure got worse beyond the noise", ArgsUsage: "FIRST SECOND",
				OnUsageError: usageError,
				Action:       perfCompare,
			},
			{
				Name: "report", Usage: "write the page of a report.json again", ArgsUsage: "FOLDER", OnUsageError: usageError,
				Action: func(c *cli.Context) error {
					if c.NArg() != 1 {
						return usage("perf report takes the folder of one report.json")
					}
					r, err := report.Read(c.Args().First())
					if err != nil {
						return err
					}
					return r.Write(c.Args().First())
				},
			},
			{
				Name: "engine", Hidden: true, OnUsageError: usageError, // what perf run starts in its namespaces
				Action: func(*cli.Context) error {
					return rig.Serve(os.Stdin, os.Stdout, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
				},
			},
		},
	}
}

func perfRun(c *cli.Context) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("perf run makes network namespaces and loads programs: run it as root")
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	runner := perf.Runner{
		Options:  perf.Options{Short: c.Bool("short"), Executable: exe},
		Progress: os.Stderr,
		Command:  "sluice " + strings.Join(os.Args[1:], " "),
	}
	rep, err := runner.Run(ctx, c.Args().Slice())
	if rep == nil {
		return usage("%w", err)
	}
	if werr := rep.Write(c.String("out")); werr != nil {
		return werr
	}
	for _, r := range rep.Results {
		for i := range r.Figures {
			f := &r.Figures[i]
			fmt.Fprintf(c.App.Writer, "%-10s %s: %s\n", r.Scenario, f.Key(), f)
		}
		for _, a := range r.Absent {
			fmt.Fprintf(c.App.Writer, "%-10s not measured: %s. %s\n", r.Scenario, a.What, a.Remedy)
		}
	}
	fmt.Fprintf(c.App.Writer, "report: %s/report.html\n", c.String("out"))
	return err
}

func perfCompare(c *cli.Context) error {
	if c.NArg() != 2 {
		return usage("perf compare takes two reports")
	}
	var reps [2]*report.Report
	for i := range reps {
		var err error
		if reps[i], err = report.Read(c.Args().Get(i)); err != nil {
			return err
		}
	}
	changes := report.Compare(reps[0], reps[1])
	for _, ch := range changes {
		fmt.Fprintln(c.App.Writer, ch)
	}
	if n := report.Regressions(changes); n > 0 {
		return fmt.Errorf("%d figures got worse", n)
	}
	return nil
}
