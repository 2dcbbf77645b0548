package config

import (
	"encoding"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Secret is a password or a hash of one. It prints as (hidden) everywhere;
// Reveal is for the code that authenticates.
type Secret struct{ s string }

// NewSecret hides s.
func NewSecret(s string) Secret { return Secret{s} }

// Reveal returns what was hidden.
func (s Secret) Reveal() string { return s.s }

// IsZero tells whether nothing is hidden.
func (s Secret) IsZero() bool { return s.s == "" }

func (s Secret) String() string {
	if s.s == "" {
		return ""
	}
	return "(hidden)"
}

// Format keeps %#v and the like from looking inside.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// LogValue keeps the secret out of logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText keeps the secret out of JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes the secret as it stands in the file.
func (s *Secret) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		return errors.New("is empty: set one")
	}
	s.s = string(b)
	return nil
}

// Listen is an address and port to listen on. It is invalid when nothing shall
// listen; Off tells that the file said so.
type Listen struct {
	netip.AddrPort
	Off bool
}

// UnmarshalText reads ADDRESS:PORT, or :PORT for every IPv4 and IPv6 address, or
// off.
func (l *Listen) UnmarshalText(b []byte) error {
	s := string(b)
	if s == "off" {
		*l = Listen{Off: true}
		return nil
	}
	if strings.HasPrefix(s, ":") {
		s = "[::]" + s
	}
	if host, port, ok := strings.Cut(s, ":"); ok && host == "localhost" {
		s = "127.0.0.1:" + port
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return fmt.Errorf("%q is no listening address: write ADDRESS:PORT, for example 127.0.0.1:5060 or [::1]:5060", b)
	}
	*l = Listen{AddrPort: ap}
	return nil
}

// Address is an IP address without zone.
type Address struct{ netip.Addr }

// UnmarshalText reads an IPv4 or IPv6 address.
func (a *Address) UnmarshalText(b []byte) error {
	addr, err := netip.ParseAddr(string(b))
	if err != nil || addr.Zone() != "" {
		return fmt.Errorf("%q is no IP address: write for example 192.0.2.1 or 2001:db8::1", b)
	}
	a.Addr = addr.Unmap()
	return nil
}

// Addresses is one IP address or a list of at most one per family.
type Addresses []Address

// Prefix is an IP address or a range of them.
type Prefix struct{ netip.Prefix }

// UnmarshalText reads an IP address or CIDR prefix.
func (p *Prefix) UnmarshalText(b []byte) error {
	if a, err := netip.ParseAddr(string(b)); err == nil && a.Zone() == "" {
		a = a.Unmap()
		p.Prefix = netip.PrefixFrom(a, a.BitLen())
		return nil
	}
	x, err := netip.ParsePrefix(string(b))
	if err != nil {
		return fmt.Errorf("%q is no IP address or prefix: write for example 192.0.2.1 or 192.0.2.0/24", b)
	}
	if x != x.Masked() {
		return fmt.Errorf("%q has bits set behind its length: write %s", b, x.Masked())
	}
	p.Prefix = x
	return nil
}

// PortRange is a range of UDP ports, both ends included.
type PortRange struct{ Min, Max uint16 }

func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.Min, r.Max) }

// UnmarshalText reads MIN-MAX.
func (r *PortRange) UnmarshalText(b []byte) error {
	lo, hi, ok := strings.Cut(string(b), "-")
	x, err1 := strconv.ParseUint(lo, 10, 16)
	y, err2 := strconv.ParseUint(hi, 10, 16)
	if !ok || err1 != nil || err2 != nil {
		return fmt.Errorf("%q is no port range: write MIN-MAX, for example 20000-29999", b)
	}
	if x < 1024 || y < x+3 {
		return fmt.Errorf("%q is too small a port range: MIN is 1024 or more, MAX at least 3 above it", b)
	}
	r.Min, r.Max = uint16(x), uint16(y)
	return nil
}

// word is a key that takes one of a few words.
func word[T ~string](dst *T, b []byte, known ...T) error {
	if !slices.Contains(known, T(b)) {
		names := make([]string, len(known))
		for i, k := range known {
			names[i] = string(k)
		}
		return fmt.Errorf("%q is not known: write one of %s", b, strings.Join(names, ", "))
	}
	*dst = T(b)
	return nil
}

// Mode says which engine carries media.
type Mode string

const (
	ModeAuto   Mode = "auto"   // the kernel where it can, else user space with a reason
	ModeKernel Mode = "kernel" // the kernel, or the start fails
	ModeUser   Mode = "user"   // user space only
)

// UnmarshalText reads one of the modes.
func (m *Mode) UnmarshalText(b []byte) error { return word(m, b, ModeAuto, ModeKernel, ModeUser) }

// Transport is how SIP is carried to a trunk.
type Transport string

const (
	UDP Transport = "udp"
	TCP Transport = "tcp"
	TLS Transport = "tls"
)

// UnmarshalText reads one of the transports.
func (t *Transport) UnmarshalText(b []byte) error { return word(t, b, UDP, TCP, TLS) }

// Digest is an algorithm of a challenge.
type Digest string

const (
	MD5    Digest = "md5"
	SHA256 Digest = "sha-256"
)

// UnmarshalText reads one of the algorithms.
func (a *Digest) UnmarshalText(b []byte) error { return word(a, b, MD5, SHA256) }

// Format of log lines.
type Format string

const (
	Text Format = "text"
	JSON Format = "json"
)

// UnmarshalText reads one of the formats.
func (f *Format) UnmarshalText(b []byte) error { return word(f, b, Text, JSON) }

// Level is the least severe level that is logged.
type Level struct{ slog.Level }

// UnmarshalText reads debug, info, warn or error.
func (l *Level) UnmarshalText(b []byte) error {
	var s string
	if err := word(&s, b, "debug", "info", "warn", "error"); err != nil {
		return err
	}
	return l.Level.UnmarshalText(b)
}

var (
	_ encoding.TextUnmarshaler = (*Secret)(nil)
	_ encoding.TextUnmarshaler = (*Listen)(nil)
	_ encoding.TextUnmarshaler = (*Address)(nil)
	_ encoding.TextUnmarshaler = (*Prefix)(nil)
	_ encoding.TextUnmarshaler = (*PortRange)(nil)
	_ encoding.TextUnmarshaler = (*Level)(nil)
)
