package sip

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func TestOrigin(t *testing.T) {
	for _, c := range []struct {
		origin, host string
		allowed      []string
		want         bool
	}{
		{"", "gw.test", nil, true},
		{"https://gw.test", "gw.test", nil, true},
		{"http://gw.test:8080", "gw.test:8080", nil, true},
		{"http://gw.test:8081", "gw.test:8080", nil, false},
		{"https://evil.test", "gw.test", nil, false},
		{"null", "gw.test", nil, false},
		{"https://gw.test.evil.test", "gw.test", []string{"https://gw.test"}, false},
		{"http://127.0.0.1:5173", "127.0.0.1:8080", []string{"http://127.0.0.1:*"}, true},
		{"https://127.0.0.1:5173", "127.0.0.1:8080", []string{"http://127.0.0.1:*"}, false},
		{"http://127.0.0.1.evil.test:1", "127.0.0.1:8080", []string{"http://127.0.0.1:*"}, false},
		{"http://[::1]:5173", "x", []string{"http://[::1]:*"}, true},
		{"https://a.example.com", "x", []string{"https://*.example.com"}, true},
		{"https://example.com", "x", []string{"https://*.example.com"}, false},
		{"https://a.b.example.com", "x", []string{"https://*.example.com"}, false},
		{"https://evilexample.com", "x", []string{"https://*.example.com"}, false},
		{"https://phone.test:443", "x", []string{"https://phone.test"}, true},
		{"https://phone.test@evil.test", "x", []string{"https://phone.test"}, false},
	} {
		r := &http.Request{Host: c.host, Header: http.Header{}, URL: &url.URL{}}
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		if got := originAllowed(r, c.allowed); got != c.want {
			t.Errorf("%q at %q with %q: %v", c.origin, c.host, c.allowed, got)
		}
	}
}

func (w *world) dialWS(o *websocket.DialOptions) (*websocket.Conn, int, error) {
	c, res, err := websocket.Dial(context.Background(), strings.Replace(w.web.URL, "http", "ws", 1), o)
	code := 0
	if res != nil {
		code = res.StatusCode
	}
	return c, code, err
}

func TestWebSocketRefuses(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Connections.PerAddress = 2 })
	if _, code, err := w.dialWS(&websocket.DialOptions{}); err == nil || code != 400 {
		t.Errorf("without a subprotocol: %d %v", code, err)
	}
	o := &websocket.DialOptions{Subprotocols: []string{"sip"}, HTTPHeader: http.Header{"Origin": {"https://evil.test"}}}
	if _, code, err := w.dialWS(o); err == nil || code != 403 {
		t.Errorf("foreign Origin: %d %v", code, err)
	}
	o = &websocket.DialOptions{Subprotocols: []string{"sip"}}
	for range 2 {
		c, _, err := w.dialWS(o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
	}
	if _, code, err := w.dialWS(o); err == nil || code != 503 {
		t.Errorf("one connection too many: %d %v", code, err)
	}
}

// The bound on all connections goes for WebSocket and TCP together.
func TestConnectionsTotal(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Connections.Total = 2 })
	w.newPeer("phone1", "TCP").register("")
	w.newPeer("phone2", "WS").register("")
	if _, code, err := w.dialWS(&websocket.DialOptions{Subprotocols: []string{"sip"}}); err == nil || code != 503 {
		t.Errorf("a third WebSocket: %d %v", code, err)
	}
	third := w.deafTCP()
	defer third.Close()
	_ = third.SetReadDeadline(time.Now().Add(patience))
	if _, err := third.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a third TCP connection was kept: %v", err)
	}
}

func TestWebSocketKeepAlive(t *testing.T) {
	w := newWorld(t)
	c, _, err := w.dialWS(&websocket.DialOptions{Subprotocols: []string{"sip"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte("\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if _, b, err := c.Read(ctx); err != nil || string(b) != "\r\n" {
		t.Fatalf("pong %q %v", b, err)
	}
	if err := c.Write(ctx, websocket.MessageText, []byte(strings.Repeat("a", maxMessage+1))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
		t.Fatalf("64 KiB and more: %v", err)
	}
}

// A browser that vanishes without a word is found by ping; the same user and
// instance takes the call back over a new connection.
func TestReconnect(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(p *pace) { p.ping, p.pong = 20*time.Millisecond, 100*time.Millisecond })
	instance := `;+sip.instance="<urn:uuid:web>";reg-id=1`

	dead := w.newDeaf("web1", instance)
	l, d, h := dead.leg, dead.d, dead.h
	h.want(t, "flow false")
	if err := d.Info(context.Background(), "application/dtmf-relay", []byte("x")); err == nil {
		t.Fatal("INFO into a dead socket succeeds")
	}

	p := w.newPeer("web1", "WS")
	p.register(instance)
	h.want(t, "flow true")
	done := make(chan error, 1)
	go func() { done <- d.Info(context.Background(), "application/dtmf-relay", []byte("Signal=1")) }()
	info := p.request("INFO")
	p.reply(info, 200, "", "", "")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	l.p = p
	l.do("BYE", "", "")
	p.response(200, "BYE")
	h.want(t, "bye")
}

// A request of the dialog by a new connection brings it back too, but not
// somebody else's.
func TestReconnectByRequest(t *testing.T) {
	w := newWorld(t)
	p := w.newPeer("web1", "WS")
	p.register("")
	l, _, h := w.in(p, "")
	p.stop()
	h.want(t, "flow false")

	thief := w.newPeer("phone1", "WS")
	thief.register("")
	l.p = thief
	l.do("BYE", "", "")
	if res := thief.final("BYE"); res.StatusCode != 407 {
		t.Fatalf("BYE by somebody else: %d", res.StatusCode)
	}
	l.do("BYE", thief.credentials(mustChallenge(l, thief), "BYE", l.target)+"\n", "")
	if res := thief.final("BYE"); res.StatusCode != 403 {
		t.Fatalf("BYE with somebody else's credentials: %d", res.StatusCode)
	}

	q := w.newPeer("web1", "WS")
	l.p = q
	l.do("UPDATE", "", "")
	res := q.final("UPDATE")
	if res.StatusCode != 407 {
		t.Fatalf("UPDATE on an unknown connection: %d", res.StatusCode)
	}
	l.do("UPDATE", q.credentials(res, "UPDATE", l.target)+"\n", "")
	q.response(200, "UPDATE")
	h.want(t, "flow true")
}

func TestManyIdleConnections(t *testing.T) {
	w := newWorld(t)
	for range 50 { // each says nothing
		c, _, err := w.dialWS(&websocket.DialOptions{Subprotocols: []string{"sip"}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		q := w.newPeer("", "TCP")
		_ = q.write([]byte("INVITE sip:x@y SIP/2.0\r\nVia: "))
	}
	p := w.newPeer("phone1", "WS")
	p.register("")
	q := w.newPeer("phone2", "TCP")
	q.register("")
}
