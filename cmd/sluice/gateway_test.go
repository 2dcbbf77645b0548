package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/sluicegw/sluice/appliance/admin"
)

// pretend is a gateway with a fixed state, behind the real admin server.
type pretend struct {
	mu    sync.Mutex
	calls []admin.Call
}

func serveAdmin(env *testscript.Env) error {
	ln, err := admin.Listen(filepath.Join(env.WorkDir, "admin.sock"))
	if err != nil {
		return err
	}
	s := admin.NewServer(newPretend(), slog.New(slog.DiscardHandler))
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ln) }()
	env.Defer(func() { _ = s.Close(); <-done })
	env.Setenv("SLUICE_SOCKET", ln.Addr().String())
	return nil
}

func newPretend() *pretend {
	at := time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)
	answered := at.Add(1234 * time.Millisecond)
	line := func(path, reason string) admin.Line {
		return admin.Line{Kind: "audio", Codec: "PCMU", Direction: "sendrecv", Path: path, Reason: reason,
			Received: &admin.Counters{Packets: 500, Octets: 80000, Lost: 3, Jitter: .0021, Last: &answered},
			Sent:     &admin.Counters{Packets: 498, Octets: 79680}, RemoteLost: 1, RoundTrip: .025, DTMF: "42#"}
	}
	call := func(id, from, to, stage string) admin.Call {
		return admin.Call{ID: id, Stage: stage, Direction: "browser-phone", From: from + "@gw.test", To: to + "@gw.test",
			Started: at, Answered: &answered, Seconds: 12, Legs: []admin.Leg{
				{ID: id + "-a", Party: from, Kind: "browser", Network: "default", Source: "192.0.2.1:4000", SIPCallID: "cid-" + id, State: "connected", Media: true, Lines: []admin.Line{line("kernel:xdp-native", "")}},
				{ID: id + "-b", Party: to, Kind: "phone", Network: "default", Source: "192.0.2.2:5060", SIPCallID: "out-" + id, State: "connected", Media: true, Lines: []admin.Line{line("user", "header-extension")}},
			}}
	}
	return &pretend{calls: []admin.Call{call("ABCDEFGHIJKL", "alice", "bob", "connected"), call("ABXXXXXXXXXX", "carol", "dave", "ringing")}}
}

func (p *pretend) Calls() []admin.Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]admin.Call(nil), p.calls...)
}

func (p *pretend) Call(_ context.Context, id string) (admin.Call, bool) {
	for _, c := range p.Calls() {
		if c.ID == id {
			return c, true
		}
	}
	return admin.Call{}, false
}

func (p *pretend) Hangup(id, _ string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, c := range p.calls {
		if c.ID == id {
			p.calls = append(p.calls[:i:i], p.calls[i+1:]...)
			return true
		}
	}
	return false
}

func (p *pretend) Flows() []admin.Flow {
	return []admin.Flow{{ID: 7, Path: "user", Reason: "interface", InNetwork: "default", From: "192.0.2.1:4000", At: "192.0.2.9:3478",
		SSRC: 0xdeadbeef, InProfile: "AEAD_AES_128_GCM", OutNetwork: "default", To: "192.0.2.2:20000", OutSSRC: 1, OutProfile: "none",
		Counters: admin.Counters{Packets: 100, Octets: 16000, Jitter: .001}}}
}

func (p *pretend) Registrations(context.Context) ([]admin.Registration, error) {
	return []admin.Registration{{User: "alice", Contact: "sip:alice@192.0.2.1", Transport: "WS", Network: "default",
		Source: "192.0.2.1:4000", UserAgent: "JsSIP 3.13.8", Expires: time.Now().Add(90 * time.Second)}}, nil
}

func (p *pretend) Dataplane() admin.Dataplane {
	return admin.Dataplane{Schema: admin.SchemaDataplane, Engine: "kernel", Kernel: "6.18.0", Pin: "/sys/fs/bpf/sluice", Orphans: 2,
		Interfaces: []admin.Interface{{Name: "eth0", Driver: "veth", Path: "kernel:xdp-generic", Why: "the driver has no XDP"}},
		Paths:      []admin.Path{{Path: "user", Packets: 3, Octets: 480}},
		Verdicts:   []admin.Verdict{{Program: "xdp", Verdict: "drop_auth", Packets: 9}}}
}
