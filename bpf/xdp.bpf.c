//go:build ignore

/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The XDP program: native or generic. What it cannot do it passes to tc. */
#include "lib/context_xdp.h"
#include "lib/route.h"

#define SLC_NO_ROOM SLC_TC_TAIL

static __always_inline void slc_settle(struct xdp_md *ctx, struct slc_packet *packet)
{
}

static __always_inline __u32 slc_checksum(struct xdp_md *ctx, const struct slc_packet *packet,
					  __u32 whole, __u32 pseudo)
{
	whole = ~whole & 0xffff;
	return whole ? whole : 0xffff;
}

static __always_inline int slc_route(struct xdp_md *ctx, const struct slc_stream *stream,
			 const struct slc_packet *packet, struct slc_route *route)
{
	struct slc_interface *interface;
	__u32 ifindex;

	switch (slc_fib(ctx, stream, packet, route)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		break;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		return SLC_TC_NEIGHBOUR;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return SLC_TC_MTU;
	default:
		return SLC_TC_ROUTE;
	}
	ifindex = route->ifindex;
	if (ifindex == stream->out_ifindex) {
		if (stream->flags & SLC_NO_XDP_OUT)
			return SLC_TC_DEVICE;
		route->link = stream->link_ifindex;
		route->vlan = stream->vlan;
		route->redirect = stream->flags & SLC_NO_XDP_TX;
		return SLC_CONTINUE;
	}
	interface = bpf_map_lookup_elem(&interfaces, &ifindex);
	if (!interface) {
		route->link = ifindex;
		route->vlan = 0;
		return SLC_CONTINUE;
	}
	if (interface->flags & SLC_INTERFACE_NO_XDP_OUT)
		return SLC_TC_DEVICE;
	route->link = interface->link_ifindex;
	route->vlan = interface->vlan;
	route->redirect = interface->flags & SLC_INTERFACE_NO_XDP_TX;
	return SLC_CONTINUE;
}

/* Head room for a tag that did not come in. */
static __always_inline int slc_push(struct xdp_md *ctx, struct slc_packet *packet,
				    const struct slc_route *route)
{
	if (!route->vlan || packet->l3 != ETH_HLEN)
		return 0;
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct slc_vlan)))
		return -1;
	packet->pushed = sizeof(struct slc_vlan);
	packet->l3 += sizeof(struct slc_vlan);
	packet->rtp += sizeof(struct slc_vlan);
	packet->frame += sizeof(struct slc_vlan);
	return 0;
}

static __always_inline void slc_unpush(struct xdp_md *ctx, struct slc_packet *packet)
{
	if (packet->pushed)
		bpf_xdp_adjust_head(ctx, packet->pushed);
}

static __always_inline int slc_transmit(struct xdp_md *ctx, const struct slc_packet *packet,
			    const struct slc_route *route)
{
	struct ethhdr *ether;
	__u32 front = 0;
	__s32 tail;
	void *end;

	ether = slc_data(ctx);
	end = slc_end(ctx);
	if (packet->l3 != ETH_HLEN) {
		struct slc_vlan *vlan = (void *)(ether + 1);

		if ((void *)(vlan + 1) > end)
			return XDP_DROP;
		if (route->vlan) {
			ether->h_proto = bpf_htons(ETH_P_8021Q);
			vlan->tci = bpf_htons(route->vlan);
			vlan->proto = bpf_htons(packet->family == 4 ? ETH_P_IP : ETH_P_IPV6);
		} else {
			front = sizeof(*vlan);
			ether = (void *)ether + sizeof(*vlan);
		}
	}
	if ((void *)(ether + 1) > end)
		return XDP_DROP;
	__builtin_memcpy(ether->h_dest, route->destination, ETH_ALEN);
	__builtin_memcpy(ether->h_source, route->source, ETH_ALEN);
	if (!route->vlan)
		ether->h_proto = bpf_htons(packet->family == 4 ? ETH_P_IP : ETH_P_IPV6);
	tail = packet->rtp + packet->out_length - packet->frame - packet->grown;
	if (tail < 0 && bpf_xdp_adjust_tail(ctx, tail))
		return XDP_DROP;
	if (front && bpf_xdp_adjust_head(ctx, front))
		return XDP_DROP;
	if (route->link == ctx->ingress_ifindex && !route->redirect)
		return XDP_TX;
	return bpf_redirect(route->link, 0);
}

#include "lib/forward.h"

SEC("xdp")
int sluice_xdp(struct xdp_md *ctx)
{
	struct slc_scratch *here = slc_scratch();
	int verdict;

	if (!here)
		return XDP_PASS;
	verdict = slc_run(ctx, &here->packet);
	if (verdict == SLC_FORWARDED)
		return here->packet.action;
	return verdict >= SLC_DROP_MALFORMED ? XDP_DROP : XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
