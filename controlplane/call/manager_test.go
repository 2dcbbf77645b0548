package call

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestLimits(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		r.dial(browser1, pcmu)
		r.dial(browser1, pcmu)
		i := r.dial(phone2, pcmu)
		if _, _, code := i.state(); code != 503 || len(i.headers) != 1 || i.headers[0] != (Header{"Retry-After", "9"}) {
			t.Errorf("the third call got %d %v", code, i.headers)
		}
		r.out(0).respond(486, nil)
		synctest.Wait()
		if _, _, code := r.dial(phone2, pcmu).state(); code != 0 {
			t.Errorf("after one has ended: %d", code)
		}
	}, func(c *Config) { c.Limits = Limits{Calls: 2, RetryAfter: 9 * time.Second} })
}

func TestLimitPerUser(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		r.dial(browser1, pcmu)
		if _, _, code := r.dial(browser1, pcmu).state(); code != 403 {
			t.Errorf("the user's second call got %d", code)
		}
		if _, _, code := r.dial(phone2, pcmu).state(); code != 486 {
			t.Errorf("a call to a user who has one got %d", code)
		}
		if _, _, code := r.dial(trunk1, pcmu).state(); code != 486 {
			t.Errorf("a call to a user who has one got %d", code)
		}
		r.out(0).respond(486, nil)
		synctest.Wait()
		if _, _, code := r.dial(browser1, pcmu).state(); code != 0 {
			t.Errorf("after that has ended: %d", code)
		}
	}, func(c *Config) { c.Limits = Limits{PerUser: 1} })
	// Forking to a user's several devices is one call.
	run(t, to(phone1, browser2), func(r *rig) {
		r.dial(phone2, pcmu)
		if r.outs() != 2 {
			t.Errorf("%d branches, want 2", r.outs())
		}
	}, func(c *Config) { c.Limits = Limits{PerUser: 1} })
}

// A trunk that sends our own INVITE back to us.
func TestLoop(t *testing.T) {
	run(t, to(trunk1), func(r *rig) {
		r.dial(browser1, pcmu)
		i := &invite{party: trunk1, callID: r.out(0).callID, offer: pcmu, hops: 68, cancelled: make(chan struct{})}
		r.m.OnInvite(i)
		synctest.Wait()
		if _, _, code := i.state(); code != 482 {
			t.Errorf("got %d", code)
		}
		if r.m.Count() != 1 {
			t.Errorf("%d calls", r.m.Count())
		}
	})
}

func TestShutdown(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i, o := r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		ringing := r.dial(phone2, pcmu)
		pending := r.dial(browser1, pcmu)
		r.out(2).respond(200, desc(6000, "audio sendrecv PCMU te101"))
		synctest.Wait()
		if err := r.m.Shutdown(r.Context()); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if i.dialog.byeCount() != 1 || o.dialog.byeCount() != 1 {
			t.Errorf("BYEs: %d and %d", i.dialog.byeCount(), o.dialog.byeCount())
		}
		if !strings.Contains(o.dialog.byes[0], "cause=503") {
			t.Errorf("reason %q", o.dialog.byes[0])
		}
		if _, _, code := ringing.state(); code != 503 {
			t.Errorf("the ringing call got %d", code)
		}
		if yes, _ := r.out(1).isCancelled(); !yes {
			t.Error("the ringing phone still rings")
		}
		if !pending.abandoned {
			t.Error("the 200 that waits for its ACK goes on")
		}
		if _, _, code := r.dial(browser1, pcmu).state(); code != 503 {
			t.Errorf("a call after the shutdown got %d", code)
		}
	})
}

func TestShutdownIsBounded(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		_, o := r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		o.dialog.bye = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		from := time.Now()
		if err := r.m.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shutdown: %v", err)
		}
		if d := time.Since(from); d != 2*time.Second {
			t.Errorf("took %v", d)
		}
		synctest.Wait()
		if r.m.Count() != 0 {
			t.Error("the call is still there")
		}
	})
}

// A far end that no longer answers does not hold up the end, nor make it fail.
func TestShutdownGivesUp(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i, o := r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		o.dialog.bye = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		r.dial(phone2, pcmu)
		r.out(1).stubborn = true
		r.dial(browser1, pcmu)
		r.out(2).respond(200, desc(6000, "audio sendrecv PCMU te101"))
		i.dialog.h.OnBye("") // this one is ending already
		synctest.Wait()
		from := time.Now()
		go func() {
			time.Sleep(6 * time.Second)
			r.out(1).respond(487, nil) // the fake ends its INVITE only so
		}()
		if err := r.m.Shutdown(r.Context()); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if d := time.Since(from); d < 5*time.Second || d > 7*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

func TestByeIsBounded(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i, o := r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		o.dialog.bye = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		i.dialog.h.OnBye("")
		r.wantEnd(time.Now(), 31*time.Second, 33*time.Second)
	})
}

