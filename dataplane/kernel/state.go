package kernel

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluicegw/sluice/bpf"
	"github.com/sluicegw/sluice/dataplane"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

// control runs the control program on a stream's state.
func (e *Engine) control(op bpf.Operation, slot uint32) (bpf.State, error) {
	request := bpf.Control{Operation: uint32(op), Slot: slot}
	in, err := binary.Append(nil, binary.NativeEndian, &request)
	if err != nil {
		return bpf.State{}, fmt.Errorf("control request: %w", err)
	}
	out := make([]byte, len(in))
	if _, err := e.objects.control.Run(&ebpf.RunOptions{Data: in, DataOut: out}); err != nil {
		return bpf.State{}, fmt.Errorf("run the control program: %w", err)
	}
	if _, err := binary.Decode(out, binary.NativeEndian, &request); err != nil {
		return bpf.State{}, fmt.Errorf("control answer: %w", err)
	}
	if request.Result != 0 {
		return bpf.State{}, fmt.Errorf("control program: %w", unix.Errno(-request.Result))
	}
	return request.State, nil
}

// Read implements dataplane.Forwarder.
func (e *Engine) Read(id dataplane.FlowID) (dataplane.State, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fl, ok := e.flows[id]
	if !ok {
		return dataplane.State{}, fmt.Errorf("read flow %d: %w", id, errNotInstalled)
	}
	var s bpf.State
	if err := e.objects.maps.states.LookupWithFlags(fl.value.Slot, &s, ebpf.LookupLock); err != nil {
		return dataplane.State{}, fmt.Errorf("read flow %d: %w", id, err)
	}
	return e.state(fl, &s)
}

// state is a flow's window and what the kernel has counted of it.
func (e *Engine) state(fl *flow, s *bpf.State) (dataplane.State, error) {
	state := dataplane.State{Window: srtp.NewWindow(s.Highest, s.Window, s.Started != 0)}
	dropped, err := e.dropped(fl.value.Slot)
	if err != nil {
		return state, err
	}
	c := &state.Counters
	c.Packets = s.Packets
	c.Octets = s.Octets
	c.Dropped = dropped
	if s.Packets == 0 {
		return state, nil
	}
	// RFC 3550 A.3, for the part of the index space that is the kernel's.
	if s.Highest > fl.cut {
		c.Lost = int64(s.Highest-fl.cut) - int64(s.Packets)
	}
	c.Jitter = s.JitterQ4 >> 4
	c.LastTimestamp = s.LastTimestamp
	if s.LastPacket != 0 {
		now, err := monotonic()
		if err != nil {
			return state, err
		}
		c.LastPacket = time.Now().Add(time.Duration(s.LastPacket) - now)
	}
	return state, nil
}

func (e *Engine) dropped(slot uint32) (sum uint64, err error) {
	var perCPU []uint64
	if err := e.objects.maps.drops.Lookup(slot, &perCPU); err != nil {
		return 0, fmt.Errorf("read the drop counter: %w", err)
	}
	for _, n := range perCPU {
		sum += n
	}
	return sum, nil
}

// monotonic is the clock the programs stamp packets with.
func monotonic() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// Counters are what the programs did with every packet they saw, by program
// ("xdp", "tc"), since the maps were made. They only grow.
type Counters struct {
	Verdicts map[string]map[bpf.Verdict]uint64
	Events   map[string]map[bpf.Event]uint64
	Filler   FillerStats
}

// Counters sums the counters of all processors.
func (e *Engine) Counters() (Counters, error) {
	c := Counters{
		Verdicts: make(map[string]map[bpf.Verdict]uint64),
		Events:   make(map[string]map[bpf.Event]uint64),
		Filler:   e.filler.statistics(),
	}
	for program, name := range map[bpf.Program]string{bpf.ProgramXDP: "xdp", bpf.ProgramTC: "tc"} {
		var perCPU []bpf.Counters
		if err := e.objects.maps.verdicts.Lookup(uint32(program), &perCPU); err != nil {
			return c, fmt.Errorf("read the verdicts: %w", err)
		}
		verdicts, events := make(map[bpf.Verdict]uint64), make(map[bpf.Event]uint64)
		for i := range perCPU {
			for v, n := range perCPU[i].Verdict {
				verdicts[bpf.Verdict(v)] += n
			}
			for v, n := range perCPU[i].Event {
				events[bpf.Event(v)] += n
			}
		}
		c.Verdicts[name], c.Events[name] = verdicts, events
	}
	return c, nil
}
