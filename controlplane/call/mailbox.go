package call

import "sync"

// mailbox is the queue of what a call has still to do. Posting never blocks, so
// no caller can be stalled by a call and no two calls by each other; what comes
// from the network is bounded by the transactions that wait for their answer.
type mailbox struct {
	mu     sync.Mutex
	queue  []func()
	closed bool
	wake   chan struct{} // capacity 1
}

func newMailbox() *mailbox { return &mailbox{wake: make(chan struct{}, 1)} }

// post reports false when the call is over and f will never run.
func (b *mailbox) post(f func()) bool {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return false
	}
	b.queue = append(b.queue, f)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return true
}

// take waits for the next item; only the call's goroutine calls it.
func (b *mailbox) take() func() {
	for {
		b.mu.Lock()
		if len(b.queue) > 0 {
			f := b.queue[0]
			b.queue[0] = nil
			b.queue = b.queue[1:]
			b.mu.Unlock()
			return f
		}
		b.queue = nil
		b.mu.Unlock()
		<-b.wake
	}
}

// closeEmpty closes the mailbox unless something is still queued.
func (b *mailbox) closeEmpty() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) > 0 {
		return false
	}
	b.closed = true
	return true
}
