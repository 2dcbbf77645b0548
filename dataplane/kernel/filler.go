package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/sluicegw/sluice/bpf"
)

// The filler's pace. A round looks at every stream once; rounds come quicker
// when some ring is drained by more than half between two of them.
const (
	fastestRound = 5 * time.Millisecond
	slowestRound = 60 * time.Millisecond
	// share of one processor, as 1/share, that the filler takes at most.
	fillerShare = 2
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
	order   []uint32           // state slots, for the round robin
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
	Busy    time.Duration // time spent
	Streams int           // now
}

type filled struct {
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
	f.streams[slot] = &filled{rings: rings, highest: highest, look: f.looks + 1}
	f.order = append(f.order, slot)
	f.top = max(f.top, slot)
	for _, r := range rings {
		f.stats.Slots += uint64(r.fill(highest, int(r.class.slots)))
	}
}

// remove ends it: when it returns, the stream's rings are not written any more.
func (f *filler) remove(slot uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.streams[slot]; !ok {
		return
	}
	delete(f.streams, slot)
	for i, s := range f.order {
		if s == slot {
			f.order[i] = f.order[len(f.order)-1]
			f.order = f.order[:len(f.order)-1]
			break
		}
	}
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
		drained, err := f.round(start.Add(period / fillerShare))
		if err != nil && !failed {
			f.log.Error("keystream is not made ahead any more, packets cost more", "error", err)
		}
		failed = err != nil
		busy := time.Since(start)
		switch {
		case drained > 1.0/2:
			period = max(period/2, fastestRound)
		case drained < 1.0/4:
			period = min(period+period/8, slowestRound)
		}
		timer.Reset(max(period-busy, busy*(fillerShare-1)))
	}
}

// round brings every ring up to date, or as many as fit before the deadline.
// drained is the largest part of a ring that was used since the last round.
func (f *filler) round(deadline time.Time) (drained float64, err error) {
	start := time.Now()
	f.mu.Lock()
	none := len(f.order) == 0
	f.mu.Unlock()
	if none {
		return 0, nil
	}
	if drained, err = f.look(); err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats.Rounds++
	// Passes of one burst for each stream, until nobody needs more.
	for more := true; more; {
		more = false
		for range len(f.order) {
			f.turn = (f.turn + 1) % len(f.order)
			if f.fill(f.streams[f.order[f.turn]]) {
				more = true
			}
			if f.yield(deadline) {
				f.stats.Behind++
				f.stats.Busy += time.Since(start)
				return drained, nil
			}
		}
	}
	f.stats.Busy += time.Since(start)
	return drained, nil
}

// yield lets others have the lock between two streams. It tells whether time is up.
func (f *filler) yield(deadline time.Time) bool {
	f.mu.Unlock()
	over := time.Now().After(deadline)
	f.mu.Lock()
	return over || len(f.order) == 0
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

// look reads how far every stream has come.
func (f *filler) look() (drained float64, err error) {
	f.mu.Lock()
	f.looks++
	top := f.top
	f.mu.Unlock()
	var cursor ebpf.MapBatchCursor
	for read := uint32(0); read <= top; {
		n, err := f.states.BatchLookup(&cursor, f.slots, f.values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return 0, fmt.Errorf("read the streams' positions: %w", err)
		}
		f.mu.Lock()
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
		f.mu.Unlock()
		read += uint32(n)
		if err != nil || n == 0 {
			break
		}
	}
	return drained, nil
}
