package call

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicegw/sluice/dataplane"
)

func tag(t string) func(*Response) { return func(r *Response) { r.Tag = t } }

func TestForkFirstAnswerWins(t *testing.T) {
	run(t, to(browser2, phone1, phone2), func(r *rig) {
		i := r.dial(trunk1, desc(5000, "audio sendrecv PCMU PCMA te101"))
		for n := range 3 {
			r.out(n).respond(180, nil)
		}
		r.out(2).stubborn = true
		r.out(1).respond(200, desc(6000, "audio sendrecv PCMA te101"))
		synctest.Wait()
		for _, n := range []int{0, 2} {
			if yes, why := r.out(n).isCancelled(); !yes || !strings.Contains(why, "completed elsewhere") {
				t.Errorf("branch %d: cancelled %v, reason %q", n, yes, why)
			}
		}
		i.ack <- nil
		r.out(2).respond(200, desc(6100, "audio sendrecv PCMU"))
		synctest.Wait()
		if r.out(2).dialog.byeCount() != 1 {
			t.Error("the second answer was not hung up")
		}
		// What the loser still says must not touch the call.
		h := r.out(2).h
		if _, code := h.OnReinvite(r.Context(), phoneAnswer); code != 481 {
			t.Errorf("its re-INVITE got %d", code)
		}
		if code := h.OnInfo(r.Context(), "text/plain", nil); code != 481 {
			t.Errorf("its INFO got %d", code)
		}
		h.OnAck(phoneAnswer)
		h.OnFlow(false)
		h.OnFailed("")
		h.OnBye("")
		synctest.Wait()
		if c := r.m.Calls(); len(c) != 1 || c[0].Stage != StageConnected || c[0].Forks != 3 {
			t.Fatalf("the call: %+v", c)
		}
		if m := r.engine.between(r.rtp.of("-a"), r.rtp.of("-b2"), 0); m == nil || m[8] != 8 {
			t.Errorf("joined with %v", m)
		}
		if p, _, _ := i.state(); len(p) != 1 {
			t.Errorf("progress %q, want one 180 for all", p)
		}
		if !r.rtp.of("-b3").isClosed() || !r.web.of("-b1").isClosed() {
			t.Error("media of the losers is still open")
		}
	})
}

func TestForkBestResponse(t *testing.T) {
	for _, tc := range []struct {
		codes [3]int
		want  int
	}{
		{[3]int{404, 486, 480}, 486},
		{[3]int{503, 480, 500}, 480},
		{[3]int{503, 500, 503}, 500},
		{[3]int{408, 404, 408}, 404},
		{[3]int{407, 408, 408}, 500},
		{[3]int{302, 486, 404}, 486},
		{[3]int{488, 480, 404}, 488},
		{[3]int{603, 486, 486}, 603},
	} {
		run(t, to(browser2, phone1, phone2), func(r *rig) {
			i := r.dial(trunk1, webOffer)
			for n, code := range tc.codes {
				if n == 2 {
					if _, _, got := i.state(); got != 0 && code != 603 && tc.codes[0] < 600 {
						t.Errorf("%v: decided before all had answered", tc.codes)
					}
				}
				r.out(n).respond(code, nil)
				synctest.Wait()
			}
			if _, _, got := i.state(); got != tc.want {
				t.Errorf("%v: the caller got %d, want %d", tc.codes, got, tc.want)
			}
		})
	}
}

func TestForkDeclinedForAll(t *testing.T) {
	run(t, to(browser2, phone1), func(r *rig) {
		i := r.dial(trunk1, webOffer)
		r.out(1).respond(603, nil)
		synctest.Wait()
		if yes, _ := r.out(0).isCancelled(); !yes {
			t.Error("a 6xx speaks for all, the other branch still rings")
		}
		if _, _, code := i.state(); code != 603 {
			t.Errorf("the caller got %d", code)
		}
	})
}

// A branch that answers with what nobody can use leaves the others ringing.
func TestForkUnusableAnswer(t *testing.T) {
	run(t, to(phone1, phone2), func(r *rig) {
		i := r.dial(browser1, webOffer)
		r.out(0).respond(200, desc(6000, "audio sendrecv G729"))
		synctest.Wait()
		if r.out(0).dialog.byeCount() != 1 {
			t.Error("the unusable answer was not hung up")
		}
		r.out(1).respond(200, phoneAnswer)
		synctest.Wait()
		i.ack <- nil
		time.Sleep(settleDelay)
		synctest.Wait()
		if c := r.m.Calls(); len(c) != 1 || c[0].Stage != StageConnected {
			t.Errorf("the call: %+v", c)
		}
	})
}

