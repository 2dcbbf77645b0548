package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicegw/sluice/internal/ring"
)

// sipp is one run of a scenario of the folder scenarios.
type sipp struct {
	t        testing.TB
	p        *process
	dir      string
	sip, rtp netip.AddrPort
}

// sippConfig says how a scenario is run.
type sippConfig struct {
	ns       string         // network namespace, "" = ours
	address  netip.Addr     // invalid = 127.0.0.1
	port     uint16         // SIP, 0 = any free one
	scenario string         // file in scenarios, without .xml
	remote   netip.AddrPort // the gateway
	echo     bool           // send back every RTP packet
	tone     float64        // of tone.ul, which a scenario may play
	user     string         // of digest authentication
	password string
	target   string            // whom to call
	keys     map[string]string // values of [name] in the scenario
	calls    int               // 0 = 1
	rate     int               // calls a second, 0 = sipp's own
}

func newSIPp(t testing.TB, c sippConfig) *sipp {
	t.Helper()
	ring.Needs(t, ring.Tool("sipp"))
	if !c.address.IsValid() {
		c.address = loopback
	}
	text, err := os.ReadFile(filepath.Join("scenarios", c.scenario+".xml"))
	if err != nil {
		t.Fatal(err)
	}
	ports := freePorts(t, c.ns, 8)
	if c.port == 0 {
		c.port = ports
	}
	media := (ports + 3) &^ 1 // even; sipp also takes the next but one for video
	s := &sipp{t: t, dir: t.TempDir(),
		sip: netip.AddrPortFrom(c.address, c.port), rtp: netip.AddrPortFrom(c.address, media)}
	// sipp reads status codes before it knows its own -key values.
	for k, v := range c.keys {
		text = bytes.ReplaceAll(text, []byte("["+k+"]"), []byte(v))
	}
	scenario := filepath.Join(s.dir, "scenario.xml")
	if err := os.WriteFile(scenario, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if c.tone != 0 {
		writeULaw(t, filepath.Join(s.dir, "tone.ul"), c.tone, 4)
	}
	args := []string{
		"-sf", scenario, "-i", c.address.String(), "-p", fmt.Sprint(c.port),
		"-mi", c.address.String(), "-mp", fmt.Sprint(media),
		"-m", fmt.Sprint(max(1, c.calls)), "-l", fmt.Sprint(max(1, c.calls)), "-nostdin",
		"-r", fmt.Sprint(max(10, c.rate)),
		"-trace_msg", "-message_file", filepath.Join(s.dir, "messages.log"),
		"-trace_err", "-error_file", filepath.Join(s.dir, "errors.log"),
	}
	if c.echo {
		args = append(args, "-rtp_echo")
	}
	if c.user != "" {
		args = append(args, "-au", c.user, "-ap", c.password, "-auth_uri", domain)
	}
	if c.target != "" {
		args = append(args, "-s", c.target)
	}
	if c.remote.IsValid() {
		args = append(args, c.remote.String())
	}
	cmd := command(c.ns, "sipp", args...)
	cmd.Dir = s.dir
	s.p = start(t, "sipp-"+c.scenario, cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("---- sipp %s\n%s\n%s", c.scenario, tail(filepath.Join(s.dir, "messages.log"), 16000), tail(filepath.Join(s.dir, "errors.log"), 2000))
		}
	})
	// It listens before it has anything to say.
	eventually(t, 5*time.Second, "sipp listens", func() error {
		if !s.p.running() {
			return fmt.Errorf("sipp has ended: %v\n%s", s.p.err, tail(s.p.log, 2000))
		}
		return udpBound(c.ns, s.sip)
	})
	return s
}

// passes waits until the scenario has run to its end as written.
func (s *sipp) passes(within time.Duration) {
	s.t.Helper()
	if err := s.p.waitExit(s.t, within); err != nil {
		s.t.Fatalf("sipp's scenario did not pass: %v\n%s", err, tail(filepath.Join(s.dir, "errors.log"), 3000))
	}
}

// messages are the SIP messages so far, as sipp logs them.
func (s *sipp) messages() string { return tail(filepath.Join(s.dir, "messages.log"), 1<<20) }

// sees waits until the log of messages holds a text.
func (s *sipp) sees(text string, within time.Duration) {
	s.t.Helper()
	eventually(s.t, within, "sipp sees "+text, func() error {
		if !strings.Contains(s.messages(), text) {
			return fmt.Errorf("not yet")
		}
		return nil
	})
}

// udpBound tells whether some socket is bound to the port, from the kernel's table.
func udpBound(ns string, a netip.AddrPort) error {
	table := "/proc/thread-self/net/udp"
	if a.Addr().Is6() {
		table += "6"
	}
	return inNamespace(ns, func() error {
		f, err := os.Open(table)
		if err != nil {
			return err
		}
		defer f.Close()
		want := fmt.Sprintf(":%04X", a.Port())
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if fields := strings.Fields(lines.Text()); len(fields) > 1 && strings.HasSuffix(fields[1], want) {
				return nil
			}
		}
		return fmt.Errorf("nothing is bound to UDP port %d", a.Port())
	})
}

// writeULaw writes seconds of a tone as raw G.711 µ-law, which sipp plays.
func writeULaw(t testing.TB, path string, hz, seconds float64) {
	t.Helper()
	wav := filepath.Join(t.TempDir(), "tone.wav")
	writeTone(t, wav, 8000, hz, seconds)
	x, _, err := readWAV(wav)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, len(x))
	for i, v := range x {
		out[i] = ulaw(int(v * 32768))
	}
	if err := os.WriteFile(path, out, 0o644); err != nil {
		t.Fatal(err)
	}
}

// ulaw encodes one 16-bit sample (ITU-T G.711).
func ulaw(v int) byte {
	const bias, clip = 0x84, 32635
	sign := byte(0)
	if v < 0 {
		v, sign = -v, 0x80
	}
	v = min(v, clip) + bias
	exponent := 7
	for mask := 0x4000; v&mask == 0 && exponent > 0; mask >>= 1 {
		exponent--
	}
	return ^(sign | byte(exponent)<<4 | byte(v>>(exponent+3))&0x0f)
}
