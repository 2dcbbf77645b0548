// Package media makes the media half that fits a leg's far end.
package media

import (
	"context"

	"github.com/sluicegw/sluice/controlplane/call"
)

// Factory chooses by the party: a browser's leg is WebRTC, any other RTP.
type Factory struct {
	Browser call.MediaFactory
	Phone   call.MediaFactory
}

var _ call.MediaFactory = Factory{}

// New implements call.MediaFactory.
func (f Factory) New(ctx context.Context, p call.Party, o call.MediaOptions) (call.Media, error) {
	if p.WebRTC {
		return f.Browser.New(ctx, p, o)
	}
	return f.Phone.New(ctx, p, o)
}
