package call

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/sluicegw/sluice/controlplane/sdp"
)

// maxRounds bounds the re-INVITEs by which the gateway settles what two legs
// were told differently.
const maxRounds = 4

// reinvited takes a re-INVITE, or an UPDATE with SDP, of l. ctx ends when nobody
// waits for the answer any more.
func (c *Call) reinvited(ctx context.Context, l *leg, offer []byte, done func(reply)) {
	switch {
	case c.stage == StageEnded || l.lostFork():
		done(reply{code: 481})
		return
	case c.stage != StageConnected || c.busy:
		// RFC 3261 14.2: one offer at a time, through the whole call.
		done(reply{code: 491})
		return
	}
	c.rounds = 0
	if at := l.dialog.Party().Source; at.IsValid() && at != l.party.Source {
		l.party.Source = at // it has moved; media may follow it there
		l.media.SetSource(at)
	}
	if offer == nil {
		c.offerTo(l, done)
		return
	}
	if err := l.takeOffer(offer); err != nil {
		c.log.Warn("re-INVITE cannot be used", "leg", l.id, "error", err)
		done(reply{code: sdpStatus(err)})
		return
	}
	if sameLines(l.pending, l.said) {
		// Only addresses, keys or the session version changed: the far leg need
		// not know.
		body, err := l.answer(l.told)
		if err != nil {
			c.rollback(l)
			done(reply{code: sdpStatus(err)})
			return
		}
		c.join(c.winner)
		done(reply{body, 200})
		return
	}
	c.relay(ctx, l, c.far(l), done)
}

// relay carries l's pending offer to the far leg and its answer back.
func (c *Call) relay(ctx context.Context, l, far *leg, done func(reply)) {
	lines := l.pending
	c.offer(far, lines, func(err error) {
		if c.stage == StageEnded {
			done(reply{code: 481})
			return
		}
		if err != nil {
			c.rollback(l)
			code := sdpStatus(err)
			var no *ResponseError
			if errors.As(err, &no) {
				code = refusedAs(no.Code)
			}
			c.log.Info("re-INVITE refused by the far side", "leg", l.id, "far", far.id, "code", code, "error", err)
			done(reply{code: code})
			c.lost(far, err)
			return
		}
		if ctx.Err() != nil {
			// Cancelled meanwhile: what l was in stands, and far is told so.
			c.rollback(l)
			done(reply{code: 487})
			c.settleSoon(far)
			return
		}
		body, err := l.answer(far.said)
		if err != nil {
			c.rollback(l)
			done(reply{code: sdpStatus(err)})
			c.settleSoon(far) // it must learn that nothing has changed
			return
		}
		c.exchanges++
		c.join(c.winner)
		done(reply{body, 200})
		c.noteHold()
		c.publish()
		c.settleSoon(nil)
	})
}

// offer sends lines to l by re-INVITE and takes the answer. then runs when that
// is over, also when the call has ended meanwhile.
func (c *Call) offer(l *leg, lines []sdp.Line, then func(error)) {
	body, err := l.media.Offer(lines)
	if err != nil {
		then(err)
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.m.t.Exchange)
	c.busy, c.exchange = true, cancel
	c.async(func() func() {
		answer, err := l.dialog.Reinvite(ctx, body, nil)
		return func() {
			cancel()
			c.busy, c.exchange = false, nil
			if c.stage == StageEnded {
				then(err)
				return
			}
			if err != nil {
				l.media.Rollback()
				then(err)
				return
			}
			was := l.expected()
			if err = l.takeAnswer(lines, answer); err != nil {
				// The far end has taken the new offer and we cannot use its answer:
				// what it was told no longer stands.
				l.media.Rollback()
				l.astray = true
				c.settleSoon(l)
			} else {
				l.astray = false
				l.renew(was)
			}
			then(err)
		}
	})
}

// renew gives a leg that is to send again its time to do so.
func (l *leg) renew(was bool) {
	if !was && l.expected() {
		l.up = time.Now()
	}
}

// offerTo answers a re-INVITE without SDP by an offer of what the far leg can
// do; the answer comes with the ACK.
func (c *Call) offerTo(l *leg, done func(reply)) {
	lines := c.far(l).able()
	body, err := l.media.Offer(lines)
	if err != nil {
		done(reply{code: sdpStatus(err)})
		return
	}
	c.busy, l.awaiting = true, lines
	done(reply{body, 200})
	l.ackTimer = c.after(c.m.t.Exchange, func() { c.acked(l, nil) })
}

// acked takes the answer that came with an ACK.
func (c *Call) acked(l *leg, answer []byte) {
	if c.stage != StageConnected || l.awaiting == nil || l.lostFork() {
		return
	}
	told := l.awaiting
	c.busy, l.awaiting = false, nil
	c.stop(l.ackTimer)
	l.ackTimer = nil
	if len(answer) == 0 {
		l.media.Rollback()
		c.log.Warn("re-INVITE without SDP was never answered", "leg", l.id)
		return
	}
	was := l.expected()
	if err := l.takeAnswer(told, answer); err != nil {
		l.media.Rollback()
		c.log.Warn("the answer in the ACK cannot be used", "leg", l.id, "error", err)
		return
	}
	// Asked for an offer, it shows by its answer what it wants.
	for i, s := range l.said {
		l.want[i] = s.Direction
	}
	l.renew(was)
	c.exchanges++
	c.join(c.winner)
	c.noteHold()
	c.settle(c.far(l))
}