func TestEarlyMediaThenSameCallee(t *testing.T) {
	for name, final := range map[string][]byte{"same SDP": phoneAnswer, "no SDP": nil} {
		t.Run(name, func(t *testing.T) {
			run(t, to(phone1), func(r *rig) {
				i := r.dial(browser1, webOffer)
				o := r.out(0)
				o.respond(183, phoneAnswer)
				o.respond(183, phoneAnswer)
				synctest.Wait()
				p, _, _ := i.state()
				if len(p) != 1 || !strings.HasPrefix(p[0], "183 v=0") {
					t.Fatalf("progress %q", p)
				}
				r.wantSDP("183", []byte(p[0][4:]), "audio sendrecv PCMA te126")
				if r.engine.between(r.web.of("-a"), r.rtp.of("-b1"), 0) == nil {
					t.Error("early media is not joined")
				}
				joins := r.engine.joins
				o.respond(200, final)
				synctest.Wait()
				_, accepted, _ := i.state()
				if string(accepted) != p[0][4:] {
					t.Errorf("the 200 differs from the 183:\n%s\n%s", accepted, p[0][4:])
				}
				i.ack <- nil
				time.Sleep(settleDelay)
				synctest.Wait()
				if i.dialog.reinviteCount() != 0 || r.engine.joins != joins {
					t.Errorf("%d re-INVITEs, %d more joins; nothing changed", i.dialog.reinviteCount(), r.engine.joins-joins)
				}
				if got, want := r.stages(), "invite, routed, early, answered, connected"; got != want {
					t.Errorf("stages %s, want %s", got, want)
				}
			})
		})
	}
}

// Early media of one callee is heard, another answers with another codec: the
// caller's SDP stays as it was in the 183, a re-INVITE settles the difference.
func TestEarlyMediaThenOtherCallee(t *testing.T) {
	run(t, to(phone1, browser2), func(r *rig) {
		i := r.dial(browser1, webOffer)
		r.out(0).respond(183, desc(6000, "audio sendonly PCMU"))
		synctest.Wait()
		r.out(1).respond(180, nil)
		synctest.Wait()
		p, _, _ := i.state()
		if len(p) != 1 {
			t.Fatalf("progress %q: ringing must not cut off what is heard", p)
		}
		r.out(1).respond(200, desc(6100, "audio sendrecv opus te126"))
		synctest.Wait()
		_, accepted, _ := i.state()
		if string(accepted) != p[0][4:] {
			t.Error("the 200 differs from the 183")
		}
		if yes, _ := r.out(0).isCancelled(); !yes {
			t.Error("the announcement goes on")
		}
		i.ack <- nil
		time.Sleep(settleDelay)
		synctest.Wait()
		r.wantSDP("settling", i.dialog.lastReinvite(), "audio sendrecv opus te126")
	})
}

func TestSettledAfterFork(t *testing.T) {
	for name, tc := range map[string]struct {
		answer func(context.Context, []byte) ([]byte, error)
		up     bool
	}{
		"taken": {func(context.Context, []byte) ([]byte, error) {
			return desc(5000, "audio sendrecv opus te126"), nil
		}, true},
		"refused":  {func(context.Context, []byte) ([]byte, error) { return nil, &ResponseError{488, "no"} }, false},
		"no codec": {func(context.Context, []byte) ([]byte, error) { return desc(5000, "audio sendrecv G729"), nil }, false},
		"gone":     {func(context.Context, []byte) ([]byte, error) { return nil, &ResponseError{481, "gone"} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, to(phone1, browser2), func(r *rig) {
				i := r.dial(browser1, webOffer)
				i.reinvite = tc.answer
				r.out(0).respond(183, desc(6000, "audio sendonly PCMU"))
				synctest.Wait()
				r.out(1).respond(200, desc(6100, "audio sendrecv opus te126"))
				synctest.Wait()
				i.ack <- nil
				time.Sleep(settleDelay)
				synctest.Wait()
				m := r.engine.between(r.web.of("-a"), r.web.of("-b2"), 0)
				if tc.up {
					if m == nil || m[111] != 111 || m[0] != dataplane.PayloadDrop {
						t.Errorf("joined with %v", m)
					}
					if i.dialog.reinviteCount() != 1 {
						t.Errorf("%d re-INVITEs, want 1", i.dialog.reinviteCount())
					}
					time.Sleep(time.Minute / 4)
					synctest.Wait()
					if n := i.dialog.reinviteCount() + r.out(1).dialog.reinviteCount(); n != 1 {
						t.Errorf("%d re-INVITEs after a while, want 1", n)
					}
					return
				}
				if i.dialog.byeCount()+r.out(1).dialog.byeCount() == 0 {
					t.Error("a call without a common codec goes on in silence")
				}
			})
		})
	}
}

