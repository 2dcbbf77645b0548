//go:build ignore

/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The tc program, at ingress: everything of the XDP program, and what that one
 * cannot do: resolve a neighbour, grow any tail, fragment.
 */
#include "lib/context_tc.h"
#include "lib/route.h"
#include <linux/pkt_cls.h>

#define SLC_NO_ROOM SLC_DROP_NO_ROOM
#define SLC_HEADERS 160		/* octets that parsing may look at */

/*
 * A buffer whose checksum is left to the device (CHECKSUM_PARTIAL) wants the
 * pseudo header's sum in the field, any other the whole one. No field tells
 * which it is, but bpf_l4_csum_replace leaves a partial one alone when the
 * change is not in the pseudo header.
 */
static __always_inline void slc_settle(struct __sk_buff *ctx, struct slc_packet *packet)
{
	__u32 at = packet->rtp - sizeof(struct udphdr) + offsetof(struct udphdr, check);
	__u16 before = 0, after = 0;

	bpf_skb_load_bytes(ctx, at, &before, 2);
	bpf_l4_csum_replace(ctx, at, 0, bpf_htons(1), 2);
	bpf_skb_load_bytes(ctx, at, &after, 2);
	packet->partial = before == after;
}

static __always_inline __u32 slc_checksum(struct __sk_buff *ctx, const struct slc_packet *packet,
					  __u32 whole, __u32 pseudo)
{
	if (packet->partial)
		return pseudo;
	whole = ~whole & 0xffff;
	return whole ? whole : 0xffff;
}

static __always_inline int slc_route(struct __sk_buff *ctx, const struct slc_stream *stream,
			 const struct slc_packet *packet, struct slc_route *route)
{
	switch (slc_fib(ctx, stream, packet, route)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		route->resolved = 1;
		return SLC_CONTINUE;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		return SLC_CONTINUE;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return SLC_DROP_MTU;
	case BPF_FIB_LKUP_RET_BLACKHOLE:
	case BPF_FIB_LKUP_RET_UNREACHABLE:
	case BPF_FIB_LKUP_RET_PROHIBIT:
	case BPF_FIB_LKUP_RET_NOT_FWDED:
		return SLC_DROP_NO_ROUTE;
	}
	/* no answer (forwarding is off): the neighbour layer finds the way itself */
	route->ifindex = stream->out_ifindex;
	return route->ifindex ? SLC_CONTINUE : SLC_DROP_NO_ROUTE;
}

static __always_inline int slc_push(struct __sk_buff *ctx, struct slc_packet *packet,
				    const struct slc_route *route)
{
	return 0;
}

static __always_inline void slc_unpush(struct __sk_buff *ctx, struct slc_packet *packet)
{
}

static __always_inline int slc_transmit(struct __sk_buff *ctx, const struct slc_packet *packet,
			    const struct slc_route *route)
{
	struct ethhdr *ether;
	__s32 tail;

	tail = packet->rtp + packet->out_length - packet->frame - packet->grown;
	/* growing forgets a received checksum over the old octets (CHECKSUM_COMPLETE) */
	if (bpf_csum_update(ctx, 0) >= 0) {
		if (bpf_skb_change_tail(ctx, ctx->len + 1, 0))
			return TC_ACT_SHOT;
		tail--;
	}
	if (tail < 0 && bpf_skb_change_tail(ctx, ctx->len + tail, 0))
		return TC_ACT_SHOT;
	if (ctx->vlan_present)
		bpf_skb_vlan_pop(ctx);
	if (!route->resolved)
		return bpf_redirect_neigh(route->ifindex, NULL, 0, 0);
	ether = slc_data(ctx);
	if ((void *)(ether + 1) > slc_end(ctx))
		return TC_ACT_SHOT;
	__builtin_memcpy(ether->h_dest, route->destination, ETH_ALEN);
	__builtin_memcpy(ether->h_source, route->source, ETH_ALEN);
	return bpf_redirect(route->ifindex, 0);
}

#include "lib/forward.h"

SEC("tc")
int sluice_tc(struct __sk_buff *ctx)
{
	struct slc_scratch *here = slc_scratch();
	__u64 linear = (long)ctx->data_end - (long)ctx->data;
	int verdict;

	slc_opaque(linear);
	if (!here)
		return TC_ACT_UNSPEC;
	if (linear < SLC_HEADERS && linear < ctx->len &&
	    (ctx->protocol == bpf_htons(ETH_P_IP) || ctx->protocol == bpf_htons(ETH_P_IPV6)))
		bpf_skb_pull_data(ctx, ctx->len < SLC_HEADERS ? ctx->len : SLC_HEADERS);
	verdict = slc_run(ctx, &here->packet);
	if (verdict == SLC_FORWARDED)
		return here->packet.action;
	/* up means on: other programs of this hook see it too */
	return verdict >= SLC_DROP_MALFORMED ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
