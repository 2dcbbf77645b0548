package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const domain = "gw.test"

// Users of every gateway of these tests: browsers and phones alike.
var passwords = map[string]string{
	"web1": "w1secret", "web2": "w2secret", "phone1": "p1secret", "phone2": "p2secret",
}

// Trunk calls come from here, so that no user's address is a trunk's.
var carrierAddress = netip.AddrFrom4([4]byte{127, 0, 0, 2})

// gateway is one run of the program under test.
type gateway struct {
	t       testing.TB
	p       *process
	ns      string
	http    netip.AddrPort
	sip     netip.AddrPort
	tls     bool
	carrier netip.AddrPort // where calls to numbers that start with 9 are sent
	client  *http.Client
}

type gatewayConfig struct {
	ns        string
	http, sip netip.AddrPort // invalid: free ports of 127.0.0.1
	inside    netip.AddrPort // SIP of a second network for phones and the trunk; sip is off then
	media     []netip.Addr   // empty: that of sip
	carrier   netip.Addr     // address of the trunk, invalid = 127.0.0.2
	dataplane string         // YAML lines of the dataplane section, "" = mode user
	origins   []string
	env       []string
	wrap      []string // command that runs the gateway, e.g. setpriv
	tls       bool     // https and wss
	extra     string   // further YAML
}

func newGateway(t testing.TB, c gatewayConfig) *gateway {
	t.Helper()
	if !c.http.IsValid() {
		c.http = netip.AddrPortFrom(loopback, freePorts(t, c.ns, 1))
	}
	if c.inside.IsValid() {
		c.sip = c.inside
	} else if !c.sip.IsValid() {
		c.sip = netip.AddrPortFrom(loopback, freePorts(t, c.ns, 1))
	}
	if len(c.media) == 0 {
		c.media = []netip.Addr{c.sip.Addr()}
	}
	if !c.carrier.IsValid() {
		c.carrier = carrierAddress
	}
	if c.dataplane == "" {
		c.dataplane = "  mode: user\n"
	}
	g := &gateway{t: t, ns: c.ns, http: c.http, sip: c.sip, tls: c.tls,
		carrier: netip.AddrPortFrom(c.carrier, freePorts(t, c.ns, 1))}
	var y strings.Builder
	fmt.Fprintf(&y, "domain: %s\nhttp:\n  listen: %q\n  tls: %v\n", domain, c.http, c.tls)
	if len(c.origins) > 0 {
		fmt.Fprintf(&y, "  origins: [%q]\n", strings.Join(c.origins, `", "`))
	}
	addresses := make([]string, len(c.media))
	for i, a := range c.media {
		addresses[i] = strconv.Quote(a.String())
	}
	network := "default"
	if c.inside.IsValid() {
		network = "inside"
		y.WriteString("sip:\n  udp: \"off\"\n  tcp: \"off\"\n")
		fmt.Fprintf(&y, "networks:\n  - name: inside\n    sip: {udp: %q, tcp: %q}\n    media: {address: %q}\n", c.inside, c.inside, c.inside.Addr())
	} else {
		fmt.Fprintf(&y, "sip:\n  udp: %q\n  tcp: %q\n", c.sip, c.sip)
	}
	fmt.Fprintf(&y, "media:\n  address: [%s]\n", strings.Join(addresses, ", "))
	y.WriteString("users:\n")
	for name, password := range passwords {
		fmt.Fprintf(&y, "  - {name: %s, password: %s}\n", name, password)
	}
	fmt.Fprintf(&y, "trunks:\n  - name: carrier\n    addresses: [%q]\n    proxy: %q\n    network: %s\nroutes:\n  - {prefix: \"9\", trunk: carrier}\n", c.carrier, g.carrier, network)
	fmt.Fprintf(&y, "dataplane:\n%s", c.dataplane)
	if c.tls {
		dir := t.TempDir()
		fmt.Fprintf(&y, "tls:\n  self_signed: true\n  certificate: %s/cert.pem\n  key: %s/key.pem\n", dir, dir)
	}
	y.WriteString("log:\n  level: debug\n")
	y.WriteString(c.extra)
	config := filepath.Join(t.TempDir(), "sluice.yaml")
	if err := os.WriteFile(config, []byte(y.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	line := append(append([]string{}, c.wrap...), sluice(t), "run", "--config", config)
	cmd := command(c.ns, line[0], line[1:]...)
	cmd.Env = append(os.Environ(), c.env...)
	g.p = start(t, "sluice", cmd)
	g.client = &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // the certificate is the gateway's own
		DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			return dialIn(c.ns, network, address)
		},
	}}
	eventually(t, 15*time.Second, "the gateway's /healthz", func() error {
		if !g.p.running() {
			t.Fatalf("the gateway has ended: %v\n%s\n%s", g.p.err, tail(g.p.log, 4000), y.String())
		}
		res, err := g.client.Get(g.url() + "healthz")
		if err != nil {
			return err
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", res.Status)
		}
		return nil
	})
	return g
}

func (g *gateway) url() string {
	scheme := "http"
	if g.tls {
		scheme = "https"
	}
	return fmt.Sprintf("%s://%s/", scheme, g.http)
}

// phone describes a phone of the user at this gateway.
func (g *gateway) phone(user string, tone float64) phoneConfig {
	return phoneConfig{ns: g.ns, user: user, password: passwords[user], domain: domain, gateway: g.sip, tone: tone}
}

// trunk runs a scenario as the carrier that the gateway calls.
func (g *gateway) trunk(scenario string, c sippConfig) *sipp {
	g.t.Helper()
	c.ns, c.scenario, c.address, c.port = g.ns, scenario, g.carrier.Addr(), g.carrier.Port()
	return newSIPp(g.t, c)
}

// fromTrunk runs a scenario as the carrier that calls a user.
func (g *gateway) fromTrunk(scenario, target string, c sippConfig) *sipp {
	g.t.Helper()
	c.ns, c.scenario, c.address, c.remote, c.target = g.ns, scenario, g.carrier.Addr(), g.sip, target
	if c.keys == nil {
		c.keys = map[string]string{}
	}
	if c.keys["from"] == "" {
		c.keys["from"] = "493012345"
	}
	return newSIPp(g.t, c)
}

// metrics reads /metrics: "name{labels}" to value.
func (g *gateway) metrics() map[string]float64 {
	g.t.Helper()
	res, err := g.client.Get(g.url() + "metrics")
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		g.t.Fatalf("/metrics: %s", res.Status)
	}
	return parseMetrics(g.t, res.Body)
}

func parseMetrics(t testing.TB, r io.Reader) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		if i < 0 {
			t.Fatalf("/metrics: line %q", line)
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			t.Fatalf("/metrics: %v", err)
		}
		out[line[:i]] = v
	}
	return out
}

// sum adds up the metrics of a name whose labels hold all of the parts.
func sum(m map[string]float64, name string, parts ...string) (total float64) {
next:
	for k, v := range m {
		if k != name && !strings.HasPrefix(k, name+"{") {
			continue
		}
		for _, p := range parts {
			if !strings.Contains(k, p) {
				continue next
			}
		}
		total += v
	}
	return total
}

// freeze stops the gateway for a while without its noticing.
func (g *gateway) freeze(d time.Duration) {
	g.p.signal(syscall.SIGSTOP)
	time.Sleep(d) // the pause is what is tested
	g.p.signal(syscall.SIGCONT)
}
