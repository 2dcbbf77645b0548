package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicegw/sluice/internal/ring"
)

// baresip is one SIP phone: it speaks with a tone and records what it hears.
type baresip struct {
	t    testing.TB
	p    *process
	dir  string
	sip  netip.AddrPort
	conn net.Conn

	mu     sync.Mutex
	events []event
	seen   int // events before this one have been waited for
	more   chan struct{}
}

type event struct {
	Event     bool   `json:"event"`
	Type      string `json:"type"`
	Direction string `json:"direction"`
	Peer      string `json:"peeruri"`
	Param     string `json:"param"`
	Response  bool   `json:"response"`
	OK        bool   `json:"ok"`
	Data      string `json:"data"`
}

// phoneConfig says how a phone is set up.
type phoneConfig struct {
	ns       string         // network namespace, "" = ours
	address  netip.Addr     // to bind, invalid = 127.0.0.1
	user     string         // at domain
	password string         //
	domain   string         //
	gateway  netip.AddrPort // SIP over UDP
	tone     float64        // what it speaks
	codecs   string         // comma-separated, "" = PCMU
	manual   bool           // do not answer by itself
	tcp      bool           // SIP over TCP
	media    string         // "" = RTP, "srtp-mand" = SDES
	lone     bool           // do not register
}

// modulePath is where the distribution keeps baresip's modules.
const modulePath = "/usr/lib/baresip/modules"

var phoneNeeds = []ring.Need{
	ring.Tool("baresip"), ring.File(modulePath+"/ctrl_tcp.so", "apt-get install baresip-core"),
}

func newBaresip(t testing.TB, c phoneConfig) *baresip {
	t.Helper()
	ring.Needs(t, phoneNeeds...)
	if !c.address.IsValid() {
		c.address = loopback
	}
	if c.codecs == "" {
		c.codecs = "PCMU"
	}
	b := &baresip{t: t, dir: t.TempDir(), more: make(chan struct{}, 1)}
	ports := freePorts(t, c.ns, 3) // SIP, SIP over TLS (always the next one), control
	b.sip = netip.AddrPortFrom(c.address, ports)
	control := netip.AddrPortFrom(loopback, ports+2)
	rate, channels := 8000, 1
	if strings.HasPrefix(c.codecs, "opus") {
		rate, channels = 48000, 2
	}
	// The tone must outlive the call: at its end baresip hangs up.
	writeTone(t, filepath.Join(b.dir, "tone.wav"), rate, c.tone, 300)
	config := fmt.Sprintf(`poll_method epoll
sip_listen %s
net_interface %s
call_local_timeout 120
call_max_calls 4
audio_player aubridge,out
audio_source aufile,%s/tone.wav
audio_alert aubridge,alert
audio_level no
ausrc_srate %d
auplay_srate %d
ausrc_channels %d
auplay_channels %d
opus_stereo %s
opus_sprop_stereo %s
rtp_tos 184
rtcp_mux no
jitter_buffer_delay 2-6
snd_path %s
module_path %s
module g711.so
module opus.so
module aufile.so
module aubridge.so
module sndfile.so
module srtp.so
module_tmp account.so
module_app menu.so
module_app ctrl_tcp.so
ctrl_tcp_listen %s
`, b.sip, c.address, b.dir, rate, rate, 1, channels, "no", "no", b.dir, modulePath, control)
	transport, mode, media := "udp", "auto", ""
	if c.tcp {
		transport = "tcp"
	}
	if c.manual {
		mode = "manual"
	}
	if c.media != "" {
		media = ";mediaenc=" + c.media
	}
	interval := 120
	if c.lone {
		interval = 0
	}
	account := fmt.Sprintf("<sip:%s@%s;transport=%s>;auth_user=%s;auth_pass=%s;outbound=\"sip:%s;transport=%s\";regint=%d;answermode=%s;audio_codecs=%s;ptime=20%s\n",
		c.user, c.domain, transport, c.user, c.password, c.gateway, transport, interval, mode, c.codecs, media)
	for name, text := range map[string]string{"config": config, "accounts": account, "contacts": ""} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Its standard input must stay open: at its end baresip spins.
	cmd := command(c.ns, "baresip", "-f", b.dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close() })
	b.p = start(t, "baresip-"+c.user, cmd)
	eventually(t, 10*time.Second, "baresip's control port", func() error {
		if !b.p.running() {
			return errors.New("it has ended")
		}
		conn, err := dialIn(c.ns, "tcp", control.String())
		if err == nil {
			b.conn = conn
		}
		return err
	})
	t.Cleanup(func() { b.conn.Close() })
	go b.read()
	return b
}

