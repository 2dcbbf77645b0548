package sip

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	gosip "github.com/emiago/sipgo/sip"

	"github.com/sluicegw/sluice/controlplane/call"
)

// Session timers (RFC 4028).
const (
	minSE         = 90 * time.Second   // 4: the least there may be
	sessionWanted = 1800 * time.Second // what we ask for
)

// sentAck is the ACK of a 2xx and the way it went.
type sentAck struct {
	req *gosip.Request
	f   *flow
}

// ackBox holds the ACK of a 2xx for its repetitions.
type ackBox struct {
	mu  sync.Mutex
	ack *sentAck
}

func (b *ackBox) put(a *sentAck) {
	b.mu.Lock()
	b.ack = a
	b.mu.Unlock()
}

func (b *ackBox) get() *sentAck {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ack
}

var errSessionExpires = errors.New("sip: Session-Expires is malformed")

// sessionExpires reads Session-Expires; 0: there is none.
func sessionExpires(m gosip.Message) (time.Duration, error) {
	v := value(m, "Session-Expires")
	if v == "" {
		return 0, nil
	}
	num, _, _ := strings.Cut(v, ";")
	n, err := strconv.ParseUint(strings.Trim(num, " \t"), 10, 31)
	if err != nil || n == 0 {
		return 0, errSessionExpires
	}
	return time.Duration(n) * time.Second, nil
}

// refresher reads who refreshes: "uac", "uas" or "".
func refresher(m gosip.Message) string {
	_, ps, _ := strings.Cut(value(m, "Session-Expires"), ";")
	p, err := parseParams(ps)
	if err != nil {
		return ""
	}
	v, _ := p.get("refresher")
	return strings.ToLower(v)
}

// agreeUAS answers a Session-Expires of the far side and sets the timer (9).
func (d *dialog) agreeUAS(req *gosip.Request) []gosip.Header {
	se, err := sessionExpires(req)
	if err != nil || se == 0 {
		d.setSession(0, false)
		return nil
	}
	able := contains(tokens(req, "Supported"), "timer") || contains(tokens(req, "Require"), "timer")
	who := "uas"
	if able && refresher(req) != "uas" {
		who = "uac"
	}
	d.setSession(se, who == "uas")
	hs := []gosip.Header{gosip.NewHeader("Session-Expires", fmt.Sprintf("%d;refresher=%s", int(se/time.Second), who))}
	if able {
		hs = append(hs, gosip.NewHeader("Require", "timer"))
	}
	return hs
}

// agreeUAC takes what a 2xx to our INVITE or UPDATE says (7.2).
func (d *dialog) agreeUAC(res *gosip.Response) {
	se, err := sessionExpires(res)
	if err != nil || se == 0 {
		d.setSession(0, false)
		return
	}
	d.setSession(max(se, minSE), refresher(res) != "uas")
}

// askSession are the headers of a re-INVITE or UPDATE of ours: the interval stays.
func (d *dialog) askSession() []gosip.Header {
	d.mu.Lock()
	se, ours := d.session.interval, d.session.ours
	d.mu.Unlock()
	if se == 0 {
		return nil
	}
	who := "uas"
	if ours {
		who = "uac"
	}
	return []gosip.Header{
		gosip.NewHeader("Session-Expires", fmt.Sprintf("%d;refresher=%s", int(se/time.Second), who)),
		gosip.NewHeader("Min-SE", strconv.Itoa(int(minSE/time.Second))),
	}
}

// setSession starts the interval anew. We refresh at half of it; when the far
// side does not, we end the dialog a little before the end (10).
func (d *dialog) setSession(se time.Duration, ours bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.session.stop()
	d.session.interval, d.session.ours = se, ours
	if se == 0 || d.done {
		return
	}
	wait := se - min(32*time.Second, se/3)
	if ours {
		wait = se / 2
	}
	d.arm(d.s.pace.of(wait), time.Now().Add(d.s.pace.of(se-min(32*time.Second, se/3))))
}

// arm sets the timer; d.mu is held.
func (d *dialog) arm(wait time.Duration, end time.Time) {
	gen, ours := d.session.gen, d.session.ours
	d.session.timer = time.AfterFunc(wait, func() {
		if !d.s.enter() {
			return
		}
		defer d.s.wg.Done()
		if ours && time.Now().Before(end) {
			d.refreshSession(gen, end)
			return
		}
		d.expireSession(gen)
	})
}

func (d *dialog) expireSession(gen int) {
	d.mu.Lock()
	current := gen == d.session.gen
	d.mu.Unlock()
	if !current || !d.finish() {
		return
	}
	d.s.log.Info("session timer expired", "call_id", d.id.callID, "party", d.party.Name())
	d.sendBye(`SIP;cause=408;text="Session timer expired"`)
	d.tell(func() { d.h.OnFailed("session timer expired") })
}

// refreshSession sends UPDATE, or a re-INVITE with the same SDP when the far
// side does not take UPDATE.
func (d *dialog) refreshSession(gen int, end time.Time) {
	d.mu.Lock()
	if gen != d.session.gen || d.done {
		d.mu.Unlock()
		return
	}
	updates, sdp := d.updates, d.sdp
	d.mu.Unlock()
	ctx, cancel := context.WithDeadline(d.s.ctx, end)
	defer cancel()
	var err error
	if updates || sdp == nil {
		var res *gosip.Response
		hs := append(d.askSession(), gosip.NewHeader("Supported", supported), gosip.NewHeader("Allow", allowed))
		if res, err = d.send(ctx, gosip.UPDATE, nil, "", hs...); err == nil {
			d.refresh(res)
			d.agreeUAC(res)
			return
		}
	} else if _, err = d.Reinvite(ctx, sdp, nil); err == nil {
		return
	}
	d.gone(err)
	var re *call.ResponseError
	if errors.As(err, &re) && (re.Code == 405 || re.Code == 501) {
		d.mu.Lock()
		d.updates = false
		d.mu.Unlock()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done || gen != d.session.gen {
		return
	}
	// Again while there is time; then it ends.
	d.session.stop()
	left := time.Until(end)
	d.arm(max(left/2, min(left, time.Second)), end)
}
