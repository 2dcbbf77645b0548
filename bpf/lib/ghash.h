/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * GHASH (NIST SP 800-38D 6.4) from eight position tables of 16 entries: 32 bits
 * of the input per step, then one shift with reduction. high holds octets 0..7
 * of a block as a big endian number.
 */
#ifndef SLC_GHASH_H
#define SLC_GHASH_H

#include "common.h"

struct slc_ghash {
	__u64 high, low;
};

_Static_assert(SLC_GHASH_TABLES == 8, "a step takes 32 bits");

#define SLC_NIBBLE(k) do { \
	__u64 at_ = (k) < 7 ? x_ >> (24 - 4 * (k) + (k) / 7 * 4) : x_ << 4; \
	at_ &= 0xf0; \
	asm volatile("" : "+r"(at_)); \
	const __u64 *entry_ = (const void *)session->ghash[k] + at_; \
	zh ^= entry_[0]; \
	zl ^= entry_[1]; \
	asm volatile("" : "+r"(zh), "+r"(zl), "+r"(xh), "+r"(xl)); \
} while (0)

#define SLC_WORD(expression) do { \
	__u64 x_ = (expression); \
	SLC_NIBBLE(0); SLC_NIBBLE(1); SLC_NIBBLE(2); SLC_NIBBLE(3); \
	SLC_NIBBLE(4); SLC_NIBBLE(5); SLC_NIBBLE(6); SLC_NIBBLE(7); \
} while (0)

#define SLC_SHIFT do { \
	__u64 v_ = zl << 32; \
	zl = zl >> 32 | zh << 32; \
	zh = zh >> 32 ^ v_ ^ v_ >> 1 ^ v_ >> 2 ^ v_ >> 7; \
} while (0)

/* z = x * H */
#define SLC_MULTIPLY do { \
	zh = 0; zl = 0; \
	SLC_WORD(xl & 0xffffffff); SLC_SHIFT; \
	SLC_WORD(xl >> 32); SLC_SHIFT; \
	SLC_WORD(xh & 0xffffffff); SLC_SHIFT; \
	SLC_WORD(xh >> 32); \
} while (0)

/* Takes one block in. */
__noinline int slc_ghash_block(const struct slc_session *session, struct slc_ghash *state,
			       __u64 high, __u64 low)
{
	__u64 xh, xl, zh, zl;

	if (!session || !state)
		return 0;
	xh = state->high ^ high;
	xl = state->low ^ low;
	SLC_MULTIPLY;
	state->high = zh;
	state->low = zl;
	return 1;
}

/* Takes in the full blocks among length octets of the packet from offset on. */
__noinline int slc_ghash_packet(struct slc_context *ctx, const struct slc_session *session,
				struct slc_ghash *state, __u32 offset, __u32 length)
{
	__u64 xh, xl, zh, zl, at = offset, blocks = length / 16;
	const void *end = slc_end(ctx);
	const __u64 *p;

	if (!session || !state || at > SLC_OFFSET_LIMIT)
		return 0;
	p = slc_data(ctx) + at;
	zh = state->high;
	zl = state->low;
	for (__u64 i = 0; i < SLC_KEYSTREAM_LARGE / 16; i++) {
		if (i >= blocks)
			break;
		slc_opaque(p);
		if ((const void *)(p + 2) > end)
			return 0;
		xh = zh ^ bpf_be64_to_cpu(p[0]);
		xl = zl ^ bpf_be64_to_cpu(p[1]);
		p += 2;
		SLC_MULTIPLY;
	}
	state->high = zh;
	state->low = zl;
	return 1;
}

#endif
