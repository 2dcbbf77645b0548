package main

import (
	"context"
	"io"
	"log/slog"
	"os/signal"
	"syscall"

	"github.com/sluicegw/sluice/appliance/config"
	"github.com/sluicegw/sluice/appliance/demo"
	"github.com/sluicegw/sluice/appliance/gateway"
	"github.com/urfave/cli/v2"
)

func runVerb() *cli.Command {
	return &cli.Command{
		Name:         "run",
		Usage:        "run the gateway until it is interrupted",
		Description:  "Without --config a demo runs on this machine's loopback: a web phone, users with\npasswords made for this run, and SIP phones to call.",
		OnUsageError: usageError,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "read the configuration from `FILE`", TakesFile: true},
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			// A second interrupt does not wait for anything.
			context.AfterFunc(ctx, stop)
			if !c.IsSet("config") {
				log := logger(c.App.ErrWriter, config.Log{Level: config.Level{Level: slog.LevelWarn}})
				return demo.Run(ctx, version, log, c.App.Writer)
			}
			cfg, err := loadConfig(c.String("config"))
			if err != nil {
				return err
			}
			log := logger(c.App.ErrWriter, cfg.Log)
			g, err := gateway.New(cfg, version, log)
			if err != nil {
				return err
			}
			if err := gateway.DropPrivileges(); err != nil {
				log.Warn("the process keeps its capabilities", "error", err)
			}
			log.Info("ready", "version", version, "http", g.HTTP(), "media", g.Media())
			return g.Run(ctx)
		},
	}
}

func logger(w io.Writer, l config.Log) *slog.Logger {
	o := &slog.HandlerOptions{Level: l.Level.Level}
	if l.Format == config.JSON {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
