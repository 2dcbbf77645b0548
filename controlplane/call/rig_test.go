package call

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicegw/sluice/dataplane"
)

type routerFunc func(Invite) (Decision, error)

func (f routerFunc) Route(_ context.Context, i Invite) (Decision, error) { return f(i) }

// rig is a Manager among fakes.
type rig struct {
	*testing.T
	m        *Manager
	caller   *caller
	engine   *engine
	web, rtp *factory

	mu     sync.Mutex
	events []Event
	logs   bytes.Buffer
	faulty bool // a fault is part of the test
	n      int
}

// New implements MediaFactory.
func (r *rig) New(ctx context.Context, p Party, o MediaOptions) (Media, error) {
	if p.WebRTC {
		return r.web.New(ctx, p, o)
	}
	return r.rtp.New(ctx, p, o)
}

// to routes every INVITE to the parties.
func to(parties ...Party) routerFunc {
	return func(i Invite) (Decision, error) {
		d := Decision{From: i.From(), To: i.To()}
		for _, p := range parties {
			d.Targets = append(d.Targets, Target{URI: "sip:" + p.Name(), Party: p})
		}
		return d, nil
	}
}

func (r *rig) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.logs.Write(p)
}

func (r *rig) log() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.logs.String()
}

// run gives f a Manager in a bubble of its own time; at the end every call must
// be gone and every media half closed.
func run(t *testing.T, route Router, f func(r *rig), change ...func(*Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{T: t, caller: &caller{}, engine: &engine{
			joined: map[*dataplane.Line]*dataplane.Line{}, maps: map[*dataplane.Line]dataplane.PayloadMap{}}}
		r.web, r.rtp = &factory{r: r}, &factory{r: r}
		cfg := Config{
			Caller: r.caller, Media: r, Engine: r.engine, Router: route,
			Log: slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug})),
			Observer: func(e Event) {
				r.mu.Lock()
				r.events = append(r.events, e)
				r.mu.Unlock()
			},
		}
		for _, c := range change {
			c(&cfg)
		}
		m, err := NewManager(cfg)
		if err != nil {
			t.Fatal(err)
		}
		r.m = m
		f(r)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := m.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		synctest.Wait()
		r.clean()
	})
}

// clean checks that nothing of any call is left.
func (r *rig) clean() {
	r.Helper()
	if n := r.m.Count(); n != 0 {
		r.Errorf("%d calls are left", n)
	}
	if len(r.m.users) != 0 || len(r.m.outgoing) != 0 {
		r.Errorf("left in the manager: users %v, outgoing %v", r.m.users, r.m.outgoing)
	}
	for _, f := range []*factory{r.web, r.rtp} {
		for _, m := range f.made {
			if !m.isClosed() {
				r.Errorf("media of %s is not closed", m.o.LegID)
			}
		}
	}
	if !r.faulty && strings.Contains(r.log(), "fault in a call") {
		r.Errorf("a fault:\n%s", r.log())
	}
	if n := r.engine.count(); n != 0 {
		r.Errorf("%d lines are still joined", n)
	}
}

// dial sends an INVITE from p.
func (r *rig) dial(p Party, offer []byte) *invite {
	r.n++
	i := &invite{
		party: p, callID: fmt.Sprintf("in-%d", r.n), from: Address{User: p.Name(), Host: "gw.test"},
		to: Address{User: "1001", Host: "gw.test"}, offer: offer, hops: 70,
		cancelled: make(chan struct{}), ack: make(chan []byte, 1),
	}
	r.m.OnInvite(i)
	synctest.Wait()
	return i
}

// out is the nth outbound INVITE so far.
func (r *rig) out(n int) *outgoing {
	r.Helper()
	r.caller.mu.Lock()
	defer r.caller.mu.Unlock()
	if len(r.caller.outs) <= n {
		r.Fatalf("%d INVITEs were sent, want one more\n%s", len(r.caller.outs), r.log())
	}
	return r.caller.outs[n]
}

func (r *rig) outs() int {
	r.caller.mu.Lock()
	defer r.caller.mu.Unlock()
	return len(r.caller.outs)
}

// up brings up a call between the caller and the first outbound INVITE.
func (r *rig) up(p Party, offer, answer []byte) (*invite, *outgoing) {
	r.Helper()
	i := r.dial(p, offer)
	o := r.out(r.outs() - 1)
	o.respond(180, nil)
	synctest.Wait()
	o.respond(200, answer)
	synctest.Wait()
	i.ack <- nil
	synctest.Wait()
	if i.dialog == nil || o.dialog == nil {
		r.Fatalf("the call is not up\n%s", r.log())
	}
	return i, o
}

func (r *rig) stages() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var s []string
	for _, e := range r.events {
		s = append(s, string(e.Stage))
	}
	return strings.Join(s, ", ")
}

func (r *rig) ending() Ending {
	r.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Stage == StageEnded {
			return e.Call.Ending
		}
	}
	r.Fatalf("the call has not ended\n%s", r.logs.String())
	return Ending{}
}

func (r *rig) wantEnding(c Cause, by Side, code int) {
	r.Helper()
	if e := r.ending(); e.Cause != c || e.By != by || e.Code != code {
		r.Errorf("ended %s by %s with %d (%s), want %s by %s with %d", e.Cause, e.By, e.Code, e.Detail, c, by, code)
	}
}

func (r *rig) wantSDP(what string, body []byte, want string) {
	r.Helper()
	if got := read(r, body); got != want {
		r.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}
