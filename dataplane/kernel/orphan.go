package kernel

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/sluicegw/sluice/bpf"
)

const (
	// orphanIdle is how long after its last packet an orphan is removed.
	orphanIdle = 30 * time.Second
	reapEvery  = time.Second
)

// orphan is a stream that an earlier run installed and that no call owns.
type orphan struct {
	flow  *flow
	found time.Duration // CLOCK_MONOTONIC
}

// Orphan is a stream found at the start, for listings.
type Orphan struct {
	SSRC, OutSSRC   uint32
	Local, Remote   netip.AddrPort // source and destination of what it sends
	Packets, Octets uint64
	Idle            time.Duration // since its last packet, or since it was found
}

// Orphans lists the streams of an earlier run that are still forwarded.
func (e *Engine) Orphans() ([]Orphan, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now, err := monotonic()
	if err != nil {
		return nil, err
	}
	list := make([]Orphan, 0, len(e.orphans))
	for _, o := range e.orphans {
		s, err := e.control(bpf.OpRead, o.flow.value.Slot)
		if err != nil {
			return nil, fmt.Errorf("read an orphan: %w", err)
		}
		v := &o.flow.value
		list = append(list, Orphan{
			SSRC: o.flow.key.Ssrc, OutSSRC: v.OutSsrc,
			Local:   endpoint(v.Source, v.SourcePort, v.Family),
			Remote:  endpoint(v.Destination, v.DestinationPort, v.Family),
			Packets: s.Packets, Octets: s.Octets, Idle: now - o.lastSeen(&s),
		})
	}
	return list, nil
}

func (o *orphan) lastSeen(s *bpf.State) time.Duration {
	return max(o.found, time.Duration(s.LastPacket))
}

func endpoint(a [16]byte, port uint16, family uint8) netip.AddrPort {
	addr := netip.AddrFrom16(a)
	if family == 4 {
		addr = netip.AddrFrom4([4]byte(a[12:]))
	}
	return netip.AddrPortFrom(addr, networkOrder(port))
}

// adopt takes stock of the maps: streams in them become orphans, everything
// else is free and wiped.
func (e *Engine) adopt() (err error) {
	if e.rings, err = openRings(e.objects); err != nil {
		return err
	}
	if e.keys, err = openKeys(e.objects.maps.sessions); err != nil {
		return err
	}
	e.filler = newFiller(e.objects.maps.states, e.log)
	e.graves.wake = make(chan struct{}, 1)
	// Not the epochs of the last run, which a ring or session may still show.
	e.slots.epoch = rand.Uint32()
	for _, c := range []*ringClass{e.rings.small, e.rings.large} {
		for i := range c.epochs {
			c.epochs[i] = uint16(rand.Uint32())
		}
	}
	now, err := monotonic()
	if err != nil {
		return err
	}
	usedStreams, bySession := make(map[uint32]bool), make(map[uint32]*session)
	var key bpf.StreamKey
	var value bpf.Stream
	each := e.objects.maps.streams.Iterate()
	for each.Next(&key, &value) {
		fl := &flow{key: key, value: value, hasSlot: true, listed: true}
		usedStreams[value.Slot] = true
		fl.in = adoptSession(bySession, key.Session, value.InEpoch)
		fl.out = adoptSession(bySession, value.OutSession, value.OutEpoch)
		e.orphans = append(e.orphans, &orphan{flow: fl, found: now})
	}
	if err := each.Err(); err != nil {
		return fmt.Errorf("list the streams: %w", err)
	}
	for _, o := range e.orphans {
		if err := e.adoptRings(o.flow); err != nil {
			return err
		}
	}
	if err := e.adoptBindings(); err != nil {
		return err
	}
	free := func(n uint32, used func(uint32) bool) []uint32 { return slices.DeleteFunc(numbers(n), used) }
	e.slots.stream = free(e.objects.maps.states.MaxEntries(), func(s uint32) bool { return usedStreams[s] })
	e.slots.session = free(e.objects.maps.sessions.MaxEntries(), func(s uint32) bool { return bySession[s] != nil })
	if e.report.Adopted {
		e.keys.wipeUnused(e.slots.session)
		e.rings.small.wipeFree()
		e.rings.large.wipeFree()
	}
	e.report.Orphans = len(e.orphans)
	// The first run of a program probes for it, which needs a privilege.
	if _, err := e.control(bpf.OpRead, 0); err != nil {
		return err
	}
	return nil
}

func adoptSession(known map[uint32]*session, slot, epoch uint32) *session {
	s, ok := known[slot]
	if !ok {
		s = &session{slot: slot, epoch: epoch, keyed: true}
		known[slot] = s
	}
	s.users++
	return s
}

// adoptRings goes on filling the rings of an orphan, from the keys that its
// sessions hold.
func (e *Engine) adoptRings(fl *flow) error {
	v := &fl.value
	for _, side := range []struct {
		at      bpf.Ring
		large   bool
		session uint32
		ssrc    uint32
		offset  uint64
	}{
		{v.InRing, v.Flags&uint8(bpf.InLarge) != 0, v.InSession, fl.key.Ssrc, 0},
		{v.OutRing, v.Flags&uint8(bpf.OutLarge) != 0, v.OutSession, v.OutSsrc, v.IndexOffset},
	} {
		if side.at.Epoch == 0 {
			continue
		}
		class := e.rings.small
		if side.large {
			class = e.rings.large
		}
		class.reserve(side.at)
		gen, err := sessionGenerator(e.keys.at(side.session), side.ssrc)
		if err != nil {
			return fmt.Errorf("keystream of an orphan: %w", err)
		}
		fl.rings = append(fl.rings, &keystreamRing{class: class, at: side.at, gen: gen, offset: side.offset})
	}
	s, err := e.control(bpf.OpRead, v.Slot)
	if err != nil {
		return fmt.Errorf("read an orphan: %w", err)
	}
	if s.Started != 0 {
		e.filler.add(v.Slot, s.Highest, fl.rings)
	}
	return nil
}

// adoptBindings gives the orphans their bindings; those of nobody go.
func (e *Engine) adoptBindings() error {
	var key bpf.BindingKey
	var value bpf.Binding
	var stray []bpf.BindingKey
	each := e.objects.maps.bindings.Iterate()
	for each.Next(&key, &value) {
		owned := false
		for _, o := range e.orphans {
			if o.flow.in.slot == value.Session {
				o.flow.bindings = append(o.flow.bindings, key)
				owned = true
			}
		}
		if owned {
			e.bindings[key] = value.Session
		} else {
			stray = append(stray, key)
		}
	}
	if err := each.Err(); err != nil {
		return fmt.Errorf("list the bindings: %w", err)
	}
	for _, k := range stray {
		if err := e.objects.maps.bindings.Delete(k); err != nil {
			return fmt.Errorf("delete a binding of nobody: %w", err)
		}
	}
	return nil
}

// reap removes the orphans that have been silent for long enough at now, on
// CLOCK_MONOTONIC.
func (e *Engine) reap(now time.Duration) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	e.orphans = slices.DeleteFunc(e.orphans, func(o *orphan) bool {
		s, err := e.control(bpf.OpRead, o.flow.value.Slot)
		if err != nil {
			errs = append(errs, err)
			return false
		}
		if now-o.lastSeen(&s) < orphanIdle {
			return false
		}
		s, err = e.withdraw(o.flow)
		errs = append(errs, err)
		e.log.Info("orphaned stream reaped", "ssrc", o.flow.key.Ssrc, "packets", s.Packets)
		return true
	})
	return errors.Join(errs...)
}
