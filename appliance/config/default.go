package config

import (
	"log/slog"
	"net/netip"
	"time"
)

// A configuration is bounded, so that a generated file that went wrong ends in
// an error and not in want of memory.
const (
	maxBytes = 16 << 20
	maxDepth = 16
	maxItems = 200_000
)

func defaults() *Config {
	return &Config{
		Domain: "localhost",
		HTTP:   HTTP{Listen: listen("127.0.0.1:8080"), Metrics: private(), Network: DefaultNetwork},
		SIP:    SIP{UDP: listen("127.0.0.1:5060"), Digest: []Digest{MD5}},
		Media:  Media{RTPPorts: PortRange{20000, 29999}},
		Limits: Limits{Calls: 1000, Connections: 10_000, ConnectionsPerAddress: 256, RingTime: 3 * time.Minute},
		Dataplane: Dataplane{
			Mode: ModeAuto,
			Pin:  "/sys/fs/bpf/sluice",
		},
		Log: Log{Level: Level{slog.LevelInfo}, Format: Text},
	}
}

// private are the addresses that only neighbours can have.
func private() []Prefix {
	var l []Prefix
	for _, p := range []string{"127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8"} {
		l = append(l, Prefix{netip.MustParsePrefix(p)})
	}
	return l
}

func listen(s string) Listen { return Listen{AddrPort: netip.MustParseAddrPort(s)} }

// complete fills in the defaults that depend on other keys.
func (c *Config) complete() {
	first := c.SIP.listeners()
	first.complete()
	c.SIP.TCP = first.TCP
	c.Media.complete(first)
	for i := range c.Networks {
		c.Networks[i].SIP.complete()
		c.Networks[i].Media.complete(c.Networks[i].SIP)
	}
	for i := range c.Trunks {
		t := &c.Trunks[i]
		if t.Network == "" {
			t.Network = DefaultNetwork
		}
		if t.Transport == "" {
			t.Transport = UDP
		}
		if t.Proxy == "" && len(t.Addresses) > 0 {
			t.Proxy = t.Addresses[0].Addr().String()
		}
	}
}

// complete lets TCP follow UDP: RFC 3261 18 wants both on one port.
func (s *Listeners) complete() {
	if s.UDP.IsValid() && !s.TCP.IsValid() && !s.TCP.Off {
		s.TCP = s.UDP
	}
}

// complete takes the media address from the SIP listeners when none is set.
func (m *Media) complete(s Listeners) {
	if m.RTPPorts == (PortRange{}) {
		m.RTPPorts = PortRange{20000, 29999}
	}
	if len(m.Address) > 0 {
		return
	}
	for _, l := range []Listen{s.UDP, s.TCP, s.TLS} {
		if l.IsValid() && !l.Addr().IsUnspecified() {
			m.Address = Addresses{{l.Addr().Unmap()}}
			return
		}
	}
}
