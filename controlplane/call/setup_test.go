package call

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicegw/sluice/dataplane"
)

var (
	webOffer    = desc(5000, "audio sendrecv opus G722 PCMU PCMA te126")
	phoneAnswer = desc(6000, "audio sendrecv PCMA te101")
)

func TestBasicCall(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i := r.dial(browser1, webOffer)
		o := r.out(0)
		r.wantSDP("offer to the phone", o.offer, "audio sendrecv opus G722 PCMU PCMA te126")
		if o.target.MaxForwards != 69 {
			r.Errorf("Max-Forwards %d, want 69", o.target.MaxForwards)
		}
		o.respond(100, nil)
		o.respond(180, nil)
		o.respond(180, nil)
		synctest.Wait()
		if p, _, _ := i.state(); len(p) != 1 || p[0] != "180" {
			r.Errorf("the caller got %q, want one 180", p)
		}
		if r.engine.count() != 0 {
			r.Error("joined before there is an answer")
		}
		o.respond(200, phoneAnswer)
		synctest.Wait()
		_, accepted, _ := i.state()
		r.wantSDP("answer to the browser", accepted, "audio sendrecv PCMA te126")
		a, b := r.web.of("-a"), r.rtp.of("-b1")
		m := r.engine.between(a, b, 0)
		if m == nil {
			r.Fatal("lines are not joined at the 200")
		}
		if m[8] != 8 || m[126] != 101 || m[111] != dataplane.PayloadDrop || m[0] != dataplane.PayloadDrop {
			r.Errorf("payload map: %v", m)
		}
		if back := r.engine.between(b, a, 0); back[101] != 126 || back[126] != 126 || back[8] != 8 {
			r.Errorf("payload map back: PCMA %d, offered event number %d, answered %d", back[8], back[126], back[101])
		}
		i.ack <- nil
		synctest.Wait()
		a.set(func(h *Health) { h.Established = true })
		a.o.Events.Established()
		synctest.Wait()
		if b.source != o.target.Party.Source {
			r.Errorf("signalling source %v", b.source)
		}
		calls := r.m.Calls()
		if len(calls) != 1 || calls[0].Stage != StageConnected || calls[0].Legs[0].Lines[0].Codec != "PCMA" ||
			calls[0].Legs[1].Party.User != "1001" {
			r.Errorf("listing: %+v", calls)
		}
		d, ok := r.m.Detail(r.Context(), calls[0].ID)
		if !ok || d.Legs[1].Lines[0].Stats.Received.Packets != 7 {
			r.Errorf("detail: %v %+v", ok, d)
		}
		time.Sleep(5 * time.Second)
		i.dialog.h.OnBye("")
		synctest.Wait()
		if o.dialog.byeCount() != 1 || i.dialog.byeCount() != 0 {
			r.Errorf("BYEs: callee %d, caller %d", o.dialog.byeCount(), i.dialog.byeCount())
		}
		r.wantEnding(CauseHangup, ByCaller, 200)
		if got, want := r.stages(), "invite, routed, ringing, answered, connected, media established, ended"; got != want {
			r.Errorf("stages: %s\nwant: %s", got, want)
		}
		e := r.events[len(r.events)-1].Call
		if e.Duration() != 5*time.Second || e.Legs[0].Lines[0].Stats.Received.Packets != 7 {
			r.Errorf("record: %v %+v", e.Duration(), e)
		}
		for _, want := range []string{"call ended", "cause=hangup", "by=caller", "duration=5s", "leg.party=web1", "call=" + e.ID} {
			if !strings.Contains(r.log(), want) {
				r.Errorf("log lacks %q:\n%s", want, r.log())
			}
		}
	})
}

// Every kind of party calls every other.
func TestDirections(t *testing.T) {
	for _, from := range []Party{browser1, phone2, trunk1} {
		for _, callee := range []Party{browser2, phone1, trunk1} {
			t.Run(from.Name()+" to "+callee.Name(), func(t *testing.T) {
				run(t, to(callee), func(r *rig) {
					i, o := r.up(from, desc(5000, "audio sendrecv PCMU te101"), desc(6000, "audio sendrecv PCMU te101"))
					if (r.web.of("-a") != nil) != from.WebRTC || (r.web.of("-b1") != nil) != callee.WebRTC {
						r.Error("a leg has the wrong kind of media")
					}
					o.dialog.h.OnBye("")
					synctest.Wait()
					if i.dialog.byeCount() != 1 {
						r.Error("the caller got no BYE")
					}
					r.wantEnding(CauseHangup, ByCallee, 200)
				})
			})
		}
	}
}

