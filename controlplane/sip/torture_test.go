package sip

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	gosip "github.com/emiago/sipgo/sip"

	"github.com/sluicegw/sluice/controlplane/call"
)

// torture is what each message of RFC 4475 is answered with when it comes from a
// trunk; 0 is no answer. 480 is the call's own answer: the INVITE reached it.
var torture = map[string]int{
	// 3.1.1 valid
	"wsinv": 481 /* it has a To tag */, "intmeth": 501, "esc01": 480, "escnull": 401, "esc02": 501, "lwsdisp": 200, "longreq": 480,
	"dblreq": 401, "semiuri": 200, "transports": 200, "mpart01": 405, "unreason": 0, "noreason": 0,
	// 3.1.2 invalid
	"badinv01": 400, "clerr": 400, "ncl": 400, "scalar02": 400, "scalarlg": 0, "quotbal": 400, "ltgtruri": 400,
	"lwsruri": 400, "lwsstart": 400, "trws": 400, "escruri": 400, "regbadct": 400, "badaspec": 400, "baddn": 400,
	"badvers": 505, "mismatch01": 400, "mismatch02": 400, "bigcode": 0,
	"baddate": 480, // a date that nothing reads is ignored
	// 3.2 and 3.3
	"badbranch": 200, "insuf": 400, "unkscm": 416, "novelsc": 416, "unksm2": 401, "bext01": 420, "invut": 415,
	"regaut01": 401, "multi01": 400, "mcl01": 400, "bcast": 0, "zeromf": 200, "cparam01": 401, "cparam02": 401,
	"regescrt": 401, "sdp01": 406,
	// 3.4
	"inv2543": 480,
}

var topVia = regexp.MustCompile(`(?i)(\r\n(?:via|v)\s*:[^\r,]*?)((?:\r\n[ \t][^,\r]*)*)(,|\r\n[^ \t])`)

// withRport asks for the answer to come back to the socket, the only change that
// is made to the messages.
func withRport(b []byte) []byte {
	loc := topVia.FindSubmatchIndex(b)
	if loc == nil || strings.Contains(string(b[loc[2]:loc[5]]), "rport") {
		return b
	}
	return append(append(append([]byte{}, b[:loc[5]]...), ";rport"...), b[loc[5]:]...)
}

