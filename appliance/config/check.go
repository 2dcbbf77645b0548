package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)
	// What may stand in a SIP user part without escaping (RFC 3261 25.1), less
	// what would have to be quoted in digest and logs.
	userName  = regexp.MustCompile(`^[A-Za-z0-9_.!~*+-]{1,64}$`)
	name      = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)
	digits    = regexp.MustCompile(`^(\+|\+?[0-9*#]{1,32})$`)
	md5Hex    = regexp.MustCompile(`^[0-9a-f]{32}$`)
	sha256Hex = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// check finds what is wrong beyond the form of single values.
func (c *Config) check(d *decoder) {
	if !hostName.MatchString(c.Domain) {
		d.wrong("domain", "%q is no domain: write a host name, for example sip.example.org", c.Domain)
	}
	networks := c.checkNetworks(d)
	c.checkHTTP(d, networks)
	c.checkTLS(d)
	c.checkDigest(d)
	c.checkUsers(d)
	trunks := c.checkTrunks(d, networks)
	c.checkRoutes(d, trunks)
	for _, l := range []struct {
		key string
		n   int
	}{{"limits.calls", c.Limits.Calls}, {"limits.connections", c.Limits.Connections}, {"limits.connections_per_address", c.Limits.ConnectionsPerAddress}} {
		if l.n < 1 {
			d.wrong(l.key, "%d would let nobody in: write 1 or more", l.n)
		}
	}
	if a := c.Admin.Socket; a != "" && a != "off" && (!strings.HasPrefix(a, "/") || len(a) > 100) {
		d.wrong("admin.socket", "%q: write an absolute path of at most 100 octets, or off", a)
	}
	if c.Limits.CallsPerUser < 0 {
		d.wrong("limits.calls_per_user", "%d: write 1 or more, or 0 for no limit", c.Limits.CallsPerUser)
	}
	if c.Limits.RingTime < 5*time.Second || c.Limits.RingTime > time.Hour {
		d.wrong("limits.ring_time", "%s: write 5s to 1h", c.Limits.RingTime)
	}
	if c.Dataplane.Mode != ModeUser && !strings.HasPrefix(c.Dataplane.Pin, "/") {
		d.wrong("dataplane.pin", "%q: write an absolute path on a BPF file system, for example /sys/fs/bpf/sluice", c.Dataplane.Pin)
	}
}

func (c *Config) checkNetworks(d *decoder) map[string]Network {
	known := map[string]Network{}
	listeners := map[string]string{}
	for i, n := range c.AllNetworks() {
		key := ""
		if i > 0 {
			key = fmt.Sprintf("networks[%d].", i-1)
			if !name.MatchString(n.Name) {
				d.wrong(key+"name", "%q: write letters, digits, _ and -, at most 32", n.Name)
			}
			if _, ok := known[n.Name]; ok {
				d.wrong(key+"name", "a second network %q: choose another name (%q is what sip and media describe)", n.Name, DefaultNetwork)
			}
		}
		known[n.Name] = n
		c.checkMedia(d, key+"media", n)
		for _, l := range []struct {
			key, proto string
			Listen
		}{{"sip.udp", "udp", n.SIP.UDP}, {"sip.tcp", "tcp", n.SIP.TCP}, {"sip.tls", "tcp", n.SIP.TLS}} {
			if !l.IsValid() || l.Port() == 0 {
				continue
			}
			at := l.proto + " " + l.AddrPort.String()
			if other, ok := listeners[at]; ok {
				d.wrong(key+l.key, "%s is also taken by %s: change one of the two", l.AddrPort, other)
			}
			listeners[at] = key + l.key
		}
	}
	at := "tcp " + c.HTTP.Listen.AddrPort.String()
	if other, ok := listeners[at]; ok && c.HTTP.Listen.Port() != 0 {
		d.wrong("http.listen", "%s is also taken by %s: change one of the two", c.HTTP.Listen.AddrPort, other)
	}
	return known
}

func (c *Config) checkMedia(d *decoder, key string, n Network) {
	m := n.Media
	if len(m.Address) == 0 {
		d.wrong(key+".address", "missing: write the IP address media is sent from and received at")
	}
	for _, l := range []struct {
		key string
		a   Addresses
	}{{key + ".address", m.Address}, {key + ".advertised", m.Advertised}} {
		families := map[bool]bool{}
		for _, a := range l.a {
			switch {
			case !a.IsValid():
			case a.IsUnspecified() || a.IsMulticast():
				d.wrong(l.key, "%s is no address to send media from: write the address of an interface, and under advertised the one others see", a)
			case families[a.Is4()]:
				d.wrong(l.key, "two addresses of one family: write at most one IPv4 and one IPv6 address; further ones are networks of their own")
			}
			families[a.Is4()] = true
		}
	}
	for _, a := range m.Advertised {
		if a.IsValid() && !slices.ContainsFunc(m.Address, func(b Address) bool { return a.Is4() == b.Is4() }) {
			d.wrong(key+".advertised", "%s has no address of its family in %s.address", a, key)
		}
	}
	if m.BrowserPort < 0 || m.BrowserPort > 65535 {
		d.wrong(key+".browser_port", "%d is no port: write 1 to 65535, or 0 for any", m.BrowserPort)
	}
	if p := uint16(m.BrowserPort); p != 0 && p >= m.RTPPorts.Min && p <= m.RTPPorts.Max {
		d.wrong(key+".browser_port", "%d lies within rtp_ports %s: move one of them", p, m.RTPPorts)
	}
}

