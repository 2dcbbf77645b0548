/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Authentication tags: HMAC-SHA1-80 (RFC 3711 4.2.1) and GCM (RFC 7714 8.2). */
#ifndef SLC_AUTH_H
#define SLC_AUTH_H

#include "cipher.h"
#include "ghash.h"
#include "sha1.h"

struct slc_tag {
	__u64 first;		/* octets 0..7 as they stand in memory */
	__u64 second;		/* octets 8.., of HMAC two */
};

static __always_inline __u32 slc_tag_length(__u32 profile)
{
	if (profile == SLC_AEAD_AES_128_GCM)
		return 16;
	return profile == SLC_PLAIN ? 0 : 10;
}

/*
 * GCM's E(K, counter 1), from the ring or made together with the keystream.
 * Returns 0 ring, 1 made, negative torn.
 */
static __always_inline int slc_mask(const struct slc_side *side, __u32 length, struct slc_tag *mask)
{
	struct slc_keystream *small = slc_ring_small(side, length);
	struct slc_keystream_large *large;
	struct slc_scratch *here;

	if (small) {
		mask->first = slc_volatile((__u64 *)small->mask);
		mask->second = slc_volatile((__u64 *)small->mask + 1);
		if (slc_volatile(&small->tag) == SLC_TAG(side->ring, side->index))
			return 0;
	}
	large = slc_ring_large(side, length);
	if (large) {
		mask->first = slc_volatile((__u64 *)large->mask);
		mask->second = slc_volatile((__u64 *)large->mask + 1);
		if (slc_volatile(&large->tag) == SLC_TAG(side->ring, side->index))
			return 0;
	}
	here = slc_scratch();
	if (!here || !slc_make(side, length))
		return -1;
	mask->first = *(__u64 *)here->keystream.mask;
	mask->second = *(__u64 *)(here->keystream.mask + 8);
	return 1;
}

/* Replaces the mask in tag by the tag over header and payload. */
static __always_inline int slc_tag_gcm(struct slc_context *ctx, const struct slc_side *side,
				       const struct slc_packet *packet, struct slc_tag *tag)
{
	struct slc_session *session = slc_keys(side);
	struct slc_ghash hash;

	if (!session || !slc_ghash(ctx, session, packet, &hash))
		return 0;
	tag->first ^= bpf_cpu_to_be64(hash.high);
	tag->second ^= bpf_cpu_to_be64(hash.low);
	return 1;
}

/* The HMAC over header, payload and roll-over counter. */
__noinline int slc_tag_hmac(struct slc_context *ctx, const struct slc_side *side,
			    const struct slc_packet *packet, struct slc_tag *tag)
{
	struct slc_session *session;
	struct slc_scratch *here;
	struct slc_sha1 state;
	__u64 length, chunks, at;
	__u8 *message;

	if (!side || !packet || !tag)
		return 0;
	session = slc_keys(side);
	here = slc_scratch();
	if (!session || !here)
		return 0;
	length = packet->header + packet->payload;
	if (length < 12)
		return 0;
	slc_opaque(length);
	if (length > SLC_LONGEST)
		return 0;
	if (slc_load(ctx, packet->rtp, here->message, length))
		return 0;
	message = here->message + length;
	*(__u32 *)message = bpf_htonl((__u32)(side->index >> 16));
	*(__u64 *)(message + 4) = 0x80;
	for (int i = 12; i < 76; i += 8)
		*(__u64 *)(message + i) = 0;
	chunks = (length + 4 + 9 + 63) / 64;
	at = chunks * 64 - 8;
	slc_opaque(at);
	if (at > SLC_LONGEST + 72)
		return 0;
	*(__u64 *)(here->message + at) = bpf_cpu_to_be64((length + 4 + 64) * 8);

	state.h[0] = session->hmac_inner[0];
	state.h[1] = session->hmac_inner[1];
	state.h[2] = session->hmac_inner[2];
	state.h[3] = session->hmac_inner[3];
	state.h[4] = session->hmac_inner[4];
	for (__u64 i = 0; i < (SLC_LONGEST + 127) / 64; i++) {
		if (i >= chunks)
			break;
		slc_sha1_block(&state, (const struct slc_chunk *)(here->message + i * 64));
	}
	/* the outer hash: 20 octets after its pad */
	*(__u32 *)(here->message) = bpf_htonl(state.h[0]);
	*(__u32 *)(here->message + 4) = bpf_htonl(state.h[1]);
	*(__u32 *)(here->message + 8) = bpf_htonl(state.h[2]);
	*(__u32 *)(here->message + 12) = bpf_htonl(state.h[3]);
	*(__u32 *)(here->message + 16) = bpf_htonl(state.h[4]);
	*(__u32 *)(here->message + 20) = 0x80;
	for (int i = 24; i < 56; i += 8)
		*(__u64 *)(here->message + i) = 0;
	*(__u64 *)(here->message + 56) = bpf_cpu_to_be64((64 + 20) * 8);
	state.h[0] = session->hmac_outer[0];
	state.h[1] = session->hmac_outer[1];
	state.h[2] = session->hmac_outer[2];
	state.h[3] = session->hmac_outer[3];
	state.h[4] = session->hmac_outer[4];
	slc_sha1_block(&state, (const struct slc_chunk *)here->message);
	tag->first = bpf_cpu_to_be64((__u64)state.h[0] << 32 | state.h[1]);
	tag->second = bpf_htons(state.h[2] >> 16);
	return 1;
}

