package call

import (
	"context"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluicegw/sluice/controlplane/sdp"
	"github.com/sluicegw/sluice/dataplane"
)

// Call is a caller's leg and its callees' legs. All fields but box, info and
// ctx belong to the goroutine of run.
type Call struct {
	m    *Manager
	id   string
	log  *slog.Logger
	box  *mailbox
	info atomic.Pointer[Info]

	ctx     context.Context // ends when the call is given up: everything under way returns
	abandon context.CancelFunc

	inv     Invite
	caller  *leg
	callees []*leg
	winner  *leg // the callee that answered
	early   *leg // the callee whose media the caller hears before the answer
	to      Address
	users   []string // counted in the manager's limits

	stage    Stage
	started  time.Time
	answered time.Time
	ended    time.Time
	ending   Ending

	invDone    bool                     // the INVITE has its final response
	accepting  context.CancelFunc       // set while Invite.Accept runs
	exchange   context.CancelFunc       // set while a re-INVITE of ours runs
	unwatch    context.CancelFunc       // stops waiting for CANCEL
	rang       bool                     // the caller has been sent 180
	progressed bool                     // ... or 183
	inflight   int                      // goroutines that will still post
	timers     map[*time.Timer]struct{} // those that have yet to run

	busy      bool // a re-INVITE is being carried through
	rounds    int  // settling re-INVITEs since the far ends last changed anything
	exchanges int
	joints    []joint
	mediaUp   bool
	heldBy    []*leg
}

// joint is what two lines were last joined with.
type joint struct {
	a, b       *dataplane.Line
	aToB, bToA dataplane.PayloadMap
}

func newCall(m *Manager, inv Invite) *Call {
	c := &Call{m: m, id: newID(), box: newMailbox(), inv: inv, stage: StageInvite, started: time.Now(), to: inv.To(),
		timers: make(map[*time.Timer]struct{})}
	c.ctx, c.abandon = context.WithCancel(context.Background())
	c.log = m.log.With("call", c.id)
	c.caller = &leg{call: c, id: c.id + "-a", party: inv.Party(), sipCallID: inv.CallID(), state: "inviting"}
	return c
}

// run is the call's goroutine.
func (c *Call) run() {
	defer c.m.forget(c)
	defer c.abandon()
	c.contained(c.start)
	for {
		if c.stage == StageEnded && c.inflight == 0 && c.box.closeEmpty() {
			return
		}
		c.contained(c.box.take())
	}
}

// contained runs f. A fault of ours costs this call, not all the others.
func (c *Call) contained(f func()) {
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("fault in a call", "fault", p, "stack", string(debug.Stack()))
			if c.stage != StageEnded {
				c.end(Ending{Cause: CauseError, By: ByGateway, Code: 500, Detail: "fault in the gateway, see the log"})
			}
		}
	}()
	f()
}

// async runs work beside the call; what it returns runs in the call's goroutine.
func (c *Call) async(work func() func()) {
	c.inflight++
	go func() {
		then := work()
		c.box.post(func() {
			c.inflight--
			then()
		})
	}()
}

// ask runs f in the call's goroutine and waits for it; false when it never ran.
func (c *Call) ask(ctx context.Context, f func()) bool {
	done := make(chan struct{})
	if !c.box.post(func() { f(); close(done) }) {
		return false
	}
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// after runs f in the call's goroutine unless the call has ended, or the timer
// was stopped, by then.
func (c *Call) after(d time.Duration, f func()) *time.Timer {
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		c.box.post(func() {
			if _, waits := c.timers[t]; !waits {
				return
			}
			delete(c.timers, t)
			if c.stage != StageEnded {
				f()
			}
		})
	})
	c.timers[t] = struct{}{}
	return t
}

// stop ends a timer of after: it does not run any more, even when it is queued.
func (c *Call) stop(t *time.Timer) {
	if t != nil {
		t.Stop()
		delete(c.timers, t)
	}
}

// legs are the caller's leg and all callees', those that are over included.
func (c *Call) legs() []*leg { return append([]*leg{c.caller}, c.callees...) }

// far is the leg on the other side of an answered call.
func (c *Call) far(l *leg) *leg {
	if l == c.caller {
		return c.winner
	}
	return c.caller
}

// reach records a stage, logs it and tells the observer.
func (c *Call) reach(s Stage, l *leg, level slog.Level, attrs ...slog.Attr) {
	id := ""
	if l != nil {
		id = l.id
		attrs = append([]slog.Attr{l.attrs()}, attrs...)
	}
	switch s {
	case StageMedia, StageHeld, StageResumed: // beside the main line of stages
	case StageEarly, StageRinging:
		if c.stage != StageEarly {
			c.stage = s
		}
	default:
		c.stage = s
	}
	c.publish()
	c.log.LogAttrs(context.Background(), level, "call "+string(s), attrs...)
	if o := c.m.cfg.Observer; o != nil {
		o(Event{Stage: s, Time: time.Now(), Leg: id, Call: *c.info.Load()})
	}
}

// publish makes the current state visible to listings.
func (c *Call) publish() {
	i := c.describe(c.stage == StageEnded)
	c.info.Store(&i)
}

func (c *Call) describe(stats bool) Info {
	i := Info{
		ID: c.id, Stage: c.stage, From: c.inv.From(), To: c.to, Started: c.started, Answered: c.answered,
		Ended: c.ended, Ending: c.ending, Forks: len(c.callees), Exchanges: c.exchanges,
	}
	for _, l := range c.heldBy {
		i.HeldBy = append(i.HeldBy, l.id)
	}
	for _, l := range c.legs() {
		i.Legs = append(i.Legs, l.describe(c.m.cfg.Engine, stats))
	}
	return i
}

// join connects the lines of the caller and of b as both have settled them.
func (c *Call) join(b *leg) {
	if c.caller.media == nil || b.media == nil {
		return
	}
	al, bl := c.caller.media.Lines(), b.media.Lines()
	n := min(len(al), len(bl), len(c.caller.settled), len(b.settled))
	var now []joint
	for i := range n {
		if al[i] == nil || bl[i] == nil {
			continue
		}
		j := joint{a: al[i], b: bl[i]}
		j.aToB, j.bToA = sdp.PayloadMaps(c.caller.settled[i], b.settled[i])
		now = append(now, j)
	}
	c.unjoin(func(old joint) bool {
		return !slices.ContainsFunc(now, func(j joint) bool { return j.a == old.a || j.b == old.b })
	})
	for _, j := range now {
		if slices.Contains(c.joints, j) {
			continue
		}
		if err := c.m.cfg.Engine.Join(j.a, j.b, j.aToB, j.bToA); err != nil {
			c.log.Error("lines cannot be joined", "leg", b.id, "error", err)
		}
	}
	c.joints = now
}

// unjoin stops the media of what drop chooses.
func (c *Call) unjoin(drop func(joint) bool) {
	c.joints = slices.DeleteFunc(c.joints, func(j joint) bool {
		if !drop(j) {
			return false
		}
		c.m.cfg.Engine.Unjoin(j.a)
		c.m.cfg.Engine.Unjoin(j.b)
		return true
	})
}

// noteMedia logs once that media can flow between both ends.
func (c *Call) noteMedia() {
	if c.mediaUp || c.winner == nil || c.stage == StageEnded {
		return
	}
	if c.caller.media.Health().Established && c.winner.media.Health().Established {
		c.mediaUp = true
		c.reach(StageMedia, nil, slog.LevelInfo, slog.Duration("after", time.Since(c.started)))
	}
}
