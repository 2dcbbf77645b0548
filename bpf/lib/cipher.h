/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Keystream over packet memory: from the ring where the filler was in time,
 * else made here. All of them return the one's complement sum of what they
 * wrote, for the UDP checksum, or SLC_TORN.
 */
#ifndef SLC_CIPHER_H
#define SLC_CIPHER_H

#include "aes.h"
#include "index.h"

#define SLC_TORN (-1L)
#define SLC_TAG(epoch, index) ((__u64)(epoch) << 48 | (index))

static __always_inline __u64 slc_volatile(const __u64 *p)
{
	return *(const volatile __u64 *)p;
}

/* Octets 0..n-1 of a little endian word, n below 8. */
static __always_inline __u64 slc_low(__u32 n)
{
	return ~(~0ULL << (8 * n & 63));
}

/*
 * XORs length octets from offset on. The load of the last word may reach up to
 * seven octets further: into the tag, or into what the tail was grown by.
 */
#define SLC_XOR_WORD(i, mask) do { \
	__u64 x_ = p[i] ^ (from[i] & (mask)); \
	p[i] = x_; \
	x_ &= (mask); \
	high += x_ >> 32; \
	low += (__u32)x_; \
} while (0)

#define SLC_XOR(name, type, octets) \
__noinline long name(struct slc_context *ctx, const struct type *keystream, __u64 tag, \
		     __u32 offset, __u32 length) \
{ \
	__u64 at = offset, n = length / 16, high = 0, low = 0; \
	const void *end = slc_end(ctx); \
	const __u64 *from; \
	__u64 *p; \
	if (!keystream || at > SLC_OFFSET_LIMIT || length > (octets)) \
		return SLC_TORN; \
	from = (const __u64 *)keystream->bytes; \
	p = slc_data(ctx) + at; \
	for (__u64 i = 0; i < (octets) / 16; i++) { \
		if (i >= n) \
			break; \
		slc_opaque(p); \
		if ((const void *)(p + 2) > end) \
			return SLC_TORN; \
		SLC_XOR_WORD(0, ~0ULL); \
		SLC_XOR_WORD(1, ~0ULL); \
		p += 2; \
		from += 2; \
	} \
	length &= 15; \
	if (length) { \
		/* from the start: where the loop ended must not tell one exit from another */ \
		at = n * 16; \
		slc_opaque(at); \
		if (at > (octets) - 16) \
			return SLC_TORN; \
		from = (const void *)keystream->bytes + at; \
		at += offset; \
		p = slc_data(ctx) + at; \
		slc_opaque(p); \
		if ((const void *)(p + 1) > end) \
			return SLC_TORN; \
		SLC_XOR_WORD(0, length >= 8 ? ~0ULL : slc_low(length)); \
		length -= 8; \
		if ((__s32)length > 0) { \
			slc_opaque(p); \
			if ((const void *)(p + 2) > end) \
				return SLC_TORN; \
			SLC_XOR_WORD(1, slc_low(length)); \
		} \
	} \
	/* the filler may have turned to another index meanwhile */ \
	if (slc_volatile(&keystream->tag) != tag) \
		return SLC_TORN; \
	return high + low; \
}

SLC_XOR(slc_xor_small, slc_keystream, SLC_KEYSTREAM_SMALL)
SLC_XOR(slc_xor_large, slc_keystream_large, SLC_KEYSTREAM_LARGE)

/* The sum alone, for RTP to RTP; nothing may follow the packet, so no load reaches further. */
__noinline long slc_sum(struct slc_context *ctx, __u32 offset, __u32 length)
{
	__u64 at = offset, n = length / 16, high = 0, low = 0;
	const void *end = slc_end(ctx);
	const __u8 *last;
	const __u64 *p;

	if (at > SLC_OFFSET_LIMIT || length > SLC_KEYSTREAM_LARGE)
		return SLC_TORN;
	p = slc_data(ctx) + at;
	for (__u64 i = 0; i < SLC_KEYSTREAM_LARGE / 16; i++) {
		if (i >= n)
			break;
		slc_opaque(p);
		if ((const void *)(p + 2) > end)
			return SLC_TORN;
		high += (p[0] >> 32) + (p[1] >> 32);
		low += (__u64)(__u32)p[0] + (__u32)p[1];
		p += 2;
	}
	at += n * 16;
	slc_opaque(at);
	if (at > SLC_OFFSET_LIMIT)
		return SLC_TORN;
	last = slc_data(ctx) + at;
	length &= 15;
	for (__u32 i = 0; i < 15; i++) {
		if (i >= length)
			break;
		slc_opaque(last);
		if ((const void *)(last + 1) > end)
			return SLC_TORN;
		low += (__u64)*last++ << (8 * (i & 1));
	}
	return high + low;
}

