// The vector instructions of x86 processors by name, and functions that have to be inlined where these are used.

#pragma once

#include "instruction_sets.h"

#if defined(DRCL_X86)
// GCC 12 finds its own undefined-by-intention registers uninitialised (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#if defined(__GNUC__)
#define DRCL_INLINE __attribute__((always_inline)) inline
#else
#define DRCL_INLINE inline
#endif
