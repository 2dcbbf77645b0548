package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/sluicegw/sluice/bpf"
)

// Names of the pins in a layout directory.
const (
	mapPrefix  = "map_"
	progPrefix = "prog_"
	linkPrefix = "link_"
)

// objects are the maps and programs of the layout this binary works with.
type objects struct {
	maps struct {
		bindings       *ebpf.Map
		streams        *ebpf.Map
		states         *ebpf.Map
		drops          *ebpf.Map
		sessions       *ebpf.Map
		keystream      *ebpf.Map
		keystreamLarge *ebpf.Map
		interfaces     *ebpf.Map
		verdicts       *ebpf.Map
	}
	xdp, tc, control *ebpf.Program
}

func (o *objects) mapByName() map[string]**ebpf.Map {
	return map[string]**ebpf.Map{
		bpf.ControlMapBindings:       &o.maps.bindings,
		bpf.ControlMapStreams:        &o.maps.streams,
		bpf.ControlMapStates:         &o.maps.states,
		bpf.ControlMapDrops:          &o.maps.drops,
		bpf.ControlMapSessions:       &o.maps.sessions,
		bpf.ControlMapKeystream:      &o.maps.keystream,
		bpf.ControlMapKeystreamLarge: &o.maps.keystreamLarge,
		bpf.ControlMapInterfaces:     &o.maps.interfaces,
		bpf.ControlMapVerdicts:       &o.maps.verdicts,
	}
}

func (o *objects) programByName() map[string]**ebpf.Program {
	return map[string]**ebpf.Program{
		bpf.XDPProgSluiceXdp:         &o.xdp,
		bpf.TCProgSluiceTc:           &o.tc,
		bpf.ControlProgSluiceControl: &o.control,
	}
}

func (o *objects) close() {
	for _, m := range o.mapByName() {
		if *m != nil {
			(*m).Close()
		}
	}
	for _, p := range o.programByName() {
		if *p != nil {
			(*p).Close()
		}
	}
}

// capacity is how many entries the maps are made with.
type capacity struct {
	streams uint32
}

// entries returns max_entries by map name; what is absent keeps the object's.
func (c capacity) entries() map[string]uint32 {
	return map[string]uint32{
		bpf.ControlMapStreams:        c.streams,
		bpf.ControlMapStates:         c.streams,
		bpf.ControlMapDrops:          c.streams,
		bpf.ControlMapSessions:       2 * c.streams, // where every stream has its own two
		bpf.ControlMapBindings:       2 * c.streams,
		bpf.ControlMapKeystream:      2 * smallRingSlots * c.streams,
		bpf.ControlMapKeystreamLarge: max(largeRingSlots, largeRingSlots*(c.streams/16)),
	}
}

// load makes maps and programs anew. It pins nothing.
func load(c capacity) (_ *objects, err error) {
	o := new(objects)
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	spec, err := bpf.LoadControl()
	if err != nil {
		return nil, err
	}
	for name, n := range c.entries() {
		m, ok := spec.Maps[name]
		if !ok {
			return nil, fmt.Errorf("the object has no map %s", name)
		}
		m.MaxEntries = n
	}
	shared := make(map[string]*ebpf.Map)
	if err := o.loadCollection(spec, nil); err != nil {
		return nil, err
	}
	for name, m := range o.mapByName() {
		if *m == nil {
			return nil, fmt.Errorf("the object has no map %s", name)
		}
		shared[name] = *m
	}
	for _, source := range []func() (*ebpf.CollectionSpec, error){bpf.LoadXDP, bpf.LoadTC} {
		spec, err := source()
		if err != nil {
			return nil, err
		}
		if err := o.loadCollection(spec, shared); err != nil {
			return nil, err
		}
	}
	for name, p := range o.programByName() {
		if *p == nil {
			return nil, fmt.Errorf("the objects have no program %s", name)
		}
	}
	return o, nil
}

// loadCollection loads one object. Maps that are in shared are used, others are
// made and taken over.
func (o *objects) loadCollection(spec *ebpf.CollectionSpec, shared map[string]*ebpf.Map) error {
	replacements := make(map[string]*ebpf.Map)
	for name, m := range spec.Maps {
		if s, ok := shared[name]; ok {
			m.MaxEntries = s.MaxEntries()
			replacements[name] = s
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replacements})
	if err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	defer coll.Close()
	for name, p := range o.programByName() {
		if *p == nil {
			*p = coll.DetachProgram(name)
		}
	}
	for name, m := range o.mapByName() {
		if *m == nil {
			*m = coll.DetachMap(name)
		}
	}
	return nil
}

// pin pins everything into dir.
func (o *objects) pin(dir string) error {
	for name, m := range o.mapByName() {
		clone, err := (*m).Clone() // a pinned Map remembers a path that is about to change
		if err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
		err = clone.Pin(filepath.Join(dir, mapPrefix+name))
		clone.Close()
		if err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	for name, p := range o.programByName() {
		clone, err := (*p).Clone()
		if err != nil {
			return fmt.Errorf("pin program %s: %w", name, err)
		}
		err = clone.Pin(filepath.Join(dir, progPrefix+name))
		clone.Close()
		if err != nil {
			return fmt.Errorf("pin program %s: %w", name, err)
		}
	}
	return nil
}

var errIncompatible = errors.New("pinned maps do not have this binary's layout")

// open opens what an earlier run pinned into dir. It is fs.ErrNotExist when
// there is nothing, errIncompatible when it is something else.
func open(dir string) (_ *objects, err error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	o := new(objects)
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	spec, err := bpf.LoadControl()
	if err != nil {
		return nil, err
	}
	for name, m := range o.mapByName() {
		*m, err = ebpf.LoadPinnedMap(filepath.Join(dir, mapPrefix+name), nil)
		if err != nil {
			return nil, pinError(name, err)
		}
		s := spec.Maps[name]
		s.MaxEntries = (*m).MaxEntries()
		if err := s.Compatible(*m); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", errIncompatible, name, err)
		}
	}
	for name, p := range o.programByName() {
		*p, err = ebpf.LoadPinnedProgram(filepath.Join(dir, progPrefix+name), nil)
		if err != nil {
			return nil, pinError(name, err)
		}
	}
	return o, nil
}

func pinError(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is not pinned", errIncompatible, name)
	}
	return fmt.Errorf("open pinned %s: %w", name, err)
}