/* One direction of a stream's crypto. */
struct slc_side {
	__u64 index;
	__u32 ssrc;
	__u32 session;
	__u32 epoch;
	__u32 base, mask;
	__u32 ring;	/* its epoch */
	__u8 large;
	__u8 profile;
	__u8 reserved[6];
};

static __always_inline void slc_side_in(struct slc_side *side, const struct slc_stream *stream,
					const struct slc_packet *packet)
{
	side->index = packet->index;
	side->ssrc = packet->ssrc;
	side->session = stream->in_session;
	side->epoch = stream->in_epoch;
	side->base = stream->in_ring.base;
	side->mask = stream->in_ring.mask;
	side->ring = stream->in_ring.epoch;
	side->large = !!(stream->flags & SLC_IN_LARGE);
	side->profile = stream->in_profile;
}

static __always_inline void slc_side_out(struct slc_side *side, const struct slc_stream *stream,
					 const struct slc_packet *packet)
{
	side->index = (packet->index + stream->index_offset) & SLC_INDEX_MASK;
	side->ssrc = stream->out_ssrc;
	side->session = stream->out_session;
	side->epoch = stream->out_epoch;
	side->base = stream->out_ring.base;
	side->mask = stream->out_ring.mask;
	side->ring = stream->out_ring.epoch;
	side->large = !!(stream->flags & SLC_OUT_LARGE);
	side->profile = stream->out_profile;
}

/* The session's keys while they are this stream's. */
static __always_inline struct slc_session *slc_keys(const struct slc_side *side)
{
	struct slc_session *session;
	__u32 slot = side->session;

	session = bpf_map_lookup_elem(&sessions, &slot);
	if (!session || *(volatile __u32 *)&session->epoch != side->epoch)
		return NULL;
	return session;
}

/*
 * These read a word of every cache line that the crypto will want, and use none:
 * with many flows all of them miss, and this way they miss at the same time.
 */
static __always_inline void slc_touch_keys(__u32 profile, __u32 session)
{
	const struct slc_session *keys;

	if (profile == SLC_PLAIN)
		return;
	keys = bpf_map_lookup_elem(&sessions, &session);
	if (!keys)
		return;
	(void)*(const volatile __u32 *)keys->hmac_inner;
	(void)*(const volatile __u32 *)&keys->epoch;
	if (profile != SLC_AEAD_AES_128_GCM)
		return;
#pragma unroll
	for (int i = 0; i < (int)sizeof(keys->ghash) / 64; i++)
		(void)*(const volatile __u64 *)((const void *)keys->ghash + 64 * i);
}

static __always_inline void slc_touch_ring(__u32 profile, const struct slc_ring *ring, __u64 index)
{
	__u32 at = ring->base + ((__u32)index & ring->mask);
	const struct slc_keystream *slot;

	if (profile == SLC_PLAIN)
		return;
	slot = bpf_map_lookup_elem(&keystream, &at);
	if (!slot)
		return;
#pragma unroll
	for (int i = 0; i < (int)sizeof(*slot) / 64; i++)
		(void)*(const volatile __u64 *)((const void *)slot + 64 * i);
}

/* The ring's slot if it holds at least length octets for this index. */
static __always_inline struct slc_keystream *slc_ring_small(const struct slc_side *side, __u32 length)
{
	struct slc_keystream *slot;
	__u32 at = side->base + ((__u32)side->index & side->mask);

	if (!side->ring || side->large || length > SLC_KEYSTREAM_SMALL)
		return NULL;
	slot = bpf_map_lookup_elem(&keystream, &at);
	if (!slot || slc_volatile(&slot->tag) != SLC_TAG(side->ring, side->index))
		return NULL;
	return slot;
}

