package kernel

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluicegw/sluice/bpf"
	"github.com/sluicegw/sluice/dataplane"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

// flow is an installed stream.
type flow struct {
	id       dataplane.FlowID
	key      bpf.StreamKey
	value    bpf.Stream
	in, out  *session
	rings    []*keystreamRing
	bindings []bpf.BindingKey
	cut      uint64
	hasSlot  bool // value.Slot is ours
	listed   bool // it is in the streams map
	released bool
}

// session is one with a slot in the sessions map, for as long as flows use it.
type session struct {
	id    dataplane.SessionID
	slot  uint32
	epoch uint32
	users int
	keyed bool
}

// slots are the free slot numbers, lowest last, so that used ones stay dense.
type slots struct {
	stream, session []uint32
	epoch           uint32 // of the session given out last
}

func numbers(n uint32) []uint32 {
	free := make([]uint32, 0, n)
	for ; n > 0; n-- {
		free = append(free, n-1)
	}
	return free
}

func pop(free *[]uint32) (uint32, bool) {
	n := len(*free)
	if n == 0 {
		return 0, false
	}
	slot := (*free)[n-1]
	*free = (*free)[:n-1]
	return slot, true
}

// Eligible implements dataplane.Forwarder.
func (e *Engine) Eligible(f *dataplane.Flow) dataplane.Reason {
	if reason := e.supported(f); reason != dataplane.ReasonNone {
		return reason
	}
	e.mu.Lock()
	full := len(e.slots.stream) == 0 || len(e.slots.session) < 2
	e.mu.Unlock()
	if full {
		return dataplane.ReasonMapFull
	}
	out, err := e.wayOut(f.OutLocal, f.OutRemote)
	if err != nil || out.local || out.loopback {
		return dataplane.ReasonInterface
	}
	return dataplane.ReasonNone
}

// supported tells what of the flow itself the programs cannot do.
func (e *Engine) supported(f *dataplane.Flow) dataplane.Reason {
	if e.Path(f.InNetwork) == PathUser {
		return dataplane.ReasonInterface
	}
	for _, k := range []*srtp.SessionKeys{f.In.Keys, f.Out.Keys} {
		if _, ok := kernelProfile(k); !ok {
			return dataplane.ReasonUnsupportedProfile
		}
	}
	if f.Extensions == dataplane.ExtensionsMap {
		return dataplane.ReasonHeaderExtension
	}
	v6 := isV6(f.OutRemote)
	if isV6(f.OutLocal) != v6 {
		return dataplane.ReasonFamilyMismatch
	}
	for _, b := range f.Bindings {
		if isV6(b.Local) != v6 || isV6(b.Remote) != v6 {
			return dataplane.ReasonFamilyMismatch
		}
	}
	return dataplane.ReasonNone
}

func isV6(a netip.AddrPort) bool { return !a.Addr().Unmap().Is4() }

// address is an address as the programs keep it: IPv4 in the last four octets.
func address(a netip.Addr) (out [16]byte) {
	a = a.Unmap()
	if a.Is4() {
		v4 := a.As4()
		copy(out[12:], v4[:])
		return out
	}
	return a.As16()
}

// networkOrder is a host number whose octets in memory are v's, big endian.
func networkOrder(v uint16) uint16 { return bits.ReverseBytes16(v) }

func bindingKey(b dataplane.Binding) bpf.BindingKey {
	family := uint32(4)
	if isV6(b.Local) {
		family = 6
	}
	return bpf.BindingKey{
		Local: address(b.Local.Addr()), Remote: address(b.Remote.Addr()),
		LocalPort: networkOrder(b.Local.Port()), RemotePort: networkOrder(b.Remote.Port()),
		Family: family,
	}
}

// output fills what Update may change.
func (e *Engine) output(f *dataplane.Flow, v *bpf.Stream) error {
	out, err := e.wayOut(f.OutLocal, f.OutRemote)
	if err != nil {
		return err
	}
	v.Family, v.RouteIfindex = 4, e.networks[f.InNetwork].routeFrom[0]
	if isV6(f.OutRemote) {
		v.Family, v.RouteIfindex = 6, e.networks[f.InNetwork].routeFrom[1]
	}
	v.Source, v.Destination = address(f.OutLocal.Addr()), address(f.OutRemote.Addr())
	v.SourcePort, v.DestinationPort = networkOrder(f.OutLocal.Port()), networkOrder(f.OutRemote.Port())
	v.OutIfindex, v.LinkIfindex, v.Vlan = out.ifindex, out.device, out.vlan
	v.Flags &^= uint8(bpf.StripExtension | bpf.NoXDPOut | bpf.NoXDPTx)
	if f.Extensions == dataplane.ExtensionsStrip {
		v.Flags |= uint8(bpf.StripExtension)
	}
	if d := e.devices[out.device]; d.noXDP {
		v.Flags |= uint8(bpf.NoXDPOut)
	} else if d.noTX {
		v.Flags |= uint8(bpf.NoXDPTx)
	}
	v.ClockQ32 = uint32(uint64(f.ClockRate) << 32 / 1e9)
	for i, p := range f.Payload {
		if p > 127 {
			p = bpf.PayloadUp
		}
		v.Payload[i] = p
	}
	return nil
}

