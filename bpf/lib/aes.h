/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * AES-128 in counter mode from one doubled table (FIPS 197 5.1, the usual
 * T-table): entry x is t | t << 32, so a 32-bit load at octet 0, 3, 2 or 1 of
 * it is t rotated left by 0, 8, 16 or 24. Words are little endian, as in memory.
 */
#ifndef SLC_AES_H
#define SLC_AES_H

#include "common.h"

#define SLC_X2(s) ((((s) << 1) ^ (((s) >> 7) * 0x1b)) & 0xff)
#define SLC_T(s) ((__u64)SLC_X2(s) | (__u64)(s) << 8 | (__u64)(s) << 16 | (__u64)(SLC_X2(s) ^ (s)) << 24)
#define SLC_E(s) (SLC_T(s) | SLC_T(s) << 32),
#define SLC_R(a, b, c, d, e, f, g, h) \
	SLC_E(0x##a) SLC_E(0x##b) SLC_E(0x##c) SLC_E(0x##d) SLC_E(0x##e) SLC_E(0x##f) SLC_E(0x##g) SLC_E(0x##h)

/* One entry more than used: a load at octet 3 of the last stays inside. */
static const __u64 slc_aes_table[257] __attribute__((aligned(64))) = {
	SLC_R(63, 7c, 77, 7b, f2, 6b, 6f, c5)
	SLC_R(30, 01, 67, 2b, fe, d7, ab, 76)
	SLC_R(ca, 82, c9, 7d, fa, 59, 47, f0)
	SLC_R(ad, d4, a2, af, 9c, a4, 72, c0)
	SLC_R(b7, fd, 93, 26, 36, 3f, f7, cc)
	SLC_R(34, a5, e5, f1, 71, d8, 31, 15)
	SLC_R(04, c7, 23, c3, 18, 96, 05, 9a)
	SLC_R(07, 12, 80, e2, eb, 27, b2, 75)
	SLC_R(09, 83, 2c, 1a, 1b, 6e, 5a, a0)
	SLC_R(52, 3b, d6, b3, 29, e3, 2f, 84)
	SLC_R(53, d1, 00, ed, 20, fc, b1, 5b)
	SLC_R(6a, cb, be, 39, 4a, 4c, 58, cf)
	SLC_R(d0, ef, aa, fb, 43, 4d, 33, 85)
	SLC_R(45, f9, 02, 7f, 50, 3c, 9f, a8)
	SLC_R(51, a3, 40, 8f, 92, 9d, 38, f5)
	SLC_R(bc, b6, da, 21, 10, ff, f3, d2)
	SLC_R(cd, 0c, 13, ec, 5f, 97, 44, 17)
	SLC_R(c4, a7, 7e, 3d, 64, 5d, 19, 73)
	SLC_R(60, 81, 4f, dc, 22, 2a, 90, 88)
	SLC_R(46, ee, b8, 14, de, 5e, 0b, db)
	SLC_R(e0, 32, 3a, 0a, 49, 06, 24, 5c)
	SLC_R(c2, d3, ac, 62, 91, 95, e4, 79)
	SLC_R(e7, c8, 37, 6d, 8d, d5, 4e, a9)
	SLC_R(6c, 56, f4, ea, 65, 7a, ae, 08)
	SLC_R(ba, 78, 25, 2e, 1c, a6, b4, c6)
	SLC_R(e8, dd, 74, 1f, 4b, bd, 8b, 8a)
	SLC_R(70, 3e, b5, 66, 48, 03, f6, 0e)
	SLC_R(61, 35, 57, b9, 86, c1, 1d, 9e)
	SLC_R(e1, f8, 98, 11, 69, d9, 8e, 94)
	SLC_R(9b, 1e, 87, e9, ce, 55, 28, df)
	SLC_R(8c, a1, 89, 0d, bf, e6, 42, 68)
	SLC_R(41, 99, 2d, 0f, b0, 54, bb, 16)
};

/* Table offset of octet n of a word; the barrier keeps clang from dropping the mask. */
static __always_inline __u64 slc_aes_at(__u64 word, int n)
{
	__u64 at = n == 0 ? word << 3 : word >> (8 * n - 3);

	at &= 0x7f8;
	asm volatile("" : "+r"(at));
	return at;
}

static __always_inline __u32 slc_aes_word(__u64 word, int n)
{
	const void *entry = (const void *)slc_aes_table + slc_aes_at(word, n);

	return *(const __u32 *)(entry + ((4 - n) & 3));
}

static __always_inline __u32 slc_aes_sub(__u64 word, int n)
{
	const void *entry = (const void *)slc_aes_table + slc_aes_at(word, n);

	return (__u32)*(const __u8 *)(entry + 1) << (8 * n);
}

#define SLC_COLUMN(a, b, c, d, k) \
	(slc_aes_word(a, 0) ^ slc_aes_word(b, 1) ^ slc_aes_word(c, 2) ^ slc_aes_word(d, 3) ^ (k))
#define SLC_LAST(a, b, c, d, k) \
	((slc_aes_sub(a, 0) | slc_aes_sub(b, 1) | slc_aes_sub(c, 2) | slc_aes_sub(d, 3)) ^ (k))

/*
 * Writes blocks counter blocks of keystream to out->mask and on. iv holds the
 * counter block in memory order with its last octet zero; it counts from first.
 * Only that octet changes (first + blocks <= 256), so most of rounds 1 and 2 is
 * done once.
 */
__noinline int slc_aes_ctr(const struct slc_session *session, const struct slc_block *iv,
			   struct slc_keystream_large *out, __u32 first, __u32 blocks)
{
	__u32 a, b, c, d, w, x, y, z, one, two0, two1, two2, two3;
	const __u32 *k;

	if (!session || !iv || !out)
		return 0;
	k = session->round;
	a = iv->w[0] ^ k[0];
	b = iv->w[1] ^ k[1];
	c = iv->w[2] ^ k[2];
	d = iv->w[3] ^ k[3];
	one = slc_aes_word(a, 0) ^ slc_aes_word(b, 1) ^ slc_aes_word(c, 2) ^ k[4];
	x = SLC_COLUMN(b, c, d, a, k[5]);
	y = SLC_COLUMN(c, d, a, b, k[6]);
	z = SLC_COLUMN(d, a, b, c, k[7]);
	two0 = slc_aes_word(x, 1) ^ slc_aes_word(y, 2) ^ slc_aes_word(z, 3) ^ k[8];
	two1 = slc_aes_word(x, 0) ^ slc_aes_word(y, 1) ^ slc_aes_word(z, 2) ^ k[9];
	two2 = slc_aes_word(y, 0) ^ slc_aes_word(z, 1) ^ slc_aes_word(x, 3) ^ k[10];
	two3 = slc_aes_word(z, 0) ^ slc_aes_word(x, 2) ^ slc_aes_word(y, 3) ^ k[11];

	for (__u64 i = 0; i < SLC_BLOCKS; i++) {
		if (i >= blocks)
			break;
		w = one ^ slc_aes_word(d ^ (__u32)((first + i) << 24), 3);
		a = two0 ^ slc_aes_word(w, 0);
		b = two1 ^ slc_aes_word(w, 3);
		c = two2 ^ slc_aes_word(w, 2);
		z = two3 ^ slc_aes_word(w, 1);
#define SLC_ROUND(p, q, r, s, t, u, v, o, n) \
	t = SLC_COLUMN(p, q, r, s, k[4 * n]); \
	u = SLC_COLUMN(q, r, s, p, k[4 * n + 1]); \
	v = SLC_COLUMN(r, s, p, q, k[4 * n + 2]); \
	o = SLC_COLUMN(s, p, q, r, k[4 * n + 3]); \
	asm volatile("" : "+r"(t), "+r"(u), "+r"(v), "+r"(o));
		__u32 e, f, g, h;

		SLC_ROUND(a, b, c, z, e, f, g, h, 3)
		SLC_ROUND(e, f, g, h, a, b, c, z, 4)
		SLC_ROUND(a, b, c, z, e, f, g, h, 5)
		SLC_ROUND(e, f, g, h, a, b, c, z, 6)
		SLC_ROUND(a, b, c, z, e, f, g, h, 7)
		SLC_ROUND(e, f, g, h, a, b, c, z, 8)
		SLC_ROUND(a, b, c, z, e, f, g, h, 9)
#undef SLC_ROUND
		__u32 *to = (__u32 *)(out->mask + i * 16);

		to[0] = SLC_LAST(e, f, g, h, k[40]);
		to[1] = SLC_LAST(f, g, h, e, k[41]);
		to[2] = SLC_LAST(g, h, e, f, k[42]);
		to[3] = SLC_LAST(h, e, f, g, k[43]);
	}
	return 1;
}

#endif
