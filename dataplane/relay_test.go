package dataplane

import (
	"fmt"
	"testing"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

// TestRelay carries media both ways between every two kinds of leg, in IPv4,
// IPv6 and from one to the other.
func TestRelay(t *testing.T) {
	kinds := []srtp.Profile{srtp.ProfileNone, srtp.ProfileAES128CMHMACSHA1_80, srtp.ProfileAEADAES128GCM, srtp.ProfileAEADAES256GCM}
	for _, v6 := range [][2]bool{{false, false}, {true, true}, {false, true}} {
		for i, from := range kinds {
			for _, to := range kinds[i:] {
				t.Run(fmt.Sprintf("%v-%v/v6=%v", from, to, v6), func(t *testing.T) {
					p := newPlane(t, nil)
					leg := func(profile srtp.Profile, v6 bool) *peer {
						if profile == srtp.ProfileNone {
							return newPhone(t, p, v6, audioLine(), Events{})
						}
						return newBrowser(t, p, v6, profile, audioLine(), Events{})
					}
					a, b := leg(from, v6[0]), leg(to, v6[1])
					join(t, p, a, b)
					pass(t, a, b, 20)
					pass(t, b, a, 20)
					if a.transport.LastReceived().IsZero() || b.transport.LastReceived().IsZero() {
						t.Error("media is not noticed")
					}
					st := a.line.Stats()
					if st.Received.Packets != 20 || st.Sent.Packets != 20 || st.Received.Octets != 20*160 || st.Codec != "PCMU" || st.Path != "user" || st.Reason != ReasonDisabled {
						t.Errorf("statistics %+v", st)
					}
				})
			}
		}
	}
}
