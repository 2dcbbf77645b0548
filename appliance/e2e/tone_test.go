package e2e

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"testing"
)

// Every party of a test speaks with a tone of its own. All are multiples of
// 12.5 Hz (a whole number of periods in a window of 80 ms), none is near a
// harmonic of another, and all pass a telephone channel.
const (
	toneBrowserA = 650.0
	toneBrowserB = 1150.0
	tonePhoneA   = 850.0
	tonePhoneB   = 1500.0
	toneCarrier  = 400.0
	toneAnnounce = 1850.0
)

const window = 0.08 // seconds

// writeTone writes a mono 16-bit WAV of seconds of a tone at -9 dBFS.
func writeTone(t testing.TB, path string, rate int, hz, seconds float64) {
	t.Helper()
	n := int(float64(rate) * seconds)
	b := make([]byte, 44, 44+2*n)
	copy(b, "RIFF")
	binary.LittleEndian.PutUint32(b[4:], uint32(36+2*n))
	copy(b[8:], "WAVEfmt ")
	binary.LittleEndian.PutUint32(b[16:], 16)
	binary.LittleEndian.PutUint16(b[20:], 1)
	binary.LittleEndian.PutUint16(b[22:], 1)
	binary.LittleEndian.PutUint32(b[24:], uint32(rate))
	binary.LittleEndian.PutUint32(b[28:], uint32(2*rate))
	binary.LittleEndian.PutUint16(b[32:], 2)
	binary.LittleEndian.PutUint16(b[34:], 16)
	copy(b[36:], "data")
	binary.LittleEndian.PutUint32(b[40:], uint32(2*n))
	for i := range n {
		v := 0.35 * 32767 * math.Sin(2*math.Pi*hz*float64(i)/float64(rate))
		b = binary.LittleEndian.AppendUint16(b, uint16(int16(v)))
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// readWAV returns the first channel of a 16-bit WAV, also of one still being
// written, whose header does not know its length yet.
func readWAV(path string) (samples []float64, rate int, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, 0, err
	}
	if len(b) < 12 || string(b[:4]) != "RIFF" {
		return nil, 0, fmt.Errorf("%s: %d bytes, no WAV", path, len(b))
	}
	channels := 1
	for at := 12; at+8 <= len(b); {
		id, size := string(b[at:at+4]), int(binary.LittleEndian.Uint32(b[at+4:]))
		at += 8
		switch id {
		case "fmt ":
			if at+16 > len(b) {
				return nil, 0, fmt.Errorf("%s: short fmt chunk", path)
			}
			channels = max(1, int(binary.LittleEndian.Uint16(b[at+2:])))
			rate = int(binary.LittleEndian.Uint32(b[at+4:]))
			if bits := binary.LittleEndian.Uint16(b[at+14:]); bits != 16 {
				return nil, 0, fmt.Errorf("%s: %d bits", path, bits)
			}
		case "data":
			for ; at+2*channels <= len(b); at += 2 * channels {
				samples = append(samples, float64(int16(binary.LittleEndian.Uint16(b[at:])))/32768)
			}
			return samples, rate, nil
		}
		at += size
	}
	return nil, rate, fmt.Errorf("%s: no samples yet", path)
}

// share is how much of the power of x is at hz, 0 to 1 (Goertzel).
func share(x []float64, rate int, hz float64) float64 {
	k := 2 * math.Cos(2*math.Pi*hz/float64(rate))
	var s1, s2, total float64
	for _, v := range x {
		s1, s2 = v+k*s1-s2, s1
		total += v * v
	}
	if total/float64(len(x)) < 1e-6 { // below -60 dBFS: silence
		return 0
	}
	return 2 * (s1*s1 + s2*s2 - k*s1*s2) / (float64(len(x)) * total)
}

// windows cuts x into windows and tells for each whether hz is what it holds.
func windows(x []float64, rate int, hz float64) []bool {
	n := int(window * float64(rate))
	var out []bool
	for ; len(x) >= n; x = x[n:] {
		out = append(out, share(x[:n], rate, hz) > 0.8)
	}
	return out
}

func count(w []bool) (n int) {
	for _, v := range w {
		if v {
			n++
		}
	}
	return n
}

// The measure itself must tell tones apart, or every audio test is worth nothing.
func TestToneMeasure(t *testing.T) {
	tones := []float64{toneBrowserA, toneBrowserB, tonePhoneA, tonePhoneB, toneCarrier, toneAnnounce}
	for _, played := range tones {
		path := t.TempDir() + "/tone.wav"
		writeTone(t, path, 8000, played, 1)
		x, rate, err := readWAV(path)
		if err != nil || rate != 8000 || len(x) != 8000 {
			t.Fatalf("%d samples at %d Hz: %v", len(x), rate, err)
		}
		for _, asked := range tones {
			got, want := count(windows(x, rate, asked)), 0
			if asked == played {
				want = 12
			}
			if got != want {
				t.Errorf("%v Hz played, %v Hz asked: %d of 12 windows, want %d", played, asked, got, want)
			}
		}
	}
	if n := count(windows(make([]float64, 8000), 8000, toneCarrier)); n != 0 {
		t.Errorf("silence holds the tone in %d windows", n)
	}
}
