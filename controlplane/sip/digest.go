package sip

import (
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // RFC 3261 22.4, what browsers and phones speak
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	gosip "github.com/emiago/sipgo/sip"
)

// nonceLife is how long a nonce may be used; then it is stale, and the user
// agent tries again by itself.
const nonceLife = 5 * time.Minute

// A nonce is its time of issue, eight random bytes and a MAC over both and the
// address it is for: who answers it has received there, and does not forge his
// source. It costs no memory until somebody has answered it rightly.
func (s *Server) nonce(to netip.Addr, now time.Time) string {
	var b [32]byte
	binary.BigEndian.PutUint64(b[:8], uint64(now.UnixMilli()))
	rand.Read(b[8:16])
	copy(b[16:], s.nonceMAC(to, b[:16]))
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func (s *Server) nonceMAC(to netip.Addr, b []byte) []byte {
	m := hmac.New(sha256.New, s.key[:])
	m.Write([]byte("nonce"))
	m.Write(b)
	m.Write(to.AsSlice())
	return m.Sum(nil)[:16]
}

// issued returns when a nonce of ours for an address was made.
func (s *Server) issued(nonce string, to netip.Addr) (time.Time, bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(nonce)
	if err != nil || len(b) != 32 || !hmac.Equal(b[16:], s.nonceMAC(to, b[:16])) {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b[:8]))), true
}

// credentials are an Authorization header.
type credentials struct {
	username, realm, nonce, uri, response, cnonce, qop string
	algorithm                                          Algorithm
	nc                                                 uint32
}

// parseCredentials reads a digest response with qop=auth.
func parseCredentials(v string) (c credentials, ok bool) {
	scheme, rest, _ := strings.Cut(strings.TrimLeft(v, " \t"), " ")
	if !strings.EqualFold(scheme, "Digest") || len(v) > 4096 {
		return c, false
	}
	seen := map[string]bool{}
	ncText := ""
	c.algorithm = MD5
	for _, part := range splitOutside(rest, ',') {
		name, raw, has := strings.Cut(strings.Trim(part, " \t"), "=")
		name = strings.ToLower(strings.TrimRight(name, " \t"))
		if !has || seen[name] {
			return c, false
		}
		seen[name] = true
		val := unquote(strings.Trim(raw, " \t"))
		switch name {
		case "username":
			c.username = val
		case "realm":
			c.realm = val
		case "nonce":
			c.nonce = val
		case "uri":
			c.uri = val
		case "response":
			c.response = strings.ToLower(val)
		case "cnonce":
			c.cnonce = val
		case "qop":
			c.qop = strings.ToLower(val)
		case "nc":
			ncText = val
		case "algorithm":
			switch {
			case strings.EqualFold(val, string(MD5)):
			case strings.EqualFold(val, string(SHA256)):
				c.algorithm = SHA256
			default:
				return c, false
			}
		}
	}
	nc, err := strconv.ParseUint(ncText, 16, 32)
	c.nc = uint32(nc)
	ok = err == nil && len(ncText) == 8 && c.qop == "auth" && c.cnonce != "" && c.username != "" && len(c.username) <= 256
	return c, ok
}

func digestHex(a Algorithm, s string) string {
	if a == SHA256 {
		h := sha256.Sum256([]byte(s))
		return hex.EncodeToString(h[:])
	}
	h := md5.Sum([]byte(s)) //nolint:gosec // see the import
	return hex.EncodeToString(h[:])
}

// expected is the response of RFC 7616 3.4.1 with qop=auth.
func (c *credentials) expected(method, password string) string {
	return c.expectedFor(method, digestHex(c.algorithm, c.username+":"+c.realm+":"+password))
}

// expectedFor is the same from the hash of name, realm and password.
func (c *credentials) expectedFor(method, ha1 string) string {
	ha2 := digestHex(c.algorithm, method+":"+c.uri)
	return digestHex(c.algorithm, fmt.Sprintf("%s:%s:%08x:%s:auth:%s", ha1, c.nonce, c.nc, c.cnonce, ha2))
}

// verdict of an authentication.
type verdict int