func TestStatusReachesCaller(t *testing.T) {
	for code, want := range map[int]int{
		486: 486, 480: 480, 403: 403, 404: 404, 488: 488, 500: 500, 503: 503, 603: 603, 600: 600, 408: 408, 410: 410,
		484: 484, 302: 480, 401: 500, 407: 500, 420: 500, 487: 480, 415: 488, 491: 480, 606: 606, 504: 504, 481: 500,
	} {
		run(t, to(phone1), func(r *rig) {
			i := r.dial(browser1, webOffer)
			r.out(0).respond(code, nil, func(x *Response) {
				x.Header = []Header{{"Server", "x"}, {"Retry-After", "17"}, {"Reason", "Q.850;cause=17"}}
			})
			synctest.Wait()
			_, accepted, rejected := i.state()
			if rejected != want || accepted != nil || i.finals != 1 {
				r.Errorf("callee said %d, the caller got %d (finals %d), want %d", code, rejected, i.finals, want)
			}
			if !slices.Equal(i.headers, []Header{{"Retry-After", "17"}, {"Reason", "Q.850;cause=17"}}) {
				r.Errorf("headers: %v", i.headers)
			}
			if i.reason == "" {
				r.Error("no reason phrase")
			}
		})
	}
}

func TestRouterRefuses(t *testing.T) {
	for _, tc := range []struct {
		err   error
		code  int
		cause Cause
	}{
		{&Refusal{404, "Not Found", "unknown"}, 404, CauseRefused},
		{errors.New("store is away"), 500, CauseError},
	} {
		run(t, routerFunc(func(Invite) (Decision, error) { return Decision{}, tc.err }), func(r *rig) {
			i := r.dial(browser1, webOffer)
			if _, _, code := i.state(); code != tc.code {
				r.Errorf("got %d, want %d", code, tc.code)
			}
			r.wantEnding(tc.cause, ByGateway, tc.code)
			if len(r.web.made) != 0 {
				r.Error("media was made for a call that goes nowhere")
			}
		})
	}
	run(t, to(), func(r *rig) {
		if _, _, code := r.dial(browser1, webOffer).state(); code != 480 {
			r.Errorf("no targets gave %d", code)
		}
	})
}

func TestBadOffer(t *testing.T) {
	for name, tc := range map[string]struct {
		offer []byte
		code  int
	}{
		"not SDP":        {[]byte("hello"), 400},
		"no media":       {desc(5000), 488},
		"all rejected":   {desc(5000, "audio rejected"), 488},
		"other medium":   {desc(5000, "text sendrecv PCMU"), 488},
		"only telephone": {desc(5000, "audio sendrecv te101"), 488},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, to(phone1), func(r *rig) {
				i := r.dial(browser1, tc.offer)
				if _, _, code := i.state(); code != tc.code {
					r.Errorf("got %d, want %d", code, tc.code)
				}
				if r.outs() != 0 {
					r.Error("the callee was asked all the same")
				}
			})
		})
	}
}

func TestNoCommonCodec(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i := r.dial(browser1, desc(5000, "audio sendrecv opus"))
		o := r.out(0)
		o.respond(200, desc(6000, "audio sendrecv G729"))
		synctest.Wait()
		if _, accepted, code := i.state(); code != 488 || accepted != nil {
			r.Errorf("the caller got %d", code)
		}
		if o.dialog.byeCount() != 1 || !strings.Contains(o.dialog.byes[0], "cause=488") {
			r.Errorf("the callee got %q", o.dialog.byes)
		}
		r.wantEnding(CauseNoCodec, ByCallee, 488)
	})
}

func TestAnswerThatIsNoSDP(t *testing.T) {
	for _, body := range [][]byte{nil, []byte("rubbish"), desc(6000, "audio rejected")} {
		run(t, to(phone1), func(r *rig) {
			i := r.dial(browser1, webOffer)
			r.out(0).respond(200, body)
			synctest.Wait()
			if _, _, code := i.state(); code != 488 || r.out(0).dialog.byeCount() != 1 {
				r.Errorf("%q: the caller got %d, the callee %d BYEs", body, code, r.out(0).dialog.byeCount())
			}
		})
	}
}

func TestCallerCancels(t *testing.T) {
	run(t, to(phone1, browser2), func(r *rig) {
		i := r.dial(browser1, webOffer)
		r.out(0).respond(180, nil)
		synctest.Wait()
		close(i.cancelled)
		synctest.Wait()
		for n := range 2 {
			if yes, _ := r.out(n).isCancelled(); !yes {
				r.Errorf("branch %d was not cancelled", n)
			}
		}
		if i.finals != 0 {
			r.Error("answered after CANCEL: the signalling layer has sent 487")
		}
		r.wantEnding(CauseCancelled, ByCaller, 487)
	})
}

// CANCEL crosses the callee's 200.
func TestCancelCrossesAnswer(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i := r.dial(browser1, webOffer)
		o := r.out(0)
		o.stubborn = true
		close(i.cancelled)
		o.respond(200, phoneAnswer)
		synctest.Wait()
		if o.dialog.byeCount() == 0 {
			r.Error("the callee that answered is left alone in its call")
		}
		r.wantEnding(CauseCancelled, ByCaller, 487)
	})
}

