package rig

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"runtime"

	"github.com/sluicegw/sluice/bpf"
	"github.com/sluicegw/sluice/dataplane"
	"github.com/sluicegw/sluice/dataplane/kernel"
	"github.com/sluicegw/sluice/dataplane/srtp"
	"github.com/sluicegw/sluice/perf/netlab"
)

// Serve is the engine's process: it reads a Spec, installs its calls, answers
// Ready, and then a Stats for every line it reads, until in ends.
func Serve(in io.Reader, out io.Writer, log *slog.Logger) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	answer := json.NewEncoder(out)
	if !lines.Scan() {
		return fmt.Errorf("no specification: %w", lines.Err())
	}
	var spec Spec
	if err := json.Unmarshal(lines.Bytes(), &spec); err != nil {
		return fmt.Errorf("specification: %w", err)
	}
	e, err := newEngine(spec, log)
	if err != nil {
		return answer.Encode(Ready{Error: err.Error()})
	}
	defer e.close()
	ready, err := e.install()
	if err != nil {
		ready.Error = err.Error()
	}
	if err := answer.Encode(ready); err != nil || ready.Error != "" {
		return err
	}
	for lines.Scan() {
		s, err := e.stats()
		if err != nil {
			return err
		}
		if err := answer.Encode(s); err != nil {
			return err
		}
	}
	return lines.Err()
}

type engine struct {
	spec   Spec
	addr   netlab.Addresses
	plane  *dataplane.Plane
	kernel *kernel.Engine
}

func newEngine(spec Spec, log *slog.Logger) (*engine, error) {
	e := &engine{spec: spec, addr: (&netlab.Lab{V6: spec.V6}).Addresses()}
	networks := []dataplane.Network{
		{Name: "outside", Addresses: []netip.Addr{e.addr.GatewayOutside}, Interface: netlab.BrowserSide},
		{Name: "inside", Addresses: []netip.Addr{e.addr.GatewayInside}, Interface: netlab.PhoneSide, PortMin: 20000, PortMax: 61999},
	}
	cfg := dataplane.Config{Networks: networks, Reason: dataplane.ReasonDisabled, Logger: log}
	if spec.Path != PathUser {
		attach := map[string]kernel.Attach{PathNative: kernel.AttachNative, PathGeneric: kernel.AttachGeneric, PathTC: kernel.AttachTC}[spec.Path]
		streams := kernel.DefaultStreams
		for streams < 4*spec.Calls {
			streams *= 2
		}
		var err error
		e.kernel, err = kernel.New(kernel.Config{
			PinDir: spec.PinDir, Networks: networks, Streams: streams, Logger: log,
			Interfaces: []kernel.Interface{{Name: netlab.BrowserSide, Attach: attach}, {Name: netlab.PhoneSide, Attach: attach}},
		})
		if err != nil {
			return nil, err
		}
		cfg.Forwarder, cfg.Reason = e.kernel, dataplane.ReasonNone
	}
	var err error
	e.plane, err = dataplane.New(cfg)
	if err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// install makes the calls as signalling would once both legs are settled.
func (e *engine) install() (Ready, error) {
	r := Ready{Path: PathUser}
	if e.kernel != nil {
		r.Path = e.kernel.Path("outside")
		if r.Path != e.spec.Path {
			return r, fmt.Errorf("the engine took %s instead of %s: %+v", r.Path, e.spec.Path, e.kernel.Report())
		}
	}
	for i := range e.spec.Calls {
		outer, browser, err := e.browser(i)
		if err != nil {
			return r, fmt.Errorf("call %d: %w", i, err)
		}
		inner, phone, err := e.phone(i)
		if err != nil {
			return r, fmt.Errorf("call %d: %w", i, err)
		}
		through := dataplane.NewPayloadMap()
		through[0] = 0
		if err := e.plane.Join(outer, inner, through, through); err != nil {
			return r, fmt.Errorf("call %d: %w", i, err)
		}
		if e.spec.Transform == RTPtoRTP {
			r.Outer = append(r.Outer, browser)
		}
		r.Browser = browser
		r.Phones = append(r.Phones, phone)
	}
	return r, nil
}

var line = dataplane.LineConfig{
	Kind: dataplane.Audio, Send: true, Receive: true,
	Formats: []dataplane.Format{{PayloadType: 0, Codec: "PCMU", ClockRate: 8000, Channels: 1}},
}

// browser makes the outer leg; a plain one is a phone's transport with the
// browsers' address, because browsers do not speak RTP.
func (e *engine) browser(i int) (*dataplane.Line, netip.AddrPort, error) {
	if e.spec.Transform == RTPtoRTP {
		return e.transport("outside", e.spec.browser(e.addr, i), srtp.MasterKey{}, srtp.MasterKey{})
	}
	t, err := e.plane.NewBrowserTransport("outside", dataplane.Events{})
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	local, _ := t.Local()
	t.SetPair(local, e.spec.browser(e.addr, i))
	if err := t.SetKeys(e.spec.key(i, browserSide, false), e.spec.key(i, browserSide, true)); err != nil {
		return nil, local, err
	}
	l, err := t.AddLine(line)
	return l, local, err
}

func (e *engine) phone(i int) (*dataplane.Line, netip.AddrPort, error) {
	return e.transport("inside", e.spec.phone(e.addr, i), e.spec.key(i, phoneSide, false), e.spec.key(i, phoneSide, true))
}

func (e *engine) transport(network string, remote netip.AddrPort, rx, tx srtp.MasterKey) (*dataplane.Line, netip.AddrPort, error) {
	t, err := e.plane.NewPhoneTransport(network, e.spec.V6, dataplane.Events{})
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	local, _ := t.Local()
	t.SetRemote(dataplane.Remote{RTP: remote})
	if rx.Profile != srtp.ProfileNone {
		if err := t.SetKeys(rx, tx); err != nil {
			return nil, local, err
		}
	}
	l, err := t.AddLine(line)
	return l, local, err
}

func (e *engine) stats() (Stats, error) {
	s := Stats{Flows: map[string]int{}, Packets: map[string]uint64{}, Routines: runtime.NumGoroutine()}
	for _, f := range e.plane.Snapshot() {
		s.Flows[f.Path]++
		s.Packets[f.Path] += f.State.Packets
	}
	if e.kernel != nil {
		c, err := e.kernel.Counters()
		if err != nil {
			return s, err
		}
		for _, events := range c.Events {
			s.Hits += events[bpf.ControlSlcEventSLC_KEYSTREAM_HIT]
			s.Misses += events[bpf.ControlSlcEventSLC_KEYSTREAM_MISS]
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s.Heap = m.HeapInuse
	return s, nil
}

func (e *engine) close() {
	if e.plane != nil {
		_ = e.plane.Close()
	}
	if e.kernel != nil {
		_ = e.kernel.Close()
	}
}
