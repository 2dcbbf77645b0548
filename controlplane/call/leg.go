package call

import (
	"context"
	"net/netip"
	"time"

	"github.com/sluicegw/sluice/controlplane/sdp"
)

// leg is one party of a call: its signalling and its media. Fields belong to
// the call's goroutine; the methods that implement DialogHandler only post.
type leg struct {
	call      *Call
	id        string
	party     Party
	sipCallID string
	state     string
	code      int      // final response
	reason    string   // and its words
	passOn    []Header // of that response, for the other side

	media  Media
	out    Outgoing // callee
	dialog Dialog
	over   bool // dialog or INVITE is finished: nothing more is to be sent

	// What the leg's far end last said, what it was last told, and what both
	// left. told of one leg and said of the other are the same when the call is
	// settled.
	said, told, settled []sdp.Line
	pending             []sdp.Line      // its offer that has no answer yet
	offered             []sdp.Line      // its own last offer: what it can do
	want                []sdp.Direction // what it wants when nobody restricts it
	taken               string          // the last SDP taken as an answer
	earlySDP            map[string]string
	answered            bool        // caller: our answer is out, in a 183 or the 200
	astray              bool        // it took an offer of ours with an answer we could not use
	awaiting            []sdp.Line  // our offer in a 200, whose answer comes with the ACK
	ackTimer            *time.Timer // gives that up

	flowDown time.Time // zero: its connection is up
	pinged   time.Time
	pinging  bool
	up       time.Time // since when media is expected
	keyframe time.Time // last RFC 5168 INFO sent
	infos    int       // INFOs of it that are being passed on
}

// newMedia makes the leg's media half.
func (l *leg) newMedia(sdes bool) error {
	c := l.call
	m, err := c.m.cfg.Media.New(c.ctx, l.party, MediaOptions{
		LegID: l.id, SDES: sdes, V6: isV6(l.party.Source.Addr()),
		Events: MediaEvents{
			Established:     func() { c.box.post(c.noteMedia) },
			Failed:          func(err error) { c.box.post(func() { c.mediaFailed(l, err) }) },
			KeyframeRequest: func(int) { c.box.post(func() { c.sendKeyframeRequest(l) }) },
		},
	})
	if err != nil {
		return err
	}
	l.media = m
	if l.party.Source.IsValid() {
		m.SetSource(l.party.Source)
	}
	return nil
}

func isV6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() }

// takeOffer reads an offer of the far end; it is pending until answered.
func (l *leg) takeOffer(offer []byte) error {
	lines, err := l.media.TakeOffer(offer)
	if err != nil {
		return err
	}
	if !sdp.Usable(lines) {
		l.media.Rollback()
		return sdp.NotAcceptable("no line with a codec the gateway carries")
	}
	l.pending = lines
	return nil
}

// answer answers the pending offer with what the other side said.
func (l *leg) answer(lines []sdp.Line) ([]byte, error) {
	body, err := l.media.Answer(lines)
	if err != nil {
		return nil, err
	}
	offer := l.pending
	l.pending = nil
	l.said, l.told, l.offered = offer, lines, offer
	l.settled = sdp.Intersect(offer, lines)
	l.want = l.want[:0]
	for _, o := range offer {
		l.want = append(l.want, o.Direction)
	}
	return body, nil
}

// takeAnswer reads the far end's answer to our offer of lines.
func (l *leg) takeAnswer(told []sdp.Line, answer []byte) error {
	lines, err := l.media.TakeAnswer(answer)
	if err != nil {
		return err
	}
	if !sdp.Usable(lines) {
		return sdp.NotAcceptable("the answer takes no line")
	}
	l.said, l.told, l.settled = lines, told, lines
	l.taken = string(answer)
	for len(l.want) < len(lines) {
		l.want = append(l.want, sdp.SendRecv)
	}
	for i, a := range lines {
		// Only an offer that restricted nothing shows what the far end wants.
		if i < len(told) && told[i].Direction.Sends() && told[i].Direction.Receives() {
			l.want[i] = a.Direction
		}
	}
	return nil
}

