package srtp

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDerivationVectors holds RFC 3711 B.3 and RFC 6188 7.1 and 7.2.
func TestDerivationVectors(t *testing.T) {
	for _, v := range []struct {
		name, key, salt string
		label           byte
		want            string
	}{
		{"RFC 3711 B.3 cipher key", "E1F97A0D3E018BE0D64FA32C06DE4139", "0EC675AD498AFEEBB6960B3AABE6", labelRTPKey,
			"C61E7A93744F39EE10734AFE3FF7A087"},
		{"RFC 3711 B.3 salt", "E1F97A0D3E018BE0D64FA32C06DE4139", "0EC675AD498AFEEBB6960B3AABE6", labelRTPSalt,
			"30CBBC08863D8C85D49DB34A9AE1"},
		{"RFC 3711 B.3 auth key, all 94 bytes", "E1F97A0D3E018BE0D64FA32C06DE4139", "0EC675AD498AFEEBB6960B3AABE6", labelRTPAuth,
			`CEBE321F6FF7716B6FD4AB49AF256A15 6D38BAA48F0A0ACF3C34E2359E6CDBCE E049646C43D9327AD175578EF7227098
			 6371C10C9A369AC2F94A8C5FBCDDDC25 6D6E919A48B610EF17C2041E47403576 6B68642C59BBFC2F34DB60DBDFB2`},
		{"RFC 6188 256-bit key", "f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b6", "3b04803de51ee7c96423ab5b78d2", labelRTPKey,
			"5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4"},
		{"RFC 6188 256-bit salt", "f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b6", "3b04803de51ee7c96423ab5b78d2", labelRTPSalt,
			"fa31791685ca444a9e07c6c64e93"},
		{"RFC 6188 256-bit auth key", "f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b6", "3b04803de51ee7c96423ab5b78d2", labelRTPAuth,
			"fd9c32d39ed5fbb5a9dc96b30818454d1313dc05"},
	} {
		want := unhex(t, v.want)
		got, err := prf(unhex(t, v.key), unhex(t, v.salt), v.label, len(want))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %x, %v, want %x", v.name, got, err, want)
		}
	}
}

// TestPacketVectors holds RFC 7714 16.1.1, 16.2.1, 17.1 and 17.3.
func TestPacketVectors(t *testing.T) {
	const (
		rtp = `8040f17b8041f8d35501a0b2 47616c6c696120657374206f6d6e69732064697669736120696e20706172746573207472 6573`
		// sender report of RFC 7714 17
		rtcp = `81c8000d4d617273 4e5450314e545032525450200000042a0000e9304c756e61 deadbeefdeadbeefdeadbeefdeadbeefdeadbeef`
		salt = "517569642070726f2071756f"
	)
	for _, v := range []struct {
		profile         Profile
		key, srtp, rtcp string
	}{
		{ProfileAEADAES128GCM, "000102030405060708090a0b0c0d0e0f",
			`8040f17b8041f8d35501a0b2 f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833
			 899d7f27beb16a9152cf765ee4390cce`,
			`81c8000d4d617273 63e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda4ce09b4686303ded
			 0bb9275bc84aa45896cf4d2fc5abf87245d9eade 800005d4`},
		{ProfileAEADAES256GCM, "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
			`8040f17b8041f8d35501a0b2 32b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b
			 7aa3db36dfffd6b0f9bb7878d7a76c13`,
			`81c8000d4d617273 d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be8415f658c61de047
			 6f1b6fad1d1eb30c4446839f57ff6f6cb26ac3be 800005d4`},
	} {
		t.Run(v.profile.String(), func(t *testing.T) {
			key, salt := unhex(t, v.key), unhex(t, salt)
			c, err := NewContext(&SessionKeys{Profile: v.profile, RTPKey: key, RTPSalt: salt, RTCPKey: key, RTCPSalt: salt})
			if err != nil {
				t.Fatal(err)
			}
			plain, want := unhex(t, rtp), unhex(t, v.srtp)
			got, err := c.Protect(append(make([]byte, 0, 256), plain...), MinHeader, 0xf17b)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("Protect: %x, %v", got, err)
			}
			back, err := c.Unprotect(bytes.Clone(want), MinHeader, 0xf17b)
			if err != nil || !bytes.Equal(back, plain) {
				t.Errorf("Unprotect: %x, %v", back, err)
			}
			plain, want = unhex(t, rtcp), unhex(t, v.rtcp)
			got, err = c.ProtectRTCP(append(make([]byte, 0, 256), plain...), 0x5d4)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("ProtectRTCP: %x, %v", got, err)
			}
			back, index, err := c.UnprotectRTCP(bytes.Clone(want))
			if err != nil || index != 0x5d4 || !bytes.Equal(back, plain) {
				t.Errorf("UnprotectRTCP: %x, %d, %v", back, index, err)
			}
		})
	}
}

// TestKeystreamVector is RFC 3711 B.2: the AES-CM key stream, its end included.
func TestKeystreamVector(t *testing.T) {
	k := &SessionKeys{Profile: ProfileAES128CMHMACSHA1_80,
		RTPKey: unhex(t, "2B7E151628AED2A6ABF7158809CF4F3C"), RTPSalt: unhex(t, "F0F1F2F3F4F5F6F7F8F9FAFBFCFD"),
		RTPAuth: make([]byte, 20), RTCPKey: make([]byte, 16), RTCPSalt: make([]byte, 14), RTCPAuth: make([]byte, 20)}
	c, err := NewContext(k)
	if err != nil {
		t.Fatal(err)
	}
	c.rtp.cmIV(0, 0)
	stream := make([]byte, 0xff02*16)
	c.rtp.xor(stream)
	for at, want := range map[int]string{
		0:           "E03EAD0935C95E80E166B16DD92B4EB4",
		16:          "D23513162B02D0F72A43A2FE4A5F97AB",
		32:          "41E95B3BB0A2E8DD477901E4FCA894C0",
		0xFEFF * 16: "EC8CDF7398607CB0F2D21675EA9EA1E4",
		0xFF00 * 16: "362B7C3C6773516318A077D7FC5073AE",
		0xFF01 * 16: "6A2CC3787889374FBEB4C81B17BA6C44",
	} {
		if got := hex.EncodeToString(stream[at : at+16]); !strings.EqualFold(got, want) {
			t.Errorf("key stream at %d: %s, want %s", at, got, want)
		}
	}
}
