package call

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/sluicegw/sluice/dataplane"
)

// check looks at whether the far ends are still there.
//
// A browser proves it by consent checks, even on hold. A phone has none: its
// media does, and where none is to be expected, or none comes, OPTIONS within
// the dialog asks.
func (c *Call) check() {
	now := time.Now()
	silent, expected := true, false
	for _, l := range []*leg{c.caller, c.winner} {
		h := l.media.Health()
		if h.Failed != nil {
			c.mediaFailed(l, h.Failed)
			return
		}
		if c.flowGone(l, h, now) {
			return
		}
		quiet := now.Sub(latest(l.up, h.Consent, h.LastReceived)) >= c.m.t.Silence
		if quiet && l.party.WebRTC {
			c.end(Ending{Cause: CauseMediaTimeout, By: ByGateway, Code: 408, Detail: "neither consent nor media from leg " + l.id})
			return
		}
		if quiet && !l.party.WebRTC {
			c.ping(l, now)
		}
		silent = silent && quiet
		expected = expected || l.expected()
	}
	if silent && expected {
		c.end(Ending{Cause: CauseMediaTimeout, By: ByGateway, Code: 408, Detail: "no media from either leg"})
		return
	}
	c.after(c.m.t.Check, c.check)
}

func latest(ts ...time.Time) time.Time {
	var m time.Time
	for _, t := range ts {
		if t.After(m) {
			m = t
		}
	}
	return m
}

// flowGone ends the call of a browser whose connection is lost: soon when its
// consent is gone too, later while it is still there.
func (c *Call) flowGone(l *leg, h Health, now time.Time) bool {
	if l.flowDown.IsZero() || !l.party.WebRTC {
		return false
	}
	switch {
	case now.Sub(latest(l.flowDown, h.Consent)) >= c.m.t.FlowGrace:
		c.end(Ending{Cause: CauseSignallingLost, By: ByGateway, Code: 408, Detail: "connection and consent of leg " + l.id + " are gone"})
	case now.Sub(l.flowDown) >= c.m.t.FlowLost:
		c.end(Ending{Cause: CauseSignallingLost, By: ByGateway, Code: 408, Detail: "the connection of leg " + l.id + " did not come back"})
	default:
		return false
	}
	return true
}

func (c *Call) flowChanged(l *leg, up bool) {
	if c.stage == StageEnded || up == l.flowDown.IsZero() {
		return
	}
	if up {
		c.log.Info("signalling connection is back", "leg", l.id, "after", time.Since(l.flowDown))
		l.flowDown = time.Time{}
	} else {
		c.log.Warn("signalling connection lost", "leg", l.id)
		l.flowDown = time.Now()
	}
	c.publish()
}

// ping asks a silent phone whether it is there.
func (c *Call) ping(l *leg, now time.Time) {
	if l.pinging || now.Sub(l.pinged) < c.m.t.Silence {
		return
	}
	l.pinging, l.pinged = true, now
	c.async(func() func() {
		ctx, cancel := context.WithTimeout(c.ctx, c.m.t.Exchange)
		defer cancel()
		err := l.dialog.Ping(ctx)
		return func() {
			l.pinging = false
			if c.stage != StageEnded {
				c.lost(l, err)
			}
		}
	})
}

// mediaFailed handles ICE or DTLS that failed for good.
func (c *Call) mediaFailed(l *leg, err error) {
	if c.stage == StageEnded || l.over {
		return
	}
	if c.winner == nil && l != c.caller {
		c.log.Warn("media of a callee failed", "leg", l.id, "error", err)
		c.cancelBranch(l, "")
		l.code = 500
		if c.early == l {
			c.early = nil
			c.unjoin(func(joint) bool { return true })
		}
		c.conclude()
		return
	}
	c.end(Ending{Cause: CauseMediaFailed, By: l.side(), Code: 500, Detail: err.Error()})
}

// fastUpdate is the key frame request of RFC 5168.
const (
	mediaControl = "application/media_control+xml"
	fastUpdate   = `<?xml version="1.0" encoding="utf-8"?><media_control><vc_primitive><to_encoder><picture_fast_update/></to_encoder></vc_primitive></media_control>`
)

// maxInfos bounds the INFOs of one leg that wait for the far side at a time.
const maxInfos = 16

// informed passes INFO on. A key frame request becomes RTCP where the far leg
// takes that.
func (c *Call) informed(l *leg, contentType string, body []byte, done func(int)) {
	if c.stage != StageConnected || l.lostFork() {
		done(481)
		return
	}
	far := c.far(l)
	if far.party.WebRTC && isMediaControl(contentType) && bytes.Contains(body, []byte("picture_fast_update")) {
		for i, line := range far.media.Lines() {
			if line != nil && far.uses(i) && far.settled[i].Kind == dataplane.Video {
				c.m.cfg.Engine.RequestKeyframe(line)
			}
		}
		done(200)
		return
	}
	if l.infos >= maxInfos {
		done(503)
		return
	}
	l.infos++
	c.async(func() func() {
		ctx, cancel := context.WithTimeout(c.ctx, c.m.t.Exchange)
		defer cancel()
		err := far.dialog.Info(ctx, contentType, body)
		return func() {
			l.infos--
			var no *ResponseError
			switch {
			case err == nil:
				done(200)
			case errors.As(err, &no):
				done(refusedAs(no.Code))
				c.lost(far, err)
			default:
				done(500)
			}
		}
	})
}

func isMediaControl(contentType string) bool {
	mt, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(mt), mediaControl)
}

// sendKeyframeRequest asks a leg without RTCP feedback for a key frame.
func (c *Call) sendKeyframeRequest(l *leg) {
	now := time.Now()
	if c.stage != StageConnected || l.lostFork() || now.Sub(l.keyframe) < time.Second {
		return
	}
	l.keyframe = now
	c.async(func() func() {
		ctx, cancel := context.WithTimeout(c.ctx, c.m.t.Exchange)
		defer cancel()
		err := l.dialog.Info(ctx, mediaControl, []byte(fastUpdate))
		return func() {
			if err != nil {
				c.log.LogAttrs(ctx, slog.LevelDebug, "the phone takes no key frame requests", slog.String("leg", l.id), slog.Any("error", err))
			}
		}
	})
}
