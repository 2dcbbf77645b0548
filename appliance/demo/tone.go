package demo

import "math"

const rate = 8000 // Hz

// tone is sample n of 440 Hz at half of full scale.
func tone(n int) int16 { return sine(ToneHz, n) }

// notes of the melody, 300 ms each; 0 is a rest.
var notes = [...]float64{523.25, 659.25, 783.99, 1046.5, 783.99, 659.25, 523.25, 0}

func melody(n int) int16 {
	const length = rate * 3 / 10
	f := notes[n/length%len(notes)]
	if f == 0 {
		return 0
	}
	// Ten milliseconds of fade at both ends keep the notes from clicking.
	fade := min(1, float64(min(n%length, length-n%length))/(rate/100))
	return int16(fade * float64(sine(f, n)))
}

func sine(hz float64, n int) int16 {
	return int16(16000 * math.Sin(2*math.Pi*hz*float64(n)/rate))
}

// encode makes one G.711 octet: payload type 0 is µ-law, 8 is A-law.
func encode(pt uint8, s int16) byte {
	if pt == 8 {
		return aLaw(s)
	}
	return muLaw(s)
}

// muLaw encodes by ITU-T G.711 table 2a.
func muLaw(s int16) byte {
	const bias, clip = 0x84, 32635
	v, sign := int(s), byte(0)
	if v < 0 {
		v, sign = -v, 0x80
	}
	v = min(v, clip) + bias
	exponent := byte(7)
	for mask := 0x4000; exponent > 0 && v&mask == 0; mask >>= 1 {
		exponent--
	}
	return ^(sign | exponent<<4 | byte(v>>(exponent+3))&0x0f)
}

// aLaw encodes by ITU-T G.711 table 1a.
func aLaw(s int16) byte {
	v, sign := int(s)>>3, byte(0x80)
	if v < 0 {
		v, sign = -v-1, 0
	}
	exponent := byte(7)
	for mask := 0x800; exponent > 0 && v&mask == 0; mask >>= 1 {
		exponent--
	}
	mantissa := byte(v>>1) & 0x0f
	if exponent > 0 {
		mantissa = byte(v>>exponent) & 0x0f
	}
	return (sign | exponent<<4 | mantissa) ^ 0x55
}
