package sip

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/controlplane/location"
)

// Transport is a SIP transport as it stands in a Via.
type Transport string

// The transports of RFC 3261 and RFC 7118.
const (
	UDP Transport = "UDP"
	TCP Transport = "TCP"
	TLS Transport = "TLS"
	WS  Transport = "WS"
	WSS Transport = "WSS"
)

// stream tells whether the transport is reliable (RFC 3261 17).
func (t Transport) stream() bool { return t != UDP }

// web tells whether the transport is a WebSocket: the far side is a browser.
func (t Transport) web() bool { return t == WS || t == WSS }

// defaultPort of RFC 3261 19.1.2 and RFC 7118 5.
func (t Transport) defaultPort() uint16 {
	switch t {
	case TLS:
		return 5061
	case WS:
		return 80
	case WSS:
		return 443
	}
	return 5060
}

// Algorithm is a digest algorithm of RFC 8760.
type Algorithm string

// The digest algorithms that are understood.
const (
	MD5    Algorithm = "MD5"
	SHA256 Algorithm = "SHA-256"
)

// Users looks up who may register and call.
type Users interface {
	// Password returns a user's password. It must take the same time for a user
	// that does not exist.
	Password(user string) (password string, ok bool)
}

// HashedUsers is implemented by Users that know only the hashes of some
// passwords.
type HashedUsers interface {
	// HA1 returns the hash of NAME:DOMAIN:PASSWORD in lower-case hexadecimal
	// (RFC 7616 3.4.2), which stands in for the password with this algorithm
	// only. The same goes for the time it takes.
	HA1(user string, a Algorithm) (ha1 string, ok bool)
}

// Trunk is a peer that is known by its addresses: a PBX or a carrier. What
// comes from them needs no digest.
type Trunk struct {
	Name    string
	Network string         // "" any
	Sources []netip.Prefix // requests from these are the trunk's
}

// Listener is one socket to listen on.
type Listener struct {
	Transport Transport      // UDP, TCP or TLS
	Addr      netip.AddrPort // port 0: any free one
	Setting   string         // name of the configuration setting, for errors; "" none
}

// Network is a named side of the gateway.
type Network struct {
	Name      string
	Listeners []Listener
	// Advertise stands in Via and Contact, for 1:1 NAT: at most one address of
	// each family, for far sides of that family. Where there is none it is the
	// listener's own address, or, when that is unspecified, the one the route
	// goes out by.
	Advertise []netip.Addr
	// TLS is needed by a TLS listener; its ClientConfig is used for what the
	// gateway dials.
	TLS       *tls.Config
	ClientTLS *tls.Config // nil: the system's roots
}

// WebSocket is what ServeWS asks of browsers.
type WebSocket struct {
	Network string // the network that browsers belong to, "" the first
	// Origins are the allowed values of Origin besides the host the request was
	// sent to: scheme://host[:port], where "*" may stand for the port or for a
	// left-most label ("https://*.example.com", "http://127.0.0.1:*").
	Origins []string
}

// Config of a Server.
type Config struct {
	Domain string // of the users; also the digest realm
	// Hosts are the IP addresses and names by which phones may call this server
	// besides its domain, what it advertises and where it listens.
	Hosts     []string
	Networks  []Network
	WebSocket WebSocket
	Users     Users
	Trunks    []Trunk
	Location  location.Store
	Logger    *slog.Logger // nil: discard
	UserAgent string       // Server and User-Agent header, "" none
	// Digest lists the algorithms a challenge offers, most wanted first
	// (RFC 8760 2.4); towards browsers MD5 comes first wherever it is listed,
	// because JsSIP looks at the first challenge only and knows only MD5. nil:
	// MD5 alone, because libre 1.x gives up when it sees another one anywhere.
	// Answers in either algorithm are taken whatever is offered.
	Digest []Algorithm
	// Connections bound what is open at a time over TCP, TLS and WebSocket, of
	// all networks together and from one address; the latter counts WebSockets
	// apart from the others. 0: 10000 and 256.
	Connections struct{ Total, PerAddress int }
	// Expires bounds registrations: shorter ones get 423, longer ones are cut.
	// Zero: 30 s and 1 h. A REGISTER that asks for nothing gets Max.
	Expires struct{ Min, Max time.Duration }
	// OnInvite takes an authenticated INVITE. It is called on a goroutine of its
	// own and must end the Invite by Accept or Reject.
	OnInvite func(call.Invite)
}

// validate reports every fault at once and fills in the defaults.
func (c *Config) validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("sip: "+format, a...)) }
	if c.Domain == "" || strings.ContainsAny(c.Domain, " \t\r\n\"<>;,") {
		bad("domain %q is not a host name", c.Domain)
	}
	if len(c.Networks) == 0 {
		bad("no network")
	}
	if c.Users == nil || c.Location == nil || c.OnInvite == nil {
		bad("Users, Location and OnInvite are needed")
	}
	names := map[string]bool{}
	for _, n := range c.Networks {
		if names[n.Name] {
			bad("network %q is named twice", n.Name)
		}
		names[n.Name] = true
		for _, l := range n.Listeners {
			switch {
			case l.Transport != UDP && l.Transport != TCP && l.Transport != TLS:
				bad("network %q: a listener cannot be %q; WebSockets come in by ServeWS", n.Name, l.Transport)
			case l.Transport == TLS && n.TLS == nil:
				bad("network %q: a TLS listener needs a certificate", n.Name)
			case !l.Addr.IsValid():
				bad("network %q: a listener has no address", n.Name)
			}
		}
	}
	if w := c.WebSocket.Network; w != "" && !names[w] {
		bad("websocket network %q does not exist", w)
	}
	for _, t := range c.Trunks {
		if t.Name == "" {
			bad("a trunk has no name")
		}
		if t.Network != "" && !names[t.Network] {
			bad("trunk %q: network %q does not exist", t.Name, t.Network)
		}
	}
	for _, a := range c.Digest {
		if a != MD5 && a != SHA256 {
			bad("digest algorithm %q: use MD5 or SHA-256", a)
		}
	}
	if c.Expires.Min == 0 {
		c.Expires.Min = 30 * time.Second
	}
	if c.Expires.Max == 0 {
		c.Expires.Max = time.Hour
	}
	if c.Expires.Min > c.Expires.Max {
		bad("registrations: the shortest (%s) is longer than the longest (%s)", c.Expires.Min, c.Expires.Max)
	}
	if c.Connections.Total == 0 {
		c.Connections.Total = 10_000
	}
	if c.Connections.PerAddress == 0 {
		c.Connections.PerAddress = 256
	}
	if len(c.Digest) == 0 {
		c.Digest = []Algorithm{MD5}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return errors.Join(errs...)
}

// offered are the algorithms of the challenges on a transport, in their order.
func (c *Config) offered(t Transport) []Algorithm {
	if !t.web() || !slices.Contains(c.Digest, MD5) {
		return c.Digest
	}
	l := []Algorithm{MD5}
	for _, a := range c.Digest {
		if a != MD5 {
			l = append(l, a)
		}
	}
	return l
}

// ListenError is a listener that could not be opened, with what to change.
type ListenError struct {
	Listener Listener
	Err      error
}

func (e *ListenError) Error() string {
	what := ""
	if e.Listener.Setting != "" {
		what = ": change " + e.Listener.Setting
	}
	return fmt.Sprintf("sip: cannot listen on %s %s: %v%s",
		strings.ToLower(string(e.Listener.Transport)), e.Listener.Addr, e.Err, what)
}

func (e *ListenError) Unwrap() error { return e.Err }
