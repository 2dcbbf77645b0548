package sip

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// streamListener accepts TCP or TLS connections.
type streamListener struct {
	s         *Server
	net       *network
	transport Transport
	ln        net.Listener
	local     netip.AddrPort
}

func (l *streamListener) serve() {
	for {
		c, err := l.ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			l.s.log.Warn("accept", "listener", l.local, "err", err)
			select {
			case <-l.s.closing:
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		remote := addrPort(c.RemoteAddr())
		release, ok := l.s.admit(visitor{remote.Addr(), false})
		if !ok {
			l.s.log.Warn("connection refused: too many", "transport", l.transport, "source", remote)
			c.Close()
			continue
		}
		f := l.s.newStream(l.net, l.transport, c, false)
		l.s.wg.Go(func() {
			defer release()
			if t, ok := c.(*tls.Conn); ok {
				ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
				err := t.HandshakeContext(ctx)
				cancel()
				if err != nil {
					l.s.log.Debug("tls handshake", "source", remote, "err", err)
					l.s.dropFlow(f)
					return
				}
			}
			l.s.serveStream(f, c)
		})
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	ap, _ := netip.ParseAddrPort(a.String())
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// visitor is what connections are counted by.
type visitor struct {
	addr netip.Addr
	web  bool
}

// admit counts a connection of an address, until release is called.
func (s *Server) admit(a visitor) (release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.connections >= s.cfg.Connections.Total || s.perAddr[a] >= s.cfg.Connections.PerAddress {
		return nil, false
	}
	s.connections++
	s.perAddr[a]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.connections--
		if s.perAddr[a]--; s.perAddr[a] == 0 {
			delete(s.perAddr, a)
		}
	}, true
}

// newStream makes the flow of a connection; serveStream runs it.
func (s *Server) newStream(n *network, t Transport, c net.Conn, dialled bool) *flow {
	f := &flow{
		s: s, net: n, transport: t, token: "c" + rand.Text(), dialled: dialled,
		local: addrPort(c.LocalAddr()), remote: addrPort(c.RemoteAddr()),
		out: make(chan []byte, outboxLen), gone: make(chan struct{}),
	}
	f.stop = func() { c.Close() }
	raw := c
	if t, ok := c.(*tls.Conn); ok {
		raw = t.NetConn()
	}
	if t, ok := raw.(*net.TCPConn); ok {
		f.reset = func() { _ = t.SetLinger(0) }
		_ = t.SetWriteBuffer(kernelBuffer)
		f.stop = func() { t.Close() } // of TLS it would wait for a slow reader
	}
	s.addFlow(f)
	return f
}

func (s *Server) addFlow(f *flow) {
	s.mu.Lock()
	s.flows[f.token] = f
	closing := s.closed
	s.mu.Unlock()
	if closing {
		f.end()
	}
}

// dropFlow tells everybody that a connection is gone.
func (s *Server) dropFlow(f *flow) {
	f.end()
	s.mu.Lock()
	delete(s.flows, f.token)
	s.mu.Unlock()
	if err := s.cfg.Location.DropFlow(context.Background(), f.token); err != nil {
		s.log.Warn("location", "err", err)
	}
	s.flowLost(f)
}

// serveStream reads messages until the connection ends.
func (s *Server) serveStream(f *flow, c net.Conn) {
	defer s.dropFlow(f)
	s.wg.Go(func() {
		f.writer(func(b []byte) error {
			c.SetWriteDeadline(time.Now().Add(writeTimeout))
			_, err := c.Write(b)
			return err
		})
	})
	r := bufio.NewReaderSize(c, 4096)
	for {
		// Between messages a stranger may be silent for a while, somebody known
		// for as long as the network's own keep-alive lets him.
		idle := time.Time{}
		if !f.trusted.Load() && !f.dialled {
			idle = time.Now().Add(strangerIdle)
		}
		c.SetReadDeadline(idle)
		if _, err := r.Peek(1); err != nil {
			return
		}
		c.SetReadDeadline(time.Now().Add(readTimeout))
		msg, err := readFrame(r)
		if err != nil {
			// There is no way to find the next message: close.
			var fe *frameError
			if errors.As(err, &fe) {
				s.refuseRaw(f, fe.head, fe.code, fe.reason)
				f.flush()
			}
			return
		}
		s.receive(f, msg)
		if !f.alive() {
			return
		}
	}
}

// flush waits a moment for the outbox to empty, before a connection is closed.
func (f *flow) flush() {
	for range 50 {
		if len(f.out) == 0 {
			break
		}
		select {
		case <-f.gone:
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
	select {
	case <-f.gone:
	case <-time.After(5 * time.Millisecond):
	}
}

// frameError is a message whose end cannot be found.
type frameError struct {
	code   int
	reason string
	head   []byte
}

func (e *frameError) Error() string { return fmt.Sprintf("sip: %d %s", e.code, e.reason) }

// readFrame reads one message, or one keep-alive of CRLFs (RFC 5626 3.5.1). The
// end is found by Content-Length, which a stream must have (RFC 3261 18.3).
func readFrame(r *bufio.Reader) ([]byte, error) {
	var buf []byte
	for {
		line, err := r.ReadSlice('\n')
		buf = append(buf, line...)
		if len(buf) > maxMessage {
			return nil, &frameError{513, "Message Too Large", buf}
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(bytes.TrimLeft(buf, "\r\n")) == 0 {
			// Keep-alive so far. Two CRLF are a ping; what follows is a message.
			if len(buf) == 4 || r.Buffered() == 0 {
				return buf, nil
			}
			continue
		}
		if bytes.HasSuffix(buf, []byte("\r\n\r\n")) {
			break
		}
		if bytes.HasSuffix(buf, []byte("\n\n")) {
			return nil, &frameError{400, "Bad Request (lines end in CRLF)", buf}
		}
	}
	n, err := contentLength(buf)
	if err != nil {
		return nil, &frameError{400, "Bad Request (" + err.Error() + ")", buf}
	}
	if len(buf)+n > maxMessage {
		return nil, &frameError{513, "Message Too Large", buf}
	}
	for n > 0 {
		chunk := min(n, 4096)
		at := len(buf)
		buf = append(buf, make([]byte, chunk)...)
		m, err := readFull(r, buf[at:])
		if err != nil {
			return nil, err
		}
		n -= m
	}
	return buf, nil
}

func readFull(r *bufio.Reader, b []byte) (int, error) {
	at := 0
	for at < len(b) {
		n, err := r.Read(b[at:])
		at += n
		if err != nil {
			return at, err
		}
	}
	return at, nil
}

var (
	errNoLength  = errors.New("Content-Length missing")
	errBadLength = errors.New("Content-Length is not a number, or there are two")
)

// contentLength finds the length in an unparsed head. Two that differ would let
// the two ends of a connection disagree on where a message ends.
func contentLength(head []byte) (int, error) {
	found := -1
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			continue
		}
		name = bytes.TrimRight(name, " \t")
		if !bytes.EqualFold(name, []byte("Content-Length")) && !bytes.EqualFold(name, []byte("l")) {
			continue
		}
		n, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 10, 31)
		if err != nil || found >= 0 {
			return 0, errBadLength
		}
		found = int(n)
	}
	if found < 0 {
		return 0, errNoLength
	}
	return found, nil
}

// dialKey names a connection that we opened, to be used again.
type dialKey struct {
	net       *network
	transport Transport
	remote    netip.AddrPort
	name      string // TLS server name
}

// dial is a connection attempt that several requests may wait for.
type dial struct {
	done chan struct{}
	f    *flow
	err  error
}

// connect returns a connection to remote, an existing one if there is one.
func (s *Server) connect(ctx context.Context, k dialKey) (*flow, error) {
	s.mu.Lock()
	d := s.dials[k]
	if d != nil {
		select {
		case <-d.done:
			if d.err != nil || !d.f.alive() {
				d = nil
			}
		default:
		}
	}
	if d == nil {
		if s.closed {
			s.mu.Unlock()
			return nil, errFlowGone
		}
		d = &dial{done: make(chan struct{})}
		s.dials[k] = d
		s.wg.Go(func() { s.open(k, d) })
	}
	s.mu.Unlock()
	select {
	case <-d.done:
		return d.f, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// open dials and then serves the connection.
func (s *Server) open(k dialKey, d *dial) {
	ctx, cancel := context.WithTimeout(s.ctx, readTimeout)
	c, err := dialStream(ctx, k)
	cancel()
	defer func() {
		s.mu.Lock()
		if s.dials[k] == d {
			delete(s.dials, k)
		}
		s.mu.Unlock()
	}()
	if err != nil {
		d.err = err
		close(d.done)
		return
	}
	d.f = s.newStream(k.net, k.transport, c, true)
	close(d.done)
	s.serveStream(d.f, c)
}

func dialStream(ctx context.Context, k dialKey) (net.Conn, error) {
	var nd net.Dialer
	c, err := nd.DialContext(ctx, "tcp", k.remote.String())
	if err != nil || k.transport != TLS {
		return c, err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if k.net.clientTLS != nil {
		conf = k.net.clientTLS.Clone()
	}
	if conf.ServerName == "" {
		conf.ServerName = k.name
	}
	t := tls.Client(c, conf)
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return t, nil
}
