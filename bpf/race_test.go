package bpf

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// cpus runs f once on each of the first n processors, in the rig's namespace, at
// the same time.
func (r *rig) cpus(n int, f func(cpu int)) {
	r.t.Helper()
	var space netns.NsHandle
	var err error
	r.inside(func() { space, err = netns.Get() })
	must(r.t, err)
	defer space.Close()
	var ready, done sync.WaitGroup
	ready.Add(n)
	for cpu := range n {
		done.Go(func() {
			runtime.LockOSThread() // never unlocked: the thread ends in the namespace
			var set unix.CPUSet
			set.Set(cpu)
			err := unix.SchedSetaffinity(0, &set)
			if err == nil {
				err = netns.Set(space)
			}
			ready.Done()
			if err != nil {
				r.t.Error(err)
				return
			}
			ready.Wait()
			f(cpu)
		})
	}
	done.Wait()
}

// once runs one frame on the calling thread and tells whether it was forwarded.
func (r *rig) once(frame, out []byte) ([]byte, bool) {
	o := ebpf.RunOptions{Data: frame, DataOut: out}
	answer, err := r.programs[ProgramXDP].Run(&o)
	if err != nil {
		r.t.Error(err)
	}
	return o.DataOut, answer == xdpRedirect
}

// TestRace: two processors get the same indices of one stream, with different
// payloads on the plain side. Each index leaves once.
func TestRace(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Fatal("needs two processors: a race on one proves nothing")
	}
	r := newRig(t, nil)
	rnd := rand.New(rand.NewPCG(11, 12))
	const packets = 20000
	for _, c := range []struct{ in, out Profile }{{Plain, AEADGCM}, {Plain, AESCM}, {AEADGCM, Plain}, {AESCM, AEADGCM}, {Plain, Plain}} {
		in, out := r.session(c.in, rnd), r.session(c.out, rnd)
		s := r.install(in, out, 0, 1, nil)
		var frames [2][packets][]byte
		sh := shape{payload: 20, extension: -1}
		for i := range packets {
			for cpu := range 2 {
				p := sh.rtp(rnd, false, 96, uint16(i+1), uint32(cpu), 1)
				if c.in != Plain {
					if cpu == 1 {
						frames[1][i] = frames[0][i]
						continue
					}
					p = in.protect(t, p, uint64(i+1))
				}
				frames[cpu][i] = frame(farIn[0], gatewayIn[0], 0, p)
			}
		}
		var left [packets]atomic.Uint32
		before := r.counters(ProgramXDP)
		r.cpus(2, func(cpu int) {
			out := make([]byte, 2048)
			for i, f := range frames[cpu] {
				if got, ok := r.once(f, out); ok {
					left[i].Add(1)
					if sequence := binary.BigEndian.Uint16(got[44:]); sequence != uint16(uint64(i+1)+s.value.IndexOffset) {
						t.Errorf("sequence number %d for index %d", sequence, i+1)
					}
				}
			}
		})
		lost := 0
		for i := range left {
			switch left[i].Load() {
			case 1:
			case 0:
				lost++ // one processor may run ahead of the other by a window, never both
			default:
				t.Fatalf("%d-%d: index %d left twice", c.in, c.out, i+1)
			}
		}
		state := r.state(s)
		if lost != 0 || state.Packets != packets || state.Highest != packets {
			t.Errorf("%d-%d: %d lost, state %+v", c.in, c.out, lost, state)
		}
		after := r.counters(ProgramXDP)
		t.Logf("%d-%d: %d gave way at the lock", c.in, c.out,
			after.Event[ControlSlcEventSLC_RACED]-before.Event[ControlSlcEventSLC_RACED])
	}
}

// act runs the control program.
func (r *rig) act(operation Operation, slot uint32) Control {
	r.t.Helper()
	in := make([]byte, binary.Size(Control{}))
	_, err := binary.Encode(in, binary.LittleEndian, Control{Operation: uint32(operation), Slot: slot})
	must(r.t, err)
	o := ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in))}
	_, err = r.control.Run(&o)
	must(r.t, err)
	var c Control
	_, err = binary.Decode(o.DataOut, binary.LittleEndian, &c)
	must(r.t, err)
	return c
}

