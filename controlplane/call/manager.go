package call

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Router decides what becomes of an INVITE.
type Router interface {
	// Route answers at once. A refusal is a *Refusal; any other error is 500.
	Route(ctx context.Context, inv Invite) (Decision, error)
}

// Decision is where an INVITE goes: to all Targets at the same time.
type Decision struct {
	Targets  []Target
	From, To Address  // as the callees are shown them
	Header   []Header // added to every outbound INVITE
}

// Refusal is a router's no.
type Refusal struct {
	Code   int
	Reason string
	Why    string // for the log, not for the caller
}

func (e *Refusal) Error() string {
	return strconv.Itoa(e.Code) + " " + e.Reason + ": " + e.Why
}

// Limits bound what the gateway takes on.
type Limits struct {
	Calls      int           // calls at a time, 0: 10,000
	PerUser    int           // calls at a time that one user is part of, 0: no limit
	RetryAfter time.Duration // told with a 503, 0: 5 s
}

// Timings of calls. Zero values take the default in brackets.
type Timings struct {
	NoAnswer  time.Duration // from INVITE to the answer [180 s]
	FlowGrace time.Duration // from a lost connection and lost consent to the end [10 s]
	FlowLost  time.Duration // from a lost connection to the end while consent lives [60 s]
	Silence   time.Duration // neither media nor consent [30 s]
	Check     time.Duration // between two looks at the liveness of a call [1 s]
	Bye       time.Duration // for BYE to be answered [32 s]
	Stop      time.Duration // for everything to be answered while the gateway stops [5 s]
	Exchange  time.Duration // for a re-INVITE or an INFO of ours to be answered [35 s]
}

func (t Timings) withDefaults() Timings {
	t.NoAnswer = cmp.Or(t.NoAnswer, 180*time.Second)
	t.FlowGrace = cmp.Or(t.FlowGrace, 10*time.Second)
	t.FlowLost = cmp.Or(t.FlowLost, 60*time.Second)
	t.Silence = cmp.Or(t.Silence, 30*time.Second)
	t.Check = cmp.Or(t.Check, time.Second)
	t.Bye = cmp.Or(t.Bye, 32*time.Second)
	t.Stop = cmp.Or(t.Stop, 5*time.Second)
	t.Exchange = cmp.Or(t.Exchange, 35*time.Second)
	return t
}

// Config of a Manager. Caller, Media, Engine and Router are required.
type Config struct {
	Caller   Caller
	Media    MediaFactory
	Engine   Engine
	Router   Router
	Limits   Limits
	Timings  Timings
	Log      *slog.Logger // nil: nothing is logged
	Observer Observer     // nil: nobody is told
}

// Manager holds the calls of a gateway. Its methods may be called from any
// goroutine.
type Manager struct {
	cfg Config
	t   Timings
	log *slog.Logger

	mu       sync.Mutex
	calls    map[string]*Call
	users    map[string]int      // calls by user
	outgoing map[string]struct{} // SIP Call-IDs of our own INVITEs
	closing  bool
	wg       sync.WaitGroup // one per call
}

// NewManager checks cfg and returns a Manager without calls.
func NewManager(cfg Config) (*Manager, error) {
	if cfg.Caller == nil || cfg.Media == nil || cfg.Engine == nil || cfg.Router == nil {
		return nil, errors.New("call: Caller, Media, Engine and Router must all be set")
	}
	cfg.Limits.Calls = cmp.Or(cfg.Limits.Calls, 10_000)
	cfg.Limits.RetryAfter = cmp.Or(cfg.Limits.RetryAfter, 5*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{
		cfg: cfg, t: cfg.Timings.withDefaults(), log: cfg.Log,
		calls: map[string]*Call{}, users: map[string]int{}, outgoing: map[string]struct{}{},
	}, nil
}

// OnInvite takes an authenticated INVITE. It returns at once; the call goes on
// in its own goroutine and ends the Invite in any case.
func (m *Manager) OnInvite(inv Invite) {
	c := newCall(m, inv)
	if why := m.admit(c, inv); why != nil {
		m.log.Warn("call refused", "call", c.id, "sip_call_id", inv.CallID(), "from", inv.Party().Name(),
			"code", why.Code, "why", why.Why)
		var h []Header
		if why.Code == 503 {
			h = append(h, m.retryAfter())
		}
		_ = inv.Reject(why.Code, why.Reason, h...)
		return
	}
	go c.run()
}

func (m *Manager) retryAfter() Header {
	return Header{"Retry-After", strconv.Itoa(max(1, int(m.cfg.Limits.RetryAfter/time.Second)))}
}

// admit enters the call, or says why not.
func (m *Manager) admit(c *Call, inv Invite) *Refusal {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return &Refusal{503, "Service Unavailable", "the gateway is stopping"}
	}
	if len(m.calls) >= m.cfg.Limits.Calls {
		return &Refusal{503, "Service Unavailable", "limits.calls is reached"}
	}
	if _, own := m.outgoing[inv.CallID()]; own {
		return &Refusal{482, "Loop Detected", "the INVITE is our own: a trunk or route leads back to this gateway"}
	}
	if u := inv.Party().User; u != "" && !m.takeUserLocked(u) {
		return &Refusal{403, "Too Many Calls", "limits.calls_per_user is reached"}
	} else if u != "" {
		c.users = append(c.users, u)
	}
	m.calls[c.id] = c
	m.wg.Add(1)
	return nil
}

