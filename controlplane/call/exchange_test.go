package call

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicegw/sluice/dataplane"
)

var pcmu = desc(5000, "audio sendrecv PCMU te101")

// reinvite is a re-INVITE of the far end, answered.
func (d *dialog) sendReinvite(r *rig, offer []byte) (body []byte, code int) {
	r.Helper()
	done := make(chan struct{})
	go func() {
		body, code = d.h.OnReinvite(r.Context(), offer)
		close(done)
	}()
	<-done
	synctest.Wait()
	return body, code
}

// sides runs f once with the caller and once with the callee as the near side.
func sides(t *testing.T, f func(r *rig, near, far *dialog, nearMedia, farMedia *media)) {
	for _, name := range []string{"caller", "callee"} {
		t.Run(name, func(t *testing.T) {
			run(t, to(phone1), func(r *rig) {
				i, o := r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
				if name == "caller" {
					f(r, i.dialog, o.dialog, r.web.of("-a"), r.rtp.of("-b1"))
				} else {
					f(r, o.dialog, i.dialog, r.rtp.of("-b1"), r.web.of("-a"))
				}
			})
		})
	}
}

func TestHoldAndResume(t *testing.T) {
	sides(t, func(r *rig, near, far *dialog, _, _ *media) {
		for _, tc := range []struct{ offer, toFar, answer, back, stage string }{
			{"sendonly", "sendonly", "recvonly", "recvonly", "held"},
			{"sendrecv", "sendrecv", "sendrecv", "sendrecv", "resumed"},
			{"inactive", "inactive", "inactive", "inactive", "held"},
			{"sendrecv", "sendrecv", "sendrecv", "sendrecv", "resumed"},
		} {
			far.answers("audio " + tc.answer + " PCMU te101")
			body, code := near.sendReinvite(r, desc(5000, "audio "+tc.offer+" PCMU te101"))
			if code != 200 {
				r.Fatalf("%s: %d\n%s", tc.offer, code, r.log())
			}
			r.wantSDP("to the far side", far.lastReinvite(), "audio "+tc.toFar+" PCMU te101")
			r.wantSDP("back", body, "audio "+tc.back+" PCMU te101")
			if got := r.events[len(r.events)-1]; string(got.Stage) != tc.stage {
				r.Errorf("after %s: stage %s, want %s", tc.offer, got.Stage, tc.stage)
			}
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if n := near.reinviteCount(); n != 0 {
			r.Errorf("%d re-INVITEs to the side that asked", n)
		}
	})
}

// Both hold; one resumes and must not resume the other's hold.
func TestBothHold(t *testing.T) {
	sides(t, func(r *rig, near, far *dialog, _, _ *media) {
		far.answers("audio recvonly PCMU te101")
		near.sendReinvite(r, desc(5000, "audio sendonly PCMU te101"))
		near.answers("audio inactive PCMU te101")
		if body, code := far.sendReinvite(r, desc(6000, "audio inactive PCMU te101")); code != 200 {
			r.Fatalf("the second hold: %d %s", code, body)
		}
		if c := r.m.Calls()[0]; len(c.HeldBy) != 2 {
			r.Errorf("held by %v", c.HeldBy)
		}
		far.answers("audio sendonly PCMU te101")
		body, code := near.sendReinvite(r, pcmu)
		if code != 200 {
			r.Fatal(code)
		}
		r.wantSDP("resume of one side", body, "audio sendonly PCMU te101")
		if c := r.m.Calls()[0]; len(c.HeldBy) != 1 {
			r.Errorf("held by %v", c.HeldBy)
		}
	})
}

func TestCodecChange(t *testing.T) {
	sides(t, func(r *rig, near, far *dialog, nm, fm *media) {
		far.answers("audio sendrecv PCMA te101")
		body, code := near.sendReinvite(r, desc(5000, "audio sendrecv PCMA te101"))
		if code != 200 {
			r.Fatal(code)
		}
		r.wantSDP("to the far side", far.lastReinvite(), "audio sendrecv PCMA te101")
		r.wantSDP("back", body, "audio sendrecv PCMA te101")
		if m := r.engine.between(nm, fm, 0); m == nil || m[8] != 8 || m[0] != dataplane.PayloadDrop {
			r.Errorf("joined with %v", m)
		}
		if c := r.m.Calls()[0]; c.Legs[0].Lines[0].Codec != "PCMA" || c.Exchanges != 1 {
			r.Errorf("listing: %+v", c)
		}
	})
}

// A refresh, or a new address or key of one side, is its own affair.
func TestTransportChangeStaysLocal(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i, o := r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		for _, d := range []*dialog{i.dialog, o.dialog} {
			body, code := d.sendReinvite(r, desc(7000, "audio sendrecv PCMU te101"))
			if code != 200 {
				r.Fatal(code)
			}
			r.wantSDP("answer", body, "audio sendrecv PCMU te101")
		}
		if i.dialog.reinviteCount()+o.dialog.reinviteCount() != 0 {
			t.Error("the far side was bothered")
		}
		if r.engine.between(r.web.of("-a"), r.rtp.of("-b1"), 0) == nil {
			t.Error("no longer joined")
		}
	})
}

