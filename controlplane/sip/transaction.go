package sip

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	gosip "github.com/emiago/sipgo/sip"
)

// maxTransactions bounds each table; beyond it requests are answered 503.
const maxTransactions = 100_000

// transactions are the two tables of RFC 3261 17.1.3 and 17.2.3.
type transactions struct {
	mu     sync.Mutex
	closed bool
	server map[string]*serverTx
	client map[string]*clientTx
	merged map[string]string      // 8.2.2.2: what a request is by From tag, Call-ID, CSeq; its key
	early  map[dialogID]*serverTx // 15: new INVITEs, by what a BYE before the answer says
	quiet  *slog.Logger           // sipgo's own lines say nothing a person could act on
}

func newTransactions() *transactions {
	return &transactions{
		server: map[string]*serverTx{}, client: map[string]*clientTx{}, merged: map[string]string{}, early: map[dialogID]*serverTx{},
		quiet: slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError + 1})),
	}
}

func (t *transactions) close() {
	t.mu.Lock()
	t.closed = true
	var all []interface{ Terminate() }
	for _, x := range t.server {
		all = append(all, x.tx)
	}
	for _, x := range t.client {
		all = append(all, x.tx)
	}
	t.mu.Unlock()
	for _, x := range all {
		x.Terminate()
	}
}

// len is the number of transactions, for tests and limits.
func (t *transactions) len() (server, client int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.server), len(t.client)
}

// serverKey identifies a request and its repetitions (17.2.3). The source
// address is part of it: nobody else can cancel, or be answered for.
func serverKey(f *flow, req *gosip.Request, method gosip.RequestMethod) string {
	if method == gosip.ACK {
		method = gosip.INVITE
	}
	via := req.Via()
	src := f.remote.Addr().String()
	branch, _ := via.Params.Get("branch")
	if len(branch) > len(gosip.RFC3261BranchMagicCookie) && strings.HasPrefix(strings.ToLower(branch), "z9hg4bk") {
		return strings.Join([]string{src, branch, strings.ToLower(via.Host), strconv.Itoa(via.Port), string(method)}, "\n")
	}
	// RFC 2543: no unique branch.
	return strings.Join([]string{src, "2543", req.CallID().Value(), tagOf(req.From().Params),
		strconv.FormatUint(uint64(req.CSeq().SeqNo), 10), via.Value(), string(method)}, "\n")
}

func tagOf(p gosip.HeaderParams) string {
	for _, kv := range p {
		if strings.EqualFold(kv.K, "tag") {
			return kv.V
		}
	}
	return ""
}

// mergeKey is the same for copies of one request that came by different ways.
func mergeKey(req *gosip.Request) string {
	return strings.Join([]string{req.CallID().Value(), tagOf(req.From().Params),
		strconv.FormatUint(uint64(req.CSeq().SeqNo), 10), string(req.Method)}, "\n")
}

// serverTx is a server transaction. sipgo's state machine would send whatever it
// was told last, so nothing is told to it after a final response.
type serverTx struct {
	s   *Server
	tx  *gosip.ServerTx
	req *gosip.Request
	f   *flow
	tag string // To-tag of our responses

	mu     sync.Mutex
	code   int // last response, 0 none
	cancel func()
}

var errBusy = errors.New("sip: too many transactions")

// serve makes the transaction of a request that has none yet.
func (s *Server) serve(f *flow, req *gosip.Request) (*serverTx, error) {
	key := serverKey(f, req, req.Method)
	x := &serverTx{s: s, req: req, f: f, tag: tagOf(req.To().Params)}
	if x.tag == "" {
		x.tag = s.tag(req)
	}
	t := s.txs
	t.mu.Lock()
	if t.closed || len(t.server) >= maxTransactions {
		t.mu.Unlock()
		return nil, errBusy
	}
	if t.server[key] != nil {
		t.mu.Unlock()
		return nil, errors.New("sip: transaction exists")
	}
	x.tx = gosip.NewServerTx(key, req, f.back(req), t.quiet)
	merge := mergeKey(req)
	if tagOf(req.To().Params) == "" {
		t.merged[merge] = key
	}
	id := dialogID{req.CallID().Value(), x.tag, tagOf(req.From().Params)}
	if req.IsInvite() && tagOf(req.To().Params) == "" {
		t.early[id] = x
	}
	t.server[key] = x
	x.tx.OnTerminate(func(string, error) {
		t.mu.Lock()
		delete(t.server, key)
		if t.merged[merge] == key {
			delete(t.merged, merge)
		}
		if t.early[id] == x {
			delete(t.early, id)
		}
		t.mu.Unlock()
	})
	t.mu.Unlock()
	return x, x.tx.Init()
}

// find returns the transaction a request belongs to.
func (t *transactions) find(key string) *serverTx {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.server[key]
}

// looped tells whether the request came before by another way (8.2.2.2).
func (t *transactions) looped(req *gosip.Request, key string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.merged[mergeKey(req)]
	return ok && k != key
}

// final tells whether the transaction has its final response, and whether that
// was a 2xx.
func (x *serverTx) final() (done, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.code >= 200, x.code >= 200 && x.code < 300
}

// respond sends a response, unless a final one went before it.
func (x *serverTx) respond(res *gosip.Response) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.respondLocked(res)
}

func (x *serverTx) respondLocked(res *gosip.Response) error {
	if x.code >= 200 {
		return errEnded
	}
	if res.StatusCode > x.code || res.StatusCode >= 200 {
		x.code = res.StatusCode
	}
	return x.tx.Respond(res)
}

