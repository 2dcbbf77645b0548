package gateway_test

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"
	"github.com/pion/rtp"
	"github.com/sluicegw/sluice/appliance/config"
	"github.com/sluicegw/sluice/appliance/demo"
	"github.com/sluicegw/sluice/appliance/gateway"
	sipserver "github.com/sluicegw/sluice/controlplane/sip"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a gateway on free loopback ports with the users a and b and the
// phones echo, tone and announcement, all with password "pw".
func start(t *testing.T, extra string) (g *gateway.Gateway, stop func() error) {
	t.Helper()
	if !strings.Contains(extra, "admin:") {
		extra += "admin: {socket: off}\n"
	}
	cfg, err := config.Parse("test", []byte(`
domain: gw.test
http: {listen: 127.0.0.1:0}
sip: {udp: 127.0.0.1:0, digest: [md5, sha-256]}
dataplane: {mode: user}
users:
  - {name: a, password: pw}
  - {name: b, password: pw}
  - {name: echo, password: pw}
  - {name: tone, password: pw}
  - {name: announcement, password: pw}
`+extra))
	if err != nil {
		t.Fatal(err)
	}
	g, err = gateway.New(cfg, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	stopped := false
	stop = func() error {
		stopped = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if !stopped {
			if err := stop(); err != nil {
				t.Errorf("the gateway ended with %v", err)
			}
		}
	})
	return g, stop
}

// serve runs a configuration until the test ends.
func serve(t *testing.T, cfg *config.Config) *gateway.Gateway {
	t.Helper()
	g, err := gateway.New(cfg, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the gateway ended with %v", err)
		}
	})
	return g
}

func phone(t *testing.T, g *gateway.Gateway, user string, b demo.Behaviour) *demo.Phone {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	p, err := demo.Start(ctx, demo.Config{Registrar: g.SIP(config.DefaultNetwork, sipserver.UDP), Domain: "gw.test",
		User: user, Password: "pw", Behaviour: b, Early: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = p.Close(ctx)
	})
	return p
}

// decode is the value of a µ-law octet (ITU-T G.711).
func decode(b byte) float64 {
	b = ^b
	v := float64((int(b&0x0f)<<3+0x84)<<(b>>4&7) - 0x84)
	if b&0x80 != 0 {
		return -v
	}
	return v
}

// power is the share of a signal that lies at hz (Goertzel).
func power(s []float64, hz float64) float64 {
	w := 2 * math.Pi * hz / 8000
	var a, b, sum float64
	for _, x := range s {
		a, b = x+2*math.Cos(w)*a-b, a
		sum += x * x
	}
	return (a*a + b*b - 2*math.Cos(w)*a*b) / (sum*float64(len(s))/2 + 1e-9)
}

// samples waits for n packets of 20 ms.
func (b *browser) samples(n int) []float64 {
	b.t.Helper()
	var s []float64
	for range n {
		select {
		case p := <-b.heard:
			for _, o := range p.Payload {
				s = append(s, decode(o))
			}
		case <-time.After(wait):
			b.t.Fatalf("heard only %d packets", len(s)/160)
		}
	}
	return s
}

func TestBrowserHearsThePhone(t *testing.T) {
	g, _ := start(t, "")
	phone(t, g, "tone", demo.Tone)
	b := newBrowser(t, g.HTTP().String(), "gw.test", "a", "pw")
	if res := b.register(); res.StatusCode != 200 {
		t.Fatalf("REGISTER: %d %s", res.StatusCode, res.Reason)
	}
	if res := b.dial("tone"); res.StatusCode != 200 {
		t.Fatalf("INVITE: %d %s", res.StatusCode, res.Reason)
	}
	b.samples(5) // set-up may cut the first one short
	if p := power(b.samples(50), demo.ToneHz); p < 0.95 {
		t.Errorf("%.3f of what the browser hears is the phone's tone", p)
	}
	if code := b.hangup(); code != 200 {
		t.Errorf("BYE: %d", code)
	}
}