func (m *Manager) takeUserLocked(user string) bool {
	if n := m.cfg.Limits.PerUser; n > 0 && m.users[user] >= n {
		return false
	}
	m.users[user]++
	return true
}

// takeUser counts a callee in; false when the user has all the calls allowed.
func (m *Manager) takeUser(c *Call, user string) bool {
	if user == "" || slices.Contains(c.users, user) {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.takeUserLocked(user) {
		return false
	}
	c.users = append(c.users, user)
	return true
}

func (m *Manager) ownINVITE(callID string, live bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if live {
		m.outgoing[callID] = struct{}{}
	} else {
		delete(m.outgoing, callID)
	}
}

// forget is the last thing a call's goroutine does.
func (m *Manager) forget(c *Call) {
	m.mu.Lock()
	delete(m.calls, c.id)
	for _, u := range c.users {
		if m.users[u]--; m.users[u] <= 0 {
			delete(m.users, u)
		}
	}
	for _, l := range c.callees {
		delete(m.outgoing, l.sipCallID)
	}
	m.mu.Unlock()
	m.wg.Done()
}

func (m *Manager) find(id string) *Call {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[id]
}

func (m *Manager) all() []*Call {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*Call, 0, len(m.calls))
	for _, c := range m.calls {
		out = append(out, c)
	}
	return out
}

// Calls lists the calls, oldest first, without line statistics.
func (m *Manager) Calls() []Info {
	calls := m.all()
	out := make([]Info, 0, len(calls))
	for _, c := range calls {
		if i := c.info.Load(); i != nil {
			out = append(out, *i)
		}
	}
	slices.SortFunc(out, func(a, b Info) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// Count is the number of calls, those still sending BYE included.
func (m *Manager) Count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.calls)
}

// Detail is one call with the statistics of its lines; false when there is none
// by that id.
func (m *Manager) Detail(ctx context.Context, id string) (info Info, ok bool) {
	if c := m.find(id); c != nil {
		ok = c.ask(ctx, func() {
			if c.stage == StageEnded {
				info = *c.info.Load() // its lines are closed, the record has their figures
			} else {
				info = c.describe(true)
			}
		})
	}
	return info, ok
}

// Hangup ends a call on an operator's behalf; false when there is none by that id.
func (m *Manager) Hangup(id, why string) bool {
	c := m.find(id)
	return c != nil && c.box.post(func() {
		c.end(Ending{Cause: CauseAdmin, By: ByGateway, Code: 480, Detail: why})
	})
}

// Snapshot is one call as another process could carry it on; false when there
// is none by that id or it is not connected.
func (m *Manager) Snapshot(ctx context.Context, id string) (s Snapshot, ok bool) {
	c := m.find(id)
	if c == nil {
		return Snapshot{}, false
	}
	connected := false
	ok = c.ask(ctx, func() {
		if connected = c.stage == StageConnected; connected {
			s = c.snapshot()
		}
	})
	return s, ok && connected
}

// Shutdown refuses new calls, ends every call with BYE and waits for the answers
// for as long as Timings.Stop says. When ctx ends before that, what is still
// under way is given up at once and ctx's error returned.
func (m *Manager) Shutdown(ctx context.Context) error {
	m.mu.Lock()
	m.closing = true
	m.mu.Unlock()
	calls := m.all()
	for _, c := range calls {
		c.box.post(func() { c.end(Ending{Cause: CauseShutdown, By: ByGateway, Code: 503}) })
	}
	giveUp := func() {
		for _, c := range calls {
			c.abandon()
		}
	}
	defer time.AfterFunc(m.t.Stop, giveUp).Stop()
	done := make(chan struct{})
	go func() { m.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		giveUp()
		return ctx.Err()
	}
}

// newID makes the name of a call in logs and listings.
func newID() string { return rand.Text()[:12] }
