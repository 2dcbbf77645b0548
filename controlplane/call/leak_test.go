package call_test

import (
	"bytes"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/sluicegw/sluice/controlplane/call"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// footprint is what a process holds.
type footprint struct {
	goroutines, files int
	heap              uint64
}

func measure(t *testing.T) footprint {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return footprint{runtime.NumGoroutine(), len(fds), m.HeapAlloc}
}

// After 500 calls, most between phones and every tenth from a browser, with
// ICE, DTLS and media, nothing of them is left: goroutines, sockets and memory
// are back where they were. What SIP keeps for late retransmissions (64*T1) is
// waited for.
func TestFiveHundredCalls(t *testing.T) {
	calls, at := 500, 10
	if testing.Short() {
		calls = 50
	}
	g := start(t, func(c *call.Config) { c.Observer = nil })
	alice, bob, web := g.phoneUA("1001"), g.phoneUA("1002"), g.webUA("web1")
	answerer := newPhone(t, "bob", 0)
	stop := make(chan struct{})
	var answering sync.WaitGroup
	answering.Go(func() {
		for {
			select {
			case c := <-bob.incoming:
				c.respond(180, nil)
				c.respond(200, answerer.sdp("sendrecv", ulaw, te101))
			case <-stop:
				return
			}
		}
	})
	one := func(n int) {
		if n%10 == 0 {
			b := newBrowser(t, "web")
			c := web.dial("1002", b.offer())
			b.takeAnswer(c.answered().body)
			answerer.want(t, "0 web", 1)
			c.bye()
			b.close()
			c.forget()
			return
		}
		c := alice.dial("1002", answerer.sdp("sendrecv", ulaw, te101))
		c.answered()
		c.bye()
		c.forget()
	}
	run := func(n int) {
		work := make(chan int)
		var wg sync.WaitGroup
		for range at {
			wg.Go(func() {
				for i := range work {
					one(i)
				}
			})
		}
		for i := range n {
			work <- i
		}
		close(work)
		wg.Wait()
		g.waitIdle()
		g.quiet()
	}
	// Transactions stay for 64*T1, 32 s.
	settle := func(limit footprint) footprint {
		for end := time.Now().Add(40 * time.Second); ; time.Sleep(200 * time.Millisecond) {
			for _, u := range []*ua{alice, bob, web} {
				u.forgetAll()
			}
			now := measure(t)
			if now.goroutines <= limit.goroutines && now.files <= limit.files && now.heap <= limit.heap || time.Now().After(end) {
				return now
			}
		}
	}
	run(2 * at) // pools, caches and tables reach their size
	limit := measure(t)
	for steady := 0; steady < 10; time.Sleep(20 * time.Millisecond) {
		now := measure(t)
		if steady++; now.goroutines < limit.goroutines || now.files < limit.files {
			limit, steady = now, 0
		}
	}
	t.Logf("before: %+v", limit)
	run(calls)
	after := settle(footprint{limit.goroutines, limit.files, limit.heap + 2<<20})
	t.Logf("after %d calls: %+v", calls, after)
	if after.goroutines > limit.goroutines {
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines, %d before:\n%s", after.goroutines, limit.goroutines, buf[:runtime.Stack(buf, true)])
	}
	if after.files > limit.files {
		t.Errorf("%d files open, %d before", after.files, limit.files)
	}
	if after.heap > limit.heap+2<<20 {
		t.Errorf("heap %d KiB, %d before", after.heap>>10, limit.heap>>10)
	}
	if n := len(g.plane.Snapshot()); n != 0 {
		t.Errorf("%d flows are left in the data plane", n)
	}
	close(stop)
	answering.Wait()
}

// quiet drops what the gateway has logged.
func (g *gateway) quiet() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.log.Reset()
}

// forget drops a call that is over, and everything said about it.
func (c *uaCall) forget() {
	c.u.mu.Lock()
	defer c.u.mu.Unlock()
	delete(c.u.dialogs, c.id)
	delete(c.u.pending, c.invite.branch())
	close(c.over)
}

// forgetAll drops what a user agent that only answers has kept.
func (u *ua) forgetAll() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.dialogs, u.answered, u.pending = map[string]*uaCall{}, map[string][]byte{}, map[string]chan *message{}
	u.met = map[string]bool{}
	u.trace = bytes.Buffer{}
}
