// Package traffic makes valid RTP and SRTP for the perf suite and checks what
// comes out of the gateway: every packet is authenticated or compared, and loss,
// duplicates, reorder and one-way latency are counted.
package traffic

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

// Stream is one RTP stream on one side of the gateway: sent to it, or expected
// from it.
type Stream struct {
	ID          uint32 // carried in the payload; the same on both sides
	SSRC        uint32 // 0 on the expected side: learnt from the first packet
	PayloadType uint8
	Keys        *srtp.SessionKeys // nil is plain RTP
	Source      netip.AddrPort
	Destination netip.AddrPort
	Payload     int    // octets of RTP payload, at least MinPayload
	Samples     uint32 // RTP clock ticks a packet
	Sequence    uint16 // of the first packet
}

// MinPayload is what the marks in a payload need: stream, number and send time.
const MinPayload = 16

const rtpHeader = 12

// put writes packet n of the stream as plain RTP and returns its length. The
// payload is the stream's id, n, the send time in ns of the clock both ends
// share, and octets that depend on all of them.
func (s *Stream) put(b []byte, n uint32, sent int64) int {
	b[0], b[1] = 0x80, s.PayloadType
	binary.BigEndian.PutUint16(b[2:], s.Sequence+uint16(n))
	binary.BigEndian.PutUint32(b[4:], n*s.Samples)
	binary.BigEndian.PutUint32(b[8:], s.SSRC)
	fill(b[rtpHeader:rtpHeader+s.Payload], s.ID, n, sent)
	return rtpHeader + s.Payload
}

func fill(p []byte, id, n uint32, sent int64) {
	binary.BigEndian.PutUint32(p, id)
	binary.BigEndian.PutUint32(p[4:], n)
	binary.BigEndian.PutUint64(p[8:], uint64(sent))
	x := id*2654435761 ^ n ^ uint32(sent) ^ uint32(sent>>32)
	for i := MinPayload; i < len(p); i++ {
		x = x*1664525 + 1013904223
		p[i] = byte(x >> 24)
	}
}

// marks reads a payload back and tells whether its octets are the ones sent.
func marks(p []byte) (id, n uint32, sent int64, intact bool) {
	if len(p) < MinPayload {
		return 0, 0, 0, false
	}
	id, n = binary.BigEndian.Uint32(p), binary.BigEndian.Uint32(p[4:])
	sent = int64(binary.BigEndian.Uint64(p[8:]))
	x := id*2654435761 ^ n ^ uint32(sent) ^ uint32(sent>>32)
	for _, c := range p[MinPayload:] {
		x = x*1664525 + 1013904223
		if c != byte(x>>24) {
			return id, n, sent, false
		}
	}
	return id, n, sent, true
}

// Writer makes a stream's packets one after the other.
type Writer struct {
	Stream
	context *srtp.Context
	n       uint32
}

// NewWriter checks the stream and starts it at packet 0.
func NewWriter(s Stream) (*Writer, error) {
	if s.Payload < MinPayload {
		return nil, fmt.Errorf("stream %d: payload of %d octets, at least %d", s.ID, s.Payload, MinPayload)
	}
	w := &Writer{Stream: s}
	if s.Keys != nil {
		var err error
		if w.context, err = srtp.NewContext(s.Keys); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// Next writes the next packet into b, which has room for payload, header and
// tag, and returns it.
func (w *Writer) Next(b []byte, now time.Duration) ([]byte, error) {
	n := w.put(b, w.n, int64(now))
	index := uint64(w.Sequence) + uint64(w.n)
	w.n++
	if w.context == nil {
		return b[:n], nil
	}
	return w.context.Protect(b[:n], rtpHeader, index)
}

// Sent is the number of packets made.
func (w *Writer) Sent() uint32 { return w.n }