func TestCallerHangsUpBeforeAck(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i := r.dial(browser1, webOffer)
		o := r.out(0)
		o.respond(200, phoneAnswer)
		synctest.Wait()
		o.dialog.h.OnBye("")
		synctest.Wait()
		if !i.abandoned {
			r.Error("the 200 under way was not given up")
		}
		r.wantEnding(CauseHangup, ByCallee, 200)
	})
}

func TestAckNeverComes(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i := r.dial(browser1, webOffer)
		close(i.ack)
		o := r.out(0)
		o.respond(200, phoneAnswer)
		synctest.Wait()
		time.Sleep(33 * time.Second)
		synctest.Wait()
		if o.dialog.byeCount() != 1 {
			r.Errorf("the callee got %d BYEs", o.dialog.byeCount())
		}
		r.wantEnding(CauseNoAck, ByGateway, 408)
	})
}

func TestNoAnswer(t *testing.T) {
	for ring, want := range map[bool]int{true: 480, false: 408} {
		run(t, to(phone1), func(r *rig) {
			i := r.dial(browser1, webOffer)
			if ring {
				r.out(0).respond(180, nil)
			}
			time.Sleep(179 * time.Second)
			synctest.Wait()
			if _, _, code := i.state(); code != 0 {
				r.Errorf("gave up too early with %d", code)
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if _, _, code := i.state(); code != want {
				r.Errorf("rang %v: got %d, want %d", ring, code, want)
			}
			if yes, _ := r.out(0).isCancelled(); !yes {
				r.Error("the callee still rings")
			}
			r.wantEnding(CauseNoAnswer, ByGateway, want)
		})
	}
}

func TestDelayedOffer(t *testing.T) {
	run(t, to(browser2), func(r *rig) {
		i := r.dial(phone2, nil)
		o := r.out(0)
		r.wantSDP("offer of the phone's side", o.offer, "audio sendrecv G722 PCMU PCMA opus te101 te110")
		o.respond(183, desc(6000, "audio sendrecv PCMU"))
		synctest.Wait()
		if p, _, _ := i.state(); !slices.Equal(p, []string{"183"}) {
			r.Errorf("progress %q: an offer in a provisional needs 100rel", p)
		}
		o.respond(180, nil)
		o.respond(200, desc(6000, "audio sendrecv PCMU PCMA te101"))
		synctest.Wait()
		p, offered, _ := i.state()
		if !slices.Equal(p, []string{"183", "180"}) {
			r.Errorf("progress %q", p)
		}
		r.wantSDP("offer in the caller's 200", offered, "audio sendrecv PCMU PCMA te101")
		i.ack <- desc(5000, "audio sendrecv PCMU te101")
		time.Sleep(settleDelay)
		synctest.Wait()
		// The browser might send PCMA, which the caller has not taken.
		r.wantSDP("settling", o.dialog.lastReinvite(), "audio sendrecv PCMU te101")
		if m := r.engine.between(r.rtp.of("-a"), r.web.of("-b1"), 0); m == nil || m[0] != 0 || m[8] != dataplane.PayloadDrop {
			r.Errorf("joined with %v", m)
		}
	})
}

func TestDelayedOfferWithoutAnswer(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i := r.dial(phone2, nil)
		o := r.out(0)
		o.respond(200, phoneAnswer)
		synctest.Wait()
		i.ack <- nil
		time.Sleep(settleDelay)
		synctest.Wait()
		if i.dialog.byeCount() != 1 || o.dialog.byeCount() != 1 {
			r.Errorf("BYEs: %d and %d", i.dialog.byeCount(), o.dialog.byeCount())
		}
		r.wantEnding(CauseNoCodec, ByGateway, 488)
	})
}

func TestNoPortsAndNoTransport(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		r.web.err = errors.New("no ports left in 20000-29999 of network public")
		i := r.dial(browser1, webOffer)
		if _, _, code := i.state(); code != 503 || len(i.headers) != 1 || i.headers[0].Name != "Retry-After" {
			r.Errorf("no port for the caller: %d %v", code, i.headers)
		}
	})
	run(t, to(phone1), func(r *rig) {
		r.rtp.err = errors.New("no ports left")
		if _, _, code := r.dial(browser1, webOffer).state(); code != 503 {
			r.Errorf("no port for the callee: %d", code)
		}
	})
	run(t, to(phone1), func(r *rig) {
		r.caller.err = errors.New("no route to host")
		if _, _, code := r.dial(browser1, webOffer).state(); code != 503 {
			r.Errorf("no transport: %d", code)
		}
	})
}

// Signs of life without SDP reach the caller once, ringing after them too.
func TestProgressWithoutSDP(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i := r.dial(browser1, webOffer)
		for _, code := range []int{181, 182, 183, 180, 180, 183} {
			r.out(0).respond(code, nil)
		}
		synctest.Wait()
		if p, _, _ := i.state(); !slices.Equal(p, []string{"183", "180"}) {
			r.Errorf("progress %q", p)
		}
	})
}
