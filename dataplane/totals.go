package dataplane

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// PathTotal is what one path has forwarded since the plane was made.
type PathTotal struct {
	Path            string // "user", "kernel:xdp-native", ...
	Packets, Octets uint64 // octets are RTP payload
}

// totals count forwarded media by path.
type totals struct {
	packets, octets atomic.Uint64 // of the user engine

	mu   sync.Mutex
	gone map[string]PathTotal // of flows that a Forwarder has given back
	told map[string]PathTotal // what was reported last
}

// user counts a packet that the user engine sends.
func (c *totals) user(octets int) {
	c.packets.Add(1)
	c.octets.Add(uint64(octets))
}

// forwarder counts what a Forwarder has carried and will not report again.
func (c *totals) forwarder(path string, n Counters) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone == nil {
		c.gone = map[string]PathTotal{}
	}
	t := c.gone[path]
	c.gone[path] = PathTotal{Path: path, Packets: t.Packets + n.Packets, Octets: t.Octets + n.Octets}
}

// Totals lists what every path has forwarded, by name. The figures only grow.
func (p *Plane) Totals() []PathTotal {
	c := &p.totals
	now := map[string]PathTotal{pathUser: {Path: pathUser, Packets: c.packets.Load(), Octets: c.octets.Load()}}
	add := func(t PathTotal) {
		n := now[t.Path]
		now[t.Path] = PathTotal{Path: t.Path, Packets: n.Packets + t.Packets, Octets: n.Octets + t.Octets}
	}
	// What was given back is read first: a flow that comes back meanwhile is
	// missed until the next time, never counted twice.
	c.mu.Lock()
	for _, t := range c.gone {
		add(t)
	}
	c.mu.Unlock()
	for _, t := range p.all() {
		t.mu.Lock()
		for _, s := range t.streams {
			if s.flow != nil && s.flow.owner == ownerForwarder {
				path, _ := p.engine.path(s)
				n := p.engine.read(s, time.Now())
				add(PathTotal{Path: path, Packets: n.Packets, Octets: n.Octets})
			}
		}
		t.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for path, t := range c.told {
		n := now[path]
		now[path] = PathTotal{Path: path, Packets: max(n.Packets, t.Packets), Octets: max(n.Octets, t.Octets)}
	}
	c.told = now
	list := make([]PathTotal, 0, len(now))
	for _, t := range now {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b PathTotal) int { return cmp.Compare(a.Path, b.Path) })
	return list
}
