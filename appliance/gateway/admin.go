package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/sluicegw/sluice/appliance/admin"
	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/controlplane/location"
	"github.com/sluicegw/sluice/dataplane"
)

// openAdmin opens the admin socket. A default that cannot be had is a warning; a
// configured one is an error.
func (g *Gateway) openAdmin() error {
	path := g.cfg.Admin.Socket
	if path == "off" {
		return nil
	}
	ln, err := admin.Listen(cmp.Or(path, admin.DefaultSocket()))
	if err != nil {
		if path != "" {
			return fmt.Errorf("admin.socket: %w: change admin.socket", err)
		}
		g.log.Warn("no administration: set admin.socket", "err", err)
		return nil
	}
	g.adminOn = ln
	g.admin = admin.NewServer(adminView{g}, g.log.With("part", "admin"))
	return nil
}

// adminView is the gateway as its administration sees it. No type that it
// returns has a place for a key or a password.
type adminView struct{ g *Gateway }

func (v adminView) Calls() []admin.Call {
	var l []admin.Call
	for _, c := range v.g.calls.Calls() {
		l = append(l, callView(c, false))
	}
	return l
}

func (v adminView) Call(ctx context.Context, id string) (admin.Call, bool) {
	c, ok := v.g.calls.Detail(ctx, id)
	return callView(c, true), ok
}

func (v adminView) Hangup(id, why string) bool { return v.g.calls.Hangup(id, why) }

func callView(c call.Info, full bool) admin.Call {
	out := admin.Call{
		ID: c.ID, Stage: string(c.Stage), Direction: direction(c), From: address(c.From), To: address(c.To),
		Started: c.Started, Answered: moment(c.Answered), Seconds: c.Duration().Seconds(), HeldBy: c.HeldBy, Legs: []admin.Leg{},
	}
	for _, l := range c.Legs {
		leg := admin.Leg{
			ID: l.ID, Party: l.Party.Name(), Kind: kind(l.Party), Network: l.Party.Network, Source: endpoint(l.Party.Source),
			SIPCallID: l.SIPCallID, State: l.State, Code: l.Code, Media: l.Media, FlowDown: l.FlowDown, Lines: []admin.Line{},
		}
		for _, m := range l.Lines {
			leg.Lines = append(leg.Lines, lineView(m, full))
		}
		out.Legs = append(out.Legs, leg)
	}
	return out
}

func lineView(m call.LineInfo, full bool) admin.Line {
	out := admin.Line{Kind: m.Kind.String(), Codec: m.Codec, Direction: m.Direction}
	if !full {
		return out
	}
	s := m.Stats
	rate := uint32(clockRate(cmp.Or(s.Codec, m.Codec)))
	if m.Kind == dataplane.Video {
		rate = 90000
	}
	received, sent := countersView(s.Received, rate), countersView(s.Sent, rate)
	out.Codec = cmp.Or(s.Codec, m.Codec)
	out.Path, out.Reason, out.Received, out.Sent = s.Path, string(s.Reason), &received, &sent
	out.RemoteLost, out.RemoteJitter, out.RoundTrip = s.RemoteLost, s.RemoteJitter.Seconds(), s.RoundTrip.Seconds()
	out.DTMF = s.DTMF
	return out
}

func countersView(c dataplane.Counters, rate uint32) admin.Counters {
	return admin.Counters{
		Packets: c.Packets, Octets: c.Octets, Dropped: c.Dropped, Lost: c.Lost,
		Jitter: float64(c.Jitter) / float64(max(rate, 1)), Last: moment(c.LastPacket),
	}
}

func (v adminView) Flows() []admin.Flow {
	var l []admin.Flow
	for _, f := range v.g.plane.Snapshot() {
		out := admin.Flow{
			ID: uint64(f.Flow.ID), Path: f.Path, Reason: string(f.Why), InNetwork: f.Flow.InNetwork, SSRC: f.Flow.InSSRC,
			InProfile: f.InProfile.String(), OutNetwork: f.Flow.OutNetwork, To: endpoint(f.Flow.OutRemote),
			OutSSRC: f.Flow.OutSSRC, OutProfile: f.OutProfile.String(),
			Counters: countersView(f.State.Counters, f.Flow.ClockRate),
		}
		if len(f.Flow.Bindings) > 0 {
			out.From, out.At = endpoint(f.Flow.Bindings[0].Remote), endpoint(f.Flow.Bindings[0].Local)
		}
		l = append(l, out)
	}
	slices.SortFunc(l, func(a, b admin.Flow) int { return cmp.Compare(a.ID, b.ID) })
	return l
}

func (v adminView) Registrations(ctx context.Context) ([]admin.Registration, error) {
	var l []admin.Registration
	var errs []error
	for _, u := range v.g.cfg.Users {
		bindings, err := v.g.locations.Lookup(ctx, location.AOR(u.Name, v.g.cfg.Domain))
		errs = append(errs, err)
		for _, b := range bindings {
			l = append(l, admin.Registration{
				User: u.Name, Contact: b.Contact, Transport: b.Transport, Network: b.Network,
				Source: endpoint(b.Source), UserAgent: b.UserAgent, Expires: b.Expires,
			})
		}
	}
	return l, errors.Join(errs...)
}

func (v adminView) Dataplane() admin.Dataplane {
	d := v.g.engine.describe()
	d.Schema = admin.SchemaDataplane
	for _, t := range v.g.plane.Totals() {
		d.Paths = append(d.Paths, admin.Path{Path: t.Path, Packets: t.Packets, Octets: t.Octets})
	}
	d.Verdicts = []admin.Verdict{}
	v.g.engine.counters(func(kind, program, name string, n uint64) {
		if kind == "verdict" && n > 0 {
			d.Verdicts = append(d.Verdicts, admin.Verdict{Program: program, Verdict: name, Packets: n})
		}
	})
	slices.SortFunc(d.Verdicts, func(a, b admin.Verdict) int {
		return cmp.Or(cmp.Compare(a.Program, b.Program), cmp.Compare(a.Verdict, b.Verdict))
	})
	return d
}

func address(a call.Address) string {
	if a.User == "" {
		return a.Host
	}
	return a.User + "@" + a.Host
}

func endpoint(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