func TestTorture(t *testing.T) {
	files, err := filepath.Glob("testdata/rfc4475/*.dat")
	if err != nil || len(files) != 49 {
		t.Fatalf("%d messages, RFC 4475 has 49", len(files))
	}
	for _, tr := range transports {
		t.Run(tr, func(t *testing.T) {
			w := newWorld(t, func(c *Config) {
				c.Trunks = []Trunk{{Name: "pbx", Sources: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
				c.OnInvite = func(i call.Invite) { _ = i.Reject(480, "") }
			})
			for _, file := range files {
				name := strings.TrimSuffix(filepath.Base(file), ".dat")
				want, ok := torture[name]
				if !ok {
					t.Fatalf("%s: no expectation", name)
				}
				b, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				t.Run(name, func(t *testing.T) {
					w := &world{T: t, s: w.s, loc: w.loc, invites: w.invites, web: w.web}
					p := w.newPeer("x", tr)
					msg := b
					if tr == "UDP" {
						msg = withRport(msg)
					}
					if tr == "WS" {
						switch want {
						case 406, 415, 480:
							want = 407 // a good INVITE, but a browser is no trunk
						}
					}
					if tr == "TCP" {
						switch name {
						case "clerr":
							want = 0 // a connection waits for what was promised
						case "inv2543":
							want = 400 // no Content-Length
						}
					}
					if err := p.write(msg); err != nil {
						t.Fatal(err)
					}
					// OPTIONS behind it shows that nothing came, or what came first.
					q := p
					if tr == "TCP" {
						q = w.newPeer("y", tr) // the first connection may be closed by now
					}
					got := 0
					if want != 0 {
						got = p.next("answer", func(m gosip.Message) bool {
							r, ok := m.(*gosip.Response)
							return ok && r.StatusCode >= 200
						}).(*gosip.Response).StatusCode
					}
					q.send(fmt.Sprintf("OPTIONS sip:gw.test SIP/2.0\n%s\nFrom: <sip:a@b>;tag=1\nTo: <sip:b@b>\nCall-ID: after-%s\nCSeq: 1 OPTIONS\n\n", q.via(), name))
					for {
						r := q.next("answer to OPTIONS", func(m gosip.Message) bool { _, ok := m.(*gosip.Response); return ok }).(*gosip.Response)
						if r.CallID() != nil && r.CallID().Value() == "after-"+name {
							break
						}
						if want == 0 {
							got = r.StatusCode
						}
					}
					if got != want {
						t.Errorf("answered %d, want %d", got, want)
					}
				})
			}
		})
	}
}

// The messages of RFC 5118: IPv6 in every place where an address may stand.
func TestTortureIPv6(t *testing.T) {
	head := "\nTo: sip:user@example.com\nFrom: sip:user@example.com;tag=81x2\nCall-ID: %d.SSG95523997077@hlau_4100\nMax-Forwards: 70\nCSeq: 98176 OPTIONS\nContent-Length: 0\n\n"
	for i, c := range []struct {
		name, uri, via string
		want           int
	}{
		{"4.1 valid", "sip:[2001:db8::10]", "[2001:db8::9:1]", 200},
		{"4.2 without brackets", "sip:2001:db8::10", "[2001:db8::9:1]", 400},
		{"4.3 ambiguous port", "sip:[2001:db8::10:5070]", "[2001:db8::9:1]", 200},
		{"4.4 port", "sip:[2001:db8::10]:5070", "[2001:db8::9:1]:5060", 200},
		{"4.5 received with brackets", "sip:[2001:db8::10]", "[2001:db8::9:1];received=[2001:db8::9:255]", 200},
		{"4.5 received without", "sip:[2001:db8::10]", "[2001:db8::9:1];received=2001:db8::9:255", 200},
		{"4.9 mapped", "sip:user@[::ffff:192.0.2.10]:19823", "[::ffff:192.0.2.2]", 200},
		{"4.10 three colons", "sip:user@[2001:db8:::192.0.2.1]", "[2001:db8::9:1]", 400},
	} {
		w := newWorld(t)
		p := w.newPeer("x", "UDP")
		p.send("OPTIONS " + c.uri + " SIP/2.0\nVia: SIP/2.0/UDP " + c.via + ";rport;branch=z9hG4bKas3-111" + fmt.Sprintf(head, i))
		r := p.next("answer", func(m gosip.Message) bool { _, ok := m.(*gosip.Response); return ok }).(*gosip.Response)
		if r.StatusCode != c.want {
			t.Errorf("%s: %d, want %d", c.name, r.StatusCode, c.want)
		}
		if got, _ := r.Via().Params.Get("received"); got != "127.0.0.1" {
			t.Errorf("%s: received=%s", c.name, got)
		}
	}
}

// What an attacker would try beyond the RFC's list.
func TestHostileMessages(t *testing.T) {
	base := func(extra string) string {
		return "OPTIONS sip:gw.test SIP/2.0\r\nVia: SIP/2.0/X 127.0.0.1;branch=z9hG4bKh;rport\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b@b>\r\nCall-ID: h\r\nCSeq: 1 OPTIONS\r\n" + extra
	}
	for name, c := range map[string]struct {
		msg  string
		want int
	}{
		"bare LF in a header":      {base("Subject: a\nX: y\r\nContent-Length: 0\r\n\r\n"), 400},
		"NUL in a header":          {base("Subject: a\x00b\r\nContent-Length: 0\r\n\r\n"), 400},
		"two lengths":              {base("Content-Length: 0\r\nl: 4\r\n\r\nabcd"), 400},
		"length of 2^31":           {base("Content-Length: 2147483648\r\n\r\n"), 400},
		"length of 2^31-1":         {base("Content-Length: 2147483647\r\n\r\n"), 513},
		"length with a sign":       {base("Content-Length: +0\r\n\r\n"), 400},
		"two From":                 {base("From: <sip:c@d>;tag=2\r\nContent-Length: 0\r\n\r\n"), 400},
		"compact second Call-ID":   {base("i: other\r\nContent-Length: 0\r\n\r\n"), 400},
		"a thousand Vias":          {base(strings.Repeat("Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx\r\n", 1000) + "Content-Length: 0\r\n\r\n"), 400},
		"a thousand Vias in one":   {base("Via: " + strings.TrimSuffix(strings.Repeat("SIP/2.0/UDP h;branch=z9,", 1000), ",") + "\r\nContent-Length: 0\r\n\r\n"), 400},
		"a long header":            {base("Subject: " + strings.Repeat("a", maxValue+1) + "\r\nContent-Length: 0\r\n\r\n"), 400},
		"endless folding":          {base("Subject: a" + strings.Repeat("\r\n bbbbbbbb", 2500) + "\r\nContent-Length: 0\r\n\r\n"), 400},
		"Max-Forwards of 256":      {base("Max-Forwards: 256\r\nContent-Length: 0\r\n\r\n"), 400},
		"Max-Forwards with letter": {base("Max-Forwards: 1x\r\nContent-Length: 0\r\n\r\n"), 400},
		"good":                     {base("Content-Length: 0\r\n\r\n"), 200},
	} {
		for _, tr := range transports {
			t.Run(name+"/"+tr, func(t *testing.T) {
				w := newWorld(t)
				p := w.newPeer("x", tr)
				msg := strings.Replace(c.msg, "2.0/X", "2.0/"+tr, 1)
				want := c.want
				if want == 513 && tr != "TCP" {
					want = 400 // longer than the datagram
				}
				if err := p.write([]byte(msg)); err != nil {
					t.Fatal(err)
				}
				r := p.next("answer", func(m gosip.Message) bool { _, ok := m.(*gosip.Response); return ok }).(*gosip.Response)
				if r.StatusCode != want {
					t.Fatalf("%d %s, want %d", r.StatusCode, r.Reason, want)
				}
			})
		}
	}
}

// A message that makes a handler panic costs that message.
func TestPanicIsContained(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Users = nervous{} })
	p := w.newPeer("phone1", "UDP")
	p.password = "x"
	res := p.registerOnce("", "")
	p.seq++
	p.send(fmt.Sprintf("REGISTER sip:%s SIP/2.0\n%s\nFrom: <sip:phone1@%s>;tag=r1\nTo: <sip:phone1@%s>\nCall-ID: reg\nCSeq: 9 REGISTER\nContact: %s\n%s\n\n",
		testDomain, p.via(), testDomain, testDomain, p.contact(), p.credentials(res, "REGISTER", "sip:"+testDomain)))
	p.quiet(50*time.Millisecond, "answer", func(gosip.Message) bool { return true })
	if res := p.registerOnce("", ""); res.StatusCode != 401 {
		t.Fatalf("after a panic: %d", res.StatusCode)
	}
}

type nervous struct{}

func (nervous) Password(string) (string, bool) { panic("boo") }

func FuzzReceive(f *testing.F) {
	files, _ := filepath.Glob("testdata/rfc4475/*.dat")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	r := newReader()
	f.Fuzz(func(t *testing.T, b []byte) {
		m, h, err := r.read(b)
		if err != nil {
			if h == nil {
				t.Fatal("a fault without a head")
			}
			return
		}
		// What is read is read the same again: nothing that we pass on means
		// something else to the next one who reads it.
		text := m.String()
		again, _, err := r.read([]byte(text))
		if err != nil {
			t.Fatalf("%q became %q: %v", b, text, err)
		}
		if again.String() != text {
			t.Fatalf("%q became %q and then %q", b, text, again.String())
		}
		for _, n := range []string{"Via", "From", "To", "Call-ID", "CSeq"} {
			if value(m, n) == "" {
				t.Fatalf("%q: no %s", b, n)
			}
		}
	})
}
