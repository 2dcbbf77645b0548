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

/*
 * The block's nibbles, each times 16, as octets on the stack: even ones in w[0]
 * (octets 0..7 of the block) and w[1], odd ones in w[2] and w[3]. One octet load
 * then gives a table offset, where shifting and masking would take three
 * operations. volatile, or clang turns the loads back into shifts.
 */
struct slc_nibbles {
	volatile __u64 w[4];
};

#define SLC_NIBBLES(n, high, low) do { \
	__u64 mask_ = 0xf0f0f0f0f0f0f0f0; \
	asm volatile("" : "+r"(mask_)); \
	(n).w[0] = (high) & mask_; \
	(n).w[1] = (low) & mask_; \
	(n).w[2] = (high) << 4 & mask_; \
	(n).w[3] = (low) << 4 & mask_; \
} while (0)

/*
 * The entry of nibble k of 32-bit word g of the block: the pointer is the
 * session's plus that octet, the table's place a constant of the load.
 */
#define SLC_ENTRY(n, g, k) \
	const void *entry_ = (const void *)(long)*((volatile __u8 *) \
		&(n).w[((k) & 1) * 2 + (g) / 2] + (7 - ((g) & 1) * 4 - (k) / 2)); \
	/* in assembly, or clang copies the pointer first */ \
	asm volatile("%0 += %1" : "+r"(entry_) : "r"(session))
#define SLC_HALF(k, i) (*(const __u64 *)(entry_ + offsetof(struct slc_session, ghash) + 256 * (k) + 8 * (i)))

#define SLC_NIBBLE(n, g, k) do { \
	SLC_ENTRY(n, g, k); \
	ah ^= SLC_HALF(k, 0); \
	al ^= SLC_HALF(k, 1); \
	asm volatile("" : "+r"(ah), "+r"(al), "+r"(zh), "+r"(zl)); \
} while (0)

/* Each word has its own sums, so that they need not wait for one another. */
#define SLC_WORD(n, g) do { \
	SLC_ENTRY(n, g, 0); \
	ah = SLC_HALF(0, 0); \
	al = SLC_HALF(0, 1); \
	asm volatile("" : "+r"(ah), "+r"(al), "+r"(zh), "+r"(zl)); \
	SLC_NIBBLE(n, g, 1); SLC_NIBBLE(n, g, 2); SLC_NIBBLE(n, g, 3); SLC_NIBBLE(n, g, 4); \
	SLC_NIBBLE(n, g, 5); SLC_NIBBLE(n, g, 6); SLC_NIBBLE(n, g, 7); \
} while (0)

/* z = z * x^32 + a */
#define SLC_SHIFT do { \
	__u64 v_ = zl << 32; \
	zl = (zl >> 32 | zh << 32) ^ al; \
	zh = zh >> 32 ^ v_ ^ v_ >> 1 ^ v_ >> 2 ^ v_ >> 7 ^ ah; \
} while (0)

/* z = x * H */
#define SLC_MULTIPLY(n, high, low) do { \
	__u64 ah, al; \
	SLC_NIBBLES(n, high, low); \
	SLC_WORD(n, 3); zh = ah; zl = al; \
	SLC_WORD(n, 2); SLC_SHIFT; \
	SLC_WORD(n, 1); SLC_SHIFT; \
	SLC_WORD(n, 0); SLC_SHIFT; \
} while (0)

/* Takes in the full blocks of a header with CSRC or extension; a function, for the verifier's sake. */
__noinline int slc_ghash_header(struct slc_context *ctx, const struct slc_session *session,
				const struct slc_packet *packet, struct slc_ghash *out)
{
	__u64 zh = 0, zl = 0, at, blocks, high, low;
	struct slc_nibbles n;
	const void *end;
	const __u64 *p;

	if (!session || !packet || !out)
		return 0;
	at = packet->rtp;
	if (at > SLC_OFFSET_LIMIT)
		return 0;
	blocks = packet->header / 16;
	p = slc_data(ctx) + at;
	end = slc_end(ctx);
	for (__u64 i = 0; i < SLC_LONGEST_HEADER / 16; i++) {
		if (i >= blocks)
			break;
		slc_opaque(p);
		if ((const void *)(p + 2) > end)
			return 0;
		high = zh ^ bpf_be64_to_cpu(p[0]);
		low = zl ^ bpf_be64_to_cpu(p[1]);
		p += 2;
		SLC_MULTIPLY(n, high, low);
	}
	out->high = zh;
	out->low = zl;
	return 1;
}

/*
 * GHASH over header, payload and their lengths. The load behind a partial block
 * of the payload ends in the tag, that of the header in tag or payload.
 */
__noinline int slc_ghash(struct slc_context *ctx, const struct slc_session *session,
			 const struct slc_packet *packet, struct slc_ghash *out)
{
	__u64 zh = 0, zl = 0, at, blocks, rest, high, low;
	struct slc_nibbles n;
	const void *end;
	const __u64 *p;

	if (!session || !packet || !out)
		return 0;
	rest = packet->header;
	at = packet->rtp + (rest & ~15);
	if (rest >= 16) {
		if (!slc_ghash_header(ctx, session, packet, out))
			return 0;
		zh = out->high;
		zl = out->low;
	}
	rest &= 15;
	if (rest) {
		if (at > SLC_OFFSET_LIMIT)
			return 0;
		p = slc_data(ctx) + at;
		end = slc_end(ctx);
		slc_opaque(p);
		if ((const void *)p + 12 > end)
			return 0;
		high = bpf_be64_to_cpu(p[0]);
		low = (__u64)bpf_ntohl(*(const __u32 *)(p + 1)) << 32;
		/* rest is 4, 8 or 12 */
		if (rest <= 8) {
			low = 0;
			if (rest == 4)
				high &= ~0ULL << 32;
		}
		high ^= zh;
		low ^= zl;
		SLC_MULTIPLY(n, high, low);
	}
	at = packet->rtp + packet->header;
	if (at > SLC_OFFSET_LIMIT)
		return 0;
	blocks = packet->payload / 16;
	p = slc_data(ctx) + at;
	end = slc_end(ctx);
	for (__u64 i = 0; i < SLC_KEYSTREAM_LARGE / 16; i++) {
		if (i >= blocks)
			break;
		slc_opaque(p);
		if ((const void *)(p + 2) > end)
			return 0;
		high = zh ^ bpf_be64_to_cpu(p[0]);
		low = zl ^ bpf_be64_to_cpu(p[1]);
		p += 2;
		SLC_MULTIPLY(n, high, low);
	}
	rest = packet->payload & 15;
	if (rest) {
		/* from the start: where the loop ended must not tell one exit from another */
		at = packet->rtp + packet->header + (packet->payload & ~15);
		if (at > SLC_OFFSET_LIMIT)
			return 0;
		p = slc_data(ctx) + at;
		end = slc_end(ctx);
		slc_opaque(p);
		if ((const void *)(p + 2) > end)
			return 0;
		high = bpf_be64_to_cpu(p[0]);
		low = bpf_be64_to_cpu(p[1]);
		if (rest <= 8) {
			low = 0;
			high &= ~0ULL << ((64 - 8 * rest) & 63);
		} else {
			low &= ~0ULL << ((128 - 8 * rest) & 63);
		}
		high ^= zh;
		low ^= zl;
		SLC_MULTIPLY(n, high, low);
	}
	high = zh ^ (__u64)packet->header * 8;
	low = zl ^ (__u64)packet->payload * 8;
	SLC_MULTIPLY(n, high, low);
	out->high = zh;
	out->low = zl;
	return 1;
}

#endif
