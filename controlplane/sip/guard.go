package sip

import (
	"net/netip"
	"sync"
	"time"
)

// Bounds of the guard.
const (
	maxNonces    = 16_384 // in use at a time
	maxSources   = 8_192  // with failures
	guardTries   = 30     // failures within guardWindow before a source is slowed down
	guardWindow  = time.Minute
	guardBlock   = 20 * time.Second
	guardSweep   = time.Minute
	ncWindowSize = 64
)

// guard remembers which nonce-counts were used, and who fails to authenticate.
// Both tables hold only what was paid for: a nonce enters with its first valid
// answer, and both are bounded.
type guard struct {
	mu      sync.Mutex
	nonces  map[string]*nonceUse
	floor   time.Time // nonces made before it that are not known are stale
	sources map[netip.Addr]*failures
	swept   time.Time
}

// nonceUse is the use of one nonce by one user.
type nonceUse struct {
	user   string
	issued time.Time
	top    uint32
	seen   uint64 // bit i: top-i was used
}

type failures struct {
	n       int
	since   time.Time
	blocked time.Time // until
}

func newGuard() *guard {
	return &guard{nonces: map[string]*nonceUse{}, sources: map[netip.Addr]*failures{}}
}

// fresh takes a valid answer's nonce-count, once. A count may be late by up to
// 64 (RFC 7616 3.4.5 leaves it open; requests overtake each other).
func (g *guard) fresh(nonce, user string, nc uint32, issued, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sweep(now)
	u := g.nonces[nonce]
	if u == nil {
		if issued.Before(g.floor) || nc == 0 {
			return false
		}
		if len(g.nonces) >= maxNonces {
			g.evict()
		}
		g.nonces[nonce] = &nonceUse{user: user, issued: issued, top: nc, seen: 1}
		return true
	}
	if u.user != user || nc == 0 {
		return false
	}
	if nc > u.top {
		shift := nc - u.top
		if shift >= ncWindowSize {
			u.seen = 0
		} else {
			u.seen <<= shift
		}
		u.seen |= 1
		u.top = nc
		return true
	}
	back := u.top - nc
	if back >= ncWindowSize || u.seen&(1<<back) != 0 {
		return false
	}
	u.seen |= 1 << back
	return true
}

// evict makes room by dropping the older half. What is dropped could be replayed,
// so every nonce that old is stale from now on.
func (g *guard) evict() {
	var lo, hi time.Time
	for _, u := range g.nonces {
		if lo.IsZero() || u.issued.Before(lo) {
			lo = u.issued
		}
		if u.issued.After(hi) {
			hi = u.issued
		}
	}
	cut := lo.Add(hi.Sub(lo)/2 + time.Millisecond)
	for n, u := range g.nonces {
		if u.issued.Before(cut) {
			delete(g.nonces, n)
		}
	}
	if cut.After(g.floor) {
		g.floor = cut
	}
}

func (g *guard) sweep(now time.Time) {
	if now.Sub(g.swept) < guardSweep {
		return
	}
	g.swept = now
	for n, u := range g.nonces {
		if now.Sub(u.issued) > nonceLife+time.Minute {
			delete(g.nonces, n)
		}
	}
	for a, f := range g.sources {
		if now.Sub(f.since) > guardWindow && now.After(f.blocked) {
			delete(g.sources, a)
		}
	}
}

// failed counts a wrong answer and tells when it was one too many.
func (g *guard) failed(a netip.Addr, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sweep(now)
	a = source(a)
	f := g.sources[a]
	if f == nil {
		if len(g.sources) >= maxSources {
			return false
		}
		f = &failures{}
		g.sources[a] = f
	}
	if now.Sub(f.since) > guardWindow {
		f.n, f.since = 0, now
	}
	f.n++
	if f.n < guardTries {
		return false
	}
	f.n, f.since, f.blocked = 0, now, now.Add(guardBlock)
	return true
}

// blocked tells whether a source has to wait.
func (g *guard) blocked(a netip.Addr, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.sources[source(a)]
	return f != nil && now.Before(f.blocked)
}
