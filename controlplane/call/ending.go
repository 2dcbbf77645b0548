package call

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// accept sends the caller's 200 and waits for the ACK.
func (c *Call) accept(answer []byte) {
	c.unwatch() // from here on Accept itself tells of a CANCEL
	ctx, cancel := context.WithCancel(c.ctx)
	c.accepting = cancel
	c.async(func() func() {
		d, ack, err := c.inv.Accept(ctx, answer, c.caller)
		return func() {
			cancel()
			c.accepting = nil
			c.invDone = true
			c.confirmed(d, ack, err)
		}
	})
}

// confirmed goes on when the caller's ACK came, or did not.
func (c *Call) confirmed(d Dialog, ack []byte, err error) {
	if c.stage == StageEnded {
		if err == nil {
			c.drop(d, c.ending.reason())
		}
		return
	}
	switch {
	case errors.Is(err, ErrEnded):
		c.caller.over = true
		c.end(Ending{Cause: CauseCancelled, By: ByCaller, Code: 487})
		return
	case errors.Is(err, ErrNoAck):
		c.caller.over = true
		c.end(Ending{Cause: CauseNoAck, By: ByGateway, Code: 408, Detail: "the caller never acknowledged the 200"})
		return
	case err != nil:
		c.caller.over = true
		c.end(Ending{Cause: CauseError, By: ByGateway, Code: 500, Detail: err.Error()})
		return
	}
	c.caller.dialog = d
	if c.caller.over { // its BYE overtook us
		return
	}
	if told := c.caller.awaiting; told != nil {
		c.caller.awaiting = nil
		if err := c.caller.takeAnswer(told, ack); err != nil {
			c.end(Ending{Cause: CauseNoCodec, By: ByGateway, Code: 488, Detail: err.Error()})
			return
		}
		c.join(c.winner)
	}
	now := time.Now()
	for _, l := range []*leg{c.caller, c.winner} {
		l.state, l.up = "connected", now
	}
	c.reach(StageConnected, nil, slog.LevelInfo)
	c.noteMedia()
	c.noteHold()
	c.after(c.m.t.Check, c.check)
	c.settleSoon(nil)
}

// end ends every leg in the way its state asks for. Only the first call counts.
func (c *Call) end(e Ending) {
	if c.stage == StageEnded {
		return
	}
	c.ending, c.ended = e, time.Now()
	level := slog.LevelInfo
	if e.Cause == CauseError || e.Cause == CauseMediaFailed {
		level = slog.LevelWarn
	}
	var answered time.Duration
	if !c.answered.IsZero() {
		answered = c.ended.Sub(c.answered)
	}
	c.reach(StageEnded, nil, level, slog.String("cause", string(e.Cause)), slog.String("by", string(e.By)),
		slog.Int("code", e.Code), slog.String("detail", e.Detail), slog.Duration("duration", answered))
	for t := range c.timers {
		c.stop(t)
	}
	c.unwatch()
	if c.exchange != nil {
		c.exchange()
	}
	c.endCaller(e)
	for _, l := range c.callees {
		switch {
		case l.dialog != nil && !l.over:
			l.over = true
			c.drop(l.dialog, e.reason())
		case l.dialog == nil:
			c.cancelBranch(l, "")
		}
	}
	c.unjoin(func(joint) bool { return true })
	for _, l := range c.legs() {
		l.state = "over"
		if l.media != nil {
			l.media.Close()
		}
	}
}

func (c *Call) endCaller(e Ending) {
	switch l := c.caller; {
	case c.accepting != nil:
		c.accepting() // Accept then ends the dialog by BYE
	case l.dialog != nil:
		if !l.over {
			l.over = true
			c.drop(l.dialog, e.reason())
		}
	case !c.invDone:
		c.invDone = true
		if e.Cause == CauseCancelled {
			return // the signalling layer has sent 487
		}
		reason := phrase(e.Code)
		if l.reason != "" {
			reason = l.reason
		}
		h := l.passOn
		if e.Code == 503 && !slices.ContainsFunc(h, func(x Header) bool { return strings.EqualFold(x.Name, "Retry-After") }) {
			h = append(h, c.m.retryAfter())
		}
		c.async(func() func() {
			err := c.inv.Reject(e.Code, reason, h...)
			return func() {
				if err != nil && !errors.Is(err, ErrEnded) {
					c.log.Warn("the caller could not be told", "code", e.Code, "error", err)
				}
			}
		})
	}
}

// drop ends a dialog beside the call.
func (c *Call) drop(d Dialog, reason string) {
	if d == nil {
		return
	}
	c.async(func() func() {
		ctx, cancel := context.WithTimeout(c.ctx, c.m.t.Bye)
		defer cancel()
		err := d.Bye(ctx, reason)
		return func() {
			if err != nil {
				c.log.Info("BYE was not answered", "sip_call_id", d.CallID(), "error", err)
			}
		}
	})
}

// reason is the ending as a Reason header (RFC 3326) for the other legs.
func (e Ending) reason() string {
	switch e.Cause {
	case CauseHangup:
		return e.Detail // the far end's own
	case CauseCancelled, CauseRefused:
		return ""
	}
	return fmt.Sprintf("SIP;cause=%d;text=%q", e.Code, string(e.Cause))
}
