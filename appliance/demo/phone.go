// Package demo holds the SIP phones that `sluice run` brings along so that there
// is somebody to call. They are user agents like any other: each registers with
// the gateway over SIP/UDP with a password of its own and sends and receives RTP
// on sockets of its own. They share nothing with the gateway but the network.
package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"
)

// Behaviour is what a phone does with a call.
type Behaviour int

const (
	Echo         Behaviour = iota // answers and sends back what it hears
	Tone                          // answers and plays 440 Hz
	Announcement                  // plays a melody as early media, answers after a while and plays on
)

// ToneHz is the pitch of Tone.
const ToneHz = 440

// maxCalls bounds the calls of one phone; a further one gets 486.
const maxCalls = 64

// Config of a Phone.
type Config struct {
	Registrar netip.AddrPort // where the gateway listens on SIP/UDP
	Domain    string
	User      string
	Password  string
	Behaviour Behaviour
	Early     time.Duration // how long an Announcement plays before it answers; 0 = 4 s
	Logger    *slog.Logger  // nil = discard
}

// Phone is one registered SIP phone. Calls are taken from its registrar only.
type Phone struct {
	cfg    Config
	log    *slog.Logger
	conn   net.PacketConn
	local  netip.AddrPort
	ua     *sipgo.UserAgent
	client *sipgo.Client
	reg    registration
	served chan struct{}

	mu      sync.Mutex
	dialogs map[string]*dialog // by Call-ID and remote tag
	closing bool
	wg      sync.WaitGroup // one per dialog
}

// Start opens the phone's socket on the registrar's address family, registers
// and keeps the registration alive until Close. It returns once the phone can be
// called, or with the reason why not when ctx ends first.
func Start(ctx context.Context, cfg Config) (*Phone, error) {
	cfg.Early = cmp.Or(cfg.Early, 4*time.Second)
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Phone{cfg: cfg, log: log.With("phone", cfg.User), dialogs: map[string]*dialog{}, served: make(chan struct{})}
	if err := p.listen(); err != nil {
		return nil, fmt.Errorf("demo phone %s: %w", cfg.User, err)
	}
	if err := p.reg.start(ctx, p); err != nil {
		return nil, errors.Join(fmt.Errorf("demo phone %s: cannot register at %s: %w", cfg.User, cfg.Registrar, err), p.closeSockets())
	}
	return p, nil
}

// listen opens the socket on the address the registrar is reached from, so that
// Via, Contact and SDP say an address the gateway can answer to.
func (p *Phone) listen() error {
	probe, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(p.cfg.Registrar))
	if err != nil {
		return err
	}
	addr := probe.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	_ = probe.Close()
	p.conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err != nil {
		return err
	}
	p.local = netip.AddrPortFrom(addr, p.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	quiet := slog.New(slog.DiscardHandler)
	p.ua, err = sipgo.NewUA(sipgo.WithUserAgent("sluice-demo"), sipgo.WithUserAgentHostname(p.cfg.Domain),
		sipgo.WithUserAgentTransportLayerOptions(sip.WithTransportLayerLogger(quiet)),
		sipgo.WithUserAgentTransactionLayerOptions(sip.WithTransactionLayerLogger(quiet)))
	if err != nil {
		return err
	}
	p.client, err = sipgo.NewClient(p.ua, sipgo.WithClientAddr(p.local.String()),
		sipgo.WithClientConnectionAddr(p.local.String()), sipgo.WithClientLogger(quiet))
	if err != nil {
		return err
	}
	srv, err := sipgo.NewServer(p.ua, sipgo.WithServerLogger(quiet))
	if err != nil {
		return err
	}
	srv.OnInvite(p.guard(p.onInvite))
	srv.OnAck(p.guard(p.onAck))
	srv.OnBye(p.guard(p.onBye))
	srv.OnOptions(p.guard(func(req *sip.Request, tx sip.ServerTransaction) { p.respond(tx, p.response(req, 200, "OK", nil)) }))
	srv.OnInfo(p.guard(p.inDialog))
	srv.OnUpdate(p.guard(p.inDialog))
	srv.OnCancel(func(req *sip.Request, tx sip.ServerTransaction) {
		p.respond(tx, sip.NewResponseFromRequest(req, 481, "Call/Transaction Does Not Exist", nil))
	})
	// sipgo would open a second socket for a request that is sent before the
	// first is served.
	serving := &servedConn{PacketConn: p.conn, reading: make(chan struct{})}
	go func() {
		defer close(p.served)
		_ = srv.ServeUDP(serving)
	}()
	<-serving.reading
	return nil
}

// servedConn tells when it is first read from.
type servedConn struct {
	net.PacketConn
	once    sync.Once
	reading chan struct{}
}

func (c *servedConn) ReadFrom(b []byte) (int, net.Addr, error) {
	c.once.Do(func() { close(c.reading) })
	return c.PacketConn.ReadFrom(b)
}

// guard lets only the gateway in: whoever else finds the port gets 403.
func (p *Phone) guard(h sipgo.RequestHandler) sipgo.RequestHandler {
	return func(req *sip.Request, tx sip.ServerTransaction) {
		from, err := netip.ParseAddrPort(req.Source())
		if err != nil || netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != p.cfg.Registrar {
			if !req.IsAck() {
				p.respond(tx, sip.NewResponseFromRequest(req, 403, "Forbidden", nil))
			}
			return
		}
		h(req, tx)
	}
}

