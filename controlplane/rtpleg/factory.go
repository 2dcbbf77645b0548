package rtpleg

import (
	"context"
	"log/slog"

	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/dataplane"
)

// Config of a Factory.
type Config struct {
	Plane  *dataplane.Plane
	Logger *slog.Logger // nil = discard
}

// Factory makes the media halves of phone and trunk legs. Methods may be called
// from any goroutine.
type Factory struct {
	plane *dataplane.Plane
	log   *slog.Logger
}

// NewFactory makes a Factory.
func NewFactory(c Config) *Factory {
	f := &Factory{plane: c.Plane, log: c.Logger}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	return f
}

// New makes a leg's media and takes its first pair of ports; the error is
// dataplane.ErrNoPorts when none is left.
func (f *Factory) New(_ context.Context, p call.Party, o call.MediaOptions) (call.Media, error) {
	return newLeg(f, p, o)
}
