// 0
(long long* __restrict__ p0, long long* __restrict__ p1, float* __restrict__ p2, float* __restrict__ p3, long long* __restrict__ p4, unsigned char* __restrict__ p5, float* __restrict__ p6, unsigned char* __restrict__ p7, unsigned char* __restrict__ p8, float* __restrict__ p9, unsigned int* __restrict__ p10, unsigned int* __restrict__ p11, float* __restrict__ p12, float* __restrict__ p13, float* __restrict__ p14, float* __restrict__ p15, float* __restrict__ p16, float* __restrict__ p17, float* __restrict__ p18, float* __restrict__ p19, float* __restrict__ p20, float* __restrict__ p21, float* __restrict__ p22, float* __restrict__ p23, float x0, float x1, int rows0, int first1, int last2, int rows3, int first4, int last5, int rows6, int first7, int last8) {
if (blockIdx.x < last2) {
 const int block = blockIdx.x - first1;
 const int row = block * 256 + threadIdx.x / 1, lane = threadIdx.x % 1;
 const bool in = row < rows0;
 const int r = in ? row : rows0 - 1;
 const long long v1 = p0[0];
 const long long v2 = (long long)(v1);
 if (in && lane == 0) p1[0] = v2;
} else if (blockIdx.x < last5) {
 const int block = blockIdx.x - first4;
 const int row = block * 256 + threadIdx.x / 1, lane = threadIdx.x % 1;
 const bool in = row < rows3;
 const int r = in ? row : rows3 - 1;
 const long long v1 = p0[0];
 const float v2 = p2[(long long)r * 1 + (long long)v1 * rows3];
 const float v3 = (float)(v2);
 if (in && lane == 0) p3[(long long)r * 1] = v3;
} else if (blockIdx.x < last8) {
 const int block = blockIdx.x - first7;
 const int row = block * 32 + threadIdx.x / 8, lane = threadIdx.x % 8;
 const bool in = row < rows6;
 const int r = in ? row : rows6 - 1;
 const long long v1 = p0[0];
 const long long v2 = p4[(long long)r * 1 + (long long)v1 * rows6];
 const long long v3 = (long long)(v2);
 unsigned char v4[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v4[i] = c < 6 ? p5[(long long)v3 * 6 + (long long)c * 1] : (unsigned char)0;
 unsigned char v5[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v5[i] = (unsigned char)(v4[i]);
 float v6[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v6[i] = (float)((float)v5[i] / x0);
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) if (in && c < 6) p6[(long long)r * 6 + (long long)c * 1] = v6[i];
 const unsigned char v7 = p7[(long long)v3 * 1];
 const unsigned char v8 = (unsigned char)(v7);
 unsigned char v9[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v9[i] = c < 3 ? p8[(long long)c * 1] : (unsigned char)0;
 float v10[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v10[i] = (float)(v8 == v9[i]);
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) if (in && c < 3) p9[(long long)r * 1 + (long long)c * rows6] = v10[i];
 const unsigned int v11 = p10[(long long)v3 * 1];
 const unsigned int v12 = (unsigned int)(v11);
 unsigned int v13[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v13[i] = c < 7 ? p11[(long long)c * 1] : (unsigned int)0;
 unsigned int v14[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v14[i] = (unsigned int)(v12 + v13[i]);
 unsigned int v15[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v15[i] = (unsigned int)(v14[i] >> (unsigned int)16);
 unsigned int v16[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v16[i] = (unsigned int)(v14[i] ^ v15[i]);
 unsigned int v17[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v17[i] = (unsigned int)(v16[i] * (unsigned int)2146121005);
 unsigned int v18[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v18[i] = (unsigned int)(v17[i] >> (unsigned int)15);
 unsigned int v19[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v19[i] = (unsigned int)(v17[i] ^ v18[i]);
 unsigned int v20[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v20[i] = (unsigned int)(v19[i] * (unsigned int)2221713035);
 unsigned int v21[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v21[i] = (unsigned int)(v20[i] >> (unsigned int)16);
 unsigned int v22[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v22[i] = (unsigned int)(v20[i] ^ v21[i]);
 float v23[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v23[i] = (float)(v22[i] >= (unsigned int)1717986918);
 const float v24 = p12[0];
 float v25[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v25[i] = (float)(v23[i] * v24);
 float v26[1] = {};
 #pragma unroll
 for (int j = 0; j < 7; ++j) {
 float sum = 0;
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) if (c < 6) sum = fused(v6[i], p13[(long long)c * 7 + (long long)j * 1], sum);
 #pragma unroll
 for (int d = 4; d > 0; d /= 2) sum += __shfl_xor_sync(ALL, sum, d);
 if (lane == j) v26[0] = sum;
 }
 float v27[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v27[i] = c < 7 ? p14[(long long)c * 1] : (float)0;
 float v28[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v28[i] = (float)(v26[i] + v27[i]);
 float v29[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v29[i] = (float)(maximum(v28[i], (float)0));
 float v30[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v30[i] = (float)(v29[i] * v25[i]);
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) if (in && c < 7) p15[(long long)r * 7 + (long long)c * 1] = v30[i];
 float v31[1] = {};
 #pragma unroll
 for (int j = 0; j < 3; ++j) {
 float sum = 0;
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) if (c < 7) sum = fused(v30[i], p16[(long long)c * 3 + (long long)j * 1], sum);
 #pragma unroll
 for (int d = 4; d > 0; d /= 2) sum += __shfl_xor_sync(ALL, sum, d);
 if (lane == j) v31[0] = sum;
 }
 float v32[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v32[i] = c < 3 ? p17[(long long)c * 1] : (float)0;
 float v33[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v33[i] = (float)(v31[i] + v32[i]);
 float v34 = -__int_as_float(0x7f800000);
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) if (c < 3) v34 = maximum(v34, v33[i]);
 #pragma unroll
 for (int d = 4; d > 0; d /= 2) v34 = maximum(v34, __shfl_xor_sync(ALL, v34, d));
 const float v35 = v34;
 float v36[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v36[i] = (float)(v33[i] - v35);
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) if (in && c < 3) p18[(long long)r * 1 + (long long)c * rows6] = v36[i];
 float v37[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v37[i] = (float)(v36[i] * v10[i]);
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) if (in && c < 3) p19[(long long)r * 1 + (long long)c * rows6] = v37[i];
 float v38[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v38[i] = (float)(exp(v36[i]));
 float v39 = 0;
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) if (c < 3) v39 = v39 + v38[i];
 #pragma unroll
 for (int d = 4; d > 0; d /= 2) v39 = v39 + __shfl_xor_sync(ALL, v39, d);
 const float v40 = v39;
 if (in && lane == 0) p20[(long long)r * 1] = v40;
 float v41[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v41[i] = (float)(v38[i] / v40);
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) if (in && c < 3) p18[(long long)r * 1 + (long long)c * rows6] = v41[i];
 float v42[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v42[i] = (float)(v41[i] - v10[i]);
 float v43[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v43[i] = (float)(v42[i] * x1);
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) if (in && c < 3) p21[(long long)r * 1 + (long long)c * rows6] = v43[i];
 float v44[1] = {};
 #pragma unroll
 for (int j = 0; j < 7; ++j) {
 float sum = 0;
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) if (c < 3) sum = fused(v43[i], p16[(long long)c * 1 + (long long)j * 3], sum);
 #pragma unroll
 for (int d = 4; d > 0; d /= 2) sum += __shfl_xor_sync(ALL, sum, d);
 if (lane == j) v44[0] = sum;
 }
 float v45[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v45[i] = (float)(v44[i] * v25[i]);
 const float v46 = p22[0];
 float v47[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v47[i] = (float)(v30[i] * v46);
 float v48[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v48[i] = (float)(v47[i] > (float)0);
 float v49[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) v49[i] = (float)(v45[i] * v48[i]);
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 8) if (in && c < 7) p23[(long long)r * 7 + (long long)c * 1] = v49[i];
}
}

// 1
(float* __restrict__ p0, float* __restrict__ p1, float* __restrict__ p2, float* __restrict__ p3, float* __restrict__ p4, float* __restrict__ p5, float* __restrict__ p6, float* __restrict__ p7, float* __restrict__ p8, float* __restrict__ p9, float* __restrict__ p10, long long* __restrict__ p11, float* __restrict__ p12, float* __restrict__ p13, long long* __restrict__ p14, long long* __restrict__ p15, int rows0, int first1, int last2, int rows3, int first4, int step5, int step6, int depth7, int last8, int rows9, int first10, int last11, int rows12, int first13, int step14, int step15, int depth16, int last17, int rows18, int first19, int last20, int rows21, int first22, int last23) {
constexpr int BYTES = (Product<float, 4, 16, 64, 0, 0>::BYTES > Product<float, 4, 16, 64, 0, 1>::BYTES ? Product<float, 4, 16, 64, 0, 0>::BYTES : Product<float, 4, 16, 64, 0, 1>::BYTES);
__shared__ alignas(16) unsigned char memory[BYTES];
if (blockIdx.x < last2) {
 const int block = blockIdx.x - first1;
 const int row = block * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
 const bool in = row < rows0;
 const int r = in ? row : rows0 - 1;
 float v2[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 32) v2[i] = c < 20 ? p0[(long long)r * 1 + (long long)c * rows0] : (float)0;
 float v1[1] = {};
 #pragma unroll
 for (int j = 0; j < 3; ++j) {
 float sum = 0;
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 32) if (c < 20) sum = fused(v2[i], p1[(long long)c * 1 + (long long)j * 20], sum);
 #pragma unroll
 for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(ALL, sum, d);
 if (lane == j) v1[0] = sum;
 }
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 32) if (in && c < 3) p2[(long long)r * 3 + (long long)c * 1] = v1[i];
} else if (blockIdx.x < last8) {
 const int block = blockIdx.x - first4;
 const int m0 = block / 1 * 4, n0 = block % 1 * 16;
 float sums[Product<float, 4, 16, 64, 0, 0>::OWN];
 Product<float, 4, 16, 64, 0, 0>::compute(p4, step5, p1, step6, rows3, 3, depth7, m0, n0, memory, sums);
#pragma unroll
 for (int i = 0; i < Product<float, 4, 16, 64, 0, 0>::OWN; ++i) {
  const int e = threadIdx.x + i * THREADS, r = m0 + e / 16, c = n0 + e % 16;
  if (e >= 64 || r >= rows3 || c >= 3) continue;
  const float v1 = sums[i];
  p3[(long long)c * 1] = v1;
 }
} else if (blockIdx.x < last11) {
 const int block = blockIdx.x - first10;
 const int row = block * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
 const bool in = row < rows9;
 const int r = in ? row : rows9 - 1;
 float v2[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 32) v2[i] = c < 20 ? p5[(long long)r * 1 + (long long)c * rows9] : (float)0;
 float v1[1] = {};
 #pragma unroll
 for (int j = 0; j < 7; ++j) {
 float sum = 0;
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 32) if (c < 20) sum = fused(v2[i], p6[(long long)c * 7 + (long long)j * 1], sum);
 #pragma unroll
 for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(ALL, sum, d);
 if (lane == j) v1[0] = sum;
 }
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 32) if (in && c < 7) p7[(long long)r * 7 + (long long)c * 1] = v1[i];
} else if (blockIdx.x < last17) {
 const int block = blockIdx.x - first13;
 const int m0 = block / 1 * 4, n0 = block % 1 * 16;
 float sums[Product<float, 4, 16, 64, 0, 1>::OWN];
 Product<float, 4, 16, 64, 0, 1>::compute(p4, step14, p6, step15, rows12, 7, depth16, m0, n0, memory, sums);
#pragma unroll
 for (int i = 0; i < Product<float, 4, 16, 64, 0, 1>::OWN; ++i) {
  const int e = threadIdx.x + i * THREADS, r = m0 + e / 16, c = n0 + e % 16;
  if (e >= 64 || r >= rows12 || c >= 7) continue;
  const float v1 = sums[i];
  p8[(long long)c * 1] = v1;
 }
} else if (blockIdx.x < last20) {
 const int block = blockIdx.x - first19;
 const int row = block * 64 + threadIdx.x / 4, lane = threadIdx.x % 4;
 const bool in = row < rows18;
 const int r = in ? row : rows18 - 1;
 float v2[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 4) v2[i] = c < 3 ? p9[(long long)r * 1 + (long long)c * rows18] : (float)0;
 float v1 = 0;
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 4) if (c < 3) v1 = v1 + v2[i];
 #pragma unroll
 for (int d = 2; d > 0; d /= 2) v1 = v1 + __shfl_xor_sync(ALL, v1, d);
 const float v3 = v1;
 const float v4 = p10[(long long)r * 1];
 const float v5 = (float)(log(v4));
 const float v6 = (float)(v5 - v3);
 const float v7 = (float)(v6);
 const long long v8 = p11[0];
 if (in && lane == 0) p12[(long long)r * 1 + (long long)v8 * rows18] = v7;
 float v10[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 4) v10[i] = c < 3 ? p13[(long long)r * 1 + (long long)c * rows18] : (float)0;
 float v9 = v10[0]; int v9_at = lane;
 if (lane >= 3) v9 = -__int_as_float(0x7f800000), v9_at = 3;
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 4) if (c < 3) if (larger(v10[i], c, v9, v9_at)) v9 = v10[i], v9_at = c;
 #pragma unroll
 for (int d = 2; d > 0; d /= 2) {
  const float w = __shfl_xor_sync(ALL, v9, d);
  const int j = __shfl_xor_sync(ALL, v9_at, d);
  if (larger(w, j, v9, v9_at)) v9 = w, v9_at = j;
 }
 const long long v11 = (long long)v9_at;
 const long long v12 = (long long)(v11);
 if (in && lane == 0) p14[(long long)r * 1 + (long long)v8 * rows18] = v12;
} else if (blockIdx.x < last23) {
 const int block = blockIdx.x - first22;
 const int row = block * 256 + threadIdx.x / 1, lane = threadIdx.x % 1;
 const bool in = row < rows21;
 const int r = in ? row : rows21 - 1;
 const long long v1 = p11[0];
 const long long v2 = (long long)(v1 + (long long)1);
 if (in && lane == 0) p15[0] = v2;
}
}

// 2
(float* __restrict__ p0, float* __restrict__ p1, float* __restrict__ p2, float* __restrict__ p3, float* __restrict__ p4, float* __restrict__ p5, float x0, float x1, float x2, float x3, float x4, int rows0, int first1, int last2) {
if (blockIdx.x < last2) {
 const int block = blockIdx.x - first1;
 const int row = block * 256 + threadIdx.x / 1, lane = threadIdx.x % 1;
 const bool in = row < rows0;
 const int r = in ? row : rows0 - 1;
 const float v1 = p0[(long long)r * 1];
 const float v2 = (float)(v1 * x0);
 if (in && lane == 0) p0[(long long)r * 1] = v2;
 const float v3 = p1[(long long)r * 1];
 const float v4 = (float)(v3 * x1);
 if (in && lane == 0) p1[(long long)r * 1] = v4;
 const float v5 = p2[(long long)r * 1];
 const float v6 = (float)(v5 * x2);
 if (in && lane == 0) p2[(long long)r * 1] = v6;
 const float v7 = (float)(v2 + v6);
 if (in && lane == 0) p0[(long long)r * 1] = v7;
 const float v8 = (float)(v6 * v6);
 if (in && lane == 0) p2[(long long)r * 1] = v8;
 const float v9 = (float)(v8 * x3);
 if (in && lane == 0) p2[(long long)r * 1] = v9;
 const float v10 = (float)(v4 + v9);
 if (in && lane == 0) p1[(long long)r * 1] = v10;
 const float v11 = (float)(sqrt(v10));
 if (in && lane == 0) p2[(long long)r * 1] = v11;
 const float v12 = p3[0];
 const float v13 = (float)(v11 * v12);
 if (in && lane == 0) p2[(long long)r * 1] = v13;
 const float v14 = (float)(v13 + x4);
 if (in && lane == 0) p2[(long long)r * 1] = v14;
 const float v15 = (float)(v7 / v14);
 if (in && lane == 0) p2[(long long)r * 1] = v15;
 const float v16 = p4[0];
 const float v17 = (float)(v15 * v16);
 if (in && lane == 0) p2[(long long)r * 1] = v17;
 const float v18 = p5[(long long)r * 1];
 const float v19 = (float)(v18 - v17);
 if (in && lane == 0) p5[(long long)r * 1] = v19;
}
}

// 3
(float* __restrict__ p0, float* __restrict__ p1, float* __restrict__ p2, float* __restrict__ p3, float* __restrict__ p4, float* __restrict__ p5, float* __restrict__ p6, float* __restrict__ p7, float* __restrict__ p8, float* __restrict__ p9, float* __restrict__ p10, long long* __restrict__ p11, float* __restrict__ p12, float* __restrict__ p13, long long* __restrict__ p14, long long* __restrict__ p15, int rows0, int first1, int last2, int rows3, int first4, int step5, int step6, int depth7, int last8, int rows9, int first10, int last11, int rows12, int first13, int step14, int step15, int depth16, int last17, int rows18, int first19, int last20, int rows21, int first22, int last23) {
constexpr int BYTES = (Product<float, 4, 16, 64, 0, 0>::BYTES > Product<float, 4, 16, 64, 0, 1>::BYTES ? Product<float, 4, 16, 64, 0, 0>::BYTES : Product<float, 4, 16, 64, 0, 1>::BYTES);
__shared__ alignas(16) unsigned char memory[BYTES];
if (blockIdx.x < last2) {
 const int block = blockIdx.x - first1;
 const int row = block * 16 + threadIdx.x / 16, lane = threadIdx.x % 16;
 const bool in = row < rows0;
 const int r = in ? row : rows0 - 1;
 float v2[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 16) v2[i] = c < 10 ? p0[(long long)r * 1 + (long long)c * rows0] : (float)0;
 float v1[1] = {};
 #pragma unroll
 for (int j = 0; j < 3; ++j) {
 float sum = 0;
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 16) if (c < 10) sum = fused(v2[i], p1[(long long)c * 1 + (long long)j * 10], sum);
 #pragma unroll
 for (int d = 8; d > 0; d /= 2) sum += __shfl_xor_sync(ALL, sum, d);
 if (lane == j) v1[0] = sum;
 }
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 16) if (in && c < 3) p2[(long long)r * 3 + (long long)c * 1] = v1[i];
} else if (blockIdx.x < last8) {
 const int block = blockIdx.x - first4;
 const int m0 = block / 1 * 4, n0 = block % 1 * 16;
 float sums[Product<float, 4, 16, 64, 0, 0>::OWN];
 Product<float, 4, 16, 64, 0, 0>::compute(p4, step5, p1, step6, rows3, 3, depth7, m0, n0, memory, sums);
#pragma unroll
 for (int i = 0; i < Product<float, 4, 16, 64, 0, 0>::OWN; ++i) {
  const int e = threadIdx.x + i * THREADS, r = m0 + e / 16, c = n0 + e % 16;
  if (e >= 64 || r >= rows3 || c >= 3) continue;
  const float v1 = sums[i];
  p3[(long long)c * 1] = v1;
 }
} else if (blockIdx.x < last11) {
 const int block = blockIdx.x - first10;
 const int row = block * 16 + threadIdx.x / 16, lane = threadIdx.x % 16;
 const bool in = row < rows9;
 const int r = in ? row : rows9 - 1;
 float v2[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 16) v2[i] = c < 10 ? p5[(long long)r * 1 + (long long)c * rows9] : (float)0;
 float v1[1] = {};
 #pragma unroll
 for (int j = 0; j < 7; ++j) {
 float sum = 0;
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 16) if (c < 10) sum = fused(v2[i], p6[(long long)c * 7 + (long long)j * 1], sum);
 #pragma unroll
 for (int d = 8; d > 0; d /= 2) sum += __shfl_xor_sync(ALL, sum, d);
 if (lane == j) v1[0] = sum;
 }
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 16) if (in && c < 7) p7[(long long)r * 7 + (long long)c * 1] = v1[i];
} else if (blockIdx.x < last17) {
 const int block = blockIdx.x - first13;
 const int m0 = block / 1 * 4, n0 = block % 1 * 16;
 float sums[Product<float, 4, 16, 64, 0, 1>::OWN];
 Product<float, 4, 16, 64, 0, 1>::compute(p4, step14, p6, step15, rows12, 7, depth16, m0, n0, memory, sums);
#pragma unroll
 for (int i = 0; i < Product<float, 4, 16, 64, 0, 1>::OWN; ++i) {
  const int e = threadIdx.x + i * THREADS, r = m0 + e / 16, c = n0 + e % 16;
  if (e >= 64 || r >= rows12 || c >= 7) continue;
  const float v1 = sums[i];
  p8[(long long)c * 1] = v1;
 }
} else if (blockIdx.x < last20) {
 const int block = blockIdx.x - first19;
 const int row = block * 64 + threadIdx.x / 4, lane = threadIdx.x % 4;
 const bool in = row < rows18;
 const int r = in ? row : rows18 - 1;
 float v2[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 4) v2[i] = c < 3 ? p9[(long long)r * 1 + (long long)c * rows18] : (float)0;
 float v1 = 0;
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 4) if (c < 3) v1 = v1 + v2[i];
 #pragma unroll
 for (int d = 2; d > 0; d /= 2) v1 = v1 + __shfl_xor_sync(ALL, v1, d);
 const float v3 = v1;
 const float v4 = p10[(long long)r * 1];
 const float v5 = (float)(log(v4));
 const float v6 = (float)(v5 - v3);
 const float v7 = (float)(v6);
 const long long v8 = p11[0];
 if (in && lane == 0) p12[(long long)r * 1 + (long long)v8 * rows18] = v7;
 float v10[1];
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 4) v10[i] = c < 3 ? p13[(long long)r * 1 + (long long)c * rows18] : (float)0;
 float v9 = v10[0]; int v9_at = lane;
 if (lane >= 3) v9 = -__int_as_float(0x7f800000), v9_at = 3;
 #pragma unroll
 for (int i = 0, c = lane; i < 1; ++i, c += 4) if (c < 3) if (larger(v10[i], c, v9, v9_at)) v9 = v10[i], v9_at = c;
 #pragma unroll
 for (int d = 2; d > 0; d /= 2) {
  const float w = __shfl_xor_sync(ALL, v9, d);
  const int j = __shfl_xor_sync(ALL, v9_at, d);
  if (larger(w, j, v9, v9_at)) v9 = w, v9_at = j;
 }
 const long long v11 = (long long)v9_at;
 const long long v12 = (long long)(v11);
 if (in && lane == 0) p14[(long long)r * 1 + (long long)v8 * rows18] = v12;
} else if (blockIdx.x < last23) {
 const int block = blockIdx.x - first22;
 const int row = block * 256 + threadIdx.x / 1, lane = threadIdx.x % 1;
 const bool in = row < rows21;
 const int r = in ? row : rows21 - 1;
 const long long v1 = p11[0];
 const long long v2 = (long long)(v1 + (long long)1);
 if (in && lane == 0) p15[0] = v2;
}
}
