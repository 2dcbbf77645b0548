package call

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// feed keeps consent and media of a media half coming until stop.
func feed(r *rig, m *media, consent, received bool) (stop func()) {
	ctx, cancel := context.WithCancel(r.Context())
	go func() {
		t := time.NewTicker(500 * time.Millisecond)
		defer t.Stop()
		for {
			m.set(func(h *Health) {
				if consent {
					h.Consent = time.Now()
				}
				if received {
					h.LastReceived = time.Now()
				}
			})
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	synctest.Wait()
	return cancel
}

// wantEnd waits until the call ends and checks how long that took.
func (r *rig) wantEnd(from time.Time, low, high time.Duration) {
	r.Helper()
	for r.m.Count() > 0 && time.Since(from) < 10*time.Minute {
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
	}
	if d := time.Since(from); d < low || d > high {
		r.Errorf("ended after %v, want %v to %v", d, low, high)
	}
}

func TestSocketAndConsentGone(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i, o := r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		defer feed(r, r.rtp.of("-b1"), false, true)()
		stop := feed(r, r.web.of("-a"), true, true)
		time.Sleep(3 * time.Minute)
		if r.m.Count() != 1 {
			r.Fatal("a living call was ended")
		}
		stop()
		gone := time.Now()
		i.dialog.h.OnFlow(false)
		r.wantEnd(gone, 9*time.Second, 11*time.Second+500*time.Millisecond)
		if o.dialog.byeCount() != 1 {
			t.Error("the phone is stuck in the call")
		}
		r.wantEnding(CauseSignallingLost, ByGateway, 408)
	})
}

func TestSocketGoneConsentAlive(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i, _ := r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		defer feed(r, r.rtp.of("-b1"), false, true)()
		defer feed(r, r.web.of("-a"), true, true)()
		gone := time.Now()
		i.dialog.h.OnFlow(false)
		synctest.Wait()
		if !r.m.Calls()[0].Legs[0].FlowDown {
			t.Error("the listing does not show it")
		}
		r.wantEnd(gone, 59*time.Second, 62*time.Second)
		r.wantEnding(CauseSignallingLost, ByGateway, 408)
	})
}

// Consent runs out while the socket is still away: 10 s from there.
func TestConsentEndsLater(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i, _ := r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		defer feed(r, r.rtp.of("-b1"), false, true)()
		stop := feed(r, r.web.of("-a"), true, true)
		gone := time.Now()
		i.dialog.h.OnFlow(false)
		time.Sleep(20 * time.Second)
		stop()
		r.wantEnd(gone, 28*time.Second, 32*time.Second)
	})
}

func TestReconnect(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i, o := r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		defer feed(r, r.rtp.of("-b1"), false, true)()
		defer feed(r, r.web.of("-a"), true, true)()
		for range 3 {
			i.dialog.h.OnFlow(false)
			time.Sleep(50 * time.Second)
			i.dialog.h.OnFlow(true)
			synctest.Wait()
		}
		time.Sleep(3 * time.Minute)
		if r.m.Count() != 1 {
			r.Fatalf("the call did not live on\n%s", r.log())
		}
		o.dialog.answers("audio recvonly PCMU te101")
		if _, code := i.dialog.sendReinvite(r, desc(5000, "audio sendonly PCMU te101")); code != 200 {
			t.Errorf("hold after the reconnect got %d", code)
		}
	})
}

// A phone's TCP connection may come and go.
func TestPhoneConnectionDoesNotMatter(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		_, o := r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		defer feed(r, r.rtp.of("-b1"), false, true)()
		defer feed(r, r.web.of("-a"), true, true)()
		o.dialog.h.OnFlow(false)
		time.Sleep(3 * time.Minute)
		if r.m.Count() != 1 {
			t.Errorf("the call was ended\n%s", r.log())
		}
	})
}

func TestBrowserSilent(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		defer feed(r, r.rtp.of("-b1"), false, true)()
		stop := feed(r, r.web.of("-a"), true, true)
		time.Sleep(time.Minute)
		stop()
		from := time.Now()
		r.wantEnd(from, 29*time.Second, 32*time.Second)
		r.wantEnding(CauseMediaTimeout, ByGateway, 408)
	})
}

