package e2e

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/sluicegw/sluice/internal/ring"
)

// wire is a TCP relay between a browser and the gateway that can be cut.
type wire struct {
	listener net.Listener
	mu       sync.Mutex
	cut      bool
	conns    map[net.Conn]struct{}
}

func newWire(t testing.TB, g *gateway) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: l, conns: map[net.Conn]struct{}{}}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := dialIn(g.ns, "tcp", g.http.String())
			if err != nil || !w.add(near, far) {
				near.Close()
				if far != nil {
					far.Close()
				}
				continue
			}
			for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
				running.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					near.Close()
					far.Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		l.Close()
		w.sever()
		running.Wait()
	})
	return w
}

func (w *wire) url() string { return "http://" + w.listener.Addr().String() + "/" }

func (w *wire) add(conns ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return false
	}
	for _, c := range conns {
		w.conns[c] = struct{}{}
	}
	return true
}

// sever ends every connection and refuses new ones until mend.
func (w *wire) sever() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = true
	for c := range w.conns {
		c.Close()
	}
	clear(w.conns)
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = false
}

// The WebSocket breaks in mid-call while the media path stays: sound goes on,
// the phone signs in again by itself, and the call is still the user's.
func TestReconnectTakesCallBack(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{origins: []string{"http://127.0.0.1:*"}})
	cable := newWire(t, g)
	phone := newPhone(t, g.phone("phone1", tonePhoneA))
	w := openPhone(t, chromium, cable.url())
	w.signIn("web1", passwords["web1"])

	w.dial("phone1")
	phone.established()
	w.connected()
	w.hears(tonePhoneA, 20*time.Second)

	cable.sever()
	w.see("The connection to the gateway was lost", 10*time.Second)
	w.hears(tonePhoneA, 20*time.Second)
	phone.hears(toneBrowserA, 20*time.Second)
	cable.mend()
	w.see("web1@"+domain, 15*time.Second)
	w.hears(tonePhoneA, 20*time.Second)

	// Signalling works again in both directions within the old dialog.
	phone.hangUp()
	w.see("Call ended", 10*time.Second)

	w.dial("phone1")
	phone.established()
	w.connected()
	cable.sever()
	w.see("The connection to the gateway was lost", 10*time.Second)
	cable.mend()
	w.see("web1@"+domain, 15*time.Second)
	w.click("Hang up")
	phone.closed(5 * time.Second)
}

// The WebSocket stays away for half a minute: less than the minute the gateway
// grants and less than JsSIP, which gives up when its refresh at 45 s cannot be
// sent.
func TestSocketAwayForHalfAMinute(t *testing.T) {
	t.Parallel() // with the other long tests, after the short ones
	chromium := chromiumB(t)
	g := newGateway(t, gatewayConfig{origins: []string{"http://127.0.0.1:*"}})
	cable := newWire(t, g)
	phone := newPhone(t, g.phone("phone1", tonePhoneA))
	w := openPhone(t, chromium, cable.url())
	w.signIn("web1", passwords["web1"])
	w.dial("phone1")
	phone.established()
	w.connected()
	w.hears(tonePhoneA, 20*time.Second)

	cable.sever()
	for cut := time.Now(); time.Since(cut) < 28*time.Second; {
		phone.hears(toneBrowserB, 20*time.Second)
		w.hears(tonePhoneA, 20*time.Second)
	}
	cable.mend()
	w.see("web1@"+domain, 12*time.Second)
	phone.hears(toneBrowserB, 20*time.Second)
	phone.hangUp()
	w.see("Call ended", 10*time.Second)
}

// Leaving the page ends the call at once.
func TestReloadEndsCall(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	phone := newPhone(t, g.phone("phone1", tonePhoneA))
	w := web(t, g, chromium, "web1")
	w.dial("phone1")
	phone.established()
	w.connected()
	w.do("goto", map[string]any{"url": g.url()}, nil)
	phone.closed(5 * time.Second)
	w.see("Sign in", 10*time.Second)
}

// A browser that dies leaves no phone hanging.
func TestBrowserVanishes(t *testing.T) {
	t.Parallel() // with the other long tests, after the short ones
	ring.Needs(t, browserNeeds...)
	g := newGateway(t, gatewayConfig{})
	phone := newPhone(t, g.phone("phone1", tonePhoneA))
	mortal, err := launch("", toneBrowserB)
	if err != nil {
		t.Fatal(err)
	}
	w := openPhone(t, mortal, g.url())
	w.signIn("web1", passwords["web1"])
	w.dial("phone1")
	phone.established()
	w.connected()
	w.hears(tonePhoneA, 20*time.Second)

	mortal.vanish(t)
	died := time.Now()
	phone.closed(40 * time.Second)
	// Consent is missed after at most 3 s; 10 s later the call ends.
	if d := time.Since(died); d < 5*time.Second || d > 25*time.Second {
		t.Errorf("the phone was told after %v, want about 10 s after consent is gone", d.Round(time.Millisecond))
	}
}

// JsSIP's session timer sends UPDATE at 45 s and ends a call whose refresh
// fails. The call stands for three minutes with everything at its default.
func TestThreeMinutesWithDefaultSettings(t *testing.T) {
	t.Parallel() // with the other long tests, after the short ones
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	phone := newPhone(t, g.phone("phone2", tonePhoneB))
	w := openPage(t, chromium, g.url(), map[string]any{"width": 390, "height": 844})
	w.signIn("web2", passwords["web2"])
	w.dial("phone2")
	phone.established()
	w.connected()
	began := time.Now()
	for time.Since(began) < 3*time.Minute {
		w.hears(tonePhoneB, 20*time.Second)
		time.Sleep(5 * time.Second) // the length of the call is what is tested
	}
	w.see("Connected", time.Second)
	var log struct{ Frames []string }
	w.do("log", nil, &log)
	updates := 0
	for _, f := range log.Frames {
		if len(f) > 8 && f[:8] == "> UPDATE" {
			updates++
		}
	}
	if updates < 3 {
		t.Errorf("%d UPDATE requests in three minutes, want one in 45 s: the session timer was not tested", updates)
	}
	phone.hangUp()
	w.see("Call ended", 10*time.Second)
}