// able are the lines the far end could be asked for: its own last offer, else
// what it answered, in the directions it wants.
func (l *leg) able() []sdp.Line {
	src := l.offered
	if len(src) == 0 {
		src = l.said
	}
	out := make([]sdp.Line, len(src))
	for i, s := range src {
		out[i] = s.Clone()
		if i < len(l.said) && l.said[i].Rejected {
			out[i].Rejected = true
		}
		if i < len(l.want) {
			out[i].Direction = l.want[i]
		}
	}
	return out
}

// holding tells whether the far end has put the other on hold: it wants to
// receive on no line that is used.
func (l *leg) holding() bool {
	used := false
	for i, s := range l.said {
		if s.Rejected {
			continue
		}
		used = true
		if i >= len(l.want) || l.want[i].Receives() {
			return false
		}
	}
	return used
}

// expected tells whether media should arrive from the far end: it said it sends
// and was told that it may.
func (l *leg) expected() bool {
	for i, s := range l.settled {
		if !s.Rejected && i < len(l.said) && i < len(l.told) && l.said[i].Direction.Sends() && l.told[i].Direction.Receives() {
			return true
		}
	}
	return false
}

func (l *leg) describe(e Engine, stats bool) LegInfo {
	i := LegInfo{
		ID: l.id, Party: l.party, SIPCallID: l.sipCallID, State: l.state, Code: l.code, FlowDown: !l.flowDown.IsZero(),
	}
	if l.media == nil {
		return i
	}
	i.Media = l.media.Health().Established
	lines := l.media.Lines()
	for n, s := range l.settled {
		if s.Rejected {
			continue
		}
		li := LineInfo{Kind: s.Kind}
		if n < len(l.said) {
			li.Direction = string(l.said[n].Direction)
		}
		if len(s.Codecs) > 0 {
			li.Codec = s.Codecs[0].Codec
		}
		if stats && n < len(lines) && lines[n] != nil {
			li.Stats = e.Stats(lines[n])
		}
		i.Lines = append(i.Lines, li)
	}
	return i
}

// reply is what a re-INVITE is answered with.
type reply struct {
	sdp  []byte
	code int
}

// OnReinvite implements DialogHandler.
func (l *leg) OnReinvite(ctx context.Context, offer []byte) ([]byte, int) {
	ch := make(chan reply, 1)
	if !l.call.box.post(func() { l.call.reinvited(ctx, l, offer, func(r reply) { ch <- r }) }) {
		return nil, 481
	}
	select {
	case r := <-ch:
		return r.sdp, r.code
	case <-ctx.Done():
		return nil, 487
	case <-l.call.ctx.Done():
		return nil, 481
	}
}

// OnAck implements DialogHandler.
func (l *leg) OnAck(answer []byte) {
	l.call.box.post(func() { l.call.acked(l, answer) })
}

// OnInfo implements DialogHandler.
func (l *leg) OnInfo(ctx context.Context, contentType string, body []byte) int {
	ch := make(chan int, 1)
	if !l.call.box.post(func() { l.call.informed(l, contentType, body, func(code int) { ch <- code }) }) {
		return 481
	}
	select {
	case code := <-ch:
		return code
	case <-ctx.Done():
		return 408
	case <-l.call.ctx.Done():
		return 481
	}
}

// OnBye implements DialogHandler.
func (l *leg) OnBye(reason string) {
	l.call.box.post(func() { l.gone(Ending{Cause: CauseHangup, Code: 200, Detail: reason}) })
}

// OnFlow implements DialogHandler.
func (l *leg) OnFlow(up bool) {
	l.call.box.post(func() { l.call.flowChanged(l, up) })
}

// OnFailed implements DialogHandler.
func (l *leg) OnFailed(reason string) {
	l.call.box.post(func() { l.gone(Ending{Cause: CauseDialogLost, Code: 408, Detail: reason}) })
}

// gone ends the call when a dialog that matters is no more; that of a fork
// which lost does not.
func (l *leg) gone(e Ending) {
	l.over = true
	if !l.lostFork() {
		e.By = l.side()
		l.call.end(e)
	}
}

// lostFork tells that the leg is a callee whose dialog the call has no use for.
func (l *leg) lostFork() bool { return l != l.call.caller && l != l.call.winner }

func (l *leg) side() Side {
	if l == l.call.caller {
		return ByCaller
	}
	return ByCallee
}