func TestReinviteRefusedByFarSide(t *testing.T) {
	for code, want := range map[int]int{488: 488, 491: 491, 500: 500, 403: 403, 401: 403, 503: 503, 606: 606, 415: 415} {
		sides(t, func(r *rig, near, far *dialog, nm, fm *media) {
			before := r.m.Calls()[0]
			far.onReinvite(func(context.Context, []byte) ([]byte, error) { return nil, &ResponseError{Code: code} })
			_, got := near.sendReinvite(r, desc(5000, "audio sendonly PCMA te101"))
			if got != want {
				r.Errorf("far side said %d, near side got %d, want %d", code, got, want)
			}
			if nm.rollbacks != 1 || fm.rollbacks != 1 {
				r.Errorf("rolled back %d and %d times", nm.rollbacks, fm.rollbacks)
			}
			time.Sleep(5 * time.Second)
			synctest.Wait()
			after := r.m.Calls()[0]
			if len(after.HeldBy) != 0 || after.Exchanges != before.Exchanges || after.Legs[0].Lines[0] != before.Legs[0].Lines[0] ||
				near.reinviteCount() != 0 || far.reinviteCount() != 1 {
				r.Errorf("the old state is not kept: %+v", after)
			}
			if m := r.engine.between(nm, fm, 0); m == nil || m[0] != 0 {
				r.Errorf("joined with %v", m)
			}
			// And the next one works.
			far.answers("audio recvonly PCMU te101")
			if _, code := near.sendReinvite(r, desc(5000, "audio sendonly PCMU te101")); code != 200 {
				r.Errorf("the next re-INVITE got %d", code)
			}
		})
	}
}

func TestReinviteFindsFarSideGone(t *testing.T) {
	for _, code := range []int{481, 408} {
		sides(t, func(r *rig, near, far *dialog, _, _ *media) {
			far.onReinvite(func(context.Context, []byte) ([]byte, error) { return nil, &ResponseError{Code: code} })
			if _, got := near.sendReinvite(r, desc(5000, "audio sendonly PCMU te101")); got != 500 {
				r.Errorf("got %d", got)
			}
			if near.byeCount() != 1 {
				r.Error("the near side is left alone in the call")
			}
			if e := r.ending(); e.Cause != CauseDialogLost {
				r.Errorf("ended by %s", e.Cause)
			}
		})
	}
}

func TestGlare(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i, o := r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		release := make(chan struct{})
		o.dialog.onReinvite(func(ctx context.Context, _ []byte) ([]byte, error) {
			<-release
			return desc(6000, "audio recvonly PCMU te101"), nil
		})
		first := make(chan int, 1)
		go func() {
			_, code := i.dialog.h.OnReinvite(r.Context(), desc(5000, "audio sendonly PCMU te101"))
			first <- code
		}()
		synctest.Wait()
		for _, d := range []*dialog{o.dialog, i.dialog} {
			if _, code := d.sendReinvite(r, desc(6000, "audio sendonly PCMU te101")); code != 491 {
				t.Errorf("a re-INVITE that crosses another got %d, want 491", code)
			}
		}
		close(release)
		if code := <-first; code != 200 {
			t.Errorf("the first got %d", code)
		}
	})
}

func TestReinviteBeforeAck(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i := r.dial(browser1, pcmu)
		o := r.out(0)
		o.respond(200, desc(6000, "audio sendrecv PCMU te101"))
		synctest.Wait()
		if _, code := o.dialog.sendReinvite(r, desc(6000, "audio sendonly PCMU")); code != 491 {
			t.Errorf("before the caller's ACK: %d, want 491", code)
		}
		i.ack <- nil
		synctest.Wait()
	})
}

func TestReinviteBadSDP(t *testing.T) {
	sides(t, func(r *rig, near, far *dialog, nm, fm *media) {
		for offer, want := range map[string]int{
			"rubbish":                                 400,
			string(desc(5000)):                        488,
			string(desc(5000, "audio rejected")):      488,
			string(desc(5000, "audio sendrecv G729")): 488, // by the far side
		} {
			if _, code := near.sendReinvite(r, []byte(offer)); code != want {
				r.Errorf("%q: %d, want %d", offer, code, want)
			}
		}
		if r.engine.between(nm, fm, 0) == nil {
			r.Error("no longer joined")
		}
	})
}

