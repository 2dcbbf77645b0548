package srtp

// Window is RFC 3711 index estimation and the replay window in one value that
// both engines share (RFC 3711 3.3.1, 3.3.2). (Sketch; the owner completes it.)
type Window struct {
	highest uint64    // 48-bit index of the newest accepted packet
	bits    [2]uint64 // bit n: highest-n was accepted
	started bool
}

// Highest returns the newest accepted index, 0 before the first packet.
func (w *Window) Highest() uint64 { return w.highest }
