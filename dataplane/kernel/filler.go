package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluicegw/sluice/bpf"
)

// The filler's pace. A round looks at every stream once; rounds come quicker
// when some ring is drained by more than half between two of them. The slower
// they are, the less each costs a packet: at the slowest a voice stream needs six
// of the fourteen that its ring is ahead.
const (
	fastestRound = 5 * time.Millisecond
	slowestRound = 120 * time.Millisecond
	// fillerShare of one processor, as 1/fillerShare, is what the filler takes at
	// most. It is counted in processor time: waiting for a turn is not working.
	fillerShare = 2
	// looked is how many streams are filled between two looks at the clock.
	looked = 16
	// burst is how many packets of one ring are filled before the next ring has
	// its turn.
	burst = 16
	// batch is how many states one system call reads.
	batch = 512
)

// filler keeps the keystream of every ring ahead of its stream.
type filler struct {
	states *ebpf.Map
	log    *slog.Logger

	mu      sync.Mutex
	streams map[uint32]*filled // by state slot
	order   []*filled          // for the round robin
	turn    int                // where the next round begins
	top     uint32             // highest state slot in use

	slots  []uint32
	values []bpf.State
	looks  uint64
	stats  FillerStats
}

// FillerStats is what the filler has done. Counts only grow.
type FillerStats struct {
	Rounds  uint64
	Slots   uint64        // keystreams computed
	Behind  uint64        // rounds that ran out of their time
	Busy    time.Duration // processor time spent
	Streams int           // now
}

type filled struct {
	at      int // in order
	rings   []*keystreamRing
	highest uint64
	look    uint64 // the first look that may speak of it: earlier ones read another's slot
}

func newFiller(states *ebpf.Map, log *slog.Logger) *filler {
	n := min(batch, states.MaxEntries())
	return &filler{
		states: states, log: log, streams: make(map[uint32]*filled),
		slots: make([]uint32, n), values: make([]bpf.State, n),
	}
}

// add starts to follow a stream from its highest input index and fills its
// rings at once, so that the first packet already hits.
func (f *filler) add(slot uint32, highest uint64, rings []*keystreamRing) {
	if len(rings) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &filled{at: len(f.order), rings: rings, highest: highest, look: f.looks + 1}
	f.streams[slot] = s
	f.order = append(f.order, s)
	f.top = max(f.top, slot)
	for _, r := range rings {
		f.stats.Slots += uint64(r.fill(highest, int(r.class.slots)))
	}
}

// remove ends it: when it returns, the stream's rings are not written any more.
func (f *filler) remove(slot uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.streams[slot]
	if !ok {
		return
	}
	delete(f.streams, slot)
	last := len(f.order) - 1
	f.order[last].at = s.at
	f.order[s.at] = f.order[last]
	f.order[last] = nil
	f.order = f.order[:last]
	if slot == f.top {
		f.top = 0
		for s := range f.streams {
			f.top = max(f.top, s)
		}
	}
}

func (f *filler) statistics() FillerStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stats
	s.Streams = len(f.streams)
	return s
}

// run goes round until the context ends.
func (f *filler) run(ctx context.Context) {
	runtime.LockOSThread() // its processor time is what is bounded
	defer runtime.UnlockOSThread()
	period := slowestRound
	timer := time.NewTimer(period)
	defer timer.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		start := time.Now()
		drained, busy, err := f.round(period / fillerShare)
		if err != nil && !failed {
			f.log.Error("keystream is not made ahead any more, packets cost more", "error", err)
		}
		failed = err != nil
		switch {
		case drained > 1.0/2:
			period = max(period/2, fastestRound)
		case drained < 1.0/4:
			period = min(period+period/8, slowestRound)
		}
		timer.Reset(max(period-time.Since(start), busy*(fillerShare-1)))
	}
}

// threadTime is the processor time of the calling thread, 0 when the kernel does
// not say.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// round brings every ring up to date, or as many as fit into the budget of
// processor time. drained is the largest part of a ring that was used since the
// last round, busy the time it took. The caller has locked its thread.
func (f *filler) round(budget time.Duration) (drained float64, busy time.Duration, err error) {
	start := threadTime()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.order) == 0 {
		return 0, 0, nil
	}
	if drained, err = f.look(); err != nil {
		return 0, threadTime() - start, err
	}
	f.stats.Rounds++
	if !f.pass(func() bool { return threadTime()-start >= budget }) {
		f.stats.Behind++
	}
	busy = threadTime() - start
	f.stats.Busy += busy
	return drained, busy, nil
}

// pass gives every stream a burst, again and again until nobody needs more; it
// reports false when it was over before. The lock is let go now and then.
func (f *filler) pass(over func() bool) bool {
	for more := true; more; {
		more = false
		for n := range len(f.order) {
			f.turn = (f.turn + 1) % len(f.order)
			if f.fill(f.order[f.turn]) {
				more = true
			}
			if n%looked != looked-1 {
				continue
			}
			if over() {
				return false
			}
			f.mu.Unlock()
			f.mu.Lock()
			if len(f.order) == 0 {
				return true
			}
		}
	}
	return true
}

// fill gives one stream its burst and tells whether it needs more.
func (f *filler) fill(s *filled) (more bool) {
	for _, r := range s.rings {
		done := r.fill(s.highest, burst)
		f.stats.Slots += uint64(done)
		more = more || done == burst
	}
	return more
}

// look reads how far every stream has come. The lock is held, but not while the
// kernel is asked.
func (f *filler) look() (drained float64, err error) {
	f.looks++
	top := f.top
	var cursor ebpf.MapBatchCursor
	for read := uint32(0); read <= top; {
		f.mu.Unlock()
		n, err := f.states.BatchLookup(&cursor, f.slots, f.values, nil)
		f.mu.Lock()
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return 0, fmt.Errorf("read the streams' positions: %w", err)
		}
		for i := range n {
			s := f.streams[f.slots[i]]
			if s == nil || s.look > f.looks || f.values[i].Started == 0 {
				continue
			}
			highest := f.values[i].Highest
			if highest <= s.highest {
				continue
			}
			for _, r := range s.rings {
				drained = max(drained, float64(highest-s.highest)/float64(r.class.slots))
			}
			s.highest = highest
		}
		read += uint32(n)
		if err != nil || n == 0 {
			break
		}
	}
	return drained, nil
}
