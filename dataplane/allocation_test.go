//go:build !race

// The race detector makes sync.Pool forget at random.

package dataplane

import (
	"net/netip"
	"testing"
	"time"
)

// TestNoAllocation holds the user engine's steady state to none, for every pair
// of profiles, reading and sending included.
func TestNoAllocation(t *testing.T) {
	for _, pair := range benchPairs {
		r := newRelayBench(t, pair[0], pair[1], 160)
		r.prepare(t, 300)
		from := unmap(r.a.addr())
		r.one(from)
		if n := testing.AllocsPerRun(200, func() {
			if r.one(from) != 1 {
				t.Fatal("not forwarded")
			}
		}); n != 0 {
			t.Errorf("%v: %v allocations per packet", pair, n)
		}
	}
	s, err := listen(netip.AddrPortFrom(loopback4, 0))
	if err != nil {
		t.Fatal(err)
	}
	go s.serve(func(b *batch, packet []byte, from netip.AddrPort) { b.emit(s, from, packet) })
	defer s.close()
	client := listenUDP(t, false)
	out, in := make([]byte, 172), make([]byte, 172)
	client.SetReadDeadline(time.Now().Add(patience))
	if n := testing.AllocsPerRun(200, func() {
		if _, err := client.WriteToUDPAddrPort(out, s.local); err != nil {
			t.Fatal(err)
		}
		if _, _, err := client.ReadFromUDPAddrPort(in); err != nil {
			t.Fatal(err)
		}
	}); n > 0.1 {
		t.Errorf("%v allocations per echo through a socket's reader", n)
	}
}