/* Is the packet's tag right? Changes nothing in the packet or the state. */
static __always_inline int slc_verify(struct slc_context *ctx, const struct slc_stream *stream,
			  struct slc_packet *packet)
{
	struct slc_side side = {};
	struct slc_tag tag = {};
	const void *end, *p;
	__u64 at, differs;
	int made;

	slc_side_in(&side, stream, packet);
	if (side.profile == SLC_AEAD_AES_128_GCM) {
		made = slc_mask(&side, packet->payload, &tag);
		if (made < 0)
			return SLC_DROP_TORN;
		packet->made = made;
		if (!slc_tag_gcm(ctx, &side, packet, &tag))
			return SLC_DROP_TORN;
	} else if (!slc_tag_hmac(ctx, &side, packet, &tag)) {
		return SLC_DROP_TORN;
	}
	at = packet->rtp + packet->header + packet->payload;
	if (at > SLC_OFFSET_LIMIT)
		return SLC_DROP_TORN;
	p = slc_data(ctx) + at;
	end = slc_end(ctx);
	slc_opaque(p);
	if (p + 10 > end)
		return SLC_DROP_TORN;
	differs = tag.first ^ *(__u64 *)p;
	if (side.profile == SLC_AEAD_AES_128_GCM) {
		slc_opaque(p);
		if (p + 16 > end)
			return SLC_DROP_TORN;
		differs |= tag.second ^ *(__u64 *)(p + 8);
	} else {
		differs |= tag.second ^ *(__u16 *)(p + 8);
	}
	slc_opaque(differs);
	return differs ? SLC_DROP_AUTH : SLC_CONTINUE;
}

/*
 * Encrypts the payload and writes the tag behind it. The index is already
 * taken. Returns the sum over both, or SLC_TORN.
 */
static __always_inline long slc_protect(struct slc_context *ctx, const struct slc_stream *stream,
					const struct slc_packet *packet,
					struct slc_counters *counters)
{
	struct slc_side side = {};
	struct slc_tag tag = {};
	const void *end;
	void *p;
	int made = 0;
	long sum, sum_tag;
	__u64 at;

	slc_side_out(&side, stream, packet);
	if (side.profile == SLC_AEAD_AES_128_GCM) {
		made = slc_mask(&side, packet->payload, &tag);
		if (made < 0)
			return SLC_TORN;
	}
	sum = slc_cipher(ctx, &side, counters, packet->rtp + packet->header, packet->payload, made);
	if (sum < 0)
		return SLC_TORN;
	if (side.profile == SLC_AEAD_AES_128_GCM) {
		if (!slc_tag_gcm(ctx, &side, packet, &tag))
			return SLC_TORN;
	} else if (!slc_tag_hmac(ctx, &side, packet, &tag)) {
		return SLC_TORN;
	}
	at = packet->rtp + packet->header + packet->payload;
	if (at > SLC_OFFSET_LIMIT)
		return SLC_TORN;
	p = slc_data(ctx) + at;
	end = slc_end(ctx);
	slc_opaque(p);
	if (p + 10 > end)
		return SLC_TORN;
	*(__u64 *)p = tag.first;
	*(__u16 *)(p + 8) = tag.second;
	if (side.profile == SLC_AEAD_AES_128_GCM) {
		slc_opaque(p);
		if (p + 16 > end)
			return SLC_TORN;
		*(__u64 *)(p + 8) = tag.second;
	}
	/* keys wiped meanwhile: the packet must not leave */
	if (!slc_keys(&side))
		return SLC_TORN;
	sum_tag = (tag.first >> 32) + (__u32)tag.first + (tag.second >> 32) + (__u32)tag.second;
	/* behind a payload of odd length every octet stands in the other half */
	if (packet->payload & 1) {
		sum_tag = slc_fold(sum_tag);
		sum_tag = (sum_tag & 0xff) << 8 | sum_tag >> 8;
	}
	return sum + sum_tag;
}

#endif