// settleSoon settles after the transaction under way had time to end.
func (c *Call) settleSoon(first *leg) {
	if c.stale(first) != nil {
		c.after(settleDelay, func() { c.settle(first) })
	}
}

// settleDelay lets a far end finish what it is about: a re-INVITE in the wake of
// an ACK meets user agents that have not yet started what they agreed to.
const settleDelay = 200 * time.Millisecond

// settle re-INVITEs the leg that was told something other than what the other
// leg has settled on: after a fork whose early media came from somebody else,
// and after a delayed offer. first is asked first where both would do.
func (c *Call) settle(first *leg) {
	if c.stage != StageConnected || c.busy || c.rounds >= maxRounds {
		return
	}
	l := c.stale(first)
	if l == nil {
		return
	}
	c.rounds++
	far := c.far(l)
	lines := make([]sdp.Line, len(far.said))
	for i, s := range far.said {
		lines[i] = s.Clone()
		if i < len(far.want) {
			lines[i].Direction = far.want[i]
		}
	}
	c.log.Info("settling what the legs were told", "leg", l.id)
	c.offer(l, lines, func(err error) {
		if c.stage == StageEnded {
			return
		}
		if err == nil {
			c.exchanges++
			c.join(c.winner)
			c.noteHold()
			c.settle(nil)
			return
		}
		c.log.Warn("a leg refused to be settled", "leg", l.id, "error", err)
		c.lost(l, err)
		if !c.common() {
			c.end(Ending{Cause: CauseNoCodec, By: ByGateway, Code: 488, Detail: "the legs could not be brought to one codec"})
		}
	})
}

// stale is the leg whose last word from us no longer fits the other side, nil
// when media fits both ways.
func (c *Call) stale(first *leg) *leg {
	if c.stage != StageConnected || c.fits() {
		return nil
	}
	if first == nil {
		first = c.caller
	}
	for _, l := range []*leg{first, c.far(first)} {
		if l.astray || !c.far(l).astray && !sameLines(l.told, c.far(l).said) {
			return l
		}
	}
	return nil
}

// fits tells whether what one leg sends is what the other takes, on every line.
func (c *Call) fits() bool {
	a, b := c.caller, c.winner
	if a.astray || b.astray {
		return false
	}
	for i := range max(len(a.said), len(b.said)) {
		ua, ub := a.uses(i), b.uses(i)
		if ua != ub {
			return false
		}
		if !ua {
			continue
		}
		if !sameCodecs(a.settled[i].Codecs, b.settled[i].Codecs) ||
			a.sendsOn(i) != b.receivesOn(i) || b.sendsOn(i) != a.receivesOn(i) {
			return false
		}
	}
	return true
}

// common tells whether any line has a codec that both legs have settled on.
func (c *Call) common() bool {
	a, b := c.caller, c.winner
	for i := range min(len(a.settled), len(b.settled)) {
		if a.uses(i) && b.uses(i) && slices.ContainsFunc(a.settled[i].Codecs, func(x sdp.Codec) bool {
			return !x.IsAuxiliary() && slices.ContainsFunc(b.settled[i].Codecs, x.Equivalent)
		}) {
			return true
		}
	}
	return false
}

func (l *leg) uses(i int) bool {
	return i < len(l.settled) && i < len(l.said) && i < len(l.told) && !l.settled[i].Rejected
}

func (l *leg) sendsOn(i int) bool {
	return l.said[i].Direction.Sends() && l.told[i].Direction.Receives()
}

func (l *leg) receivesOn(i int) bool {
	return l.said[i].Direction.Receives() && l.told[i].Direction.Sends()
}

func (c *Call) rollback(l *leg) {
	l.pending = nil
	l.media.Rollback()
}

// lost ends the call when a refusal says that the dialog is no more (RFC 3261
// 12.2.1.2).
func (c *Call) lost(l *leg, err error) {
	var no *ResponseError
	if errors.As(err, &no) && (no.Code == 481 || no.Code == 408) {
		c.end(Ending{Cause: CauseDialogLost, By: l.side(), Code: 408, Detail: err.Error()})
	}
}

// noteHold logs who has put whom on hold.
func (c *Call) noteHold() {
	for _, l := range []*leg{c.caller, c.winner} {
		held := slices.Contains(c.heldBy, l)
		switch now := l.holding(); {
		case now && !held:
			c.heldBy = append(c.heldBy, l)
			c.reach(StageHeld, l, slog.LevelInfo)
		case !now && held:
			c.heldBy = slices.DeleteFunc(c.heldBy, func(o *leg) bool { return o == l })
			c.reach(StageResumed, l, slog.LevelInfo)
		}
	}
}

// sdpStatus is the status that tells of an SDP error.
func sdpStatus(err error) int {
	var bad *sdp.Error
	if errors.As(err, &bad) {
		return bad.Code
	}
	return 500
}