func (c *Config) checkHTTP(d *decoder, networks map[string]Network) {
	if !c.HTTP.Listen.IsValid() {
		d.wrong("http.listen", "the web phone and its WebSocket need an address: write for example 127.0.0.1:8080")
	}
	if _, ok := networks[c.HTTP.Network]; !ok {
		d.wrong("http.network", "no network %q: name one of networks, or %s", c.HTTP.Network, DefaultNetwork)
	}
	for i, o := range c.HTTP.Origins {
		if err := checkOrigin(o); err != nil {
			d.wrong(fmt.Sprintf("http.origins[%d]", i), "%v", err)
		}
	}
}

// checkOrigin takes SCHEME://HOST[:PORT] where PORT may be *.
func checkOrigin(o string) error {
	u, err := url.Parse(strings.TrimSuffix(o, ":*"))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" ||
		u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || strings.Contains(u.Host, "*") {
		return fmt.Errorf("%q is no origin: write for example https://phone.example.org or http://127.0.0.1:*", o)
	}
	return nil
}

func (c *Config) checkTLS(d *decoder) {
	wanted := ""
	if c.HTTP.TLS {
		wanted = "http.tls"
	}
	for i, n := range c.AllNetworks() {
		if n.SIP.TLS.IsValid() {
			wanted = "sip.tls"
			if i > 0 {
				wanted = fmt.Sprintf("networks[%d].sip.tls", i-1)
			}
		}
	}
	switch t := c.TLS; {
	case (t.Certificate == "") != (t.Key == ""):
		d.wrong("tls", "certificate and key go together: name both files")
	case wanted != "" && t.Certificate == "":
		d.wrong(wanted, "needs a certificate: name tls.certificate and tls.key; for development set tls.self_signed: true and both are made at the first start")
	case t.SelfSigned && t.Certificate == "":
		d.wrong("tls.self_signed", "name the files to make: tls.certificate and tls.key")
	}
}

func (c *Config) checkDigest(d *decoder) {
	if len(c.SIP.Digest) == 0 {
		d.wrong("sip.digest", "nobody could sign in: write md5, sha-256 or both")
	}
	for i, a := range c.SIP.Digest {
		if slices.Contains(c.SIP.Digest[:i], a) {
			d.wrong(fmt.Sprintf("sip.digest[%d]", i), "%s a second time: remove one", a)
		}
	}
}

func (c *Config) checkUsers(d *decoder) {
	seen := map[string]int{}
	for i, u := range c.Users {
		key := fmt.Sprintf("users[%d]", i)
		if !userName.MatchString(u.Name) {
			d.wrong(key+".name", "%q: write letters, digits and _ . ! ~ * + -, at most 64", u.Name)
		} else if first, ok := seen[u.Name]; ok {
			d.wrong(key+".name", "%q is also users[%d]: remove one", u.Name, first)
		} else {
			seen[u.Name] = i
		}
		if strings.ContainsAny(u.Display, "\r\n\x00") || len(u.Display) > 128 {
			d.wrong(key+".display", "one line of at most 128 octets")
		}
		hashed := !u.HA1.IsZero() || !u.HA1SHA256.IsZero()
		switch {
		case u.Password.IsZero() && !hashed:
			d.wrong(key, "has no password: write password, or ha1 and ha1_sha256")
		case !u.Password.IsZero() && hashed:
			d.wrong(key, "has a password and hashes of one: write either")
		case hashed && u.HA1.IsZero() && len(c.SIP.Digest) > 0 && !slices.Contains(c.SIP.Digest, SHA256):
			d.wrong(key, "could not sign in: ha1_sha256 alone needs sha-256 in sip.digest; add it there, or write ha1 too")
		case hashed && u.HA1SHA256.IsZero() && len(c.SIP.Digest) > 0 && !slices.Contains(c.SIP.Digest, MD5):
			d.wrong(key, "could not sign in: ha1 alone needs md5 in sip.digest; add it there, or write ha1_sha256 too")
		}
		if !u.HA1.IsZero() && !md5Hex.MatchString(u.HA1.Reveal()) {
			d.wrong(key+".ha1", "want 32 lower-case hexadecimal digits: md5 of NAME:%s:PASSWORD", c.Domain)
		}
		if !u.HA1SHA256.IsZero() && !sha256Hex.MatchString(u.HA1SHA256.Reveal()) {
			d.wrong(key+".ha1_sha256", "want 64 lower-case hexadecimal digits: sha256 of NAME:%s:PASSWORD", c.Domain)
		}
	}
}

