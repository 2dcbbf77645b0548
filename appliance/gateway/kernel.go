package gateway

import (
	"errors"
	"log/slog"

	"github.com/sluicegw/sluice/appliance/admin"
	"github.com/sluicegw/sluice/appliance/config"
	"github.com/sluicegw/sluice/dataplane"
	"github.com/sluicegw/sluice/dataplane/kernel"
)

// openKernel starts the kernel engine. Reason is set when this machine or
// process cannot have it.
func openKernel(cfg *config.Config, networks []dataplane.Network, log *slog.Logger) (dataplane.Forwarder, dataplane.Reason, error) {
	var served []kernel.Interface
	for _, name := range cfg.Dataplane.Interfaces {
		served = append(served, kernel.Interface{Name: name})
	}
	e, err := kernel.New(kernel.Config{
		PinDir: cfg.Dataplane.Pin, Networks: networks, Interfaces: served, Logger: log,
		Streams: streams(cfg.Limits.Calls),
	})
	if err == nil {
		return e, dataplane.ReasonNone, nil
	}
	if u, ok := errors.AsType[*kernel.UnavailableError](err); ok {
		return nil, u.Reason, u.Err
	}
	return nil, dataplane.ReasonNone, err
}

// streams is room for a call's audio and video both ways.
func streams(calls int) int {
	n := kernel.DefaultStreams
	for n < 4*calls && n < kernel.MostStreams {
		n *= 2
	}
	return n
}

// DropPrivileges gives up every capability of the process, for good: once New
// has returned, nothing needs any. It is for the process that is the gateway
// alone. A binary built with cgo cannot do it and says so.
func DropPrivileges() error { return kernel.DropCapabilities() }

// counters tells every verdict and event of the kernel programs; none without
// them, or when they cannot be read now.
func (e engine) counters(tell func(kind, program, name string, n uint64)) {
	k, ok := e.forwarder.(*kernel.Engine)
	if !ok {
		return
	}
	c, err := k.Counters()
	if err != nil {
		return
	}
	for program, m := range c.Verdicts {
		for v, n := range m {
			tell("verdict", program, v.String(), n)
		}
	}
	for program, m := range c.Events {
		for v, n := range m {
			tell("event", program, v.String(), n)
		}
	}
}

// describe is the engine as administration shows it.
func (e engine) describe() admin.Dataplane {
	d := admin.Dataplane{Engine: "user", Reason: string(e.reason), Detail: e.detail, Interfaces: []admin.Interface{}}
	k, ok := e.forwarder.(*kernel.Engine)
	if !ok {
		return d
	}
	r := k.Report()
	d.Engine, d.Kernel, d.Pin = "kernel", r.Kernel, r.PinDir
	if l, err := k.Orphans(); err == nil {
		d.Orphans = len(l)
	}
	for _, i := range r.Interfaces {
		d.Interfaces = append(d.Interfaces, admin.Interface{Name: i.Name, Driver: i.Driver, Path: i.Path, Why: i.Why})
	}
	return d
}
