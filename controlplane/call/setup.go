package call

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"github.com/sluicegw/sluice/controlplane/sdp"
)

// elsewhere tells the phones that lost a fork that this is no missed call
// (RFC 3326 2).
const elsewhere = `SIP;cause=200;text="Call completed elsewhere"`

// maxEarly bounds how many early dialogs of one leg are remembered.
const maxEarly = 16

// start takes the INVITE from arrival to its callees.
func (c *Call) start() {
	c.reach(StageInvite, c.caller, slog.LevelInfo,
		slog.String("from", c.inv.From().User), slog.String("to", c.to.User+"@"+c.to.Host),
		slog.Bool("delayed_offer", c.inv.Offer() == nil))
	var watch context.Context
	watch, c.unwatch = context.WithCancel(c.ctx)
	c.async(func() func() {
		select {
		case <-c.inv.Cancelled():
			return func() { c.end(Ending{Cause: CauseCancelled, By: ByCaller, Code: 487}) }
		case <-watch.Done():
			return func() {}
		}
	})

	d, err := c.m.cfg.Router.Route(c.ctx, c.inv)
	if err != nil {
		c.refuse(err)
		return
	}
	if len(d.Targets) == 0 {
		c.end(Ending{Cause: CauseRefused, By: ByGateway, Code: 480, Detail: "routed to nobody"})
		return
	}
	var names []string
	for _, t := range d.Targets {
		names = append(names, t.Party.Name())
	}
	c.reach(StageRouted, nil, slog.LevelInfo, slog.Any("to", names))

	lines, err := c.openCaller()
	if err != nil {
		c.refuse(err)
		return
	}
	c.after(c.m.t.NoAnswer, c.noAnswer)
	for _, t := range d.Targets {
		c.ring(t, d, lines)
	}
	c.conclude()
}

// refuse ends the call before any callee has been asked.
func (c *Call) refuse(err error) {
	e := Ending{Cause: CauseError, By: ByGateway, Code: 500, Detail: err.Error()}
	var no *Refusal
	var bad *sdp.Error
	switch {
	case errors.As(err, &no):
		e.Cause, e.Code = CauseRefused, no.Code
		c.caller.reason = no.Reason
	case errors.As(err, &bad):
		e.Cause, e.Code = CauseNoCodec, bad.Code
	}
	c.end(e)
}

// openCaller makes the caller's media and reads its offer; without one the
// lines are what its side would offer.
func (c *Call) openCaller() ([]sdp.Line, error) {
	if err := c.caller.newMedia(false); err != nil {
		return nil, &Refusal{503, "Service Unavailable", "no media for the caller: " + err.Error()}
	}
	offer := c.inv.Offer()
	if offer == nil {
		return c.caller.media.Capabilities(), nil
	}
	if err := c.caller.takeOffer(offer); err != nil {
		return nil, err
	}
	return c.caller.pending, nil
}

// delayed tells that the caller left the offer to us.
func (c *Call) delayed() bool { return c.inv.Offer() == nil }

// ring starts one branch of the fork. A branch that cannot start has a final
// response of its own.
func (c *Call) ring(t Target, d Decision, lines []sdp.Line) {
	l := &leg{call: c, id: c.id + "-b" + strconv.Itoa(len(c.callees)+1), party: t.Party, state: "inviting"}
	c.callees = append(c.callees, l)
	if !c.m.takeUser(c, t.Party.User) {
		c.branchOver(l, 486, "limits.calls_per_user is reached")
		return
	}
	if err := l.newMedia(t.SDES); err != nil {
		c.branchOver(l, 503, err.Error())
		return
	}
	offer, err := l.media.Offer(lines)
	if err != nil {
		c.branchOver(l, 488, err.Error())
		return
	}
	l.told = lines
	if t.MaxForwards == 0 {
		t.MaxForwards = max(1, c.inv.MaxForwards()-1)
	}
	out, err := c.m.cfg.Caller.Invite(c.ctx, t, d.From, d.To, offer, d.Header, l)
	if err != nil {
		c.branchOver(l, 503, err.Error())
		return
	}
	l.out, l.sipCallID = out, out.CallID()
	c.m.ownINVITE(l.sipCallID, true)
	c.inflight++
	go func() {
		for r := range out.Responses() {
			c.box.post(func() { c.responded(l, r) })
		}
		c.box.post(func() {
			c.inflight--
			if !l.final() {
				c.branchOver(l, 408, "no final response")
				c.conclude()
			}
		})
	}()
}

