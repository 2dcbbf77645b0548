package kernel

import (
	"context"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicegw/sluice/bpf"
	"github.com/sluicegw/sluice/dataplane/srtp"
	"github.com/sluicegw/sluice/internal/ring"
)

// bench is a filler on maps of its own.
type bench struct {
	objects *objects
	rings   rings
	filler  *filler
}

func newBench(t testing.TB, streams uint32) *bench {
	t.Helper()
	ring.Needs(t.(ring.TB), ring.Root)
	o, err := load(capacity{streams: streams})
	must(t, err)
	t.Cleanup(o.close)
	b := &bench{objects: o}
	b.rings, err = openRings(o)
	must(t, err)
	t.Cleanup(b.rings.close)
	b.filler = newFiller(o.maps.states, slog.New(slog.DiscardHandler))
	return b
}

func (b *bench) add(t testing.TB, slot uint32, k *srtp.SessionKeys, ssrc uint32, offset, highest uint64) *keystreamRing {
	t.Helper()
	at, ok := b.rings.small.take()
	if !ok {
		t.Fatal("no ring is free")
	}
	g, err := newGenerator(k, ssrc)
	must(t, err)
	r := &keystreamRing{class: b.rings.small, at: at, gen: g, offset: offset}
	b.filler.add(slot, highest, []*keystreamRing{r})
	return r
}

// move puts streams first..first+n-1 at an index, as their packets would.
func (b *bench) move(t testing.TB, n int, highest uint64) {
	t.Helper()
	slots, states := make([]uint32, n), make([]bpf.State, n)
	for i := range slots {
		slots[i], states[i] = uint32(i), bpf.State{Started: 1, Highest: highest}
	}
	if _, err := b.objects.maps.states.BatchUpdate(slots, states, nil); err != nil {
		t.Fatal(err)
	}
}

// has tells whether the keystream of an index is published, and right.
func (r *keystreamRing) has(t testing.TB, k *srtp.SessionKeys, ssrc uint32, index uint64) bool {
	t.Helper()
	var s bpf.Keystream
	n := r.at.Base + uint32(index)&r.at.Mask
	if _, err := binary.Decode(r.class.slot(n), binary.NativeEndian, &s); err != nil {
		t.Fatal(err)
	}
	if s.Tag != uint64(r.at.Epoch)<<48|index {
		return false
	}
	g, err := newGenerator(k, ssrc)
	must(t, err)
	var mask [16]byte
	var out [bpf.KeystreamSmall]byte
	g.generate(index, mask[:], out[:], newSheet(len(out)))
	if mask != s.Mask || out != s.Bytes {
		t.Fatalf("the slot of index %d holds the wrong keystream", index)
	}
	return true
}

// A ring is full when its stream begins and stays ahead of it, across roll-over
// and jumps; the slots of packets that may still come late are kept.
func TestFillerKeepsAhead(t *testing.T) {
	b := newBench(t, 16)
	r := rand.New(rand.NewPCG(1, 1))
	k := randomKeys(r, srtp.ProfileAEADAES128GCM)
	const offset = 1<<48 - 5
	ring := b.add(t, 3, k, 77, offset, 65530)
	for _, highest := range []uint64{65530, 65531, 65534, 65537, 65545, 80000, 80001} {
		b.objects.maps.states.Put(uint32(3), bpf.State{Started: 1, Highest: highest})
		if _, _, err := b.filler.round(time.Minute); err != nil {
			t.Fatal(err)
		}
		for i := highest + 1; i <= highest+ring.ahead(); i++ {
			if !ring.has(t, k, 77, (i+offset)&indexMask) {
				t.Fatalf("at %d the keystream of %d is not there", highest, i)
			}
		}
	}
	// 80001 moved by one: the two before are still there.
	for i := uint64(80000); i <= 80001; i++ {
		if i == 80000 {
			continue // a jump: it was never computed
		}
		if !ring.has(t, k, 77, i+offset-(1<<48)) {
			t.Errorf("the keystream of late packet %d is gone", i)
		}
	}
	b.filler.remove(3)
	ring.class.wipe(ring.at)
	for i := range uint64(smallRingSlots) {
		if ring.has(t, k, 77, 80000+i) {
			t.Error("a wiped slot is still valid")
		}
	}
}