func TestEchoReturnsWhatTheBrowserSends(t *testing.T) {
	g, _ := start(t, "")
	p := phone(t, g, "echo", demo.Echo)
	b := newBrowser(t, g.HTTP().String(), "gw.test", "a", "pw")
	b.register()
	if res := b.dial("echo"); res.StatusCode != 200 {
		t.Fatalf("INVITE: %d %s", res.StatusCode, res.Reason)
	}
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for n := 0; ; n++ {
			payload := make([]byte, 160)
			for i := range payload {
				payload[i] = byte(n)
			}
			_ = b.track.WriteRTP(&rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: uint16(n), Timestamp: uint32(160 * n)}, Payload: payload})
			select {
			case <-ticker.C:
			case <-stop:
				return
			}
		}
	}()
	var last *rtp.Packet
	for range 50 {
		select {
		case got := <-b.heard:
			if last != nil && (got.SequenceNumber != last.SequenceNumber+1 || got.Payload[0] != last.Payload[0]+1 || got.Timestamp != last.Timestamp+160) {
				t.Fatalf("after %v %d came %v %d", last.Header, last.Payload[0], got.Header, got.Payload[0])
			}
			last = got
		case <-time.After(wait):
			t.Fatal("the echo is silent")
		}
	}
	if n := p.Calls(); n != 1 {
		t.Errorf("the phone has %d calls", n)
	}
	b.hangup()
}

func TestRefusals(t *testing.T) {
	g, _ := start(t, "")
	b := newBrowser(t, g.HTTP().String(), "gw.test", "a", "pw")
	b.register()
	for user, want := range map[string]int{"nobody": 404, "b": 480} {
		if res := b.dial(user); res.StatusCode != want {
			t.Errorf("%s: %d %s, want %d", user, res.StatusCode, res.Reason, want)
		}
	}
	wrong := newBrowser(t, g.HTTP().String(), "gw.test", "a", "wrong")
	if res := wrong.register(); res.StatusCode != 401 && res.StatusCode != 403 {
		t.Errorf("wrong password: %d %s", res.StatusCode, res.Reason)
	}
}

func TestUserWithHashSignsIn(t *testing.T) {
	ha1 := fmt.Sprintf("%x", md5.Sum([]byte("carol:gw.test:pw")))
	ha2 := fmt.Sprintf("%x", sha256.Sum256([]byte("dave:gw.test:pw")))
	g, _ := start(t, "  - {name: carol, ha1: "+ha1+"}\n  - {name: dave, ha1_sha256: "+ha2+"}\n")
	for _, tc := range []struct {
		user, password string
		challenge      int // 0 MD5, 1 SHA-256
		want           int
	}{
		{"carol", "pw", 0, 200}, {"carol", "other", 0, 401}, {"carol", ha1, 0, 401}, {"carol", "pw", 1, 401},
		{"dave", "pw", 1, 200}, {"dave", "other", 1, 401}, {"dave", ha2, 1, 401}, {"dave", "pw", 0, 401}, {"dave", "", 0, 401},
	} {
		b := newBrowser(t, g.HTTP().String(), "gw.test", tc.user, tc.password)
		b.challenge = tc.challenge
		if res := b.register(); res.StatusCode != tc.want {
			t.Errorf("%s with %q: %d %s, want %d", tc.user, tc.password, res.StatusCode, res.Reason, tc.want)
		}
	}
}

func TestStopEndsCallsWithBYE(t *testing.T) {
	g, stop := start(t, "")
	p := phone(t, g, "tone", demo.Tone)
	b := newBrowser(t, g.HTTP().String(), "gw.test", "a", "pw")
	b.register()
	if res := b.dial("tone"); res.StatusCode != 200 {
		t.Fatalf("INVITE: %d %s", res.StatusCode, res.Reason)
	}
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	b.answerRequest(sip.BYE)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(wait); p.Calls() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the phone never got BYE")
		}
	}
}

