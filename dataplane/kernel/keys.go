package kernel

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluicegw/sluice/bpf"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

// keyStore is the sessions map in memory. A slot is valid while its epoch is
// not 0: the epoch is stored last and cleared first.
type keyStore struct {
	memory []byte
}

const sessionSize = int(unsafe.Sizeof(bpf.Session{}))

func openKeys(m *ebpf.Map) (*keyStore, error) {
	if int(m.ValueSize()) != sessionSize {
		return nil, fmt.Errorf("sessions have %d octets, not %d", m.ValueSize(), sessionSize)
	}
	memory, err := unix.Mmap(m.FD(), 0, sessionSize*int(m.MaxEntries()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the sessions into memory: %w", err)
	}
	if err := unix.Madvise(memory, unix.MADV_DONTDUMP); err != nil {
		return nil, errors.Join(fmt.Errorf("keep the sessions out of core dumps: %w", err), unix.Munmap(memory))
	}
	return &keyStore{memory: memory}, nil
}

func (k *keyStore) at(slot uint32) *bpf.Session {
	return (*bpf.Session)(unsafe.Pointer(&k.memory[int(slot)*sessionSize : (int(slot)+1)*sessionSize][0]))
}

// write computes the material of keys into the slot and makes it valid.
func (k *keyStore) write(slot, epoch uint32, keys *srtp.SessionKeys) error {
	s := k.at(slot)
	if err := material(keys, s); err != nil {
		*s = bpf.Session{}
		return err
	}
	atomic.StoreUint32(&s.Epoch, epoch)
	return nil
}

func (k *keyStore) wipe(slot uint32) {
	s := k.at(slot)
	atomic.StoreUint32(&s.Epoch, 0)
	*s = bpf.Session{}
}

// wipeUnused clears every slot that is not in use.
func (k *keyStore) wipeUnused(free []uint32) {
	for _, slot := range free {
		if s := k.at(slot); *s != (bpf.Session{}) {
			k.wipe(slot)
		}
	}
}

func (k *keyStore) close() {
	if k != nil && k.memory != nil {
		// The error could only be a wrong address, and the process goes on without.
		_ = unix.Munmap(k.memory)
		k.memory = nil
	}
}
