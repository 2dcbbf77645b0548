package demo

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"
	"github.com/icholy/digest"
	"github.com/pion/rtp"
)

const wait = 5 * time.Second

// registrar stands in for the gateway: a registrar that asks for a password, and a
// caller. It is built on sipgo's messages and transactions only.
type registrar struct {
	t      *testing.T
	addr   netip.AddrPort
	client *sipgo.Client
	byes   chan *sip.Request

	mu      sync.Mutex
	contact string // of the last REGISTER that was let in
	expires string
}

func newGateway(t *testing.T) *registrar {
	t.Helper()
	g := &registrar{t: t, byes: make(chan *sip.Request, 8)}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.addr = conn.LocalAddr().(*net.UDPAddr).AddrPort()
	ua, err := sipgo.NewUA(sipgo.WithUserAgentHostname("gw.test"))
	if err != nil {
		t.Fatal(err)
	}
	g.client, err = sipgo.NewClient(ua, sipgo.WithClientAddr(g.addr.String()), sipgo.WithClientConnectionAddr(g.addr.String()))
	if err != nil {
		t.Fatal(err)
	}
	srv, err := sipgo.NewServer(ua)
	if err != nil {
		t.Fatal(err)
	}
	srv.OnRegister(g.register)
	srv.OnBye(func(req *sip.Request, tx sip.ServerTransaction) {
		_ = tx.Respond(sip.NewResponseFromRequest(req, 200, "OK", nil))
		g.byes <- req
	})
	served := make(chan struct{})
	serving := &servedConn{PacketConn: conn, reading: make(chan struct{})}
	go func() { defer close(served); _ = srv.ServeUDP(serving) }()
	<-serving.reading
	t.Cleanup(func() {
		_ = conn.Close()
		<-served
		_ = ua.Close()
	})
	return g
}

func (g *registrar) register(req *sip.Request, tx sip.ServerTransaction) {
	chal := &digest.Challenge{Realm: "gw.test", Nonce: "n1", Algorithm: "MD5", QOP: []string{"auth"}}
	ok := false
	if h := req.GetHeader("Authorization"); h != nil {
		if cred, err := digest.ParseCredentials(h.Value()); err == nil {
			want, err := digest.Digest(chal, digest.Options{Method: "REGISTER", URI: cred.URI, Username: "echo",
				Password: "secret", Cnonce: cred.Cnonce, Count: cred.Nc})
			ok = err == nil && want.Response == cred.Response
		}
	}
	if !ok {
		res := sip.NewResponseFromRequest(req, 401, "Unauthorized", nil)
		res.AppendHeader(sip.NewHeader("WWW-Authenticate", chal.String()))
		_ = tx.Respond(res)
		return
	}
	g.mu.Lock()
	g.contact, g.expires = req.Contact().Address.String(), req.GetHeader("Expires").Value()
	g.mu.Unlock()
	_ = tx.Respond(sip.NewResponseFromRequest(req, 200, "OK", nil))
}

func (g *registrar) registered() (contact, expires string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.contact, g.expires
}

func startPhone(t *testing.T, g *registrar, b Behaviour) *Phone {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	p, err := Start(ctx, Config{Registrar: g.addr, Domain: "gw.test", User: "echo", Password: "secret",
		Behaviour: b, Early: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return p
}

// caller is one call to a phone with its RTP socket.
type caller struct {
	g    *registrar
	t    *testing.T
	rtp  *net.UDPConn
	req  *sip.Request
	tx   sip.ClientTransaction
	cseq uint32
	ok   *sip.Response
}

func (g *registrar) call(body string) *caller {
	g.t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = conn.Close() })
	c := &caller{g: g, t: g.t, rtp: conn, cseq: 1}
	c.req = c.request(sip.INVITE)
	if body != "" {
		c.req.SetBody([]byte(c.sdp(body)))
		c.req.AppendHeader(sip.NewHeader("Content-Type", "application/sdp"))
	}
	c.send()
	return c
}

// sdp fills a template in: $port, $host.
func (c *caller) sdp(template string) string {
	a := c.rtp.LocalAddr().(*net.UDPAddr)
	r := strings.NewReplacer("$port", fmt.Sprint(a.Port), "$host", "127.0.0.1", "\n", "\r\n")
	return r.Replace(template)
}

