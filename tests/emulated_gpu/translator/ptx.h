/* What translated kernels are made of. */
#include <math.h>
#include <string.h>
#include "emulated.h"
typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64; typedef unsigned __int128 u128;
typedef int8_t s8; typedef int16_t s16; typedef int32_t s32; typedef int64_t s64; typedef __int128 s128;
typedef float f32; typedef double f64; typedef _Float16 f16;
#define I static inline __attribute__((always_inline, unused))
#define BIT(NAME, A, B) I B NAME(A x) { B y; memcpy(&y, &x, sizeof y); return y; }
BIT(f2u, f32, u32) BIT(u2f, u32, f32) BIT(d2u, f64, u64) BIT(u2d, u64, f64) BIT(h2u, f16, u16) BIT(u2h, u16, f16)
I f32 ftz(f32 x) { return __builtin_fabsf(x) < 1.17549435e-38f ? __builtin_copysignf(0.0f, x) : x; }
/* memory: a misaligned address ends the kernel as on a GPU */
I void aligned(emu_thread *T, u64 a, u64 n) { if (__builtin_expect(a & (n - 1), 0)) emu_trap(T, "misaligned address"); }
#define G(type, a, n) (*({ u64 at_ = (a); aligned(T, at_, n); (type *)(at_ + EMU_SHADOW); }))
#define S(type, a, n) (*({ u64 at_ = (u32)(a); if (__builtin_expect(at_ + sizeof(type) > STATIC + T->dynamic_shared || (at_ & (n - 1)), 0)) \
    emu_trap(T, "an address beyond shared memory, or misaligned"); (type *)(T->shared + at_); }))
#define C(type, p) (*(type *)(p))
#define SHARED_BASE ((u64)T->shared - EMU_SHADOW)
/* division by zero is not defined in PTX; here it gives all ones */
#define DIV(t) I t div_##t(t a, t b) { return b == 0 ? (t)-1 : (t)(b == (t)-1 && (t)-1 < 0 ? (t)(0 - a) : a / b); } \
               I t rem_##t(t a, t b) { return b == 0 ? a : (t)(b == (t)-1 && (t)-1 < 0 ? 0 : a % b); }
