package demo

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"
	"github.com/pion/rtp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEcho(t *testing.T) {
	g := newGateway(t)
	startPhone(t, g, Echo)
	c := g.call(audioOffer)
	body := c.answered()
	if !strings.Contains(body, "m=audio ") || !strings.Contains(body, " RTP/AVP 8 101\r\n") {
		t.Fatalf("the first common codec and DTMF are not what was answered:\n%s", body)
	}
	to := net.UDPAddrFromAddrPort(mediaOf(t, body))
	for i, pt := range []uint8{8, 8, 101} {
		p := rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: pt, SSRC: 7, SequenceNumber: uint16(100 + i), Timestamp: uint32(160 * i)},
			Payload: []byte{byte(i), 2, 3, 4}}
		b, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.rtp.WriteToUDP(b, to); err != nil {
			t.Fatal(err)
		}
	}
	got := c.hear(3)
	for i, p := range got {
		if p.SSRC == 7 {
			t.Error("the echo uses our SSRC")
		}
		if p.Payload[0] != byte(i) || p.SequenceNumber != got[0].SequenceNumber+uint16(i) || p.Timestamp != got[0].Timestamp+uint32(160*i) {
			t.Errorf("packet %d came back as %v", i, p)
		}
	}
	if got[2].PayloadType != 101 {
		t.Errorf("DTMF came back with payload type %d", got[2].PayloadType)
	}
	if code := c.do(sip.OPTIONS); code != 200 {
		t.Errorf("OPTIONS: %d", code)
	}
	if code := c.do(sip.BYE); code != 200 {
		t.Errorf("BYE: %d", code)
	}
	if code := c.do(sip.BYE); code != 481 {
		t.Errorf("BYE of a call that is over: %d", code)
	}
}

func TestTone(t *testing.T) {
	g := newGateway(t)
	startPhone(t, g, Tone)
	c := g.call(strings.Replace(audioOffer, "8 0 101", "0", 1))
	c.answered()
	var samples []float64
	for _, p := range c.hear(25) {
		if p.PayloadType != 0 || len(p.Payload) != frameSize {
			t.Fatalf("heard payload type %d of %d octets", p.PayloadType, len(p.Payload))
		}
		for _, b := range p.Payload {
			samples = append(samples, decodeMuLaw(b))
		}
	}
	if p := power(samples, ToneHz); p < 0.95 {
		t.Errorf("%.3f of what was heard is the tone", p)
	}
}

func TestAnnouncementIsHeardBeforeTheAnswer(t *testing.T) {
	g := newGateway(t)
	startPhone(t, g, Announcement)
	c := g.call(audioOffer)
	res := c.response()
	if res.StatusCode != 183 || !strings.Contains(string(res.Body()), "m=audio") {
		t.Fatalf("first answered %d, want 183 with SDP", res.StatusCode)
	}
	c.hear(3)
	early, _ := res.To().Params.Get("tag")
	c.answered()
	if tag, _ := c.ok.To().Params.Get("tag"); tag != early {
		t.Errorf("the 200 has tag %q, the 183 %q", tag, early)
	}
	c.hear(3)
}

func TestCancel(t *testing.T) {
	g := newGateway(t)
	p := startPhone(t, g, Announcement)
	c := g.call(audioOffer)
	c.response()
	cancel := sip.NewRequest(sip.CANCEL, c.req.Recipient)
	for _, h := range []sip.Header{sip.HeaderClone(c.req.Via()), sip.HeaderClone(c.req.From()), sip.HeaderClone(c.req.To()), sip.HeaderClone(c.req.CallID())} {
		cancel.AppendHeader(h)
	}
	cancel.AppendHeader(&sip.CSeqHeader{SeqNo: 1, MethodName: sip.CANCEL})
	cancel.SetDestination(p.Local().String())
	if err := g.client.WriteRequest(cancel, nil...); err != nil {
		t.Fatal(err)
	}
	if res := c.response(); res.StatusCode != 487 {
		t.Fatalf("answered %d, want 487", res.StatusCode)
	}
	eventually(t, "the call is forgotten", func() bool { return p.Calls() == 0 })
}

