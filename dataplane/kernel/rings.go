package kernel

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluicegw/sluice/bpf"
)

// Slots per ring, powers of two: 16 packets of a voice stream are 320 ms, 64 of
// video at 300 packets/s are 210 ms.
const (
	smallRingSlots = 16
	largeRingSlots = 64
)

// In a slot of either size, by sluice.h.
const (
	slotTag   = 0
	slotMask  = 16
	slotBytes = 32
)

// ringClass is one keystream map, mapped into memory and cut into rings.
type ringClass struct {
	memory []byte
	octets int    // of keystream in a slot
	slots  uint32 // in a ring
	free   []uint32
	// epoch of the last user of each ring: the next gets another.
	epochs []uint16
	sheet  *sheet // the filler's
}

func newRingClass(m *ebpf.Map, octets int, slots uint32) (*ringClass, error) {
	size := int(m.ValueSize()) * int(m.MaxEntries())
	memory, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the keystream into memory: %w", err)
	}
	if err := unix.Madvise(memory, unix.MADV_DONTDUMP); err != nil {
		return nil, errors.Join(fmt.Errorf("keep the keystream out of core dumps: %w", err), unix.Munmap(memory))
	}
	c := &ringClass{memory: memory, octets: octets, slots: slots, epochs: make([]uint16, m.MaxEntries()/slots), sheet: newSheet(octets)}
	for n := len(c.epochs); n > 0; n-- {
		c.free = append(c.free, uint32(n-1))
	}
	return c, nil
}

func (c *ringClass) slotSize() int { return slotBytes + c.octets }

// take gives out a ring, or false when all are in use.
func (c *ringClass) take() (bpf.Ring, bool) {
	if len(c.free) == 0 {
		return bpf.Ring{}, false
	}
	n := c.free[len(c.free)-1]
	c.free = c.free[:len(c.free)-1]
	c.epochs[n]++
	if c.epochs[n] == 0 {
		c.epochs[n] = 1
	}
	return bpf.Ring{Base: n * c.slots, Mask: c.slots - 1, Epoch: c.epochs[n]}, true
}

// reserve takes a ring that an adopted stream uses out of the free ones.
func (c *ringClass) reserve(r bpf.Ring) {
	n := r.Base / c.slots
	for i, f := range c.free {
		if f == n {
			c.free = append(c.free[:i], c.free[i+1:]...)
			c.epochs[n] = r.Epoch
			return
		}
	}
}

// wipe overwrites a ring's keystream. Tags go first, so that a program that
// still runs does not take what is half gone.
func (c *ringClass) wipe(r bpf.Ring) {
	for s := r.Base; s <= r.Base+r.Mask; s++ {
		atomic.StoreUint64(c.tag(s), 0)
	}
	for s := r.Base; s <= r.Base+r.Mask; s++ {
		clear(c.slot(s))
	}
}

// wipeFree overwrites what a process that died left in rings of nobody.
func (c *ringClass) wipeFree() {
	for _, n := range c.free {
		first := n * c.slots
		for s := first; s < first+c.slots; s++ {
			if atomic.LoadUint64(c.tag(s)) != 0 || c.slot(s)[slotBytes] != 0 {
				c.wipe(bpf.Ring{Base: first, Mask: c.slots - 1})
				break
			}
		}
	}
}

// give returns a wiped ring.
func (c *ringClass) give(r bpf.Ring) { c.free = append(c.free, r.Base/c.slots) }

func (c *ringClass) slot(n uint32) []byte {
	size := c.slotSize()
	return c.memory[int(n)*size : (int(n)+1)*size : (int(n)+1)*size]
}

func (c *ringClass) tag(n uint32) *uint64 {
	return (*uint64)(unsafe.Pointer(&c.slot(n)[slotTag]))
}

// publish computes the keystream of one index into its slot of the ring. The
// filler's lock is held.
func (c *ringClass) publish(r bpf.Ring, g *generator, index uint64) {
	n := r.Base + uint32(index)&r.Mask
	tag, want := c.tag(n), uint64(r.Epoch)<<48|index
	if atomic.LoadUint64(tag) == want {
		return
	}
	atomic.StoreUint64(tag, 0)
	s := c.slot(n)
	g.generate(index, s[slotMask:slotBytes], s[slotBytes:], c.sheet)
	atomic.StoreUint64(tag, want)
}

func (c *ringClass) close() {
	if c != nil && c.memory != nil {
		// The error could only be a wrong address, and the process goes on without.
		_ = unix.Munmap(c.memory)
		c.memory = nil
	}
}

// rings are both classes.
type rings struct{ small, large *ringClass }

func openRings(o *objects) (r rings, err error) {
	if r.small, err = newRingClass(o.maps.keystream, bpf.KeystreamSmall, smallRingSlots); err != nil {
		return r, err
	}
	if r.large, err = newRingClass(o.maps.keystreamLarge, bpf.LargestPayload, largeRingSlots); err != nil {
		r.close()
	}
	return r, err
}

func (r *rings) close() {
	r.small.close()
	r.large.close()
}

// keystreamRing is a ring in use with what fills it.
type keystreamRing struct {
	class *ringClass
	at    bpf.Ring
	gen   *generator
	// offset turns the stream's input index into the index of this keystream.
	offset uint64
	next   uint64 // input index not yet filled, modulo 2^48
}

// ahead is how far beyond the highest index a ring is filled. The rest keeps
// slots of packets that come late.
func (r *keystreamRing) ahead() uint64 { return uint64(r.class.slots) - uint64(r.class.slots)/8 }

// fill publishes up to limit slots beyond the highest input index and returns
// how many it did.
func (r *keystreamRing) fill(highest uint64, limit int) (done int) {
	from, to := highest+1, highest+1+r.ahead()
	if r.next > from && r.next <= to {
		from = r.next
	}
	for ; from < to && done < limit; from++ {
		r.class.publish(r.at, r.gen, (from+r.offset)&indexMask)
		done++
	}
	r.next = from
	return done
}
