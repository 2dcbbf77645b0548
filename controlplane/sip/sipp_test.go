package sip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gosip "github.com/emiago/sipgo/sip"

	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/internal/ring"
)

// asTrunk takes what comes from loopback without digest.
func asTrunk(c *Config) {
	c.Trunks = []Trunk{{Name: "pbx", Sources: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
}

const someSDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\n"

// freePort is a UDP port that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return strconv.Itoa(c.LocalAddr().(*net.UDPAddr).Port)
}

// sipp, 500 calls in: nothing of them is left behind.
func TestSippCallsIn(t *testing.T) {
	ring.Needs(t, ring.Tool("sipp"))
	for _, tr := range []struct {
		t    Transport
		flag string
	}{{UDP, "u1"}, {TCP, "t1"}} {
		t.Run(string(tr.t), func(t *testing.T) {
			var ended atomic.Int64
			w := newWorld(t, patient, asTrunk, func(c *Config) {
				c.OnInvite = func(i call.Invite) {
					_ = i.Progress(180, nil)
					_, _, err := i.Accept(context.Background(), []byte(someSDP), counter{&ended})
					if err != nil {
						t.Error(err)
					}
				}
			})
			before := w.goroutines()
			out, err := exec.Command("sipp", "-sn", "uac", "-t", tr.flag, "-i", "127.0.0.1", "-p", freePort(t), "-r", "200", "-m", "500", "-d", "10",
				"-nostdin", "-timeout", "30s", w.s.Addr("main", tr.t).String()).CombinedOutput()
			if err != nil {
				t.Fatalf("sipp: %v\n%s", err, tail(out))
			}
			eventually(t, "calls ended", func() bool { return ended.Load() == 500 })
			eventually(t, "baseline", func() bool {
				s, c := w.s.txs.len()
				return w.s.dialogs.len() == 0 && s == 0 && c == 0 && runtime.NumGoroutine() <= before+2
			})
		})
	}
}

// sipp as the phone that is called.
func TestSippCallsOut(t *testing.T) {
	ring.Needs(t, ring.Tool("sipp"))
	w := newWorld(t)
	port := freePort(t)
	cmd := exec.Command("sipp", "-sn", "uas", "-i", "127.0.0.1", "-p", port, "-m", "50", "-nostdin", "-timeout", "30s")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for i := range 50 {
		o, err := w.s.Invite(context.Background(), call.Target{URI: "sip:echo@127.0.0.1:" + port, Party: call.Party{Trunk: "pbx", Network: "main"}},
			call.Address{User: "web1"}, call.Address{User: "echo"}, []byte(someSDP), nil, newHandler())
		if err != nil {
			t.Fatal(err)
		}
		for r := range o.Responses() {
			if r.Code >= 300 {
				t.Fatalf("call %d: %d %s", i, r.Code, r.Reason)
			}
			if r.Dialog != nil {
				if err := r.Dialog.Bye(context.Background(), ""); err != nil {
					t.Fatalf("call %d: %v", i, err)
				}
			}
		}
	}
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("sipp counts failed calls: %v", err)
		}
	case <-time.After(10 * time.Second):
		_ = cmd.Process.Kill()
		t.Fatal("sipp waits for more calls")
	}
}

// counter counts calls that were ended by the far side.
type counter struct{ n *atomic.Int64 }

func (counter) OnReinvite(context.Context, []byte) ([]byte, int)    { return nil, 488 }
func (counter) OnAck([]byte)                                        {}
func (counter) OnInfo(context.Context, string, []byte) (status int) { return 200 }
func (c counter) OnBye(string)                                      { c.n.Add(1) }
func (counter) OnFlow(bool)                                         {}
func (counter) OnFailed(string)                                     {}

func tail(b []byte) string {
	s := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(s[max(0, len(s)-40):], "\n")
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range int(patience / (10 * time.Millisecond)) {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	stacks := make([]byte, 1<<20)
	t.Fatalf("not reached: %s\n%s", what, stacks[:runtime.Stack(stacks, true)])
}

// A thousand browsers come and go; nothing stays.
func TestFlowsEnd(t *testing.T) {
	w := newWorld(t)
	before := w.goroutines()
	for i := range 100 {
		p := w.newPeer("web1", []string{"WS", "TCP"}[i%2])
		p.register(fmt.Sprintf(`;+sip.instance="<urn:uuid:%d>";reg-id=1`, i%4))
		p.stop()
	}
	eventually(t, "baseline", func() bool {
		w.s.mu.Lock()
		flows, conns, addrs := len(w.s.flows), w.s.connections, len(w.s.perAddr)
		w.s.mu.Unlock()
		return flows == 0 && conns == 0 && addrs == 0 && w.loc.Len() == 0 && runtime.NumGoroutine() <= before+2
	})
}

// A slow reader is dropped; it holds up nobody.
func TestSlowReader(t *testing.T) {
	w := newWorld(t)
	c := w.deafTCP()
	defer c.Close()
	var f *flow
	eventually(t, "connection", func() bool {
		w.s.mu.Lock()
		defer w.s.mu.Unlock()
		for _, f = range w.s.flows {
		}
		return f != nil
	})
	msg, sent := bytes.Repeat([]byte("x"), 8192), 0
	var err error
	for err = f.send(msg); err == nil; err = f.send(msg) {
		if sent += len(msg); sent > 256<<20 {
			t.Fatal("256 MiB wait for somebody who does not read")
		}
		if len(f.out) > outboxLen/2 {
			time.Sleep(100 * time.Microsecond) // the writer's turn
		}
	}
	if !errors.Is(err, errFlowSlow) {
		t.Fatal(err)
	}
	p := w.newPeer("phone1", "UDP")
	if res := p.registerOnce("", ""); res.StatusCode != 401 {
		t.Fatal(res.StatusCode)
	}
	eventually(t, "slow reader dropped", func() bool { return w.s.Stats().Connections == 0 })
}

var _ gosip.Connection = (*flow)(nil)

// goroutines is their number once the server runs and nobody uses it.
func (w *world) goroutines() int {
	w.Helper()
	for _, tr := range []string{"UDP", "TCP"} {
		p := w.newPeer("phone1", tr)
		p.registerOnce("", "")
		p.stop()
	}
	eventually(w.T, "no connections", func() bool {
		w.s.mu.Lock()
		defer w.s.mu.Unlock()
		return len(w.s.flows) == 0
	})
	return runtime.NumGoroutine()
}
