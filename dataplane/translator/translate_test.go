package translator

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pion/rtcp"
)

// A phone (X) sends 0x11 which the browser (Y) knows as 0xa1; the browser sends
// 0x22 which the phone knows as 0xb2.
func path(feedback bool) *Path {
	find := func(s Stream, key uint32) func(uint32) (Stream, bool) {
		return func(ssrc uint32) (Stream, bool) { return s, ssrc == key }
	}
	return &Path{
		Forward:  find(Stream{InSSRC: 0x11, OutSSRC: 0xa1, TimestampAdd: 1000, Packets: 7, Octets: 70}, 0x11),
		Backward: find(Stream{InSSRC: 0x22, OutSSRC: 0xb2, IndexOffset: 1<<48 - 100, Highest: 0x1_0010}, 0xb2),
		Reporter: 0xa1, CNAME: "c", Feedback: feedback,
	}
}

func TestTranslate(t *testing.T) {
	sdes := Description(0xa1, "c")
	for _, tc := range []struct {
		name     string
		feedback bool
		in       []rtcp.Packet
		want     Outcome
	}{
		{"sender report with block", true,
			[]rtcp.Packet{&rtcp.SenderReport{SSRC: 0x11, NTPTime: 5, RTPTime: 50, PacketCount: 1, Reports: []rtcp.ReceptionReport{
				// Sequence number 0xfff0-100 went out for input 0xfff0, one roll-over ago.
				{SSRC: 0xb2, LastSequenceNumber: 0x3_ff8c, Jitter: 3}, {SSRC: 0x99}}},
				&rtcp.SourceDescription{Chunks: []rtcp.SourceDescriptionChunk{{Source: 0x11, Items: []rtcp.SourceDescriptionItem{{Type: rtcp.SDESCNAME, Text: "phone.lan"}}}}}},
			Outcome{Seen: true, Packets: []rtcp.Packet{&rtcp.SenderReport{SSRC: 0xa1, NTPTime: 5, RTPTime: 1050, PacketCount: 7, OctetCount: 70,
				Reports: []rtcp.ReceptionReport{{SSRC: 0x22, LastSequenceNumber: 0xfff0, Jitter: 3}}}, sdes}}},
		{"unknown sender becomes a receiver", true,
			[]rtcp.Packet{&rtcp.SenderReport{SSRC: 0x77}},
			Outcome{Seen: true, Packets: []rtcp.Packet{&rtcp.ReceiverReport{SSRC: 0xa1}, sdes}}},
		{"nack and pli", true,
			[]rtcp.Packet{&rtcp.ReceiverReport{SSRC: 0x55}, &rtcp.TransportLayerNack{SenderSSRC: 0x55, MediaSSRC: 0xb2, Nacks: []rtcp.NackPair{{PacketID: 10, LostPackets: 3}}},
				&rtcp.PictureLossIndication{SenderSSRC: 0x55, MediaSSRC: 0xb2}},
			Outcome{Seen: true, Packets: []rtcp.Packet{&rtcp.ReceiverReport{SSRC: 0xa1}, sdes,
				&rtcp.TransportLayerNack{SenderSSRC: 0xa1, MediaSSRC: 0x22, Nacks: []rtcp.NackPair{{PacketID: 110, LostPackets: 3}}},
				&rtcp.PictureLossIndication{SenderSSRC: 0xa1, MediaSSRC: 0x22}}}},
		{"feedback alone gets a report in front", true,
			[]rtcp.Packet{&rtcp.FullIntraRequest{SenderSSRC: 1, FIR: []rtcp.FIREntry{{SSRC: 0xb2, SequenceNumber: 4}, {SSRC: 9}}}},
			Outcome{Packets: []rtcp.Packet{&rtcp.ReceiverReport{SSRC: 0xa1}, sdes,
				&rtcp.FullIntraRequest{SenderSSRC: 0xa1, FIR: []rtcp.FIREntry{{SSRC: 0x22, SequenceNumber: 4}}}}}},
		{"feedback towards AVP is absorbed", false,
			[]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: 0xb2}, &rtcp.TransportLayerNack{MediaSSRC: 0xb2}},
			Outcome{Keyframe: true}},
		{"feedback about somebody else", false,
			[]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: 0x99}}, Outcome{}},
		{"goodbye is absorbed", true,
			[]rtcp.Packet{&rtcp.Goodbye{Sources: []uint32{0x11}}}, Outcome{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := path(tc.feedback).Translate(tc.in)
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
			if len(got.Packets) > 0 {
				raw, err := rtcp.Marshal(got.Packets)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := rtcp.Unmarshal(raw); err != nil {
					t.Error(err)
				}
				if err := rtcp.CompoundPacket(got.Packets).Validate(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestTranslateIsBounded(t *testing.T) {
	var in []rtcp.Packet
	for range 1000 {
		in = append(in, &rtcp.ReceiverReport{SSRC: 1})
	}
	if n := len(path(true).Translate(in).Packets); n > maxPackets+1 {
		t.Errorf("%d packets", n)
	}
}

func TestReception(t *testing.T) {
	var r Reception
	b := r.Block(Received{SSRC: 1, First: 100, Highest: 199, Packets: 75, Jitter: 9, LastSR: 0x1234, SRPassed: 500 * time.Millisecond})
	want := rtcp.ReceptionReport{SSRC: 1, FractionLost: 64, TotalLost: 25, LastSequenceNumber: 199, Jitter: 9, LastSenderReport: 0x1234, Delay: 0x8000}
	if d := cmp.Diff(want, b); d != "" {
		t.Error(d)
	}
	// Nothing lost in the next interval; the total stays.
	b = r.Block(Received{SSRC: 1, First: 100, Highest: 299, Packets: 175})
	if b.FractionLost != 0 || b.TotalLost != 25 {
		t.Errorf("%+v", b)
	}
	// Duplicates outnumber losses: the library cannot say a negative number.
	b = r.Block(Received{SSRC: 1, First: 100, Highest: 300, Packets: 500})
	if b.FractionLost != 0 || b.TotalLost != 0 {
		t.Errorf("%+v", b)
	}
	// Another source began: lower counts than before are not billions lost.
	b = r.Block(Received{SSRC: 2, First: 5, Highest: 6, Packets: 2})
	if b.FractionLost != 0 || b.TotalLost != 0 {
		t.Errorf("%+v", b)
	}
}

func TestReportAndRoundTrip(t *testing.T) {
	var c Clock
	now := time.Unix(1000, 0)
	report := Report(now, Sent{SSRC: 1, Packets: 3, Octets: 480, Timestamp: 100, Passed: 20 * time.Millisecond, ClockRate: 8000}, nil, "c")
	sr := report[0].(*rtcp.SenderReport)
	if sr.RTPTime != 260 {
		t.Errorf("RTP time %d", sr.RTPTime)
	}
	c.Left(now, report)
	b := rtcp.ReceptionReport{LastSenderReport: Middle(sr.NTPTime), Delay: 1 << 16}
	rtt, ok := c.RoundTrip(now.Add(time.Second+80*time.Millisecond), b)
	if !ok || rtt != 80*time.Millisecond {
		t.Errorf("%v %v", rtt, ok)
	}
	b.LastSenderReport++
	if _, ok := c.RoundTrip(now, b); ok {
		t.Error("took a report that never left")
	}
	if _, ok := Report(now, Sent{SSRC: 1}, nil, "c")[0].(*rtcp.ReceiverReport); !ok {
		t.Error("a sender report though nothing was sent")
	}
}

func TestNTP(t *testing.T) {
	// RFC 3550's own example of half a second in the fraction.
	if got := NTP(time.Unix(0, 5e8)); got != 2208988800<<32|1<<31 {
		t.Errorf("%x", got)
	}
}
