package gateway

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sluicegw/sluice/appliance/config"
	"github.com/sluicegw/sluice/appliance/webphone"
)

// Bounds of the HTTP server. A client that sends its head slower, or reads its
// answer slower, is cut off.
const (
	headTime   = 5 * time.Second
	bodyTime   = 10 * time.Second
	answerTime = 30 * time.Second
	idleTime   = 60 * time.Second
	headSize   = 16 << 10
)

func (g *Gateway) openHTTP() error {
	h, err := g.handler()
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", g.cfg.HTTP.Listen.AddrPort.String())
	if err != nil {
		return listenError("http.listen", err)
	}
	g.listener = newBounded(ln, g.cfg.Limits.Connections, g.cfg.Limits.ConnectionsPerAddress)
	g.http = &http.Server{
		Handler: h, ReadHeaderTimeout: headTime, ReadTimeout: bodyTime, WriteTimeout: answerTime,
		IdleTimeout: idleTime, MaxHeaderBytes: headSize,
		ErrorLog: slog.NewLogLogger(g.log.With("part", "http").Handler(), slog.LevelDebug),
	}
	if !g.cfg.HTTP.TLS {
		return nil
	}
	conf, err := serverTLS(g.cfg.TLS)
	if err != nil {
		return err
	}
	// WebSockets are HTTP/1.1 (RFC 6455); the web phone needs nothing newer.
	conf.NextProtos = []string{"http/1.1"}
	g.listener = tls.NewListener(g.listener, conf)
	return nil
}

// listenError says which setting to change.
func listenError(setting string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s: %w: stop what uses it, or change %s", setting, err, setting)
	}
	return fmt.Errorf("%s: %w: change %s", setting, err, setting)
}

func (g *Gateway) serveHTTP() error { return g.http.Serve(g.listener) }

func (g *Gateway) handler() (http.Handler, error) {
	phone, err := webphone.Handler(webphone.Settings{Domain: g.cfg.Domain})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", phone)
	mux.HandleFunc("GET /ws", g.sip.ServeWS)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !g.ready.Load() {
			say(w, http.StatusServiceUnavailable, "not ready")
			return
		}
		say(w, http.StatusOK, "ready")
	})
	metrics := promhttp.HandlerFor(g.metrics.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
	mux.Handle("GET /metrics", from(g.cfg.HTTP.Metrics, metrics))
	return harden(mux, g.cfg.HTTP.TLS), nil
}

func say(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text + "\n"))
}

// harden sets what every answer carries. The web phone adds its own policy.
func harden(h http.Handler, secure bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h1 := w.Header()
		h1.Set("X-Content-Type-Options", "nosniff")
		h1.Set("X-Frame-Options", "DENY")
		h1.Set("Referrer-Policy", "no-referrer")
		h1.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		if secure {
			h1.Set("Strict-Transport-Security", "max-age=31536000")
		}
		h.ServeHTTP(w, r)
	})
}

// from lets only requests from the prefixes through.
func from(allowed []config.Prefix, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !slices.ContainsFunc(allowed, func(p config.Prefix) bool { return p.Contains(a.Addr().Unmap()) }) {
			say(w, http.StatusForbidden, "not from your address: add it to http.metrics")
			return
		}
		h.ServeHTTP(w, r)
	})
}

// bounded is a listener that closes connections beyond its bounds at once, so
// that they cost a file for a moment only and never keep others waiting.
type bounded struct {
	net.Listener
	max, perAddress int

	mu    sync.Mutex
	total int
	by    map[netip.Addr]int
}

func newBounded(l net.Listener, total, perAddress int) *bounded {
	return &bounded{Listener: l, max: total, perAddress: perAddress, by: map[netip.Addr]int{}}
}

func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if b.take(addr) {
			return &boundedConn{Conn: c, leave: sync.OnceFunc(func() { b.leave(addr) })}, nil
		}
		_ = c.Close()
	}
}

func (b *bounded) take(a netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.total >= b.max || b.by[a] >= b.perAddress {
		return false
	}
	b.total++
	b.by[a]++
	return true
}

func (b *bounded) leave(a netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total--
	if b.by[a]--; b.by[a] == 0 {
		delete(b.by, a)
	}
}

type boundedConn struct {
	net.Conn
	leave func()
}

func (c *boundedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