DIV(u16) DIV(u32) DIV(u64) DIV(s16) DIV(s32) DIV(s64)
I u32 shl_32(u32 a, u32 n) { return n > 31 ? 0 : a << n; }
I u64 shl_64(u64 a, u32 n) { return n > 63 ? 0 : a << n; }
I u16 shl_16(u16 a, u32 n) { return n > 15 ? 0 : a << n; }
I u32 shr_u32(u32 a, u32 n) { return n > 31 ? 0 : a >> n; }
I u64 shr_u64(u64 a, u32 n) { return n > 63 ? 0 : a >> n; }
I u16 shr_u16(u16 a, u32 n) { return n > 15 ? 0 : a >> n; }
I s32 shr_s32(s32 a, u32 n) { return a >> (n > 31 ? 31 : n); }
I s64 shr_s64(s64 a, u32 n) { return a >> (n > 63 ? 63 : n); }
I s16 shr_s16(s16 a, u32 n) { return a >> (n > 15 ? 15 : n); }
I f32 min_f32(f32 a, f32 b) { return a != a ? b : b != b ? a : a == b ? (__builtin_signbit(a) ? a : b) : a < b ? a : b; }
I f32 max_f32(f32 a, f32 b) { return a != a ? b : b != b ? a : a == b ? (__builtin_signbit(a) ? b : a) : a > b ? a : b; }
I f64 min_f64(f64 a, f64 b) { return a != a ? b : b != b ? a : a == b ? (__builtin_signbit(a) ? a : b) : a < b ? a : b; }
I f64 max_f64(f64 a, f64 b) { return a != a ? b : b != b ? a : a == b ? (__builtin_signbit(a) ? b : a) : a > b ? a : b; }
/* a float that becomes an integer: rounded before, then held to the range; NaN is 0 */
#define TO(t, low, high) I t to_##t(f64 x) { return x != x ? 0 : x <= (f64)(low) ? (t)(low) : x >= (f64)(high) ? (t)(high) : (t)x; }
TO(s8, INT8_MIN, INT8_MAX) TO(s16, INT16_MIN, INT16_MAX) TO(s32, INT32_MIN, INT32_MAX) TO(s64, INT64_MIN, INT64_MAX)
TO(u8, 0, UINT8_MAX) TO(u16, 0, UINT16_MAX) TO(u32, 0, UINT32_MAX) TO(u64, 0, UINT64_MAX)
I u32 popc_32(u32 a) { return __builtin_popcount(a); }
I u32 popc_64(u64 a) { return __builtin_popcountll(a); }
I u32 clz_32(u32 a) { return a ? __builtin_clz(a) : 32; }
I u32 clz_64(u64 a) { return a ? __builtin_clzll(a) : 64; }
I u32 brev_32(u32 a) { u32 r = 0; for (int i = 0; i < 32; i++) r |= (a >> i & 1) << (31 - i); return r; }
I u64 brev_64(u64 a) { u64 r = 0; for (int i = 0; i < 64; i++) r |= (a >> i & 1) << (63 - i); return r; }
I u32 bfind_u32(u32 a) { return a ? 31 - __builtin_clz(a) : ~0u; }
I u32 bfind_s32(s32 a) { return bfind_u32(a < 0 ? ~a : a); }
I u32 bfind_u64(u64 a) { return a ? 63 - __builtin_clzll(a) : ~0u; }
I u32 bfind_s64(s64 a) { return bfind_u64(a < 0 ? ~a : a); }
I u64 bfe(u64 a, u32 pos, u32 len, int width, int sign) {
    pos &= 255; len &= 255;
    u32 top = pos + len - 1 < (u32)width - 1 ? pos + len - 1 : width - 1;
    u64 s = !sign || !len ? 0 : a >> top & 1, r = s ? ~0ull : 0;
    for (u32 i = 0; i < len && i < (u32)width; i++) { u64 b = pos + i < (u32)width ? a >> (pos + i) & 1 : s; r = (r & ~(1ull << i)) | b << i; }
    return r;
}
I u64 bfi(u64 a, u64 b, u32 pos, u32 len, int width) {
    pos &= 255; len &= 255;
    for (u32 i = 0; i < len && pos + i < (u32)width; i++) b = (b & ~(1ull << (pos + i))) | (a >> i & 1) << (pos + i);
    return b;
}
I u32 prmt(u32 a, u32 b, u32 c) {
    u64 v = (u64)b << 32 | a; u32 r = 0;
    for (int i = 0; i < 4; i++) { u32 s = c >> (4 * i) & 15; u32 byte = v >> (8 * (s & 7)) & 255; if (s & 8) byte = byte & 128 ? 255 : 0; r |= byte << (8 * i); }
    return r;
}
I u32 shf_l(u32 a, u32 b, u32 n, int wrap) { n = wrap ? n & 31 : n > 32 ? 32 : n; return (u32)(((u64)b << 32 | a) << n >> 32) ; }
I u32 shf_r(u32 a, u32 b, u32 n, int wrap) { n = wrap ? n & 31 : n > 32 ? 32 : n; return (u32)(((u64)b << 32 | a) >> n); }
I u32 lop3(u32 a, u32 b, u32 c, u32 t) { u32 r = 0; for (int i = 0; i < 8; i++) if (t >> i & 1) r |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c); return r; }
#define ATOM(t) I t atom_min_##t(t a, t b) { return a < b ? a : b; } I t atom_max_##t(t a, t b) { return a > b ? a : b; }
ATOM(u32) ATOM(s32) ATOM(u64) ATOM(s64)
I f32 exp2_approx(f32 x) { return exp2f(x); }
I f32 log2_approx(f32 x) { return log2f(x); }
