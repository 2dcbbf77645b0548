package main

import (
	"context"
	"fmt"

	"github.com/sluicegw/sluice/appliance/admin"
	"github.com/urfave/cli/v2"
)

func flowsVerb() *cli.Command {
	return &cli.Command{
		Name: "flows", Usage: "the media streams of the running gateway", OnUsageError: usageError, Action: needVerb,
		Subcommands: []*cli.Command{
			list("list the streams, each with its output", admin.SchemaFlows, []column[admin.Flow]{
				{title: "ID", value: func(f admin.Flow) string { return fmt.Sprint(f.ID) }},
				{title: "FROM", value: func(f admin.Flow) string { return f.From }},
				{title: "AT", wide: true, value: func(f admin.Flow) string { return f.At }},
				{title: "SSRC", wide: true, value: func(f admin.Flow) string { return fmt.Sprintf("%08x", f.SSRC) }},
				{title: "IN", value: func(f admin.Flow) string { return f.InProfile }},
				{title: "TO", value: func(f admin.Flow) string { return f.To }},
				{title: "OUT-SSRC", wide: true, value: func(f admin.Flow) string { return fmt.Sprintf("%08x", f.OutSSRC) }},
				{title: "OUT", value: func(f admin.Flow) string { return f.OutProfile }},
				{title: "PATH", value: func(f admin.Flow) string { return f.Path }},
				{title: "WHY", value: func(f admin.Flow) string { return f.Reason }},
				{title: "PACKETS", value: func(f admin.Flow) string { return fmt.Sprint(f.Counters.Packets) }},
				{title: "LOST", value: func(f admin.Flow) string { return fmt.Sprint(f.Counters.Lost) }},
				{title: "JITTER", value: func(f admin.Flow) string { return fmt.Sprintf("%.1f ms", 1000*f.Counters.Jitter) }},
			}, func(ctx context.Context, a *admin.Client) (admin.List[admin.Flow], error) { return a.Flows(ctx) }),
		},
	}
}