// Local is the address of the phone's SIP socket.
func (p *Phone) Local() netip.AddrPort { return p.local }

// Calls is the number of calls under way.
func (p *Phone) Calls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.dialogs)
}

// Close ends every call with BYE, unregisters and closes the sockets. When ctx
// ends first the rest is left undone; the sockets are closed in any case.
func (p *Phone) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closing = true
	var open []*dialog
	for _, d := range p.dialogs {
		open = append(open, d)
	}
	p.mu.Unlock()
	for _, d := range open {
		d.end(nil)
	}
	done := make(chan struct{})
	go func() { p.wg.Wait(); close(done) }()
	var err error
	select {
	case <-done:
		err = p.reg.stop(ctx, p)
	case <-ctx.Done():
		err = errors.Join(ctx.Err(), p.reg.stop(ctx, p))
	}
	return errors.Join(err, p.closeSockets())
}

func (p *Phone) closeSockets() error {
	err := p.conn.Close()
	<-p.served
	return errors.Join(ignoreClosed(err), ignoreClosed(p.ua.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (p *Phone) onInvite(req *sip.Request, tx sip.ServerTransaction) {
	if req.CallID() == nil || req.From() == nil || req.To() == nil || req.CSeq() == nil {
		p.respond(tx, sip.NewResponseFromRequest(req, 400, "Bad Request", nil))
		return
	}
	if tag, _ := req.To().Params.Get("tag"); tag != "" {
		p.reinvite(req, tx)
		return
	}
	if req.Contact() == nil {
		p.respond(tx, sip.NewResponseFromRequest(req, 400, "Missing Contact", nil))
		return
	}
	d, code, reason := p.newDialog(req, tx)
	if d == nil {
		p.respond(tx, sip.NewResponseFromRequest(req, code, reason, nil))
		return
	}
	// The transaction lives as long as its handler runs.
	d.run(req, tx)
}

func (p *Phone) reinvite(req *sip.Request, tx sip.ServerTransaction) {
	d := p.find(req)
	if d == nil {
		p.respond(tx, sip.NewResponseFromRequest(req, 481, "Call/Transaction Does Not Exist", nil))
		return
	}
	d.reinvite(req, tx)
}

func (p *Phone) onAck(req *sip.Request, _ sip.ServerTransaction) {
	if d := p.find(req); d != nil {
		d.acked(req)
	}
}

func (p *Phone) onBye(req *sip.Request, tx sip.ServerTransaction) {
	d := p.find(req)
	if d == nil {
		p.respond(tx, sip.NewResponseFromRequest(req, 481, "Call/Transaction Does Not Exist", nil))
		return
	}
	p.respond(tx, p.response(req, 200, "OK", nil))
	d.end(errHungUp)
}

// inDialog takes INFO, and UPDATE without SDP; an UPDATE with SDP is not offered
// in Allow and gets 488, which leaves the session as it was (RFC 3311 5.2).
func (p *Phone) inDialog(req *sip.Request, tx sip.ServerTransaction) {
	switch {
	case p.find(req) == nil:
		p.respond(tx, sip.NewResponseFromRequest(req, 481, "Call/Transaction Does Not Exist", nil))
	case req.Method == sip.UPDATE && len(req.Body()) > 0:
		p.respond(tx, p.response(req, 488, "Not Acceptable Here", nil))
	default:
		p.respond(tx, p.response(req, 200, "OK", nil))
	}
}

// key names a dialog from a request of the far side.
func key(req *sip.Request) string {
	if req.CallID() == nil || req.From() == nil {
		return ""
	}
	tag, _ := req.From().Params.Get("tag")
	return req.CallID().Value() + " " + tag
}

func (p *Phone) find(req *sip.Request) *dialog {
	p.mu.Lock()
	d := p.dialogs[key(req)]
	p.mu.Unlock()
	if d == nil || req.To() == nil {
		return nil
	}
	if tag, _ := req.To().Params.Get("tag"); tag != d.tag {
		return nil
	}
	return d
}

func (p *Phone) respond(tx sip.ServerTransaction, res *sip.Response) {
	if err := tx.Respond(res); err != nil {
		p.log.Debug("response not sent", "code", res.StatusCode, "err", err)
	}
}

// response answers within this phone's abilities.
func (p *Phone) response(req *sip.Request, code int, reason string, body []byte) *sip.Response {
	res := sip.NewResponseFromRequest(req, code, reason, body)
	contact := p.contact()
	res.AppendHeader(&contact)
	res.AppendHeader(sip.NewHeader("Allow", "INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, UPDATE"))
	if len(body) > 0 {
		res.AppendHeader(sip.NewHeader("Content-Type", "application/sdp"))
	}
	return res
}

func (p *Phone) contact() sip.ContactHeader {
	return sip.ContactHeader{Address: sip.Uri{
		Scheme: "sip", User: p.cfg.User, Host: hostOf(p.local), Port: int(p.local.Port()),
	}}
}

// hostOf writes an address as it stands in a URI: IPv6 in brackets.
func hostOf(a netip.AddrPort) string {
	if a.Addr().Is6() {
		return "[" + a.Addr().String() + "]"
	}
	return a.Addr().String()
}

// routes is the route set of a dialog that the far side began: Record-Route as
// it stands (RFC 3261 12.1.1).
func routes(req *sip.Request) []string {
	var l []string
	for _, h := range req.GetHeaders("Record-Route") {
		l = append(l, h.Value())
	}
	return slices.Clip(l)
}
