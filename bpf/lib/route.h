/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The way out: decided before any state changes. */
#ifndef SLC_ROUTE_H
#define SLC_ROUTE_H

#include "index.h"

#define SLC_AF_INET 2
#define SLC_AF_INET6 10

struct slc_route {
	__u32 ifindex;		/* of the route */
	__u32 link;		/* device to transmit on */
	__u16 vlan;		/* tag to add, 0 none */
	__u8 resolved;		/* the addresses below are valid */
	__u8 fragment;		/* longer than the MTU */
	__u8 destination[6];
	__u8 source[6];
	__u16 mtu;
	__u16 redirect;		/* never XDP_TX */
};

static __always_inline __u32 slc_ip_length(__u32 family)
{
	return family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
}

/* The look-up itself; what its answer means differs between XDP and tc. */
static __always_inline int slc_fib(struct slc_context *ctx, const struct slc_stream *stream,
				   const struct slc_packet *packet, struct slc_route *route)
{
	struct bpf_fib_lookup fib = {};
	__u32 length = 8 + packet->out_length;
	int answer;

	fib.l4_protocol = IPPROTO_UDP;
	fib.sport = stream->source_port;
	fib.dport = stream->destination_port;
	fib.ifindex = stream->route_ifindex ? stream->route_ifindex : slc_ingress(ctx);
	if (packet->family == 4) {
		fib.family = SLC_AF_INET;
		fib.ipv4_src = *(__u32 *)(stream->source + 12);
		fib.ipv4_dst = *(__u32 *)(stream->destination + 12);
	} else {
		fib.family = SLC_AF_INET6;
		__builtin_memcpy(fib.ipv6_src, stream->source, 16);
		__builtin_memcpy(fib.ipv6_dst, stream->destination, 16);
	}
	fib.tot_len = length + slc_ip_length(packet->family);
	answer = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);
	route->ifindex = fib.ifindex;
	route->mtu = fib.tot_len;
	__builtin_memcpy(route->destination, fib.dmac, 6);
	__builtin_memcpy(route->source, fib.smac, 6);
	return answer;
}

#endif