// responded takes one response of a branch.
func (c *Call) responded(l *leg, r Response) {
	if r.Source.IsValid() && l.media != nil && c.stage != StageEnded && !l.over {
		l.media.SetSource(r.Source)
	}
	switch {
	case r.Code < 200:
		if r.Code > 100 && c.stage != StageEnded && c.winner == nil && !l.final() {
			c.progress(l, r)
		}
	case r.Code < 300:
		c.accepted(l, r)
	default:
		if !l.final() {
			l.passOn = passed(r.Header)
			c.branchOver(l, r.Code, r.Reason)
			c.conclude()
		}
	}
}

// progress passes 180 and early media on to the caller.
func (c *Call) progress(l *leg, r Response) {
	if len(r.SDP) > 0 && !c.delayed() {
		if c.earlyMedia(l, r) {
			return
		}
	}
	if l.state == "inviting" {
		l.state = "ringing"
		c.publish()
	}
	// Ringing elsewhere must not cut off an announcement that is being heard.
	if c.rang || c.early != nil && c.early != l {
		return
	}
	if r.Code == 180 {
		c.rang = true
		c.reach(StageRinging, l, slog.LevelInfo)
		_ = c.inv.Progress(180, nil)
	} else if !c.progressed {
		c.progressed = true // forwarded, queued, in progress: something happens
		_ = c.inv.Progress(183, nil)
	}
}

// earlyMedia lets the caller hear l before the answer. The caller is answered
// once, in the first provisional with SDP: JsSIP and others take that for final.
func (c *Call) earlyMedia(l *leg, r Response) bool {
	if _, known := l.earlySDP[r.Tag]; !known && len(l.earlySDP) >= maxEarly {
		return false
	}
	if l.earlySDP == nil {
		l.earlySDP = map[string]string{}
	}
	l.earlySDP[r.Tag] = string(r.SDP)
	if c.early != nil && l.taken == string(r.SDP) {
		return c.early == l // nothing new
	}
	if err := l.takeAnswer(l.told, r.SDP); err != nil {
		c.log.Warn("early media cannot be used", "leg", l.id, "error", err)
		return false
	}
	if c.early != nil && c.early != l {
		return false // one at a time; this one is heard when the other fails
	}
	return c.hear(l, r.Code)
}

// hear joins the early media of l to the caller.
func (c *Call) hear(l *leg, code int) bool {
	if !c.caller.answered {
		body, err := c.caller.answer(l.said)
		if err != nil {
			c.log.Warn("early media has no codec in common with the caller", "leg", l.id, "error", err)
			return false
		}
		c.caller.answered = true
		c.rang, c.progressed = c.rang || code == 180, true
		defer func() { _ = c.inv.Progress(code, body) }()
	}
	l.state = "early"
	again := c.early == l
	c.early = l
	c.join(l)
	if !again {
		c.reach(StageEarly, l, slog.LevelInfo)
	}
	return true
}

