#include "ptx.h"
static u64 dev_table;
static _Alignas(8) u32 init_table[4] = {10ll, 20ll, 30ll, 40ll};
static void fn_twice(emu_thread *T, char *param_r_out, char *param_r_in);
#undef STATIC
#define STATIC 256u

static void fn_twice(emu_thread *T, char *param_r_out, char *param_r_in)
{
    u32 R_x;
    u64 cc = 0;
    R_x = C(u32, param_r_in + 0);
    R_x = ((u32)(s32)(((s32)R_x) + ((s32)R_x)));
    C(u32, param_r_out + 0) = R_x;
    return;
    return;
}
#undef STATIC
#define STATIC 256u

static void k_threads(emu_thread *T)
{
    u16 R_h0, R_h1;
    u32 R_r0, R_r1, R_r2, R_r3, R_r4, R_r5, R_r6, R_r7, R_r8, R_r9, R_r10, R_r11;
    u32 R_r12, R_r13, R_r14, R_r15, R_r16, R_r17, R_r18, R_r19, R_r20, R_r21, R_r22, R_r23;
    u32 R_r24, R_r25, R_r26, R_r27, R_r28, R_r29, R_r30, R_r31, R_r32, R_r33, R_r34, R_r35;
    u32 R_r36, R_r37, R_r38, R_r39;
    u64 R_d0, R_d1, R_d2, R_d3, R_d4, R_d5, R_d6, R_d7, R_d8, R_d9, R_d10, R_d11;
    u8 R_p, R_q;
    _Alignas(16) char local_depot[16];
    _Alignas(16) char param_in[16];
    _Alignas(16) char param_out[16];
    u64 cc = 0;
    R_d0 = C(u64, T->params + 0);
    R_d11 = C(u64, T->params + 8);
    R_d1 = R_d0;
    R_r0 = ((u32)T->tid[0]);
    R_d2 = ((u64)R_r0 * (u64)((u32)128ll));
    R_d1 = ((u64)(s64)(((s64)R_d1) + ((s64)R_d2)));
    R_r1 = ((u32)T->lane);
    R_r2 = emu_shfl(T, 0, R_r0, ((u32)1ll), ((u32)0ll), ((u32)-1ll), 0);
    { u32 ok_, v_ = emu_shfl(T, 1, R_r0, ((u32)2ll), ((u32)31ll), ((u32)-1ll), &ok_); R_r3 = v_; R_p = (u8)ok_; }
    R_r4 = (R_p ? ((u32)1ll) : ((u32)0ll));
    R_r5 = emu_shfl(T, 2, R_r0, ((u32)16ll), ((u32)31ll), ((u32)-1ll), 0);
    G(u32, R_d1 + 0ll, 16) = R_r2; G(u32, R_d1 + 4ll, 4) = R_r3; G(u32, R_d1 + 8ll, 4) = R_r4; G(u32, R_d1 + 12ll, 4) = R_r5;
    R_r2 = emu_shfl(T, 3, R_r0, ((u32)7ll), ((u32)31ll), ((u32)-1ll), 0);
    R_p = (R_r1 == ((u32)3ll));
    R_q = (emu_vote(T, 1, R_p, ((u32)-1ll)) != 0);
    R_r3 = (R_q ? ((u32)1ll) : ((u32)0ll));
    R_q = (emu_vote(T, 0, R_p, ((u32)-1ll)) != 0);
    R_r4 = (R_q ? ((u32)1ll) : ((u32)0ll));
    R_r5 = emu_vote(T, 3, R_p, ((u32)-1ll));
    G(u32, R_d1 + 16ll, 8) = R_r2; G(u32, R_d1 + 20ll, 4) = R_r3;
    G(u32, R_d1 + 24ll, 8) = R_r4; G(u32, R_d1 + 28ll, 4) = R_r5;
    R_q = (emu_vote(T, 2, R_p, ((u32)-1ll)) != 0);
    R_r2 = (R_q ? ((u32)1ll) : ((u32)0ll));
    R_r6 = (u32)(R_r1 & ((u32)3ll));
    R_r3 = emu_match_any(T, R_r6, ((u32)-1ll));
    R_r4 = emu_redux(T, 0, R_r0, ((u32)-1ll));
    R_r5 = emu_activemask(T);
    G(u32, R_d1 + 32ll, 16) = R_r2; G(u32, R_d1 + 36ll, 4) = R_r3; G(u32, R_d1 + 40ll, 4) = R_r4; G(u32, R_d1 + 44ll, 4) = R_r5;
    R_r7 = ((u32)0ull);
    R_r8 = shl_32(R_r0, ((u32)2ll));
    R_r9 = ((u32)(s32)(((s32)R_r7) + ((s32)R_r8)));
    S(u32, ((u64)R_r9) + 0, 4) = R_r0;
    emu_barrier(T, ((u32)0ll), 0);
    R_r10 = ((u32)(s32)(((s32)252ll) - ((s32)R_r8)));
    R_r10 = ((u32)(s32)(((s32)R_r7) + ((s32)R_r10)));
    R_r2 = S(u32, ((u64)R_r10) + 0, 4);
    R_r3 = emu_barrier_red(T, ((u32)0ll), 0, 0, R_p);
    emu_barrier(T, ((u32)1ll), ((u32)64ll));
    emu_warpsync(T, ((u32)-1ll));
    R_q = (emu_barrier_red(T, ((u32)0ll), 0, 1, R_p) != 0);
    R_r4 = (R_q ? ((u32)1ll) : ((u32)0ll));
    R_r5 = ((u32)256ull);
    G(u32, R_d1 + 48ll, 16) = R_r2; G(u32, R_d1 + 52ll, 4) = R_r3; G(u32, R_d1 + 56ll, 4) = R_r4; G(u32, R_d1 + 60ll, 4) = R_r5;
    { u32 *p_ = &S(u32, ((u64)0ull) + 0, 4), x_ = ((u32)0ll), o_ = *p_; *p_ = o_ + x_; R_r2 = o_; }
    { u32 *p_ = &G(u32, R_d11 + 0ll, 4), x_ = R_r0, o_ = *p_; *p_ = o_ + x_; }
    { s32 *p_ = &G(s32, R_d11 + 4ll, 4), x_ = ((s32)R_r0), o_ = *p_; *p_ = (x_ > o_ ? x_ : o_); }
    { u32 *p_ = &G(u32, R_d11 + 8ll, 4), x_ = ((u32)0ll), y_ = ((u32)99ll), o_ = *p_; *p_ = (o_ == x_ ? y_ : o_); R_r3 = o_; }
    { u32 *p_ = &G(u32, R_d11 + 12ll, 4), x_ = ((u32)9ll), o_ = *p_; *p_ = (o_ >= x_ ? 0 : o_ + 1); R_r4 = o_; }
    { u32 *p_ = &G(u32, R_d11 + 16ll, 4), x_ = ((u32)5ll), o_ = *p_; *p_ = x_; R_r5 = o_; }
    R_r2 = ((u32)0ll);
    G(u32, R_d1 + 64ll, 16) = R_r2; G(u32, R_d1 + 68ll, 4) = R_r2; G(u32, R_d1 + 72ll, 4) = R_r2; G(u32, R_d1 + 76ll, 4) = R_r2;
    ;
    ;
    ;
    ;
    ;
    ;
    ;
    ;
    R_r6 = (u32)(rem_u32(R_r0, ((u32)3ll)));
ts:;
    switch (R_r6) { case 0: goto zero; case 1: goto one; case 2: goto two; }
zero:;
    R_r2 = ((u32)100ll);
    goto joined;
one:;
    R_r2 = ((u32)200ll);
    goto joined;
two:;
    R_r2 = ((u32)300ll);
joined:;
    C(u32, param_in + 0) = R_r0;
    fn_twice(T, param_out, param_in);
    R_r3 = C(u32, param_out + 0);
    R_r6 = (u32)(R_r0 & ((u32)3ll));
    R_d3 = ((u64)R_r6 * (u64)((u32)4ll));
    R_d4 = ((u64)dev_table);
    R_d4 = ((u64)(s64)(((s64)R_d4) + ((s64)R_d3)));
    R_r4 = G(u32, R_d4 + 0ll, 4);
    R_d5 = ((u64)((u64)local_depot - EMU_SHADOW));
    G(u32, R_d5 + 4ll, 4) = R_r0;
    R_r5 = G(u32, R_d5 + 4ll, 4);
    G(u32, R_d1 + 80ll, 16) = R_r2; G(u32, R_d1 + 84ll, 4) = R_r3; G(u32, R_d1 + 88ll, 4) = R_r4; G(u32, R_d1 + 92ll, 4) = R_r5;
    R_r6 = ((u32)2147581954ll);
    { u64 v_ = R_r6; R_h0 = (u16)(v_ >> 0); R_h1 = (u16)(v_ >> 16); }
    R_r2 = (u32)R_h1;
    G(u8, R_d5 + 0ll, 1) = ((u8)R_r6);
    R_r3 = (s32)(G(s8, R_d5 + 0ll, 1));
    R_d6 = (R_d3 + SHARED_BASE);
    R_p = (R_d6 - SHARED_BASE < STATIC + T->dynamic_shared);
    R_r4 = (R_p ? ((u32)1ll) : ((u32)0ll));
    R_r5 = G(u32, R_d1 + 84ll, 4);
    G(u32, R_d1 + 96ll, 16) = R_r2; G(u32, R_d1 + 100ll, 4) = R_r3; G(u32, R_d1 + 104ll, 4) = R_r4; G(u32, R_d1 + 108ll, 4) = R_r5;
    R_r6 = (u32)(R_r0 & ((u32)1ll));
    R_p = (R_r6 != ((u32)0ll));
    if (R_p) { return; }
    R_r2 = ((u32)T->ntid[0]);
    R_r3 = ((u32)((1u << T->lane) - 1));
    R_r4 = ((u32)T->warp);
    R_r5 = ((u32)T->nctaid[0]);
    G(u32, R_d1 + 112ll, 16) = R_r2; G(u32, R_d1 + 116ll, 4) = R_r3; G(u32, R_d1 + 120ll, 4) = R_r4; G(u32, R_d1 + 124ll, 4) = R_r5;
    return;
    return;
}
#undef STATIC
#define STATIC 256u

static void k_stops(emu_thread *T)
{
    u32 R_r0, R_r1;
    u8 R_p;
    u64 cc = 0;
    R_r0 = C(u32, T->params + 0);
    R_p = (R_r0 == ((u32)0ll));
    if (R_p) { emu_trap(T, "the kernel's own"); }
    R_p = (R_r0 == ((u32)1ll));
    if (R_p) { emu_trap(T, "the kernel's own"); }
    return;
    return;
}

static const u32 po_threads[] = {0, 8}, ps_threads[] = {8, 8};
static const u32 po_stops[] = {0}, ps_stops[] = {4};
__attribute__((visibility("default"))) const emu_kernel emu_kernels[] = {{"threads", k_threads, 16, 2, po_threads, ps_threads, 256u, 1}, {"stops", k_stops, 4, 1, po_stops, ps_stops, 256u, 0}};
__attribute__((visibility("default"))) const int emu_kernel_count = 2;
__attribute__((visibility("default"))) const emu_global emu_globals[] = {{"table", init_table, sizeof init_table, &dev_table}};
__attribute__((visibility("default"))) const int emu_global_count = 1;
