/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* From a frame to a bound RTP packet, or the reason why it is none. */
#ifndef SLC_PARSE_H
#define SLC_PARSE_H

#include "common.h"
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#define SLC_CONTINUE SLC_VERDICTS	/* no verdict yet */

struct slc_vlan {
	__be16 tci;
	__be16 proto;
};

static __always_inline int slc_parse_rtp(const void *p, const void *end, struct slc_packet *packet)
{
	const __u8 *octet = p;
	const __u32 *word = p;
	__u32 csrc;

	if (p + 2 > end || packet->length < 2)
		return SLC_UP_NOT_RTP;
	/* RFC 7983 7 */
	if (octet[0] <= 3)
		return SLC_UP_STUN;
	if (octet[0] >= 20 && octet[0] <= 63)
		return SLC_UP_DTLS;
	if (octet[0] < 128 || octet[0] > 191)
		return SLC_UP_NOT_RTP;
	/* RFC 5761 4 */
	if (octet[1] >= 192 && octet[1] <= 223)
		return SLC_UP_RTCP;
	if (p + 12 > end || packet->length < 12)
		return SLC_DROP_MALFORMED;
	packet->type = octet[1] & 0x7f;
	packet->sequence = bpf_ntohs(*(const __u16 *)(p + 2));
	packet->timestamp = bpf_ntohl(word[1]);
	packet->ssrc = bpf_ntohl(word[2]);
	csrc = octet[0] & 15;
	packet->header = 12 + 4 * csrc;
	packet->extension = 0;
	if (octet[0] & 0x10) {
		__u64 at = packet->header;
		const __u16 *field = p + at;

		if ((const void *)(field + 2) > end)
			return SLC_DROP_MALFORMED;
		packet->extension = 4 + 4 * bpf_ntohs(field[1]);
		packet->header += packet->extension;
	}
	if (packet->header > packet->length)
		return SLC_DROP_MALFORMED;
	return SLC_CONTINUE;
}

static __always_inline int slc_parse(struct slc_context *ctx, struct slc_packet *packet)
{
	void *data = slc_data(ctx), *end = slc_end(ctx);
	struct slc_binding_key key = {};
	struct slc_binding *binding;
	struct ethhdr *ether = data;
	struct udphdr *udp;
	__u32 l3 = sizeof(*ether), length, ports;
	__be16 proto;

	if ((void *)(ether + 1) > end)
		return SLC_UP_NOT_IP;
	proto = ether->h_proto;
	if (proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD)) {
		struct slc_vlan *vlan = (void *)(ether + 1);

		if ((void *)(vlan + 1) > end)
			return SLC_UP_NOT_IP;
		if (proto == bpf_htons(ETH_P_8021AD) || SLC_PROGRAM == SLC_TC)
			return SLC_UP_VLAN;	/* at tc the one tag is out of the packet already */
		proto = vlan->proto;
		if (proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD))
			return SLC_UP_VLAN;
		l3 += sizeof(*vlan);
	}
	packet->l3 = l3;
	if (proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data + l3;

		if ((void *)(ip + 1) > end)
			return SLC_UP_LENGTH;
		if (ip->version != 4 || ip->ihl < 5)
			return SLC_UP_LENGTH;
		if (ip->protocol != IPPROTO_UDP)
			return SLC_UP_NOT_UDP;
		if (ip->frag_off & bpf_htons(0x3fff))
			return SLC_UP_FRAGMENT;
		if (ip->ihl > 5)
			return SLC_UP_IP_OPTIONS;
		packet->family = 4;
		packet->hops = ip->ttl;
		length = bpf_ntohs(ip->tot_len) - sizeof(*ip);
		*(__u32 *)(key.local + 12) = ip->daddr;
		*(__u32 *)(key.remote + 12) = ip->saddr;
		key.family = 4;
		udp = (void *)(ip + 1);
		packet->rtp = l3 + sizeof(*ip) + sizeof(*udp);
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data + l3;

		if ((void *)(ip + 1) > end)
			return SLC_UP_LENGTH;
		if (ip->version != 6)
			return SLC_UP_LENGTH;
		if (ip->nexthdr == IPPROTO_FRAGMENT)
			return SLC_UP_FRAGMENT;
		if (ip->nexthdr == IPPROTO_HOPOPTS || ip->nexthdr == IPPROTO_ROUTING ||
		    ip->nexthdr == IPPROTO_DSTOPTS)
			return SLC_UP_IPV6_EXTENSION;
		if (ip->nexthdr != IPPROTO_UDP)
			return SLC_UP_NOT_UDP;
		packet->family = 6;
		packet->hops = ip->hop_limit;
		length = bpf_ntohs(ip->payload_len);
		__builtin_memcpy(key.local, &ip->daddr, 16);
		__builtin_memcpy(key.remote, &ip->saddr, 16);
		key.family = 6;
		udp = (void *)(ip + 1);
		packet->rtp = l3 + sizeof(*ip) + sizeof(*udp);
	} else {
		return SLC_UP_NOT_IP;
	}
	if ((void *)(udp + 1) > end)
		return SLC_UP_LENGTH;
	packet->frame = slc_frame(ctx);
	packet->length = length - sizeof(*udp);
	if (bpf_ntohs(udp->len) != length || length < sizeof(*udp) ||
	    packet->rtp + packet->length > packet->frame)
		return SLC_UP_LENGTH;
	/* both ports in one store, which is how the hash reads them */
	ports = *(__u32 *)udp;
	*(__u32 *)&key.local_port = ports << 16 | ports >> 16;
	binding = bpf_map_lookup_elem(&bindings, &key);
	if (!binding)
		return SLC_UP_UNKNOWN;
	packet->session = binding->session;
	return slc_parse_rtp(udp + 1, end, packet);
}

#endif
