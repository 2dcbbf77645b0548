package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sluicegw/sluice/appliance/admin"
	"github.com/urfave/cli/v2"
)

func callsVerb() *cli.Command {
	return &cli.Command{
		Name: "calls", Usage: "the calls of the running gateway", OnUsageError: usageError, Action: needVerb,
		Subcommands: []*cli.Command{
			list("list the calls", admin.SchemaCalls, callColumns(),
				func(ctx context.Context, a *admin.Client) (admin.List[admin.Call], error) { return a.Calls(ctx) }),
			{
				Name: "show", Usage: "everything about one call", ArgsUsage: "ID", Flags: showFlags(), OnUsageError: usageError,
				Description: "ID is a call's id or the start of it, a SIP Call-ID, a user, or a leg's address.",
				Action: func(c *cli.Context) error {
					id, f, err := oneID(c)
					if err != nil {
						return err
					}
					return watched(c, func(ctx context.Context) error {
						call, err := client(c).Call(ctx, id)
						if err != nil {
							return err
						}
						if f == "json" || f == "jsonl" {
							return document(c.App.Writer, call)
						}
						return showCall(c.App.Writer, call)
					})
				},
			},
			{
				Name: "hangup", Usage: "end one call", ArgsUsage: "ID", Flags: []cli.Flag{socketFlag()}, OnUsageError: usageError,
				Action: func(c *cli.Context) error {
					if c.NArg() != 1 {
						return usage("calls hangup takes one ID, got %d", c.NArg())
					}
					id, err := client(c).Hangup(c.Context, c.Args().First())
					if err != nil {
						return err
					}
					_, err = fmt.Fprintf(c.App.Writer, "%s: ended\n", id)
					return err
				},
			},
		},
	}
}

func oneID(c *cli.Context) (id, f string, err error) {
	if c.NArg() != 1 {
		return "", "", usage("%s takes one ID, got %d", c.Command.HelpName, c.NArg())
	}
	f, err = format(c)
	return c.Args().First(), f, err
}

func callColumns() []column[admin.Call] {
	return []column[admin.Call]{
		{title: "ID", value: func(c admin.Call) string { return c.ID[:min(8, len(c.ID))] }},
		{title: "FROM", value: func(c admin.Call) string { return c.From }},
		{title: "TO", value: func(c admin.Call) string { return c.To }},
		{title: "DIRECTION", value: func(c admin.Call) string { return c.Direction }},
		{title: "STAGE", value: func(c admin.Call) string {
			if len(c.HeldBy) > 0 {
				return c.Stage + " (held)"
			}
			return c.Stage
		}},
		{title: "TALK", value: func(c admin.Call) string { return seconds(c.Seconds) }},
		{title: "CODECS", value: codecs},
		{title: "STARTED", wide: true, value: func(c admin.Call) string { return c.Started.Format(time.RFC3339) }},
		{title: "LEGS", wide: true, value: func(c admin.Call) string { return fmt.Sprint(len(c.Legs)) }},
		{title: "CALL-ID", wide: true, value: func(c admin.Call) string {
			if len(c.Legs) == 0 {
				return ""
			}
			return c.Legs[0].SIPCallID
		}},
	}
}

func codecs(c admin.Call) string {
	var l []string
	for _, leg := range c.Legs {
		for _, m := range leg.Lines {
			if m.Codec != "" {
				l = append(l, m.Codec)
			}
		}
	}
	return strings.Join(l, " ")
}

// showCall is a call on one screen.
func showCall(w io.Writer, c admin.Call) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "call\t%s\n", c.ID)
	fmt.Fprintf(t, "from\t%s\nto\t%s\n", c.From, c.To)
	fmt.Fprintf(t, "stage\t%s, %s\n", c.Stage, c.Direction)
	fmt.Fprintf(t, "started\t%s (%s)\n", c.Started.Local().Format(time.DateTime), ago(c.Started))
	if c.Answered != nil {
		fmt.Fprintf(t, "talking\t%s, answered %.3f s after the INVITE\n", seconds(c.Seconds), c.Answered.Sub(c.Started).Seconds())
	}
	for _, l := range c.Legs {
		fmt.Fprintf(t, "\nleg\t%s: %s %s, %s\n", l.ID, l.Kind, l.Party, l.State)
		fmt.Fprintf(t, "  signalling\t%s by network %s, Call-ID %s\n", cmp.Or(l.Source, "unknown"), l.Network, l.SIPCallID)
		if l.FlowDown {
			fmt.Fprintf(t, "  \tits connection is lost\n")
		}
		if l.Code >= 300 {
			fmt.Fprintf(t, "  answered\t%d\n", l.Code)
		}
		keys := "not established"
		if l.Media {
			keys = "established"
		}
		fmt.Fprintf(t, "  media\t%s\n", keys)
		for _, m := range l.Lines {
			showLine(t, m)
		}
	}
	return t.Flush()
}

func showLine(t io.Writer, m admin.Line) {
	path := cmp.Or(m.Path, "nothing received")
	if m.Reason != "" {
		path += " (" + m.Reason + ")"
	}
	fmt.Fprintf(t, "  %s\t%s %s, carried by %s\n", m.Kind, cmp.Or(m.Codec, "no codec yet"), m.Direction, path)
	if r := m.Received; r != nil {
		last := "nothing yet"
		if r.Last != nil {
			last = "last " + ago(*r.Last)
		}
		fmt.Fprintf(t, "    received\t%d packets, %s, lost %d, dropped %d, jitter %.1f ms, %s\n",
			r.Packets, octets(r.Octets), r.Lost, r.Dropped, 1000*r.Jitter, last)
	}
	if s := m.Sent; s != nil {
		fmt.Fprintf(t, "    sent\t%d packets, %s; the far end lost %d, jitter %.1f ms, round trip %.0f ms\n",
			s.Packets, octets(s.Octets), m.RemoteLost, 1000*m.RemoteJitter, 1000*m.RoundTrip)
	}
	if m.DTMF != "" {
		fmt.Fprintf(t, "    DTMF\t%s\n", m.DTMF)
	}
}
