package traffic

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

func keys(t testing.TB, p srtp.Profile) *srtp.SessionKeys {
	t.Helper()
	m := srtp.MasterKey{Profile: p, Key: make([]byte, p.KeyLen()), Salt: make([]byte, p.SaltLen())}
	m.Key[0] = 7
	k, err := srtp.Derive(m)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestCheckerSeesEveryFault(t *testing.T) {
	for _, p := range []srtp.Profile{srtp.ProfileNone, srtp.ProfileAES128CMHMACSHA1_80, srtp.ProfileAEADAES128GCM} {
		t.Run(p.String(), func(t *testing.T) {
			s := Stream{ID: 3, SSRC: 9, Payload: 160, Samples: 160, Sequence: 65530, Destination: netip.MustParseAddrPort("127.0.0.1:4000")}
			if p != srtp.ProfileNone {
				s.Keys = keys(t, p)
			}
			w, err := NewWriter(s)
			if err != nil {
				t.Fatal(err)
			}
			c, err := NewChecker([]Stream{s})
			if err != nil {
				t.Fatal(err)
			}
			var packets [][]byte
			for i := range 20 {
				b, err := w.Next(make([]byte, 256), time.Duration(i+1)*time.Millisecond)
				if err != nil {
					t.Fatal(err)
				}
				packets = append(packets, b)
			}
			send := func(i int) { c.Packet(4000, append([]byte(nil), packets[i]...), 30*time.Millisecond) }
			for i := range 10 {
				send(i)
			}
			send(9)           // duplicate
			send(11)          // 10 is late
			send(10)          // reordered
			packets[12][20]++ // damaged
			send(12)
			c.Packet(5000, packets[13], 0)       // nobody waits there
			c.Packet(4000, []byte("not rtp"), 0) // nor for this
			want := Tally{Good: 12, Bad: 1, Duplicate: 1, Reordered: 1, Unexpected: 2, Octets: 12 * 172}
			if got := c.Tally(); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if h := c.Latency(); h.TotalCount() != 12 || time.Duration(h.Min()).Round(time.Millisecond) != 18*time.Millisecond {
				t.Errorf("%d latencies from %v", h.TotalCount(), time.Duration(h.Min()))
			}
		})
	}
}

func BenchmarkWriter(b *testing.B) {
	s := Stream{ID: 1, SSRC: 1, Payload: 160, Samples: 160, Keys: keys(b, srtp.ProfileAEADAES128GCM)}
	w, err := NewWriter(s)
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 256)
	for b.Loop() {
		if _, err := w.Next(buf, 1); err != nil {
			b.Fatal(err)
		}
	}
}
