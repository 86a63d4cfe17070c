// Included before every C++ file of llama.cpp. GCC 12's intrinsics for AMX do
// not tell the compiler that a tile load reads memory, so it drops the stores
// before it as dead: llama.cpp then dies of illegal instructions or multiplies
// garbage. These forms say so; the instructions are the same.
#pragma once
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg\t%0" ::"m"(*(const char(*)[64])(config)) : "memory")

#undef _tile_loadd
#define _tile_loadd(dst, base, stride) tile_load_reading_memory(tileloadd, dst, base, stride)
#undef _tile_stream_loadd
#define _tile_stream_loadd(dst, base, stride) tile_load_reading_memory(tileloaddt1, dst, base, stride)
#define tile_load_reading_memory(name, dst, base, stride) \
    __asm__ volatile(#name "\t(%0,%1,1), %%tmm" #dst ::"r"((const void *)(base)), "r"((long)(stride)) : "memory")
#endif