// The far side answers 200 with a codec that was not offered: the near side is
// refused, the far side brought back.
func TestReinviteAnsweredWithNonsense(t *testing.T) {
	sides(t, func(r *rig, near, far *dialog, nm, fm *media) {
		far.onReinvite(func(context.Context, []byte) ([]byte, error) {
			far.answers("audio sendrecv PCMU te101")
			return []byte("rubbish"), nil
		})
		if _, code := near.sendReinvite(r, desc(5000, "audio sendonly PCMU te101")); code != 400 && code != 488 {
			r.Errorf("got %d", code)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if far.reinviteCount() != 2 {
			r.Fatalf("%d re-INVITEs to the far side, want a second that restores it\n%s", far.reinviteCount(), r.log())
		}
		r.wantSDP("restoring", far.lastReinvite(), "audio sendrecv PCMU te101")
		if m := r.engine.between(nm, fm, 0); m == nil || m[0] != 0 {
			r.Errorf("joined with %v", m)
		}
	})
}

func TestDelayedReinvite(t *testing.T) {
	sides(t, func(r *rig, near, far *dialog, nm, fm *media) {
		// Hold, then resume without SDP, as some PBXs do.
		far.answers("audio recvonly PCMU te101")
		near.sendReinvite(r, desc(5000, "audio sendonly PCMU te101"))
		far.answers("audio sendrecv PCMU te101")
		body, code := near.sendReinvite(r, nil)
		if code != 200 {
			r.Fatal(code)
		}
		r.wantSDP("our offer", body, "audio sendrecv PCMU te101")
		if _, code := far.sendReinvite(r, desc(6000, "audio sendonly PCMU te101")); code != 491 {
			r.Errorf("crossing an offer of ours: %d, want 491", code)
		}
		near.h.OnAck(desc(5000, "audio sendrecv PCMU te101"))
		synctest.Wait()
		r.wantSDP("to the far side", far.lastReinvite(), "audio sendrecv PCMU te101")
		if far.reinviteCount() != 2 || near.reinviteCount() != 0 {
			r.Errorf("re-INVITEs: far %d, near %d", far.reinviteCount(), near.reinviteCount())
		}
		if c := r.m.Calls()[0]; len(c.HeldBy) != 0 {
			r.Errorf("still held by %v", c.HeldBy)
		}
	})
}

func TestDelayedReinviteNeverAnswered(t *testing.T) {
	sides(t, func(r *rig, near, far *dialog, nm, fm *media) {
		if _, code := near.sendReinvite(r, nil); code != 200 {
			r.Fatal(code)
		}
		keepAlive(r)
		time.Sleep(36 * time.Second)
		synctest.Wait()
		if nm.rollbacks != 1 {
			r.Errorf("rolled back %d times", nm.rollbacks)
		}
		far.answers("audio recvonly PCMU te101")
		if _, code := near.sendReinvite(r, desc(5000, "audio sendonly PCMU te101")); code != 200 {
			r.Errorf("the next re-INVITE got %d", code)
		}
	})
}

// The wait for one ACK ends with that ACK: it does not end the next one's, nor
// do waits pile up over a call that is refreshed without SDP.
func TestDelayedReinviteAgain(t *testing.T) {
	sides(t, func(r *rig, near, far *dialog, nm, fm *media) {
		keepAlive(r)
		timers := func() (n int) {
			if !r.m.all()[0].ask(r.Context(), func() { n = len(r.m.all()[0].timers) }) {
				r.Fatal("the call is over")
			}
			return n
		}
		before := timers()
		for range 20 {
			if _, code := near.sendReinvite(r, nil); code != 200 {
				r.Fatal(code)
			}
			// Just in time for this one, too late for the one before.
			time.Sleep(30 * time.Second)
			near.h.OnAck(desc(5000, "audio sendrecv PCMU te101"))
			synctest.Wait()
			if n := timers(); n > before {
				r.Fatalf("%d timers, there were %d", n, before)
			}
		}
		if nm.rollbacks != 0 {
			r.Errorf("rolled back %d times", nm.rollbacks)
		}
	})
}

// keepAlive lets media arrive on every leg for ever.
func keepAlive(r *rig) {
	for _, f := range []*factory{r.web, r.rtp} {
		for _, m := range f.all() {
			m.set(func(h *Health) { h.LastReceived = time.Now().Add(24 * time.Hour); h.Consent = h.LastReceived })
		}
	}
}

func TestVideoComesAndGoes(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i, o := r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		o.dialog.answers("audio sendrecv PCMU te101", "video sendrecv H264")
		body, code := i.dialog.sendReinvite(r, desc(5000, "audio sendrecv PCMU te101", "video sendrecv VP8 H264"))
		if code != 200 {
			r.Fatal(code)
		}
		r.wantSDP("to the phone", o.dialog.lastReinvite(), "audio sendrecv PCMU te101, video sendrecv VP8 H264")
		r.wantSDP("to the browser", body, "audio sendrecv PCMU te101, video sendrecv H264")
		a, b := r.web.of("-a"), r.rtp.of("-b1")
		if r.engine.between(a, b, 1) == nil {
			t.Error("video is not joined")
		}
		o.dialog.answers("audio sendrecv PCMU te101", "video rejected")
		body, code = i.dialog.sendReinvite(r, desc(5000, "audio sendrecv PCMU te101", "video rejected"))
		if code != 200 {
			r.Fatal(code)
		}
		r.wantSDP("to the browser", body, "audio sendrecv PCMU te101, video rejected")
		if r.engine.count() != 2 {
			t.Errorf("%d lines joined, want the two of audio", r.engine.count())
		}
	})
}

