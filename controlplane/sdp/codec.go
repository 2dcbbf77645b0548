package sdp

import (
	"slices"
	"strconv"
	"strings"

	"github.com/sluicegw/sluice/dataplane"
)

// static is the RFC 3551 table 4 and 5 meaning of a payload type without rtpmap.
func static(pt uint8) (dataplane.Format, bool) {
	f := dataplane.Format{PayloadType: pt, ClockRate: 8000}
	switch pt {
	case 0:
		f.Codec = "PCMU"
	case 3:
		f.Codec = "GSM"
	case 4:
		f.Codec = "G723"
	case 8:
		f.Codec = "PCMA"
	case 9:
		f.Codec = "G722"
	case 10:
		f.Codec, f.ClockRate, f.Channels = "L16", 44100, 2
	case 11:
		f.Codec, f.ClockRate = "L16", 44100
	case 13:
		f.Codec = "CN"
	case 15:
		f.Codec = "G728"
	case 18:
		f.Codec = "G729"
	case 31:
		f.Codec, f.ClockRate = "H261", 90000
	case 34:
		f.Codec, f.ClockRate = "H263", 90000
	default:
		return dataplane.Format{}, false
	}
	return f, true
}

// staticType is the static payload type of a format, when it has one.
func staticType(c Codec) (uint8, bool) {
	for pt := uint8(0); pt < 35; pt++ {
		if f, ok := static(pt); ok && sameFormat(f, c.Format) {
			return pt, true
		}
	}
	return 0, false
}

func sameFormat(a, b dataplane.Format) bool {
	return strings.EqualFold(a.Codec, b.Codec) && a.ClockRate == b.ClockRate && max(a.Channels, 1) == max(b.Channels, 1)
}

// IsEvents tells whether the format is telephone-event (RFC 4733).
func (c Codec) IsEvents() bool { return strings.EqualFold(c.Codec, "telephone-event") }

// IsAuxiliary tells whether the format accompanies a codec and is none itself:
// telephone-event and comfort noise. A line of these alone carries no media.
func (c Codec) IsAuxiliary() bool { return c.IsEvents() || strings.EqualFold(c.Codec, "CN") }

// carried tells whether the gateway forwards the format. Redundancy and
// retransmission depend on sequence numbers or payload types inside the
// payload, which the gateway does not rewrite.
func (c Codec) carried() bool {
	switch strings.ToLower(c.Codec) {
	case "red", "rtx", "ulpfec", "flexfec", "flexfec-03", "parityfec", "1d-interleaved-parityfec", "uemclip":
		return false
	}
	return true
}

// Equivalent tells whether a receiver of one understands what is sent as the
// other without transcoding: name, clock rate, channels, and those parameters
// that change the bitstream. Levels and receiver preferences (G.729's annexb is
// one, RFC 4856 2.1.9) do not count.
func (c Codec) Equivalent(o Codec) bool {
	if !sameFormat(c.Format, o.Format) {
		return false
	}
	same := func(name, unsaid string) bool { return c.param(name, unsaid) == o.param(name, unsaid) }
	switch strings.ToLower(c.Codec) {
	case "h264":
		return same("packetization-mode", "0") && h264Profile(c) == h264Profile(o)
	case "h265":
		return same("profile-space", "0") && same("profile-id", "1") && same("tier-flag", "0")
	case "vp9":
		return same("profile-id", "0")
	case "av1":
		return same("profile", "0")
	case "amr", "amr-wb":
		return same("octet-align", "0") && same("crc", "0") && same("interleaving", "") && same("robust-sorting", "0")
	case "ilbc":
		return same("mode", "30")
	case "mp4v-es", "g7221", "siren":
		return same("profile-level-id", "1") && same("bitrate", "")
	}
	return true
}

func (c Codec) param(name, unsaid string) string {
	if v, ok := c.Fmtp[name]; ok {
		return strings.ToLower(v)
	}
	return unsaid
}

// h264Profile is the profile of RFC 6184 8.1 table 5: different
// profile_idc/profile-iop pairs that mean the same give the same word. The
// level is left out: both sides' levels are signalled end to end.
func h264Profile(c Codec) string {
	id := c.param("profile-level-id", "42000a")
	n, err := strconv.ParseUint(id, 16, 32)
	if err != nil || len(id) != 6 {
		return "invalid " + id
	}
	idc, iop := byte(n>>16), byte(n>>8)
	switch idc {
	case 0x42:
		if iop&0x4f == 0x40 {
			return "constrained-baseline"
		}
		if iop&0x4f == 0 {
			return "baseline"
		}
	case 0x4d:
		if iop&0x8f == 0x80 {
			return "constrained-baseline"
		}
		if iop&0xaf == 0 {
			return "main"
		}
	case 0x58:
		switch iop & 0xcf {
		case 0xc0:
			return "constrained-baseline"
		case 0x80:
			return "baseline"
		case 0:
			return "extended"
		}
	}
	return id[:4]
}

// find returns the index of the codec in list that means the same, -1 none.
func find(list []Codec, c Codec) int {
	return slices.IndexFunc(list, func(o Codec) bool { return o.Equivalent(c) })
}

// events returns the index of telephone-event at the clock rate, or at any when
// rate is 0; -1 none.
func events(list []Codec, rate int) int {
	return slices.IndexFunc(list, func(c Codec) bool { return c.IsEvents() && (rate == 0 || c.ClockRate == rate) })
}

// hasMedia tells whether the list holds more than auxiliary formats.
func hasMedia(list []Codec) bool {
	return slices.ContainsFunc(list, func(c Codec) bool { return !c.IsAuxiliary() })
}

// mainClock is the clock rate of the preferred codec, 0 none.
func mainClock(list []Codec) int {
	for _, c := range list {
		if !c.IsAuxiliary() {
			return c.ClockRate
		}
	}
	return 0
}
