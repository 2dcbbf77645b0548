package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"
	"github.com/google/uuid"
)

const (
	expires      = 300 * time.Second
	registerTime = 10 * time.Second // for one REGISTER to be answered
	retryFirst   = 500 * time.Millisecond
	retryLast    = 30 * time.Second
)

// registration keeps one binding alive.
type registration struct {
	callID string
	cseq   uint32
	cancel context.CancelFunc
	done   chan struct{}
}

// start registers, trying again until it works or ctx ends.
func (r *registration) start(ctx context.Context, p *Phone) error {
	r.callID = uuid.NewString()
	if err := r.until(ctx, p); err != nil {
		return err
	}
	run, cancel := context.WithCancel(context.Background())
	r.cancel, r.done = cancel, make(chan struct{})
	go r.refresh(run, p)
	return nil
}

// until registers, with growing pauses between attempts.
func (r *registration) until(ctx context.Context, p *Phone) error {
	for pause := retryFirst; ; pause = min(2*pause, retryLast) {
		err := r.register(ctx, p, expires)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(pause):
			p.log.Warn("registering again", "err", err)
		case <-ctx.Done():
			return err
		}
	}
}

func (r *registration) refresh(ctx context.Context, p *Phone) {
	defer close(r.done)
	for {
		select {
		case <-time.After(expires / 2):
			if r.until(ctx, p) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// stop unregisters (RFC 3261 10.2.2).
func (r *registration) stop(ctx context.Context, p *Phone) error {
	r.cancel()
	<-r.done
	return r.register(ctx, p, 0)
}

func (r *registration) register(ctx context.Context, p *Phone, e time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, registerTime)
	defer cancel()
	req := sip.NewRequest(sip.REGISTER, sip.Uri{Scheme: "sip", Host: p.cfg.Domain})
	req.SetDestination(p.cfg.Registrar.String())
	req.SetTransport("UDP")
	from := sip.FromHeader{Address: sip.Uri{Scheme: "sip", User: p.cfg.User, Host: p.cfg.Domain}, Params: sip.NewParams()}
	from.Params.Add("tag", uuid.NewString())
	req.AppendHeader(&from)
	req.AppendHeader(&sip.ToHeader{Address: from.Address})
	contact := p.contact()
	req.AppendHeader(&contact)
	callID := sip.CallIDHeader(r.callID)
	req.AppendHeader(&callID)
	r.cseq++
	req.AppendHeader(&sip.CSeqHeader{SeqNo: r.cseq, MethodName: sip.REGISTER})
	req.AppendHeader(sip.NewHeader("Expires", fmt.Sprint(int(e/time.Second))))
	res, err := p.client.Do(ctx, req)
	if err == nil && (res.StatusCode == 401 || res.StatusCode == 407) {
		res, err = p.client.DoDigestAuth(ctx, req, res, sipgo.DigestAuth{Username: p.cfg.User, Password: p.cfg.Password})
		r.cseq = req.CSeq().SeqNo
	}
	if err != nil {
		return err
	}
	if res.StatusCode != 200 {
		return fmt.Errorf("answered %d %s", res.StatusCode, res.Reason)
	}
	return nil
}