var errEnded = errors.New("sip: the transaction has its final response")

// reply makes a response and sends it.
func (x *serverTx) reply(code int, reason string, body []byte, h ...gosip.Header) error {
	return x.respond(x.response(code, reason, body, h...))
}

// response makes a response of this transaction.
func (x *serverTx) response(code int, reason string, body []byte, h ...gosip.Header) *gosip.Response {
	return x.s.response(x.f, x.req, code, reason, x.tag, body, h...)
}

// response makes a response to a request.
func (s *Server) response(f *flow, req *gosip.Request, code int, reason, tag string, body []byte, h ...gosip.Header) *gosip.Response {
	if reason == "" {
		reason = reasonOf(code)
	}
	res := gosip.NewResponseFromRequest(req, code, reason, nil)
	if to := res.To(); code > 100 && to != nil && tag != "" {
		to.Params.Add("tag", tag)
	}
	for _, x := range h {
		res.AppendHeader(x)
	}
	if s.cfg.UserAgent != "" && code > 100 {
		res.AppendHeader(gosip.NewHeader("Server", s.cfg.UserAgent))
	}
	if body != nil {
		res.AppendHeader(gosip.NewHeader("Content-Type", "application/sdp"))
		res.SetBody(body)
	}
	markSource(res.Via(), f)
	return res
}

// markSource adds received and rport (RFC 3261 18.2.1, RFC 3581 4).
func markSource(via *gosip.ViaHeader, f *flow) {
	if via == nil {
		return
	}
	src := f.remote.Addr().String()
	if via.Params.Has("rport") {
		via.Params.Add("rport", strconv.Itoa(int(f.remote.Port())))
		via.Params.Add("received", src)
	} else if via.Host != src {
		via.Params.Add("received", src)
	} else {
		via.Params.Remove("received")
	}
}

// back is the flow responses to a request take: over UDP without rport they go
// to the port of the Via, not to the one the request came from (18.2.2).
func (f *flow) back(req *gosip.Request) *flow {
	via := req.Via()
	if f.udp == nil || via == nil || via.Params.Has("rport") {
		return f
	}
	port := uint16(via.Port)
	if port == 0 {
		port = UDP.defaultPort()
	}
	return f.udp.flowTo(addrPortOf(f.remote.Addr(), port))
}

// stateless answers a request that gets no transaction. The tag is the same for
// every repetition (8.2.7).
func (s *Server) stateless(f *flow, req *gosip.Request, code int, reason string, h ...gosip.Header) {
	if req.IsAck() {
		return
	}
	tag := tagOf(req.To().Params)
	if tag == "" {
		tag = s.tag(req)
	}
	if err := f.back(req).WriteMsg(s.response(f, req, code, reason, tag, nil, h...)); err != nil {
		s.log.Debug("response not sent", "code", code, "source", f.remote, "err", err)
	}
}

// clientTx is a client transaction.
type clientTx struct {
	tx *gosip.ClientTx
	f  *flow

	mu   sync.Mutex
	done bool // an INVITE has its failure; its repetitions are ACKed here
}

// request starts a client transaction. The caller must read its responses until
// a final one or the end.
func (s *Server) request(f *flow, req *gosip.Request) (*clientTx, error) {
	if !f.alive() {
		return nil, errFlowGone
	}
	req.SetTransport(string(f.transport))
	req.SetDestination(f.remote.String())
	key, err := gosip.ClientTxKeyMake(req)
	if err != nil {
		return nil, err
	}
	t := s.txs
	x := &clientTx{f: f, tx: gosip.NewClientTx(key, req, f, t.quiet)}
	t.mu.Lock()
	if t.closed || len(t.client) >= maxTransactions {
		t.mu.Unlock()
		return nil, errBusy
	}
	t.client[key] = x
	x.tx.OnTerminate(func(string, error) {
		t.mu.Lock()
		delete(t.client, key)
		t.mu.Unlock()
	})
	t.mu.Unlock()
	if err := x.tx.Init(); err != nil {
		x.tx.Terminate()
		return nil, err
	}
	return x, nil
}

// roundTrip sends a request other than INVITE and waits for its final response.
// A time-out is 408, a lost connection 503 (8.1.3.1).
func (s *Server) roundTrip(ctx context.Context, f *flow, req *gosip.Request) (*gosip.Response, error) {
	x, err := s.request(f, req)
	if err != nil {
		return localResponse(req, 503, "Service Unavailable"), err
	}
	for {
		select {
		case res := <-x.tx.Responses():
			if res.StatusCode >= 200 {
				return res, nil
			}
		case <-x.tx.Done():
			return localFailure(req, x.tx.Err()), x.tx.Err()
		case <-f.lost():
			x.tx.Terminate()
			return localResponse(req, 503, "Service Unavailable"), errFlowGone
		case <-ctx.Done():
			x.tx.Terminate()
			return localResponse(req, 408, "Request Timeout"), ctx.Err()
		}
	}
}

func localFailure(req *gosip.Request, err error) *gosip.Response {
	if errors.Is(err, gosip.ErrTransactionTimeout) {
		return localResponse(req, 408, "Request Timeout")
	}
	return localResponse(req, 503, "Service Unavailable")
}

// localResponse stands for a response that never came.
func localResponse(req *gosip.Request, code int, reason string) *gosip.Response {
	return gosip.NewResponseFromRequest(req, code, reason, nil)
}
