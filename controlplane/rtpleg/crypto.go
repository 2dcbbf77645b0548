package rtpleg

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/sluicegw/sluice/controlplane/sdp"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

// suite is one SDES crypto-suite the gateway speaks (RFC 4568 6.2, RFC 7714
// 14.2). The 32-bit tags and the NULL cipher are left out on purpose.
type suite struct {
	name      string
	profile   srtp.Profile
	key, salt int // bytes
}

// suites in the order they are offered: what the kernel does cheapest first.
func suites() [3]suite {
	return [3]suite{
		{"AEAD_AES_128_GCM", srtp.ProfileAEADAES128GCM, 16, 12},
		{"AES_CM_128_HMAC_SHA1_80", srtp.ProfileAES128CMHMACSHA1_80, 16, 14},
		{"AEAD_AES_256_GCM", srtp.ProfileAEADAES256GCM, 32, 12},
	}
}

func suiteOf(name string) (suite, bool) {
	all := suites()
	if i := slices.IndexFunc(all[:], func(s suite) bool { return strings.EqualFold(s.name, name) }); i >= 0 {
		return all[i], true
	}
	return suite{}, false
}

func suiteName(p srtp.Profile) string {
	for _, s := range suites() {
		if s.profile == p {
			return s.name
		}
	}
	return ""
}

// newKey makes a master key of ours.
func (s suite) newKey() srtp.MasterKey {
	b := make([]byte, s.key+s.salt)
	_, _ = rand.Read(b) // never fails
	return srtp.MasterKey{Profile: s.profile, Key: b[:s.key:s.key], Salt: b[s.key:]}
}

// attribute is our a=crypto of the key.
func (s suite) attribute(tag int, k srtp.MasterKey) sdp.Crypto {
	inline := base64.StdEncoding.EncodeToString(slices.Concat(k.Key, k.Salt))
	return sdp.Crypto{Tag: tag, Suite: s.name, Params: "inline:" + inline}
}

// parseCrypto reads the far end's a=crypto. The error says what of it is not
// supported and never quotes the key.
func parseCrypto(c sdp.Crypto) (srtp.MasterKey, error) {
	none := srtp.MasterKey{}
	s, ok := suiteOf(c.Suite)
	if !ok {
		return none, fmt.Errorf("crypto suite %.40q is not supported; offer AEAD_AES_128_GCM or AES_CM_128_HMAC_SHA1_80", c.Suite)
	}
	for p := range strings.FieldsSeq(c.Session) {
		// The replay window is the receiver's own; a hint changes nothing.
		if !strings.HasPrefix(strings.ToUpper(p), "WSH=") {
			return none, fmt.Errorf("crypto session parameter %.40q is not supported: leave it out", p)
		}
	}
	inline, ok := strings.CutPrefix(c.Params, "inline:")
	if !ok || strings.Contains(inline, ";") {
		return none, fmt.Errorf("crypto must have one inline: key")
	}
	fields := strings.Split(inline, "|")
	for _, f := range fields[1:] {
		switch {
		case strings.Contains(f, ":"):
			return none, fmt.Errorf("a crypto MKI is not supported: leave it out")
		case f == "2^48" || f == "2^31": // the most that RFC 3711 9.2 allows: no limit of its own
		default:
			return none, fmt.Errorf("a crypto key lifetime below 2^31 packets is not supported: leave it out")
		}
	}
	b, err := base64.StdEncoding.DecodeString(fields[0])
	if err != nil {
		b, err = base64.RawStdEncoding.DecodeString(fields[0])
	}
	if err != nil || len(b) != s.key+s.salt {
		return none, fmt.Errorf("the crypto key of %s must be %d bytes in base64", s.name, s.key+s.salt)
	}
	return srtp.MasterKey{Profile: s.profile, Key: b[:s.key:s.key], Salt: b[s.key:]}, nil
}

// choose takes the first a=crypto the gateway speaks: the offerer's order is
// its preference (RFC 4568 5.1.1).
func choose(list []sdp.Crypto) (tag int, k srtp.MasterKey, err error) {
	if len(list) == 0 {
		return 0, k, fmt.Errorf("an RTP/SAVP line needs a=crypto (RFC 4568); DTLS-SRTP towards phones is not supported")
	}
	var first error
	for _, c := range list {
		k, err := parseCrypto(c)
		if err == nil {
			return c.Tag, k, nil
		}
		if first == nil {
			first = err
		}
	}
	return 0, k, first
}

// equal compares in constant time.
func equal(a, b srtp.MasterKey) bool {
	return a.Profile == b.Profile && subtle.ConstantTimeCompare(a.Key, b.Key) == 1 && subtle.ConstantTimeCompare(a.Salt, b.Salt) == 1
}

func cloneKey(k srtp.MasterKey) srtp.MasterKey {
	k.Key, k.Salt = bytes.Clone(k.Key), bytes.Clone(k.Salt)
	return k
}

func wipe(k srtp.MasterKey) {
	clear(k.Key)
	clear(k.Salt)
}