func TestControl(t *testing.T) {
	r := newRig(t, nil)
	rnd := rand.New(rand.NewPCG(11, 12))
	s := r.install(r.session(Plain, rnd), r.session(AEADGCM, rnd), 0, 1, func(_ *Stream, state *State) { state.From = 5 })
	send := func(sequence uint16) []string {
		before := r.counters(ProgramXDP)
		r.run(ProgramXDP, frame(farIn[0], gatewayIn[0], 0, shapes[0].rtp(rnd, false, 96, sequence, 0, 1)))
		var words []string
		for _, w := range moved(before, r.counters(ProgramXDP)) {
			if w != "keystream_miss" {
				words = append(words, w)
			}
		}
		return words
	}
	want := func(sequence uint16, word string) {
		t.Helper()
		if got := send(sequence); len(got) != 1 || got[0] != word {
			t.Errorf("%d: %v, want %s", sequence, got, word)
		}
	}
	if c := r.act(OpRead, 99999); c.Result != -2 {
		t.Errorf("a slot that is not there: %d", c.Result)
	}
	if c := r.act(77, s.slot); c.Result != -22 {
		t.Errorf("an unknown operation: %d", c.Result)
	}
	want(4, "up_before_cut")
	want(8, "forwarded")
	want(6, "forwarded")
	if c := r.act(OpRead, s.slot); c.Result != 0 || c.State != r.state(s) || c.State.Packets != 2 {
		t.Errorf("read %+v, state is %+v", c, r.state(s))
	}
	released := r.act(OpRelease, s.slot)
	if released.Result != 0 || released.State.Highest != 8 || released.State.Until != 9 {
		t.Errorf("released %+v", released)
	}
	want(9, "up_released")
	want(7, "forwarded") // what was on the way when the range closed
	want(7, "drop_replay")
	if again := r.act(OpRelease, s.slot); again.State.Until != 9 || again.State.Packets != 3 {
		t.Errorf("released again %+v", again)
	}

	closed := r.act(OpClose, s.slot)
	if closed.Result != 0 || closed.State.Until != 0 || closed.State.Packets != 3 || closed.State.Highest != 8 {
		t.Errorf("closed %+v", closed)
	}
	want(5, "up_released") // not even what a release would still let through
	want(9, "up_released")
	if got := r.state(s); got != closed.State {
		t.Errorf("after the close the state is %+v, it returned %+v", got, closed.State)
	}

	idle := r.install(r.session(Plain, rnd), r.session(Plain, rnd), 0, 2, func(_ *Stream, state *State) {
		state.Started, state.Highest, state.From = 1, 100, 101
	})
	if c := r.act(OpRelease, idle.slot); c.State.Until != 101 || c.State.Highest != 100 {
		t.Errorf("nothing was taken, released %+v", c)
	}
}

// TestReleaseUnderLoad: what release returns is final. No index above it leaves,
// and none at or below it goes up.
func TestReleaseUnderLoad(t *testing.T) {
	r := newRig(t, nil)
	rnd := rand.New(rand.NewPCG(13, 14))
	in, out := r.session(AEADGCM, rnd), r.session(AEADGCM, rnd)
	const packets = 400
	var frames [packets][]byte
	for i := range frames {
		p := shape{payload: 20, extension: -1}.rtp(rnd, false, 96, uint16(i+1), 0, 1)
		frames[i] = frame(farIn[0], gatewayIn[0], 0, in.protect(t, p, uint64(i+1)))
	}
	for range 200 {
		r.streams = 0
		s := r.install(in, out, 0, 1, nil)
		var sent atomic.Uint32
		var highest uint64
		var last [packets]bool
		stop := uint32(rnd.IntN(packets))
		r.cpus(2, func(cpu int) {
			if cpu == 1 {
				for sent.Load() < stop {
					runtime.Gosched()
				}
				highest = r.act(OpRelease, s.slot).State.Highest
				return
			}
			b := make([]byte, 2048)
			for i, f := range frames {
				_, last[i] = r.once(f, b)
				sent.Add(1)
			}
		})
		for i, forwarded := range last {
			if forwarded != (uint64(i+1) <= highest) {
				t.Fatalf("released at %d, index %d: forwarded %v", highest, i+1, forwarded)
			}
		}
	}
}