// Install implements dataplane.Forwarder. It fails with dataplane.ErrMapFull
// when there is no room; a stream that is installed is never evicted for it.
func (e *Engine) Install(f *dataplane.Flow, state dataplane.State, cut uint64) error {
	if reason := e.supported(f); reason != dataplane.ReasonNone {
		return fmt.Errorf("install flow %d: not for the kernel: %s", f.ID, reason)
	}
	if len(f.Bindings) == 0 {
		return fmt.Errorf("install flow %d: it has no binding", f.ID)
	}
	if cut >= indexMask || state.Window.Highest() > cut {
		return fmt.Errorf("install flow %d: cut %d is not above highest index %d", f.ID, cut, state.Window.Highest())
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return dataplane.ErrClosed
	}
	if _, ok := e.flows[f.ID]; ok {
		return fmt.Errorf("install flow %d: it is installed", f.ID)
	}
	fl := &flow{id: f.ID, cut: cut}
	if err := e.install(fl, f, state, cut); err != nil {
		_, withdrawErr := e.withdraw(fl)
		return fmt.Errorf("install flow %d: %w", f.ID, errors.Join(err, withdrawErr))
	}
	e.flows[f.ID] = fl
	return nil
}

// install does it step by step, in the order the programs rely on. On an error
// the caller withdraws what has been done.
func (e *Engine) install(fl *flow, f *dataplane.Flow, state dataplane.State, cut uint64) (err error) {
	if fl.in, err = e.acquire(f.In); err != nil {
		return err
	}
	if fl.out, err = e.acquire(f.Out); err != nil {
		return err
	}
	slot, ok := pop(&e.slots.stream)
	if !ok {
		return dataplane.ErrMapFull
	}
	fl.value.Slot, fl.hasSlot = slot, true
	fl.key = bpf.StreamKey{Session: fl.in.slot, Ssrc: f.InSSRC}
	before := e.streams[fl.key]
	if before != nil && !before.released {
		return fmt.Errorf("SSRC %#x of this session is installed already, as flow %d", f.InSSRC, before.id)
	}
	v := &fl.value
	in, _ := kernelProfile(f.In.Keys)
	out, _ := kernelProfile(f.Out.Keys)
	v.InProfile, v.OutProfile = uint8(in), uint8(out)
	v.InSession, v.OutSession = fl.in.slot, fl.out.slot
	v.InEpoch, v.OutEpoch = fl.in.epoch, fl.out.epoch
	v.IndexOffset = f.IndexOffset & indexMask
	v.OutSsrc, v.TimestampAdd = f.OutSSRC, f.TimestampAdd
	if err := e.output(f, v); err != nil {
		return err
	}
	if err := e.giveRings(fl, f); err != nil {
		return err
	}
	w := state.Window
	s := bpf.State{Highest: w.Highest(), Window: w.Bits(), From: cut + 1, Until: bpf.IndexLimit, LastTimestamp: state.LastTimestamp,
		JitterQ4: state.Jitter << 4}
	if w.Started() {
		s.Started = 1
	}
	if err := e.objects.maps.states.Put(slot, s); err != nil {
		return fmt.Errorf("write the state: %w", err)
	}
	if err := e.objects.maps.drops.Put(slot, make([]uint64, ebpf.MustPossibleCPU())); err != nil {
		return fmt.Errorf("clear the drop counter: %w", err)
	}
	e.filler.add(slot, cut, fl.rings)
	if err := e.bind(fl, f.Bindings); err != nil {
		return err
	}
	how := ebpf.UpdateNoExist
	if before != nil {
		// A stream that came back and goes again: what is left of its drain is
		// the user engine's now, whose window has all of it.
		how = ebpf.UpdateAny
	}
	// Last, for now the programs take packets: a stream that was live in an
	// install that failed would have used indices of which nobody knows.
	if err := e.objects.maps.streams.Update(fl.key, v, how); err != nil {
		return mapError("streams", err)
	}
	fl.listed = true
	e.streams[fl.key] = fl
	if before != nil {
		before.listed = false
	}
	return nil
}

// mapError tells a full map from other trouble.
func mapError(name string, err error) error {
	if errors.Is(err, ebpf.ErrKeyExist) {
		return fmt.Errorf("%s: the key is there already", name)
	}
	if errors.Is(err, unix.E2BIG) {
		return dataplane.ErrMapFull
	}
	return fmt.Errorf("%s: %w", name, err)
}

