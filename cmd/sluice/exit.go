package main

import (
	"errors"
	"fmt"

	"github.com/sluicegw/sluice/appliance/admin"
	"github.com/urfave/cli/v2"
)

// Exit codes of every verb. They are promised: scripts may rely on them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitUnreachable = 4 // no gateway answers on the admin socket
)

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func exitCode(err error) int {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	if _, ok := errors.AsType[*admin.NotFoundError](err); ok {
		return exitNotFound
	}
	if _, ok := errors.AsType[*admin.UnreachableError](err); ok {
		return exitUnreachable
	}
	return exitFailed
}

func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// usageError takes wrong flags of any verb.
func usageError(c *cli.Context, err error, _ bool) error {
	return usage("%w (see %s --help)", err, c.App.Name)
}

// needVerb is the action of a noun without its verb, or with an unknown one.
func needVerb(c *cli.Context) error {
	if c.NArg() > 0 {
		return usage("no verb %q (see %s --help)", c.Args().First(), c.App.Name)
	}
	return cli.ShowSubcommandHelp(c)
}

// noArgs refuses arguments a verb does not take.
func noArgs(c *cli.Context) error {
	if c.NArg() > 0 {
		return usage("%s takes no argument, got %q", c.Command.HelpName, c.Args().First())
	}
	return nil
}
