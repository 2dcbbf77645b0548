package media

import (
	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/dataplane"
)

// Streams are the places of the streams that are sent on a leg's lines; lines
// are by the call's index, nil where there is none.
func Streams(p *dataplane.Plane, lines []*dataplane.Line) []call.StreamSnapshot {
	at := map[uint32]int{}
	for i, l := range lines {
		if l != nil {
			at[l.SSRC()] = i
		}
	}
	if len(at) == 0 {
		return nil
	}
	var out []call.StreamSnapshot
	for _, f := range p.Snapshot() {
		i, ours := at[f.Flow.OutSSRC]
		if !ours {
			continue
		}
		out = append(out, call.StreamSnapshot{
			Line: i, InSSRC: f.Flow.InSSRC, OutSSRC: f.Flow.OutSSRC,
			InIndex: f.State.Window.Highest(), IndexOffset: f.Flow.IndexOffset,
			TimestampAdd: f.Flow.TimestampAdd, LastPacket: f.State.LastPacket,
		})
	}
	return out
}
