package call_test

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/srtp/v3"
	"github.com/sluicegw/sluice/controlplane/sdp"
)

// heard collects what arrived, by what it says: every packet's payload is the
// sender's word repeated.
type heard struct {
	mu     sync.Mutex
	words  map[string]int             // packets by payload type and word: "0 alice"
	seen   map[uint32]map[uint16]bool // sequence numbers by SSRC
	twice  int                        // packets with a number that was used before
	newest uint16
	back   int // packets older than one that came before
}

func (h *heard) note(p *rtp.Packet) {
	word, _, _ := bytes.Cut(p.Payload, []byte{'.'})
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.words == nil {
		h.words, h.seen = map[string]int{}, map[uint32]map[uint16]bool{}
	}
	if h.seen[p.SSRC] == nil {
		h.seen[p.SSRC] = map[uint16]bool{}
	} else if int16(p.SequenceNumber-h.newest) < 0 {
		h.back++
	}
	h.newest = p.SequenceNumber
	if h.seen[p.SSRC][p.SequenceNumber] {
		h.twice++
	}
	h.seen[p.SSRC][p.SequenceNumber] = true
	h.words[fmt.Sprintf("%d %s", p.PayloadType, word)]++
}

func (h *heard) count(what string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.words[what]
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprint(h.words)
}

// want waits until n more packets of a payload type with a word have arrived.
func (h *heard) want(t testing.TB, what string, n int) {
	t.Helper()
	from := h.count(what)
	deadline := time.Now().Add(patience)
	for h.count(what) < from+n {
		if time.Now().After(deadline) {
			t.Fatalf("heard %s, want %d more of %q", h, n, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// got waits until a packet of a payload type with a word has arrived.
func (h *heard) got(t testing.TB, what string) {
	t.Helper()
	for end := time.Now().Add(patience); h.count(what) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("heard %s, want %q", h, what)
		}
	}
}

// oneStream checks that all of it came as one stream: one SSRC, whose sequence
// numbers only grow. Towards SRTP anything else would repeat a keystream.
func (h *heard) oneStream(t testing.TB) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.seen) != 1 || h.twice > 0 || h.back > 0 {
		t.Errorf("%d SSRCs, %d numbers used twice, %d packets out of order", len(h.seen), h.twice, h.back)
	}
}

// quiet checks that nothing more of what arrives within a while.
func (h *heard) quiet(t testing.TB, what string, d time.Duration) {
	t.Helper()
	time.Sleep(50 * time.Millisecond) // what is under way
	from := h.count(what)
	time.Sleep(d)
	if n := h.count(what) - from; n > 0 {
		t.Errorf("%d packets of %q where none should come", n, what)
	}
}

func payload(word string) []byte {
	return []byte(strings.Repeat(word+".", 160/(len(word)+1)+1)[:160])
}

// talker sends a packet each 20 ms.
type talker struct {
	send   func(*rtp.Packet)
	word   string
	pt     atomic.Uint32
	paused atomic.Bool
	digits chan uint8 // payload type of a digit to send now
	stop   chan struct{}
	once   sync.Once
	done   chan struct{}
}

func talk(word string, pt uint8, ssrc uint32, send func(*rtp.Packet)) *talker {
	k := &talker{send: send, word: word, digits: make(chan uint8, 4), stop: make(chan struct{}), done: make(chan struct{})}
	k.pt.Store(uint32(pt))
	go func() {
		defer close(k.done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for seq := uint16(0xff00); ; seq++ { // rolls over after five seconds
			p := &rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: uint8(k.pt.Load()), SequenceNumber: seq,
				Timestamp: uint32(seq) * 160, SSRC: ssrc}, Payload: payload(word)}
			select {
			case <-k.stop:
				return
			case <-tick.C:
			case pt := <-k.digits:
				p.PayloadType, p.Payload = pt, append([]byte{5, 0x8a, 0, 160, '.'}, []byte("dtmf")...)
			}
			if !k.paused.Load() {
				send(p)
			}
		}
	}()
	return k
}

func (k *talker) end() {
	k.once.Do(func() { close(k.stop) })
	<-k.done
}

// phone is a phone's media: a UDP socket, plain RTP.
type phone struct {
	heard
	*talker
	conn *net.UDPConn
	mu2  sync.Mutex
	to   *net.UDPAddr
	done chan struct{}

	// SDES-SRTP, when key is set.
	tag    string
	key    []byte // master key and salt, ours
	tx, rx *srtp.Context
	addr   string // said in SDP instead of the socket's own
}

// newPhone talks the word with the payload type as soon as it knows whereto.
func newPhone(t testing.TB, word string, pt uint8) *phone {
	t.Helper()
	return newPhoneAt(t, "127.0.0.1", word, pt)
}

