package demo

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/sdp/v3"
)

const (
	frame     = 20 * time.Millisecond
	frameSize = 160 // samples and octets of 20 ms of G.711
)

// media is the RTP of one call: an even port, its odd neighbour kept for RTCP.
type media struct {
	behaviour Behaviour
	local     netip.Addr
	rtp, rtcp *net.UDPConn
	port      uint16
	session   uint64
	wg        sync.WaitGroup

	mu      sync.Mutex
	version uint64
	remote  netip.AddrPort // invalid: nowhere to send
	payload uint8          // 0 PCMU, 8 PCMA, 255 not settled
	event   int            // telephone-event's payload type, -1 none
	send    bool
	playing bool
	answer  string // our direction
	closed  chan struct{}
	out     rtp.Header
}

func newMedia(local netip.Addr, b Behaviour) (*media, error) {
	for range 50 {
		a, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0)))
		if err != nil {
			return nil, err
		}
		port := a.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		if port%2 == 0 && port < 65535 {
			if c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, port+1))); err == nil {
				m := &media{behaviour: b, local: local, rtp: a, rtcp: c, port: port, session: rand.Uint64() >> 2,
					payload: 255, event: -1, send: true, answer: "sendrecv", closed: make(chan struct{}),
					out: rtp.Header{Version: 2, SSRC: rand.Uint32(), SequenceNumber: uint16(rand.Uint32()), Timestamp: rand.Uint32()}}
				m.wg.Go(m.receive)
				m.wg.Go(m.drain)
				return m, nil
			}
		}
		_ = a.Close()
	}
	return nil, errors.New("no pair of free RTP ports")
}

func (m *media) close() {
	m.mu.Lock()
	select {
	case <-m.closed:
	default:
		close(m.closed)
	}
	m.mu.Unlock()
	_ = m.rtp.Close()
	_ = m.rtcp.Close()
	m.wg.Wait()
}

// take reads the far side's offer, or its answer to ours.
func (m *media) take(body []byte) error {
	var s sdp.SessionDescription
	if err := s.Unmarshal(body); err != nil {
		return fmt.Errorf("SDP: %w", err)
	}
	i := slices.IndexFunc(s.MediaDescriptions, func(d *sdp.MediaDescription) bool {
		return d.MediaName.Media == "audio" && d.MediaName.Port.Value != 0
	})
	if i < 0 || i > 0 && len(s.MediaDescriptions) > 1 {
		// Only the first line is answered; a phone this simple refuses the rest.
		return errors.New("SDP: the first line is not audio")
	}
	d := s.MediaDescriptions[i]
	if !slices.Contains(d.MediaName.Protos, "AVP") && !slices.Contains(d.MediaName.Protos, "AVPF") {
		return fmt.Errorf("SDP: profile %s, want RTP/AVP", strings.Join(d.MediaName.Protos, "/"))
	}
	payload, event := uint8(255), -1
	for _, f := range d.MediaName.Formats {
		if pt, err := strconv.Atoi(f); err == nil && (pt == 0 || pt == 8) && payload == 255 {
			payload = uint8(pt)
		}
	}
	for _, a := range d.Attributes {
		if pt, codec, _ := strings.Cut(a.Value, " "); a.Key == "rtpmap" && strings.EqualFold(codec, "telephone-event/8000") {
			event, _ = strconv.Atoi(pt)
		}
	}
	if payload == 255 {
		return errors.New("SDP: neither PCMU nor PCMA")
	}
	remote, err := destination(&s, d)
	if err != nil {
		return err
	}
	theirs := direction(&s, d)
	if !remote.IsValid() {
		theirs = map[string]string{"sendrecv": "sendonly", "recvonly": "inactive"}[theirs]
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remote, m.payload, m.event = remote, payload, event
	m.answer = map[string]string{"sendrecv": "sendrecv", "sendonly": "recvonly", "recvonly": "sendonly"}[theirs]
	if m.answer == "" {
		m.answer = "inactive"
	}
	m.send = strings.HasPrefix(m.answer, "send")
	return nil
}

// destination is where the far side wants its RTP; invalid for the hold of
// RFC 2543, c=IN IP4 0.0.0.0.
func destination(s *sdp.SessionDescription, d *sdp.MediaDescription) (netip.AddrPort, error) {
	c := d.ConnectionInformation
	if c == nil {
		c = s.ConnectionInformation
	}
	if c == nil || c.Address == nil {
		return netip.AddrPort{}, errors.New("SDP: no c= line")
	}
	a, err := netip.ParseAddr(c.Address.Address)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("SDP: c=: %w", err)
	}
	if a.IsUnspecified() {
		return netip.AddrPort{}, nil
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(d.MediaName.Port.Value)), nil
}