// With too little time everybody gets a part: nobody is filled twice before all
// have been filled once.
func TestFillerIsFair(t *testing.T) {
	runtime.LockOSThread() // as run does
	defer runtime.UnlockOSThread()
	const streams = 64
	b := newBench(t, streams)
	r := rand.New(rand.NewPCG(2, 2))
	k := randomKeys(r, srtp.ProfileAES128CMHMACSHA1_80)
	var rings []*keystreamRing
	for i := range uint32(streams) {
		rings = append(rings, b.add(t, i, k, i, 0, 100))
	}
	b.move(t, streams, 110)
	for rounds := 1; ; rounds++ {
		if rounds > streams {
			t.Fatalf("%d rounds have not filled every ring", rounds)
		}
		// No time at all: as many as are filled between two looks at the clock.
		if _, _, err := b.filler.round(0); err != nil {
			t.Fatal(err)
		}
		filled := 0
		for i, ring := range rings {
			if ring.has(t, k, uint32(i), 111+ring.ahead()-1) {
				filled++
			}
		}
		if filled != rounds*looked {
			t.Fatalf("after %d rounds %d rings are full", rounds, filled)
		}
		if filled == streams {
			break
		}
	}
	if s := b.filler.statistics(); s.Behind == 0 {
		t.Error("running out of time was not counted")
	}
}

func TestFillerAllocatesNothing(t *testing.T) {
	b := newBench(t, 16)
	r := rand.New(rand.NewPCG(3, 3))
	for i, p := range []srtp.Profile{srtp.ProfileAES128CMHMACSHA1_80, srtp.ProfileAEADAES128GCM} {
		ring := b.add(t, uint32(i), randomKeys(r, p), 1, 0, 0)
		index := uint64(100)
		if n := testing.AllocsPerRun(100, func() {
			index++
			ring.class.publish(ring.at, ring.gen, index)
		}); n != 0 {
			t.Errorf("%v: %v allocations a packet", p, n)
		}
	}
}

// BenchmarkFiller is a round for every stream having had three packets: 60 ms of
// voice. ns/packet includes reading where the streams are.
func BenchmarkFiller(b *testing.B) {
	for _, p := range []srtp.Profile{srtp.ProfileAES128CMHMACSHA1_80, srtp.ProfileAEADAES128GCM} {
		for _, streams := range []int{100, 20000} {
			b.Run(p.String()+"/"+strconv.Itoa(streams), func(b *testing.B) {
				size := uint32(128)
				for int(size) < streams {
					size *= 2
				}
				f := newBench(b, size)
				r := rand.New(rand.NewPCG(4, 4))
				for i := range streams {
					f.add(b, uint32(i), randomKeys(r, p), uint32(i), 0, 0)
				}
				highest := uint64(0)
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					b.StopTimer()
					highest += 3
					f.move(b, streams, highest)
					b.StartTimer()
					if _, _, err := f.filler.round(time.Minute); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*streams*3), "ns/packet")
			})
		}
	}
}

// BenchmarkFillerSteady is the running filler with voice streams of 50 packets/s:
// the part of keystreams that is ready when its packet comes, and of a processor
// that the filler takes.
func BenchmarkFillerSteady(b *testing.B) {
	for _, streams := range []int{1000, 20000} {
		b.Run(strconv.Itoa(streams), func(b *testing.B) {
			size := uint32(1024)
			for int(size) < streams {
				size *= 2
			}
			f := newBench(b, size)
			r := rand.New(rand.NewPCG(6, 6))
			var rings []*keystreamRing
			for i := range streams {
				rings = append(rings, f.add(b, uint32(i), randomKeys(r, srtp.ProfileAEADAES128GCM), uint32(i), 0, 0))
			}
			ctx, stop := context.WithCancel(b.Context())
			var running sync.WaitGroup
			running.Go(func() { f.filler.run(ctx) })
			defer running.Wait()
			defer stop()
			before := f.filler.statistics().Busy
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			b.ResetTimer()
			hits, packets := 0, 0
			index := uint64(0)
			for range b.N {
				<-tick.C
				index++
				for _, ring := range rings {
					packets++
					n := ring.at.Base + uint32(index)&ring.at.Mask
					if atomic.LoadUint64(ring.class.tag(n)) == uint64(ring.at.Epoch)<<48|index {
						hits++
					}
				}
				f.move(b, streams, index)
			}
			b.ReportMetric(100*float64(hits)/float64(packets), "hits-%")
			b.ReportMetric(100*float64(f.filler.statistics().Busy-before)/float64(b.Elapsed()), "cpu-%")
		})
	}
}
