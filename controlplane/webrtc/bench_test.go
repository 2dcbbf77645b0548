package webrtc

import (
	"log/slog"
	"net"
	"testing"
)

// BenchmarkAssociation is what a browser's leg costs before any packet.
func BenchmarkAssociation(b *testing.B) {
	s, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	m, err := newMux([]net.PacketConn{s})
	if err != nil {
		b.Fatal(err)
	}
	defer m.close()
	r := newReported()
	b.ReportAllocs()
	for b.Loop() {
		id, err := newIdentity()
		if err != nil {
			b.Fatal(err)
		}
		a, err := newAssociation(m, id, r.hooks(), slog.New(slog.DiscardHandler))
		if err != nil {
			b.Fatal(err)
		}
		a.close()
	}
}