func direction(s *sdp.SessionDescription, d *sdp.MediaDescription) string {
	for _, l := range [][]sdp.Attribute{d.Attributes, s.Attributes} {
		for _, a := range l {
			switch a.Key {
			case "sendrecv", "sendonly", "recvonly", "inactive":
				return a.Key
			}
		}
	}
	return "sendrecv"
}

// describe is our SDP: the answer, or an offer before anything was settled.
func (m *media) describe() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	family := "IP4"
	if m.local.Is6() {
		family = "IP6"
	}
	formats, maps := "0 8 101", "a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n"
	if m.payload != 255 {
		formats = strconv.Itoa(int(m.payload))
		maps = "a=rtpmap:" + formats + map[uint8]string{0: " PCMU/8000\r\n", 8: " PCMA/8000\r\n"}[m.payload]
		if m.event >= 0 {
			e := strconv.Itoa(m.event)
			formats += " " + e
			maps += "a=rtpmap:" + e + " telephone-event/8000\r\na=fmtp:" + e + " 0-15\r\n"
		}
	}
	m.version++
	return fmt.Appendf(nil, "v=0\r\no=demo %d %d IN %s %s\r\ns=-\r\nc=IN %s %s\r\nt=0 0\r\nm=audio %d RTP/AVP %s\r\n%sa=ptime:20\r\na=%s\r\n",
		m.session, m.version, family, m.local, family, m.local, m.port, formats, maps, m.answer)
}

// play starts what the behaviour plays; the echo only ever answers packets.
func (m *media) play() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.playing || m.behaviour == Echo {
		return
	}
	m.playing = true
	m.wg.Go(m.transmit)
}

func (m *media) transmit() {
	sample := tone
	if m.behaviour == Announcement {
		sample = melody
	}
	start := time.Now()
	payload := make([]byte, frameSize)
	for n := 0; ; n++ {
		timer := time.NewTimer(time.Until(start.Add(time.Duration(n) * frame)))
		select {
		case <-timer.C:
		case <-m.closed:
			timer.Stop()
			return
		}
		m.mu.Lock()
		pt := m.payload
		m.mu.Unlock()
		for i := range payload {
			payload[i] = encode(pt, sample(n*frameSize+i))
		}
		m.write(pt, n == 0, uint32(frameSize), payload)
	}
}

// write sends one packet of our own SSRC, the timestamp moved on by step.
func (m *media) write(pt uint8, marker bool, step uint32, payload []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.out.Timestamp += step
	if !m.send || !m.remote.IsValid() {
		return
	}
	m.out.SequenceNumber++
	m.out.PayloadType, m.out.Marker = pt, marker
	b, err := (&rtp.Packet{Header: m.out, Payload: payload}).Marshal()
	if err == nil {
		// A lost packet is nothing that the other end of a call would report.
		_, _ = m.rtp.WriteToUDPAddrPort(b, m.remote)
	}
}

// receive takes RTP from the described address only.
func (m *media) receive() {
	buf := make([]byte, 1500)
	var last uint32
	first := true
	for {
		n, from, err := m.rtp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		var p rtp.Packet
		if p.Unmarshal(buf[:n]) != nil {
			continue
		}
		m.mu.Lock()
		known := netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) == m.remote
		echo := known && m.behaviour == Echo && (p.PayloadType == m.payload || int(p.PayloadType) == m.event)
		m.mu.Unlock()
		if !echo {
			continue
		}
		if first {
			last, first = p.Timestamp, false
		}
		m.write(p.PayloadType, p.Marker, p.Timestamp-last, p.Payload)
		last = p.Timestamp
	}
}

// drain keeps the RTCP port's buffer empty.
func (m *media) drain() {
	buf := make([]byte, 1500)
	for {
		if _, _, err := m.rtcp.ReadFromUDPAddrPort(buf); err != nil {
			return
		}
	}
}
