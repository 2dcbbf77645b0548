package main

import (
	"context"
	"time"

	"github.com/sluicegw/sluice/appliance/admin"
	"github.com/urfave/cli/v2"
)

func registrationsVerb() *cli.Command {
	return &cli.Command{
		Name: "registrations", Usage: "where users can be reached", OnUsageError: usageError, Action: needVerb,
		Subcommands: []*cli.Command{
			list("list the registrations", admin.SchemaRegistrations, []column[admin.Registration]{
				{title: "USER", value: func(r admin.Registration) string { return r.User }},
				{title: "TRANSPORT", value: func(r admin.Registration) string { return r.Transport }},
				{title: "SOURCE", value: func(r admin.Registration) string { return r.Source }},
				{title: "NETWORK", wide: true, value: func(r admin.Registration) string { return r.Network }},
				{title: "EXPIRES", value: func(r admin.Registration) string { return "in " + seconds(time.Until(r.Expires).Seconds()) }},
				{title: "USER-AGENT", value: func(r admin.Registration) string { return r.UserAgent }},
				{title: "CONTACT", wide: true, value: func(r admin.Registration) string { return r.Contact }},
			}, func(ctx context.Context, a *admin.Client) (admin.List[admin.Registration], error) {
				return a.Registrations(ctx)
			}),
		},
	}
}
