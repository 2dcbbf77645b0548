package call

import "github.com/sluicegw/sluice/dataplane"

// Engine is what calls ask of the data plane. Lines are handles that only the
// data plane looks into.
type Engine interface {
	// Join connects two lines both ways; it replaces what either was joined to.
	// aToB maps the payload types that arrive from a to those b is sent.
	Join(a, b *dataplane.Line, aToB, bToA dataplane.PayloadMap) error
	// Unjoin stops what was joined to the line.
	Unjoin(l *dataplane.Line)
	// RequestKeyframe asks the line's leg for a key frame (RFC 4585 6.3.1).
	RequestKeyframe(l *dataplane.Line)
	Stats(l *dataplane.Line) dataplane.LineStats
}

// OnPlane is the Engine of a data plane.
func OnPlane(p *dataplane.Plane) Engine { return planeEngine{p} }

type planeEngine struct{ *dataplane.Plane }

func (planeEngine) Unjoin(l *dataplane.Line)                    { l.Unjoin() }
func (planeEngine) RequestKeyframe(l *dataplane.Line)           { l.RequestKeyframe() }
func (planeEngine) Stats(l *dataplane.Line) dataplane.LineStats { return l.Stats() }
