package gateway

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/sluicegw/sluice/appliance/config"
	"github.com/sluicegw/sluice/dataplane"
)

// engine is what carries media outside Go, or why nothing does.
type engine struct {
	forwarder dataplane.Forwarder
	reason    dataplane.Reason
	detail    string
}

func (e engine) String() string {
	if e.forwarder != nil {
		return "kernel"
	}
	if e.detail == "" {
		return fmt.Sprintf("user (%s)", e.reason)
	}
	return fmt.Sprintf("user (%s: %s)", e.reason, e.detail)
}

// chooseEngine starts the kernel engine where the mode asks for it. Mode auto
// falls back to user space with the reason; mode kernel does not.
func chooseEngine(cfg *config.Config, networks []dataplane.Network, log *slog.Logger) (engine, error) {
	if cfg.Dataplane.Mode == config.ModeUser {
		return engine{reason: dataplane.ReasonDisabled}, nil
	}
	f, reason, err := openKernel(cfg, networks, log.With("part", "kernel"))
	switch {
	case err == nil:
		return engine{forwarder: f}, nil
	case cfg.Dataplane.Mode == config.ModeKernel:
		return engine{}, fmt.Errorf("the kernel cannot carry media: %w: give what it needs, or set dataplane.mode to auto or user", err)
	case reason == dataplane.ReasonNone:
		// Not a matter of what this machine can do: hiding it would hide a fault.
		return engine{}, errors.Join(fmt.Errorf("the kernel engine did not start: %w: set dataplane.mode to user to go without it", err))
	}
	log.Info("media runs in user space", "reason", reason, "why", err)
	return engine{reason: reason, detail: err.Error()}, nil
}