func TestVideoRefusedByCallee(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i := r.dial(browser1, desc(5000, "audio sendrecv PCMU te101", "video sendrecv H264"))
		r.wantSDP("offer", r.out(0).offer, "audio sendrecv PCMU te101, video sendrecv H264")
		r.out(0).respond(200, desc(6000, "audio sendrecv PCMU te101", "video rejected"))
		synctest.Wait()
		_, accepted, _ := i.state()
		r.wantSDP("answer", accepted, "audio sendrecv PCMU te101, video rejected")
		i.ack <- nil
		synctest.Wait()
	})
}

func TestByeDuringReinvite(t *testing.T) {
	sides(t, func(r *rig, near, far *dialog, _, _ *media) {
		far.onReinvite(func(ctx context.Context, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		got := make(chan int, 1)
		go func() {
			_, code := near.h.OnReinvite(r.Context(), desc(5000, "audio sendonly PCMU te101"))
			got <- code
		}()
		synctest.Wait()
		far.h.OnBye("")
		if code := <-got; code != 481 {
			r.Errorf("the re-INVITE got %d, want 481", code)
		}
		synctest.Wait()
		if near.byeCount() != 1 {
			r.Error("no BYE to the near side")
		}
	})
}

func TestAfterTheEnd(t *testing.T) {
	sides(t, func(r *rig, near, far *dialog, _, _ *media) {
		near.h.OnBye("")
		synctest.Wait()
		if _, code := far.h.OnReinvite(r.Context(), pcmu); code != 481 {
			r.Errorf("re-INVITE got %d", code)
		}
		if code := far.h.OnInfo(r.Context(), "text/plain", nil); code != 481 {
			r.Errorf("INFO got %d", code)
		}
		far.h.OnBye("")
		far.h.OnFlow(false)
		far.h.OnFailed("")
		far.h.OnAck(nil)
	})
}

func TestInfo(t *testing.T) {
	sides(t, func(r *rig, near, far *dialog, _, fm *media) {
		if code := near.h.OnInfo(r.Context(), "application/dtmf-relay", []byte("Signal=5")); code != 200 {
			r.Errorf("INFO got %d", code)
		}
		if len(far.infos) != 1 || far.infos[0] != "application/dtmf-relay Signal=5" {
			r.Errorf("the far side got %q", far.infos)
		}
		far.info = func(string) error { return &ResponseError{Code: 415} }
		if code := near.h.OnInfo(r.Context(), "text/plain", nil); code != 415 {
			r.Errorf("refused INFO got %d", code)
		}
		far.info = func(string) error { return errors.New("broken") }
		if code := near.h.OnInfo(r.Context(), "text/plain", nil); code != 500 {
			r.Errorf("broken INFO got %d", code)
		}
	})
}

func TestKeyframeRequests(t *testing.T) {
	av := []string{"audio sendrecv PCMU te101", "video sendrecv H264"}
	run(t, to(phone1), func(r *rig) {
		i, o := r.up(browser1, desc(5000, av...), desc(6000, av...))
		// The phone asks by INFO, the browser is asked by RTCP.
		if code := o.dialog.h.OnInfo(r.Context(), "application/media_control+xml; charset=utf-8", []byte(fastUpdate)); code != 200 {
			t.Errorf("RFC 5168 INFO got %d", code)
		}
		if r.engine.keyframes != 1 || len(i.dialog.infos) != 0 {
			t.Errorf("key frames asked of the engine %d, INFOs to the browser %q", r.engine.keyframes, i.dialog.infos)
		}
		// The browser asks by RTCP, the phone is asked by INFO, once a second.
		b := r.rtp.of("-b1")
		for range 3 {
			b.o.Events.KeyframeRequest(1)
		}
		synctest.Wait()
		if len(o.dialog.infos) != 1 || o.dialog.infos[0] != mediaControl+" "+fastUpdate {
			t.Errorf("the phone got %q", o.dialog.infos)
		}
		time.Sleep(time.Second)
		o.dialog.info = func(string) error { return &ResponseError{Code: 481} }
		b.o.Events.KeyframeRequest(1)
		synctest.Wait()
		if len(o.dialog.infos) != 2 {
			t.Errorf("%d INFOs after a second, want 2", len(o.dialog.infos))
		}
	})
	run(t, to(phone1), func(r *rig) {
		_, o := r.up(phone2, desc(5000, av...), desc(6000, av...))
		if code := o.dialog.h.OnInfo(r.Context(), mediaControl, []byte(fastUpdate)); code != 200 {
			t.Errorf("got %d", code)
		}
		if r.engine.keyframes != 0 {
			t.Error("a phone is asked by INFO, not by RTCP")
		}
	})
}

// The near side gives its re-INVITE up while the far side thinks about it: what
// was before stands, and the far side is brought back to it.
func TestReinviteCancelled(t *testing.T) {
	sides(t, func(r *rig, near, far *dialog, nm, _ *media) {
		release := make(chan struct{})
		far.onReinvite(func(context.Context, []byte) ([]byte, error) {
			far.answers("audio sendrecv PCMU te101")
			<-release
			return desc(6000, "audio recvonly PCMU te101"), nil
		})
		ctx, cancel := context.WithCancel(r.Context())
		got := make(chan int, 1)
		go func() {
			_, code := near.h.OnReinvite(ctx, desc(5000, "audio sendonly PCMU te101"))
			got <- code
		}()
		synctest.Wait()
		cancel()
		if code := <-got; code != 487 {
			r.Errorf("got %d", code)
		}
		close(release)
		time.Sleep(time.Second)
		synctest.Wait()
		if far.reinviteCount() != 2 {
			r.Fatalf("%d re-INVITEs to the far side, want a second that resumes it", far.reinviteCount())
		}
		r.wantSDP("resuming", far.lastReinvite(), "audio sendrecv PCMU te101")
		if len(r.m.Calls()[0].HeldBy) != 0 || nm.rollbacks != 1 {
			r.Errorf("held by %v, %d rollbacks", r.m.Calls()[0].HeldBy, nm.rollbacks)
		}
	})
}

func TestPhoneMoves(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		_, o := r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		moved := phone1
		moved.Source = phone2.Source
		o.dialog.mu.Lock()
		o.dialog.party = moved
		o.dialog.mu.Unlock()
		if _, code := o.dialog.sendReinvite(r, desc(7000, "audio sendrecv PCMU te101")); code != 200 {
			r.Fatal(code)
		}
		if got := r.rtp.of("-b1").source; got != moved.Source {
			r.Errorf("the media half knows of %v", got)
		}
	})
}