const (
	unauthenticated verdict = iota // challenge
	stale                          // challenge with stale=true
	authenticated
	slowDown // too many failures: 503 with Retry-After
)

// authenticate checks the credentials of a request. header is Authorization or
// Proxy-Authorization. Nothing is kept of a request that fails but the count of
// failures of its source.
func (s *Server) authenticate(f *flow, req *gosip.Request, header string) (user string, v verdict) {
	now := time.Now()
	if s.guard.blocked(f.remote.Addr(), now) {
		return "", slowDown
	}
	for _, h := range values(req, header) {
		c, ok := parseCredentials(h)
		if !ok || c.realm != s.cfg.Domain {
			continue
		}
		if !sameTarget(c.uri, req) {
			return "", unauthenticated
		}
		// From before a restart, for another address, or too old: nothing shows
		// that the source is not forged, so a failure must not count against it,
		// and the answer must not tell whether the password was right.
		when, mine := s.issued(c.nonce, f.remote.Addr())
		if !mine || now.Sub(when) > nonceLife || when.After(now.Add(time.Minute)) {
			return "", stale
		}
		// An unknown user costs the same as a known one.
		nobody := s.mac("nobody", c.username)
		password, known := s.cfg.Users.Password(c.username)
		if !known {
			password = nobody
		}
		want := c.expected(string(req.Method), password)
		if hashed, ok := s.cfg.Users.(HashedUsers); ok {
			if ha1, ok := hashed.HA1(c.username, c.algorithm); ok {
				want, known = c.expectedFor(string(req.Method), ha1), true
			}
		}
		same := subtle.ConstantTimeCompare([]byte(want), []byte(c.response)) == 1
		if !same || !known {
			s.counts.refused.Add(1)
			if s.guard.failed(f.remote.Addr(), now) {
				s.log.Warn("authentication fails repeatedly: source slowed down", "source", f.remote.Addr())
			}
			return "", unauthenticated
		}
		if !s.guard.fresh(c.nonce, c.username, c.nc, when, now) {
			return c.username, stale
		}
		f.trusted.Store(true)
		return c.username, authenticated
	}
	return "", unauthenticated
}

// sameTarget compares the digest's uri with the request's (RFC 7616 3.4.6).
// User agents differ in what they do to its parameters.
func sameTarget(digest string, req *gosip.Request) bool {
	want := req.Recipient.String()
	if digest == want {
		return true
	}
	a, err1 := parseURI(digest)
	b, err2 := parseURI(want)
	return err1 == nil && err2 == nil && a.user == b.user && a.host == b.host && a.port == b.port
}

// challenge answers 401 or 407 without state.
func (s *Server) challenge(f *flow, req *gosip.Request, code int, v verdict) {
	if v == slowDown {
		s.stateless(f, req, 503, "Service Unavailable", gosip.NewHeader("Retry-After", strconv.Itoa(int(guardBlock/time.Second))))
		return
	}
	name := "WWW-Authenticate"
	if code == 407 {
		name = "Proxy-Authenticate"
	}
	nonce := s.nonce(f.remote.Addr(), time.Now())
	var hs []gosip.Header
	for _, a := range s.cfg.offered(f.transport) {
		val := fmt.Sprintf(`Digest realm="%s", nonce="%s", qop="auth", algorithm=%s`, s.cfg.Domain, nonce, a)
		if v == stale {
			val += ", stale=true"
		}
		hs = append(hs, gosip.NewHeader(name, val))
	}
	s.stateless(f, req, code, "", hs...)
}

// trunkOf names the trunk a source address belongs to. A browser is never a
// trunk: it may sit behind the trunk's address.
func (s *Server) trunkOf(f *flow) string {
	if f.transport.web() {
		return ""
	}
	a := f.remote.Addr()
	for _, t := range s.cfg.Trunks {
		if t.Network != "" && t.Network != f.net.name {
			continue
		}
		for _, p := range t.Sources {
			if p.Contains(a) {
				return t.Name
			}
		}
	}
	return ""
}

// source is what brute force is counted by: an IPv4 address or an IPv6 /64.
func source(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	p, _ := a.Prefix(64)
	return p.Addr()
}