// giveRings gives the stream keystream rings where it has ciphers. Without a
// free ring the programs make the keystream themselves.
func (e *Engine) giveRings(fl *flow, f *dataplane.Flow) error {
	class := e.rings.small
	video := f.ClockRate == videoClock
	if video {
		class = e.rings.large
	}
	for _, side := range []struct {
		keys   *srtp.SessionKeys
		ssrc   uint32
		offset uint64
		at     *bpf.Ring
		flag   uint8
	}{
		{f.In.Keys, f.InSSRC, 0, &fl.value.InRing, uint8(bpf.InLarge)},
		{f.Out.Keys, f.OutSSRC, f.IndexOffset & indexMask, &fl.value.OutRing, uint8(bpf.OutLarge)},
	} {
		if side.keys == nil {
			continue
		}
		at, ok := class.take()
		if !ok {
			continue
		}
		gen, err := newGenerator(side.keys, side.ssrc)
		if err != nil {
			class.give(at)
			return fmt.Errorf("keystream: %w", err)
		}
		*side.at = at
		if video {
			fl.value.Flags |= side.flag
		}
		fl.rings = append(fl.rings, &keystreamRing{class: class, at: at, gen: gen, offset: side.offset})
	}
	return nil
}

// videoClock is the RTP clock of every video format (RFC 3551 4.2...); its
// packets need large slots.
const videoClock = 90000

// acquire gives a session its slot and writes its keys, or counts one user more.
func (e *Engine) acquire(s dataplane.Session) (*session, error) {
	if known, ok := e.sessions[s.ID]; ok && s.ID != 0 {
		known.users++
		return known, nil
	}
	slot, ok := pop(&e.slots.session)
	if !ok {
		return nil, dataplane.ErrMapFull
	}
	se := &session{id: s.ID, slot: slot, users: 1}
	if s.Keys != nil {
		e.slots.epoch++
		if e.slots.epoch == 0 {
			e.slots.epoch = 1
		}
		se.epoch, se.keyed = e.slots.epoch, true
		if err := e.keys.write(slot, se.epoch, s.Keys); err != nil {
			e.slots.session = append(e.slots.session, slot)
			return nil, err
		}
	}
	if s.ID != 0 {
		e.sessions[s.ID] = se
	}
	return se, nil
}

// bind makes exactly these 4-tuples lead to the flow's session. One that led to
// another session now leads here: the newer key is the one in use.
func (e *Engine) bind(fl *flow, bindings []dataplane.Binding) error {
	keys := make([]bpf.BindingKey, 0, len(bindings))
	for _, b := range bindings {
		keys = append(keys, bindingKey(b))
	}
	for _, k := range keys {
		if slot, ok := e.bindings[k]; ok && slot == fl.in.slot {
			if !slices.Contains(fl.bindings, k) {
				fl.bindings = append(fl.bindings, k)
			}
			continue
		}
		if err := e.objects.maps.bindings.Put(k, bpf.Binding{Session: fl.in.slot}); err != nil {
			return mapError("bindings", err)
		}
		e.bindings[k] = fl.in.slot
		if !slices.Contains(fl.bindings, k) {
			fl.bindings = append(fl.bindings, k)
		}
	}
	var stale []bpf.BindingKey
	fl.bindings = slices.DeleteFunc(fl.bindings, func(k bpf.BindingKey) bool {
		if slices.Contains(keys, k) {
			return false
		}
		stale = append(stale, k)
		return true
	})
	return e.unbind(fl, stale)
}

// unbind deletes those 4-tuples that lead to the flow's session and that no
// other flow of the session uses.
func (e *Engine) unbind(fl *flow, keys []bpf.BindingKey) error {
	var errs []error
	for _, k := range keys {
		if e.bindings[k] != fl.in.slot || e.sharesBinding(fl, k) {
			continue
		}
		if err := e.objects.maps.bindings.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete a binding: %w", err))
			continue
		}
		delete(e.bindings, k)
	}
	return errors.Join(errs...)
}

func (e *Engine) sharesBinding(fl *flow, k bpf.BindingKey) bool {
	if fl.in.users < 2 {
		return false
	}
	shares := func(other *flow) bool {
		return other != fl && other.in == fl.in && slices.Contains(other.bindings, k)
	}
	for _, other := range e.flows {
		if shares(other) {
			return true
		}
	}
	return slices.ContainsFunc(e.orphans, func(o *orphan) bool { return shares(o.flow) })
}

// Update implements dataplane.Forwarder.
func (e *Engine) Update(f *dataplane.Flow) error {
	if reason := e.supported(f); reason != dataplane.ReasonNone {
		return fmt.Errorf("update flow %d: not for the kernel: %s", f.ID, reason)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	fl, ok := e.flows[f.ID]
	if !ok {
		return fmt.Errorf("update flow %d: %w", f.ID, errNotInstalled)
	}
	v := fl.value
	if err := e.output(f, &v); err != nil {
		return fmt.Errorf("update flow %d: %w", f.ID, err)
	}
	if v != fl.value {
		if err := e.objects.maps.streams.Update(fl.key, &v, ebpf.UpdateExist); err != nil {
			return fmt.Errorf("update flow %d: %w", f.ID, mapError("streams", err))
		}
		fl.value = v
	}
	if err := e.bind(fl, f.Bindings); err != nil {
		return fmt.Errorf("update flow %d: %w", f.ID, err)
	}
	return nil
}

var errNotInstalled = errors.New("it is not installed")
