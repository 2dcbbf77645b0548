package srtp

// WindowSize is the number of indices a Window remembers, the highest included.
const WindowSize = 128

// IndexMask keeps a packet index within its 48 bits.
const IndexMask = 1<<48 - 1

// Window is RFC 3711 index estimation and the replay window in one value that
// both engines share (RFC 3711 3.3.1, 3.3.2). The zero value has seen nothing.
// It is not safe for concurrent use.
//
// RFC 3711 leaves one corner open: with roll-over counter 0 and a highest
// sequence number below 2^15, a sequence number more than 2^15 above it would
// belong to roll-over counter -1, which does not exist. Window takes it for
// roll-over counter 0, as libsrtp and pion do, so the first packets of a stream
// may be any distance apart.
type Window struct {
	highest uint64    // 48-bit index of the newest accepted packet
	bits    [2]uint64 // bit n: highest-n was accepted
	started bool
}

// NewWindow rebuilds a window from Highest, Bits and Started of another, for
// instance one kept in a kernel map. A started window has always seen its highest.
func NewWindow(highest uint64, bits [2]uint64, started bool) Window {
	if !started {
		return Window{}
	}
	bits[0] |= 1
	return Window{highest: highest & IndexMask, bits: bits, started: true}
}

// NewWindowAt returns a window for which every index up to and including
// highest counts as seen.
func NewWindowAt(highest uint64) Window {
	return NewWindow(highest, [2]uint64{^uint64(0), ^uint64(0)}, true)
}

// Highest returns the newest accepted index, 0 before the first packet.
func (w *Window) Highest() uint64 { return w.highest }

// Bits returns what was accepted: bit n of the 128 (word n/64, bit n%64) stands
// for index Highest-n.
func (w *Window) Bits() [2]uint64 { return w.bits }

// Started tells whether any index has been accepted.
func (w *Window) Started() bool { return w.started }

// Estimate returns the 48-bit index that a packet with this sequence number
// most likely has (RFC 3711 3.3.1 and appendix A). Before the first packet the
// roll-over counter is 0.
func (w *Window) Estimate(seq uint16) uint64 {
	roc, last := w.highest>>16, uint16(w.highest)
	switch {
	case !w.started:
	case last < 1<<15:
		if int(seq)-int(last) > 1<<15 && roc > 0 {
			roc--
		}
	case int(last)-1<<15 > int(seq):
		roc++ // beyond 2^32-1 it wraps to an index that Check calls too old
	}
	return (roc<<16 | uint64(seq)) & IndexMask
}

// Check tells whether the index may be accepted: it is above the highest, or
// within the window and not yet seen. It changes nothing.
func (w *Window) Check(index uint64) bool {
	if !w.started || index > w.highest {
		return true
	}
	d := w.highest - index
	return d < WindowSize && w.bits[d/64]>>(d%64)&1 == 0
}

// Accept marks the index as seen. Call it only after Check, and for SRTP only
// after the packet's tag verified. An index below the window is ignored.
func (w *Window) Accept(index uint64) {
	if !w.started {
		*w = Window{highest: index & IndexMask, bits: [2]uint64{1, 0}, started: true}
		return
	}
	if index <= w.highest {
		if d := w.highest - index; d < WindowSize {
			w.bits[d/64] |= 1 << (d % 64)
		}
		return
	}
	switch d := index - w.highest; {
	case d < 64:
		w.bits[1] = w.bits[1]<<d | w.bits[0]>>(64-d)
		w.bits[0] = w.bits[0]<<d | 1
	case d < WindowSize:
		w.bits[1] = w.bits[0] << (d - 64)
		w.bits[0] = 1
	default:
		w.bits = [2]uint64{1, 0}
	}
	w.highest = index & IndexMask
}
