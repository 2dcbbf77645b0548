package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/sluicegw/sluice/appliance/config"
	"github.com/sluicegw/sluice/appliance/gateway"
	"github.com/sluicegw/sluice/controlplane/sip"
)

const (
	sipPort   = 5060
	sipPorts  = 40 // how many ports from sipPort on are tried
	startTime = 15 * time.Second
	stopTime  = 5 * time.Second
)

// people may sign in at the web phone and with SIP phones.
var people = []string{"alice", "bob"}

// phones are who there is to call.
var phones = []struct {
	user  string
	does  Behaviour
	about string
}{
	{"echo", Echo, "answers and sends back what it hears"},
	{"tone", Tone, "answers and plays 440 Hz"},
	{"announcement", Announcement, "plays a melody before it answers"},
}

// Run runs a gateway on this machine's loopback with passwords made for this
// run, and the demo phones, until ctx ends. What to open and to dial is written
// to out.
func Run(ctx context.Context, version string, log *slog.Logger, out io.Writer) error {
	return run(ctx, "127.0.0.1:8080", version, log, out)
}

func run(ctx context.Context, page, version string, log *slog.Logger, out io.Writer) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	passwords := map[string]string{}
	cfg, err := configuration(page, port, passwords)
	if err != nil {
		return err
	}
	g, err := gateway.New(cfg, version, log)
	if err != nil {
		return fmt.Errorf("%w\n(this is the built-in demo: sluice config example > sluice.yaml, change it there, sluice run --config sluice.yaml)", err)
	}
	// The gateway outlives ctx, so that the phones can say goodbye to it.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	done := make(chan error, 1)
	go func() { done <- g.Run(serving) }()
	started, err := startPhones(ctx, g.SIP(config.DefaultNetwork, sip.UDP), cfg.Domain, passwords, log)
	if err == nil {
		banner(out, g, port, cfg.Domain, passwords)
		select {
		case <-ctx.Done():
		case err = <-done:
			done <- nil
		}
	} else if ctx.Err() != nil {
		err = nil // interrupted before it was up
	}
	bounded, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	for _, p := range started {
		if err := p.Close(bounded); err != nil {
			log.Debug("demo phone", "err", err)
		}
	}
	stop()
	return errors.Join(err, <-done)
}

func startPhones(ctx context.Context, at netip.AddrPort, domain string, passwords map[string]string, log *slog.Logger) ([]*Phone, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	var started []*Phone
	for _, p := range phones {
		phone, err := Start(ctx, Config{Registrar: at, Domain: domain, User: p.user, Password: passwords[p.user],
			Behaviour: p.does, Logger: log.With("part", "demo")})
		if err != nil {
			return started, err
		}
		started = append(started, phone)
	}
	return started, nil
}

// configuration is the embedded default with the demo's users. The passwords it
// makes are put into passwords. Loopback is nothing the kernel would carry.
func configuration(page string, port uint16, passwords map[string]string) (*config.Config, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "http: {listen: %q}\nsip: {udp: \"127.0.0.1:%d\"}\ndataplane: {mode: user}\nusers:\n", page, port)
	names := append([]string(nil), people...)
	for _, p := range phones {
		names = append(names, p.user)
	}
	for _, n := range names {
		passwords[n] = password()
		fmt.Fprintf(&b, "  - {name: %s, password: %q}\n", n, passwords[n])
	}
	return config.Parse("the built-in demo", []byte(b.String()))
}

// password is 60 random bits that can be typed.
func password() string {
	t := strings.ToLower(rand.Text())
	return t[:4] + "-" + t[4:8] + "-" + t[8:12]
}

// freePort is 5060, or the next port that is free for UDP and TCP.
func freePort() (uint16, error) {
	var err error
	for p := uint16(sipPort); p < sipPort+sipPorts; p++ {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p).String()
		var u net.PacketConn
		if u, err = net.ListenPacket("udp", at); err != nil {
			continue
		}
		var t net.Listener
		t, err = net.Listen("tcp", at)
		_ = u.Close()
		if err == nil {
			_ = t.Close()
			return p, nil
		}
	}
	return 0, fmt.Errorf("no free SIP port from %d to %d on 127.0.0.1: %w: write sip.udp into a configuration of your own (sluice config example)", sipPort, sipPort+sipPorts-1, err)
}

func banner(out io.Writer, g *gateway.Gateway, port uint16, domain string, passwords map[string]string) {
	var b strings.Builder
	fmt.Fprintf(&b, "\nSluice is running.\n\n  Open       http://localhost:%d/\n", g.HTTP().Port())
	for i, n := range people {
		fmt.Fprintf(&b, "  %-10s %-14s password %s\n", []string{"Sign in", "or"}[min(i, 1)], n, passwords[n])
	}
	for i, p := range phones {
		fmt.Fprintf(&b, "  %-10s %-14s %s\n", []string{"Dial", "or"}[min(i, 1)], p.user, p.about)
	}
	taken := ""
	if port != sipPort {
		taken = fmt.Sprintf(" (%d is taken)", sipPort)
	}
	fmt.Fprintf(&b, "  SIP phones register at 127.0.0.1:%d%s, UDP or TCP, domain %s\n", port, taken, domain)
	b.WriteString("\nCtrl-C ends every call and stops.\n\n")
	_, _ = io.WriteString(out, b.String())
}