// accepted takes a 2xx: the first usable one wins the call.
func (c *Call) accepted(l *leg, r Response) {
	if c.stage == StageEnded || c.winner != nil || l.final() {
		c.drop(r.Dialog, elsewhere)
		return
	}
	body := r.SDP
	if len(body) == 0 {
		// Some repeat nothing in the 200 what they said in the 183 of that dialog.
		body = []byte(l.earlySDP[r.Tag])
	}
	answer, err := c.agree(l, body)
	if err != nil {
		c.log.Warn("the callee's answer cannot be used", "leg", l.id, "error", err)
		c.drop(r.Dialog, `SIP;cause=488;text="Not Acceptable Here"`)
		c.branchOver(l, 488, err.Error())
		c.conclude()
		return
	}
	l.dialog, l.code, l.state = r.Dialog, r.Code, "answered"
	c.m.ownINVITE(l.sipCallID, false)
	c.winner, c.early = l, nil
	for _, o := range c.callees {
		if o != l {
			c.cancelBranch(o, elsewhere)
		}
	}
	c.join(l)
	c.answered = time.Now()
	c.reach(StageAnswered, l, slog.LevelInfo, slog.Duration("after", time.Since(c.started)))
	c.accept(answer)
}

// agree settles the media of the winning leg with the caller's and returns the
// SDP of the caller's 200.
func (c *Call) agree(l *leg, body []byte) ([]byte, error) {
	if l.taken != string(body) || len(l.said) == 0 {
		if err := l.takeAnswer(l.told, body); err != nil {
			return nil, err
		}
	}
	switch {
	case c.delayed():
		offer, err := c.caller.media.Offer(l.said)
		if err == nil {
			c.caller.awaiting = l.said
		}
		return offer, err
	case c.caller.answered:
		return c.caller.media.Local(), nil
	}
	answer, err := c.caller.answer(l.said)
	c.caller.answered = err == nil
	return answer, err
}

// branchOver records the final response of a branch.
func (c *Call) branchOver(l *leg, code int, why string) {
	l.code, l.over, l.state, l.reason = code, true, "over", why
	c.m.ownINVITE(l.sipCallID, false)
	if l.media != nil {
		if c.early == l {
			c.early = nil
			c.unjoin(func(joint) bool { return true })
		}
		l.media.Close()
		l.media = nil
	}
	c.log.Info("callee refused", "leg", l.id, "party", l.party.Name(), "code", code, "reason", why)
	c.publish()
}

// cancelBranch takes a branch back; its final response is still to come.
func (c *Call) cancelBranch(l *leg, reason string) {
	if l.final() {
		return
	}
	if l.out != nil {
		l.out.Cancel(reason)
	}
	l.over, l.state = true, "over"
	l.code = 487
	c.m.ownINVITE(l.sipCallID, false)
	if l.media != nil {
		l.media.Close()
		l.media = nil
	}
}

// final tells whether the branch has its final response or is given up.
func (l *leg) final() bool { return l.over || l.code >= 200 }

// conclude looks at a fork after one of its branches has failed.
func (c *Call) conclude() {
	if c.stage == StageEnded || c.winner != nil {
		return
	}
	open := false
	for _, l := range c.callees {
		if l.code >= 600 && l.over {
			// RFC 3261 16.7 step 5: a 6xx speaks for all.
			for _, o := range c.callees {
				c.cancelBranch(o, "")
			}
		}
	}
	for _, l := range c.callees {
		if l.final() {
			continue
		}
		open = true
		if c.early == nil && len(l.said) > 0 && !c.delayed() {
			c.hear(l, 183)
		}
	}
	if open {
		return
	}
	best := bestOf(c.callees)
	cause := CauseRefused
	if best.code == 488 {
		cause = CauseNoCodec
	}
	if best.code == 408 {
		cause = CauseNoAnswer
	}
	c.caller.passOn = best.passOn
	c.end(Ending{Cause: cause, By: ByCallee, Code: passedCode(best.code), Detail: best.reason})
}

// noAnswer gives up on callees that ring for too long.
func (c *Call) noAnswer() {
	if c.winner != nil {
		return
	}
	code := 408
	for _, l := range c.callees {
		if l.state != "inviting" {
			code = 480 // it was reached, and nobody picked up
		}
	}
	c.end(Ending{Cause: CauseNoAnswer, By: ByGateway, Code: code, Detail: "nobody answered within " + c.m.t.NoAnswer.String()})
}
