/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * SHA-1 (FIPS 180-4 6.1) for HMAC with the pads hashed beforehand.
 *
 * BPF has no rotate. A word kept twice in 64 bits, x | x << 32, rotates left by
 * 5 with one shift right by 27, and by 30 with a shift by 2. The barriers order
 * the additions so that the rotate of the newest word comes last.
 */
#ifndef SLC_SHA1_H
#define SLC_SHA1_H

#include "common.h"

struct slc_sha1 {
	__u32 h[5];
};

struct slc_chunk {
	__u32 w[16];
};

#define SLC_F1 ((((__u32)c ^ (__u32)d) & (__u32)b) ^ (__u32)d)
#define SLC_F2 ((__u32)b ^ (__u32)c ^ (__u32)d)
#define SLC_F3 ((((__u32)b | (__u32)c) & (__u32)d) | ((__u32)b & (__u32)c))

#define SLC_STEP(F, K, word) do { \
	__u32 t = (__u32)e + (word) + (K); \
	asm volatile("" : "+r"(t)); \
	t += F; \
	asm volatile("" : "+r"(t)); \
	t += (__u32)(a >> 27); \
	e = d; d = c; c = b >> 2; b = a; \
	a = t; \
	a |= a << 32; \
	asm volatile("" : "+r"(a), "+r"(c)); \
} while (0)

#define SLC_LOAD(i) ({ __u32 x_ = bpf_ntohl(chunk->w[i]); w[i] = x_; x_; })
#define SLC_MIX(i) ({ \
	__u32 x_ = w[((i) + 13) & 15] ^ w[((i) + 8) & 15] ^ w[((i) + 2) & 15] ^ w[(i) & 15]; \
	x_ = x_ << 1 | x_ >> 31; \
	w[(i) & 15] = x_; x_; })

#define SLC_5(S, F, K, G, i) \
	S(F, K, G(i)); S(F, K, G((i) + 1)); S(F, K, G((i) + 2)); S(F, K, G((i) + 3)); S(F, K, G((i) + 4))

/* One compression; a global function, so that it is verified once. */
__noinline int slc_sha1_block(struct slc_sha1 *state, const struct slc_chunk *chunk)
{
	volatile __u32 w[16];	/* volatile: or clang keeps all 80 and runs out of stack */
	__u64 a, b, c, d, e;

	if (!state || !chunk)
		return 0;
	a = state->h[0];
	a |= a << 32;
	b = state->h[1];
	b |= b << 32;
	c = state->h[2];
	d = state->h[3];
	e = state->h[4];
	SLC_5(SLC_STEP, SLC_F1, 0x5a827999, SLC_LOAD, 0);
	SLC_5(SLC_STEP, SLC_F1, 0x5a827999, SLC_LOAD, 5);
	SLC_5(SLC_STEP, SLC_F1, 0x5a827999, SLC_LOAD, 10);
	SLC_STEP(SLC_F1, 0x5a827999, SLC_LOAD(15));
	SLC_STEP(SLC_F1, 0x5a827999, SLC_MIX(16));
	SLC_STEP(SLC_F1, 0x5a827999, SLC_MIX(17));
	SLC_STEP(SLC_F1, 0x5a827999, SLC_MIX(18));
	SLC_STEP(SLC_F1, 0x5a827999, SLC_MIX(19));
	SLC_5(SLC_STEP, SLC_F2, 0x6ed9eba1, SLC_MIX, 20);
	SLC_5(SLC_STEP, SLC_F2, 0x6ed9eba1, SLC_MIX, 25);
	SLC_5(SLC_STEP, SLC_F2, 0x6ed9eba1, SLC_MIX, 30);
	SLC_5(SLC_STEP, SLC_F2, 0x6ed9eba1, SLC_MIX, 35);
	SLC_5(SLC_STEP, SLC_F3, 0x8f1bbcdc, SLC_MIX, 40);
	SLC_5(SLC_STEP, SLC_F3, 0x8f1bbcdc, SLC_MIX, 45);
	SLC_5(SLC_STEP, SLC_F3, 0x8f1bbcdc, SLC_MIX, 50);
	SLC_5(SLC_STEP, SLC_F3, 0x8f1bbcdc, SLC_MIX, 55);
	SLC_5(SLC_STEP, SLC_F2, 0xca62c1d6, SLC_MIX, 60);
	SLC_5(SLC_STEP, SLC_F2, 0xca62c1d6, SLC_MIX, 65);
	SLC_5(SLC_STEP, SLC_F2, 0xca62c1d6, SLC_MIX, 70);
	SLC_5(SLC_STEP, SLC_F2, 0xca62c1d6, SLC_MIX, 75);
	state->h[0] += (__u32)a;
	state->h[1] += (__u32)b;
	state->h[2] += (__u32)c;
	state->h[3] += (__u32)d;
	state->h[4] += (__u32)e;
	return 1;
}

#endif