func (c *Config) checkTrunks(d *decoder, networks map[string]Network) map[string]bool {
	known := map[string]bool{}
	type owner struct {
		netip.Prefix
		trunk string
	}
	var taken []owner
	for i, t := range c.Trunks {
		key := fmt.Sprintf("trunks[%d]", i)
		if !name.MatchString(t.Name) {
			d.wrong(key+".name", "%q: write letters, digits, _ and -, at most 32", t.Name)
		}
		if known[t.Name] {
			d.wrong(key+".name", "a second trunk %q: choose another name", t.Name)
		}
		known[t.Name] = true
		if len(t.Addresses) == 0 {
			d.wrong(key+".addresses", "missing: write the IP addresses this trunk calls from; nobody else may call without a password")
		}
		for j, p := range t.Addresses {
			if p.IsValid() && p.Bits() == 0 {
				d.wrong(fmt.Sprintf("%s.addresses[%d]", key, j), "%s lets the whole world call: write the trunk's own addresses", p)
			}
			for _, o := range taken {
				if p.IsValid() && o.Overlaps(p.Prefix) && o.trunk != t.Name {
					d.wrong(fmt.Sprintf("%s.addresses[%d]", key, j), "%s overlaps with trunk %q: an address belongs to one trunk", p, o.trunk)
				}
			}
			taken = append(taken, owner{p.Prefix, t.Name})
		}
		if err := checkHostPort(t.Proxy); err != nil && len(t.Addresses) > 0 {
			d.wrong(key+".proxy", "%v", err)
		}
		n, ok := networks[t.Network]
		if !ok {
			d.wrong(key+".network", "no network %q: name one of networks, or %s", t.Network, DefaultNetwork)
		} else if l := map[Transport]Listen{UDP: n.SIP.UDP, TCP: n.SIP.TCP, TLS: n.SIP.TLS}[t.Transport]; !l.IsValid() {
			d.wrong(key+".transport", "network %q does not listen on %s: add it under its sip", t.Network, t.Transport)
		}
		if t.Domain != "" && !hostName.MatchString(t.Domain) {
			d.wrong(key+".domain", "%q is no domain", t.Domain)
		}
		if t.CallerID != "" && !digits.MatchString(t.CallerID) && !userName.MatchString(t.CallerID) {
			d.wrong(key+".caller_id", "%q: write a number or a user name", t.CallerID)
		}
		if (t.Username == "") != t.Password.IsZero() {
			d.wrong(key+".username", "username and password go together: write both or neither")
		}
	}
	return known
}

func checkHostPort(s string) error {
	host := s
	if h, port, err := net.SplitHostPort(s); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("%q has no port from 1 to 65535", s)
		}
		host = h
	}
	if _, err := netip.ParseAddr(host); err == nil || hostName.MatchString(host) {
		return nil
	}
	return fmt.Errorf("%q is no host: write HOST, HOST:PORT or ADDRESS:PORT", s)
}

func (c *Config) checkRoutes(d *decoder, trunks map[string]bool) {
	for i, r := range c.Routes {
		key := fmt.Sprintf("routes[%d]", i)
		if r.Prefix != "" && !digits.MatchString(r.Prefix) && !userName.MatchString(r.Prefix) {
			d.wrong(key+".prefix", "%q: write digits, at the start perhaps a +; put it in quotes", r.Prefix)
		}
		if r.Domain != "" && !hostName.MatchString(r.Domain) {
			d.wrong(key+".domain", "%q is no domain", r.Domain)
		}
		if r.Add != "" && !digits.MatchString(r.Add) {
			d.wrong(key+".add", "%q: write digits, at the start perhaps a +; put it in quotes", r.Add)
		}
		if r.Strip < 0 || r.Strip > len(r.Prefix) {
			d.wrong(key+".strip", "%d: write 0 to %d, the length of prefix", r.Strip, len(r.Prefix))
		}
		if r.From != "" && !trunks[r.From] {
			d.wrong(key+".from", "no trunk %q: name one of trunks", r.From)
		}
		switch {
		case (r.Trunk == "") == (r.User == ""):
			d.wrong(key, "leads nowhere: write either trunk or user")
		case r.Trunk != "" && !trunks[r.Trunk]:
			d.wrong(key+".trunk", "no trunk %q: name one of trunks", r.Trunk)
		case r.User != "" && !slices.ContainsFunc(c.Users, func(u User) bool { return u.Name == r.User }):
			d.wrong(key+".user", "no user %q: name one of users", r.User)
		case r.From != "" && r.Trunk != "" && r.Prefix == "":
			d.wrong(key+".from", "calls from one trunk to another need a prefix: without one anybody could call on your account")
		}
	}
}
