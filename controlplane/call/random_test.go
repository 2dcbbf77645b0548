package call

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestRandomCalls lets far ends do what they like, in any order and at the
// worst moment, and checks what must hold of every call: each INVITE gets one
// final response, nobody who is in a dialog is left there, and nothing stays.
func TestRandomCalls(t *testing.T) {
	seeds := uint64(400)
	if testing.Short() {
		seeds = 50
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { randomCall(t, seed) })
	}
}

func randomCall(t *testing.T, seed uint64) {
	rnd := rand.New(&lockedSource{src: rand.NewPCG(seed, 7)})
	parties := []Party{phone1, browser2, phone2, trunk1}
	rnd.Shuffle(len(parties), func(i, j int) { parties[i], parties[j] = parties[j], parties[i] })
	parties = parties[:1+rnd.IntN(3)]
	answers := []string{"PCMU te101", "PCMA", "opus te126", "PCMU PCMA te101", "G729"}
	dirs := []string{"sendrecv", "sendrecv", "sendonly", "recvonly", "inactive"}
	body := func() []byte {
		switch rnd.IntN(12) {
		case 0:
			return nil
		case 1:
			return []byte("rubbish")
		}
		media := []string{"audio " + dirs[rnd.IntN(len(dirs))] + " " + answers[rnd.IntN(len(answers))]}
		if rnd.IntN(3) == 0 {
			media = append(media, "video sendrecv H264")
		}
		return desc(5000+2*rnd.IntN(1000), media...)
	}
	run(t, to(parties...), func(r *rig) {
		var offer []byte
		if rnd.IntN(4) > 0 {
			offer = webOffer
		}
		i := &invite{
			party: browser1, callID: "in", from: Address{User: "web1"}, to: Address{User: "1001"}, offer: offer, hops: 70,
			cancelled: make(chan struct{}), ack: make(chan []byte, 1),
		}
		far := func(_ context.Context, offer []byte) ([]byte, error) {
			time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
			switch rnd.IntN(6) {
			case 0:
				return nil, &ResponseError{Code: []int{488, 491, 481, 500, 408}[rnd.IntN(5)]}
			case 1:
				return []byte("rubbish"), nil
			}
			return desc(6000, "audio sendrecv PCMU PCMA opus te101"), nil
		}
		i.reinvite = far
		r.m.OnInvite(i)
		cancelled, acked := false, false
		closed := map[*dialog]bool{} // ended by the far side
		for range 5 + rnd.IntN(40) {
			if rnd.IntN(2) == 0 {
				synctest.Wait()
			}
			r.caller.mu.Lock()
			outs := append([]*outgoing{}, r.caller.outs...)
			r.caller.mu.Unlock()
			var dialogs []*dialog
			if d := i.dialogOf(); d != nil {
				dialogs = append(dialogs, d)
			}
			for _, o := range outs {
				if d := o.dialogOf(); d != nil {
					d.onReinvite(far)
					dialogs = append(dialogs, d)
				}
			}
			any := func(f func(d *dialog)) {
				if len(dialogs) > 0 {
					if d := dialogs[rnd.IntN(len(dialogs))]; !closed[d] {
						f(d)
					}
				}
			}
			switch n := rnd.IntN(20); {
			case n < 6 && len(outs) > 0:
				o := outs[rnd.IntN(len(outs))]
				code := []int{100, 180, 183, 183, 200, 200, 200, 302, 404, 486, 503, 603}[rnd.IntN(12)]
				b := body()
				if code == 180 && rnd.IntN(2) == 0 {
					b = nil
				}
				o.respond(code, b, tag(fmt.Sprint(rnd.IntN(3))))
			case n == 6 && !cancelled && !acked && rnd.IntN(3) == 0:
				cancelled = true
				close(i.cancelled)
			case n < 10 && !acked:
				acked = true
				if rnd.IntN(8) == 0 {
					close(i.ack)
				} else if offer == nil {
					i.ack <- body()
				} else {
					i.ack <- nil
				}
			case n == 10 && rnd.IntN(3) == 0:
				any(func(d *dialog) { closed[d] = true; d.h.OnBye("") })
			case n == 11 && rnd.IntN(4) == 0:
				any(func(d *dialog) { closed[d] = true; d.h.OnFailed("") })
			case n < 15:
				b := body()
				any(func(d *dialog) {
					go func() {
						if _, code := d.h.OnReinvite(r.Context(), b); code == 200 && b == nil {
							d.h.OnAck(desc(7000, "audio sendrecv PCMU PCMA opus te101"))
						}
					}()
				})
			case n == 15:
				any(func(d *dialog) { go d.h.OnInfo(r.Context(), "text/plain", nil) })
			case n == 16:
				up := rnd.IntN(2) == 0
				any(func(d *dialog) { d.h.OnFlow(up) })
			case n == 17 && rnd.IntN(4) == 0:
				fs := append(append([]*media{}, r.web.all()...), r.rtp.all()...)
				if len(fs) > 0 {
					fs[rnd.IntN(len(fs))].o.Events.Failed(errors.New("dtls"))
				}
			case n == 18:
				keepAlive(r)
				for _, c := range r.m.Calls() {
					if _, ok := r.m.Detail(r.Context(), c.ID); !ok {
						r.Log("gone meanwhile")
					}
				}
			default:
				time.Sleep(time.Duration(rnd.IntN(8000)) * time.Millisecond)
			}
		}
		synctest.Wait()
		for _, c := range r.m.Calls() {
			if c.ID == "" || c.Stage == "" {
				r.Errorf("listing: %+v", c)
			}
		}
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Minute)
		defer cancel()
		if err := r.m.Shutdown(ctx); err != nil {
			r.Errorf("shutdown: %v\n%s", err, r.log())
		}
		synctest.Wait()
		i.mu.Lock()
		defer i.mu.Unlock()
		if want := 1; i.finals != want && !cancelled {
			r.Errorf("seed %d: %d final responses\n%s", seed, i.finals, r.log())
		}
		if i.finals > 1 {
			r.Errorf("seed %d: %d final responses\n%s", seed, i.finals, r.log())
		}
		all := []*dialog{i.dialog}
		for _, o := range r.caller.outs {
			all = append(all, o.dialog)
			if yes, _ := o.isCancelled(); !yes && !o.closed {
				r.Errorf("seed %d: %s rings for ever\n%s", seed, o.callID, r.log())
			}
		}
		for _, d := range all {
			if d == nil {
				continue
			}
			if n := d.byeCount(); n > 1 || n == 0 && !closed[d] {
				r.Errorf("seed %d: dialog %s got %d BYEs\n%s", seed, d.callID, n, r.log())
			}
		}
		ends := 0
		for _, e := range r.events {
			if e.Stage == StageEnded {
				ends++
			}
		}
		if ends != 1 {
			r.Errorf("seed %d: ended %d times\n%s", seed, ends, r.log())
		}
	})
}

// lockedSource lets far ends draw from one source in their own goroutines.
type lockedSource struct {
	mu  sync.Mutex
	src rand.Source
}

func (s *lockedSource) Uint64() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.src.Uint64()
}

func (i *invite) dialogOf() *dialog {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.dialog
}

func (o *outgoing) dialogOf() *dialog {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dialog
}

func (f *factory) all() []*media {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*media{}, f.made...)
}