// A browser that never brings its media up.
func TestMediaNeverEstablished(t *testing.T) {
	run(t, to(browser2), func(r *rig) {
		r.up(phone2, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		defer feed(r, r.rtp.of("-a"), false, true)()
		r.wantEnd(time.Now(), 29*time.Second, 32*time.Second)
		r.wantEnding(CauseMediaTimeout, ByGateway, 408)
	})
}

func TestBothPhonesSilent(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		_, o := r.up(phone2, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		r.wantEnd(time.Now(), 29*time.Second, 32*time.Second)
		r.wantEnding(CauseMediaTimeout, ByGateway, 408)
		if o.dialog.byeCount() != 1 {
			t.Error("no BYE")
		}
	})
}

// One phone is muted with silence suppression: it is asked, and lives.
func TestSilentPhoneIsAsked(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		_, o := r.up(phone2, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		defer feed(r, r.rtp.of("-a"), false, true)()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if r.m.Count() != 1 {
			r.Fatalf("the call was ended\n%s", r.log())
		}
		if n := o.dialog.pings; n < 3 || n > 5 {
			t.Errorf("%d OPTIONS in 2 minutes, want one each 30 s", n)
		}
		for _, code := range []int{500, 405} { // answers all the same
			o.dialog.mu.Lock()
			o.dialog.ping = func() error { return &ResponseError{Code: code} }
			o.dialog.mu.Unlock()
			time.Sleep(31 * time.Second)
		}
		if r.m.Count() != 1 {
			r.Fatal("any answer shows that it is there")
		}
		o.dialog.mu.Lock()
		o.dialog.ping = func() error { return &ResponseError{Code: 408} }
		o.dialog.mu.Unlock()
		r.wantEnd(time.Now(), 0, 31*time.Second)
		r.wantEnding(CauseDialogLost, ByCallee, 408)
	})
}

// On hold nobody sends, and nobody is hung up.
func TestHeldCallLives(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i, o := r.up(phone2, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		o.dialog.answers("audio inactive PCMU te101")
		i.dialog.sendReinvite(r, desc(5000, "audio inactive PCMU te101"))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if r.m.Count() != 1 {
			r.Fatalf("the held call was ended\n%s", r.log())
		}
		if i.dialog.pings == 0 || o.dialog.pings == 0 {
			t.Error("nobody asked whether the phones are still there")
		}
		// After the resume both have their 30 s to send.
		o.dialog.answers("audio sendrecv PCMU te101")
		if _, code := i.dialog.sendReinvite(r, pcmu); code != 200 {
			r.Fatal(code)
		}
		r.wantEnd(time.Now(), 29*time.Second, 32*time.Second)
	})
}

func TestMediaFails(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		_, o := r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		r.web.of("-a").o.Events.Failed(errors.New("dtls: fingerprint mismatch"))
		synctest.Wait()
		if o.dialog.byeCount() != 1 {
			t.Error("no BYE")
		}
		r.wantEnding(CauseMediaFailed, ByCaller, 500)
	})
	run(t, to(phone1), func(r *rig) {
		r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		r.web.of("-a").set(func(h *Health) { h.Failed = errors.New("ice failed") })
		r.wantEnd(time.Now(), 0, 2*time.Second)
		r.wantEnding(CauseMediaFailed, ByCaller, 500)
	})
	run(t, to(phone1), func(r *rig) {
		i := r.dial(browser1, pcmu)
		r.out(0).respond(183, desc(6000, "audio sendrecv PCMU te101"))
		synctest.Wait()
		r.web.of("-a").o.Events.Failed(errors.New("ice failed"))
		synctest.Wait()
		if _, _, code := i.state(); code != 500 {
			t.Errorf("the caller got %d", code)
		}
		if yes, _ := r.out(0).isCancelled(); !yes {
			t.Error("the callee still rings")
		}
	})
}

func TestDialogFails(t *testing.T) {
	sides(t, func(r *rig, near, far *dialog, _, _ *media) {
		near.h.OnFailed("session timer expired")
		synctest.Wait()
		if near.byeCount() != 0 || far.byeCount() != 1 {
			r.Errorf("BYEs: %d to the lost side, %d to the other", near.byeCount(), far.byeCount())
		}
		if e := r.ending(); e.Cause != CauseDialogLost || e.Detail != "session timer expired" {
			r.Errorf("ending %+v", e)
		}
	})
}
