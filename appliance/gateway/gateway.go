// Package gateway puts the parts of sluice together for one configuration and
// runs them: data plane, legs, calls, SIP, and the HTTP server with the web
// phone.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/sluicegw/sluice/appliance/admin"
	"github.com/sluicegw/sluice/appliance/config"
	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/controlplane/location"
	"github.com/sluicegw/sluice/controlplane/media"
	"github.com/sluicegw/sluice/controlplane/routing"
	"github.com/sluicegw/sluice/controlplane/rtpleg"
	"github.com/sluicegw/sluice/controlplane/sip"
	"github.com/sluicegw/sluice/controlplane/webrtc"
	"github.com/sluicegw/sluice/dataplane"
)

// shutdownTime bounds how long calls may take to end when the gateway stops.
const shutdownTime = 10 * time.Second

// Gateway is one gateway that has its sockets open. Run it once.
type Gateway struct {
	cfg       *config.Config
	log       *slog.Logger
	engine    engine
	plane     *dataplane.Plane
	locations *location.Memory
	webrtc    *webrtc.Factory
	sip       *sip.Server
	calls     *call.Manager
	metrics   *metrics
	listener  net.Listener
	http      *http.Server
	adminOn   net.Listener // nil: no administration
	admin     *admin.Server
	ready     atomic.Bool
}

// New opens every socket of cfg. An error names the setting to change; nothing
// is left open then.
func New(cfg *config.Config, version string, log *slog.Logger) (_ *Gateway, err error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{cfg: cfg, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.release())
		}
	}()
	networks := planeNetworks(cfg)
	if g.engine, err = chooseEngine(cfg, networks, log); err != nil {
		return nil, err
	}
	g.plane, err = dataplane.New(dataplane.Config{
		Networks: networks, Forwarder: g.engine.forwarder, Reason: g.engine.reason, Logger: log.With("part", "dataplane"),
	})
	if err != nil {
		return nil, fmt.Errorf("cannot open the media sockets: %w: change media.address or media.browser_port", err)
	}
	if g.webrtc, err = webrtc.NewFactory(webrtc.Config{Plane: g.plane, Networks: networks, Logger: log.With("part", "webrtc")}); err != nil {
		return nil, err
	}
	g.locations = location.NewMemory()
	if err := g.openSIP(version); err != nil {
		return nil, err
	}
	router, err := routing.New(routes(cfg), g.locations)
	if err != nil {
		return nil, err
	}
	g.metrics = newMetrics(g, version)
	g.calls, err = call.NewManager(call.Config{
		Caller: g.sip, Router: router, Engine: call.OnPlane(g.plane),
		Media:    media.Factory{Browser: g.webrtc, Phone: rtpleg.NewFactory(rtpleg.Config{Plane: g.plane, Logger: log.With("part", "rtp")})},
		Limits:   call.Limits{Calls: cfg.Limits.Calls, PerUser: cfg.Limits.CallsPerUser},
		Timings:  call.Timings{NoAnswer: cfg.Limits.RingTime},
		Log:      log.With("part", "call"),
		Observer: g.metrics.observe,
	})
	if err != nil {
		return nil, err
	}
	if err := g.openHTTP(); err != nil {
		return nil, err
	}
	return g, g.openAdmin()
}

func (g *Gateway) openSIP(version string) error {
	cfg, err := sipConfig(g.cfg)
	if err != nil {
		return err
	}
	cfg.Location = g.locations
	cfg.Logger = g.log.With("part", "sip")
	cfg.UserAgent = "sluice/" + version
	// SIP is served only once the calls exist.
	cfg.OnInvite = func(inv call.Invite) { g.calls.OnInvite(inv) }
	if g.sip, err = sip.New(cfg); err != nil {
		return err
	}
	return g.sip.Listen()
}

// SIP is where a network listens for SIP; zero when it does not.
func (g *Gateway) SIP(network string, t sip.Transport) netip.AddrPort { return g.sip.Addr(network, t) }

// HTTP is where the web phone listens.
func (g *Gateway) HTTP() netip.AddrPort {
	return g.listener.Addr().(*net.TCPAddr).AddrPort()
}

// Calls is the number of calls under way.
func (g *Gateway) Calls() int { return g.calls.Count() }

// Media says which engine carries media, and why when it is not the kernel.
func (g *Gateway) Media() string { return g.engine.String() }

// Run serves until ctx ends, then refuses new calls, ends every call with BYE
// and closes everything. It returns nil after an orderly end.
func (g *Gateway) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	serve := func(f func() error, part string) <-chan struct{} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			err := f()
			if err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				cancel(fmt.Errorf("%s: %w", part, err))
				return
			}
			cancel(nil)
		}()
		return done
	}
	sipDone := serve(g.sip.Serve, "sip")
	httpDone := serve(func() error { return g.serveHTTP() }, "http")
	adminDone := httpDone
	if g.admin != nil {
		adminDone = serve(func() error { return g.admin.Serve(g.adminOn) }, "admin")
	}
	g.ready.Store(true)
	<-ctx.Done()
	g.ready.Store(false)
	g.log.Info("stopping", "calls", g.calls.Count())
	bounded, stop := context.WithTimeout(context.Background(), shutdownTime)
	defer stop()
	var errs []error
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		errs = append(errs, cause)
	}
	if err := g.calls.Shutdown(bounded); err != nil {
		errs = append(errs, fmt.Errorf("%d calls did not end within %s: %w", g.calls.Count(), shutdownTime, err))
	}
	// WebSockets are hijacked connections, which only the SIP server closes.
	_ = g.http.Close()
	errs = append(errs, g.release())
	<-sipDone
	<-httpDone
	<-adminDone
	return errors.Join(errs...)
}

// release closes what is open, in the order of who uses what.
func (g *Gateway) release() error {
	var errs []error
	if g.adminOn != nil {
		_ = g.admin.Close()
		_ = g.adminOn.Close()
	}
	if g.listener != nil {
		_ = g.listener.Close()
	}
	if g.sip != nil {
		errs = append(errs, g.sip.Close())
	}
	if g.locations != nil {
		g.locations.Close()
	}
	if g.webrtc != nil {
		g.webrtc.Close()
	}
	if g.plane != nil {
		errs = append(errs, g.plane.Close())
	}
	if g.engine.forwarder != nil {
		errs = append(errs, g.engine.forwarder.Close())
	}
	return errors.Join(errs...)
}