const audioOffer = `v=0
o=- 1 1 IN IP4 $host
s=-
c=IN IP4 $host
t=0 0
m=audio $port RTP/AVP 111 8 0 101
a=rtpmap:111 opus/48000/2
a=rtpmap:101 telephone-event/8000
`

func (c *caller) request(method sip.RequestMethod) *sip.Request {
	c.t.Helper()
	contact, _ := c.g.registered()
	var uri sip.Uri
	if err := sip.ParseUri(contact, &uri); err != nil {
		c.t.Fatalf("contact %q: %v", contact, err)
	}
	req := sip.NewRequest(method, uri)
	if c.req != nil {
		from, callID := *c.req.From(), *c.req.CallID()
		req.AppendHeader(&from)
		req.AppendHeader(&callID)
		if c.ok != nil {
			to := *c.ok.To()
			req.AppendHeader(&to)
		}
	}
	req.AppendHeader(&sip.CSeqHeader{SeqNo: c.cseq, MethodName: method})
	req.AppendHeader(&sip.ContactHeader{Address: sip.Uri{Scheme: "sip", Host: "127.0.0.1", Port: int(c.g.addr.Port())}})
	return req
}

func (c *caller) send() {
	c.t.Helper()
	tx, err := c.g.client.TransactionRequest(c.t.Context(), c.req, sipgo.ClientRequestBuild)
	if err != nil {
		c.t.Fatal(err)
	}
	c.tx = tx
	c.t.Cleanup(tx.Terminate)
}

// response waits for the next response that is not 100.
func (c *caller) response() *sip.Response {
	c.t.Helper()
	for {
		select {
		case res := <-c.tx.Responses():
			if res.StatusCode != 100 {
				return res
			}
		case <-c.tx.Done():
			c.t.Fatalf("transaction ended: %v", c.tx.Err())
		case <-time.After(wait):
			c.t.Fatal("no response")
		}
	}
}

// answered waits for the 200 and acknowledges it.
func (c *caller) answered() string {
	c.t.Helper()
	res := c.response()
	for res.StatusCode < 200 {
		res = c.response()
	}
	if res.StatusCode != 200 {
		c.t.Fatalf("answered %d %s", res.StatusCode, res.Reason)
	}
	c.ok = res
	ack := c.request(sip.ACK)
	if len(c.req.Body()) == 0 {
		ack.SetBody([]byte(c.sdp(audioOffer)))
	}
	if err := c.g.client.WriteRequest(ack, sipgo.ClientRequestBuild); err != nil {
		c.t.Fatal(err)
	}
	return string(res.Body())
}

// again sends a re-INVITE and returns the answer's SDP.
func (c *caller) again(body string) string {
	c.t.Helper()
	c.cseq++
	req := c.request(sip.INVITE)
	req.SetBody([]byte(c.sdp(body)))
	req.AppendHeader(sip.NewHeader("Content-Type", "application/sdp"))
	c.req = req
	c.send()
	return c.answered()
}

// do sends a request within the dialog and returns its status.
func (c *caller) do(method sip.RequestMethod) int {
	c.t.Helper()
	c.cseq++
	ctx, cancel := context.WithTimeout(c.t.Context(), wait)
	defer cancel()
	res, err := c.g.client.Do(ctx, c.request(method), sipgo.ClientRequestBuild)
	if err != nil {
		c.t.Fatalf("%s: %v", method, err)
	}
	return res.StatusCode
}

// mediaOf reads where an SDP wants its RTP.
func mediaOf(t *testing.T, body string) netip.AddrPort {
	t.Helper()
	var port uint16
	for line := range strings.Lines(body) {
		if n, _ := fmt.Sscanf(line, "m=audio %d", &port); n == 1 {
			return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
		}
	}
	t.Fatalf("no audio in %q", body)
	return netip.AddrPort{}
}

// hear reads RTP packets until enough came.
func (c *caller) hear(n int) []rtp.Packet {
	c.t.Helper()
	var got []rtp.Packet
	buf := make([]byte, 1500)
	_ = c.rtp.SetReadDeadline(time.Now().Add(wait))
	for len(got) < n {
		l, _, err := c.rtp.ReadFromUDPAddrPort(buf)
		if err != nil {
			c.t.Fatalf("heard %d packets of %d: %v", len(got), n, err)
		}
		var p rtp.Packet
		if err := p.Unmarshal(append([]byte(nil), buf[:l]...)); err != nil {
			c.t.Fatal(err)
		}
		got = append(got, p)
	}
	return got
}
