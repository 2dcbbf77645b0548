/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Headers of the packet that goes out. */
#ifndef SLC_REWRITE_H
#define SLC_REWRITE_H

#include "cipher.h"
#include "route.h"

/* Takes the RFC 8285 block out: the payload moves forward, the X bit goes with slc_header. */
__noinline int slc_strip(struct slc_context *ctx, struct slc_packet *packet)
{
	struct slc_scratch *here = slc_scratch();
	__u64 last;
	__u32 from;

	if (!here || !packet)
		return 0;
	from = packet->rtp + packet->header;
	/* one less than the length: its minimum of 1 must be plain to the verifier of 6.1 */
	last = (__u64)packet->payload - 1;
	slc_opaque(last);
	if (last < SLC_KEYSTREAM_LARGE) {
		if (slc_load(ctx, from, here->message, last + 1) ||
		    slc_store(ctx, from - packet->extension, here->message, last + 1))
			return 0;
	}
	packet->header -= packet->extension;
	return 1;
}

/*
 * Headers are written a word at a time, and their sums taken from the registers:
 * a load that spans two fresh stores would wait for both.
 */

/* The fixed RTP header (RFC 3550 5.1) as the stream's output has it; its sum into *sum. */
static __always_inline int slc_header(struct slc_context *ctx, const struct slc_stream *stream,
				      const struct slc_packet *packet, __u64 *sum)
{
	__u64 at, first;
	const void *end;
	__u32 ssrc;
	void *p;

	at = packet->rtp;
	if (at > SLC_OFFSET_LIMIT)
		return 0;
	p = slc_data(ctx) + at;
	end = slc_end(ctx);
	slc_opaque(p);
	if (p + 12 > end)
		return 0;
	first = *(__u16 *)p & ~0x7f00;
	if (packet->extension && (stream->flags & SLC_STRIP_EXTENSION))
		first &= ~0x10;
	first |= (__u64)(stream->payload[packet->type & 0x7f] & 0x7f) << 8;
	first |= (__u64)bpf_htons((__u16)(packet->index + stream->index_offset)) << 16;
	first |= (__u64)bpf_htonl(packet->timestamp + stream->timestamp_add) << 32;
	ssrc = bpf_htonl(stream->out_ssrc);
	*(__u64 *)p = first;
	*(__u32 *)(p + 8) = ssrc;
	*sum = (first >> 32) + (__u32)first + ssrc;
	return 1;
}

static __always_inline __u64 slc_words(const __u32 *p, int words)
{
	__u64 sum = 0;

	for (int i = 0; i < words; i++)
		sum += p[i];
	return sum;
}

/*
 * IP and UDP, with the whole UDP checksum: one that a local sender left
 * partial would never be completed. sum is over the fixed RTP header, payload
 * and tag.
 */
static __always_inline int slc_rewrite(struct slc_context *ctx, const struct slc_stream *stream,
				       const struct slc_packet *packet, const struct slc_route *route,
				       __u64 sum)
{
	__u64 l3, header, length, pseudo, words;
	__u32 first, third, ports, *ip;
	struct udphdr *udp;
	const void *end;
	void *p;

	l3 = packet->l3;
	if (l3 > 18)
		return 0;
	p = slc_data(ctx) + l3;
	end = slc_end(ctx);
	slc_opaque(p);
	length = packet->out_length + sizeof(*udp);
	pseudo = bpf_htons(length) + bpf_htons(IPPROTO_UDP);
	ip = p;
	if (packet->family == 4) {
		__u32 source = *(__u32 *)(stream->source + 12);
		__u32 destination = *(__u32 *)(stream->destination + 12);

		udp = p + sizeof(struct iphdr);
		if ((const void *)(udp + 1) > end)
			return 0;
		first = (ip[0] & 0xffff) | (__u32)bpf_htons(length + sizeof(struct iphdr)) << 16;
		third = (ip[2] & 0xffff) - 1;	/* TTL, which is above 1, is the low octet */
		pseudo += (__u64)source + destination;
		words = (__u64)first + ip[1] + third + source + destination;
		third |= (__u32)(__u16)~slc_fold(words) << 16;
		ip[0] = first;
		ip[2] = third;
		ip[3] = source;
		ip[4] = destination;
	} else {
		const __u64 *source = (const __u64 *)stream->source;
		const __u64 *destination = (const __u64 *)stream->destination;
		__u64 *to = p + 8;

		udp = p + sizeof(struct ipv6hdr);
		if ((const void *)(udp + 1) > end)
			return 0;
		ip[1] = (bpf_htons(length) | (ip[1] & 0xffff0000)) - 0x1000000;
		to[0] = source[0];
		to[1] = source[1];
		to[2] = destination[0];
		to[3] = destination[1];
		pseudo += slc_words((const __u32 *)source, 4) + slc_words((const __u32 *)destination, 4);
	}
	ports = *(const __u32 *)&stream->source_port;
	sum += ports + (__u64)bpf_htons(length);
	header = packet->header;
	if (header > 12) {
		const __u32 *word = (const void *)(udp + 1) + 12;

		for (__u64 i = 12; i < SLC_LONGEST_HEADER; i += 4) {
			if (i >= header)
				break;
			slc_opaque(word);
			if ((const void *)(word + 1) > end)
				return 0;
			sum += *word++;
		}
	}
	*(__u32 *)udp = ports;
	*((__u32 *)udp + 1) = bpf_htons(length) |
		slc_checksum(ctx, packet, slc_fold(sum + pseudo), slc_fold(pseudo)) << 16;
	return 1;
}

#endif