func TestInfosAreBounded(t *testing.T) {
	sides(t, func(r *rig, near, far *dialog, _, _ *media) {
		release := make(chan struct{})
		far.info = func(string) error { <-release; return nil }
		codes := make(chan int, maxInfos+4)
		for range maxInfos + 4 {
			go func() { codes <- near.h.OnInfo(r.Context(), "text/plain", nil) }()
		}
		synctest.Wait()
		close(release)
		n := map[int]int{}
		for range maxInfos + 4 {
			n[<-codes]++
		}
		if n[200] != maxInfos || n[503] != 4 {
			r.Errorf("codes %v", n)
		}
	})
}

// A fault in one call ends that call; the others live.
func TestFaultIsContained(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		i, o := r.up(phone2, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		r.engine.fault, r.faulty = true, true
		o.dialog.answers("audio sendrecv PCMA te101")
		go i.dialog.h.OnReinvite(r.Context(), desc(5000, "audio sendrecv PCMA te101"))
		synctest.Wait()
		r.engine.fault = false
		if r.m.Count() != 1 || i.dialog.byeCount() != 1 || o.dialog.byeCount() != 1 {
			r.Errorf("%d calls, BYEs %d and %d", r.m.Count(), i.dialog.byeCount(), o.dialog.byeCount())
		}
		r.wantEnding(CauseError, ByGateway, 500)
	})
}
