package kernel

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/sluicegw/sluice/bpf"
	"github.com/sluicegw/sluice/dataplane"
)

// grace is longer than any program run: a stream that was deleted this long ago
// is used by nobody.
const grace = 100 * time.Millisecond

// grave holds what a removed stream had until it may be wiped and given out.
type grave struct {
	due      time.Time
	slot     uint32
	hasSlot  bool
	rings    []*keystreamRing
	sessions []*session
}

// graves are in order of due; guarded by Engine.mu.
type graves struct {
	list []grave
	wake chan struct{}
}

// Release implements dataplane.Forwarder. A stream of which the kernel has
// accepted nothing comes back with the window it was installed with.
func (e *Engine) Release(id dataplane.FlowID) (dataplane.State, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fl, ok := e.flows[id]
	if !ok {
		return dataplane.State{}, fmt.Errorf("release flow %d: %w", id, errNotInstalled)
	}
	s, err := e.control(bpf.OpRelease, fl.value.Slot)
	if err != nil {
		return dataplane.State{}, fmt.Errorf("release flow %d: %w", id, err)
	}
	fl.released = true
	e.filler.remove(fl.value.Slot)
	return e.state(fl, &s)
}

// Remove implements dataplane.Forwarder. The state is final: no packet that a
// program has under way is accepted after it, released before or not. The keys are wiped within a second,
// once no other flow uses their session.
func (e *Engine) Remove(id dataplane.FlowID) (dataplane.State, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fl, ok := e.flows[id]
	if !ok {
		return dataplane.State{}, fmt.Errorf("remove flow %d: %w", id, errNotInstalled)
	}
	delete(e.flows, id)
	s, err := e.withdraw(fl)
	state, readErr := e.state(fl, &s)
	if err = errors.Join(err, readErr); err != nil {
		return state, fmt.Errorf("remove flow %d: %w", id, err)
	}
	return state, nil
}

// withdraw takes a stream, or as much of it as was installed, out of the
// programs' sight and buries the rest. It returns the stream's last state, zero
// where that cannot be had.
func (e *Engine) withdraw(fl *flow) (last bpf.State, err error) {
	var errs []error
	if fl.hasSlot {
		// Before all else: a program past the streams look-up runs on.
		if last, err = e.control(bpf.OpClose, fl.value.Slot); err != nil {
			errs = append(errs, fmt.Errorf("close the stream: %w", err))
		}
	}
	if fl.listed {
		delete(e.streams, fl.key)
		if err := e.objects.maps.streams.Delete(fl.key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete the stream: %w", err))
		}
	}
	if fl.in != nil {
		errs = append(errs, e.unbind(fl, fl.bindings))
	}
	if fl.hasSlot {
		e.filler.remove(fl.value.Slot)
	}
	g := grave{due: time.Now().Add(grace), slot: fl.value.Slot, hasSlot: fl.hasSlot, rings: fl.rings}
	for _, s := range []*session{fl.in, fl.out} {
		if s == nil {
			continue
		}
		if s.users--; s.users == 0 {
			delete(e.sessions, s.id)
			g.sessions = append(g.sessions, s)
		}
	}
	e.graves.list = append(e.graves.list, g)
	select {
	case e.graves.wake <- struct{}{}:
	default:
	}
	return last, errors.Join(errs...)
}

// bury wipes what is due at now and gives its slots back; the zero time means
// everything, after waiting for the last.
func (e *Engine) bury(now time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now.IsZero() && len(e.graves.list) > 0 {
		last := e.graves.list[len(e.graves.list)-1].due
		time.Sleep(time.Until(last))
		now = last
	}
	var errs []error
	for len(e.graves.list) > 0 && !e.graves.list[0].due.After(now) {
		g := e.graves.list[0]
		e.graves.list = e.graves.list[1:]
		for _, s := range g.sessions {
			if s.keyed {
				e.keys.wipe(s.slot)
			}
			e.slots.session = append(e.slots.session, s.slot)
		}
		for _, r := range g.rings {
			r.class.wipe(r.at)
			r.class.give(r.at)
		}
		if !g.hasSlot {
			continue
		}
		// Counters of a call that is over are nobody's business either.
		if err := e.objects.maps.states.Put(g.slot, bpf.State{}); err != nil {
			errs = append(errs, fmt.Errorf("clear a state: %w", err))
		}
		e.slots.stream = append(e.slots.stream, g.slot)
	}
	return errors.Join(errs...)
}

// tidy wipes removed streams and reaps orphans until the context ends.
func (e *Engine) tidy(ctx context.Context) {
	timer := time.NewTimer(reapEvery)
	defer timer.Stop()
	reap := time.Now().Add(reapEvery)
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.graves.wake:
		case <-timer.C:
		}
		now := time.Now()
		if err := e.bury(now); err != nil {
			e.log.Error("wiping removed streams", "error", err)
		}
		if !now.Before(reap) {
			reap = now.Add(reapEvery)
			clock, err := monotonic()
			if err == nil {
				err = e.reap(clock)
			}
			if err != nil {
				e.log.Error("reaping orphaned streams", "error", err)
			}
		}
		next := reap
		e.mu.Lock()
		if l := e.graves.list; len(l) > 0 && l[0].due.Before(next) {
			next = l[0].due
		}
		e.mu.Unlock()
		timer.Reset(time.Until(next))
	}
}