// newPhone starts a phone and waits until it is registered.
func newPhone(t testing.TB, c phoneConfig) *baresip {
	t.Helper()
	b := newBaresip(t, c)
	b.registered()
	return b
}

// registered reads the log: baresip registers before anybody can listen to its events.
func (b *baresip) registered() {
	b.t.Helper()
	eventually(b.t, 10*time.Second, "the phone is registered", func() error { return b.p.logs("200 OK (") })
}

// read takes netstrings of JSON from the control port.
func (b *baresip) read() {
	r := bufio.NewReader(b.conn)
	for {
		size, err := r.ReadString(':')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(strings.TrimSuffix(size, ":"))
		if err != nil || n < 0 || n > 1<<16 {
			return
		}
		text := make([]byte, n+1) // and the comma
		if _, err := io.ReadFull(r, text); err != nil {
			return
		}
		var e event
		if json.Unmarshal(text[:n], &e) != nil || !e.Event {
			continue
		}
		b.mu.Lock()
		b.events = append(b.events, e)
		b.mu.Unlock()
		select {
		case b.more <- struct{}{}:
		default:
		}
	}
}

// wait returns the first event of one of the types that no earlier wait has passed.
func (b *baresip) wait(within time.Duration, types ...string) event {
	b.t.Helper()
	deadline := time.After(within)
	for {
		b.mu.Lock()
		for i := b.seen; i < len(b.events); i++ {
			for _, t := range types {
				if b.events[i].Type == t {
					b.seen = i + 1
					e := b.events[i]
					b.mu.Unlock()
					return e
				}
			}
		}
		all := fmt.Sprint(b.events)
		b.mu.Unlock()
		select {
		case <-b.more:
		case <-deadline:
			b.t.Fatalf("phone reports none of %v within %v, but %s", types, within, all)
		}
	}
}

// command gives baresip one of its long commands, e.g. "dial".
func (b *baresip) command(name, params string) {
	b.t.Helper()
	text, err := json.Marshal(map[string]string{"command": name, "params": params, "token": name})
	if err == nil {
		_, err = fmt.Fprintf(b.conn, "%d:%s,", len(text), text)
	}
	if err != nil {
		b.t.Fatalf("baresip %s: %v", name, err)
	}
}

func (b *baresip) dial(uri string) { b.t.Helper(); b.command("dial", uri) }
func (b *baresip) hangUp()         { b.t.Helper(); b.command("hangup", "") }
func (b *baresip) established()    { b.t.Helper(); b.wait(20*time.Second, "CALL_ESTABLISHED") }

// closed waits for the end of the call and returns what the phone says of it.
func (b *baresip) closed(within time.Duration) string {
	b.t.Helper()
	return b.wait(within, "CALL_CLOSED").Param
}

// recording is what the phone has heard in its newest call.
func (b *baresip) recording() (samples []float64, rate int, err error) {
	files, err := filepath.Glob(filepath.Join(b.dir, "dump-*-dec.wav"))
	if err != nil || len(files) == 0 {
		return nil, 0, fmt.Errorf("no recording in %s: %w", b.dir, err)
	}
	return readWAV(files[len(files)-1]) // named by time
}

// hears waits for a second of a tone at the end of what the phone has heard.
func (b *baresip) hears(hz float64, within time.Duration) {
	b.t.Helper()
	x, _, _ := b.recording()
	from := len(x)
	eventually(b.t, within, fmt.Sprintf("the phone hears %v Hz", hz), func() error {
		x, rate, err := b.recording()
		if err != nil {
			return err
		}
		x = x[min(from, len(x)):]
		w := windows(x, rate, hz)
		run := 0
		for _, ok := range w {
			if ok {
				run++
			} else {
				run = 0
			}
		}
		if run < 12 {
			return fmt.Errorf("%d of the last windows of %.2f s recorded anew", run, float64(len(x))/float64(max(1, rate)))
		}
		return nil
	})
}