func get(t *testing.T, g *gateway.Gateway, path string) (*http.Response, string) {
	t.Helper()
	c := http.Client{Timeout: wait, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Get("http://" + g.HTTP().String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

func TestHTTP(t *testing.T) {
	g, _ := start(t, "")
	phone(t, g, "tone", demo.Tone)
	for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ready", "/": "<html", "/phone.json": `{"domain":"gw.test"}`} {
		res, body := get(t, g, path)
		if res.StatusCode != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %s %q", path, res.Status, body)
		}
		for _, h := range []string{"Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy"} {
			if res.Header.Get(h) == "" {
				t.Errorf("%s has no %s", path, h)
			}
		}
	}
	b := newBrowser(t, g.HTTP().String(), "gw.test", "a", "pw")
	b.register()
	if res := b.dial("tone"); res.StatusCode != 200 {
		t.Fatalf("INVITE: %d %s", res.StatusCode, res.Reason)
	}
	b.samples(10)
	_, body := get(t, g, "/metrics")
	for _, want := range []string{
		`sluice_calls{direction="browser-phone",stage="connected"} 1`,
		"sluice_registrations 2", "sluice_ready 1", `sluice_build_info{version="test"} 1`,
		`sluice_call_setup_seconds_count{stage="connected"} 1`, "go_goroutines", "process_open_fds",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	if m := regexp.MustCompile(`sluice_media_packets_total{path="user"} (\d+)`).FindStringSubmatch(body); m == nil || len(m[1]) < 2 {
		t.Errorf("ten packets were heard and /metrics counts %v", m)
	}
	b.hangup()
	for end := time.Now().Add(wait); ; time.Sleep(10 * time.Millisecond) {
		_, body = get(t, g, "/metrics")
		if strings.Contains(body, `sluice_calls_ended_total{cause="hangup",class="2xx",direction="browser-phone"} 1`) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the ended call is not counted:\n%s", body)
		}
	}
	if strings.Contains(body, "pw") && strings.Contains(body, `"pw"`) {
		t.Error("a password in /metrics")
	}
}

func TestMetricsOnlyForTheListed(t *testing.T) {
	cfg, err := config.Parse("test", []byte("http: {listen: 127.0.0.1:0, metrics: [192.0.2.0/24]}\nsip: {udp: 127.0.0.1:0}\nadmin: {socket: off}\ndataplane: {mode: user}\n"))
	if err != nil {
		t.Fatal(err)
	}
	g := serve(t, cfg)
	res, body := get(t, g, "/metrics")
	if res.StatusCode != 403 || !strings.Contains(body, "http.metrics") {
		t.Errorf("%s %q", res.Status, body)
	}
}

func TestTakenPortsNameTheSetting(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for setting, yaml := range map[string]string{
		"http.listen": "http: {listen: '%s'}\nsip: {udp: 127.0.0.1:0}\n",
		"sip.tcp":     "http: {listen: 127.0.0.1:0}\nsip: {udp: 127.0.0.1:0, tcp: '%s'}\n",
	} {
		t.Run(setting, func(t *testing.T) {
			cfg, err := config.Parse("test", fmt.Appendf(nil, yaml+"dataplane: {mode: user}\nadmin: {socket: off}\n", ln.Addr()))
			if err != nil {
				t.Fatal(err)
			}
			_, err = gateway.New(cfg, "test", nil)
			if err == nil || !strings.Contains(err.Error(), "change "+setting) {
				t.Errorf("got %v, want to be told to change %s", err, setting)
			}
		})
	}
}

// A client that sends its request slowly loses its connection, and keeps nobody
// else waiting meanwhile.
func TestSlowClientsAreCutOff(t *testing.T) {
	g, _ := start(t, "limits: {connections: 300}\n")
	var slow []net.Conn
	for range 50 {
		c, err := net.Dial("tcp", g.HTTP().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: x\r\n"); err != nil {
			t.Fatal(err)
		}
		slow = append(slow, c)
	}
	if res, _ := get(t, g, "/healthz"); res.StatusCode != 200 {
		t.Errorf("/healthz: %s while others are slow", res.Status)
	}
	for _, c := range slow {
		_ = c.SetReadDeadline(time.Now().Add(wait))
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Fatalf("a slow client is still connected: %v", err)
		}
	}
}
