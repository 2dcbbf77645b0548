package demo

import (
	"math"
	"testing"
)

// The decoders are written from the other end of G.711, the value each code
// stands for, and share nothing with the encoders.
func decodeMuLaw(b byte) float64 {
	b = ^b
	v := (int(b&0x0f)<<3 + 0x84) << (b >> 4 & 7)
	v -= 0x84
	if b&0x80 != 0 {
		v = -v
	}
	return float64(v)
}

func decodeALaw(b byte) float64 {
	b ^= 0x55
	v := int(b&0x0f)<<4 + 8
	if e := b >> 4 & 7; e > 0 {
		v = (v + 0x100) << (e - 1)
	}
	if b&0x80 == 0 {
		v = -v
	}
	return float64(v)
}

func TestG711(t *testing.T) {
	for _, tc := range []struct {
		name   string
		pt     uint8
		zero   byte
		decode func(byte) float64
	}{{"PCMU", 0, 0xff, decodeMuLaw}, {"PCMA", 8, 0xd5, decodeALaw}} {
		t.Run(tc.name, func(t *testing.T) {
			if got := encode(tc.pt, 0); got != tc.zero {
				t.Errorf("silence is %#02x, want %#02x", got, tc.zero)
			}
			// A half-scale step of the finest segment, 1/32 of the value elsewhere.
			for s := math.MinInt16; s <= math.MaxInt16; s++ {
				got := tc.decode(encode(tc.pt, int16(s)))
				if diff := math.Abs(got - float64(s)); diff > max(8, math.Abs(float64(s))/30)+4 && math.Abs(float64(s)) < 32000 {
					t.Fatalf("%d comes back as %v", s, got)
				}
			}
		})
	}
}

// power is how much of a signal lies at hz, from 0 to 1 (Goertzel).
func power(samples []float64, hz float64) float64 {
	w := 2 * math.Pi * hz / rate
	var a, b, sum float64
	for _, x := range samples {
		a, b = x+2*math.Cos(w)*a-b, a
		sum += x * x
	}
	if sum == 0 {
		return 0
	}
	return (a*a + b*b - 2*math.Cos(w)*a*b) / (sum * float64(len(samples)) / 2)
}

func TestToneIsPure(t *testing.T) {
	samples := make([]float64, rate)
	for i := range samples {
		samples[i] = decodeMuLaw(encode(0, tone(i)))
	}
	if p := power(samples, ToneHz); p < 0.99 {
		t.Errorf("only %.3f of the tone is at %d Hz", p, ToneHz)
	}
}

func TestMelodyHasItsNotes(t *testing.T) {
	const length = rate * 3 / 10
	for i, f := range notes {
		samples := make([]float64, length)
		for j := range samples {
			samples[j] = float64(melody(i*length + j))
		}
		if p := power(samples, f); f != 0 && p < 0.9 {
			t.Errorf("note %d: %.3f at %v Hz", i, p, f)
		}
	}
}