func TestHangup(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		i, o := r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		if r.m.Hangup("nosuch", "") {
			t.Error("hung up a call that is not")
		}
		if !r.m.Hangup(r.m.Calls()[0].ID, "fraud") {
			t.Error("not found")
		}
		synctest.Wait()
		if i.dialog.byeCount() != 1 || o.dialog.byeCount() != 1 {
			t.Error("no BYE")
		}
		if e := r.ending(); e.Cause != CauseAdmin || e.Detail != "fraud" {
			t.Errorf("ending %+v", e)
		}
		if _, ok := r.m.Detail(r.Context(), "nosuch"); ok {
			t.Error("detail of a call that is not")
		}
	})
}

func TestByeReasonPasses(t *testing.T) {
	sides(t, func(r *rig, near, far *dialog, _, _ *media) {
		near.h.OnBye(`Q.850;cause=16;text="Normal call clearing"`)
		synctest.Wait()
		if len(far.byes) != 1 || far.byes[0] != `Q.850;cause=16;text="Normal call clearing"` {
			r.Errorf("the far side got %q", far.byes)
		}
	})
}

func TestSnapshot(t *testing.T) {
	run(t, to(phone1), func(r *rig) {
		r.dial(phone2, pcmu)
		if _, ok := r.m.Snapshot(r.Context(), r.m.Calls()[0].ID); ok {
			t.Error("a call that only rings has no snapshot")
		}
		r.out(0).respond(486, nil)
		synctest.Wait()
		r.up(browser1, pcmu, desc(6000, "audio sendrecv PCMU te101"))
		id := r.m.Calls()[0].ID
		s, ok := r.m.Snapshot(r.Context(), id)
		if !ok {
			r.Fatal("no snapshot")
		}
		var b bytes.Buffer
		if err := s.Write(&b); err != nil {
			r.Fatal(err)
		}
		written := b.String()
		back, err := ReadSnapshot(&b)
		if err != nil {
			r.Fatal(err)
		}
		if diff := cmp.Diff(s, back, cmpopts.EquateComparable(browser1.Source), cmpopts.EquateEmpty(), cmpopts.EquateApproxTime(0)); diff != "" {
			t.Error(diff)
		}
		if string(back.Caller.Media.Keys[0].Key) != "masterkey" || back.Callee.Dialog.LocalCSeq != 3 || back.Caller.Party.User != "web1" ||
			back.Callee.Media.Streams[0].IndexOffset != 1<<48-1 {
			t.Errorf("read back: %#v", back.Caller.Party)
		}
		if _, err := ReadSnapshot(strings.NewReader(strings.Replace(written, `"Version":1`, `"Version":2`, 1))); err == nil || !strings.Contains(err.Error(), "version 2") {
			t.Errorf("another version: %v", err)
		}
		if _, err := ReadSnapshot(strings.NewReader(`{"Version":1,"New":1}`)); err == nil {
			t.Error("an unknown field was passed over")
		}
		if _, err := ReadSnapshot(strings.NewReader("{")); err == nil {
			t.Error("half a snapshot was read")
		}

		// However it is printed, no key comes out.
		var out bytes.Buffer
		l := slog.New(slog.NewTextHandler(&out, nil))
		j := slog.New(slog.NewJSONHandler(&out, nil))
		k := s.Caller.Media.Keys[0]
		l.Info("x", "snapshot", s, "key", k.Key, "pwd", s.Caller.Media.Pwd)
		j.Info("x", "snapshot", s, "key", k.Key)
		fmt.Fprintf(&out, "%v %+v %#v %s %q %x %v %+v %+v %#v", s, s, s, k.Key, k.Key, k.Key, k, s.Caller.Media, s.Caller, s.Callee)
		for _, secret := range []string{"a=ice-pwd", "inline:", "masterkey", "mastersalt", "icepassword", "6d6173746572", "bWFzdGVy"} {
			if strings.Contains(out.String()+r.log(), secret) {
				t.Errorf("%q is printed:\n%s", secret, out.String())
			}
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := NewManager(Config{}); err == nil {
		t.Error("an empty configuration was taken")
	}
}