static __always_inline struct slc_keystream_large *slc_ring_large(const struct slc_side *side, __u32 length)
{
	struct slc_keystream_large *slot;
	__u32 at = side->base + ((__u32)side->index & side->mask);

	if (!side->ring || !side->large || length > SLC_KEYSTREAM_LARGE)
		return NULL;
	slot = bpf_map_lookup_elem(&keystream_large, &at);
	if (!slot || slc_volatile(&slot->tag) != SLC_TAG(side->ring, side->index))
		return NULL;
	return slot;
}

/*
 * Makes mask and length octets of keystream in this CPU's scratch.
 * RFC 3711 4.1.1 for AES-CM, RFC 7714 8.1 for GCM.
 */
__noinline int slc_make(const struct slc_side *side, __u32 length)
{
	struct slc_session *session;
	struct slc_scratch *here;
	struct slc_block iv;
	__u64 index;
	__u32 ssrc;

	if (!side)
		return 0;
	session = slc_keys(side);
	here = slc_scratch();
	if (!session || !here)
		return 0;
	index = side->index;
	ssrc = side->ssrc;
	iv.w[0] = session->salt[0];
	iv.w[1] = session->salt[1];
	iv.w[2] = session->salt[2];
	iv.w[3] = session->salt[3];
	here->keystream.tag = SLC_TAG(1, index);
	length = (length + 15) / 16;
	if (side->profile == SLC_AEAD_AES_128_GCM) {
		/* 00 00 SSRC index, counter 32 bits from 1 */
		iv.w[0] ^= bpf_htonl(ssrc >> 16);
		iv.w[1] ^= bpf_htonl(ssrc << 16 | (__u32)(index >> 32));
		iv.w[2] ^= bpf_htonl((__u32)index);
		slc_aes_ctr(session, &iv, &here->keystream, 1, length + 1);
	} else {
		/* 00 00 00 00 SSRC index, counter 16 bits from 0: the mask is not used */
		iv.w[1] ^= bpf_htonl(ssrc);
		iv.w[2] ^= bpf_htonl((__u32)(index >> 16));
		iv.w[3] ^= bpf_htonl((__u32)index << 16);
		slc_aes_ctr(session, &iv, &here->keystream, 0xff, length + 1);
	}
	return 1;
}

/* A large slot, or keystream made here; made: the scratch has it already. */
__noinline long slc_cipher_slow(struct slc_context *ctx, const struct slc_side *side,
				__u32 offset, __u32 length, __u32 made)
{
	struct slc_keystream_large *large;
	struct slc_counters *counters;
	__u32 program = SLC_PROGRAM;
	struct slc_scratch *here;

	counters = bpf_map_lookup_elem(&verdicts, &program);
	if (!side || !counters)
		return SLC_TORN;
	if (!made) {
		large = slc_ring_large(side, length);
		if (large) {
			counters->event[SLC_KEYSTREAM_HIT]++;
			return slc_xor_large(ctx, large, SLC_TAG(side->ring, side->index), offset, length);
		}
		if (!slc_make(side, length))
			return SLC_TORN;
	}
	counters->event[SLC_KEYSTREAM_MISS]++;
	here = slc_scratch();
	if (!here)
		return SLC_TORN;
	return slc_xor_large(ctx, &here->keystream, SLC_TAG(1, side->index), offset, length);
}

/* XORs the payload with the side's keystream. */
static __always_inline long slc_cipher(struct slc_context *ctx, const struct slc_side *side,
				       struct slc_counters *counters,
				       __u32 offset, __u32 length, __u32 made)
{
	struct slc_keystream *small = made ? NULL : slc_ring_small(side, length);

	if (!small)
		return slc_cipher_slow(ctx, side, offset, length, made);
	counters->event[SLC_KEYSTREAM_HIT]++;
	return slc_xor_small(ctx, small, SLC_TAG(side->ring, side->index), offset, length);
}

#endif