func newPhoneAt(t testing.TB, ip, word string, pt uint8) *phone {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(ip)})
	if err != nil {
		t.Fatal(err)
	}
	p := &phone{conn: conn, done: make(chan struct{})}
	p.talker = talk(word, pt, 0x1000+uint32(conn.LocalAddr().(*net.UDPAddr).Port), func(m *rtp.Packet) {
		b, err := m.Marshal()
		if err != nil {
			t.Error(err)
		}
		p.mu2.Lock()
		to := p.to
		if to != nil && p.tx != nil {
			if b, err = p.tx.EncryptRTP(nil, b, nil); err != nil {
				t.Error(err)
			}
		}
		p.mu2.Unlock()
		if to != nil {
			_, _ = conn.WriteToUDP(b, to)
		}
	})
	go func() {
		defer close(p.done)
		buf := make([]byte, 2048)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			var m rtp.Packet
			in := bytes.Clone(buf[:n])
			p.mu2.Lock()
			if p.key != nil {
				if p.rx == nil {
					p.mu2.Unlock()
					continue
				}
				if in, err = p.rx.DecryptRTP(nil, in, nil); err != nil {
					p.mu2.Unlock()
					continue // RTCP, or not for our key
				}
			}
			p.mu2.Unlock()
			if m.Unmarshal(in) == nil && m.Version == 2 {
				p.note(&m)
			}
		}
	}()
	t.Cleanup(p.close)
	return p
}

func (p *phone) close() {
	p.talker.end()
	p.conn.Close()
	<-p.done
}

// aim reads where the gateway wants media from its SDP.
func (p *phone) aim(t testing.TB, body []byte) {
	t.Helper()
	d, err := sdp.Parse(body)
	if err != nil || len(d.Media) == 0 || d.Media[0].Rejected() {
		t.Fatalf("no audio in the gateway's SDP: %v\n%s", err, body)
	}
	p.mu2.Lock()
	defer p.mu2.Unlock()
	p.to = &net.UDPAddr{IP: net.ParseIP(d.Media[0].Host), Port: d.Media[0].Port}
	if p.key == nil {
		return
	}
	m := cryptoLine.FindSubmatch(body)
	if m == nil {
		t.Fatalf("no a=crypto of %s in the gateway's SDP:\n%s", suite, body)
	}
	theirs, err := base64.StdEncoding.DecodeString(string(m[2]))
	if err != nil || len(theirs) != 30 {
		t.Fatalf("the gateway's key: %v", err)
	}
	p.tag = string(m[1]) // an answer repeats it (RFC 4568 5.1.2)
	if p.rx, err = srtp.CreateContext(theirs[:16], theirs[16:], srtp.ProtectionProfileAes128CmHmacSha1_80); err != nil {
		t.Fatal(err)
	}
	if p.tx == nil {
		if p.tx, err = srtp.CreateContext(p.key[:16], p.key[16:], srtp.ProtectionProfileAes128CmHmacSha1_80); err != nil {
			t.Fatal(err)
		}
	}
}

const suite = "AES_CM_128_HMAC_SHA1_80"

var cryptoLine = regexp.MustCompile(`a=crypto:(\d+) ` + suite + ` inline:([A-Za-z0-9+/=]+)`)

// secure makes the phone one that wants SDES-SRTP.
func (p *phone) secure() {
	p.mu2.Lock()
	defer p.mu2.Unlock()
	p.key = make([]byte, 30)
	_, _ = rand.Read(p.key)
}

// sdp describes the phone: a direction and rtpmaps as "0 PCMU/8000".
func (p *phone) sdp(direction string, rtpmaps ...string) []byte {
	at := p.conn.LocalAddr().(*net.UDPAddr)
	body := phoneSDP(at.Port, direction, rtpmaps...)
	if at.IP.To4() == nil {
		body = bytes.ReplaceAll(body, []byte("IN IP4 127.0.0.1"), []byte("IN IP6 "+at.IP.String()))
	}
	if p.key != nil {
		body = bytes.Replace(body, []byte("RTP/AVP"), []byte("RTP/SAVP"), 1)
		body = fmt.Appendf(body, "a=crypto:%s %s inline:%s\r\n", cmp.Or(p.tag, "1"), suite, base64.StdEncoding.EncodeToString(p.key))
	}
	if p.addr != "" {
		body = bytes.ReplaceAll(body, []byte("127.0.0.1"), []byte(p.addr))
	}
	return body
}

var sdpVersion atomic.Uint64

func phoneSDP(port int, direction string, rtpmaps ...string) []byte {
	var pts, maps string
	for _, m := range rtpmaps {
		pt, _, _ := strings.Cut(m, " ")
		pts += " " + pt
		maps += "a=rtpmap:" + m + "\r\n"
	}
	return fmt.Appendf(nil, "v=0\r\no=- 1 %d IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio %d RTP/AVP%s\r\n%sa=%s\r\n",
		sdpVersion.Add(1), port, pts, maps, direction)
}

const (
	ulaw  = "0 PCMU/8000"
	alaw  = "8 PCMA/8000"
	te101 = "101 telephone-event/8000"
)