func TestHoldAndResume(t *testing.T) {
	g := newGateway(t)
	startPhone(t, g, Tone)
	c := g.call(audioOffer)
	c.answered()
	c.hear(2)
	for _, tc := range []struct{ name, offer, want string }{
		{"sendonly", audioOffer + "a=sendonly\n", "a=recvonly"},
		{"inactive", audioOffer + "a=inactive\n", "a=inactive"},
		{"old hold", strings.Replace(audioOffer, "c=IN IP4 $host", "c=IN IP4 0.0.0.0", 1), "a=recvonly"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if body := c.again(tc.offer); !strings.Contains(body, tc.want+"\r\n") {
				t.Fatalf("answered without %s:\n%s", tc.want, body)
			}
			// Packets sent before the answer may still lie in the buffer.
			_ = c.rtp.SetReadDeadline(time.Now())
			for buf := make([]byte, 1500); ; {
				if _, err := c.rtp.Read(buf); err != nil {
					break
				}
			}
			_ = c.rtp.SetReadDeadline(time.Now().Add(5 * frame))
			if _, err := c.rtp.Read(make([]byte, 1500)); err == nil {
				t.Error("audio while on hold")
			}
			if body := c.again(audioOffer); !strings.Contains(body, "a=sendrecv\r\n") {
				t.Fatalf("resumed with\n%s", body)
			}
			c.hear(2)
		})
	}
}

func TestDelayedOffer(t *testing.T) {
	g := newGateway(t)
	startPhone(t, g, Tone)
	c := g.call("")
	if body := c.answered(); !strings.Contains(body, "RTP/AVP 0 8 101") {
		t.Fatalf("offered\n%s", body)
	}
	c.hear(3)
}

func TestRefusedOffers(t *testing.T) {
	g := newGateway(t)
	p := startPhone(t, g, Echo)
	for name, offer := range map[string]string{
		"no codec":  strings.Replace(audioOffer, "111 8 0 101", "111", 1),
		"encrypted": strings.Replace(audioOffer, "RTP/AVP", "RTP/SAVP", 1),
		"no c=":     strings.Replace(audioOffer, "c=IN IP4 $host\n", "", 1),
		"not SDP":   "hello",
	} {
		t.Run(name, func(t *testing.T) {
			if res := g.call(offer).response(); res.StatusCode != 488 {
				t.Errorf("answered %d, want 488", res.StatusCode)
			}
		})
	}
	if n := p.Calls(); n != 0 {
		t.Errorf("%d calls are left", n)
	}
}

func TestCloseEndsCallsAndUnregisters(t *testing.T) {
	g := newGateway(t)
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	p, err := Start(ctx, Config{Registrar: g.addr, Domain: "gw.test", User: "echo", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		g.call(audioOffer).answered()
	}
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		select {
		case <-g.byes:
		case <-time.After(wait):
			t.Fatal("no BYE")
		}
	}
	if _, expires := g.registered(); expires != "0" {
		t.Errorf("the last REGISTER had Expires: %s", expires)
	}
}

func TestWrongPasswordIsSaid(t *testing.T) {
	g := newGateway(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := Start(ctx, Config{Registrar: g.addr, Domain: "gw.test", User: "echo", Password: "wrong"})
	if err == nil || !strings.Contains(err.Error(), "answered 401") {
		t.Errorf("got %v, want the 401", err)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	g := newGateway(t)
	p := startPhone(t, g, Echo)
	c, err := net.Dial("udp", p.Local().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	me := c.LocalAddr().String()
	msg := fmt.Sprintf("INVITE sip:echo@%s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bKx\r\nFrom: <sip:x@x>;tag=1\r\n"+
		"To: <sip:echo@x>\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\nContact: <sip:x@%s>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n", p.Local(), me, me)
	if _, err := c.Write([]byte(msg)); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(wait))
	buf := make([]byte, 1500)
	for {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if line, _, _ := strings.Cut(string(buf[:n]), "\r\n"); !strings.HasPrefix(line, "SIP/2.0 100") {
			if !strings.HasPrefix(line, "SIP/2.0 403") {
				t.Errorf("a stranger is answered %q", line)
			}
			return
		}
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(wait); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}