// The announcement ends with a failure, then the next branch is heard.
func TestEarlyMediaMovesOn(t *testing.T) {
	run(t, to(phone1, phone2), func(r *rig) {
		i := r.dial(browser1, webOffer)
		r.out(0).respond(183, desc(6000, "audio sendonly PCMU"))
		synctest.Wait()
		r.out(1).respond(183, desc(6100, "audio sendrecv PCMU"))
		synctest.Wait()
		a, b1, b2 := r.web.of("-a"), r.rtp.of("-b1"), r.rtp.of("-b2")
		if r.engine.between(a, b1, 0) == nil || r.engine.between(a, b2, 0) != nil {
			t.Error("the first that speaks is heard, and only that")
		}
		r.out(0).respond(404, nil)
		synctest.Wait()
		if r.engine.between(a, b2, 0) == nil {
			t.Error("the second is not heard after the first has failed")
		}
		if p, _, code := i.state(); len(p) != 1 || code != 0 {
			t.Errorf("progress %q, final %d", p, code)
		}
		r.out(1).respond(200, desc(6100, "audio sendrecv PCMU"))
		synctest.Wait()
		i.ack <- nil
		time.Sleep(settleDelay)
		synctest.Wait()
		// The caller was told sendonly by the announcement.
		r.wantSDP("settling", i.dialog.lastReinvite(), "audio sendrecv PCMU")
	})
}

// A proxy behind a trunk forks: several early dialogs on one INVITE.
func TestEarlyDialogs(t *testing.T) {
	run(t, to(trunk1), func(r *rig) {
		i := r.dial(browser1, webOffer)
		o := r.out(0)
		o.respond(183, desc(6000, "audio sendrecv PCMU"), tag("one"))
		o.respond(183, desc(6200, "audio sendrecv PCMU PCMA"), tag("two"))
		synctest.Wait()
		if p, _, _ := i.state(); len(p) != 1 {
			t.Errorf("%d provisionals with SDP, want 1: the caller takes the first for final", len(p))
		}
		o.respond(200, nil, tag("one"))
		synctest.Wait()
		i.ack <- nil
		time.Sleep(settleDelay)
		synctest.Wait()
		if m := r.engine.between(r.web.of("-a"), r.rtp.of("-b1"), 0); m == nil || m[0] != 0 || m[8] != dataplane.PayloadDrop {
			t.Errorf("joined with %v", m)
		}
	})
}

func TestEarlyDialogsBounded(t *testing.T) {
	run(t, to(trunk1), func(r *rig) {
		r.dial(browser1, webOffer)
		for n := range 100 {
			r.out(0).respond(183, desc(6000+2*n, "audio sendrecv PCMU"), tag(strings.Repeat("x", n+1)))
			synctest.Wait()
		}
		c := r.m.all()[0]
		r.m.Detail(r.Context(), c.id)
		if n := len(c.callees[0].earlySDP); n > maxEarly {
			t.Errorf("%d early dialogs are remembered", n)
		}
	})
}

func TestRingingWithSDP(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i := r.dial(browser1, webOffer)
		r.out(0).respond(180, phoneAnswer)
		synctest.Wait()
		if p, _, _ := i.state(); len(p) != 1 || !strings.HasPrefix(p[0], "180 v=0") {
			t.Errorf("progress %q", p)
		}
		// Ringing after early media of the same callee is news to the caller.
	})
	run(t, to(phone1), func(r *rig) {
		i := r.dial(browser1, webOffer)
		r.out(0).respond(183, phoneAnswer)
		synctest.Wait()
		r.out(0).respond(180, nil)
		synctest.Wait()
		if p, _, _ := i.state(); len(p) != 2 || p[1] != "180" {
			t.Errorf("progress %q", p)
		}
	})
}

func TestUnusableEarlyMediaStillRings(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i := r.dial(browser1, webOffer)
		r.out(0).respond(180, []byte("rubbish"))
		synctest.Wait()
		if p, _, _ := i.state(); len(p) != 1 || p[0] != "180" {
			t.Errorf("progress %q", p)
		}
	})
}

func TestMediaOfBranchFails(t *testing.T) {
	run(t, to(browser2, phone1), func(r *rig) {
		i := r.dial(phone2, phoneAnswer)
		r.web.of("-b1").o.Events.Failed(context.DeadlineExceeded)
		synctest.Wait()
		if yes, _ := r.out(0).isCancelled(); !yes {
			t.Error("the branch whose media failed still rings")
		}
		if _, _, code := i.state(); code != 0 {
			t.Errorf("the caller got %d although a branch is left", code)
		}
		r.out(1).respond(486, nil)
		synctest.Wait()
		if _, _, code := i.state(); code != 486 {
			t.Errorf("the caller got %d", code)
		}
	})
}
