/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The library's view of an XDP frame. */
#ifndef SLC_CONTEXT_XDP_H
#define SLC_CONTEXT_XDP_H

#include "common.h"

#define SLC_PROGRAM SLC_XDP
#define slc_context xdp_md

#define slc_data(ctx) ((void *)(long)(ctx)->data)
#define slc_end(ctx) ((void *)(long)(ctx)->data_end)

static __always_inline __u32 slc_frame(struct xdp_md *ctx)
{
	__u64 octets = (long)ctx->data_end - (long)ctx->data;

	slc_opaque(octets);	/* or clang subtracts in 32 bits, which pointers may not */
	return octets;
}

static __always_inline __u32 slc_ingress(struct xdp_md *ctx)
{
	return ctx->ingress_ifindex;
}

static __always_inline long slc_load(struct xdp_md *ctx, __u32 offset, void *to, __u32 length)
{
	return bpf_xdp_load_bytes(ctx, offset, to, length);
}

static __always_inline long slc_store(struct xdp_md *ctx, __u32 offset, void *from, __u32 length)
{
	return bpf_xdp_store_bytes(ctx, offset, from, length);
}

static __always_inline long slc_resize(struct xdp_md *ctx, __s32 delta)
{
	return bpf_xdp_adjust_tail(ctx, delta);
}

/* A frame is one piece, and one packet. */
static __always_inline int slc_linear(struct xdp_md *ctx)
{
	return 0;
}

static __always_inline int slc_several(struct xdp_md *ctx)
{
	return 0;
}

#endif
