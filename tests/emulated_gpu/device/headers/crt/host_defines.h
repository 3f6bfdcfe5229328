/* What the runtime headers of the CUDA wheels ask of a header that the wheels leave out. */
#ifndef HOST_DEFINES_H
#define HOST_DEFINES_H
#define __no_return__ __attribute__((noreturn))
#define __noinline__ __attribute__((noinline))
#define __forceinline__ __inline__ __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __specialization_static static
#define CUDARTAPI
#define CUDAAPI
#define CUDARTAPI_CDECL
#define __annotate__(a)
#define __location__(a)
#define __host__
#define __device__
#define __global__
#define __shared__
#define __constant__
#define __managed__
#define __builtin_align__(n) __align__(n)
#define __device_builtin__
#define __device_builtin_texture_type__
#define __device_builtin_surface_type__
#define __cudart_builtin__
#define __cluster_dims__(...)
#endif
