package traffic

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

// Checker reads what came out of the gateway for a set of expected streams. It
// is for one goroutine, but Tally may be called from any.
type Checker struct {
	streams map[key]*expected

	mu    sync.Mutex
	tally Tally
	hist  *hdrhistogram.Histogram
}

// Tally is what a Checker has seen.
type Tally struct {
	Good       uint64 // authenticated, intact, for the first time
	Bad        uint64 // tag or octets wrong
	Duplicate  uint64
	Reordered  uint64 // later than a higher number, within Good
	Unexpected uint64 // to an address that expects nothing, or not RTP
	Octets     uint64
}

type key struct {
	port uint16 // destination port: unique on the expected side of a phone
	ssrc uint32 // with many streams behind one port; 0 otherwise
}

type expected struct {
	Stream
	context *srtp.Context
	window  srtp.Window
	seen    window
}

// window remembers the last 4096 numbers of a stream.
type window struct {
	bits [64]uint64
	high uint32
	any  bool
}

// NewChecker expects the streams. Streams with plain keys are found by their
// destination port, protected ones by port and SSRC where SSRC is given.
func NewChecker(streams []Stream) (*Checker, error) {
	c := &Checker{streams: make(map[key]*expected, len(streams)), hist: hdrhistogram.New(100, int64(10*time.Second), 3)}
	for _, s := range streams {
		e := &expected{Stream: s}
		if s.Keys != nil {
			var err error
			if e.context, err = srtp.NewContext(s.Keys); err != nil {
				return nil, err
			}
		}
		c.streams[key{s.Destination.Port(), s.SSRC}] = e
	}
	return c, nil
}

// Packet checks one UDP payload that came to port at now, on the clock of the
// writers. It may change the octets. It reports what it was.
func (c *Checker) Packet(port uint16, b []byte, now time.Duration) bool {
	if len(b) < rtpHeader || b[0]>>6 != 2 {
		c.count(func(t *Tally) { t.Unexpected++ })
		return false
	}
	ssrc := binary.BigEndian.Uint32(b[8:])
	e := c.streams[key{port, ssrc}]
	if e == nil {
		e = c.streams[key{port, 0}]
	}
	if e == nil {
		c.count(func(t *Tally) { t.Unexpected++ })
		return false
	}
	header, ok := srtp.HeaderLen(b)
	if ok && e.context != nil {
		index := e.window.Estimate(binary.BigEndian.Uint16(b[2:]))
		var err error
		if b, err = e.context.Unprotect(b, header, index); err != nil {
			ok = false
		} else if e.window.Check(index) {
			e.window.Accept(index)
		}
	}
	if !ok || len(b) < header {
		c.count(func(t *Tally) { t.Bad++ })
		return false
	}
	id, n, sent, intact := marks(b[header:])
	if !intact || id != e.ID {
		c.count(func(t *Tally) { t.Bad++ })
		return false
	}
	fresh, late := e.seen.mark(n)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !fresh {
		c.tally.Duplicate++
		return false
	}
	c.tally.Good++
	c.tally.Octets += uint64(len(b))
	if late {
		c.tally.Reordered++
	}
	if sent > 0 && int64(now) > sent {
		_ = c.hist.RecordValue(int64(now) - sent)
	}
	return true
}

func (c *Checker) count(f func(*Tally)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.tally)
}

// Tally returns the counts so far.
func (c *Checker) Tally() Tally {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tally
}

// Latency returns a copy of the one-way latencies in ns; packets made ahead of
// time (send time 0) are not in it.
func (c *Checker) Latency() *hdrhistogram.Histogram {
	c.mu.Lock()
	defer c.mu.Unlock()
	return hdrhistogram.Import(c.hist.Export())
}

// mark notes n; fresh is false for a duplicate or one too old to tell.
func (w *window) mark(n uint32) (fresh, late bool) {
	const span = 64 * 64
	switch {
	case !w.any:
		w.any, w.high = true, n
	case n > w.high:
		for i := w.high + 1; i != n+1 && i-w.high <= span; i++ {
			w.bits[i/64%64] &^= 1 << (i % 64)
		}
		w.high = n
	case w.high-n >= span:
		return false, true
	default:
		late = true
	}
	bit := &w.bits[n/64%64]
	if *bit&(1<<(n%64)) != 0 {
		return false, late
	}
	*bit |= 1 << (n % 64)
	return true, late
}
