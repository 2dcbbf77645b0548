package location

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"
)

// Bounds of Memory.
const (
	MaxPerAOR = 16      // bindings of one user
	MaxTotal  = 100_000 // bindings of the whole store
)

// Memory is a Store of this process. Bindings end on time without anybody
// asking: one timer waits for the next expiry.
type Memory struct {
	now func() time.Time

	mu       sync.Mutex
	byAOR    map[string]map[string]*entry // AOR, Key
	byFlow   map[string]map[*entry]struct{}
	ends     ends
	seq      uint64
	watchers map[int]func(Event)
	nextID   int
	timer    *time.Timer
	due      time.Time // when timer fires, zero: not set
	closed   bool
}

type entry struct {
	Binding
	key   string
	seq   uint64 // order of the last refresh
	place int    // in ends
}

// NewMemory returns an empty store. Close stops its timer.
func NewMemory() *Memory {
	return &Memory{
		now:      time.Now,
		byAOR:    map[string]map[string]*entry{},
		byFlow:   map[string]map[*entry]struct{}{},
		watchers: map[int]func(Event){},
	}
}

// Close ends expiry and drops the watchers.
func (m *Memory) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.watchers = map[int]func(Event){}
	if m.timer != nil {
		m.timer.Stop()
	}
}

// Update implements Store.
func (m *Memory) Update(_ context.Context, aor string, put, remove []Binding) ([]Binding, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire(m.now())
	have := m.byAOR[aor]
	added := 0
	for _, b := range put {
		old := have[b.Key()]
		if old == nil {
			added++
			continue
		}
		if outOfOrder(old, &b) {
			return nil, ErrOutOfOrder
		}
	}
	removed := 0
	for _, b := range remove {
		old := have[b.Key()]
		if old == nil {
			continue
		}
		if outOfOrder(old, &b) {
			return nil, ErrOutOfOrder
		}
		removed++
	}
	if n := added - removed; n > 0 && (len(have)+n > MaxPerAOR || len(m.ends)+n > MaxTotal) {
		return nil, ErrTooMany
	}
	for _, b := range remove {
		if old := have[b.Key()]; old != nil {
			m.drop(old, Removed)
		}
	}
	for _, b := range put {
		m.put(aor, b)
	}
	m.arm()
	return m.list(aor), nil
}

func outOfOrder(old *entry, b *Binding) bool {
	return b.CallID != "" && old.CallID == b.CallID && b.CSeq <= old.CSeq
}

func (m *Memory) put(aor string, b Binding) {
	b.AOR = aor
	m.seq++
	e := &entry{Binding: b, key: b.Key(), seq: m.seq}
	e.Path = slices.Clone(b.Path)
	have := m.byAOR[aor]
	if have == nil {
		have = map[string]*entry{}
		m.byAOR[aor] = have
	}
	old := have[e.key]
	have[e.key] = e
	if old != nil {
		m.forget(old)
	}
	heap.Push(&m.ends, e)
	if e.Flow != "" {
		if m.byFlow[e.Flow] == nil {
			m.byFlow[e.Flow] = map[*entry]struct{}{}
		}
		m.byFlow[e.Flow][e] = struct{}{}
	}
	if old != nil {
		was := old.Binding
		m.tell(Event{Change: Refreshed, Binding: e.Binding, Old: &was})
		return
	}
	m.tell(Event{Change: Added, Binding: e.Binding})
}

func (m *Memory) drop(e *entry, why Change) {
	have := m.byAOR[e.AOR]
	if have[e.key] != e {
		return
	}
	delete(have, e.key)
	if len(have) == 0 {
		delete(m.byAOR, e.AOR)
	}
	m.forget(e)
	m.tell(Event{Change: why, Binding: e.Binding})
}

// forget takes an entry out of the expiry order and of its flow.
func (m *Memory) forget(e *entry) {
	heap.Remove(&m.ends, e.place)
	if set := m.byFlow[e.Flow]; set != nil {
		delete(set, e)
		if len(set) == 0 {
			delete(m.byFlow, e.Flow)
		}
	}
}

func (m *Memory) tell(ev Event) {
	for _, f := range m.watchers {
		f(ev)
	}
}

// Lookup implements Store.
func (m *Memory) Lookup(_ context.Context, aor string) ([]Binding, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire(m.now())
	return m.list(aor), nil
}

func (m *Memory) list(aor string) []Binding {
	have := m.byAOR[aor]
	es := make([]*entry, 0, len(have))
	for _, e := range have {
		es = append(es, e)
	}
	slices.SortFunc(es, func(a, b *entry) int {
		if a.seq > b.seq {
			return -1
		}
		return 1
	})
	bs := make([]Binding, len(es))
	for i, e := range es {
		bs[i] = e.Binding
		bs[i].Path = slices.Clone(e.Path)
	}
	return bs
}

// DropFlow implements Store.
func (m *Memory) DropFlow(_ context.Context, flow string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for e := range m.byFlow[flow] {
		if e.Bound() {
			m.drop(e, Removed)
		}
	}
	return nil
}

// Watch implements Store.
func (m *Memory) Watch(f func(Event)) (stop func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.nextID
	m.nextID++
	m.watchers[id] = f
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watchers, id)
	}
}

// Len implements Store.
func (m *Memory) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire(m.now())
	return len(m.ends)
}

// expire drops what has ended and sets the timer for the next end.
func (m *Memory) expire(now time.Time) {
	for len(m.ends) > 0 && !m.ends[0].Expires.After(now) {
		m.drop(m.ends[0], Expired)
	}
	m.arm()
}

// arm lets the timer fire at the next end. A timer that was set for an end that
// has moved later only finds nothing to do.
func (m *Memory) arm() {
	if m.closed || len(m.ends) == 0 {
		return
	}
	next := m.ends[0].Expires
	if !m.due.IsZero() && !next.Before(m.due) {
		return
	}
	m.due = next
	wait := next.Sub(m.now())
	if m.timer == nil {
		m.timer = time.AfterFunc(wait, m.tick)
		return
	}
	m.timer.Reset(wait)
}

func (m *Memory) tick() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.due = time.Time{}
	m.expire(m.now())
}

// ends orders entries by their end, for container/heap.
type ends []*entry

func (h ends) Len() int           { return len(h) }
func (h ends) Less(i, j int) bool { return h[i].Expires.Before(h[j].Expires) }
func (h ends) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *ends) Push(x any) {
	e := x.(*entry)
	e.place = len(*h)
	*h = append(*h, e)
}

func (h *ends) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}
