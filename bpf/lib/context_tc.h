/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The library's view of a socket buffer at tc ingress. */
#ifndef SLC_CONTEXT_TC_H
#define SLC_CONTEXT_TC_H

#include "common.h"

#define SLC_PROGRAM SLC_TC
#define slc_context __sk_buff

#define slc_data(ctx) ((void *)(long)(ctx)->data)
#define slc_end(ctx) ((void *)(long)(ctx)->data_end)

static __always_inline __u32 slc_frame(struct __sk_buff *ctx)
{
	return ctx->len;
}

static __always_inline __u32 slc_ingress(struct __sk_buff *ctx)
{
	return ctx->ifindex;
}

static __always_inline long slc_load(struct __sk_buff *ctx, __u32 offset, void *to, __u32 length)
{
	return bpf_skb_load_bytes(ctx, offset, to, length);
}

static __always_inline long slc_store(struct __sk_buff *ctx, __u32 offset, void *from, __u32 length)
{
	return bpf_skb_store_bytes(ctx, offset, from, length, 0);
}

static __always_inline long slc_resize(struct __sk_buff *ctx, __s32 delta)
{
	return bpf_skb_change_tail(ctx, ctx->len + delta, 0);
}

/* Makes the buffer one writable piece. */
static __always_inline int slc_linear(struct __sk_buff *ctx)
{
	return bpf_skb_pull_data(ctx, ctx->len);
}

static __always_inline int slc_several(struct __sk_buff *ctx)
{
	return ctx->gso_segs > 1;
}

#endif
