package rtpleg

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/sluicegw/sluice/controlplane/sdp"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

func TestParseCrypto(t *testing.T) {
	key := func(n int) string { return base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", n))) }
	for _, tc := range []struct {
		name, suite, params, session string
		want                         srtp.Profile
		err                          string
	}{
		{"SHA1_80", "AES_CM_128_HMAC_SHA1_80", "inline:" + key(30), "", srtp.ProfileAES128CMHMACSHA1_80, ""},
		{"lower case", "aes_cm_128_hmac_sha1_80", "inline:" + key(30), "", srtp.ProfileAES128CMHMACSHA1_80, ""},
		{"GCM", "AEAD_AES_128_GCM", "inline:" + key(28), "WSH=128", srtp.ProfileAEADAES128GCM, ""},
		{"GCM 256", "AEAD_AES_256_GCM", "inline:" + strings.TrimRight(key(44), "="), "", srtp.ProfileAEADAES256GCM, ""},
		{"whole lifetime", "AES_CM_128_HMAC_SHA1_80", "inline:" + key(30) + "|2^48", "", srtp.ProfileAES128CMHMACSHA1_80, ""},
		{"SHA1_32", "AES_CM_128_HMAC_SHA1_32", "inline:" + key(30), "", 0, "not supported"},
		{"NULL", "NULL_HMAC_SHA1_80", "inline:" + key(30), "", 0, "not supported"},
		{"lifetime", "AES_CM_128_HMAC_SHA1_80", "inline:" + key(30) + "|2^20", "", 0, "lifetime"},
		{"MKI", "AES_CM_128_HMAC_SHA1_80", "inline:" + key(30) + "|2^48|1:4", "", 0, "MKI"},
		{"two keys", "AES_CM_128_HMAC_SHA1_80", "inline:" + key(30) + ";inline:" + key(30), "", 0, "one inline"},
		{"short", "AES_CM_128_HMAC_SHA1_80", "inline:" + key(16), "", 0, "30 bytes"},
		{"not base64", "AES_CM_128_HMAC_SHA1_80", "inline:***", "", 0, "30 bytes"},
		{"unencrypted", "AES_CM_128_HMAC_SHA1_80", "inline:" + key(30), "UNENCRYPTED_SRTP", 0, "UNENCRYPTED_SRTP"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, err := parseCrypto(sdp.Crypto{Tag: 1, Suite: tc.suite, Params: tc.params, Session: tc.session})
			if tc.err == "" {
				if err != nil || k.Profile != tc.want {
					t.Fatalf("profile %v, %v", k.Profile, err)
				}
				s, _ := suiteOf(tc.suite)
				if len(k.Key) != s.key || len(k.Salt) != s.salt {
					t.Fatalf("%d bytes of key, %d of salt", len(k.Key), len(k.Salt))
				}
				// Our own attribute of the same key reads back as it.
				again, err := parseCrypto(s.attribute(7, k))
				if err != nil || !equal(k, again) {
					t.Fatalf("round trip: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Fatalf("error %v, want %q", err, tc.err)
			}
			if strings.Contains(err.Error(), key(30)[:8]) {
				t.Error("the error shows the key")
			}
		})
	}
}

func TestChoose(t *testing.T) {
	good := suites()[1].attribute(3, suites()[1].newKey())
	bad := sdp.Crypto{Tag: 1, Suite: "AES_CM_128_HMAC_SHA1_32", Params: "inline:x"}
	if tag, k, err := choose([]sdp.Crypto{bad, good}); err != nil || tag != 3 || k.Profile != srtp.ProfileAES128CMHMACSHA1_80 {
		t.Errorf("tag %d, %v, %v", tag, k.Profile, err)
	}
	if _, _, err := choose([]sdp.Crypto{bad}); err == nil || !strings.Contains(err.Error(), "SHA1_32") {
		t.Errorf("%v", err)
	}
	if _, _, err := choose(nil); err == nil {
		t.Error("no a=crypto is accepted")
	}
	if s := fmt.Sprintf("%v %+v %#v", good, good, good); strings.Contains(s, "inline") {
		t.Errorf("printing shows the key: %s", s)
	}
}
