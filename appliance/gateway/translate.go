package gateway

import (
	"crypto/tls"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/sluicegw/sluice/appliance/config"
	"github.com/sluicegw/sluice/controlplane/routing"
	"github.com/sluicegw/sluice/controlplane/sip"
	"github.com/sluicegw/sluice/dataplane"
)

// The functions of this file say in each package's own terms what the
// configuration says. They check nothing: config has done that.

func planeNetworks(cfg *config.Config) []dataplane.Network {
	var l []dataplane.Network
	for _, n := range cfg.AllNetworks() {
		l = append(l, dataplane.Network{
			Name: n.Name, Addresses: addrs(n.Media.Address), Advertised: addrs(n.Media.Advertised),
			Interface: n.Media.Interface, BrowserPort: uint16(n.Media.BrowserPort),
			PortMin: n.Media.RTPPorts.Min, PortMax: n.Media.RTPPorts.Max,
		})
	}
	return l
}

func addrs(l config.Addresses) []netip.Addr {
	var out []netip.Addr
	for _, a := range l {
		out = append(out, a.Addr)
	}
	return out
}

func sipConfig(cfg *config.Config) (sip.Config, error) {
	c := sip.Config{
		Domain:    cfg.Domain,
		Hosts:     hosts(cfg),
		WebSocket: sip.WebSocket{Network: cfg.HTTP.Network, Origins: cfg.HTTP.Origins},
		Users:     newUsers(cfg.Users),
	}
	c.Connections.Total, c.Connections.PerAddress = cfg.Limits.Connections, cfg.Limits.ConnectionsPerAddress
	for _, a := range cfg.SIP.Digest {
		c.Digest = append(c.Digest, map[config.Digest]sip.Algorithm{config.MD5: sip.MD5, config.SHA256: sip.SHA256}[a])
	}
	conf, err := serverTLS(cfg.TLS)
	if err != nil {
		return sip.Config{}, err
	}
	for i, n := range cfg.AllNetworks() {
		prefix := "sip."
		if i > 0 {
			prefix = "networks[" + strconv.Itoa(i-1) + "].sip."
		}
		c.Networks = append(c.Networks, sipNetwork(n, prefix, conf))
	}
	for _, t := range cfg.Trunks {
		st := sip.Trunk{Name: t.Name, Network: t.Network}
		for _, p := range t.Addresses {
			st.Sources = append(st.Sources, p.Prefix)
		}
		c.Trunks = append(c.Trunks, st)
	}
	return c, nil
}

func sipNetwork(n config.Network, prefix string, conf *tls.Config) sip.Network {
	out := sip.Network{Name: n.Name, Advertise: addrs(n.Media.Advertised), TLS: conf}
	for _, l := range []struct {
		t   sip.Transport
		key string
		config.Listen
	}{{sip.UDP, "udp", n.SIP.UDP}, {sip.TCP, "tcp", n.SIP.TCP}, {sip.TLS, "tls", n.SIP.TLS}} {
		if l.IsValid() {
			out.Listeners = append(out.Listeners, sip.Listener{Transport: l.t, Addr: l.AddrPort, Setting: prefix + l.key})
		}
	}
	return out
}

func routes(cfg *config.Config) routing.Config {
	c := routing.Config{Domain: cfg.Domain, Hosts: hosts(cfg)}
	for _, u := range cfg.Users {
		c.Users = append(c.Users, routing.User{Name: u.Name, Display: u.Display, SDES: u.SDES})
	}
	for _, t := range cfg.Trunks {
		host, port := splitProxy(t.Proxy)
		c.Trunks = append(c.Trunks, routing.Trunk{
			Name: t.Name, Network: t.Network, Host: host, Port: port, Transport: string(t.Transport),
			Domain: t.Domain, CallerID: t.CallerID, Username: t.Username, Password: t.Password.Reveal(), SDES: t.SDES,
		})
	}
	for _, r := range cfg.Routes {
		c.Routes = append(c.Routes, routing.Route(r))
	}
	return c
}

// hosts are the addresses by which others may call this gateway besides its
// domain.
func hosts(cfg *config.Config) []string {
	var l []string
	add := func(a netip.Addr) {
		if a.IsValid() && !a.IsUnspecified() {
			l = append(l, a.String())
		}
	}
	for _, n := range cfg.AllNetworks() {
		for _, a := range n.Media.Address {
			add(a.Addr)
		}
		for _, a := range n.Media.Advertised {
			add(a.Addr)
		}
		for _, s := range []config.Listen{n.SIP.UDP, n.SIP.TCP, n.SIP.TLS} {
			add(s.Addr())
		}
	}
	return l
}

func splitProxy(s string) (host string, port uint16) {
	h, p, err := net.SplitHostPort(s)
	if err != nil {
		return strings.Trim(s, "[]"), 0
	}
	n, _ := strconv.ParseUint(p, 10, 16)
	return h, uint16(n)
}

// users answers who may sign in.
type users struct {
	passwords map[string]string
	hashes    map[sip.Algorithm]map[string]string
}

func newUsers(l []config.User) users {
	u := users{
		passwords: make(map[string]string, len(l)),
		hashes:    map[sip.Algorithm]map[string]string{sip.MD5: {}, sip.SHA256: {}},
	}
	put := func(m map[string]string, name string, s config.Secret) {
		if !s.IsZero() {
			m[name] = s.Reveal()
		}
	}
	for _, c := range l {
		put(u.passwords, c.Name, c.Password)
		put(u.hashes[sip.MD5], c.Name, c.HA1)
		put(u.hashes[sip.SHA256], c.Name, c.HA1SHA256)
	}
	return u
}

// Password implements sip.Users.
func (u users) Password(user string) (string, bool) {
	p, ok := u.passwords[user]
	return p, ok
}

// HA1 implements sip.HashedUsers.
func (u users) HA1(user string, a sip.Algorithm) (string, bool) {
	h, ok := u.hashes[a][user]
	return h, ok
}
