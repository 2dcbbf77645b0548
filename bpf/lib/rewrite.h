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

/* The fixed RTP header (RFC 3550 5.1) as the stream's output has it. */
static __always_inline int slc_header(struct slc_context *ctx, const struct slc_stream *stream,
			  const struct slc_packet *packet)
{
	__u64 at, index;
	const void *end;
	__u8 *p;

	at = packet->rtp;
	if (at > SLC_OFFSET_LIMIT)
		return 0;
	index = packet->index + stream->index_offset;
	p = slc_data(ctx) + at;
	end = slc_end(ctx);
	slc_opaque(p);
	if ((void *)(p + 12) > end)
		return 0;
	if (packet->extension && (stream->flags & SLC_STRIP_EXTENSION))
		p[0] &= ~0x10;
	p[1] = (p[1] & 0x80) | (stream->payload[packet->type & 0x7f] & 0x7f);
	*(__u16 *)(p + 2) = bpf_htons((__u16)index);
	*(__u32 *)(p + 4) = bpf_htonl(packet->timestamp + stream->timestamp_add);
	*(__u32 *)(p + 8) = bpf_htonl(stream->out_ssrc);
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
 * partial would never be completed. sum is over the RTP payload and tag.
 */
static __always_inline int slc_rewrite(struct slc_context *ctx, const struct slc_stream *stream,
			   const struct slc_packet *packet, const struct slc_route *route, long sum)
{
	__u64 l3, header, length, pseudo;
	struct udphdr *udp;
	const __u32 *word;
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
	if (packet->family == 4) {
		struct iphdr *ip = p;

		if ((const void *)(ip + 1) + 20 > end)
			return 0;
		udp = (void *)(ip + 1);
		ip->tot_len = bpf_htons(length + sizeof(*ip));
		ip->ttl--;
		ip->saddr = *(__u32 *)(stream->source + 12);
		ip->daddr = *(__u32 *)(stream->destination + 12);
		ip->check = 0;
		ip->check = ~slc_fold(slc_words((__u32 *)ip, 5));
		pseudo += (__u64)ip->saddr + ip->daddr;
	} else {
		struct ipv6hdr *ip = p;

		if ((const void *)(ip + 1) + 20 > end)
			return 0;
		udp = (void *)(ip + 1);
		ip->payload_len = bpf_htons(length);
		ip->hop_limit--;
		__builtin_memcpy(&ip->saddr, stream->source, 16);
		__builtin_memcpy(&ip->daddr, stream->destination, 16);
		pseudo += slc_words((const __u32 *)stream->source, 4) +
			  slc_words((const __u32 *)stream->destination, 4);
	}
	udp->source = stream->source_port;
	udp->dest = stream->destination_port;
	udp->len = bpf_htons(length);
	udp->check = 0;
	word = (const __u32 *)udp;
	sum += word[0] + (__u64)word[1] + word[2] + (__u64)word[3] + word[4];
	word += 5;
	header = packet->header;
	for (__u64 i = 12; i < SLC_LONGEST_HEADER; i += 4) {
		if (i >= header)
			break;
		slc_opaque(word);
		if ((const void *)(word + 1) > end)
			return 0;
		sum += *word++;
	}
	slc_checksum(ctx, packet, udp, slc_fold(sum + pseudo), slc_fold(pseudo));
	return 1;
}

#endif
